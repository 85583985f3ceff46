//! Store: probe.
