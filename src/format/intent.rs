//! Format: intent.
