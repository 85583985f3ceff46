//! Is every object that snapshots need there and whole?
//!
//! Always: ledgers, manifests, runs, and that every needed chunk lies in a pack that is there with
//! its length. On demand a share or all of the packs is read, and with the reader's key opened.
//! Invariant: a snapshot is recorded as verified only when nothing that it needs was found wrong.

mod repair;

pub use repair::{Repaired, repair_index};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::failure::{AnyFailure, Class, Failure};
use crate::format::ledger::{Event, Verified};
use crate::format::manifest::Manifest;
use crate::format::object::Kind;
use crate::id::{ChunkId, ObjectId, SnapshotId, SourceName};
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::repo::check::{self, Need, PackChecked};
use crate::repo::index::Kept;
use crate::repo::reader::Reader;

/// Where the file of the pack that was read last stands in the state directory.
const CURSOR_FILE: &str = "verify-cursor";

/// How much of the data is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// None: existence and lengths only.
    None,
    /// So many percent of the packs' bytes (1 to 99), going on where the last time ended.
    Percent(u8),
    /// All of it.
    All,
}

impl std::str::FromStr for Data {
    type Err = String;

    /// Reads `none`, `N%` or `all`; the error says what to write.
    fn from_str(text: &str) -> Result<Data, String> {
        match text {
            "none" | "0%" => return Ok(Data::None),
            "all" | "100%" => return Ok(Data::All),
            _ => {}
        }
        let percent = text
            .strip_suffix('%')
            .and_then(|digits| digits.parse().ok());
        match percent {
            Some(percent @ 1..=99) => Ok(Data::Percent(percent)),
            _ => Err("write none, 1% to 99%, or all".into()),
        }
    }
}

