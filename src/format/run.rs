//! Format: run.
