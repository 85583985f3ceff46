//! Bad input to the command line: the exit code, what and where, what to do, and nothing half-made.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;
use serde_json::Value;

use crate::cli_desk::{Desk, copy_tree, ran};

#[test]
fn sources_that_cannot_be_read_are_refused_and_no_snapshot_is_made() {
    let desk = Desk::with_repository();
    desk.write(
        "text.db",
        "this is not a database, whatever its name says\n",
    );
    let mut corrupt = fs::read(desk.path("crm.db")).unwrap();
    let half = corrupt.len() / 2;
    corrupt[half..half + 9000].fill(0xa5);
    fs::write(desk.path("corrupt.db"), corrupt).unwrap();
    desk.run(&["backup", "sqlite:gone.db"])
        .refused(1, "gone.db");
    desk.run(&["backup", "sqlite:text.db"])
        .refused(2, "text.db");
    desk.run(&["backup", "sqlite:corrupt.db"])
        .refused(3, "corrupt.db");
    desk.run(&["backup", "sqlite:"]).refused(2, "names no file");
    desk.run(&["backup", "crm"]).refused(2, "no source \"crm\"");
    desk.run(&["backup", "oracle://x/y"]).refused(2, "oracle");
    desk.run(&["backup", "sqlite:ŁĄKA.db"]).refused(2, "--name");
    desk.run(&["backup", "sqlite:crm.db", "sqlite:./crm.db"])
        .refused(2, "two of the sources");
    let listed = desk.run(&["snapshots", "--json"]).json();
    assert_eq!(listed["snapshots"], Value::Array(Vec::new()));
    assert!(
        desk.names("repo/intents").is_empty(),
        "an intent stayed behind"
    );
}

#[test]
fn locked_source_is_busy() {
    let desk = Desk::with_repository();
    let holder = Connection::open(desk.path("crm.db")).unwrap();
    holder
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        .unwrap();
    desk.run(&["backup", "sqlite:crm.db"]).refused(5, "crm.db");
}

#[test]
fn places_without_a_repository_are_refused() {
    let desk = Desk::with_snapshot();
    fs::create_dir(desk.path("empty")).unwrap();
    desk.run(&["--repo", "nowhere", "snapshots"])
        .refused(2, "nowhere");
    desk.run(&["--repo", "empty", "snapshots"])
        .refused(1, "no repository");
    desk.run(&["--repo", "ftp://x/y", "snapshots"])
        .refused(2, "ftp");
    assert!(!desk.path("nowhere").exists());
    desk.run(&["init"]).refused(4, "already");
    let mut command = desk.command(&["snapshots"]);
    command.env_remove("ROWVAULT_REPO");
    ran(command).refused(2, "no repository was named");
    let other = Desk::with_repository();
    fs::copy(other.path("owner.key"), desk.path("other.key")).unwrap();
    desk.run_as("other.key", &["snapshots"])
        .refused(6, "belongs to repository");
    let mut bytes = fs::read(desk.path("repo/repository")).unwrap();
    bytes[8] = 9;
    fs::write(desk.path("repo/repository"), bytes).unwrap();
    let newer = desk.run(&["snapshots"]);
    assert!([2, 3].contains(&newer.code), "{newer:?}");
}

#[test]
fn keys_that_others_may_read_or_that_are_none_are_refused() {
    let desk = Desk::with_snapshot();
    desk.write("none.key", "nothing of use\n");
    desk.run_as("none.key", &["snapshots"])
        .refused(2, "holds no key");
    desk.run_as("gone.key", &["snapshots"])
        .refused(2, "gone.key");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(desk.path("owner.key"), open).unwrap();
    desk.run(&["snapshots"]).refused(2, "chmod 600 owner.key");
    let mut command = desk.command(&["snapshots"]);
    command.env_remove("ROWVAULT_KEY_FILE");
    ran(command).refused(2, "no key and no passphrase");
    desk.run(&["snapshots", "--key-file", "a", "--passphrase-file", "b"])
        .refused(2, "both given");
}

