//! Takes a snapshot: reads a source at one instant and commits it to the repository.
//!
//! The order is the promise: intent, ledgers and index, rows into packs, index, manifest, ledger
//! entry. Invariant: whatever fails before the ledger entry, no snapshot exists; whatever fails
//! after it, the snapshot is whole.

mod audit;
mod capture;
mod proof;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::failpoint;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Head, SnapshotRecord};
use crate::format::manifest::{Manifest, ManifestTable, Mode, StructureReference, Totals};
use crate::format::pack::ChunkKind;
use crate::format::shadow::{CAPTURE_VERSION, Shadow, ShadowTable};
use crate::id::{ChunkId, ObjectId, SnapshotId, SourceName, Ulid};
use crate::job::Opened;
use crate::planted;
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::check;
use crate::repo::index::Index;
use crate::repo::intent;
use crate::repo::ledger::Appended;
use crate::repo::reader::Reader;
use crate::repo::shadow::{Found, How, Keeper, Mirrored};
use crate::repo::writer::{Writer, Written};
use crate::row::schema::{Structure, StructurePart};
use crate::source::Source;
use capture::{Read, Tables};

/// After this, a backup reads every row into new base runs, and audits what was there.
pub const FULL_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
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
    /// What is stored.
    pub reading: Reading,
}

/// What a backup stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// What changed since the last snapshot; all, where this host does not know what changed, and
    /// every 30 days.
    #[default]
    Changes,
    /// All, into new base runs; what was stored before is audited.
    All,
}

