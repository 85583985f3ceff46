//! Rows: codec.
