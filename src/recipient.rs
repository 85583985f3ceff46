//! age recipients and their plugins.
