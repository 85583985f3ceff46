//! Format: index.
