//! `forget`: takes snapshots out of the living, by a policy.
//!
//! Times are those at which the storage got the manifests, not what a host says. Invariant: the
//! entry is added behind the very ledger that the policy was applied to, so that nothing that was
//! pinned or taken meanwhile is judged by an old picture.

use std::collections::HashMap;
use std::time::Duration;

use chrono_tz::Tz;

use crate::clock::Timestamp;
use crate::failpoint;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Forgotten};
use crate::id::{ObjectId, SnapshotId, SourceName};
use crate::job::Opened;
use crate::job::maintain::denied;
use crate::repo::catalog::{Catalog, Snapshot, Source};
use crate::repo::lease::storage_now;
use crate::repo::ledger::Appended;
use crate::retention::{Candidate, Dated, Kept, Policy, judge};
use crate::store::{ObjectPath, Prefix};

/// A host's time of a snapshot is believed when the storage got it within this time after.
const TAKING_MAX: Duration = Duration::from_secs(48 * 3600);
/// Clocks may differ by this much.
const SKEW_MAX: Duration = Duration::from_secs(3600);
/// How often it is tried again when others add to the same ledger.
const RACES_MAX: usize = 16;

/// Whose word on the time of a snapshot counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// The storage's; where the host that took the snapshot says something else, it is kept.
    #[default]
    Stored,
    /// The host's: for a repository that was copied, whose objects are all of one day.
    Taken,
}

/// What to keep of one source.
#[derive(Clone, Debug)]
pub struct ForgetSource {
    /// The source.
    pub name: SourceName,
    /// What is kept.
    pub policy: Policy,
    /// Whose days and weeks count.
    pub zone: Tz,
}

/// What to forget.
#[derive(Clone, Debug)]
pub struct ForgetRequest {
    /// By source.
    pub sources: Vec<ForgetSource>,
    /// Whose word on times counts.
    pub times: Times,
    /// Whether to say only what would be done.
    pub dry_run: bool,
}

/// A snapshot that stays.
#[derive(Clone, Debug)]
pub struct KeptSnapshot {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Why.
    pub reasons: Vec<Kept>,
}

/// What was kept and forgotten.
#[derive(Clone, Debug, Default)]
pub struct ForgetOutcome {
    /// Snapshots that stay, oldest first, source by source.
    pub kept: Vec<KeptSnapshot>,
    /// Snapshots that were (or would be) forgotten.
    pub forgotten: Vec<Snapshot>,
}

/// Applies the policies.
///
/// # Errors
/// Invalid for a policy that keeps nothing; Denied for a key that may not forget; Conflict for a
/// source that is frozen; Missing for one that does not exist.
pub async fn forget(opened: &Opened, request: &ForgetRequest) -> Result<ForgetOutcome, AnyFailure> {
    forget_told(opened, request, &mut |_| {}).await
}

/// As [`forget`]; `tell` sees the plan before anything of it is done.
///
/// # Errors
/// As [`forget`].
pub async fn forget_told(
    opened: &Opened,
    request: &ForgetRequest,
    tell: &mut (dyn FnMut(&ForgetOutcome) + Send),
) -> Result<ForgetOutcome, AnyFailure> {
    for source in &request.sources {
        if source.policy.is_empty() {
            return Err(AnyFailure::new(
                Class::Invalid,
                format!("nothing says which snapshots of {} to keep", source.name),
                Some(
                    "say it: --keep-daily 14 --keep-weekly 8, or keep = {…} in the configuration"
                        .into(),
                ),
            ));
        }
    }
    let mut all = Vec::new();
    // Every source is judged before any is touched.
    let catalog = opened.catalog().await?;
    for source in &request.sources {
        all.push(judged(opened, &catalog, source, request.times).await?);
    }
    let mut plan = ForgetOutcome::default();
    all.iter().cloned().for_each(|judged| plan.add(judged));
    tell(&plan);
    failpoint::reach("forget: planned");
    let mut outcome = ForgetOutcome::default();
    for (source, mut judged) in request.sources.iter().zip(all) {
        if !request.dry_run && !judged.forgotten.is_empty() {
            judged = enter(opened, &catalog, source, request.times, judged).await?;
        }
        outcome.add(judged);
    }
    Ok(outcome)
}

impl ForgetOutcome {
    fn add(&mut self, other: ForgetOutcome) {
        self.kept.extend(other.kept);
        self.forgotten.extend(other.forgotten);
    }
}

