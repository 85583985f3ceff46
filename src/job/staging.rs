//! The walk that every restore is: a snapshot's rows into a target, read back and found equal.
//!
//! Whoever restores, rolls back or drills walks it and publishes afterwards. Every chunk is opened
//! and compared with its name on the way; counts are compared with the manifest's while loading,
//! counts and digests from what the target then holds. Invariant: a target whose walk failed has
//! been discarded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::crypto::key;
use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::format::run::LargeCell;
use crate::id::Digest;
use crate::job::Opened;
use crate::planted;
use crate::repo::catalog::Snapshot;
use crate::repo::check;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{self, Rows, StackReader, Sums, TableDigest};
use crate::row::cell::{Cell, Cells, LARGE_CELL_BYTES, Large, RowBatch};
use crate::row::filter::{Conditions, Verdict};
use crate::row::schema::{Structure, StructurePart, TableName};
use crate::source::{PIECES_WAITING_MAX, Piece, PieceReceiver, PieceSender, Target};

/// A snapshot that is ready to be walked.
pub struct Plan {
    /// What it consists of.
    pub manifest: Manifest,
    /// What fetches its chunks.
    pub reader: Arc<Reader>,
    /// Its structure.
    pub structure: Structure,
    /// How long manifest, index and the look for every pack took.
    pub fetching: Duration,
    /// How long opening the structure took.
    pub opening: Duration,
}

/// Rows that are counted while the target is read back.
pub struct Watch {
    /// Their table.
    pub table: TableName,
    /// What holds of them.
    pub conditions: Conditions,
    /// How many were seen.
    pub seen: AtomicU64,
}

/// How long each part of a walk took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Everything that stands before rows.
    pub definitions: Duration,
    /// Rows: fetched, opened and loaded, which go side by side.
    pub data: Duration,
    /// Indexes, constraints and what else comes after rows.
    pub indexes: Duration,
    /// Reading the target back and comparing.
    pub read_back: Duration,
}

/// A target that was filled and found equal, and is not published yet.
#[derive(Clone, Copy, Debug)]
pub struct Staged {
    /// Rows that were loaded.
    pub rows: u64,
    /// How long it took.
    pub spent: Spent,
}

/// Fetches what says how a snapshot is made again, and looks that every pack it needs is there.
///
/// # Errors
/// The storage's; Corrupt where something is damaged or missing.
pub async fn plan(opened: &Opened, snapshot: &Snapshot) -> Result<Plan, AnyFailure> {
    plan_of(opened, snapshot, &[]).await
}

/// As [`plan`], of the tables that `only` names, as a person does; of all where it is empty.
///
/// # Errors
/// As [`plan`]; Missing with the nearest names for a table that the snapshot has not.
pub async fn plan_of(
    opened: &Opened,
    snapshot: &Snapshot,
    only: &[String],
) -> Result<Plan, AnyFailure> {
    let mut watch = Stopwatch::start(opened);
    let mut manifest = opened.manifest(snapshot).await?;
    if !only.is_empty() {
        let mut names = Vec::new();
        for text in only {
            names.push(select::table(&manifest, text)?.table.name.clone());
        }
        manifest
            .tables
            .retain(|table| names.contains(&table.table.name));
    }
    let reader = opened.reader().await?;
    opened.progress.stage("checking packs", None);
    check::packs_are_there(&reader, &manifest).await?;
    let fetching = watch.lap();
    let structure = structure(&reader, &manifest).await?;
    let opening = watch.lap();
    Ok(Plan {
        manifest,
        reader,
        structure,
        fetching,
        opening,
    })
}

/// Laps on the monotonic clock.
struct Stopwatch {
    clock: Arc<dyn Clock>,
    since: Duration,
}

impl Stopwatch {
    fn start(opened: &Opened) -> Stopwatch {
        let clock = opened.vault.clock.clone();
        let since = clock.elapsed();
        Stopwatch { clock, since }
    }

    fn lap(&mut self) -> Duration {
        let now = self.clock.elapsed();
        now - std::mem::replace(&mut self.since, now)
    }
}

/// The structure that a manifest describes, its parts fetched.
///
/// # Errors
/// The storage's; Corrupt where a part is not what it should be.
pub async fn structure(reader: &Reader, manifest: &Manifest) -> Result<Structure, AnyFailure> {
    let mut parts = Vec::new();
    for part in &manifest.structure {
        let mut bytes = Vec::new();
        for chunk in &part.chunks {
            bytes.extend_from_slice(&reader.chunk(chunk).await?);
        }
        if bytes.len() as u64 != part.length {
            return Err(AnyFailure::new(
                Class::Corrupt,
                format!(
                    "the structure {:?} is not as long as it should be",
                    part.name
                ),
                None,
            ));
        }
        parts.push(StructurePart {
            name: part.name.clone(),
            bytes,
        });
    }
    Ok(Structure {
        engine: manifest.engine,
        tables: manifest
            .tables
            .iter()
            .map(|table| table.table.clone())
            .collect(),
        parts,
        facts: manifest.facts.clone(),
        warnings: Vec::new(),
    })
}

