//! What an undelete owes in every engine alike: all or nothing, every conflict told, edits kept.
//!
//! The same scenes in a SQLite file, in PostgreSQL and in MariaDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rowvault::config::relations::{Own, choose};
use rowvault::failure::{AnyFailure, Class};
use rowvault::job::undelete::{Mode, OnConflict, Overwritten, Request, run};
use rowvault::row::schema::Structure;
use rowvault::source::address::SourceOptions;
use rowvault::source::{Change, Found, Live, Lookup, Purpose, open};

use crate::undelete_scene::{
    self as scene, Place, Stage, asking, backup, delete_account, differences, undelete,
};
use crate::{mysql_server, postgres_server};

/// An engine with room for databases.
enum Yard {
    Sqlite,
    Postgres(Arc<postgres_server::Server>),
    Mysql(Arc<mysql_server::Server>),
}

impl Yard {
    /// The engines of this machine.
    fn all() -> Vec<Yard> {
        let postgres = postgres_server::Server::shared().map(Yard::Postgres);
        let others = [Yard::Sqlite, Yard::Mysql(mysql_server::shared())];
        others.into_iter().chain(postgres).collect()
    }

    /// An empty database.
    fn place(&self, stage: &Stage, name: &str) -> Place {
        match self {
            Yard::Sqlite => stage.place(&format!("{name}.db")),
            Yard::Postgres(server) => {
                server.create(name);
                Place::Postgres(server.clone(), name.into())
            }
            Yard::Mysql(server) => {
                server.fresh(name, "");
                Place::Mysql(server.clone(), name.into())
            }
        }
    }
}

/// More statements than any of these plans has; a count that fell below zero is larger.
const LEFT_MAX: usize = 1_000_000;

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
    fn bars(&self, table: usize) -> Option<String> {
        self.inner.bars(table)
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
        match self.left.load(Ordering::SeqCst) > LEFT_MAX {
            // A process that was killed says nothing more.
            true => Ok(()),
            false => self.inner.abandon().await,
        }
    }
}

/// A deal with its lines and their notes: few statements, each kind of them.
#[tokio::test(flavor = "multi_thread")]
async fn undelete_broken_off_at_any_statement_writes_nothing() {
    for yard in Yard::all() {
        let stage = Stage::new().await;
        let live = yard.place(&stage, "undelete_broken");
        scene::make(&live);
        let whole = live.dump();
        let snapshot = backup(&stage.house, &live).await;
        // A whole account in a file; in a server, where every statement is a round trip, a deal.
        let (accident, table, key) = match yard {
            Yard::Sqlite => (delete_account(7), "accounts", "7"),
            _ => (
                "DELETE FROM deals WHERE code = 'D-7-0'".to_owned(),
                "deals",
                "D-7-0",
            ),
        };
        live.sql(&accident);
        let before = live.dump();
        assert!(!differences(&whole, &before).is_empty());
        let request = asking(&live, table, &[key]);
        let mut at = 0;
        loop {
            let inner = open::live(&live.url(), &SourceOptions::default()).unwrap();
            let left = AtomicUsize::new(at);
            let mut breaking = Breaking { inner, left };
            let opened = &stage.house.opened;
            let done = run(opened, &snapshot, &mut breaking, &request, Mode::Apply).await;
            drop(breaking);
            match done {
                Err(error) => {
                    assert_eq!(error.to_string(), "broken on purpose");
                    assert_eq!(live.dump(), before, "broken at statement {at}");
                }
                Ok(done) => {
                    assert!(done.applied && at > 8, "{at} statements");
                    break;
                }
            }
            at += 1;
            assert!(at < 1000, "more than 1,000 statements");
        }
        println!("{at} statements of {}", live.url());
        assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
    }
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
    for yard in Yard::all() {
        for (nth, (sql, wanted)) in cases.iter().enumerate() {
            let stage = Stage::new().await;
            let live = yard.place(&stage, &format!("undelete_conflict_{nth}"));
            scene::make(&live);
            let request = asking(&live, "accounts", &["7"]);
            let conflicts = conflicts_of(&stage, sql, &request, &live).await;
            let told = |line: &String| line.trim_start_matches("public.").contains(wanted);
            assert!(conflicts.iter().any(told), "{}: {conflicts:#?}", live.url());
        }
    }
}

/// A live database that loses its connection just after the commit took effect.
struct Losing(Box<dyn Live>);

