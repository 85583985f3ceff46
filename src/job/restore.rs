//! Makes a database again from a snapshot, beside, and publishes it once it is proven equal.
//!
//! Every chunk is opened and compared with its name on the way; counts and digests are compared
//! with the manifest's while loading, and once more from what the target then holds. Invariant: a
//! restore that fails takes away what it made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::crypto::key;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Recovered};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::format::run::LargeCell;
use crate::id::Digest;
use crate::job::Opened;
use crate::planted;
use crate::repo::catalog::Snapshot;
use crate::repo::check;
use crate::repo::reader::Reader;
use crate::repo::table::{self, Rows, StackReader, TableDigest};
use crate::row::cell::{Cell, Cells, LARGE_CELL_BYTES, Large, RowBatch};
use crate::row::schema::{Structure, StructurePart};
use crate::source::{PIECES_WAITING_MAX, Piece, PieceReceiver, PieceSender, Published, Target};

/// What was restored.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Where it is.
    pub published: Published,
    /// Tables that were made.
    pub tables: u64,
    /// Rows that were loaded.
    pub rows: u64,
    /// How long it took, the read-back included.
    pub duration: Duration,
    /// How long reading the target back and comparing took.
    pub read_back: Duration,
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

/// Restores `snapshot` into `target`.
///
/// # Errors
/// Denied with a writer's key; Corrupt where anything needed is damaged; the target's. What was
/// made is then taken away again.
pub async fn run(
    opened: &Opened,
    snapshot: &Snapshot,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("restore")?;
    let work = restore(opened, snapshot, target);
    opened.reading(&snapshot.source, work).await
}

async fn restore(
    opened: &Opened,
    snapshot: &Snapshot,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    let clock = opened.vault.clock.clone();
    let start = clock.elapsed();
    let manifest = opened.manifest(snapshot).await?;
    let reader = opened.reader().await?;
    opened.progress.stage("checking packs", None);
    check::packs_are_there(&reader, &manifest).await?;
    let structure = structure(&reader, &manifest).await?;
    let made = make(opened, &reader, &manifest, &structure, target).await;
    opened.progress.end();
    let made = match made {
        Ok(made) => made,
        Err(error) => return Err(discard(target, error).await),
    };
    record(opened, snapshot, &made).await;
    Ok(Outcome {
        snapshot: snapshot.clone(),
        published: made.published,
        tables: manifest.tables.len() as u64,
        rows: made.rows,
        duration: clock.elapsed() - start,
        read_back: made.read_back,
    })
}

async fn discard(target: &mut dyn Target, error: AnyFailure) -> AnyFailure {
    match target.discard().await {
        Ok(()) => error,
        Err(left) => AnyFailure::new(
            error.class(),
            format!("{error}; and what was made could not be taken away: {left}"),
            error.hint(),
        ),
    }
}

struct Made {
    published: Published,
    rows: u64,
    read_back: Duration,
}

async fn make(
    opened: &Opened,
    reader: &Arc<Reader>,
    manifest: &Manifest,
    structure: &Structure,
    target: &mut dyn Target,
) -> Result<Made, AnyFailure> {
    let clock = opened.vault.clock.clone();
    target.prepare(structure).await?;
    let bytes = manifest.tables.iter().map(|table| table.bytes_raw).sum();
    opened.progress.stage("loading rows", Some(bytes));
    let with_rows = || manifest.tables.iter().filter(|table| table.table.with_rows);
    let shared: &dyn Target = &*target;
    let loaded: Vec<u64> = stream::iter(with_rows())
        .map(|table| load(opened, reader, table, shared))
        .buffer_unordered(shared.parallel().max(1))
        .try_collect()
        .await?;
    opened
        .progress
        .stage("making indexes and constraints", None);
    target.finish(structure).await?;
    if planted::is("restore publishes before it verifies") {
        target.publish().await?;
    }
    let start = clock.elapsed();
    opened.progress.stage("comparing", Some(bytes));
    let shared: &dyn Target = &*target;
    stream::iter(with_rows())
        .map(|table| read_back(opened, table, shared))
        .buffer_unordered(shared.parallel().max(1))
        .try_collect::<Vec<()>>()
        .await?;
    let read_back = clock.elapsed() - start;
    Ok(Made {
        published: target.publish().await?,
        rows: loaded.iter().sum(),
        read_back,
    })
}

/// The ledger hears of it; a restore that worked does not fail because the storage is read-only.
async fn record(opened: &Opened, snapshot: &Snapshot, made: &Made) {
    let event = Event::Restored(Recovered {
        snapshot: snapshot.record.id,
        place: made.published.place.clone(),
        rows: made.rows,
        facts: [("verified".to_owned(), "true".to_owned())].into(),
    });
    if let Err(error) = opened.record(&snapshot.source, event).await {
        let warning = format!("the ledger could not be told of this restore: {error}");
        opened.progress.warn(&warning);
    }
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
    let mut stack = StackReader::open(reader.clone(), table).await?;
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
pub async fn send(reader: &Reader, rows: Rows, pieces: &PieceSender) -> Result<bool, AnyFailure> {
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
    table: &ManifestTable,
    target: &dyn Target,
) -> Result<(), AnyFailure> {
    let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
    let digest = TableDigest::new(opened.vault.clone(), &table.table);
    let progress = opened.progress.clone();
    let adding = tokio::task::spawn_blocking(move || {
        add_up(digest, received, &|bytes, rows| {
            progress.advance(bytes, rows)
        })
    });
    let read = target.read_back(&table.table, pieces).await;
    let added = adding
        .await
        .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
    read?;
    let (rows, digest) = added?;
    if (rows, digest) != (table.rows, table.digest) {
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

/// Digests pieces until their sender is done.
///
/// # Errors
/// Rows that are none.
pub fn add_up(
    mut digest: TableDigest,
    mut pieces: PieceReceiver,
    told: &dyn Fn(u64, u64),
) -> Result<(u64, Digest), table::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Slice { column, bytes } => {
                digest.slice(column, &bytes);
                told(bytes.len() as u64, 0);
            }
            Piece::Rows(rows) => {
                digest.rows(&rows)?;
                told(rows.bytes().len() as u64, rows.len() as u64);
            }
        }
    }
    digest.finish()
}
