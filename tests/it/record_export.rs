//! One customer's whole record: everything that is theirs, what it names, and nothing of others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rowvault::job::export::record::{Outcome, Request, run};
use rowvault::repo::catalog::Snapshot;
use rowvault::row::closure::Dependents;
use serde_json::{Value, json};

use crate::cli_desk::{Desk, fields};
use crate::undelete_scene::{self as scene, Place, Stage, backup};

fn request(place: &Place, table: &str, key: &str, out: &Path) -> Request {
    Request {
        table: table.into(),
        keys: vec![key.into()],
        conditions: Vec::new(),
        dependents: Dependents::OfRecord,
        relations: scene::relations(place),
        out: out.to_owned(),
    }
}

async fn exported(stage: &Stage, snapshot: &Snapshot, request: &Request) -> (Outcome, Value) {
    let outcome = run(&stage.house.opened, snapshot, request).await.unwrap();
    let text = std::fs::read_to_string(&request.out).unwrap();
    assert_eq!(text.len() as u64, outcome.written.bytes);
    (outcome, serde_json::from_str(&text).unwrap())
}

/// The keys of each table in a document.
fn keys(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let tables = document["tables"].as_array().unwrap();
    let of = |table: &Value| {
        let rows = table["rows"].as_array().unwrap();
        let keys = rows.iter().map(|row| row["key"].as_str().unwrap().into());
        (table["table"].as_str().unwrap().to_owned(), keys.collect())
    };
    tables.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn record_of_an_account_is_what_sql_says_it_is() {
    let stage = Stage::new().await;
    let place = stage.place("crm.db");
    scene::make(&place);
    let snapshot = backup(&stage.house, &place).await;
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("record.json");
    let (outcome, document) =
        exported(&stage, &snapshot, &request(&place, "accounts", "7", &out)).await;
    let found = keys(&document);
    let own = "(SELECT id FROM contacts WHERE account = 7)";
    let deals = format!("(SELECT code FROM deals WHERE account = 7 OR contact IN {own})");
    let boss = "(SELECT boss FROM contacts WHERE account = 7)";
    let wanted = [
        // The account, and those of people that its own people answer to.
        (
            "accounts",
            format!(
                "SELECT id FROM accounts WHERE id = 7 OR id IN (SELECT account FROM contacts WHERE id IN {boss})"
            ),
        ),
        (
            "calls",
            format!("SELECT id FROM calls WHERE contact IN {own}"),
        ),
        (
            "deals",
            format!("SELECT rowid FROM deals WHERE code IN {deals}"),
        ),
        (
            "deal_lines",
            format!("SELECT rowid FROM deal_lines WHERE deal IN {deals}"),
        ),
        (
            "line_notes",
            format!("SELECT id FROM line_notes WHERE deal IN {deals}"),
        ),
        (
            "notes",
            format!(
                "SELECT id FROM notes WHERE parent_type = 'Accounts' AND parent_id = 7 OR parent_type = 'Contacts' AND parent_id IN {own}"
            ),
        ),
        (
            "account_tags",
            "SELECT rowid FROM account_tags WHERE account = 7".into(),
        ),
        (
            "tags",
            "SELECT tag FROM account_tags WHERE account = 7".into(),
        ),
    ];
    for (table, sql) in wanted {
        let rows: BTreeSet<String> = place.rows(&sql).into_iter().collect();
        assert!(!rows.is_empty(), "{table}: the scene has some");
        if table == "accounts" {
            // Chains of bosses go on upwards; each stands there because a row names it.
            assert!(found[table].is_superset(&rows), "{table}");
            continue;
        }
        assert_eq!(found[table], rows, "{table}");
    }
    let contacts: BTreeSet<String> = place
        .rows("SELECT id FROM contacts WHERE account = 7")
        .into_iter()
        .collect();
    assert!(found["contacts"].is_superset(&contacts));
    let below = "SELECT id FROM contacts WHERE account = 8";
    for other in place.rows(below) {
        assert!(!found["contacts"].contains(&other), "of another account");
    }
    // Every row says why, and carries its values.
    let first = &document["tables"][0]["rows"][0];
    assert_eq!(fields(first), ["key", "why", "row"]);
    let asked = document["tables"].as_array().unwrap().iter();
    let asked: Vec<&Value> = asked
        .flat_map(|table| table["rows"].as_array().unwrap())
        .filter(|row| row["why"] == "asked for")
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["row"]["name"], json!("Łąka & Söhne '7'"));
    let counted: u64 = outcome.tables.values().sum();
    assert_eq!(counted, outcome.written.rows);
    assert!(outcome.notes.is_empty(), "{:?}", outcome.notes);
}

