//! Format: repository.