impl Data {
    fn percent(self) -> u8 {
        match self {
            Data::None => 0,
            Data::Percent(percent) => percent,
            Data::All => 100,
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The object, as its path or name.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The snapshots that it hurts.
    pub snapshots: Vec<SnapshotId>,
    /// The tables that it hurts, as `show` prints them.
    pub tables: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many snapshots were checked.
    pub snapshots: u64,
    /// How many packs they need.
    pub packs: u64,
    /// How many chunks they need.
    pub chunks: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// What the snapshots need.
#[derive(Default)]
struct Needs {
    packs: BTreeSet<ObjectId>,
    chunks: u64,
    hurt: Vec<Hurt>,
}

struct Hurt {
    object: String,
    what: String,
    snapshot: SnapshotId,
    table: Option<String>,
}

/// Checks `snapshots`.
///
/// # Errors
/// The storage's. What is damaged is no error here but a finding.
pub async fn run(
    opened: &Opened,
    snapshots: &[&Snapshot],
    data: Data,
) -> Result<Outcome, AnyFailure> {
    let work = verify(opened, snapshots, data);
    match snapshots.first() {
        // Looking at listings takes no time in which a mark could ripen.
        Some(first) if data != Data::None => opened.reading(&first.source, work).await,
        _ => work.await,
    }
}

async fn verify(
    opened: &Opened,
    snapshots: &[&Snapshot],
    data: Data,
) -> Result<Outcome, AnyFailure> {
    let start = opened.vault.clock.elapsed();
    opened.progress.stage("checking objects", None);
    let index = opened.load_index(Kept::CountsForNothing).await?;
    let damaged = index.damaged.clone();
    let reader = Arc::new(Reader::new(opened.vault.clone(), Arc::new(index)));
    let listed = check::packs_listed(&opened.vault).await?;
    let mut needs = Needs::default();
    let mut manifests = Vec::new();
    let mut walked = Walked::default();
    for snapshot in snapshots {
        match opened.manifest(snapshot).await {
            Ok(manifest) => {
                needed(&reader, &listed, &manifest, &mut walked, &mut needs).await?;
                manifests.push((snapshot.record.id, manifest));
            }
            Err(error) if error.class() == Class::Corrupt => needs.hurt.push(Hurt {
                object: format!("manifest {}", snapshot.record.manifest),
                what: error.to_string(),
                snapshot: snapshot.record.id,
                table: None,
            }),
            Err(error) => return Err(error),
        }
    }
    let mut outcome = Outcome {
        snapshots: snapshots.len() as u64,
        packs: needs.packs.len() as u64,
        chunks: needs.chunks,
        ..Outcome::default()
    };
    let damage = read_share(opened, &reader, &listed, &needs, data, &mut outcome).await?;
    if !damage.is_empty() {
        blame(&reader, &manifests, &damage, &mut needs).await;
    }
    outcome
        .findings
        .extend(damaged.into_iter().map(damaged_index));
    outcome.findings.extend(gather(needs.hurt));
    opened.progress.end();
    if !snapshots.is_empty() {
        record(opened, snapshots, data, &outcome).await;
    }
    outcome.duration = opened.vault.clock.elapsed() - start;
    Ok(outcome)
}

/// What only it knew of is told chunk by chunk, with the tables that it hurts.
fn damaged_index((id, what): (ObjectId, String)) -> Finding {
    Finding {
        object: format!("index {id}"),
        what: format!("{what}; 'rowvault verify --repair-index' makes it anew from the packs"),
        snapshots: Vec::new(),
        tables: Vec::new(),
    }
}

/// Runs that were walked, and what was wrong with each: a run that an earlier snapshot brought up
/// is not walked again.
#[derive(Default)]
struct Walked {
    runs: HashMap<ChunkId, Vec<Wrong>>,
    seen: HashSet<ChunkId>,
}

/// An object, and what is wrong with it.
type Wrong = (String, String);

/// Looks needs up as they are visited.
struct Lookup<'a> {
    reader: &'a Reader,
    listed: &'a HashMap<ObjectId, u64>,
    seen: &'a mut HashSet<ChunkId>,
    packs: &'a mut BTreeSet<ObjectId>,
    chunks: &'a mut u64,
    wrong: Vec<Wrong>,
}

impl Lookup<'_> {
    fn visit(&mut self, need: &Need) {
        if self.seen.insert(need.chunk) {
            *self.chunks += 1;
        }
        let places = self.reader.index().numbered(&need.chunk);
        match check::place_of(places.map(|(_, place)| place), self.listed, &need.chunk) {
            Ok(pack) => {
                self.packs.insert(pack);
            }
            Err(why) => self.wrong.push((format!("chunk {}", need.chunk), why)),
        }
    }
}

async fn needed(
    reader: &Reader,
    listed: &HashMap<ObjectId, u64>,
    manifest: &Manifest,
    walked: &mut Walked,
    needs: &mut Needs,
) -> Result<(), AnyFailure> {
    let mut lookup = Lookup {
        reader,
        listed,
        seen: &mut walked.seen,
        packs: &mut needs.packs,
        chunks: &mut needs.chunks,
        wrong: Vec::new(),
    };
    check::walk_structure(manifest, &mut |need| lookup.visit(&need));
    let hurt = |(object, what): Wrong, table: Option<String>| Hurt {
        object,
        what,
        snapshot: manifest.snapshot,
        table,
    };
    let of_structure = std::mem::take(&mut lookup.wrong);
    needs
        .hurt
        .extend(of_structure.into_iter().map(|wrong| hurt(wrong, None)));
    for (at, table) in manifest.tables.iter().enumerate() {
        for run in &table.stack {
            if !walked.runs.contains_key(run) {
                let visiting = &mut |need: Need| lookup.visit(&need);
                let walking = check::walk_run(reader, run, at, visiting).await;
                let mut wrong = std::mem::take(&mut lookup.wrong);
                match walking {
                    Ok(()) => {}
                    Err(error) if error.class() == Class::Corrupt => {
                        let what = AnyFailure::from(error).to_string();
                        wrong.push((format!("run {run}"), what));
                    }
                    Err(error) => return Err(error.into()),
                }
                walked.runs.insert(*run, wrong);
            }
            let name = table.table.name.to_string();
            let of_run = walked.runs.get(run).cloned().unwrap_or_default();
            let hurts = of_run
                .into_iter()
                .map(|wrong| hurt(wrong, Some(name.clone())));
            needs.hurt.extend(hurts);
        }
    }
    Ok(())
}

/// What was found damaged by reading.
#[derive(Default)]
struct Damage {
    chunks: BTreeMap<ChunkId, String>,
    packs: BTreeMap<ObjectId, String>,
}

impl Damage {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.packs.is_empty()
    }

    /// Why a chunk is not whole; none where it is, somewhere.
    fn of(&self, reader: &Reader, chunk: &ChunkId) -> Option<String> {
        if let Some(why) = self.chunks.get(chunk) {
            return Some(why.clone());
        }
        let mut why = None;
        for (_, place) in reader.index().numbered(chunk) {
            why = Some(self.packs.get(&place.pack.id)?.clone());
        }
        why
    }
}

/// Reads the share of the needed packs that `data` asks for, and gives the chunks that are not
/// whole.
async fn read_share(
    opened: &Opened,
    reader: &Arc<Reader>,
    listed: &HashMap<ObjectId, u64>,
    needs: &Needs,
    data: Data,
    outcome: &mut Outcome,
) -> Result<Damage, AnyFailure> {
    let mut damage = Damage::default();
    let share = share(opened, listed, &needs.packs, data)?;
    let bytes = share.iter().filter_map(|pack| listed.get(pack)).sum();
    opened.progress.stage("reading packs", Some(bytes));
    for pack in &share {
        let checked = read_one(reader, *pack).await?;
        outcome.bytes_read += checked.bytes;
        opened.progress.advance(checked.bytes, 0);
        if let Some(wrong) = &checked.wrong {
            outcome.findings.push(Finding {
                object: format!("pack {pack}"),
                what: wrong.clone(),
                snapshots: Vec::new(),
                tables: Vec::new(),
            });
            // Where the footer can be read, each chunk speaks for itself; else all are lost.
            if checked.chunks == 0 {
                damage.packs.insert(*pack, format!("pack {pack} {wrong}"));
            }
        }
        damage.chunks.extend(checked.damaged);
    }
    if let (Data::Percent(_), Some(last)) = (data, share.last()) {
        let sealed = opened.vault.seal(Kind::State, CURSOR_FILE, &last.0);
        let random = opened.vault.random.as_ref();
        opened.state.write(CURSOR_FILE, &sealed, random)?;
    }
    Ok(damage)
}

