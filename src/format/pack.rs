//! Format: pack.