/// Adds the entry, and judges anew for as long as others add theirs.
async fn enter(
    opened: &Opened,
    catalog: &Catalog,
    source: &ForgetSource,
    times: Times,
    mut judged_now: ForgetOutcome,
) -> Result<ForgetOutcome, AnyFailure> {
    let mut catalog = catalog.clone();
    for _ in 0..RACES_MAX {
        if judged_now.forgotten.is_empty() {
            return Ok(judged_now);
        }
        let ids: Vec<SnapshotId> = judged_now
            .forgotten
            .iter()
            .map(|one| one.record.id)
            .collect();
        let event = Event::Forgotten(Forgotten {
            snapshots: ids,
            reason: "retention".into(),
        });
        let head = catalog.source(&source.name)?.head();
        let appended = opened.append(&catalog, &source.name, head, event).await?;
        if let Appended::Ours(_) = appended {
            failpoint::reach("forget: entry stored");
            return Ok(judged_now);
        }
        catalog = opened.catalog().await?;
        judged_now = judged(opened, &catalog, source, times).await?;
    }
    Err(AnyFailure::new(
        Class::Busy,
        format!(
            "the ledger of {} grows faster than an entry can be added",
            source.name
        ),
        Some("run the command again".into()),
    ))
}

async fn judged(
    opened: &Opened,
    catalog: &Catalog,
    wanted: &ForgetSource,
    times: Times,
) -> Result<ForgetOutcome, AnyFailure> {
    let source = catalog.source(&wanted.name)?;
    check(opened, source)?;
    let stored = stored_times(opened, source).await?;
    let until = source
        .snapshots
        .iter()
        .flat_map(|one| &one.pins)
        .any(|pin| pin.until.is_some());
    let now = match until {
        true => Some(storage_now(&opened.vault).await?),
        false => None,
    };
    let candidates: Vec<Candidate> = source
        .snapshots
        .iter()
        .map(|snapshot| candidate(snapshot, &stored, times, now))
        .collect();
    let mut outcome = ForgetOutcome::default();
    let reasons = judge(&candidates, &wanted.policy, wanted.zone);
    for (snapshot, reasons) in source.snapshots.iter().zip(reasons) {
        let snapshot = snapshot.clone();
        match reasons.is_empty() {
            true => outcome.forgotten.push(snapshot),
            false => outcome.kept.push(KeptSnapshot { snapshot, reasons }),
        }
    }
    Ok(outcome)
}

fn check(opened: &Opened, source: &Source) -> Result<(), AnyFailure> {
    let signer = opened.vault.access.signer.id();
    let next = source.head().map_or(1, |head| head.number + 1);
    if !opened.keyring.may_forget(&signer, &source.name, next) {
        return Err(denied(&format!("forget snapshots of {}", source.name)));
    }
    match &source.frozen {
        None => Ok(()),
        Some(why) => Err(AnyFailure::new(
            Class::Conflict,
            format!(
                "source {} is frozen, and nothing of it is forgotten: {why}",
                source.name
            ),
            Some(format!("look at it, then 'rowvault thaw {}'", source.name)),
        )),
    }
}

/// When the storage got the manifests of a source.
async fn stored_times(
    opened: &Opened,
    source: &Source,
) -> Result<HashMap<ObjectId, Timestamp>, AnyFailure> {
    let prefix = Prefix::ManifestsOf(source.hash);
    let listing = opened.vault.store.list(prefix).await?;
    let times = listing.objects.iter().filter_map(|one| match one.path {
        ObjectPath::Manifest(_, id) => Some((id, one.modified)),
        _ => None,
    });
    Ok(times.collect())
}

fn candidate(
    snapshot: &Snapshot,
    stored: &HashMap<ObjectId, Timestamp>,
    times: Times,
    now: Option<Timestamp>,
) -> Candidate {
    let record = &snapshot.record;
    let taken = record.taken_at;
    let in_force =
        |until: Option<Timestamp>| until.is_none_or(|end| now.is_none_or(|now| now <= end));
    let pin = snapshot.pins.iter().find(|pin| in_force(pin.until));
    Candidate {
        id: record.id,
        at: match (times, stored.get(&record.manifest)) {
            (Times::Taken, _) => Dated::At(taken),
            (Times::Stored, Some(stored)) => dated(taken, *stored),
            // Its manifest is gone: nothing is known, and nothing is decided.
            (Times::Stored, None) => Dated::Doubtful(taken),
        },
        tags: record.tags.clone(),
        pinned: pin.map(|pin| pin.text.clone()),
        verified: snapshot.verified_at.is_some(),
    }
}

fn dated(taken: Timestamp, stored: Timestamp) -> Dated {
    let late = stored.since(taken) > TAKING_MAX;
    let early = taken.since(stored) > SKEW_MAX;
    match late || early {
        true => Dated::Doubtful(stored),
        false => Dated::At(stored),
    }
}
