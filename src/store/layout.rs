//! Store: layout.