/// Fills `target` with the snapshot of `plan`, reads it back and compares.
///
/// # Errors
/// Corrupt where anything needed is damaged or the target reads back otherwise; the target's. What
/// was made is then taken away again.
pub async fn stage(
    opened: &Opened,
    plan: &Plan,
    target: &mut dyn Target,
    watches: &Arc<Vec<Option<Watch>>>,
) -> Result<Staged, AnyFailure> {
    let staged = fill(opened, plan, target, watches).await;
    opened.progress.end();
    match staged {
        Ok(staged) => Ok(staged),
        Err(error) => Err(discard(target, error).await),
    }
}

/// Takes away what was made, because of `error`.
pub async fn discard(target: &mut dyn Target, error: AnyFailure) -> AnyFailure {
    match target.discard().await {
        Ok(()) => error,
        Err(left) => AnyFailure::new(
            error.class(),
            format!("{error}; and what was made could not be taken away: {left}"),
            error.hint(),
        ),
    }
}

async fn fill(
    opened: &Opened,
    plan: &Plan,
    target: &mut dyn Target,
    watches: &Arc<Vec<Option<Watch>>>,
) -> Result<Staged, AnyFailure> {
    let mut watch = Stopwatch::start(opened);
    let mut spent = Spent::default();
    target.prepare(&plan.structure).await?;
    spent.definitions = watch.lap();
    let tables = &plan.manifest.tables;
    let bytes = tables.iter().map(|table| table.bytes_raw).sum();
    opened.progress.stage("loading rows", Some(bytes));
    // The largest first, so that it is not begun when all others are done.
    let mut with_rows: Vec<&ManifestTable> = tables
        .iter()
        .filter(|table| table.table.with_rows)
        .collect();
    with_rows.sort_by_key(|table| std::cmp::Reverse(table.bytes_raw));
    let shared: &dyn Target = &*target;
    let loaded: Vec<u64> = stream::iter(with_rows.iter().copied())
        .map(|table| load(opened, &plan.reader, table, shared))
        .buffer_unordered(shared.parallel().max(1))
        .try_collect()
        .await?;
    spent.data = watch.lap();
    opened
        .progress
        .stage("making indexes and constraints", None);
    target.finish(&plan.structure).await?;
    spent.indexes = watch.lap();
    if planted::is("restore publishes before it verifies") {
        target.publish().await?;
    }
    opened.progress.stage("comparing", Some(bytes));
    let shared: &dyn Target = &*target;
    stream::iter(with_rows.iter().copied())
        .map(|table| read_back(opened, &plan.reader, table, shared, watches))
        .buffer_unordered(shared.parallel().max(1))
        .try_collect::<Vec<()>>()
        .await?;
    spent.read_back = watch.lap();
    Ok(Staged {
        rows: loaded.iter().sum(),
        spent,
    })
}

async fn load(
    opened: &Opened,
    reader: &Arc<Reader>,
    table: &ManifestTable,
    target: &dyn Target,
) -> Result<u64, AnyFailure> {
    let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
    let feeding = feed(opened, reader, table, pieces);
    let loading = target.load(&table.table, received);
    let (fed, loaded) = tokio::join!(feeding, loading);
    if !fed? {
        // The target stopped taking rows: it knows why.
        let error = loaded.err().unwrap_or_else(|| {
            let what = format!(
                "table {} was not taken whole by the target",
                table.table.name
            );
            AnyFailure::new(Class::Bug, what, None)
        });
        return Err(error);
    }
    let loaded = loaded?;
    if loaded != table.rows {
        return Err(AnyFailure::new(
            Class::Bug,
            format!(
                "table {}: {} rows were sent and the target took {loaded}",
                table.table.name, table.rows
            ),
            None,
        ));
    }
    Ok(loaded)
}

/// Sends all rows of a table; false where the receiver went away.
async fn feed(
    opened: &Opened,
    reader: &Arc<Reader>,
    table: &ManifestTable,
    pieces: PieceSender,
) -> Result<bool, AnyFailure> {
    let mut stack = StackReader::open_for(reader.clone(), table, Sums::Counts).await?;
    while let Some(rows) = stack.next().await? {
        let (bytes, count) = (rows.rows.bytes().len() as u64, rows.rows.len() as u64);
        if !send(reader, rows, &pieces).await? {
            return Ok(false);
        }
        opened.progress.advance(bytes, count);
    }
    Ok(true)
}

