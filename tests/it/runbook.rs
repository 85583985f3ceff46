//! docs/runbook.md: every command in it is run, in a scene like the one that its chapter is about.

use crate::cli_desk::{Desk, Ran};

const BOOK: &str = include_str!("../../docs/runbook.md");

/// The commands of a chapter: words after `rowvault`, and the exit code.
fn commands(chapter: &str) -> Vec<(Vec<&'static str>, i32)> {
    let start = BOOK.find(&format!("\n## {chapter}\n"));
    let start = start.unwrap_or_else(|| panic!("there is no chapter {chapter:?}"));
    let text = &BOOK[start + 4..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let lines = text.lines().map(str::trim);
    let found: Vec<_> = lines
        .filter_map(|line| line.strip_prefix("rowvault "))
        .map(|line| match line.split_once(" # exits ") {
            Some((words, code)) => (words.split_whitespace().collect(), code.parse().unwrap()),
            None => (line.split_whitespace().collect(), 0),
        })
        .collect();
    assert!(!found.is_empty(), "chapter {chapter:?} has no command");
    found
}

/// Runs the commands of a chapter, each with the exit code that it says.
fn follow(desk: &Desk, chapter: &str) -> Vec<Ran> {
    let run = |(words, code): (Vec<&str>, i32)| {
        let ran = desk.run(&words);
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        ran
    };
    commands(chapter).into_iter().map(run).collect()
}

/// A desk with the source `crm` in its configuration, and a snapshot of it.
fn desk() -> Desk {
    let desk = Desk::with_repository();
    desk.write("rowvault.toml", "[[source]]\nurl = \"sqlite:crm.db\"\n");
    let taken = desk.run(&["backup", "crm", "-q"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    desk
}

fn sql(desk: &Desk, script: &str) {
    let db = rusqlite::Connection::open(desk.path("crm.db")).unwrap();
    db.execute_batch(script).unwrap();
}

fn accounts(desk: &Desk, file: &str) -> i64 {
    let db = rusqlite::Connection::open(desk.path(file)).unwrap();
    db.query_row("SELECT count(*) FROM accounts", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn chapter_server_gone_ends_with_a_new_database() {
    let desk = desk();
    let there = accounts(&desk, "crm.db");
    // Of the old machine nothing is left but the sheet.
    for name in ["crm.db", "rowvault.toml", "owner.key"] {
        std::fs::remove_file(desk.path(name)).unwrap();
    }
    std::fs::remove_dir_all(desk.path(".local")).unwrap();
    follow(&desk, "The server is gone");
    assert_eq!(accounts(&desk, "new.db"), there);
}

#[test]
fn chapter_table_emptied_brings_it_back() {
    let desk = desk();
    let there = accounts(&desk, "crm.db");
    sql(&desk, "DELETE FROM accounts");
    let ran = follow(&desk, "A table was emptied");
    assert!(ran[1].out.contains("accounts"), "{:?}", ran[1]);
    assert_eq!(accounts(&desk, "crm.db"), there);
}

#[test]
fn chapter_record_missing_brings_it_back() {
    let desk = desk();
    let there = accounts(&desk, "crm.db");
    sql(
        &desk,
        "PRAGMA foreign_keys=ON; DELETE FROM accounts WHERE id = 3",
    );
    assert_eq!(accounts(&desk, "crm.db"), there - 1);
    follow(&desk, "One record is missing");
    assert_eq!(accounts(&desk, "crm.db"), there);
}

#[test]
fn chapter_repository_damaged_ends_with_a_whole_snapshot() {
    let desk = desk();
    let packs: Vec<_> = desk
        .names("repo/packs")
        .into_iter()
        .flat_map(|folder| {
            let names = desk.names(&format!("repo/packs/{folder}")).into_iter();
            let path = |name| desk.path(&format!("repo/packs/{folder}/{name}"));
            names.map(path).collect::<Vec<_>>()
        })
        .collect();
    let size = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let largest = packs.into_iter().max_by_key(size).unwrap();
    std::fs::remove_file(largest).unwrap();
    follow(&desk, "The repository is damaged");
}

#[test]
fn chapter_key_lost_ends_with_a_new_one() {
    let desk = desk();
    let enrolled = desk.run(&["key", "writer", "--name", "db1", "--out", "db1.key", "-q"]);
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    std::fs::remove_file(desk.path("owner.key")).unwrap();
    follow(&desk, "A key is lost");
    let refused = desk.run_as("db1.key", &["backup", "crm"]);
    assert_eq!(refused.code, 6, "{refused:?}");
}
