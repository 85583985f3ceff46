//! The sqlite engine.

pub mod capture;

pub mod target;

pub mod types;
