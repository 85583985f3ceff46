//! Crypto: envelope.
