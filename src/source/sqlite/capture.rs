//! The sqlite engine: capture.
