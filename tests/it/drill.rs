//! `drill` on SQLite by the real binary: measured, reported, remembered; and failing for its reason.

use serde_json::Value;

use crate::cli_desk::{Desk, fields};

const PHASES: [&str; 9] = [
    "find_ms",
    "fetch_ms",
    "open_ms",
    "scratch_ms",
    "ddl_ms",
    "data_ms",
    "indexes_ms",
    "read_back_ms",
    "checks_ms",
];

/// A configuration whose source `crm` has `more` of its own.
fn configure(desk: &Desk, more: &str) {
    let text = format!("[[source]]\nname = \"crm\"\nurl = \"sqlite:crm.db\"\n{more}");
    desk.write("rowvault.toml", &text);
}

#[test]
fn answer_of_the_source_is_kept_and_compared() {
    let desk = Desk::with_repository();
    let check = |name: &str, sql: &str| {
        format!(
            "[[source.check]]\nname = \"{name}\"\nsql = \"{sql}\"\nexpect = \"same as at the snapshot\"\n"
        )
    };
    let all = "SELECT count(*) FROM contacts";
    let none = "SELECT max(id) FROM contacts WHERE 0";
    let bad = check("bad", "SELECT nothing FROM nowhere");
    configure(
        &desk,
        &format!("{}{}{bad}", check("all", all), check("none", none)),
    );
    let taken = desk.run(&["backup", "crm"]);
    assert_eq!(
        taken.code, 0,
        "a question without an answer fails no backup: {taken:?}"
    );
    assert!(taken.err.contains("check:bad:"), "{taken:?}");
    let drilled = drill(&desk, &["--json"]);
    assert_eq!(drilled.code, 4);
    let document: Value = serde_json::from_str(&drilled.out).unwrap();
    let found = checks(&document);
    for (name, ok) in [("all", true), ("none", true), ("bad", false)] {
        assert!(found.contains(&(name.to_owned(), ok)), "{name}: {document}");
    }
    // Another question under the same name is not the one that was answered.
    configure(&desk, &check("all", "SELECT count(*) + 0 FROM contacts"));
    let drilled = drill(&desk, &[]);
    assert_eq!(drilled.code, 4, "{drilled:?}");
    assert!(drilled.out.contains("FAILED all"), "{drilled:?}");
}

fn contacts(desk: &Desk) -> i64 {
    let file = rusqlite::Connection::open(desk.path("crm.db")).unwrap();
    let count = file.query_row("SELECT count(*) FROM contacts", [], |row| row.get(0));
    count.unwrap()
}

/// The name and the outcome of each check.
fn checks(document: &Value) -> Vec<(String, bool)> {
    let checks = document["checks"].as_array().unwrap();
    let check = |one: &Value| {
        (
            one["name"].as_str().unwrap().to_owned(),
            one["ok"].as_bool().unwrap(),
        )
    };
    checks.iter().map(check).collect()
}

/// Directories of drills that are still there.
fn left_behind(desk: &Desk) -> Vec<String> {
    let names = desk.names("tmp").into_iter();
    names
        .filter(|name| name.starts_with("rowvault-drill"))
        .collect()
}

/// Runs a drill whose scratch places lie in the desk's own `tmp`.
fn drill(desk: &Desk, arguments: &[&str]) -> crate::cli_desk::Ran {
    let _ = std::fs::create_dir(desk.path("tmp"));
    let mut command = desk.command(&[&["drill", "crm"], arguments].concat());
    command.env("TMPDIR", desk.path("tmp"));
    crate::cli_desk::ran(command)
}

