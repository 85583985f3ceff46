//! A PostgreSQL database as a source.
//!
//! One connection takes a lock on every table, then the snapshot, and holds both to the end;
//! the others join that snapshot by its exported name and are checked to stand in it. Never more
//! than `parallel` + 2 connections (the archive's is the last), never a lock beyond ACCESS SHARE.
//! Invariant: rows, structure and large cells all come from that one snapshot.

mod prover;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};

use super::catalog::{self, Found};
use super::client::{Client, LOCK_WAIT_MS};
use super::error::Error;
use super::proof::Proof;
use super::structure::{self, ARCHIVE};
use super::{answers, facts, quote, ranges, rows, state, tools};
use crate::failure::{AnyFailure, Class};
use crate::planted;
use crate::row::schema::{Engine, Structure, StructurePart, Table, TableName};
use crate::source::address::{ServerUrl, SourceOptions, SourceUrl};
use crate::source::{Order, PieceSender, Prover, Source};

/// The oldest server that is read.
pub const MAJOR_MIN: u32 = 14;
/// How often tables may change, or their locks be wanted by others, before we give up.
const ATTEMPTS_MAX: u32 = 20;
/// The pause before another attempt, times the attempts made.
const PAUSE: Duration = Duration::from_millis(50);
/// Up to so many tables each connection locks all of them at once; with more, the server's
/// lock table might not hold it, and each table is locked when it is read.
const TABLES_LOCKED_BY_ALL: usize = 1000;
/// How long a lock is waited for while we hold it elsewhere already: what stands in the way is
/// then somebody who waits for us.
const SHORT_WAIT_MS: u32 = 500;
/// How many tables one LOCK names.
const TABLES_A_LOCK: usize = 500;

/// The fact that says why a table's rows are not captured.
const ROWS_LEFT_OUT: &str = "rows_left_out";

