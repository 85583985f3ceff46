//! A CRM in any engine, an accident in it, and what it must look like afterwards.
//!
//! Circular keys, many-to-many rows, notes that hang on a type and an id, CASCADE and SET NULL. The
//! oracle is the same database without the accident: after the undelete both must be equal, row by
//! row, whatever others edited meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rowvault::failure::AnyFailure;
use rowvault::job::undelete::{Choice, Mode, OnConflict, Outcome, Overwritten, Request, run};
use rowvault::job::{self};
use rowvault::random::SeededRandom;
use rowvault::repo::catalog::Snapshot;
use rowvault::row::closure::Dependents;
use rowvault::row::closure::relation::{Condition, Origin, Relation, Relations, Spelling};
use rowvault::row::schema::{
    Column, Key, KeyOrder, KeyOrigin, OnDelete, Table, TableName, ValueKind,
};
use rowvault::source::address::{SourceOptions, SourceUrl};
use rowvault::source::open;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use crate::house::House;
use crate::sqlite_copy::rows_of;
use crate::{mysql_server, postgres_server};

/// A repository with a place for files.
pub struct Stage {
    directory: TempDir,
    pub house: House,
}

impl Stage {
    pub async fn new() -> Stage {
        let directory = crate::tiny::directory();
        let repository = directory.path().join("repository");
        let state = directory.path().join("state");
        let house = crate::house::make(&repository.display().to_string(), &state, CHUNK).await;
        Stage { directory, house }
    }

    /// A SQLite file of this name.
    pub fn place(&self, name: &str) -> Place {
        Place::Sqlite(self.directory.path().join(name))
    }
}

/// A live database of any engine.
#[derive(Clone)]
pub enum Place {
    Sqlite(PathBuf),
    Postgres(Arc<postgres_server::Server>, String),
    Mysql(Arc<mysql_server::Server>, String),
}

impl Place {
    pub fn url(&self) -> SourceUrl {
        match self {
            Place::Sqlite(path) => SourceUrl::Sqlite(path.clone()),
            Place::Postgres(server, database) => server.url(database),
            Place::Mysql(server, database) => server.url(database),
        }
    }

    /// Runs statements; keys are enforced as a CRM would.
    pub fn sql(&self, script: &str) {
        match self {
            Place::Sqlite(path) => {
                let db = Connection::open(path).unwrap();
                db.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF")
                    .unwrap();
                db.execute_batch(script).unwrap();
            }
            Place::Postgres(server, database) => server.sql(database, script),
            Place::Mysql(server, database) => drop(server.sql(database, script)),
        }
    }

    /// Every table with its rows, sorted, each value with its class.
    pub fn dump(&self) -> BTreeMap<String, Vec<String>> {
        match self {
            Place::Sqlite(path) => dump_sqlite(path),
            Place::Postgres(server, database) => dump_postgres(server, database),
            Place::Mysql(server, database) => server.rows(database),
        }
    }

    /// The rows of a question to the file, values apart by bars.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let Place::Sqlite(path) = self else {
            panic!("only files are asked like this")
        };
        let rows = rows_of(&Connection::open(path).unwrap(), sql);
        let plain = |value: &String| {
            value
                .trim_start_matches("Integer(")
                .trim_end_matches(')')
                .to_owned()
        };
        let line = |row: Vec<String>| row.iter().map(plain).collect::<Vec<_>>().join("|");
        rows.into_iter().map(line).collect()
    }

    /// How many references of the file lead nowhere.
    pub fn orphans(&self) -> usize {
        self.rows("PRAGMA foreign_key_check").len()
    }

    /// The identifier of a table as snapshots spell it.
    pub fn table(&self, name: &str) -> TableName {
        TableName {
            schema: matches!(self, Place::Postgres(..)).then(|| "public".into()),
            name: name.into(),
        }
    }
}

fn dump_sqlite(path: &PathBuf) -> BTreeMap<String, Vec<String>> {
    let db = Connection::open(path).unwrap();
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut names = db.prepare(sql).unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut all = BTreeMap::new();
    for name in names {
        let mut statement = db.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let width = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let value = |at| match row.get_ref(at).unwrap() {
                ValueRef::Null => "-".to_owned(),
                ValueRef::Integer(value) => format!("i{value}"),
                ValueRef::Real(value) => format!("r{:x}", value.to_bits()),
                ValueRef::Text(text) => format!("t{:?}", String::from_utf8_lossy(text)),
                ValueRef::Blob(bytes) => format!("b{bytes:?}"),
            };
            lines.push((0..width).map(value).collect::<Vec<_>>().join("|"));
        }
        lines.sort();
        all.insert(name, lines);
    }
    all
}

