//! Store: fault.
