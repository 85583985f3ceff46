//! Rows: key.
