//! Takes a snapshot: reads a source at one instant and commits it to the repository.
//!
//! The order is the promise: intent, ledgers and index, rows into packs, index, manifest, ledger
//! entry. Invariant: whatever fails before the ledger entry, no snapshot exists; whatever fails
//! after it, the snapshot is whole.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::ledger::{Event, Head, SnapshotRecord};
use crate::format::manifest::{
    Manifest, ManifestTable, Mode, StoredOrder, StructureReference, Totals,
};
use crate::format::pack::ChunkKind;
use crate::id::{ChunkId, Digest, SnapshotId, SourceName, Ulid};
use crate::job::{Opened, Progress};
use crate::planted;
use crate::repo::catalog::Catalog;
use crate::repo::check;
use crate::repo::intent;
use crate::repo::ledger::Appended;
use crate::repo::table::{self, TableWriter, WrittenTable};
use crate::repo::writer::Writer;
use crate::row::schema::{Structure, StructurePart, Table};
use crate::source::{Order, PIECES_WAITING_MAX, Piece, PieceReceiver, Source};

/// Structure is stored in chunks of this size.
const STRUCTURE_CHUNK_BYTES: usize = 1 << 20;
/// How long a backup may take before others may pass over it, where nothing else is asked.
pub const LASTING: Duration = Duration::from_secs(24 * 3600);

/// What to take a snapshot of.
pub struct Request {
    /// The source's name in the repository.
    pub name: SourceName,
    /// Tags for the snapshot.
    pub tags: Vec<String>,
    /// After this, others may pass over this backup as dead.
    pub lasting: Duration,
}

impl Request {
    /// A snapshot of `name`, without tags.
    pub fn new(name: SourceName) -> Request {
        Request {
            name,
            tags: Vec::new(),
            lasting: LASTING,
        }
    }
}

/// A snapshot that was taken.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The source.
    pub source: SourceName,
    /// What the ledger says of it.
    pub record: SnapshotRecord,
    /// The new head of the source's ledger.
    pub head: Head,
    /// What was not as it should be, in sentences.
    pub warnings: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Takes a snapshot.
///
/// # Errors
/// Busy where a backup of the source runs; the source's; the storage's. No snapshot exists then.
pub async fn run(
    opened: &Opened,
    source: &mut dyn Source,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    let start = opened.vault.clock.elapsed();
    let hash = opened.vault.source_hash(&request.name);
    let what = format!("a backup of {}", request.name);
    let _lock = opened.state.lock(&format!("backup-{hash}"), &what)?;
    intent::clear_dead(&opened.vault, &opened.whoami, &request.name).await?;
    let catalog = opened.catalog().await?;
    check_right(opened, &catalog, &request.name)?;
    let voided = voided_intents(&catalog, &request.name);
    let held = intent::announce(
        &opened.vault,
        &opened.whoami,
        &request.name,
        request.lasting,
        &voided,
    )
    .await?;
    let intent = held.id;
    let taken = take(opened, source, request, intent).await;
    let withdrawn = intent::withdraw(&opened.vault, held).await;
    let mut outcome = taken?;
    if let Err(error) = withdrawn {
        let warning = format!("the intent of this backup could not be taken away: {error}");
        outcome.warnings.push(warning);
    }
    outcome.duration = opened.vault.clock.elapsed() - start;
    Ok(outcome)
}

/// A writer that may not write this source would only add entries that count for nothing.
fn check_right(opened: &Opened, catalog: &Catalog, name: &SourceName) -> Result<(), AnyFailure> {
    let signer = opened.vault.access.signer.id();
    let head = catalog.sources.get(name).and_then(|source| source.head());
    let next = head.map_or(1, |head| head.number + 1);
    if opened.keyring.may_write(&signer, name, next) {
        return Ok(());
    }
    Err(AnyFailure::new(
        Class::Denied,
        format!("this writer's key may not back up source {name}"),
        Some("the owner enrols writers: 'rowvault key writer'".into()),
    ))
}

