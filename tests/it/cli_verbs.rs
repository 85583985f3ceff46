//! Every verb of the command line, once, on a real repository: what it prints, and what it does.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::Connection;
use serde_json::Value;

use crate::cli_desk::{Desk, fields, ran};

#[test]
fn init_tells_the_storage_and_makes_key_and_sheet_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::bare();
    let made = desk.run(&["--json", "init"]).json();
    assert_eq!(
        fields(&made),
        [
            "repository",
            "url",
            "key_file",
            "recovery_file",
            "recovery_sheet",
            "storage"
        ]
    );
    assert_eq!(made["storage"]["conditional_create"], "honoured");
    let mode = desk
        .path("owner.key")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let sheet = made["recovery_sheet"].as_str().unwrap();
    desk.write("sheet.txt", sheet);
    let listed = desk.run_as("sheet.txt", &["snapshots", "--json"]).json();
    assert_eq!(listed["snapshots"], Value::Array(Vec::new()));
}

#[test]
fn backup_snapshots_and_show_print_the_documents_of_the_design() {
    let desk = Desk::with_repository();
    let taken = desk
        .run(&["backup", "--json", "sqlite:crm.db", "--tag", "first"])
        .json();
    let taken = &taken["snapshots"][0];
    assert_eq!(
        fields(taken),
        [
            "id",
            "source",
            "time",
            "mode",
            "tables",
            "rows",
            "rows_put",
            "rows_deleted",
            "bytes_read",
            "bytes_stored",
            "chunks_new",
            "chunks_reused",
            "duration_ms"
        ]
    );
    assert_eq!(
        (&taken["source"], &taken["mode"]),
        (&"crm".into(), &"full".into())
    );
    let listed = desk.run(&["snapshots", "crm", "--json"]).json();
    let listed = &listed["snapshots"][0];
    assert_eq!(
        fields(listed),
        [
            "id",
            "source",
            "time",
            "tables",
            "rows",
            "bytes_stored",
            "verified_at"
        ]
    );
    assert_eq!(listed["verified_at"], Value::Null);
    for same in ["id", "time", "tables", "rows", "bytes_stored"] {
        assert_eq!(listed[same], taken[same]);
    }
    let id = taken["id"].as_str().unwrap();
    let shown = desk.run(&["show", &id[..6], "--json"]).json();
    assert_eq!(shown["id"], taken["id"]);
    assert_eq!(shown["tags"][0], "first");
    let tables = shown["tables"].as_array().unwrap();
    assert_eq!(
        fields(&tables[0]),
        ["name", "rows", "runs", "bytes_raw", "bytes_stored", "key"]
    );
    let rows: u64 = tables
        .iter()
        .map(|table| table["rows"].as_u64().unwrap())
        .sum();
    assert_eq!(Some(rows), taken["rows"].as_u64());
    let stats = desk.run(&["stats", "--json"]).json();
    assert_eq!(stats["sources"][0]["snapshots"], 1);
    assert_eq!(stats["sources"][0]["bytes_stored"], taken["bytes_stored"]);
    for text in [
        &["snapshots"][..],
        &["show", "latest"],
        &["stats"],
        &["ledger"],
    ] {
        let ran = desk.run(text);
        assert_eq!((ran.code, &*ran.err), (0, ""));
        assert!(
            ran.out.lines().all(|line| line.chars().count() <= 80),
            "{}",
            ran.out
        );
    }
}