#[async_trait]
impl Live for Losing {
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure> {
        self.0.begin(purpose).await
    }
    fn triggers(&self, table: usize) -> &[String] {
        self.0.triggers(table)
    }
    fn fires_triggers(&self) -> bool {
        self.0.fires_triggers()
    }
    fn checks_references(&self) -> bool {
        self.0.checks_references()
    }
    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure> {
        self.0.look_up(lookup).await
    }
    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure> {
        self.0.write(change).await
    }
    fn render(&self, change: &Change) -> String {
        self.0.render(change)
    }
    fn frame(&self, tables: &[usize]) -> (Vec<String>, Vec<String>) {
        self.0.frame(tables)
    }
    async fn commit(&mut self) -> Result<(), AnyFailure> {
        self.0.commit().await?;
        Err(AnyFailure::new(
            Class::Unsettled,
            "the answer was lost",
            None,
        ))
    }
    async fn abandon(&mut self) -> Result<(), AnyFailure> {
        self.0.abandon().await
    }
}

/// Rows were in the database, and the ledger never heard of them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_commit_was_never_answered_are_in_the_ledger_after_the_next_run() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    scene::make(&live);
    let snapshot = backup(&stage.house, &live).await;
    live.sql(&delete_account(7));
    let request = asking(&live, "accounts", &["7"]);
    let opened = &stage.house.opened;
    let entries = async || {
        let catalog = opened.catalog().await.unwrap();
        let source = catalog.source(&snapshot.source).unwrap();
        source.head().unwrap().number
    };
    let before = entries().await;
    let inner = open::live(&live.url(), &SourceOptions::default()).unwrap();
    let mut losing = Losing(inner);
    let lost = run(opened, &snapshot, &mut losing, &request, Mode::Apply).await;
    assert_eq!(lost.unwrap_err().class(), Class::Unsettled);
    assert_eq!(entries().await, before);
    assert_eq!(opened.state.names("owed").unwrap().len(), 1);
    // One that cannot be read is no entry.
    std::fs::write(opened.state.path("owed/rubbish"), b"rubbish").unwrap();
    let again = undelete(&stage.house, &snapshot, &live, &request, Mode::Plan)
        .await
        .unwrap();
    assert!(again.plan.changes.is_empty(), "it was written after all");
    assert_eq!(entries().await, before + 1);
    assert!(opened.state.names("owed").unwrap().is_empty());
    undelete(&stage.house, &snapshot, &live, &request, Mode::Plan)
        .await
        .unwrap();
    assert_eq!(entries().await, before + 1, "once");
}

/// A parent that is neither live nor in the snapshot, which only a server without its checks has.
#[tokio::test(flavor = "multi_thread")]
async fn parent_that_is_nowhere_is_a_conflict() {
    let stage = Stage::new().await;
    let server = mysql_server::shared();
    let live = Yard::Mysql(server).place(&stage, "undelete_nowhere");
    live.sql(
        "CREATE TABLE people(id INT PRIMARY KEY);
         CREATE TABLE calls(id INT PRIMARY KEY, who INT NOT NULL, FOREIGN KEY (who) REFERENCES people(id));
         SET foreign_key_checks = 0; INSERT INTO calls VALUES (1, 5), (2, 6); SET foreign_key_checks = 1;",
    );
    let request = asking(&live, "calls", &["1"]);
    let conflicts = conflicts_of(&stage, "DELETE FROM calls WHERE id = 1", &request, &live).await;
    assert_eq!(
        conflicts,
        ["calls 1: its who refers to a row of people that is neither live nor in the snapshot"]
    );
}

const PEOPLE: &str = "CREATE TABLE people(id INTEGER PRIMARY KEY, name VARCHAR(20), phone VARCHAR(20), note VARCHAR(20));";

#[tokio::test(flavor = "multi_thread")]
async fn overwritten_columns_are_put_back_and_later_edits_stay() {
    for yard in Yard::all() {
        let stage = Stage::new().await;
        let live = yard.place(&stage, "undelete_overwritten");
        let expected = yard.place(&stage, "undelete_expected");
        let now = |rows: &str| {
            expected.sql(&format!(
                "DELETE FROM people; INSERT INTO people VALUES {rows}"
            ));
            differences(&expected.dump(), &live.dump())
        };
        expected.sql(PEOPLE);
        live.sql(PEOPLE);
        live.sql("INSERT INTO people VALUES (1,'a','+1','n'), (2,'b','+2','n'), (3,'c','+3','n'), (4,'d','+4','n')");
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
        let table = what.table.trim_start_matches("public.");
        assert_eq!((table, what.key.as_str()), ("people", "2"));
        let both = "was +2, became 0, and was edited since: mine";
        assert!(what.what.contains(both), "{}", what.what);
        request.on_conflict = OnConflict::Skip;
        let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
            .await
            .unwrap();
        assert!(done.applied);
        let left = now("(1,'later','+1','n'), (2,'b','mine','n'), (3,'c','+3','n')");
        assert!(left.is_empty(), "{}: {left:?}", live.url());
        // Without the later snapshot, everything that differs is damage.
        request.overwritten = Overwritten::PutBack;
        request.choices[0].keys = vec!["1".into(), "2".into(), "4".into()];
        undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
            .await
            .unwrap();
        let left = now("(1,'a','+1','n'), (2,'b','+2','n'), (3,'c','+3','n'), (4,'d','+4','n')");
        assert!(left.is_empty(), "{}: {left:?}", live.url());
    }
}

