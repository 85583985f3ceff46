//! SIGTERM and SIGINT: a verb that is stopped leaves nothing half-made, and the next one goes on.
//!
//! The verbs are held in the middle by something that they wait for, never by time.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cli_desk::Desk;

/// Waits until `seen`; the limit only ends a test that has failed.
fn until(what: &str, seen: impl Fn() -> bool) {
    for _ in 0..3000 {
        if seen() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not come");
}

fn stop(child: Child, signal: Signal) -> (Option<i32>, String) {
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(pid, signal).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.signal(), None, "it ended by itself");
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

fn start(desk: &Desk, arguments: &[&str]) -> Child {
    let mut command = desk.command(arguments);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn backup_that_is_stopped_runs_its_command_after_and_the_next_one_goes_on() {
    let desk = Desk::with_repository();
    desk.write("on.sh", "touch on\nexec sleep 600\n");
    desk.write("off.sh", "touch off\n");
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = \"sqlite:crm.db\"\nbefore = [\"/bin/sh\", \"on.sh\"]\n\
         after = [\"/bin/sh\", \"off.sh\"]\n",
    );
    let child = start(&desk, &["backup", "--all"]);
    until("the command before", || desk.path("on").exists());
    let (code, told) = stop(child, Signal::TERM);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("stopped by SIGTERM"), "{told}");
    assert!(desk.path("off").exists(), "the command after has not run");
    assert_eq!(desk.run(&["backup", "sqlite:crm.db", "-q"]).code, 0);
}

#[test]
fn backup_that_is_stopped_while_it_reads_takes_its_intent_away() {
    let desk = Desk::with_repository();
    fill(&desk);
    let child = start(&desk, &["backup", "sqlite:large.db"]);
    until("the intent", || {
        desk.path("repo/intents").exists() && !desk.names("repo/intents").is_empty()
    });
    let (code, told) = stop(child, Signal::INT);
    // A fast machine may have been done before the signal came.
    if code == Some(1) {
        assert!(told.contains("stopped by SIGINT"), "{told}");
        let listed = desk.run(&["snapshots", "--json"]).json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0);
    }
    assert!(desk.names("repo/intents").is_empty());
    assert_eq!(desk.run(&["backup", "sqlite:large.db", "-q"]).code, 0);
}

#[test]
fn restore_that_is_stopped_takes_away_what_it_made() {
    let desk = Desk::with_repository();
    fill(&desk);
    assert_eq!(desk.run(&["backup", "sqlite:large.db", "-q"]).code, 0);
    std::fs::create_dir(desk.path("out")).unwrap();
    let child = start(&desk, &["restore", "latest", "--to", "sqlite:out/back.db"]);
    until("the file in the making", || !desk.names("out").is_empty());
    let (code, told) = stop(child, Signal::TERM);
    let left = desk.names("out");
    match code {
        Some(1) => assert!(left.is_empty(), "{left:?}: {told}"),
        _ => assert_eq!(left, ["back.db"], "{told}"),
    }
}

/// A database that takes some seconds.
fn fill(desk: &Desk) {
    let file = rusqlite::Connection::open(desk.path("large.db")).unwrap();
    file.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
         INSERT INTO t SELECT i, hex(randomblob(60)) FROM n;",
    )
    .unwrap();
}
