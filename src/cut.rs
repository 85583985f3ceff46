//! Where a chunk ends.