/// Sends rows, the slices of large cells before their rows; false where the receiver went away.
///
/// # Errors
/// Corrupt where a large cell is not what its row says.
async fn send(reader: &Reader, rows: Rows, pieces: &PieceSender) -> Result<bool, AnyFailure> {
    if rows.cells.is_empty() {
        return Ok(pieces.send(Piece::Rows(rows.rows)).await.is_ok());
    }
    let mut waiting = RowBatch::default();
    for row in rows.rows.iter() {
        let large = large_cells(row);
        if !large.is_empty() {
            let before = std::mem::take(&mut waiting);
            if !before.is_empty() && pieces.send(Piece::Rows(before)).await.is_err() {
                return Ok(false);
            }
            for (column, cell) in large {
                if !send_cell(reader, column, &cell, &rows.cells, pieces).await? {
                    return Ok(false);
                }
            }
        }
        waiting.push(row);
    }
    Ok(waiting.is_empty() || pieces.send(Piece::Rows(waiting)).await.is_ok())
}

fn large_cells(row: &[u8]) -> Vec<(usize, Large)> {
    let cells = Cells::new(row).enumerate();
    cells
        .filter_map(|(column, cell)| match cell {
            Ok(Cell::Large(large)) => Some((column, large)),
            _ => None,
        })
        .collect()
}

async fn send_cell(
    reader: &Reader,
    column: usize,
    large: &Large,
    known: &HashMap<Digest, LargeCell>,
    pieces: &PieceSender,
) -> Result<bool, AnyFailure> {
    let damaged = |what: &str| {
        AnyFailure::new(
            Class::Corrupt,
            format!("a large cell of {} bytes {what}", large.length),
            Some("run 'rowvault verify' to see which snapshots are hurt".into()),
        )
    };
    let cell = known
        .get(&large.digest)
        .ok_or_else(|| damaged("is named by no chunk of its run"))?;
    let mut hasher = reader.vault().access.shared.cell_hasher();
    let mut length = 0;
    for chunk in &cell.chunks {
        let bytes = reader.chunk(chunk).await?;
        hasher.update(&bytes);
        length += bytes.len() as u64;
        for slice in bytes.chunks(LARGE_CELL_BYTES) {
            let bytes = slice.to_vec();
            if pieces.send(Piece::Slice { column, bytes }).await.is_err() {
                return Ok(false);
            }
        }
    }
    if length != large.length || key::digest(&hasher) != large.digest {
        return Err(damaged("does not have the bytes that its row says"));
    }
    Ok(true)
}

async fn read_back(
    opened: &Opened,
    reader: &Arc<Reader>,
    table: &ManifestTable,
    target: &dyn Target,
    watches: &Arc<Vec<Option<Watch>>>,
) -> Result<(), AnyFailure> {
    let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
    let digest = TableDigest::new(opened.vault.clone(), &table.table);
    let progress = opened.progress.clone();
    let (watches, name) = (watches.clone(), table.table.name.clone());
    let adding = tokio::task::spawn_blocking(move || {
        let watched = watches.iter().flatten();
        let watched = watched.filter(|watch| watch.table == name);
        let watched: Vec<&Watch> = watched.collect();
        add_up(digest, received, &|bytes, rows| {
            progress.advance(bytes, rows.map_or(0, |rows| rows.len() as u64));
            for watch in &watched {
                watch.count(rows);
            }
        })
    });
    let read = target.read_back(&table.table, pieces).await;
    let added = adding
        .await
        .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
    read?;
    let (rows, digest) = added?;
    if (rows, digest) != (table.rows, table.digest) {
        match digest_again(reader, table).await {
            Err(error) if error.class() == Class::Corrupt => return Err(error),
            _ => {}
        }
        return Err(AnyFailure::new(
            Class::Corrupt,
            format!(
                "table {} was restored and reads back otherwise: {rows} rows where the snapshot has {}, or other values",
                table.table.name, table.rows
            ),
            Some("the target was not published; check the server's version and settings, and report this".into()),
        ));
    }
    Ok(())
}

/// Reads a table from the repository once more, for whether its own rows are those that the
/// manifest names.
///
/// # Errors
/// Corrupt where they are not; the storage's.
async fn digest_again(reader: &Arc<Reader>, table: &ManifestTable) -> Result<(), AnyFailure> {
    let mut stack = StackReader::open(reader.clone(), table).await?;
    while stack.next().await?.is_some() {}
    Ok(())
}

impl Watch {
    /// Adds the rows that fit.
    fn count(&self, rows: Option<&RowBatch>) {
        for row in rows.into_iter().flat_map(RowBatch::iter) {
            let cells: Vec<Cell<'_>> = Cells::new(row).filter_map(Result::ok).collect();
            let cell = |at: usize| cells.get(at).copied().unwrap_or(Cell::Null);
            if self.conditions.judge(cell) == Verdict::Yes {
                self.seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Digests pieces until their sender is done.
fn add_up(
    mut digest: TableDigest,
    mut pieces: PieceReceiver,
    told: &dyn Fn(u64, Option<&RowBatch>),
) -> Result<(u64, Digest), table::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Slice { column, bytes } => {
                digest.slice(column, &bytes);
                told(bytes.len() as u64, None);
            }
            Piece::Rows(rows) => {
                digest.rows(&rows)?;
                told(rows.bytes().len() as u64, Some(&rows));
            }
        }
    }
    digest.finish()
}
