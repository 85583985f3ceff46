//! Format: shadow.
