//! The sqlite engine: target.