#[test]
fn passphrases_open_and_wrong_or_empty_ones_do_not() {
    let desk = Desk::bare();
    desk.write("right", "correct horse\n");
    desk.write("wrong", "battery staple\n");
    desk.write("empty", "\n");
    let with = |file: &str, arguments: &[&str]| {
        let mut command = desk.command(arguments);
        command
            .env_remove("ROWVAULT_KEY_FILE")
            .env("ROWVAULT_PASSPHRASE_FILE", file);
        ran(command)
    };
    assert_eq!(
        with("right", &["init", "-q", "--recovery-out", "sheet"]).code,
        0
    );
    assert_eq!(with("right", &["snapshots"]).code, 0);
    with("wrong", &["snapshots"]).refused(6, "wrong passphrase");
    with("empty", &["snapshots"]).refused(2, "empty");
    let mut command = desk.command(&["snapshots"]);
    command
        .env_remove("ROWVAULT_KEY_FILE")
        .env("ROWVAULT_PASSPHRASE", "battery staple");
    let warned = ran(command);
    assert_eq!(warned.code, 6);
    assert!(
        warned.err.starts_with("warning: ROWVAULT_PASSPHRASE"),
        "{warned:?}"
    );
    assert!(!warned.err.contains("staple"));
}

#[test]
fn targets_that_exist_or_cannot_be_written_are_refused_and_nothing_stays() {
    let desk = Desk::with_snapshot();
    fs::write(desk.path("there.db"), "mine").unwrap();
    desk.run(&["restore", "latest", "--to", "sqlite:there.db"])
        .refused(4, "there.db");
    assert_eq!(fs::read(desk.path("there.db")).unwrap(), b"mine");
    let gone = desk.run(&["restore", "latest", "--to", "sqlite:no/such/x.db"]);
    assert!([1, 2, 6].contains(&gone.code), "{gone:?}");
    let gone = desk.run(&["restore", "latest", "--to", "sqlite:/proc/x.db"]);
    assert!([1, 2, 6].contains(&gone.code), "{gone:?}");
    assert!(!desk.path("no").exists());
    desk.run(&[
        "export",
        "latest",
        "--format",
        "csv",
        "--out",
        "/proc/nothing",
    ])
    .refused(1, "/proc/nothing");
}

#[test]
fn snapshots_and_tables_that_are_not_there_are_refused_with_what_there_is() {
    let desk = Desk::with_snapshot();
    desk.run(&["show", "abcdef"]).refused(1, "abcdef");
    desk.run(&["show", "abc"]).refused(1, "at least 6 digits");
    desk.run(&["show", "nope@latest"]).refused(1, "it has crm");
    desk.run(&["show", "crm@2020-01-01"])
        .refused(1, "its oldest");
    desk.run(&["show", "crm@tomorrow"]).refused(1, "no day");
    desk.run(&["snapshots", "nope"]).refused(1, "it has crm");
    desk.run(&["find", "latest", "contats"])
        .refused(1, "contacts");
    desk.run(&["find", "latest", "users", "--key", "x"])
        .refused(2, "whole number");
    desk.run(&["find", "latest", "users", "--key", "idd=3"])
        .refused(2, "id");
    desk.run(&[
        "export", "latest", "--table", "x", "--format", "csv", "--out", "o",
    ])
    .refused(1, "\"x\"");
    assert!(!desk.path("o").exists());
}

#[test]
fn usage_errors_exit_two_in_words_and_in_json() {
    let desk = Desk::bare();
    desk.run(&["bakcup", "x"]).refused(2, "backup");
    desk.run(&["restore", "x"]).refused(2, "--to");
    desk.run(&["backup"]).refused(2, "--all");
    desk.run(&["verify", "--data", "7"]).refused(2, "1% to 99%");
    let json = desk.run(&["--json", "restore", "x"]);
    let document: Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(
        (json.code, &document["error"]["class"]),
        (2, &"invalid".into())
    );
    let json = desk.run(&["--json", "--repo", "nowhere", "snapshots"]);
    assert_eq!(json.out, "");
    let document: Value = serde_json::from_str(&json.err).unwrap();
    assert!(document["error"]["message"].is_string());
}

#[test]
fn repository_rolled_back_to_an_earlier_state_is_refused_until_a_person_accepts_it() {
    let desk = Desk::with_snapshot();
    copy_tree(&desk.path("repo"), &desk.path("earlier"));
    assert_eq!(desk.run(&["backup", "sqlite:crm.db", "-q"]).code, 0);
    fs::remove_dir_all(desk.path("repo")).unwrap();
    copy_tree(&desk.path("earlier"), &desk.path("repo"));
    let refused = desk.run(&["snapshots"]);
    refused.refused(3, "--accept-head");
    let wrong = "0".repeat(64);
    let told = desk.run(&["ledger", "crm", "--accept-head", &wrong]);
    told.refused(4, "it ends with entry 1, ");
    let hash = told.err.trim().rsplit(' ').next().unwrap().to_owned();
    let accepted = desk.run(&["ledger", "crm", "--accept-head", &hash]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert_eq!(desk.run(&["snapshots"]).code, 0);
}