impl Request {
    /// A snapshot of `name`, without tags.
    pub fn new(name: SourceName) -> Request {
        Request {
            name,
            tags: Vec::new(),
            lasting: LASTING,
            reading: Reading::Changes,
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
    /// Tables that changed: rows put, and deleted.
    pub changed: Vec<(String, u64, u64)>,
    /// Bytes of all packs in the storage.
    pub bytes_there: u64,
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
    opened.know_storage().await?;
    if opened.vault.reader("bring records back").is_ok() {
        opened.pay_owed().await;
    }
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
    failpoint::reach("backup: intent stored");
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
    read: Read,
    parts: Vec<StructureReference>,
    /// What the source's snapshot leaves for the next one.
    witness: Option<String>,
}

/// What this backup builds on.
struct Ground {
    newest: Option<Snapshot>,
    keeper: Keeper,
    shadow: Option<Shadow>,
    how: How,
    warning: Option<String>,
}

impl Ground {
    fn of(opened: &Opened, catalog: &Catalog, request: &Request) -> Result<Ground, AnyFailure> {
        let name = &request.name;
        let source = catalog.sources.get(name);
        let newest = source.and_then(|source| source.snapshots.last()).cloned();
        let hash = opened.vault.source_hash(name);
        let keeper = Keeper::new(opened.vault.clone(), opened.state.clone(), &hash);
        let mirrored = newest.as_ref().map(|newest| Mirrored {
            snapshot: newest.record.id,
            manifest: newest.record.manifest,
            entry: newest.entry,
        });
        let (shadow, warning) = match mirrored.map(|mirrored| keeper.load(mirrored)).transpose()? {
            None => (None, None),
            Some(Found::Mirror(shadow)) => (Some(*shadow), None),
            Some(Found::Nothing(why)) => (
                None,
                Some(format!("all of {name} is stored anew, because {why}")),
            ),
        };
        keeper.clear(shadow.as_ref())?;
        let now = opened.vault.clock.now();
        let due = |shadow: &Shadow| now.since(shadow.full_at) >= FULL_EVERY;
        let how = match &shadow {
            None => How::Anew,
            Some(shadow) if request.reading == Reading::All || due(shadow) => How::Audit,
            Some(_) => How::Changes,
        };
        Ok(Ground {
            newest,
            keeper,
            shadow,
            how,
            warning,
        })
    }

    /// Where the storage lost packs, a snapshot that needs them is not built on: what the source
    /// still has is sent again.
    async fn doubt(
        &mut self,
        opened: &Opened,
        request: &Request,
        index: &Arc<Index>,
    ) -> Result<(), AnyFailure> {
        let (Some(newest), Some(_)) = (&self.newest, &self.shadow) else {
            return Ok(());
        };
        let reader = Reader::new(opened.vault.clone(), index.clone());
        let lacking = match opened.manifest(newest).await {
            Err(error) => error,
            Ok(manifest) => match check::packs_are_there(&reader, &manifest).await {
                Ok(()) => return Ok(()),
                Err(error) => error.into(),
            },
        };
        if lacking.class() != Class::Corrupt {
            return Err(lacking);
        }
        let name = &request.name;
        self.warning = Some(format!("all of {name} is stored anew, because {lacking}"));
        self.shadow = None;
        self.how = How::Anew;
        Ok(())
    }

    /// The shadow of a snapshot of which everything is known but its place in the ledger.
    fn shadow_of(
        &self,
        manifest: &Manifest,
        tables: Vec<ShadowTable>,
        witness: Option<String>,
    ) -> Shadow {
        Shadow {
            required: Vec::new(),
            capture: CAPTURE_VERSION,
            snapshot: manifest.snapshot,
            manifest: ObjectId([0; 32]),
            entry: 0,
            full_at: match &self.shadow {
                Some(shadow) if manifest.mode != Mode::Full => shadow.full_at,
                _ => manifest.taken_at,
            },
            tables,
            witness,
        }
    }

    fn mode(&self, proven: bool) -> Mode {
        match self.how {
            How::Changes if proven => Mode::Proof,
            How::Changes => Mode::Rows,
            How::Anew | How::Audit => Mode::Full,
        }
    }
}

async fn take(
    opened: &Opened,
    source: &mut dyn Source,
    request: &Request,
    intent: Ulid,
) -> Result<Outcome, AnyFailure> {
    let catalog = opened.catalog().await?;
    let mut ground = Ground::of(opened, &catalog, request)?;
    let mut index = opened.index().await?;
    let listed = check::packs_listed(&opened.vault).await?;
    let own = Arc::get_mut(&mut index).expect("nobody else has it yet");
    if own.lose(&listed) > 0 {
        ground.doubt(opened, request, &index).await?;
    }
    let writer = Arc::new(opened.writer(index)?);
    let captured = capture(opened, source, &writer, &ground).await?;
    opened.progress.stage("storing", None);
    let written = writer.written();
    let unfinished = match planted::is("manifest before pack") {
        true => Some(writer),
        // The index goes with it, before the newest one comes: either may be long.
        false => {
            writer.finish().await?;
            failpoint::reach("backup: index stored");
            None
        }
    };
    let read = captured.read;
    let manifest = Manifest {
        required: Vec::new(),
        snapshot: SnapshotId::draw(opened.vault.random.as_ref()),
        source: request.name.clone(),
        engine: captured.structure.engine,
        taken_at: captured.taken_at,
        mode: ground.mode(read.proven),
        parent: ground.shadow.as_ref().map(|shadow| shadow.snapshot),
        totals: totals(&read.tables, &written, read.bytes_read),
        tables: read.tables,
        structure: captured.parts,
        facts: captured.structure.facts,
        warnings: read.warnings,
        host: opened.whoami.host.clone(),
        program: format!("rowvault {}", env!("CARGO_PKG_VERSION")),
    };
    if unfinished.is_none() {
        // What was not marked when this backup began may be by now.
        let sure = ground.shadow.as_ref().map(runs).unwrap_or_default();
        check::packs_will_stay(opened.reader().await?.as_ref(), &manifest, sure).await?;
    }
    let mut shadow = ground.shadow_of(&manifest, read.shadows, captured.witness);
    if planted::is("shadow swapped before the commit") {
        ground.keeper.swap(&shadow)?;
    }
    let mut outcome = commit(opened, &catalog, request, manifest, intent).await?;
    if let Some(writer) = unfinished {
        writer.finish().await?;
    }
    outcome.bytes_there = listed.values().sum::<u64>() + written.bytes;
    shadow.manifest = outcome.record.manifest;
    shadow.entry = outcome.head.number;
    if let Err(error) = ground.keeper.swap(&shadow) {
        let error = AnyFailure::from(error);
        let warning = format!("the next backup will store all of it anew, because {error}");
        outcome.warnings.push(warning);
    }
    failpoint::reach("backup: shadow swapped");
    let audited = audit::compare(opened, &ground, request, &outcome, read.wrong).await;
    opened.progress.end();
    audited.map(|()| outcome)
}

/// The runs that the snapshot of `shadow` needs. It lives until this backup's entry, which is not
/// taken where it was forgotten before: until then a sweep finds them needed.
fn runs(shadow: &Shadow) -> HashSet<ChunkId> {
    let stacks = shadow.tables.iter().flat_map(|table| &table.stack);
    stacks.map(|run| run.run).collect()
}

fn totals(tables: &[ManifestTable], written: &Written, bytes_read: u64) -> Totals {
    let mut totals = Totals {
        tables: tables.len() as u64,
        bytes_read,
        bytes_stored: written.bytes,
        chunks_new: written.chunks_new,
        chunks_reused: written.chunks_reused,
        ..Totals::default()
    };
    for table in tables {
        totals.rows += table.rows;
        totals.rows_put += table.rows_put;
        totals.rows_deleted += table.rows_deleted;
    }
    totals
}

async fn capture(
    opened: &Opened,
    source: &mut dyn Source,
    writer: &Arc<Writer>,
    ground: &Ground,
) -> Result<Captured, AnyFailure> {
    opened.progress.stage("reading structure", None);
    let taken_at = opened.vault.clock.now();
    let structure = source.begin().await?;
    let mut warnings = structure.warnings.clone();
    warnings.extend(ground.warning.clone());
    // About as much as last time: good enough to tell the time that is left.
    let expected = ground.newest.as_ref();
    let expected = expected.map(|newest| newest.record.totals.bytes_read);
    opened.progress.stage("reading rows", expected);
    let tables = Tables {
        source,
        structure: &structure,
        writer,
        reader: Reader::new(writer.vault().clone(), writer.index().clone()),
        keeper: &ground.keeper,
        shadow: ground.shadow.as_ref(),
        how: ground.how,
        progress: opened.progress.as_ref(),
    };
    let mut read = tables.read().await?;
    let witness = match source.prover() {
        Some(prover) => prover.witness().await?,
        None => None,
    };
    source.end().await?;
    let parts = store_parts(writer, structure.parts.clone()).await?;
    warnings.append(&mut read.warnings);
    read.warnings = warnings;
    Ok(Captured {
        taken_at,
        structure,
        read,
        parts,
        witness,
    })
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
    failpoint::reach("backup: manifest stored");
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
            failpoint::reach("backup: entry stored");
            return Ok(Outcome {
                source: name.clone(),
                record,
                head,
                changed: changed(&manifest),
                warnings: manifest.warnings,
                bytes_there: 0,
                duration: Duration::ZERO,
            });
        }
        let now = opened.catalog().await?;
        refuse_rivals(&now, name, head, intent, manifest.parent)?;
        head = head_of(&now);
    }
}

fn changed(manifest: &Manifest) -> Vec<(String, u64, u64)> {
    let tables = manifest.tables.iter();
    let changed = tables.filter(|table| table.rows_put + table.rows_deleted > 0);
    changed
        .map(|table| {
            let name = table.table.name.to_string();
            (name, table.rows_put, table.rows_deleted)
        })
        .collect()
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