/// Tables of SuiteCRM: metadata/accounts_contactsMetaData.php, email_addressesMetaData.php (0bfc8d9a)
/// and modules/*/vardefs.php of salesagility/SuiteCRM.
fn suitecrm(yard: &Yard) -> String {
    let (id, flag, time) = match yard {
        Yard::Mysql(_) => ("CHAR(36)", "TINYINT(1)", "DATETIME"),
        Yard::Postgres(_) => ("VARCHAR(36)", "SMALLINT", "TIMESTAMP"),
        Yard::Sqlite => ("CHAR(36)", "TINYINT(1)", "DATETIME"),
    };
    let script = "
    CREATE TABLE accounts(id {id} PRIMARY KEY NOT NULL, name VARCHAR(150), date_modified {time}, deleted {flag} DEFAULT 0, parent_id {id});
    CREATE TABLE contacts(id {id} PRIMARY KEY NOT NULL, last_name VARCHAR(100), deleted {flag} DEFAULT 0, reports_to_id {id});
    CREATE TABLE accounts_contacts(id VARCHAR(36) PRIMARY KEY NOT NULL, contact_id VARCHAR(36), account_id VARCHAR(36), date_modified {time}, deleted {flag} DEFAULT 0);
    CREATE TABLE accounts_cstm(id_c {id} PRIMARY KEY NOT NULL, color_c VARCHAR(100));
    CREATE TABLE notes(id {id} PRIMARY KEY NOT NULL, name VARCHAR(255), parent_type VARCHAR(255), parent_id {id}, contact_id {id}, deleted {flag} DEFAULT 0);
    CREATE TABLE email_addresses(id {id} PRIMARY KEY NOT NULL, email_address VARCHAR(255), deleted {flag} DEFAULT 0);
    CREATE TABLE email_addr_bean_rel(id {id} PRIMARY KEY NOT NULL, email_address_id {id} NOT NULL, bean_id {id} NOT NULL, bean_module VARCHAR(100), primary_address {flag} DEFAULT 0, deleted {flag} DEFAULT 0);
    CREATE TABLE acl_roles(id {id} PRIMARY KEY NOT NULL, name VARCHAR(150), deleted {flag} DEFAULT 0);
    INSERT INTO accounts VALUES ('a1','Acme','2026-01-01 00:00:00',0,NULL), ('a2','Other','2026-01-01 00:00:00',0,'a1');
    INSERT INTO accounts_cstm VALUES ('a1','red'), ('a2','blue');
    INSERT INTO contacts VALUES ('c1','Ann',0,''), ('c2','Bob',0,'c1');
    INSERT INTO accounts_contacts VALUES ('j1','c1','a1','2026-01-01 00:00:00',0), ('j2','c2','a2','2026-01-01 00:00:00',0), ('j3','c2','a1','2026-01-01 00:00:00',1);
    INSERT INTO notes VALUES ('n1','on acme','Accounts','a1',NULL,0), ('n2','other','Accounts','a2','',0);
    INSERT INTO email_addresses VALUES ('e1','acme@example.org',0);
    INSERT INTO email_addr_bean_rel VALUES ('b1','e1','a1','Accounts',1,0);";
    let script = script.replace("{id}", id).replace("{flag}", flag);
    script.replace("{time}", time)
}

