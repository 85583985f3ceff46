//! Crypto: keyslot.
