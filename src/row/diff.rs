//! Rows: diff.