#[test]
fn verify_says_whole_and_is_remembered_and_damage_exits_three_by_name() {
    let desk = Desk::with_snapshot();
    let whole = desk.run(&["verify", "--data", "all", "--json"]).json();
    assert_eq!(
        fields(&whole),
        ["ok", "snapshots", "packs", "chunks", "bytes_read", "errors"]
    );
    assert_eq!(
        (&whole["ok"], &whole["snapshots"]),
        (&true.into(), &1.into())
    );
    let listed = desk.run(&["snapshots", "--json"]).json();
    assert!(listed["snapshots"][0]["verified_at"].is_string());
    let pack = desk.names("repo/packs").pop().unwrap();
    let name = desk.names(&format!("repo/packs/{pack}")).pop().unwrap();
    let path = desk.path(&format!("repo/packs/{pack}/{name}"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = desk.run(&["verify", "--data", "all", "--json"]);
    assert_eq!(damaged.code, 3, "{damaged:?}");
    let document: Value = serde_json::from_str(&damaged.out).unwrap();
    assert_eq!(document["ok"], false);
    let error = &document["errors"][0];
    assert_eq!(fields(error), ["object", "what", "snapshots", "tables"]);
    let refused = desk.run(&["restore", "latest", "--to", "sqlite:back.db"]);
    refused.refused(3, "damaged");
    assert!(!desk.path("back.db").exists());
}

#[test]
fn restore_gives_the_same_rows_and_the_ledger_tells_it() {
    let desk = Desk::with_snapshot();
    let restored = desk
        .run(&["restore", "crm@latest", "--to", "sqlite:back.db", "--json"])
        .json();
    assert_eq!(
        fields(&restored),
        [
            "snapshot",
            "target",
            "tables",
            "rows",
            "verified",
            "duration_ms",
            "read_back_ms",
            "kept",
            "safety_snapshot"
        ]
    );
    let count = |name: &str| -> i64 {
        let file = Connection::open(desk.path(name)).unwrap();
        let sql = "SELECT (SELECT count(*) FROM contacts) + (SELECT sum(length(body)) FROM notes)";
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("crm.db"), count("back.db"));
    let ledger = desk.run(&["ledger", "crm", "--json"]).json();
    let events: Vec<&str> = ledger["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["snapshot", "restored"]);
    assert_eq!(ledger["heads"][0]["number"], 2);
    desk.run(&["restore", "latest", "--to", "sqlite:back.db"])
        .refused(4, "exists");
}

#[test]
fn find_gives_the_server_s_text_null_or_base64() {
    let desk = Desk::with_repository();
    let file = Connection::open(desk.path("own.db")).unwrap();
    let text = "łąka ".repeat(600_000);
    file.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, price REAL, name TEXT, raw BLOB, note TEXT);
         INSERT INTO item VALUES (-3, 1.5, 'a', x'00ff', NULL), (7, 2, 'b', NULL, CAST(x'ff' AS TEXT));",
    )
    .unwrap();
    file.execute(
        "INSERT INTO item VALUES (9, NULL, ?1, zeroblob(2500000), '')",
        [&text],
    )
    .unwrap();
    drop(file);
    assert_eq!(desk.run(&["backup", "sqlite:own.db", "-q"]).code, 0);
    let find = |key: &str| {
        desk.run(&["find", "latest", "item", "--key", key, "--json"])
            .json()
    };
    assert_eq!(
        find("-3").to_string(),
        r#"{"rows":[{"id":"-3","price":"1.5","name":"a","raw":{"base64":"AP8="},"note":null}]}"#
    );
    assert_eq!(find("7")["rows"][0]["note"]["base64"], "/w==");
    let large = find("9");
    let large = &large["rows"][0];
    assert_eq!(large["name"].as_str(), Some(text.as_str()));
    let raw = STANDARD
        .decode(large["raw"]["base64"].as_str().unwrap())
        .unwrap();
    assert_eq!(raw, vec![0; 2_500_000]);
    assert_eq!(find("8").to_string(), r#"{"rows":[]}"#);
    let all = desk
        .run(&["find", "latest", "item", "--limit", "2", "--json"])
        .json();
    assert_eq!(all["rows"].as_array().unwrap().len(), 2);
    let words = desk.run(&["find", "latest", "item"]);
    assert!(
        words.out.contains("raw    (2500000 bytes)"),
        "{}",
        words.out
    );
    assert!(words.out.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn export_writes_csv_and_json_lines_that_read_back() {
    let desk = Desk::with_repository();
    let file = Connection::open(desk.path("own.db")).unwrap();
    let text = "\"quoted\", and\nmore ".repeat(80_000);
    file.execute_batch("CREATE TABLE \"a/b\" (id INTEGER PRIMARY KEY, v TEXT, w TEXT)")
        .unwrap();
    file.execute(
        "INSERT INTO \"a/b\" VALUES (1, ?1, NULL), (2, '', 'x')",
        [&text],
    )
    .unwrap();
    drop(file);
    assert_eq!(desk.run(&["backup", "sqlite:own.db", "-q"]).code, 0);
    let csv = desk.run(&["export", "latest", "--format", "csv", "--out", "csv"]);
    assert_eq!(csv.code, 0, "{csv:?}");
    assert_eq!(desk.names("csv"), ["a%2Fb.csv"]);
    let written = std::fs::read_to_string(desk.path("csv/a%2Fb.csv")).unwrap();
    assert!(written.ends_with("\n2,\"\",x\n"));
    let mut reader = csv::Reader::from_reader(written.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(&records[0][1], text);
    assert_eq!(&records[1][2], "x");
    let arguments = ["export", "latest", "--table", "a/b", "--format", "jsonl"];
    let json = desk
        .run(&[&arguments[..], &["--out", "one.jsonl", "--json"]].concat())
        .json();
    assert_eq!(json["files"][0]["rows"], 2);
    let written = std::fs::read_to_string(desk.path("one.jsonl")).unwrap();
    let rows: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows[0]["v"].as_str(), Some(text.as_str()));
    assert_eq!(rows[1].to_string(), r#"{"id":"2","v":"","w":"x"}"#);
    desk.run(&[&arguments[..], &["--out", "one.jsonl"]].concat())
        .refused(4, "one.jsonl");
}

#[test]
fn keys_are_added_listed_and_removed() {
    let desk = Desk::with_snapshot();
    let added = desk
        .run(&["key", "add", "--key-file", "second.key", "--json"])
        .json();
    let slot = added["slot"].as_str().unwrap();
    assert_eq!(desk.run_as("second.key", &["snapshots"]).code, 0);
    assert_eq!(
        desk.run(&["key", "recovery", "--out", "sheet2.txt"]).code,
        0
    );
    assert_eq!(desk.run_as("sheet2.txt", &["snapshots"]).code, 0);
    let listed = desk.run(&["key", "list", "--json"]).json();
    assert_eq!(listed["slots"].as_array().unwrap().len(), 4);
    assert_eq!(desk.run(&["key", "remove", slot]).code, 0);
    let gone = desk.run_as("second.key", &["snapshots"]);
    assert_eq!(gone.code, 6, "{gone:?}");
    desk.run(&["key", "remove", "aaaaaaaa"])
        .refused(1, "aaaaaaaa");
}

#[test]
fn writer_backs_up_and_cannot_read_and_is_revoked() {
    let desk = Desk::with_snapshot();
    let enrolled = desk.run(&[
        "key", "writer", "--name", "web1", "--out", "web1.key", "--json",
    ]);
    assert_eq!(enrolled.json()["name"], "web1");
    let writer = |arguments: &[&str]| desk.run_as("web1.key", arguments);
    let taken = writer(&["backup", "sqlite:crm.db", "--json"]).json();
    assert_eq!(taken["snapshots"][0]["chunks_new"], 0);
    assert_eq!(
        writer(&["snapshots", "--json"]).json()["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(writer(&["show", "latest"]).code, 0);
    assert_eq!(writer(&["verify", "--data", "none"]).code, 0);
    writer(&["restore", "latest", "--to", "sqlite:x.db"]).refused(6, "restore");
    writer(&["find", "latest", "contacts"]).refused(6, "find");
    writer(&["export", "latest", "--format", "csv", "--out", "x"]).refused(6, "export");
    writer(&["key", "add", "--key-file", "x.key"]).refused(6, "may not");
    for made in ["x.db", "x", "x.key"] {
        assert!(!desk.path(made).exists());
    }
    assert_eq!(desk.run(&["key", "revoke", "web1"]).code, 0);
    writer(&["backup", "sqlite:crm.db"]).refused(6, "revoked");
    assert_eq!(desk.run(&["verify", "--data", "all"]).code, 0);
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let desk = Desk::with_snapshot();
    assert_eq!(desk.run(&["doctor", "--json"]).json()["ok"], true);
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = \"sqlite:crm.db\"\n[[source]]\nurl = \"sqlite:gone.db\"\n",
    );
    let sick = desk.run(&["doctor", "--json"]);
    assert_eq!(sick.code, 2, "{sick:?}");
    let document: Value = serde_json::from_str(&sick.out).unwrap();
    let wrong: Vec<&Value> = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
        .collect();
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0]["name"], "source gone");
    assert!(wrong[0]["hint"].is_string());
}

#[test]
fn configuration_names_sources_and_its_commands_run_around_a_backup() {
    let desk = Desk::with_repository();
    desk.write("password.txt", "not used by SQLite\n");
    let log = desk.path("log").display().to_string();
    desk.write(
        "after.sh",
        &format!("#!/bin/sh\necho \"$1 $ROWVAULT_SOURCE\" >> {log}\nexit \"${{2:-0}}\"\n"),
    );
    desk.write(
        "rowvault.toml",
        "[repository]\nurl = \"repo\"\nkey_file = \"owner.key\"\n\
         [[source]]\nname = \"sales\"\nurl = \"sqlite:${FILE}\"\ntags = [\"nightly\"]\n\
         exclude_tables = [\"audit_*\"]\nbefore = [\"/bin/sh after.sh on\"]\n\
         after = [\"/bin/sh\", \"after.sh\", \"off\"]\n\
         [[source]]\nurl = \"sqlite:missing.db\"\nafter = [\"/bin/sh\", \"after.sh\", \"off\"]\n",
    );
    let mut command = desk.command(&["backup", "--all", "--json"]);
    command
        .env("FILE", "crm.db")
        .env_remove("ROWVAULT_REPO")
        .env_remove("ROWVAULT_KEY_FILE");
    let ran = ran(command);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("source missing:"), "{ran:?}");
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["snapshots"][0]["source"], "sales");
    let log = std::fs::read_to_string(desk.path("log")).unwrap();
    assert_eq!(log, "on sales\noff sales\noff missing\n");
    let mut command = desk.command(&["show", "sales@latest", "--json"]);
    command.env("FILE", "crm.db");
    let shown = crate::cli_desk::ran(command).json();
    assert_eq!(shown["tags"][0], "nightly");
    let tables = shown["tables"].as_array().unwrap();
    assert!(tables.iter().all(|table| table["name"] != "audit_log"));
}

#[test]
fn closed_stdout_ends_the_output_and_is_no_failure() {
    let desk = Desk::with_snapshot();
    let mut command = desk.command(&["find", "latest", "activities", "--limit", "100000"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}