#[test]
fn drill_measures_checks_reports_and_is_remembered() {
    let desk = Desk::with_snapshot();
    let rows = contacts(&desk);
    configure(
        &desk,
        &format!(
            "drill = {{ rto = \"10m\", rpo = \"26h\" }}\n\
             [[source.check]]\nname = \"contacts\"\nsql = \"SELECT count(*) FROM contacts\"\n\
             expect = {rows}\n\
             [[source.check]]\nname = \"<some>\"\nsql = \"SELECT count(*) FROM contacts\"\n\
             expect = \"1..\"\n\
             [source.canary]\ntable = \"contacts\"\nwhere = [\"last_name is not null\"]\n"
        ),
    );
    let drilled = drill(&desk, &["--json", "--report", "report.html"]).json();
    assert_eq!(drilled["ok"], true, "{drilled}");
    assert_eq!(fields(&drilled["phases"]), PHASES);
    let names = [
        "digests",
        "foreign keys",
        "contacts",
        "<some>",
        "canary contacts where last_name is not null",
        "RTO target",
        "RPO target",
    ];
    let expected: Vec<(String, bool)> = names.iter().map(|&name| (name.into(), true)).collect();
    assert_eq!(checks(&drilled), expected);
    let parts = PHASES.iter().filter(|&&name| name != "scratch_ms");
    let sum: u64 = parts
        .map(|&name| drilled["phases"][name].as_u64().unwrap())
        .sum();
    let rto = drilled["rto_ms"].as_u64().unwrap();
    assert!(rto >= sum && rto <= sum + 10, "{drilled}");
    assert!(drilled["bytes_scratch"].as_u64().unwrap() > 0);

    let beside = std::fs::read_to_string(desk.path("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&beside).unwrap(), drilled);
    let page = std::fs::read_to_string(desk.path("report.html")).unwrap();
    assert!(page.contains("&lt;some&gt;") && !page.contains("<some>"));
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));
    assert_eq!(page.matches("<svg").count(), 2);

    let second = drill(&desk, &["--snapshot", "random"]);
    assert_eq!(second.code, 0, "{second:?}");
    assert!(
        second
            .out
            .contains("everything that was expected was found")
    );
    let past = desk.run(&["drill", "crm", "--history", "--json"]).json();
    let drills = past["drills"].as_array().unwrap();
    assert_eq!(drills.len(), 2, "{past}");
    assert_eq!(drills[0]["rto_ms"], drilled["rto_ms"]);
    assert_eq!(drills[0]["snapshot"], drilled["snapshot"]);
    let ledger = desk.run(&["ledger", "crm", "--json"]).json();
    let entries = ledger["entries"].as_array().unwrap().iter();
    let told = entries.filter(|entry| entry["event"] == "drilled").count();
    assert_eq!((told, left_behind(&desk)), (2, Vec::<String>::new()));
}

#[test]
fn drill_that_finds_less_fails_and_says_which_check() {
    let desk = Desk::with_snapshot();
    let rows = contacts(&desk);
    let check = |sql: &str, expect: &str| {
        format!("[[source.check]]\nname = \"one\"\nsql = \"{sql}\"\nexpect = \"{expect}\"\n")
    };
    let count = "SELECT count(*) FROM contacts";
    let canary = |table: &str, condition: &str| {
        format!("[source.canary]\ntable = \"{table}\"\nwhere = [\"{condition}\"]\n")
    };
    for (more, name, detail) in [
        (check(count, &(rows + 1).to_string()), "one", "expected"),
        (check(count, &format!("..{}", rows - 1)), "one", "or less"),
        (
            check("SELECT cnt(*) FROM contacts", "1"),
            "one",
            "no such function",
        ),
        (
            check("SELECT id FROM contacts", "1"),
            "one",
            "more than one row",
        ),
        (
            check("SELECT id FROM contacts WHERE 0", "1"),
            "one",
            "no row",
        ),
        (check("DELETE FROM contacts", "1"), "one", "columns"),
        (
            check("DELETE FROM contacts RETURNING id", "1"),
            "one",
            "readonly",
        ),
        (
            check(count, "same as at the snapshot"),
            "one",
            "older than the check",
        ),
        (
            canary("contacts", "last_name=Nobody At All"),
            "canary contacts where last_name=Nobody At All",
            "0 found",
        ),
        (
            canary("kontakts", "last_name=x"),
            "canary kontakts where last_name=x",
            "no table",
        ),
        ("drill = { rto = \"1us\" }\n".into(), "RTO target", "missed"),
        ("drill = { rpo = \"1us\" }\n".into(), "RPO target", "missed"),
    ] {
        configure(&desk, &more);
        let drilled = drill(&desk, &["--json", "--report", "report.html"]);
        assert_eq!(drilled.code, 4, "{more}: {drilled:?}");
        let document: Value = serde_json::from_str(&drilled.out).unwrap();
        let all = document["checks"].as_array().unwrap();
        let failed: Vec<&Value> = all.iter().filter(|one| one["ok"] == false).collect();
        assert_eq!(failed.len(), 1, "{more}: {document}");
        assert_eq!(failed[0]["name"], name, "{more}");
        let found = failed[0]["detail"].as_str().unwrap();
        assert!(found.contains(detail), "{more}: {found}");
        let page = std::fs::read_to_string(desk.path("report.html")).unwrap();
        assert!(page.contains("Failed: not everything"));
    }
    assert_eq!(left_behind(&desk), Vec::<String>::new());
    let past = desk.run(&["drill", "crm", "--history", "--json"]).json();
    assert!(
        past["drills"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["ok"] == false)
    );
    assert_eq!(contacts(&desk), rows, "the source itself is never touched");
}

