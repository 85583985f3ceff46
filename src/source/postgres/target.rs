//! The postgres engine: target.