/// A person's superiors and subordinates are people of their own: the one is named, the other not.
#[tokio::test(flavor = "multi_thread")]
async fn record_of_a_person_stops_at_other_people() {
    let stage = Stage::new().await;
    let place = stage.place("crm.db");
    place.sql(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, boss INTEGER REFERENCES people(id) ON DELETE SET NULL);
         CREATE TABLE calls(id INTEGER PRIMARY KEY, who INTEGER REFERENCES people(id) ON DELETE SET NULL);
         CREATE TABLE minutes(id INTEGER PRIMARY KEY, call INTEGER REFERENCES calls(id) ON DELETE CASCADE);
         CREATE TABLE cards(id INTEGER PRIMARY KEY, who INTEGER REFERENCES people(id) ON DELETE CASCADE);
         CREATE TABLE stamps(id INTEGER PRIMARY KEY, card INTEGER REFERENCES cards(id));
         CREATE TABLE loose(who INTEGER REFERENCES people(id), word TEXT);
         INSERT INTO people VALUES (1,'top',NULL), (2,'middle',1), (3,'low',2), (4,'other',1);
         INSERT INTO calls VALUES (1,2), (2,3), (3,4); INSERT INTO minutes VALUES (1,1), (2,2);
         INSERT INTO cards VALUES (1,2), (2,1), (3,3); INSERT INTO stamps VALUES (1,1), (2,2);
         INSERT INTO loose VALUES (2,'x');",
    );
    let snapshot = backup(&stage.house, &place).await;
    let directory = tempfile::tempdir().unwrap();
    let mut wanted = request(&place, "people", "2", &directory.path().join("2.json"));
    let (outcome, document) = exported(&stage, &snapshot, &wanted).await;
    let found = keys(&document);
    let expected = [
        ("people", vec!["1", "2"]),
        ("calls", vec!["1"]),
        ("cards", vec!["1"]),
        ("loose", vec!["1"]),
        ("stamps", vec!["1"]),
    ];
    let expected: BTreeMap<String, BTreeSet<String>> = expected
        .map(|(table, keys)| (table.into(), keys.iter().map(|&key| key.into()).collect()))
        .into();
    assert_eq!(found, expected);
    assert_eq!(document["notes"], json!(outcome.notes));
    assert!(outcome.notes.is_empty());
    // By conditions, and without what refers to the rows.
    wanted.keys.clear();
    wanted.conditions = vec!["name=low".into()];
    wanted.dependents = Dependents::Leave;
    wanted.out = directory.path().join("3.json");
    let (_, document) = exported(&stage, &snapshot, &wanted).await;
    let people: BTreeSet<String> = ["1", "2", "3"].map(String::from).into();
    assert_eq!(keys(&document), [("people".to_owned(), people)].into());
}

#[test]
fn record_is_exported_by_the_binary_and_what_makes_no_sense_is_refused() {
    let desk = Desk::with_snapshot();
    let run = |words: &[&str]| desk.run(&[&["export", "latest"], words].concat());
    let record = [
        "--table", "accounts", "--key", "3", "--format", "json", "--out", "3.json",
    ];
    let told = run(&[&record[..], &["--json"]].concat()).json();
    assert_eq!(
        fields(&told),
        ["snapshot", "files", "tables", "notes", "duration_ms"]
    );
    let text = std::fs::read_to_string(desk.path("3.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        fields(&document),
        ["snapshot", "source", "time", "tables", "notes"]
    );
    assert!(keys(&document).len() > 1, "relations were followed");
    run(&record).refused(4, "3.json");
    let refused = |words: &[&str], code: i32, word: &str| {
        run(&[words, &["--out", "no.json"]].concat()).refused(code, word);
        assert!(!desk.path("no.json").exists());
    };
    let json = ["--table", "accounts", "--format", "json"];
    let with = |words: &[&'static str]| [&json[..], words].concat();
    refused(&json, 2, "--key");
    refused(&with(&["--where", "name=no such name"]), 1, "accounts");
    refused(&with(&["--where", "nane=x"]), 2, "name");
    refused(&with(&["--key", "three"]), 2, "three");
    refused(&with(&["--key", "999999"]), 1, "999999");
    refused(&with(&["--key", "3", "--table", "users"]), 2, "--table");
    let csv = ["--table", "accounts", "--format", "csv", "--key", "3"];
    refused(&csv, 2, "--format json");
    refused(&["--format", "json", "--key", "3"], 2, "--table");
}