#[test]
fn drill_of_a_damaged_snapshot_is_corrupt_and_in_the_ledger() {
    let desk = Desk::with_snapshot();
    desk.damage_packs();
    let drilled = drill(&desk, &["--json", "--report", "report.html"]);
    assert_eq!(drilled.code, 3, "{drilled:?}");
    let document: Value = serde_json::from_str(&drilled.out).unwrap();
    assert_eq!(checks(&document), [("restore".to_owned(), false)]);
    let past = desk.run(&["drill", "crm", "--history", "--json"]).json();
    assert_eq!(past["drills"][0]["failed"][0], "restore");
    assert_eq!(left_behind(&desk), Vec::<String>::new());
}

#[test]
fn drill_tells_references_that_point_at_nothing() {
    let desk = Desk::with_repository();
    let file = rusqlite::Connection::open(desk.path("crm.db")).unwrap();
    file.execute_batch(
        "PRAGMA foreign_keys=OFF; CREATE TABLE up(id INTEGER PRIMARY KEY);
         CREATE TABLE down(id INTEGER PRIMARY KEY, up INTEGER REFERENCES up(id));
         INSERT INTO down VALUES (1, 7), (2, 8), (3, NULL);",
    )
    .unwrap();
    drop(file);
    assert_eq!(desk.run(&["backup", "sqlite:crm.db", "-q"]).code, 0);
    let drilled = drill(&desk, &[]);
    assert_eq!(drilled.code, 4, "{drilled:?}");
    let line = "FAILED foreign keys: 2 rows of down point at no row of up";
    assert!(drilled.out.contains(line), "{drilled:?}");
    configure(&desk, "drill = { foreign_keys = \"report\" }\n");
    let drilled = drill(&desk, &[]);
    assert_eq!(drilled.code, 0, "{drilled:?}");
    assert!(drilled.out.contains("2 rows of down point at no row of up"));
}

#[test]
fn drill_begins_with_the_recovery_sheet_alone() {
    let desk = Desk::with_snapshot();
    // What a fire would take: state, key, configuration, the database itself.
    for name in ["owner.key", "crm.db"] {
        std::fs::remove_file(desk.path(name)).unwrap();
    }
    std::fs::remove_dir_all(desk.path(".local")).unwrap();
    let _ = std::fs::create_dir(desk.path("tmp"));
    let mut command = desk.command(&["drill", "crm", "--json", "--from-recovery", "sheet.txt"]);
    command
        .env_remove("ROWVAULT_KEY_FILE")
        .env("TMPDIR", desk.path("tmp"));
    let drilled = crate::cli_desk::ran(command).json();
    assert_eq!(
        (&drilled["ok"], &drilled["from_recovery"]),
        (&true.into(), &true.into())
    );
    assert_eq!(left_behind(&desk), Vec::<String>::new());
    assert!(!desk.path(".local").exists(), "state was kept");
    let mut command = desk.command(&["drill", "crm", "--history", "--from-recovery", "sheet.txt"]);
    command.env_remove("ROWVAULT_KEY_FILE");
    assert_eq!(crate::cli_desk::ran(command).code, 0);
}

#[test]
fn drill_refuses_what_it_cannot_do_before_it_begins() {
    let desk = Desk::with_snapshot();
    let made = desk.run(&["key", "writer", "--name", "w", "--out", "w.key", "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    desk.run_as("w.key", &["drill", "crm"]).refused(6, "writer");
    desk.run(&["drill", "shop"]).refused(1, "shop");
    desk.run(&["drill", "crm", "--report", "none/report.html"])
        .refused(6, "none/report.html");
    desk.run(&["drill", "crm", "--report", "report.json"])
        .refused(2, "report.json");
    desk.run(&["drill", "crm", "--scratch", "postgres://x@localhost/y"])
        .refused(2, "SQLite");
    desk.run(&["drill", "crm", "--scratch", "sqlite:crm.db"])
        .refused(4, "exists already");
    desk.run(&["drill", "crm", "--from-recovery", "w.key"])
        .refused(2, "recovery sheet");
    let at = desk
        .run(&["drill", "crm", "--scratch", "sqlite:scratch.db", "--json"])
        .json();
    assert_eq!(at["ok"], true);
    assert!(!desk.path("scratch.db").exists(), "it was to be taken away");
    let past = desk.run(&["drill", "crm", "--history", "--json"]).json();
    assert_eq!(past["drills"].as_array().unwrap().len(), 1);
}
