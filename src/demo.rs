//! The demo.

pub mod fill;
