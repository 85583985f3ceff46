//! A MySQL or MariaDB database, read at one instant by several connections.
//!
//! No server shares a snapshot between connections, so all of them begin theirs while a global
//! read lock, held for milliseconds, keeps every commit out. Where the right to that lock is
//! missing, or somebody holds it up, one connection reads alone, and the facts say so. Invariant:
//! the definitions were the same before and after that instant, and again when a table is read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::error::Error;
use super::inspect::{self, Versions};
use super::rights;
use super::rows::{self, Reading};
use super::session::{Purpose, Session, number, text};
use super::structure::{self, Definitions, Listed, without_auto_increment};
use crate::failure::AnyFailure;
use crate::planted;
use crate::row::schema::{Engine, Structure, Table, TableName};
use crate::source::address::{ServerUrl, SourceOptions};
use crate::source::{Order, PieceSender, Source};

/// How often the beginning is tried again when definitions change under it.
const BEGIN_ATTEMPTS_MAX: u32 = 3;
/// How often the global read lock is asked for; each asking waits 5 s at most.
const LOCK_ATTEMPTS_MAX: u32 = 3;
/// Engines whose tables a transaction sees at one instant.
const SNAPSHOT_ENGINES: [&str; 3] = ["InnoDB", "ROCKSDB", "TokuDB"];
/// Engines whose rows lie elsewhere; only their structure is captured.
const ELSEWHERE_ENGINES: [&str; 6] = [
    "MRG_MyISAM",
    "FEDERATED",
    "CONNECT",
    "SPIDER",
    "BLACKHOLE",
    "SPHINX",
];

/// A source on MySQL or MariaDB.
pub struct Capture {
    url: ServerUrl,
    options: SourceOptions,
    snapshot: Option<Snapshot>,
}

/// The connections of one database snapshot.
struct Snapshot {
    database: String,
    /// Sessions that read tables, when they are not at it.
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
    /// One more session, for the slices of large cells.
    slicer: Option<tokio::sync::Mutex<Session>>,
    readers: usize,
    /// What each table looked like at the instant.
    made: BTreeMap<String, (String, String)>,
    outside: Vec<String>,
}

/// How the connections came to see the same instant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consistency {
    /// They all began under the global read lock.
    Locked,
    /// There is only one, since the right is missing.
    AloneWithoutRight,
    /// There is only one, since the lock was not to be had.
    AloneWithoutLock,
    /// There is only one, since the server gave no second.
    AloneWithoutConnections,
}

/// What one attempt to begin gave.
struct Begun {
    control: Session,
    readers: Vec<Session>,
    consistency: Consistency,
    definitions: Definitions,
    listed: Vec<Listed>,
}

impl Capture {
    /// The database at `url`; nothing is connected yet.
    pub fn new(url: ServerUrl, options: SourceOptions) -> Self {
        Capture {
            url,
            options,
            snapshot: None,
        }
    }

    async fn connect(&self) -> Result<Session, Error> {
        Session::connect(&self.url, Some(&self.url.database()), Purpose::Reading).await
    }

    fn leaves_out(&self, name: &str) -> bool {
        self.options.excludes(&table_name(name))
    }

    async fn definitions(&self, session: &mut Session) -> Result<Definitions, Error> {
        let read = structure::read(session, &|name| self.leaves_out(name)).await;
        read.map_err(|error| match error.is_changed() {
            true => Error::Changed {
                object: "a definition".into(),
            },
            false => error,
        })
    }

