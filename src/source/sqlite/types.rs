//! The sqlite engine: types.
