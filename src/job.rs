//! Jobs: one file a verb.
