//! The postgres engine.

pub mod capture;

pub mod target;

pub mod types;
