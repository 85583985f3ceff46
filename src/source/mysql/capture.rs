//! The mysql engine: capture.
