//! `prune`: deletes what no living snapshot needs, and marks what the next one may delete.
//!
//! What the plan is made from is read in an order that matters: intents, ledgers, index, packs. A
//! backup that is not among the intents has ended, and then the ledgers show it, or begins later,
//! and then it sees the marks. Invariant: nothing is deleted before all of it was read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::failpoint;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::intent::Purpose;
use crate::format::ledger::{Event, IntentVoided};
use crate::format::manifest::Manifest;
use crate::id::{ObjectId, SourceHash};
use crate::job::Opened;
use crate::job::maintain::{denied, lock};
use crate::planted;
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::check;
use crate::repo::index::{Index, Kept};
use crate::repo::intent::{self, Standing};
use crate::repo::lease::{Lease, storage_now};
use crate::repo::prune::{self as plans, Limits, MARGIN, Places, Plan, Stored, Survey, stored};
use crate::repo::reader::Reader;
use crate::repo::sweep::{Sweep, Swept};
use crate::repo::verdict;
use crate::store::{Listed, ObjectPath, Prefix};

/// An intent that cannot be read counts for this long.
const UNREAD_INTENT: Duration = Duration::from_secs(24 * 3600);

/// Whether anything is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// The plan is carried out.
    #[default]
    Done,
    /// The plan is only made; nothing is written.
    Planned,
}

/// Who else may maintain, where the storage does not keep conditions on writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// Any host may: the storage must keep them apart.
    #[default]
    Any,
    /// The configuration names this host as the only one.
    ThisOneOnly,
}

/// How to prune.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneRequest {
    /// How much may go.
    pub limits: Limits,
    /// Whether anything is done.
    pub effect: Effect,
    /// Who else may maintain.
    pub hosts: Hosts,
}

/// Who sees the plan.
type Tell<'a> = &'a mut (dyn FnMut(&PruneOutcome) + Send);

