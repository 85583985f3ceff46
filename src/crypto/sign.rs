//! Crypto: sign.
