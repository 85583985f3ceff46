//! Object storage.

pub mod fault;

pub mod layout;

pub mod probe;

pub mod retry;
