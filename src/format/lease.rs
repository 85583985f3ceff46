//! Format: lease.
