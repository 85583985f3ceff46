//! The local state directory: a cache, rebuilt when lost.
