//! The mysql engine: types.
