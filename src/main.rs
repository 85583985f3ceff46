//! The `rowvault` binary: parse, run, failure class to exit code.

fn main() {}