    /// One attempt to begin; the session comes back where definitions changed meanwhile.
    async fn attempt(&self, mut control: Session) -> Result<Result<Begun, Session>, Error> {
        let before = self.definitions(&mut control).await?;
        let listed = structure::list(&mut control).await?;
        // Connected before the lock is taken, so that it is held for a few answers only. A server
        // short of connections gives fewer; one is enough.
        let mut readers = self.open_readers().await;
        let consistency = match readers.is_empty() {
            true => Consistency::AloneWithoutConnections,
            false => lock(&mut control).await?,
        };
        let mut started = start(&mut control).await;
        if consistency == Consistency::Locked {
            for session in &mut readers {
                if planted::is("two database snapshots stitched") {
                    control.run("UNLOCK TABLES", "unlocking").await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                started = started.and(start(session).await);
            }
            control.run("UNLOCK TABLES", "unlocking").await?;
            unlock_instance(&mut control).await;
        } else {
            close_all(&mut readers).await;
        }
        started?;
        let definitions = self.definitions(&mut control).await?;
        let again = structure::list(&mut control).await?;
        // Reading a sequence locks its definition until here.
        control
            .run("ROLLBACK TO SAVEPOINT rowvault", "unlocking")
            .await?;
        if definitions.without_counters() != before.without_counters() || !alike(&listed, &again) {
            close_all(&mut readers).await;
            control.run("ROLLBACK", "starting again").await?;
            return Ok(Err(control));
        }
        Ok(Ok(Begun {
            control,
            readers,
            consistency,
            definitions,
            listed: again,
        }))
    }

    async fn open_readers(&self) -> Vec<Session> {
        let mut readers = Vec::new();
        for _ in 0..self.options.parallel.max(1) {
            let Ok(mut session) = self.connect().await else {
                break;
            };
            let raw = "SET character_set_results = NULL";
            if session.run(raw, "its settings").await.is_ok() {
                readers.push(session);
            }
        }
        readers
    }

    async fn begin_snapshot(&mut self) -> Result<Structure, Error> {
        let mut control = self.connect().await?;
        rights::check(&mut control, &self.url.database()).await?;
        for attempt in 1.. {
            match self.attempt(control).await? {
                Ok(begun) => return self.finish_begin(begun).await,
                Err(session) if attempt < BEGIN_ATTEMPTS_MAX => control = session,
                Err(_) => break,
            }
        }
        Err(Error::Changed {
            object: "the structure of the database".into(),
        })
    }

    async fn finish_begin(&mut self, begun: Begun) -> Result<Structure, Error> {
        let Begun {
            mut control,
            mut readers,
            consistency,
            definitions,
            mut listed,
        } = begun;
        listed.retain(|object| !self.leaves_out(&object.name));
        let mut facts = facts(&mut control).await?;
        let versions = if control.server().is_mariadb_since((10, 11, 0)) {
            Versions::All
        } else {
            Versions::Current
        };
        let mut tables = inspect::tables(&mut control, &listed, versions).await?;
        inspect::neutralise(&mut tables, &definitions.database);
        let mut warnings = Vec::new();
        let outside = self.sort_out(&mut tables, &mut warnings);
        warn_of(&definitions, &mut warnings);
        let questions = &self.options.questions;
        super::answers::gather(&mut control, questions, &mut facts, &mut warnings).await?;
        facts.insert("consistency".into(), consistency.fact().into());
        if consistency != Consistency::Locked {
            warnings.push(format!("read by {}", consistency.fact()));
        }
        facts.insert("tables_outside_snapshot".into(), outside.join(", "));
        facts.retain(|_, value| !value.is_empty());
        let made = made(&definitions, &listed);
        let slicer = if readers.is_empty() {
            control
                .run("SET character_set_results = NULL", "its settings")
                .await?;
            readers.push(control);
            None
        } else {
            Some(tokio::sync::Mutex::new(control))
        };
        self.snapshot = Some(Snapshot {
            database: definitions.database.clone(),
            permits: Semaphore::new(readers.len()),
            readers: readers.len(),
            idle: Mutex::new(readers),
            slicer,
            made,
            outside,
        });
        Ok(Structure {
            engine: Engine::Mysql,
            tables,
            parts: vec![definitions.to_part()],
            facts,
            warnings,
        })
    }

    /// Decides which tables give rows, and returns those outside the database snapshot.
    fn sort_out(&self, tables: &mut [Table], warnings: &mut Vec<String>) -> Vec<String> {
        let mut outside = Vec::new();
        for table in tables {
            let engine = table.facts.get("engine").cloned().unwrap_or_default();
            let is = |one: &str| one.eq_ignore_ascii_case(&engine);
            if self.options.excludes_data(&table.name) {
                table.with_rows = false;
            } else if ELSEWHERE_ENGINES.iter().any(|one| is(one)) {
                table.with_rows = false;
                warnings.push(format!(
                    "table {}: only its structure is captured, since the rows of engine {engine} lie elsewhere",
                    table.name
                ));
            } else if !SNAPSHOT_ENGINES.iter().any(|one| is(one)) {
                outside.push(table.name.name.clone());
            }
            if table.facts.contains_key("system_versioned")
                && !table.facts.contains_key(inspect::HISTORY)
            {
                warnings.push(format!(
                    "table {}: only what holds now is captured, its history cannot be written back",
                    table.name
                ));
            }
        }
        if !outside.is_empty() {
            warnings.push(format!(
                "outside the snapshot's instant, since their engine has no transactions: {}",
                outside.join(", ")
            ));
        }
        outside
    }
}

impl Consistency {
    /// How it was, as a fact of the capture.
    fn fact(self) -> &'static str {
        match self {
            Consistency::Locked => "several connections under a global read lock",
            Consistency::AloneWithoutRight => "one connection, since the right RELOAD is missing",
            Consistency::AloneWithoutLock => {
                "one connection, since the global read lock was held up"
            }
            Consistency::AloneWithoutConnections => {
                "one connection, since the server gave no second"
            }
        }
    }
}

