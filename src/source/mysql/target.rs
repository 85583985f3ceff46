//! The mysql engine: target.