fn voided_intents(catalog: &Catalog, name: &SourceName) -> HashSet<Ulid> {
    let Some(source) = catalog.sources.get(name) else {
        return HashSet::new();
    };
    let entries = source.chain.entries.iter().filter(|link| link.counts);
    entries
        .filter_map(|link| match &link.entry.event {
            Event::IntentVoided(voided) => Some(voided.intent),
            _ => None,
        })
        .collect()
}

struct Captured {
    taken_at: Timestamp,
    structure: Structure,
    tables: Vec<ManifestTable>,
    parts: Vec<StructureReference>,
    warnings: Vec<String>,
}

async fn take(
    opened: &Opened,
    source: &mut dyn Source,
    request: &Request,
    intent: Ulid,
) -> Result<Outcome, AnyFailure> {
    let catalog = opened.catalog().await?;
    let index = opened.index().await?;
    let writer = Arc::new(Writer::new(opened.vault.clone(), index)?);
    let last = catalog.sources.get(&request.name);
    let last = last.and_then(|source| source.snapshots.last());
    let expected = last.map(|snapshot| snapshot.record.totals.bytes_read);
    let captured = capture(opened, source, &writer, expected).await?;
    opened.progress.stage("storing", None);
    let written = writer.written();
    if !planted::is("manifest before pack") {
        writer.clone().finish().await?;
    }
    let mut totals = Totals {
        tables: captured.tables.len() as u64,
        bytes_stored: written.bytes,
        chunks_new: written.chunks_new,
        chunks_reused: written.chunks_reused,
        ..Totals::default()
    };
    for table in &captured.tables {
        totals.rows += table.rows;
        totals.rows_put += table.rows_put;
        totals.rows_deleted += table.rows_deleted;
        totals.bytes_read += table.bytes_raw;
    }
    let manifest = Manifest {
        required: Vec::new(),
        snapshot: SnapshotId::draw(opened.vault.random.as_ref()),
        source: request.name.clone(),
        engine: captured.structure.engine,
        taken_at: captured.taken_at,
        mode: Mode::Full,
        parent: None,
        tables: captured.tables,
        structure: captured.parts,
        facts: captured.structure.facts,
        warnings: captured.warnings,
        host: opened.whoami.host.clone(),
        program: format!("rowvault {}", env!("CARGO_PKG_VERSION")),
        totals,
    };
    if !planted::is("manifest before pack") {
        // What was not marked when this backup began may be by now.
        check::packs_will_stay(opened.reader().await?.as_ref(), &manifest).await?;
    }
    let outcome = commit(opened, &catalog, request, manifest, intent).await;
    if planted::is("manifest before pack") {
        writer.finish().await?;
    }
    opened.progress.end();
    outcome
}

async fn capture(
    opened: &Opened,
    source: &mut dyn Source,
    writer: &Arc<Writer>,
    expected: Option<u64>,
) -> Result<Captured, AnyFailure> {
    opened.progress.stage("reading structure", None);
    let taken_at = opened.vault.clock.now();
    let structure = source.begin().await?;
    let mut warnings = structure.warnings.clone();
    // About as much as last time: good enough to tell the time that is left.
    opened.progress.stage("reading rows", expected);
    let read = read_tables(source, &structure, writer, opened.progress.as_ref()).await;
    let (tables, more) = read?;
    warnings.extend(more);
    source.end().await?;
    let parts = store_parts(writer, structure.parts.clone()).await?;
    Ok(Captured {
        taken_at,
        structure,
        tables,
        parts,
        warnings,
    })
}

