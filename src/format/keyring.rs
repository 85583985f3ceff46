//! Format: keyring.
