//! Rows: merge.