async fn read_tables(
    source: &dyn Source,
    structure: &Structure,
    writer: &Arc<Writer>,
    progress: &dyn Progress,
) -> Result<(Vec<ManifestTable>, Vec<String>), AnyFailure> {
    let read: Vec<(usize, ManifestTable, Option<String>)> =
        stream::iter(structure.tables.iter().enumerate())
            .map(|(at, table)| async move {
                let (table, warning) = read_table(source, table, writer, progress).await?;
                Ok::<_, AnyFailure>((at, table, warning))
            })
            .buffer_unordered(source.parallel().max(1))
            .try_collect()
            .await?;
    let mut read = read;
    read.sort_by_key(|(at, ..)| *at);
    let warnings = read.iter().filter_map(|(.., warning)| warning.clone());
    let warnings = warnings.collect();
    Ok((
        read.into_iter().map(|(_, table, _)| table).collect(),
        warnings,
    ))
}

async fn read_table(
    source: &dyn Source,
    table: &Table,
    writer: &Arc<Writer>,
    progress: &dyn Progress,
) -> Result<(ManifestTable, Option<String>), AnyFailure> {
    if !table.with_rows {
        return Ok((structure_only(table), None));
    }
    let orders: &[Order] = match table.key {
        Some(_) => &[Order::Key, Order::Canonical, Order::Physical],
        None => &[Order::Physical],
    };
    let mut warning = None;
    for order in orders {
        if table.key.is_some() && *order == Order::Physical {
            warning = Some(format!(
                "table {} is stored without its key, because its rows could not be had in the key's order",
                table.name
            ));
        }
        match read_in_order(source, table, *order, writer, progress).await? {
            Read::Whole(written) => return Ok((described(table, &written), warning)),
            Read::Misordered => {}
        }
    }
    Err(AnyFailure::new(
        Class::Bug,
        format!("table {} could not be read in any order", table.name),
        None,
    ))
}

fn structure_only(table: &Table) -> ManifestTable {
    ManifestTable {
        table: table.clone(),
        order: StoredOrder::Physical,
        stack: Vec::new(),
        rows: 0,
        digest: Digest::ZERO,
        bytes_raw: 0,
        bytes_stored: 0,
        rows_put: 0,
        rows_deleted: 0,
    }
}

fn described(table: &Table, written: &WrittenTable) -> ManifestTable {
    let run = &written.run;
    ManifestTable {
        table: table.clone(),
        order: written.order,
        stack: vec![run.run],
        rows: run.puts,
        digest: run.digest,
        bytes_raw: run.bytes_raw,
        bytes_stored: run.bytes_stored,
        rows_put: run.puts,
        rows_deleted: 0,
    }
}

enum Read {
    Whole(WrittenTable),
    Misordered,
}

async fn read_in_order(
    source: &dyn Source,
    table: &Table,
    order: Order,
    writer: &Arc<Writer>,
    progress: &dyn Progress,
) -> Result<Read, AnyFailure> {
    let stored = match order {
        Order::Physical => StoredOrder::Physical,
        _ => StoredOrder::Key,
    };
    let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
    let (told, mut telling) = mpsc::unbounded_channel();
    let table_writer = TableWriter::new(writer.clone(), Handle::current(), table, stored);
    let writing = tokio::task::spawn_blocking(move || write_pieces(table_writer, received, told));
    let tell = async {
        while let Some((bytes, rows)) = telling.recv().await {
            progress.advance(bytes, rows);
        }
    };
    let (read, ()) = tokio::join!(source.read(table, order, pieces), tell);
    let written = writing
        .await
        .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
    match written {
        Err(table::Error::Order { .. }) if order != Order::Physical => Ok(Read::Misordered),
        Err(error) if error.class() != Class::Transient || read.is_ok() => Err(error.into()),
        Err(error) => Err(read.err().unwrap_or(error.into())),
        Ok(written) => {
            let counted = read?;
            if counted != written.run.puts {
                return Err(AnyFailure::new(
                    Class::Bug,
                    format!(
                        "table {}: the server counted {counted} rows and {} arrived",
                        table.name, written.run.puts
                    ),
                    Some("no snapshot was made; run the backup again and report this".into()),
                ));
            }
            Ok(Read::Whole(written))
        }
    }
}