fn dump_postgres(
    server: &postgres_server::Server,
    database: &str,
) -> BTreeMap<String, Vec<String>> {
    let names = server.ask(
        database,
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class \
         WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace",
    );
    let mut all = BTreeMap::new();
    for name in names.split_whitespace() {
        let sql = format!("SELECT x::text FROM public.{name} x ORDER BY x::text COLLATE \"C\"");
        let lines = server.ask(database, &sql);
        all.insert(name.to_owned(), lines.lines().map(str::to_owned).collect());
    }
    all
}

/// Statements that make the CRM: `{fk}` where keys are added later is what differs by engine.
pub fn make(place: &Place) {
    let engine = match place {
        Place::Sqlite(_) => "",
        Place::Postgres(..) => "",
        Place::Mysql(..) => " ENGINE=InnoDB",
    };
    let circular = match place {
        Place::Sqlite(_) => {
            ", FOREIGN KEY (main_contact) REFERENCES contacts(id) ON DELETE SET NULL"
        }
        _ => "",
    };
    let blob = match place {
        Place::Postgres(..) => "bytea",
        _ => "BLOB",
    };
    let mut script = format!(
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name VARCHAR(60) NOT NULL){engine};
         CREATE TABLE accounts(id INTEGER PRIMARY KEY, name VARCHAR(60) NOT NULL, owner INTEGER NOT NULL,
           main_contact INTEGER, logo {blob}, FOREIGN KEY (owner) REFERENCES users(id){circular}){engine};
         CREATE TABLE contacts(id INTEGER PRIMARY KEY, account INTEGER NOT NULL, mail VARCHAR(60) UNIQUE,
           name VARCHAR(60), boss INTEGER, phone VARCHAR(30),
           FOREIGN KEY (account) REFERENCES accounts(id) ON DELETE CASCADE,
           FOREIGN KEY (boss) REFERENCES contacts(id) ON DELETE SET NULL){engine};
         CREATE TABLE deals(code VARCHAR(20) PRIMARY KEY, account INTEGER NOT NULL, contact INTEGER,
           amount NUMERIC(12,2), FOREIGN KEY (account) REFERENCES accounts(id) ON DELETE CASCADE,
           FOREIGN KEY (contact) REFERENCES contacts(id) ON DELETE SET NULL){engine};
         CREATE TABLE tags(id INTEGER PRIMARY KEY, word VARCHAR(30) UNIQUE){engine};
         CREATE TABLE account_tags(account INTEGER, tag INTEGER, PRIMARY KEY (account, tag),
           FOREIGN KEY (account) REFERENCES accounts(id) ON DELETE CASCADE,
           FOREIGN KEY (tag) REFERENCES tags(id) ON DELETE CASCADE){engine};
         CREATE TABLE deal_lines(deal VARCHAR(20), no INTEGER, what VARCHAR(40), PRIMARY KEY (deal, no),
           FOREIGN KEY (deal) REFERENCES deals(code) ON DELETE CASCADE){engine};
         CREATE TABLE line_notes(id INTEGER PRIMARY KEY, deal VARCHAR(20), no INTEGER, body VARCHAR(60),
           FOREIGN KEY (deal, no) REFERENCES deal_lines(deal, no) ON DELETE CASCADE){engine};
         CREATE TABLE notes(id INTEGER PRIMARY KEY, parent_type VARCHAR(30), parent_id INTEGER,
           body VARCHAR(80)){engine};
         CREATE TABLE calls(id INTEGER PRIMARY KEY, contact INTEGER, subject VARCHAR(60),
           FOREIGN KEY (contact) REFERENCES contacts(id) ON DELETE SET NULL){engine};"
    );
    if circular.is_empty() {
        script.push_str(
            "ALTER TABLE accounts ADD CONSTRAINT main_of FOREIGN KEY (main_contact)
               REFERENCES contacts(id) ON DELETE SET NULL;",
        );
    }
    script.push_str(&fill(&SeededRandom::new(7)));
    place.sql(&script);
}

const ACCOUNTS: u64 = 24;
const CHUNK: u32 = 16 << 10;