/// The PostgreSQL database at `url`, to be read.
///
/// # Errors
/// Invalid: the address is another engine's.
pub fn source(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Source>, AnyFailure> {
    match url {
        SourceUrl::Postgres(server) => Ok(Box::new(Capture {
            server: server.clone(),
            options: options.clone(),
            begun: None,
        })),
        _ => Err(Error::stated(Class::Invalid, "not a PostgreSQL address", "").into()),
    }
}

struct Capture {
    server: ServerUrl,
    options: SourceOptions,
    begun: Option<Begun>,
}

/// A running capture.
struct Begun {
    /// Holds locks and snapshot; reads slices of large cells.
    main: Mutex<Client>,
    /// The exported snapshot's name.
    snapshot: String,
    /// What [`IDENTITY`] gives everywhere in this snapshot.
    identity: String,
    encoding: String,
    idle: SyncMutex<Vec<Client>>,
    slots: Semaphore,
    /// Server processes whose statement nobody reads any more.
    strays: Arc<SyncMutex<Vec<i32>>>,
    proof: Proof,
}

/// Tells this snapshot of this run of this server from every other.
const IDENTITY: &str = "SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_current_snapshot(), \
 pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database(), \
 pg_catalog.pg_is_in_recovery())";

/// Numbers and names of the tables that are locked.
type Locked = Vec<(String, TableName)>;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

#[async_trait]
impl Source for Capture {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        self.begun = None;
        let mut client = Client::connect(&self.server).await?;
        let major = major_version(&mut client).await;
        client.close().await;
        let major = major?;
        for attempt in 1.. {
            match self.attempt(major).await {
                Ok((structure, begun)) => {
                    self.begun = Some(begun);
                    return Ok(structure);
                }
                // All locks are given back first, so that whoever waits for us goes on.
                Err(error) if attempt < ATTEMPTS_MAX && contested(&error) => {
                    tokio::time::sleep(PAUSE * attempt).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(not_begun().into())
    }

    async fn read(&self, table: &Table, order: Order, out: PieceSender) -> Result<u64, AnyFailure> {
        let begun = self.begun.as_ref().ok_or_else(not_begun)?;
        let asked = Asked {
            server: &self.server,
            table,
            order,
            ranged_bytes: self.options.ranged_bytes,
            parallel: self.parallel(),
        };
        Ok(begun.read(&asked, &out).await?)
    }

    fn parallel(&self) -> usize {
        self.options.parallel.clamp(1, 64)
    }

    fn prover(&self) -> Option<&dyn Prover> {
        Some(self)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        let begun = self.begun.take().ok_or_else(not_begun)?;
        Ok(begun.end().await?)
    }
}

fn not_begun() -> Error {
    Error::stated(Class::Bug, "the capture has not begun", "")
}

/// A table that is asked for.
struct Asked<'a> {
    server: &'a ServerUrl,
    table: &'a Table,
    order: Order,
    /// From this size on it may be read in key ranges.
    ranged_bytes: u64,
    parallel: usize,
}

impl Begun {
    async fn read(&self, asked: &Asked<'_>, out: &PieceSender) -> Result<u64, Error> {
        let _slot = self.slots.acquire().await.map_err(|_| not_begun())?;
        self.cancel_strays().await?;
        let read = self.read_table(asked, out).await;
        if read.is_err() {
            // The first error is the one to tell.
            let _ = self.cancel_strays().await;
        }
        read
    }

    async fn read_table(&self, asked: &Asked<'_>, out: &PieceSender) -> Result<u64, Error> {
        let (mut client, stray) = self.held(asked.server).await?;
        let table = asked.table;
        let candidates = rows::candidates(&mut client, table).await?;
        let sliced = !candidates.is_empty();
        let plan = match asked.order {
            Order::Physical => None,
            _ => {
                let (bytes, parallel) = (asked.ranged_bytes, asked.parallel);
                let plan = ranges::plan(&mut client, table, sliced, bytes, parallel).await?;
                Some(plan).filter(|plan| plan.ranges.len() > 1)
            }
        };
        self.give_back(client, stray);
        let came = match plan {
            None => self.read_range(asked, &candidates, None, out).await?,
            Some(plan) => {
                let reading = |range: usize, turn, pieces: PieceSender| {
                    let range = Some((&plan.ranges[range][..], turn));
                    let candidates = &candidates;
                    async move { self.read_range(asked, candidates, range, &pieces).await }
                };
                let stopped = || Error::Stopped {
                    table: table.name.to_string(),
                };
                ranges::join(&plan, &self.slots, out, stopped, reading).await?
            }
        };
        let (mut client, stray) = self.held(asked.server).await?;
        let counted = rows::check(&mut client, table, came).await?;
        self.give_back(client, stray);
        Ok(counted)
    }

    /// Reads rows over a connection of its own; one whose read failed is closed hard.
    async fn read_range(
        &self,
        asked: &Asked<'_>,
        candidates: &[usize],
        range: Option<(&str, rows::Turn)>,
        out: &PieceSender,
    ) -> Result<u64, Error> {
        let (mut client, stray) = self.held(asked.server).await?;
        let read = rows::Read {
            table: asked.table,
            order: asked.order,
            encoding: &self.encoding,
            side: &self.main,
            candidates,
            range,
            instead: None,
        };
        match rows::read(&mut client, &read, out).await {
            Ok(count) => {
                self.give_back(client, stray);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error)
            }
        }
    }

    /// A connection, and what remembers it where it is not given back.
    async fn held(&self, server: &ServerUrl) -> Result<(Client, Stray), Error> {
        let client = self.worker(server).await?;
        let stray = Stray {
            backend: Some(client.backend()),
            strays: self.strays.clone(),
        };
        Ok((client, stray))
    }

    fn give_back(&self, client: Client, mut stray: Stray) {
        stray.backend = None;
        self.idle().push(client);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that stands in the snapshot.
    async fn worker(&self, server: &ServerUrl) -> Result<Client, Error> {
        let waiting = self.idle().pop();
        if let Some(client) = waiting {
            return Ok(client);
        }
        let mut client = Client::connect(server).await?;
        client.run(BEGIN, "joining the snapshot").await?;
        self.join(&mut client).await?;
        Ok(client)
    }

    /// Makes `client`, whose transaction has begun, stand in the snapshot.
    async fn join(&self, client: &mut Client) -> Result<(), Error> {
        let doing = "joining the snapshot";
        let join = format!(
            "SET TRANSACTION SNAPSHOT {}",
            quote::literal(&self.snapshot)
        );
        client.run(&join, doing).await?;
        let identity = client.value(IDENTITY, doing).await?;
        match identity == self.identity {
            true => Ok(()),
            false => Err(Error::SnapshotLost {
                database: client.database().to_owned(),
                what: format!(
                    "another connection reached {identity:?} instead of {:?}",
                    self.identity
                ),
            }),
        }
    }

    async fn cancel_strays(&self) -> Result<(), Error> {
        let strays: Vec<i32> = {
            let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.drain(..).collect()
        };
        for backend in strays {
            self.main.lock().await.cancel(backend).await?;
        }
        Ok(())
    }

    async fn end(self) -> Result<(), Error> {
        let cancelled = self.cancel_strays().await;
        let idle: Vec<Client> = self.idle().drain(..).collect();
        for client in idle {
            client.close().await;
        }
        let mut main = self.main.into_inner();
        let lost = |what: String, database: &str| Error::SnapshotLost {
            database: database.to_owned(),
            what,
        };
        let identity = main.value(IDENTITY, "ending the snapshot").await;
        let identity = identity.and_then(|found| cancelled.map(|()| found));
        let outcome = match identity {
            Ok(found) if found == self.identity => main
                .run("COMMIT", "ending the snapshot")
                .await
                .map_err(|error| lost(error.to_string(), main.database())),
            Ok(found) => Err(lost(format!("it became {found:?}"), main.database())),
            Err(error) => Err(lost(error.to_string(), main.database())),
        };
        main.close().await;
        outcome
    }
}

/// Remembers a server process whose read was not finished, even where the future was dropped.
struct Stray {
    backend: Option<i32>,
    strays: Arc<SyncMutex<Vec<i32>>>,
}

impl Drop for Stray {
    fn drop(&mut self) {
        if let Some(backend) = self.backend {
            let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.push(backend);
        }
    }
}

impl Capture {
    /// Locks, takes the snapshot and reads the structure.
    async fn attempt(&self, major: u32) -> Result<(Structure, Begun), Error> {
        let mut main = Client::connect(&self.server).await?;
        let mut workers = Vec::new();
        for _ in 0..self.parallel() {
            workers.push(Client::connect(&self.server).await?);
        }
        let locked = self.wanted(&mut main).await?;
        self.lock_all(&mut main, &mut workers, &locked).await?;
        let export = "SELECT pg_catalog.pg_export_snapshot()";
        let snapshot = main.value(export, "exporting the snapshot").await?;
        if self.wanted(&mut main).await? != locked {
            return Err(Error::Contested {
                database: main.database().to_owned(),
            });
        }
        let identity = main.value(IDENTITY, "taking the snapshot").await?;
        let encoding = "SELECT pg_catalog.current_setting('server_encoding')";
        let encoding = main.value(encoding, "taking the snapshot").await?;
        let proof = Proof::read(&mut main).await?;
        let begun = Begun {
            main: Mutex::new(main),
            snapshot,
            identity,
            encoding,
            idle: SyncMutex::default(),
            slots: Semaphore::new(self.parallel()),
            strays: Arc::default(),
            proof,
        };
        for mut client in workers {
            begun.join(&mut client).await?;
            begun.idle().push(client);
        }
        let structure = self.structure(major, &begun).await?;
        Ok((structure, begun))
    }

    async fn structure(&self, major: u32, begun: &Begun) -> Result<Structure, Error> {
        let mut guard = begun.main.lock().await;
        let main = &mut *guard;
        let found = catalog::tables(main).await?;
        let mut facts = facts::read(main).await?;
        let kept = facts::dependents(main).await?;
        let mut warnings = Vec::new();
        answers::gather(main, &self.options.questions, &mut facts, &mut warnings).await?;
        let (mut tables, excluded) = self.choose(found, &kept, &facts, &mut warnings)?;
        let archive = self
            .dump(major, &begun.snapshot, &excluded, &mut facts, &mut warnings)
            .await?;
        let mut state = state::read(main, &self.options).await?;
        let left_out = tables
            .iter()
            .filter(|t| t.facts.contains_key(ROWS_LEFT_OUT));
        let left_out: Vec<TableName> = left_out.map(|t| t.name.clone()).collect();
        state.unchecked_keys = state::unchecked_keys(main, &left_out).await?;
        if !state.large_objects.is_empty() {
            tables.push(structure::large_objects());
        }
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(TableName::to_string).collect();
            facts.insert("excluded_tables".into(), names.join(", "));
        }
        let archive = StructurePart {
            name: ARCHIVE.into(),
            bytes: archive,
        };
        Ok(Structure {
            engine: Engine::Postgres,
            tables,
            parts: vec![archive, state.to_part()],
            facts,
            warnings,
        })
    }

    /// Begins the transactions and locks every table in them, before any has a snapshot: a
    /// TRUNCATE or a rewrite after the snapshot and before the lock would leave a table empty.
    /// Every connection locks, since somebody who waits for a strong lock lets no later reader
    /// pass.
    async fn lock_all(
        &self,
        main: &mut Client,
        workers: &mut [Client],
        tables: &[(String, TableName)],
    ) -> Result<(), Error> {
        for client in std::iter::once(&mut *main).chain(&mut *workers) {
            client.run(BEGIN, "beginning the snapshot").await?;
        }
        match lock(main, tables, LOCK_WAIT_MS).await {
            Err(error) if error.code() == "55P03" => {
                return Err(Error::stated(
                    Class::Busy,
                    format!(
                        "a table has been locked by others for {} s",
                        LOCK_WAIT_MS / 1000
                    ),
                    "another session holds a strong lock; try again when it has ended",
                ));
            }
            other => other?,
        }
        if tables.len() <= TABLES_LOCKED_BY_ALL {
            for client in workers {
                lock(client, tables, SHORT_WAIT_MS).await?;
            }
        }
        Ok(())
    }

    /// The tables to lock; an error where one of them may not be read.
    async fn wanted(&self, main: &mut Client) -> Result<Locked, Error> {
        let listed = catalog::lockable(main).await?;
        let wanted = listed
            .into_iter()
            .filter(|t| !self.options.excludes(&t.name));
        let (readable, denied): (Vec<_>, Vec<_>) = wanted.partition(|t| t.readable);
        if !denied.is_empty() {
            let names: Vec<String> = denied.iter().map(|t| t.name.to_string()).collect();
            return Err(state::unreadable("table", &names));
        }
        Ok(readable.into_iter().map(|t| (t.oid, t.name)).collect())
    }

    /// What is captured of each table, and which are left out altogether.
    fn choose(
        &self,
        found: Vec<Found>,
        kept: &BTreeMap<TableName, String>,
        facts: &BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<Table>, Vec<TableName>), Error> {
        let standby = facts
            .get("in_recovery")
            .is_some_and(|value| value == "true");
        let (mut tables, mut excluded, mut filtered) = (Vec::new(), Vec::new(), Vec::new());
        for Found {
            mut table,
            kind,
            unlogged,
            readable,
            filtered: hidden,
        } in found
        {
            let name = table.name.to_string();
            let without = |why: &str, table: &mut Table| {
                table.with_rows = false;
                table.facts.insert(ROWS_LEFT_OUT.into(), why.into());
            };
            if self.options.excludes(&table.name) {
                let Some(dependent) = kept.get(&table.name) else {
                    excluded.push(table.name);
                    continue;
                };
                warnings.push(format!(
                    "table {name} is excluded, but {dependent} needs it: its structure is kept"
                ));
                without("excluded", &mut table);
            } else if self.options.excludes_data(&table.name) {
                without("excluded", &mut table);
            } else if kind == 'r' && unlogged && standby {
                warnings.push(format!(
                    "unlogged table {name} has no rows on a standby: its structure is kept"
                ));
                without("unlogged on a standby", &mut table);
            } else if kind == 'r' && (hidden && !planted::is("row-level security on") || !readable)
            {
                filtered.push(name);
            }
            tables.push(table);
        }
        if !filtered.is_empty() {
            let kind = "every row (row-level security) of table";
            return Err(state::unreadable(kind, &filtered));
        }
        Ok((tables, excluded))
    }

    async fn dump(
        &self,
        major: u32,
        snapshot: &str,
        excluded: &[TableName],
        facts: &mut BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<u8>, Error> {
        let only_in = self.options.pg_bin_dir.as_deref();
        let tool = tools::find("pg_dump", major, major, only_in).await?;
        let connection = tools::Connection::new(&self.server)?;
        let mut arguments: Vec<String> = vec![
            "--format=custom".into(),
            "--schema-only".into(),
            "--create".into(),
            "--compress=0".into(),
            "--no-password".into(),
            format!("--snapshot={snapshot}"),
            format!("--lock-wait-timeout={SHORT_WAIT_MS}"),
        ];
        for table in excluded {
            arguments.push(format!("--exclude-table={}", quote::table(table)));
        }
        arguments.push(connection.argument());
        let output = tools::run(&tool, Some(&connection), &arguments, None).await?;
        facts.insert("pg_dump_version".into(), tool.version);
        warnings.extend(output.complaints);
        Ok(output.bytes)
    }
}

async fn major_version(client: &mut Client) -> Result<u32, Error> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')";
    let number = client.value(sql, "asking for the server's version").await?;
    let major = number.parse::<u32>().unwrap_or_default() / 10_000;
    if major < MAJOR_MIN {
        return Err(Error::stated(
            Class::Invalid,
            format!("the server is PostgreSQL {major}, and {MAJOR_MIN} is the oldest that is read"),
            "upgrade the server",
        ));
    }
    Ok(major)
}

/// Whether another attempt may go better: tables came, went or changed, or somebody waits for a
/// lock that we hold while we wait behind him.
fn contested(error: &Error) -> bool {
    let codes = ["42P01", "3F000", "42809", "40P01", "55P03"];
    matches!(error, Error::Contested { .. })
        || codes.contains(&error.code())
        || matches!(
            error,
            Error::Tool {
                class: Class::Busy,
                ..
            }
        )
}

async fn lock(
    client: &mut Client,
    tables: &[(String, TableName)],
    wait_ms: u32,
) -> Result<(), Error> {
    let wait = format!("SET lock_timeout = {wait_ms}");
    client.run(&wait, "locking the tables").await?;
    for group in tables.chunks(TABLES_A_LOCK) {
        let names: Vec<String> = group
            .iter()
            .map(|(_, name)| format!("ONLY {}", quote::table(name)))
            .collect();
        let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        client.run(&sql, "locking the tables").await?;
    }
    Ok(())
}