/// The record is marked as deleted, and so are its links; only what hangs on it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn softly_deleted_account_of_suitecrm_comes_back_by_its_flags() {
    for yard in Yard::all() {
        let stage = Stage::new().await;
        let live = yard.place(&stage, "undelete_suitecrm");
        live.sql(&suitecrm(&yard));
        let whole = live.dump();
        let snapshot = backup(&stage.house, &live).await;
        live.sql(
            "UPDATE accounts SET deleted = 1, date_modified = '2026-11-22 10:00:00' WHERE id = 'a1';
             UPDATE accounts_contacts SET deleted = 1 WHERE account_id = 'a1';
             UPDATE email_addr_bean_rel SET deleted = 1 WHERE bean_id = 'a1';
             DELETE FROM notes WHERE id = 'n1';",
        );
        let manifest = stage.house.opened.manifest(&snapshot).await.unwrap();
        let tables = manifest.tables.iter().map(|one| one.table.clone());
        let tables: Vec<_> = tables.collect();
        let mut request = asking(&live, "accounts", &["a1"]);
        request.relations = choose(&tables, &Own::default());
        assert_eq!(request.relations.lists, ["SuiteCRM"]);
        let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
            .await
            .unwrap();
        assert!(done.applied, "{:?}", done.plan);
        // Only what the application itself noted differs, on either side.
        let left = differences(&whole, &live.dump());
        assert_eq!(left.len(), 2, "{}: {left:?}", live.url());
        let own = |line: &String| line[1..].starts_with("accounts ");
        assert!(left.iter().all(own), "{left:?}");
        let noted = |note: &String| note.contains("date_modified changed since");
        assert!(done.plan.notes.iter().any(noted), "{:?}", done.plan.notes);
    }
}

/// How many rows of the table `big` its server has read so far.
fn rows_read(place: &Place) -> u64 {
    let told = match place {
        Place::Postgres(server, database) => server.ask(
            database,
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'big'",
        ),
        Place::Mysql(server, database) => server.sql(
            database,
            "SELECT COALESCE(SUM(rows_read), 0) FROM information_schema.table_statistics \
             WHERE table_schema = DATABASE() AND table_name = 'big'",
        ),
        Place::Sqlite(_) => unreachable!("only servers count"),
    };
    told.trim().parse().unwrap()
}

/// A key must not cost a server the reading of its table.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_looked_up_by_index_in_servers() {
    for yard in Yard::all() {
        let fill = match yard {
            Yard::Sqlite => continue,
            Yard::Postgres(_) => {
                "INSERT INTO big SELECT 'k' || i, 'w' FROM generate_series(1, 5000) i; ANALYZE big"
            }
            Yard::Mysql(_) => {
                "SET GLOBAL userstat = 1; INSERT INTO big SELECT CONCAT('k', seq), 'w' FROM seq_1_to_5000"
            }
        };
        let stage = Stage::new().await;
        let live = yard.place(&stage, "undelete_index");
        live.sql("CREATE TABLE big(id VARCHAR(36) PRIMARY KEY, word VARCHAR(20))");
        live.sql(fill);
        let whole = live.dump();
        let snapshot = backup(&stage.house, &live).await;
        live.sql("DELETE FROM big WHERE id = 'k77'");
        // PostgreSQL counts when a session ends, which takes a moment.
        let settled = async || {
            let mut before = rows_read(&live);
            loop {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let now = rows_read(&live);
                if now == before {
                    return now;
                }
                before = now;
            }
        };
        let before = settled().await;
        let request = asking(&live, "big", &["k77"]);
        let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply).await;
        assert!(done.unwrap().applied);
        let read = settled().await - before;
        assert!(
            read < 100,
            "{}: {read} rows were read for one key",
            live.url()
        );
        assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
    }
}

/// A role that may read everything and write nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_write_nothing_is_written_and_the_refusal_says_so() {
    for yard in Yard::all() {
        let stage = Stage::new().await;
        let live = yard.place(&stage, "undelete_rights");
        let url = match &live {
            Place::Sqlite(_) => continue,
            Place::Postgres(server, database) => {
                live.sql("CREATE ROLE undelete_looker LOGIN; CREATE TABLE t(id INTEGER PRIMARY KEY, x VARCHAR(9)); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
                live.sql("GRANT SELECT ON t TO undelete_looker");
                server.url_as(database, "undelete_looker")
            }
            Place::Mysql(server, database) => {
                live.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x VARCHAR(9)); INSERT INTO t VALUES (1, 'a'), (2, 'b');
                          CREATE OR REPLACE USER undelete_looker@localhost; GRANT SELECT, SHOW VIEW, TRIGGER ON undelete_rights.* TO undelete_looker@localhost");
                server.url_as("undelete_looker", database)
            }
        };
        let snapshot = backup(&stage.house, &live).await;
        live.sql("DELETE FROM t WHERE id = 1");
        let before = live.dump();
        let request = asking(&live, "t", &["1"]);
        let mut looker = open::live(&url, &SourceOptions::default()).unwrap();
        let opened = &stage.house.opened;
        let refused = run(opened, &snapshot, looker.as_mut(), &request, Mode::Apply).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.class(), Class::Denied, "{url}: {refused}");
        assert_eq!(live.dump(), before);
        assert!(opened.state.names("owed").unwrap().is_empty());
    }
}
