//! Records brought back into a SQLite file in use.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rowvault::config::relations::{Own, choose, lists};
use rowvault::failure::{AnyFailure, Class};
use rowvault::job::undelete::{Choice, Mode, OnConflict, Overwritten, Request, run};
use rowvault::row::closure::{Closure, Dependents};
use rowvault::row::schema::{Engine, Structure};
use rowvault::source::address::SourceOptions;
use rowvault::source::{Change, Found, Live, Lookup, Purpose, open};

use crate::undelete_scene::{
    self as scene, Place, Stage, asking, backup, delete_account, differences, undelete,
};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_and_nothing_else_changes() {
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &stage.place("live.db"),
        &stage.place("spared.db"),
    )
    .await;
}

/// A live database that fails at its n-th statement.
struct Breaking {
    inner: Box<dyn Live>,
    left: AtomicUsize,
}

impl Breaking {
    fn step(&self) -> Result<(), AnyFailure> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        match left {
            0 => Err(AnyFailure::new(Class::Transient, "broken on purpose", None)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Live for Breaking {
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure> {
        self.step()?;
        self.inner.begin(purpose).await
    }
    fn triggers(&self, table: usize) -> &[String] {
        self.inner.triggers(table)
    }
    fn fires_triggers(&self) -> bool {
        self.inner.fires_triggers()
    }
    fn checks_references(&self) -> bool {
        self.inner.checks_references()
    }
    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure> {
        self.step()?;
        self.inner.look_up(lookup).await
    }
    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure> {
        self.step()?;
        self.inner.write(change).await
    }
    fn render(&self, change: &Change) -> String {
        self.inner.render(change)
    }
    fn frame(&self, tables: &[usize]) -> (Vec<String>, Vec<String>) {
        self.inner.frame(tables)
    }
    async fn commit(&mut self) -> Result<(), AnyFailure> {
        self.step()?;
        self.inner.commit().await
    }
    async fn abandon(&mut self) -> Result<(), AnyFailure> {
        self.inner.abandon().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undelete_broken_at_any_statement_writes_nothing() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    scene::make(&live);
    let whole = live.dump();
    let snapshot = backup(&stage.house, &live).await;
    live.sql(&delete_account(7));
    let before = live.dump();
    let request = asking(&live, "accounts", &["7"]);
    for at in 0..1000 {
        let inner = open::live(&live.url(), &SourceOptions::default()).unwrap();
        let left = AtomicUsize::new(at);
        let mut breaking = Breaking { inner, left };
        let done = run(
            &stage.house.opened,
            &snapshot,
            &mut breaking,
            &request,
            Mode::Apply,
        )
        .await;
        match done {
            Err(error) => {
                assert_eq!(error.to_string(), "broken on purpose");
                assert_eq!(live.dump(), before, "broken at statement {at}");
            }
            Ok(done) => {
                assert!(done.applied && at > 20, "{at} statements");
                assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
                return;
            }
        }
    }
    panic!("more than 1,000 statements");
}

async fn conflicts_of(stage: &Stage, sql: &str, request: &Request, live: &Place) -> Vec<String> {
    let snapshot = backup(&stage.house, live).await;
    live.sql(sql);
    let before = live.dump();
    let done = undelete(&stage.house, &snapshot, live, request, Mode::Apply)
        .await
        .unwrap();
    assert!(!done.applied, "{:?}", done.plan);
    assert_eq!(live.dump(), before);
    assert_eq!(done.conflict().class(), Class::Conflict);
    let line = |one: &rowvault::job::undelete::plan::Conflict| {
        format!("{} {}: {}", one.table, one.key, one.what)
    };
    done.plan.conflicts.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_conflict_is_told_with_both_sides_and_nothing_is_written() {
    let delete = delete_account(7);
    let cases = [
        (
            format!("{delete} INSERT INTO accounts VALUES (7, 'by hand', 1, NULL, NULL)"),
            "accounts 7: it is there, with another name",
        ),
        (
            format!(
                "{delete} INSERT INTO contacts VALUES (9999, 3, 'c700@example.org', 'Thief', NULL, NULL)"
            ),
            "contacts 700: its mail is used by row 9999 now",
        ),
        (
            format!("{delete} ALTER TABLE accounts RENAME COLUMN name TO title"),
            "accounts 7: table: column name seems to be title now",
        ),
        (
            format!("{delete} DROP TABLE line_notes; DROP TABLE deal_lines"),
            "table: the live database has no such table",
        ),
    ];
    for (sql, wanted) in cases {
        let stage = Stage::new().await;
        let live = stage.place("live.db");
        scene::make(&live);
        let request = asking(&live, "accounts", &["7"]);
        let conflicts = conflicts_of(&stage, &sql, &request, &live).await;
        assert!(
            conflicts.iter().any(|line| line.contains(wanted)),
            "{conflicts:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_conflicts_take_along_only_what_cannot_be_without_them() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    scene::make(&live);
    let snapshot = backup(&stage.house, &live).await;
    live.sql(&delete_account(7));
    live.sql("INSERT INTO contacts VALUES (9999, 3, 'c700@example.org', 'Thief', NULL, NULL)");
    let mut request = asking(&live, "accounts", &["7"]);
    request.on_conflict = OnConflict::Skip;
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    // The account names that contact as its main one: neither it nor what hangs on it comes back.
    let keys: Vec<String> = done
        .plan
        .conflicts
        .iter()
        .map(|one| format!("{} {}", one.table, one.key))
        .collect();
    assert!(keys.contains(&"contacts 700".to_owned()), "{keys:?}");
    assert!(keys.contains(&"accounts 7".to_owned()), "{keys:?}");
    let orphans = live.orphans();
    assert_eq!(orphans, 0, "no reference leads nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rows_come_back_and_columns_that_changed_are_fitted() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, town TEXT, old TEXT, up TEXT AS (upper(name)));
         CREATE TRIGGER shout AFTER INSERT ON people BEGIN UPDATE people SET name = 'shouted'; END;
         INSERT INTO people(id, name, town, old) VALUES (1,'a','x','o'), (2,'b','y','o'), (3,'c','x','o'), (4,'d','x','o');",
    );
    live.sql("UPDATE people SET name = char(96 + id)");
    let snapshot = backup(&stage.house, &live).await;
    live.sql(
        "DELETE FROM people WHERE id > 1; ALTER TABLE people DROP COLUMN old;
         ALTER TABLE people ADD COLUMN fresh INTEGER DEFAULT 5;",
    );
    let mut request = asking(&live, "people", &[]);
    request.choices = vec![Choice {
        table: "people".into(),
        conditions: vec!["town=x".into()],
        missing: true,
        ..Choice::default()
    }];
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan);
    let notes = done.plan.notes.join("\n");
    for part in [
        "column old of people is gone",
        "column fresh of people came",
        "shout",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let rows = live.rows("SELECT id, name, town, up, fresh FROM people ORDER BY id");
    assert_eq!(rows, ["1|a|x|A|5", "3|c|x|C|5", "4|d|x|D|5"]);
}

/// A condition on a cell that lies in chunks of its own could not be judged while rows were chosen,
/// and the row was passed over without a word.
#[tokio::test(flavor = "multi_thread")]
async fn row_is_chosen_by_what_its_large_cell_holds() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(
        "CREATE TABLE mails(id INTEGER PRIMARY KEY, body TEXT);
         INSERT INTO mails VALUES (1, 'short'), (2, hex(zeroblob(1100000)) || 'needle'), (3, hex(zeroblob(1100000)));",
    );
    let before = live.rows("SELECT id, length(body), substr(body, -6) FROM mails");
    let snapshot = backup(&stage.house, &live).await;
    live.sql("DELETE FROM mails WHERE id = 2");
    for missing in [true, false] {
        let mut request = asking(&live, "mails", &[]);
        request.choices = vec![Choice {
            table: "mails".into(),
            conditions: vec!["body~needle".into()],
            missing,
            ..Choice::default()
        }];
        let mode = if missing { Mode::Plan } else { Mode::Apply };
        let done = undelete(&stage.house, &snapshot, &live, &request, mode);
        let plan = done.await.unwrap().plan;
        let keys: Vec<&str> = plan.insert.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["2"], "missing: {missing}");
    }
    let after = live.rows("SELECT id, length(body), substr(body, -6) FROM mails");
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn overwritten_columns_are_put_back_and_later_edits_stay() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, phone TEXT, note TEXT);
         INSERT INTO people VALUES (1,'a','+1','n'), (2,'b','+2','n'), (3,'c','+3','n'), (4,'d','+4','n');",
    );
    let snapshot = backup(&stage.house, &live).await;
    live.sql("UPDATE people SET phone = '0'; DELETE FROM people WHERE id = 4");
    let damaged = backup(&stage.house, &live).await;
    live.sql(
        "UPDATE people SET name = 'later' WHERE id = 1;
         UPDATE people SET phone = 'mine' WHERE id = 2;",
    );
    let mut request = asking(&live, "people", &[]);
    request.overwritten = Overwritten::PutBackUntil(Box::new(damaged));
    let stopped = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(!stopped.applied);
    let what = &stopped.plan.conflicts[0];
    assert_eq!((what.table.as_str(), what.key.as_str()), ("people", "2"));
    assert!(
        what.what
            .contains("was +2, became 0, and was edited since: mine"),
        "{}",
        what.what
    );
    request.on_conflict = OnConflict::Skip;
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied);
    let rows = live.rows("SELECT * FROM people ORDER BY id");
    assert_eq!(rows, ["1|later|+1|n", "2|b|mine|n", "3|c|+3|n"]);
    // Without the later snapshot, everything that differs is damage.
    request.overwritten = Overwritten::PutBack;
    request.choices[0].keys = vec!["1".into(), "2".into(), "4".into()];
    undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    let rows = live.rows("SELECT * FROM people ORDER BY id");
    assert_eq!(rows, ["1|a|+1|n", "2|b|+2|n", "3|c|+3|n", "4|d|+4|n"]);
}

/// Tables of each CRM with the columns that its list names, under the names of its own schema.
const SUITECRM: &str = "
    CREATE TABLE accounts(id TEXT PRIMARY KEY NOT NULL, name TEXT, date_modified TEXT, deleted INTEGER DEFAULT 0, parent_id TEXT);
    CREATE TABLE contacts(id TEXT PRIMARY KEY NOT NULL, last_name TEXT, deleted INTEGER DEFAULT 0, reports_to_id TEXT);
    CREATE TABLE accounts_contacts(id TEXT PRIMARY KEY NOT NULL, contact_id TEXT, account_id TEXT, date_modified TEXT, deleted INTEGER DEFAULT 0);
    CREATE TABLE accounts_cstm(id_c TEXT PRIMARY KEY NOT NULL, color_c TEXT);
    CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, name TEXT, parent_type TEXT, parent_id TEXT, contact_id TEXT, deleted INTEGER DEFAULT 0);
    CREATE TABLE email_addresses(id TEXT PRIMARY KEY NOT NULL, email_address TEXT, deleted INTEGER DEFAULT 0);
    CREATE TABLE email_addr_bean_rel(id TEXT PRIMARY KEY NOT NULL, email_address_id TEXT, bean_id TEXT, bean_module TEXT, deleted INTEGER DEFAULT 0);
    CREATE TABLE acl_roles(id TEXT PRIMARY KEY NOT NULL, name TEXT, deleted INTEGER DEFAULT 0);";

/// SuiteCRM 7.14 (metadata/accounts_contactsMetaData.php, modules/*/vardefs.php): the record is
/// marked as deleted, and so are its links; nothing is gone.
#[tokio::test(flavor = "multi_thread")]
async fn softly_deleted_account_of_suitecrm_comes_back_by_its_flags() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(SUITECRM);
    live.sql(
        "INSERT INTO accounts VALUES ('a1','Acme','2026-01-01',0,NULL), ('a2','Other','2026-01-01',0,'a1');
         INSERT INTO accounts_cstm VALUES ('a1','red'), ('a2','blue');
         INSERT INTO contacts VALUES ('c1','Ann',0,''), ('c2','Bob',0,'c1');
         INSERT INTO accounts_contacts VALUES ('j1','c1','a1','x',0), ('j2','c2','a2','x',0), ('j3','c2','a1','x',1);
         INSERT INTO notes VALUES ('n1','on acme','Accounts','a1',NULL,0), ('n2','other','Accounts','a2','',0);
         INSERT INTO email_addresses VALUES ('e1','acme@example.org',0);
         INSERT INTO email_addr_bean_rel VALUES ('b1','e1','a1','Accounts',0);",
    );
    let whole = live.dump();
    let snapshot = backup(&stage.house, &live).await;
    live.sql(
        "UPDATE accounts SET deleted = 1, date_modified = 'now' WHERE id = 'a1';
         UPDATE accounts_contacts SET deleted = 1 WHERE account_id = 'a1';
         UPDATE email_addr_bean_rel SET deleted = 1 WHERE bean_id = 'a1';
         DELETE FROM notes WHERE id = 'n1';",
    );
    let manifest = stage.house.opened.manifest(&snapshot).await.unwrap();
    let tables: Vec<_> = manifest
        .tables
        .iter()
        .map(|one| one.table.clone())
        .collect();
    let mut request = asking(&live, "accounts", &["a1"]);
    request.relations = choose(&tables, &Own::default());
    assert_eq!(request.relations.lists, ["SuiteCRM"]);
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan);
    let left = differences(&whole, &live.dump());
    assert_eq!(
        left.len(),
        2,
        "only what the application itself noted differs: {left:?}"
    );
    assert!(
        left.iter()
            .all(|line| line.contains("accounts") && line.contains("Acme"))
    );
    assert!(
        done.plan
            .notes
            .iter()
            .any(|note| note.contains("date_modified changed since"))
    );
}