fn fill(random: &SeededRandom) -> String {
    let mut sql = String::new();
    let mut add = |statement: String| {
        sql.push_str(&statement);
        sql.push_str(";\n");
    };
    for id in 1..=4 {
        add(format!("INSERT INTO users VALUES ({id}, 'user {id}')"));
    }
    for id in 1..=6 {
        add(format!("INSERT INTO tags VALUES ({id}, 'tag {id}')"));
    }
    let (mut call, mut note, mut line_note) = (0, 0, 0);
    for id in 1..=ACCOUNTS {
        let owner = 1 + random.below(4);
        let logo = "NULL";
        add(format!(
            "INSERT INTO accounts VALUES ({id}, 'Łąka & Söhne ''{id}''', {owner}, NULL, {logo})"
        ));
        for tag in 1..=1 + random.below(4) {
            add(format!("INSERT INTO account_tags VALUES ({id}, {tag})"));
        }
        let people = 1 + random.below(4);
        for nth in 0..people {
            let contact = id * 100 + nth;
            // Bosses stand in the same account or in the one before.
            let boss = match (nth, id) {
                (0, 1) => "NULL".into(),
                (0, _) => format!("{}", (id - 1) * 100),
                _ => format!("{}", id * 100),
            };
            add(format!(
                "INSERT INTO contacts VALUES ({contact}, {id}, 'c{contact}@example.org', 'Ann {contact}', {boss}, '+48 {contact}')"
            ));
            for _ in 0..random.below(3) {
                call += 1;
                add(format!(
                    "INSERT INTO calls VALUES ({call}, {contact}, 'call {call}')"
                ));
            }
        }
        add(format!(
            "UPDATE accounts SET main_contact = {} WHERE id = {id}",
            id * 100
        ));
        for nth in 0..1 + random.below(3) {
            let code = format!("D-{id}-{nth}");
            let contact = match random.below(3) {
                0 => "NULL".to_owned(),
                _ => format!("{}", id * 100 + random.below(people)),
            };
            add(format!(
                "INSERT INTO deals VALUES ('{code}', {id}, {contact}, {}.50)",
                random.below(9000)
            ));
            for no in 1..=1 + random.below(2) {
                add(format!(
                    "INSERT INTO deal_lines VALUES ('{code}', {no}, 'thing {no}')"
                ));
                line_note += 1;
                add(format!(
                    "INSERT INTO line_notes VALUES ({line_note}, '{code}', {no}, 'why {no}')"
                ));
            }
        }
        for (kind, parent) in [("Accounts", id), ("Contacts", id * 100)] {
            for _ in 0..random.below(3) {
                note += 1;
                add(format!(
                    "INSERT INTO notes VALUES ({note}, '{kind}', {parent}, 'note {note}')"
                ));
            }
        }
    }
    sql
}

/// What the CRM's code does when it deletes an account: its keys, and the notes by hand.
pub fn delete_account(id: u64) -> String {
    format!(
        "DELETE FROM notes WHERE parent_type = 'Contacts' AND parent_id IN (SELECT id FROM contacts WHERE account = {id});
         DELETE FROM notes WHERE parent_type = 'Accounts' AND parent_id = {id};
         UPDATE accounts SET main_contact = NULL WHERE id = {id};
         DELETE FROM accounts WHERE id = {id};"
    )
}

/// Edits by others that leave what hangs on account `spared` alone.
pub fn edits(random: &SeededRandom, count: u64, spared: u64) -> String {
    let mut sql = String::new();
    let other = || loop {
        let id = 1 + random.below(ACCOUNTS);
        if id != spared {
            return id;
        }
    };
    for nth in 0..count {
        let (id, new) = (other(), 100_000 + nth);
        let statement = match random.below(9) {
            0 => format!("UPDATE accounts SET name = 'renamed {nth}' WHERE id = {id}"),
            1 => format!(
                "UPDATE contacts SET phone = '+1 {nth}' WHERE id = {}",
                id * 100
            ),
            2 => format!(
                "INSERT INTO contacts VALUES ({new}, {id}, 'n{nth}@example.org', 'New', NULL, NULL)"
            ),
            3 => format!("INSERT INTO notes VALUES ({new}, 'Accounts', {id}, 'later {nth}')"),
            4 => format!("DELETE FROM notes WHERE parent_type = 'Accounts' AND parent_id = {id}"),
            5 => format!(
                "INSERT INTO calls VALUES ({new}, {}, 'later {nth}')",
                id * 100
            ),
            6 => format!("UPDATE deals SET amount = {nth}.25 WHERE account = {id}"),
            7 => format!("DELETE FROM deals WHERE code = 'D-{id}-1'"),
            _ => format!(
                "UPDATE users SET name = 'u{nth}' WHERE id = {}",
                1 + random.below(4)
            ),
        };
        sql.push_str(&statement);
        sql.push_str(";\n");
    }
    sql
}

/// What this CRM knows and its database does not.
pub fn relations(place: &Place) -> Relations {
    let hangs_on = |value: &str, parent: &str| Relation {
        child: place.table("notes"),
        columns: vec!["parent_id".into()],
        parent: place.table(parent),
        parent_columns: vec!["id".into()],
        on_delete: OnDelete::Restrict,
        when: Some(Condition {
            column: "parent_type".into(),
            value: value.into(),
            spelling: Spelling::Exact,
        }),
        origin: Origin::Convention("test".into()),
        extends: false,
    };
    Relations {
        conventions: vec![
            hangs_on("Accounts", "accounts"),
            hangs_on("Contacts", "contacts"),
        ],
        lists: vec!["test".into()],
        ..Relations::default()
    }
}

