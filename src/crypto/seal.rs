//! Crypto: seal.