fn write_pieces(
    mut writer: TableWriter,
    mut pieces: PieceReceiver,
    told: mpsc::UnboundedSender<(u64, u64)>,
) -> Result<WrittenTable, table::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        let (bytes, rows) = match &piece {
            Piece::Slice { column, bytes } => {
                writer.slice(*column, bytes)?;
                (bytes.len(), 0)
            }
            Piece::Rows(rows) => {
                writer.rows(rows)?;
                (rows.bytes().len(), rows.len())
            }
        };
        let _ = told.send((bytes as u64, rows as u64));
    }
    writer.finish()
}

async fn store_parts(
    writer: &Arc<Writer>,
    parts: Vec<StructurePart>,
) -> Result<Vec<StructureReference>, AnyFailure> {
    let writer = writer.clone();
    let stored = tokio::task::spawn_blocking(move || {
        let mut references = Vec::new();
        for part in parts {
            let chunks: Vec<ChunkId> = part
                .bytes
                .chunks(STRUCTURE_CHUNK_BYTES)
                .map(|piece| Ok(writer.add_bytes(ChunkKind::Structure, piece)?.0))
                .collect::<Result<_, AnyFailure>>()?;
            references.push(StructureReference {
                name: part.name,
                length: part.bytes.len() as u64,
                chunks,
            });
        }
        Ok(references)
    });
    stored
        .await
        .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?
}

/// The commit point: the manifest, then the ledger entry.
async fn commit(
    opened: &Opened,
    catalog: &Catalog,
    request: &Request,
    manifest: Manifest,
    intent: Ulid,
) -> Result<Outcome, AnyFailure> {
    let stored = opened.vault.put_manifest(&manifest).await?;
    let record = SnapshotRecord {
        id: manifest.snapshot,
        manifest: stored,
        taken_at: manifest.taken_at,
        mode: manifest.mode,
        totals: manifest.totals,
        tags: request.tags.clone(),
        replaces: None,
    };
    let name = &request.name;
    let head_of = |catalog: &Catalog| catalog.sources.get(name).and_then(|source| source.head());
    let mut head = head_of(catalog);
    let event = Event::Snapshot(record.clone());
    loop {
        let appended = opened.append(catalog, name, head, event.clone()).await?;
        if let Appended::Ours(head) = appended {
            return Ok(Outcome {
                source: name.clone(),
                record,
                head,
                warnings: manifest.warnings,
                duration: Duration::ZERO,
            });
        }
        let now = opened.catalog().await?;
        refuse_rivals(&now, name, head, intent, manifest.parent)?;
        head = head_of(&now);
    }
}

/// Others may add entries while a backup runs, but no snapshot of the same source, and none that
/// voids this backup.
fn refuse_rivals(
    catalog: &Catalog,
    name: &SourceName,
    head: Option<Head>,
    intent: Ulid,
    parent: Option<SnapshotId>,
) -> Result<(), AnyFailure> {
    let since = head.map_or(0, |head| head.number);
    let Some(source) = catalog.sources.get(name) else {
        return Ok(());
    };
    for link in &source.chain.entries {
        let rival = match &link.entry.event {
            _ if link.entry.number <= since || !link.counts => None,
            Event::Forgotten(forgotten)
                if parent.is_some_and(|parent| forgotten.snapshots.contains(&parent)) =>
            {
                Some("the snapshot that it builds on was forgotten meanwhile")
            }
            Event::Snapshot(_) => Some("another backup of the source was committed meanwhile"),
            Event::IntentVoided(voided) if voided.intent == intent => {
                Some("this backup was passed over as dead, because it took longer than it may")
            }
            _ => None,
        };
        if let Some(why) = rival {
            return Err(AnyFailure::new(
                Class::Busy,
                format!("no snapshot of {name} was made: {why}"),
                Some("run the backup again".into()),
            ));
        }
    }
    Ok(())
}