/// A request for rows by key, with the scene's relations.
pub fn asking(place: &Place, table: &str, keys: &[&str]) -> Request {
    Request {
        choices: vec![Choice {
            table: table.into(),
            keys: keys.iter().map(|&key| key.into()).collect(),
            ..Choice::default()
        }],
        overwritten: Overwritten::Refuse,
        dependents: Dependents::Follow,
        on_conflict: OnConflict::Stop,
        with_triggers: false,
        relations: relations(place),
        render: true,
        place: "here".into(),
    }
}

/// Takes a snapshot under the name `crm`.
pub async fn backup(house: &House, place: &Place) -> Snapshot {
    let mut source = open::source(&place.url(), &SourceOptions::default()).unwrap();
    let request = job::backup::Request::new("crm".parse().unwrap());
    job::backup::run(&house.opened, source.as_mut(), &request)
        .await
        .unwrap();
    crate::house::newest(house).await
}

/// Plans or applies.
pub async fn undelete(
    house: &House,
    snapshot: &Snapshot,
    place: &Place,
    request: &Request,
    mode: Mode,
) -> Result<Outcome, AnyFailure> {
    let mut live = open::live(&place.url(), &SourceOptions::default()).unwrap();
    run(&house.opened, snapshot, live.as_mut(), request, mode).await
}

/// A table of text columns with these quoted names, keyed by the first.
pub fn plain_table(name: &str, columns: &[String]) -> Table {
    let column = |name: &String| Column {
        name: name.trim_matches('"').into(),
        type_name: "text".into(),
        kind: ValueKind::Text,
        nullable: false,
        default: None,
        collation: None,
        hidden: false,
        facts: BTreeMap::new(),
    };
    Table {
        name: TableName {
            schema: None,
            name: name.into(),
        },
        columns: columns.iter().map(column).collect(),
        generated: Vec::new(),
        key: Some(Key {
            origin: KeyOrigin::Primary,
            columns: vec![(0, KeyOrder::Bytes)],
        }),
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        with_rows: true,
        facts: BTreeMap::new(),
    }
}

/// What differs between two dumps, in lines.
pub fn differences(
    expected: &BTreeMap<String, Vec<String>>,
    found: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, rows) in expected {
        let other = &found[table];
        let missing = rows.iter().filter(|row| !other.contains(row));
        lines.extend(missing.map(|row| format!("-{table} {row}")));
        let added = other.iter().filter(|row| !rows.contains(row));
        lines.extend(added.map(|row| format!("+{table} {row}")));
        if rows.len() != other.len() {
            lines.push(format!(
                "{table}: {} rows, {} expected",
                other.len(),
                rows.len()
            ));
        }
    }
    lines
}

/// The whole scene: `live` has the accident, `spared` has not; both are empty databases.
pub async fn play(house: &House, live: &Place, spared: &Place) {
    make(live);
    make(spared);
    let snapshot = backup(house, live).await;
    live.sql(&delete_account(7));
    live.sql(&edits(&SeededRandom::new(3), 100, 7));
    spared.sql(&edits(&SeededRandom::new(3), 100, 7));
    let before = live.dump();
    let expected = spared.dump();
    assert!(!differences(&expected, &before).is_empty());
    let request = asking(live, "accounts", &["7"]);
    let planned = undelete(house, &snapshot, live, &request, Mode::Plan)
        .await
        .unwrap();
    assert!(
        !planned.applied && planned.plan.conflicts.is_empty(),
        "{:?}",
        planned.plan
    );
    assert_eq!(live.dump(), before, "a plan writes nothing");
    let done = undelete(house, &snapshot, live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan.conflicts);
    assert_eq!(done.plan.insert, planned.plan.insert);
    let wrong = differences(&expected, &live.dump());
    assert!(wrong.is_empty(), "{wrong:#?}\n{:#?}", done.plan);
    // What was rendered takes it back, and does it again.
    live.sql(&format!("{};", done.undo_sql.join(";\n")));
    assert_eq!(differences(&before, &live.dump()), Vec::<String>::new());
    live.sql(&format!("{};", done.sql.join(";\n")));
    assert_eq!(differences(&expected, &live.dump()), Vec::<String>::new());
    // Asked again, there is nothing to do.
    let again = undelete(house, &snapshot, live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(!again.applied && again.plan.changes.is_empty() && again.plan.conflicts.is_empty());
}