fn table_name(name: &str) -> TableName {
    TableName {
        schema: None,
        name: name.to_owned(),
    }
}

/// Whether two lists name the same tables, whatever their counters say.
fn alike(one: &[Listed], other: &[Listed]) -> bool {
    let bare = |list: &[Listed]| -> Vec<Listed> {
        let without = |object: &Listed| Listed {
            auto_increment: None,
            ..object.clone()
        };
        list.iter().map(without).collect()
    };
    bare(one) == bare(other)
}

fn made(definitions: &Definitions, listed: &[Listed]) -> BTreeMap<String, (String, String)> {
    let time = |name: &str| {
        let object = listed.iter().find(|object| object.name == name);
        object.map(|object| object.made.clone()).unwrap_or_default()
    };
    let tables = definitions.tables.iter();
    tables
        .map(|table| {
            let sql = without_auto_increment(&table.sql);
            (table.name.clone(), (time(&table.name), sql))
        })
        .collect()
}

fn warn_of(definitions: &Definitions, warnings: &mut Vec<String>) {
    for program in &definitions.programs {
        if program.broken {
            warnings.push(format!(
                "view {}: the server itself cannot open it; its definition is captured",
                program.name
            ));
        }
    }
}

/// Takes the global read lock.
async fn lock(session: &mut Session) -> Result<Consistency, Error> {
    session
        .run("SET SESSION lock_wait_timeout = 5", "its settings")
        .await?;
    if session.server().is_mysql_since((8, 0, 0)) {
        // Keeps DDL out for as long as the structure is read; not everybody may.
        let _ = session.run("LOCK INSTANCE FOR BACKUP", "locking").await;
    }
    let mut found = Consistency::AloneWithoutLock;
    for attempt in 1..=LOCK_ATTEMPTS_MAX {
        match session
            .run("FLUSH TABLES WITH READ LOCK", "taking the global read lock")
            .await
        {
            Ok(()) => {
                found = Consistency::Locked;
                break;
            }
            Err(error) if error.is_denied() => {
                found = Consistency::AloneWithoutRight;
                break;
            }
            Err(Error::Refused { .. }) if attempt < LOCK_ATTEMPTS_MAX => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    session
        .run("SET SESSION lock_wait_timeout = 60", "its settings")
        .await?;
    Ok(found)
}

async fn unlock_instance(session: &mut Session) {
    if session.server().is_mysql_since((8, 0, 0)) {
        // Not held where the right was missing.
        let _ = session.run("UNLOCK INSTANCE", "unlocking").await;
    }
}

async fn close_all(sessions: &mut Vec<Session>) {
    for session in sessions.drain(..) {
        session.close().await;
    }
}

/// Starts the database snapshot of one session.
async fn start(session: &mut Session) -> Result<(), Error> {
    let doing = "starting the snapshot";
    session
        .run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", doing)
        .await?;
    session
        .run("START TRANSACTION WITH CONSISTENT SNAPSHOT", doing)
        .await?;
    // Going back to here gives locks on definitions free, and keeps the snapshot.
    session.run("SAVEPOINT rowvault", doing).await
}

async fn facts(session: &mut Session) -> Result<BTreeMap<String, String>, Error> {
    let mut facts = BTreeMap::from([
        ("flavour".to_owned(), session.server().flavour().to_owned()),
        ("server_version".to_owned(), session.server().text.clone()),
    ]);
    let sql = "SELECT @@hostname, @@port, @@server_id, @@lower_case_table_names, \
               @@character_set_database, @@collation_database, DATABASE()";
    let answer = session.one(sql, "reading the server's settings").await?;
    for (at, name) in [
        "server_host",
        "server_port",
        "server_id",
        "lower_case_table_names",
        "charset",
        "collation",
        "database",
    ]
    .into_iter()
    .enumerate()
    {
        facts.insert(name.to_owned(), text(&answer, at));
    }
    if session.server().mariadb {
        let answer = session
            .one("SELECT @@gtid_current_pos", "reading the position")
            .await?;
        facts.insert("gtid_position".into(), text(&answer, 0));
    }
    Ok(facts)
}

impl Snapshot {
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(
        &self,
        session: &mut Session,
        table: &Table,
        order: Order,
        sender: &PieceSender,
    ) -> Result<u64, Error> {
        let doing = format!("reading table {}", table.name);
        let reading = Reading {
            database: &self.database,
            table,
            order,
            rows: sender,
            stands_still: !self.outside.contains(&table.name.name),
            savepoint: true,
        };
        let read = rows::read(session, self.slicer.as_ref(), &reading).await?;
        // The lock on the table's definition is held from the first row on: what it is now, it
        // was while it was read.
        self.check_unchanged(session, table).await?;
        // Gives that lock back, so that a long backup does not hold up DDL on every table.
        session
            .run("ROLLBACK TO SAVEPOINT rowvault", &doing)
            .await?;
        Ok(read)
    }

    async fn check_unchanged(&self, session: &mut Session, table: &Table) -> Result<(), Error> {
        let name = &table.name.name;
        let changed = || Error::Changed {
            object: format!("table {name}"),
        };
        let sql = structure::table_sql(session, name).await?;
        let listed = structure::list_one(session, name).await?;
        match (self.made.get(name), listed) {
            (Some((made, as_made)), Some(now))
                if *made == now.made && *as_made == without_auto_increment(&sql) =>
            {
                Ok(())
            }
            _ => Err(changed()),
        }
    }
}

/// Stops what the session is still being sent, and makes it fit for the next question.
async fn stop(url: &ServerUrl, session: &mut Session) -> Result<(), Error> {
    let kill = format!("KILL QUERY {}", session.id());
    if let Ok(mut other) = Session::connect(url, None, Purpose::Reading).await {
        // If it is over already, there is nothing to stop.
        let _ = other.run(&kill, "stopping a statement").await;
        other.close().await;
    }
    let mut last = Ok(());
    for _ in 0..3 {
        last = session
            .run("ROLLBACK TO SAVEPOINT rowvault", "stopping")
            .await;
        if !matches!(&last, Err(Error::Refused { .. })) {
            break;
        }
    }
    last
}

#[async_trait]
impl Source for Capture {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        self.snapshot = None;
        Ok(self.begin_snapshot().await?)
    }

    async fn read(
        &self,
        table: &Table,
        order: Order,
        rows: PieceSender,
    ) -> Result<u64, AnyFailure> {
        let snapshot = self.snapshot.as_ref().ok_or(Error::OutOfOrder {
            what: "rows were asked for before the snapshot began",
        })?;
        let lost = || Error::Lost {
            doing: format!("reading table {}", table.name),
            what: "a connection of this snapshot was lost before".into(),
        };
        let _permit = snapshot.permits.acquire().await.map_err(|_| lost())?;
        let mut session = snapshot.idle().pop().ok_or_else(lost)?;
        let read = snapshot.read(&mut session, table, order, &rows).await;
        let fit = match &read {
            Ok(_) => true,
            Err(Error::ReceiverGone { .. }) => stop(&self.url, &mut session).await.is_ok(),
            Err(_) => false,
        };
        if fit {
            snapshot.idle().push(session);
        }
        Ok(read?)
    }

    fn parallel(&self) -> usize {
        let begun = self.snapshot.as_ref().map(|snapshot| snapshot.readers);
        begun.unwrap_or(self.options.parallel.max(1))
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        let Some(snapshot) = self.snapshot.take() else {
            return Ok(());
        };
        let mut sessions = std::mem::take(&mut *snapshot.idle());
        let complete = sessions.len() == snapshot.readers;
        sessions.extend(snapshot.slicer.map(tokio::sync::Mutex::into_inner));
        let mut held = Ok(());
        for mut session in sessions {
            if let Err(error) = still_in_transaction(&mut session).await {
                held = Err(error);
            }
            session.close().await;
        }
        held?;
        if !complete {
            return Err(Error::Lost {
                doing: "ending the snapshot".into(),
                what: "a connection of it was lost before".into(),
            }
            .into());
        }
        Ok(())
    }
}

/// That the server did not end the transaction behind our back.
async fn still_in_transaction(session: &mut Session) -> Result<(), Error> {
    let doing = "ending the snapshot";
    if !session.server().mariadb {
        return session.run("DO 0", doing).await;
    }
    let answer = session.one("SELECT @@in_transaction", doing).await?;
    match number(&answer, 0) {
        Some(1) => Ok(()),
        _ => Err(Error::Lost {
            doing: doing.into(),
            what: "the server ended its transaction".into(),
        }),
    }
}