/// What was found and done.
#[derive(Clone, Debug, Default)]
pub struct PruneOutcome {
    /// The plan.
    pub plan: Plan,
    /// Manifests that go, or would.
    pub manifests: u64,
    /// What was done.
    pub swept: Swept,
    /// Objects whose lock was extended.
    pub locks_extended: u64,
    /// Backups that hold deletions back, by host and source.
    pub running: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Prunes the repository.
///
/// # Errors
/// Busy where somebody else maintains; Denied for a key that may not; Conflict where too much
/// would go; Corrupt where a living snapshot is damaged. Nothing was deleted then.
pub async fn prune(opened: &Opened, request: &PruneRequest) -> Result<PruneOutcome, AnyFailure> {
    prune_told(opened, request, &mut |_| {}).await
}

/// As [`prune`]; `tell` sees the plan before anything of it is done.
///
/// # Errors
/// As [`prune`].
pub async fn prune_told(
    opened: &Opened,
    request: &PruneRequest,
    tell: Tell<'_>,
) -> Result<PruneOutcome, AnyFailure> {
    let start = opened.vault.clock.elapsed();
    if !opened
        .keyring
        .may_maintain(&opened.vault.access.signer.id())
    {
        return Err(denied("prune the repository"));
    }
    let mut outcome = match request.effect {
        Effect::Planned => {
            let now = storage_now(&opened.vault).await?;
            let planned = survey(opened, request, now).await?.outcome();
            tell(&planned);
            planned
        }
        Effect::Done => {
            let may_void = check_storage(opened, request.hosts).await?;
            let vault = &opened.vault;
            let mut lease = Lease::acquire(vault, &opened.state, &opened.whoami.host).await?;
            failpoint::reach("prune: lease taken");
            let done = maintain(opened, request, &mut lease, may_void, tell).await;
            let released = lease.release(vault).await;
            let outcome = done?;
            released?;
            outcome
        }
    };
    opened.progress.end();
    outcome.duration = opened.vault.clock.elapsed() - start;
    Ok(outcome)
}

/// Whether maintenance is safe on this storage; gives whether intents may be voided.
async fn check_storage(opened: &Opened, hosts: Hosts) -> Result<bool, AnyFailure> {
    let verdict = match verdict::kept(&opened.vault, &opened.state)? {
        Some(verdict) => verdict,
        None => verdict::renew(&opened.vault, &opened.state).await?,
    };
    let consistent = verdict.read_after_write && verdict.list_after_write;
    if consistent && (verdict.maintenance() || hosts == Hosts::ThisOneOnly) {
        return Ok(verdict.several_writers());
    }
    Err(AnyFailure::new(
        Class::Invalid,
        "the storage does not keep maintainers of different hosts apart, so nothing is deleted",
        Some("docs/storage.md says what it lacks; name the one host that maintains in the configuration".into()),
    ))
}

async fn maintain(
    opened: &Opened,
    request: &PruneRequest,
    lease: &mut Lease,
    may_void: bool,
    tell: Tell<'_>,
) -> Result<PruneOutcome, AnyFailure> {
    if may_void {
        void(opened, lease.renewed_at()).await?;
    }
    let now = match planted::is("sweep by local clock") {
        true => opened.vault.clock.now(),
        false => lease.renewed_at(),
    };
    let found = survey(opened, request, now).await?;
    check_thawed(&found.catalog)?;
    let (index, manifests) = (found.index.clone(), found.manifests.clone());
    let (catalog, needed) = (found.catalog.clone(), found.plan.kept.clone());
    let mut planned = found.outcome();
    tell(&planned);
    planned.locks_extended = lock::extend(opened, &catalog, (&index, &needed), now).await?;
    opened.progress.stage("sweeping", None);
    let sweep = Sweep::new(&opened.vault, &index, lease);
    let swept = sweep.run(&planned.plan, &manifests).await?;
    for warning in &swept.warnings {
        opened.progress.warn(warning);
    }
    Ok(PruneOutcome { swept, ..planned })
}

/// Takes away the intents of backups that are dead, or that took longer than they may.
async fn void(opened: &Opened, now: Timestamp) -> Result<(), AnyFailure> {
    for standing in intent::list(&opened.vault).await? {
        let late = standing.deadline(UNREAD_INTENT) < now;
        match &standing.body {
            Some(body) if opened.whoami.knows_dead(body) => {}
            // Nothing can be committed late by who only reads.
            Some(body) if late && body.purpose == Purpose::Reading => {}
            Some(body) if late => {
                let voided = IntentVoided {
                    intent: standing.id,
                    reason: format!("the backup on {} took longer than it may", body.host),
                };
                opened
                    .record(&body.source, Event::IntentVoided(voided))
                    .await?;
            }
            None if late => {}
            _ => continue,
        }
        match intent::remove(&opened.vault, standing.id).await {
            // Whoever may delete takes it away.
            Err(error) if error.class() == Class::Denied => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// While a person has to look at a source, what was forgotten of it before may be what is needed;
/// packs are shared, so that nothing is deleted then.
fn check_thawed(catalog: &Catalog) -> Result<(), AnyFailure> {
    let frozen = catalog.sources.values().find_map(|source| {
        let why = source.frozen.as_ref()?;
        Some((&source.name, why))
    });
    let Some((name, why)) = frozen else {
        return Ok(());
    };
    Err(AnyFailure::new(
        Class::Conflict,
        format!("source {name} is frozen, and nothing is deleted: {why}"),
        Some(format!("look at it, then 'rowvault thaw {name}'")),
    ))
}

/// All that was read, and what may be done about it.
struct Found {
    catalog: Catalog,
    index: Arc<Index>,
    plan: Plan,
    manifests: Vec<(SourceHash, ObjectId)>,
    running: Vec<String>,
}

impl Found {
    fn outcome(self) -> PruneOutcome {
        PruneOutcome {
            plan: self.plan,
            manifests: self.manifests.len() as u64,
            running: self.running,
            ..PruneOutcome::default()
        }
    }
}

async fn survey(
    opened: &Opened,
    request: &PruneRequest,
    now: Timestamp,
) -> Result<Found, AnyFailure> {
    opened.progress.stage("reading what is needed", None);
    let intents = intent::list(&opened.vault).await?;
    let oldest_intent = intents.iter().map(|one| one.modified).min();
    let catalog = opened.catalog().await?;
    let index = Arc::new(index_with_marks_that_stand(opened).await?);
    let listing = opened.vault.store.list(Prefix::Packs).await?;
    let packs = stored(listing.objects);
    let reader = Reader::new(opened.vault.clone(), index.clone());
    let needed = needed(opened, &catalog, &reader, &packs).await?;
    let manifests = opened.vault.store.list(Prefix::Manifests).await?.objects;
    let dead = dead_manifests(&catalog, manifests);
    let recalled = recalled(opened, &reader, &packs, &dead).await;
    let plan = plans::plan(
        &Survey {
            now,
            oldest_intent,
            index: &index,
            needed: &needed,
            recalled: &recalled,
            packs: &packs,
        },
        &request.limits,
    )?;
    let first = oldest_intent.map_or(now, |oldest| oldest.min(now));
    // Who reads may be about to ask for the manifest of what was forgotten meanwhile.
    let read = intents.iter().any(|one| {
        let body = one.body.as_ref();
        body.is_some_and(|body| body.purpose == Purpose::Reading)
    });
    let settled = |dead: &&Dead| {
        (dead.forgotten && !read) || dead.modified.plus(request.limits.wait.max(MARGIN)) < first
    };
    let manifests = dead.iter().filter(settled).map(|dead| dead.path).collect();
    Ok(Found {
        catalog,
        index,
        plan,
        manifests,
        running: intents.iter().map(running).collect(),
    })
}

/// The index. Marks count only where the storage still has them whole, whatever is kept here: else
/// others might not see them.
async fn index_with_marks_that_stand(opened: &Opened) -> Result<Index, AnyFailure> {
    let mut index = opened.load_index(Kept::Counts).await?;
    let marking = index.objects.iter().filter(|one| !one.marks.is_empty());
    let marking: Vec<ObjectId> = marking.map(|one| one.id).collect();
    for id in marking {
        match opened.vault.fetch_index(id).await {
            Ok(_) => {}
            Err(error) if error.class() == Class::Corrupt => index.void_marks(&id),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(index)
}

fn running(standing: &Standing) -> String {
    match &standing.body {
        Some(body) => format!(
            "{} of {} on {}, since {}",
            match body.purpose {
                Purpose::Backup => "a backup",
                Purpose::Reading => "a reading",
            },
            body.source,
            body.host,
            body.started_at.rfc3339()
        ),
        None => format!("intent {}, which cannot be read", standing.id),
    }
}

/// The places of all that living snapshots need.
async fn needed(
    opened: &Opened,
    catalog: &Catalog,
    reader: &Reader,
    packs: &HashMap<ObjectId, Stored>,
) -> Result<Places, AnyFailure> {
    let mut places = Places::none(reader.index());
    let mut walked = HashSet::new();
    for snapshot in catalog.snapshots() {
        let manifest = opened.manifest(snapshot).await?;
        let mut missing = None;
        let walk = check::walk(reader, &manifest, &mut walked, &mut |need| {
            if let Err(why) = places.need(reader.index(), packs, &need.chunk) {
                missing.get_or_insert(why);
            }
        })
        .await;
        if let Some(why) = missing {
            return Err(damaged(snapshot, &why));
        }
        if let Err(error) = walk {
            return Err(match error.class() {
                Class::Corrupt => damaged(snapshot, &AnyFailure::from(error).to_string()),
                _ => error.into(),
            });
        }
    }
    Ok(places)
}

fn damaged(snapshot: &Snapshot, why: &str) -> AnyFailure {
    plans::Error::Damaged {
        what: format!(
            "snapshot {} of {} is damaged: {why}",
            snapshot.record.id.short(),
            snapshot.source
        ),
    }
    .into()
}

/// A manifest that no living snapshot has.
struct Dead {
    path: (SourceHash, ObjectId),
    modified: Timestamp,
    /// A ledger has it and says that it is forgotten; else its backup never came to its end.
    forgotten: bool,
}

fn dead_manifests(catalog: &Catalog, listed: Vec<Listed>) -> Vec<Dead> {
    let living: HashSet<ObjectId> = catalog
        .snapshots()
        .iter()
        .map(|snapshot| snapshot.record.manifest)
        .collect();
    let entries = catalog
        .sources
        .values()
        .flat_map(|source| &source.chain.entries);
    let once: HashSet<ObjectId> = entries
        .filter_map(|link| match &link.entry.event {
            Event::Snapshot(record) if link.counts => Some(record.manifest),
            _ => None,
        })
        .collect();
    let dead = listed.into_iter().filter_map(|one| match one.path {
        ObjectPath::Manifest(source, id) if !living.contains(&id) => Some(Dead {
            path: (source, id),
            modified: one.modified,
            forgotten: once.contains(&id),
        }),
        _ => None,
    });
    dead.collect()
}

/// The places of what forgotten snapshots needed. What cannot be read accounts for nothing.
async fn recalled(
    opened: &Opened,
    reader: &Reader,
    packs: &HashMap<ObjectId, Stored>,
    dead: &[Dead],
) -> Places {
    let mut places = Places::none(reader.index());
    let mut walked = HashSet::new();
    // A manifest without an entry accounts for nothing: its ledger may have been hidden from us.
    for dead in dead.iter().filter(|dead| dead.forgotten) {
        let fetched = opened.vault.fetch_manifest(dead.path.0, dead.path.1).await;
        let Ok((_, manifest)) = fetched else { continue };
        recall(reader, packs, &manifest, &mut walked, &mut places).await;
    }
    places
}

async fn recall(
    reader: &Reader,
    packs: &HashMap<ObjectId, Stored>,
    manifest: &Manifest,
    walked: &mut HashSet<crate::id::ChunkId>,
    places: &mut Places,
) {
    let index = reader.index();
    let mut visit = |need: check::Need| {
        let _ = places.need(index, packs, &need.chunk);
    };
    let _ = check::walk(reader, manifest, walked, &mut visit).await;
}
