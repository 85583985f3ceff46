//! Every planted bug is caught: the test named beside it passes without the bug and fails with it.
//!
//! One build of the unit and the integration tests serves all, since a bug is chosen by name when a
//! process starts. `cargo test --features planted --test planted`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rowvault::planted::NAMES;

/// A test that does not end by then was stopped by the bug, which is as good as failing.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Beside the code.
    Unit,
    /// In the integration binary.
    It,
}
use Place::{It, Unit};

/// Which test catches which bug.
const CAUGHT_BY: &[(&str, Place, &str)] = &[
    (
        "manifest before pack",
        It,
        "maintain_crash::a_crash_at_every_operation_loses_nothing",
    ),
    (
        "list error as empty list",
        It,
        "maintain_life::a_list_error_is_no_empty_list",
    ),
    (
        "no index flush",
        It,
        "maintain_life::what_was_forgotten_goes_after_a_day_and_what_lives_stays",
    ),
    (
        "grace 0",
        It,
        "maintain_life::nothing_is_deleted_within_a_day_of_its_mark",
    ),
    (
        "sweep by local clock",
        It,
        "maintain_life::marks_wait_by_the_clock_of_the_storage",
    ),
    (
        "no second mark",
        It,
        "maintain_life::backup_and_prune_are_safe_in_every_interleaving",
    ),
    (
        "lease without fencing",
        It,
        "maintain_life::sweep_under_a_lost_lease_deletes_nothing",
    ),
    (
        "dedup against a marked pack",
        It,
        "maintain_life::a_marked_pack_is_absent_to_a_backup",
    ),
    (
        "head not kept",
        It,
        "maintain_life::a_repository_rolled_back_is_refused_and_nothing_is_swept",
    ),
    (
        "last row of a chunk dropped",
        It,
        "shadow_model::few_histories_come_back",
    ),
    (
        "deletion lost in a fold",
        It,
        "shadow_model::few_histories_come_back",
    ),
    (
        "older run wins",
        It,
        "shadow_model::few_histories_come_back",
    ),
    (
        "covered deltas count",
        It,
        "shadow_faults::older_delta_does_not_hide_a_rewritten_range",
    ),
    (
        "shadow swapped before the commit",
        It,
        "shadow_faults::backup_that_fails_before_its_entry_leaves_the_shadow_as_it_was",
    ),
    (
        "put error ignored",
        It,
        "store_faults::a_lasting_failure_ends_in_an_error_that_says_what_is_known",
    ),
    (
        "retry on 403 for ever",
        It,
        "store_faults::denied_and_unsupported_requests_are_never_retried",
    ),
    (
        "last chunk dropped",
        It,
        "shadow_model::few_histories_come_back",
    ),
    (
        "two chunks swapped",
        It,
        "maintain_life::what_was_forgotten_goes_after_a_day_and_what_lives_stays",
    ),
    (
        "associated data without chunk id",
        It,
        "golden_objects::golden_seals_open",
    ),
    (
        "associated data without kind",
        It,
        "golden_objects::golden_seals_open",
    ),
    (
        "constant nonce",
        Unit,
        "repo::blob::tests::nonce_of_a_chunk_is_drawn_anew_each_time",
    ),
    (
        "nonce from chunk id",
        Unit,
        "repo::blob::tests::nonce_of_a_chunk_is_drawn_anew_each_time",
    ),
    (
        "unbounded decompression",
        Unit,
        "repo::blob::tests::bomb_is_not_inflated",
    ),
    (
        "restore publishes before it verifies",
        It,
        "whole_line::what_does_not_read_back_equal_is_never_published",
    ),
    (
        "fixed UTC offset for a zone",
        Unit,
        "retention::tests::days_of_a_source_move_with_its_summer_time",
    ),
    (
        "tag check skipped on index",
        Unit,
        "repo::blob::tests::object_altered_at_any_byte_or_cut_anywhere_is_refused",
    ),
    (
        "two database snapshots stitched",
        It,
        "mysql_faults::bank_is_seen_at_one_instant_by_all_connections",
    ),
    (
        "zero date as NULL",
        It,
        "mysql_roundtrip::every_case_comes_back_byte_for_byte",
    ),
    (
        "row-level security on",
        It,
        "postgres_faults::rights_that_are_missing_are_named_and_enough_are_enough",
    ),
    (
        "sequence not restored",
        It,
        "postgres_round_trip::every_case_comes_back_equal",
    ),
    (
        "trigger fires on restore",
        It,
        "sqlite_round_trip::indexes_views_triggers_and_keys_come_back",
    ),
    (
        "secret in Debug",
        Unit,
        "source::address::tests::password_is_taken_out_of_everything_printed",
    ),
];

/// Builds both test binaries and gives their paths.
fn build() -> [(Place, PathBuf); 2] {
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo told this test of its package would make build scripts run anew.
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ]
        .iter()
        .any(|start| ours.starts_with(start))
        {
            cargo.env_remove(&name);
        }
    }
    let built = cargo
        .args([
            "test",
            "--no-run",
            "--features",
            "planted",
            "--lib",
            "--test",
            "it",
        ])
        .args(["--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the tests do not build");
    let messages = String::from_utf8(built.stdout).unwrap();
    let binary = |target: &str| {
        let messages = messages.lines().rev();
        let mut found = messages.filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let named = message["target"]["name"] == target && message["profile"]["test"] == true;
            let path = message["executable"].as_str()?;
            named.then(|| PathBuf::from(path))
        });
        found.next().unwrap_or_else(|| panic!("no binary {target}"))
    };
    [(Unit, binary("rowvault")), (It, binary("it"))]
}

/// Whether the test passes with this bug planted.
fn passes(binary: &PathBuf, test: &str, bug: &str) -> bool {
    let mut child = Command::new(binary)
        .args([test, "--exact"])
        .env("ROWVAULT_PLANTED", bug)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_a_test(binary: &PathBuf, test: &str) -> bool {
    let listed = Command::new(binary)
        .args([test, "--exact", "--list"])
        .output();
    String::from_utf8_lossy(&listed.unwrap().stdout).contains(&format!("{test}: test"))
}

#[test]
fn every_planted_bug_is_caught() {
    let named: BTreeSet<&str> = NAMES.iter().copied().collect();
    let tried: BTreeSet<&str> = CAUGHT_BY.iter().map(|(bug, ..)| *bug).collect();
    assert_eq!(
        named, tried,
        "a bug without a test, or a test without a bug"
    );
    let binaries = build();
    let binary = |place: Place| {
        let mut found = binaries.iter().filter(|(known, _)| *known == place);
        &found.next().expect("both are built").1
    };
    let tests: BTreeSet<(Place, &str)> = CAUGHT_BY
        .iter()
        .map(|(_, place, test)| (*place, *test))
        .collect();
    for (place, test) in tests {
        assert!(is_a_test(binary(place), test), "{test} is no test");
        assert!(
            passes(binary(place), test, ""),
            "{test} fails without a bug"
        );
    }
    let mut missed = Vec::new();
    for (bug, place, test) in CAUGHT_BY {
        let missed_it = passes(binary(*place), test, bug);
        println!(
            "{} {bug}: {test}",
            if missed_it { "MISSED" } else { "caught" }
        );
        if missed_it {
            missed.push(bug);
        }
    }
    println!(
        "{} of {} planted bugs caught",
        CAUGHT_BY.len() - missed.len(),
        CAUGHT_BY.len()
    );
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
