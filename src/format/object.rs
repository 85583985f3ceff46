//! Format: object.
