//! `undelete` and `show --relations` of the real binary: JSON, exit codes, files, refusals.

use serde_json::json;

use crate::cli_desk::{Desk, fields};

/// A desk whose configuration knows its CRM's attachments, with a snapshot and without account 3.
fn desk() -> Desk {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[[source]]
url = \"sqlite:crm.db\"
[[source.relation]]
rule = \"attachments.parent_id -> accounts.id where parent_type = account\"
",
    );
    assert_eq!(desk.run(&["backup", "crm", "-q"]).code, 0);
    sql(
        &desk,
        "PRAGMA foreign_keys=ON; DELETE FROM accounts WHERE id = 3",
    );
    desk
}

fn sql(desk: &Desk, script: &str) {
    let db = rusqlite::Connection::open(desk.path("crm.db")).unwrap();
    db.execute_batch(script).unwrap();
}

fn accounts(desk: &Desk) -> i64 {
    let db = rusqlite::Connection::open(desk.path("crm.db")).unwrap();
    db.query_row("SELECT count(*) FROM accounts", [], |row| row.get(0))
        .unwrap()
}

const KEY: [&str; 6] = [
    "undelete",
    "crm@latest",
    "--table",
    "accounts",
    "--key",
    "3",
];

#[test]
fn plan_writes_nothing_and_apply_writes_it_and_says_how_to_take_it_back() {
    let desk = desk();
    let before = accounts(&desk);
    let planned = desk
        .run(&[&KEY[..], &["--json", "--sql", "do.sql"]].concat())
        .json();
    assert_eq!(
        fields(&planned),
        ["plan", "applied", "inserted", "updated", "entry"]
    );
    assert_eq!(
        (&planned["applied"], &planned["inserted"]),
        (&json!(false), &json!(0))
    );
    let first = &planned["plan"]["insert"][0];
    assert_eq!(first["why"], "asked for");
    assert_eq!(accounts(&desk), before);
    let statements = std::fs::read_to_string(desk.path("do.sql")).unwrap();
    assert!(
        statements.contains("INSERT OR ABORT INTO main.\"accounts\""),
        "{statements}"
    );
    desk.run(&[&KEY[..], &["--sql", "do.sql"]].concat())
        .refused(4, "do.sql");
    let done = desk.run(&[&KEY[..], &["--apply", "--undo-sql", "undo.sql"]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    assert!(
        done.out.contains("to take it back: run undo.sql"),
        "{done:?}"
    );
    assert_eq!(accounts(&desk), before + 1);
    let ledger = desk.run(&["ledger", "--json"]).json();
    let last = ledger["entries"].as_array().unwrap().last().unwrap();
    assert_eq!(last["event"], "undeleted");
    sql(
        &desk,
        &std::fs::read_to_string(desk.path("undo.sql")).unwrap(),
    );
    assert_eq!(accounts(&desk), before);
}

#[test]
fn conflicts_exit_with_four_and_the_plan_is_printed() {
    let desk = desk();
    sql(
        &desk,
        "INSERT INTO accounts SELECT 3, 'by hand', industry, website, phone, street, city, country, vat_number,
         annual_revenue, owner_id, NULL, description, created_at, updated_at FROM accounts LIMIT 1",
    );
    let refused = desk.run(&[&KEY[..], &["--apply"]].concat());
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.out.contains("CONFLICT accounts 3: it is there"),
        "{refused:?}"
    );
    let told = desk.run(&[&KEY[..], &["--apply", "--json"]].concat());
    assert_eq!(told.code, 4);
    let told: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told["plan"]["conflicts"][0]["key"], "3");
    assert_eq!(told["applied"], false);
}

#[test]
fn what_cannot_be_asked_for_is_refused_with_what_there_is() {
    let desk = desk();
    let run = |words: &[&str]| desk.run(&[&["undelete", "crm@latest"], words].concat());
    run(&["--table", "acounts", "--key", "3"]).refused(1, "accounts");
    run(&["--table", "accounts", "--where", "nane=x"]).refused(2, "name");
    run(&["--table", "accounts", "--key", "three"]).refused(2, "three");
    run(&["--table", "accounts", "--key", "999999"]).refused(1, "999999");
    run(&["--table", "accounts"]).refused(2, "--missing");
    run(&["--key", "3"]).refused(2, "--table");
    run(&["--key", "3", "--table", "accounts"]).refused(2, "before its --table");
    run(&["--table", "accounts", "--key", "3", "--into", "nowhere"]).refused(2, "nowhere");
    sql(&desk, "ALTER TABLE accounts RENAME COLUMN name TO title");
    let other = run(&["--table", "accounts", "--key", "3", "--apply"]);
    assert_eq!(other.code, 4, "{other:?}");
    assert!(other.err.contains("seems to be title now"), "{other:?}");
}

#[test]
fn relations_are_listed_and_a_wrong_rule_is_refused() {
    let desk = desk();
    let shown = desk
        .run(&["show", "crm@latest", "--relations", "--json"])
        .json();
    assert_eq!(
        fields(&shown),
        ["lists", "relations", "soft_deletion", "content_types"]
    );
    let own = json!("parent_type = account");
    let relations = shown["relations"].as_array().unwrap();
    assert!(
        relations
            .iter()
            .any(|one| one["when"] == own && one["parent"] == "accounts")
    );
    assert!(
        relations
            .iter()
            .any(|one| one["child"] == "deals" && one["when"].is_null())
    );
    for wrong in [
        "[[source.relation]]\nrule = \"attachments -> accounts\"",
        "[[source.soft_deletion]]\nrule = \"deleted\"",
    ] {
        desk.write(
            "rowvault.toml",
            &format!("[[source]]\nurl = \"sqlite:crm.db\"\n{wrong}\n"),
        );
        desk.run(&["snapshots"])
            .refused(2, "is no rule about a relation");
    }
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = \"sqlite:crm.db\"\nrelations = \"SuiteCRN\"\n",
    );
    desk.run(&["snapshots"]).refused(2, "SuiteCRM");
}
