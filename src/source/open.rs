//! Which engine a URL means.
