//! A live SQLite file is rolled back and forth, by the real binary, while others use it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use crate::cli_desk::{Desk, ran};
use crate::sqlite_copy::compare;

/// Where a rollback can die, and whether the database is then the new one.
const STEPS: [(&str, bool); 10] = [
    ("rollback begun", false),
    ("rollback staged", false),
    ("rollback saved", false),
    ("rollback exchanging", false),
    ("exchange copied", false),
    ("exchange locked", false),
    ("exchange half written", false),
    ("exchange written", true),
    ("rollback exchanged", true),
    ("rollback done", true),
];
const ROLLBACK: [&str; 6] = [
    "restore",
    "crm@latest",
    "--rollback",
    "sqlite:crm.db",
    "--confirm",
    "crm",
];
const UNDO: [&str; 4] = ["restore", "--undo", "sqlite:crm.db", "--json"];

/// A desk with a snapshot, a table for writers in it, and an accident after it.
fn desk(mode: &str) -> Desk {
    let desk = Desk::with_repository();
    let crm = Connection::open(desk.path("crm.db")).unwrap();
    let mode = format!("PRAGMA journal_mode={mode}");
    crm.query_row(&mode, [], |_| Ok(())).unwrap();
    let table = "CREATE TABLE beats(id INTEGER PRIMARY KEY, writer INTEGER, beat INTEGER)";
    crm.execute_batch(table).unwrap();
    let taken = desk.run(&["backup", "sqlite:crm.db", "-q"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    copy(&desk.path("crm.db"), &desk.path("then.db"));
    let table = largest(&crm);
    let accident = format!(
        "DELETE FROM \"{table}\" WHERE rowid % 2 = 0; INSERT INTO beats VALUES (1, 0, 0);
         CREATE TABLE later(x); INSERT INTO later VALUES (zeroblob(100000))"
    );
    crm.execute_batch(&accident).unwrap();
    drop(crm);
    copy(&desk.path("crm.db"), &desk.path("now.db"));
    desk
}

fn largest(crm: &Connection) -> String {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '%contact%'";
    crm.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// A copy through SQLite, so that what lies in a -wal comes too.
fn copy(from: &Path, to: &Path) {
    let from = Connection::open(from).unwrap();
    from.backup("main", to, None).unwrap();
}

fn beside(desk: &Desk) -> Vec<String> {
    let names = desk.names("").into_iter();
    names
        .filter(|name| name.contains("rowvault_") || name.contains("before_"))
        .collect()
}

#[test]
fn rollback_and_undo_bring_back_what_was() {
    for mode in ["WAL", "DELETE"] {
        let desk = desk(mode);
        // A connection that stays open all the time, with its statements prepared.
        let open = Connection::open(desk.path("crm.db")).unwrap();
        let count = format!("SELECT count(*) FROM \"{}\"", largest(&open));
        let mut counted = open.prepare(&count).unwrap();
        let mut count = || counted.query_row([], |row| row.get::<_, i64>(0)).unwrap();
        let damaged = count();

        let planned = desk.run(&[&ROLLBACK[..4], &["--dry-run"]].concat());
        assert_eq!(planned.code, 0, "{planned:?}");
        assert!(
            planned.out.contains("beats") && planned.out.contains("later"),
            "{planned:?}"
        );
        desk.run(&ROLLBACK[..4]).refused_plan(2, "nobody confirmed");
        assert_eq!((count(), beside(&desk)), (damaged, Vec::new()));

        let back = desk.run(&[&ROLLBACK[..], &["--json"]].concat()).json();
        assert_eq!(back["verified"], true);
        assert!(back["safety_snapshot"].is_string() && back["downtime_ms"].is_u64());
        let kept = back["kept"].as_str().unwrap().to_owned();
        assert_eq!(beside(&desk), [kept.as_str()]);
        assert!(count() > damaged, "an open connection sees the old rows");
        compare(&desk.path("then.db"), &desk.path("crm.db"));
        compare(&desk.path("now.db"), &desk.path(&kept));
        let safety = back["safety_snapshot"].as_str().unwrap();
        let to = ["restore", safety, "--to", "sqlite:safety.db", "-q"];
        assert_eq!(desk.run(&to).code, 0);
        compare(&desk.path("now.db"), &desk.path("safety.db"));
        let ledger = desk.run(&["ledger", "--json"]).out;
        assert!(
            ledger.contains("rolled_back") && ledger.contains("pinned"),
            "{ledger}"
        );

        let undone = desk.run(&UNDO).json();
        assert_eq!(count(), damaged);
        compare(&desk.path("now.db"), &desk.path("crm.db"));
        let kept = undone["kept"].as_str().unwrap().to_owned();
        assert_eq!(beside(&desk), [kept.as_str()]);
        compare(&desk.path("then.db"), &desk.path(&kept));
        let dropped = desk
            .run(&["restore", "--drop-kept", "sqlite:crm.db", "--json"])
            .json();
        assert_eq!(dropped["dropped"][0], kept);
        assert_eq!(beside(&desk), Vec::<String>::new());
        desk.run(&UNDO).refused_plan(1, "keeps no database");
        let mode_now = open.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        assert_eq!(mode_now.unwrap().to_uppercase(), mode);
    }
}

impl crate::cli_desk::Ran {
    /// That it was refused after the plan was printed.
    fn refused_plan(&self, code: i32, word: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(word), "{word:?} is not in {self:?}");
    }
}

/// Writes beats until it is told to stop; gives those that were answered.
fn write_beats(path: PathBuf, writer: i64, stop: Arc<AtomicBool>) -> Vec<i64> {
    let crm = Connection::open(path).unwrap();
    crm.busy_timeout(Duration::from_secs(30)).unwrap();
    let mut answered = Vec::new();
    for beat in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sql = "INSERT INTO beats(writer, beat) VALUES (?1, ?2)";
        crm.execute(sql, [writer, beat]).unwrap();
        answered.push(beat);
        std::thread::sleep(Duration::from_millis(2));
    }
    answered
}

fn beats(path: &Path, writer: i64) -> Vec<i64> {
    let crm = Connection::open(path).unwrap();
    let sql = "SELECT beat FROM beats WHERE writer = ?1 ORDER BY beat";
    let mut statement = crm.prepare(sql).unwrap();
    let rows = statement.query_map([writer], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn rollback_under_writers_loses_no_answered_commit() {
    for mode in ["WAL", "DELETE"] {
        let desk = desk(mode);
        let stop = Arc::new(AtomicBool::new(false));
        let path = desk.path("crm.db");
        let writers: Vec<_> = (1..=3)
            .map(|writer| {
                let (path, stop) = (path.clone(), stop.clone());
                std::thread::spawn(move || write_beats(path, writer, stop))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        let back = desk.run(&[&ROLLBACK[..], &["--json"]].concat()).json();
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        let answered: Vec<Vec<i64>> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        let kept = desk.path(back["kept"].as_str().unwrap());
        let mut before = 0;
        for (writer, answered) in (1..).zip(&answered) {
            let (old, new) = (beats(&kept, writer), beats(&path, writer));
            assert!(
                !old.is_empty() && !new.is_empty(),
                "the writers met no rollback"
            );
            before += old.len();
            assert_eq!(
                [old, new].concat(),
                *answered,
                "a commit was lost, or is there twice"
            );
        }
        // But for what was written since, it is the snapshot.
        let crm = Connection::open(&path).unwrap();
        crm.execute("DELETE FROM beats", []).unwrap();
        compare(&desk.path("then.db"), &path);
        println!(
            "{mode}: {before} commits before, downtime {} ms",
            back["downtime_ms"]
        );
        let undone = desk.run(&UNDO).json();
        let old: usize = (1..=3).map(|writer| beats(&path, writer).len()).sum();
        assert_eq!(old, before, "{undone}");
        crm.execute("DELETE FROM beats WHERE writer > 0", [])
            .unwrap();
        compare(&desk.path("now.db"), &path);
    }
}

fn die(desk: &Desk, words: &[&str], step: &str) {
    let mut command = desk.command(words);
    let status = command.env("ROWVAULT_DIES_AT", step).output().unwrap();
    assert_eq!(
        status.status.code(),
        None,
        "it did not come to {step}: {status:?}"
    );
}

#[test]
fn rollback_killed_at_each_step_is_old_or_new_and_the_next_run_ends_it() {
    for mode in ["WAL", "DELETE"] {
        for (step, new) in STEPS {
            let desk = desk(mode);
            die(&desk, &ROLLBACK, step);
            let expected = match new {
                true => desk.path("then.db"),
                false => desk.path("now.db"),
            };
            compare(&expected, &desk.path("crm.db"));
            // Somebody goes on writing before anybody looks.
            let crm = Connection::open(desk.path("crm.db")).unwrap();
            crm.execute("INSERT INTO beats VALUES (77, 7, 7)", [])
                .unwrap();
            let next = desk.run(&[&ROLLBACK[..4], &["--dry-run"]].concat());
            assert_eq!(next.code, 0, "{step}: {next:?}");
            assert_eq!(
                beside(&desk).len(),
                usize::from(new),
                "{mode}, {step}: {next:?}"
            );
            assert_eq!(
                crm.execute("DELETE FROM beats WHERE id = 77", []).unwrap(),
                1
            );
            compare(&expected, &desk.path("crm.db"));
            if new {
                desk.run(&UNDO).json();
                compare(&desk.path("now.db"), &desk.path("crm.db"));
            }
        }
    }
}

#[test]
fn undo_killed_at_each_step_is_old_or_new_and_the_next_run_ends_it() {
    for (step, new) in STEPS
        .into_iter()
        .filter(|(step, _)| !["rollback begun", "rollback staged", "rollback saved"].contains(step))
    {
        let desk = desk("WAL");
        assert_eq!(desk.run(&ROLLBACK).code, 0);
        die(&desk, &UNDO, step);
        let expected = match new {
            true => desk.path("now.db"),
            false => desk.path("then.db"),
        };
        compare(&expected, &desk.path("crm.db"));
        let next = desk.run(&[&ROLLBACK[..4], &["--dry-run"]].concat());
        assert_eq!(next.code, 0, "{step}: {next:?}");
        compare(&expected, &desk.path("crm.db"));
        assert_eq!(beside(&desk).len(), 1, "{step}");
        // Whichever it is, it can be turned round once more.
        desk.run(&UNDO).json();
        let other = match new {
            true => desk.path("then.db"),
            false => desk.path("now.db"),
        };
        compare(&other, &desk.path("crm.db"));
    }
}

#[test]
fn damage_in_a_needed_pack_leaves_the_live_database_alone() {
    let desk = desk("WAL");
    let before = std::fs::read(desk.path("crm.db")).unwrap();
    desk.damage_packs();
    let failed = desk.run(&[&ROLLBACK[..], &["--json"]].concat());
    assert_eq!(failed.code, 3, "{failed:?}");
    assert_eq!(std::fs::read(desk.path("crm.db")).unwrap(), before);
    compare(&desk.path("now.db"), &desk.path("crm.db"));
    assert_eq!(beside(&desk), Vec::<String>::new());
}

#[test]
fn rollback_is_refused_before_anything_is_changed() {
    let desk = desk("DELETE");
    let json: Vec<&str> = ROLLBACK.iter().copied().chain(["--json"]).collect();
    // Somebody is in the middle of a transaction.
    let crm = Connection::open(desk.path("crm.db")).unwrap();
    crm.execute_batch("BEGIN IMMEDIATE; DELETE FROM beats")
        .unwrap();
    let refused = desk.run(&json);
    refused.refused_plan(5, "locked by another");
    crm.execute_batch("ROLLBACK").unwrap();
    assert_eq!(beside(&desk), Vec::<String>::new());
    compare(&desk.path("now.db"), &desk.path("crm.db"));
    // A key that may not open rows.
    let made = desk.run(&["key", "writer", "--name", "w", "--out", "w.key", "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    desk.run_as("w.key", &json).refused_plan(6, "restore");
    // A database that is not there, and words that do not go together.
    let mut missing =
        ran(desk.command(&["restore", "latest", "--rollback", "sqlite:no.db", "--json"]));
    missing.refused_plan(1, "does not exist");
    missing = desk.run(&[
        "restore",
        "latest",
        "--rollback",
        "sqlite:crm.db",
        "--to",
        "sqlite:x.db",
    ]);
    missing.refused(2, "--to");
    compare(&desk.path("now.db"), &desk.path("crm.db"));
}
