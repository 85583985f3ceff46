//! Planted bugs: mistakes that the tests must catch, each chosen by name when a test process starts.
//!
//! A test that cannot fail proves nothing. With the feature `planted` the variable
//! `ROWVAULT_PLANTED` names one of [`NAMES`], and the code at its place then does the wrong thing;
//! without the feature every question is answered with a constant no. Invariant: never in a
//! release build.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` is for tests and must not be in a release build");

/// The planted bugs.
pub const NAMES: &[&str] = &[
    "manifest before pack",
    "list error as empty list",
    "no index flush",
    "grace 0",
    "sweep by local clock",
    "no second mark",
    "lease without fencing",
    "dedup against a marked pack",
    "head not kept",
    "last row of a chunk dropped",
    "deletion lost in a fold",
    "older run wins",
    "covered deltas count",
    "shadow swapped before the commit",
    "put error ignored",
    "retry on 403 for ever",
    "last chunk dropped",
    "two chunks swapped",
    "associated data without chunk id",
    "associated data without kind",
    "constant nonce",
    "nonce from chunk id",
    "unbounded decompression",
    "restore publishes before it verifies",
    "fixed UTC offset for a zone",
    "tag check skipped on index",
    "two database snapshots stitched",
    "zero date as NULL",
    "row-level security on",
    "sequence not restored",
    "trigger fires on restore",
    "secret in Debug",
];

/// Whether the bug `name` was chosen.
#[cfg(feature = "planted")]
pub fn is(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("ROWVAULT_PLANTED").ok());
    debug_assert!(NAMES.contains(&name), "no such planted bug: {name}");
    CHOSEN.as_deref() == Some(name)
}

/// Whether the bug `name` was chosen: no.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: &str) -> bool {
    false
}

/// Says that a run has come to `step`. In a development build it dies there, at once and without
/// cleaning up, where `ROWVAULT_DIES_AT` names the step: tests kill a rollback at each of its own.
#[cfg(debug_assertions)]
pub fn reach(step: &str) {
    if std::env::var("ROWVAULT_DIES_AT").as_deref() == Ok(step) {
        std::process::abort();
    }
}

/// Says that a run has come to `step`, which matters to tests alone.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reach(_: &str) {}
