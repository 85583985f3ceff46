//! Rows: what tables hold and look like, as pure data.

pub mod cell;

pub mod closure;

pub mod codec;

pub mod diff;

pub mod filter;

pub mod key;

pub mod merge;

pub mod schema;
