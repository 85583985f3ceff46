//! The postgres engine: types.