#[test]
fn every_list_is_chosen_by_its_tables_and_its_relations_are_followed() {
    for list in lists() {
        // Every table and column that a rule names, and nothing else.
        let mut columns: std::collections::BTreeMap<String, std::collections::BTreeSet<String>> =
            list.needs
                .iter()
                .map(|name| (name.clone(), ["id".to_owned()].into()))
                .collect();
        let mut ends = Vec::new();
        for rule in &list.relations {
            let rule = rule.replace(" one record", "");
            let (rule, when) = match rule.split_once(" where ") {
                Some((rule, when)) => (
                    rule.to_owned(),
                    when.split([' ', '=']).next().map(str::to_owned),
                ),
                None => (rule, None),
            };
            let (child, parent) = rule.split_once(" -> ").unwrap();
            ends.push((child.to_owned(), when));
            ends.push((parent.to_owned(), None));
        }
        for (end, when) in ends {
            let (table, names) = end.split_once('.').unwrap();
            let table = match table {
                "*" => list.needs[0].clone(),
                "*_cstm" => format!("{}_cstm", list.needs[0]),
                name => name.to_owned(),
            };
            let of = columns.entry(table).or_default();
            of.extend(names.split(',').map(|name| name.trim().to_owned()));
            of.extend(when);
        }
        let tables: Vec<_> = columns
            .iter()
            .map(|(name, columns)| {
                let columns: Vec<String> = columns.iter().cloned().collect();
                scene::plain_table(name, &columns)
            })
            .collect();
        let known = choose(&tables, &Own::default());
        assert!(
            known.lists.contains(&list.name),
            "{}: {:?}",
            list.name,
            known.lists
        );
        let wanted = list.relations.len();
        assert!(
            known.conventions.len() >= wanted,
            "{}: {}",
            list.name,
            known.conventions.len()
        );
        let all = known.among(&tables);
        let closure = Closure::new(Engine::Sqlite, tables, &all, Dependents::Follow);
        assert_eq!(closure.edges().len(), all.len(), "{}", list.name);
    }
}
