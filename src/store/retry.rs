//! Store: retry.
