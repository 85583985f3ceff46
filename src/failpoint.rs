//! Fail points: the named steps of every protocol, at which a test can let the process die.
//!
//! Between two requests to the storage lie steps that no fault of the storage can single out: a file
//! named, a shadow swapped, a database committed. Only test builds have them (the feature of the
//! `fail` crate is asked for by dev-dependencies alone), and `FAILPOINTS='NAME=return'` chooses
//! one. Invariant: every name is one of [`NAMES`], and one test dies at each of them.

/// The fail points, verb by verb, each named after what has just been done.
pub const NAMES: &[&str] = &[
    "init: key files staged",
    "init: slots stored",
    "init: repository stored",
    "backup: intent stored",
    "backup: packs stored",
    "backup: index stored",
    "backup: manifest stored",
    "backup: entry stored",
    "backup: shadow swapped",
    "forget: planned",
    "forget: entry stored",
    "prune: lease taken",
    "repack: packs stored",
    "repack: index stored",
    "sweep: marks stored",
    "sweep: manifests deleted",
    "sweep: packs deleted",
    "sweep: indexes rewritten",
    "sweep: marks dropped",
    "key: file staged",
    "key: slot stored",
    "writer: keyring stored",
    "restore: compared",
    "restore: published",
    "undelete: written",
    "undelete: committed",
    "export: written",
];

/// Reads from the environment where to die; without effect in a release build.
pub fn arm() {
    if fail::has_failpoints() {
        // What is dropped disarms; this stays until the process ends.
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// Dies here as by `kill -9` if the environment says so: nothing is unwound, flushed or removed.
pub fn reach(name: &str) {
    debug_assert!(NAMES.contains(&name), "no such fail point: {name}");
    fail::fail_point!(name, |_| std::process::abort());
}