async fn read_one(reader: &Arc<Reader>, pack: ObjectId) -> Result<PackChecked, AnyFailure> {
    let reader = reader.clone();
    let checked = tokio::spawn(async move { check::read_pack(&reader, pack).await });
    let checked = checked
        .await
        .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
    Ok(checked?)
}

fn share(
    opened: &Opened,
    listed: &HashMap<ObjectId, u64>,
    packs: &BTreeSet<ObjectId>,
    data: Data,
) -> Result<Vec<ObjectId>, AnyFailure> {
    let percent = u64::from(data.percent());
    let length = |pack: &ObjectId| listed.get(pack).copied().unwrap_or(0);
    let all: u64 = packs.iter().map(length).sum();
    let wanted = (all * percent).div_ceil(100);
    let cursor = match data {
        Data::Percent(_) => read_cursor(opened)?,
        _ => None,
    };
    let later = packs
        .iter()
        .filter(|pack| cursor.is_none_or(|at| **pack > at));
    let earlier = packs
        .iter()
        .filter(|pack| cursor.is_some_and(|at| **pack <= at));
    let mut bytes = 0;
    let mut share = Vec::new();
    for pack in later.chain(earlier) {
        if bytes >= wanted {
            break;
        }
        bytes += length(pack);
        share.push(*pack);
    }
    Ok(share)
}

fn read_cursor(opened: &Opened) -> Result<Option<ObjectId>, AnyFailure> {
    let Some(sealed) = opened.state.read(CURSOR_FILE)? else {
        return Ok(None);
    };
    // A damaged cursor only means that reading starts from the first pack again.
    let body = opened.vault.open(Kind::State, CURSOR_FILE, &sealed).ok();
    Ok(body
        .and_then(|(_, body)| body.try_into().ok())
        .map(ObjectId))
}

/// Finds the tables that need damaged chunks.
async fn blame(
    reader: &Reader,
    manifests: &[(SnapshotId, Manifest)],
    damage: &Damage,
    needs: &mut Needs,
) {
    for (snapshot, manifest) in manifests {
        let mut hurt = Vec::new();
        let mut visit = |need: Need| {
            if let Some(why) = damage.of(reader, &need.chunk) {
                let table = need
                    .table
                    .map(|at| manifest.tables[at].table.name.to_string());
                hurt.push(Hurt {
                    object: format!("chunk {}", need.chunk),
                    what: why,
                    snapshot: *snapshot,
                    table,
                });
            }
        };
        // What cannot be walked was told already by `needed`.
        let _ = check::walk(reader, manifest, &mut HashSet::new(), &mut visit).await;
        needs.hurt.append(&mut hurt);
    }
}

/// One finding for each object, with all that it hurts.
fn gather(hurt: Vec<Hurt>) -> Vec<Finding> {
    let mut findings: BTreeMap<String, Finding> = BTreeMap::new();
    for hurt in hurt {
        let finding = findings
            .entry(hurt.object.clone())
            .or_insert_with(|| Finding {
                object: hurt.object,
                what: hurt.what,
                snapshots: Vec::new(),
                tables: Vec::new(),
            });
        if !finding.snapshots.contains(&hurt.snapshot) {
            finding.snapshots.push(hurt.snapshot);
        }
        let table = hurt.table.unwrap_or_else(|| "(structure)".into());
        if !finding.tables.contains(&table) {
            finding.tables.push(table);
        }
    }
    findings.into_values().collect()
}

/// Tells the ledgers which snapshots were found whole.
async fn record(opened: &Opened, snapshots: &[&Snapshot], data: Data, outcome: &Outcome) {
    let hurt: HashSet<SnapshotId> = outcome
        .findings
        .iter()
        .flat_map(|finding| finding.snapshots.iter().copied())
        .collect();
    let mut whole: BTreeMap<SourceName, Vec<SnapshotId>> = BTreeMap::new();
    for snapshot in snapshots {
        if !hurt.contains(&snapshot.record.id) {
            let of_source = whole.entry(snapshot.source.clone()).or_default();
            of_source.push(snapshot.record.id);
        }
    }
    for (source, snapshots) in whole {
        let event = Event::Verified(Verified {
            snapshots,
            data_percent: data.percent(),
        });
        if let Err(error) = opened.record(&source, event).await {
            let warning = format!("the ledger of {source} could not be told: {error}");
            opened.progress.warn(&warning);
        }
    }
}
