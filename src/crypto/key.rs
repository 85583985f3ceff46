//! Crypto: key.
