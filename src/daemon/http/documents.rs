//! What the API answers, as JSON, where the command line has nothing of the kind.
//!
//! Invariant: as `docs/openapi.json` says, field by field; a test holds the two against each other.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::daemon::history::Past;
use crate::daemon::question::Standing;
use crate::document::{EntryDocument, HeadDocument, PastDocument, SnapshotDocument};
use crate::repo::catalog::Source;

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::rfc3339)
}

/// What may be asked for in a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only this source.
    pub source: Option<String>,
    /// So many at most, the newest.
    pub limit: Option<usize>,
}

/// What may be asked for of runs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunsQuery {
    /// Only this source.
    pub source: Option<String>,
    /// Only this task.
    pub task: Option<String>,
    /// So many at most, the newest.
    pub limit: Option<usize>,
}

/// Whose backup or drill is to begin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBody {
    /// The source.
    pub source: String,
}

/// Whose freeze is to end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThawBody {
    /// The source.
    pub source: String,
    /// What was found.
    #[serde(default)]
    pub reason: String,
}

/// A source, in the configuration or the repository.
#[derive(Debug, Serialize)]
pub struct SourceDocument {
    source: String,
    configured: bool,
    snapshots: usize,
    newest: Option<SnapshotDocument>,
    verified_at: Option<String>,
    frozen: Option<String>,
    head: Option<HeadDocument>,
    next_backup: Option<String>,
    good_at: Option<String>,
    failing_since: Option<String>,
}

impl SourceDocument {
    /// What the repository and the board know of a source.
    pub fn new(name: &str, living: Option<&Source>, backup: Option<&Standing>) -> SourceDocument {
        let snapshots = living.map(|source| source.snapshots.as_slice());
        let snapshots = snapshots.unwrap_or_default();
        let verified_at = snapshots.iter().filter_map(|one| one.verified_at).max();
        SourceDocument {
            source: name.to_owned(),
            configured: backup.is_some(),
            snapshots: snapshots.len(),
            newest: snapshots.last().map(SnapshotDocument::new),
            verified_at: time(verified_at),
            frozen: living.and_then(|source| source.frozen.clone()),
            head: living.and_then(HeadDocument::of),
            next_backup: time(backup.and_then(|job| job.next)),
            good_at: time(backup.and_then(|job| job.good_at)),
            failing_since: time(backup.and_then(|job| job.failing_since)),
        }
    }
}

/// Sources.
#[derive(Debug, Serialize)]
pub struct SourcesDocument {
    /// By name.
    pub sources: Vec<SourceDocument>,
}

/// Snapshots.
#[derive(Debug, Serialize)]
pub struct SnapshotsDocument {
    /// The newest first.
    pub snapshots: Vec<SnapshotDocument>,
}

/// A run that ended.
#[derive(Debug, Serialize)]
pub struct RunDocument {
    job: String,
    task: &'static str,
    source: Option<String>,
    planned: String,
    attempt: u32,
    started_at: String,
    ended_at: String,
    ok: bool,
    failure: Option<String>,
    told: String,
}

impl RunDocument {
    /// What the history knows of a run.
    pub fn new(past: &Past) -> RunDocument {
        RunDocument {
            job: past.job.clone(),
            task: past.task.name(),
            source: past.source.clone(),
            planned: past.planned.rfc3339(),
            attempt: past.attempt,
            started_at: past.started_at.rfc3339(),
            ended_at: past.ended_at.rfc3339(),
            ok: past.failure.is_none(),
            failure: past.failure.clone(),
            told: past.told.clone(),
        }
    }
}

/// Runs.
#[derive(Debug, Serialize)]
pub struct RunsDocument {
    /// The newest first.
    pub runs: Vec<RunDocument>,
}

/// A job, and when it is due.
#[derive(Debug, Serialize)]
pub struct JobDocument {
    job: String,
    task: &'static str,
    source: Option<String>,
    next: Option<String>,
    running: bool,
    good_at: Option<String>,
    failing_since: Option<String>,
}

impl JobDocument {
    /// A job as it stands.
    pub fn new(job: &Standing) -> JobDocument {
        JobDocument {
            job: job.job.clone(),
            task: job.task.name(),
            source: job.source.clone(),
            next: time(job.next),
            running: job.runs,
            good_at: time(job.good_at),
            failing_since: time(job.failing_since),
        }
    }
}

/// Jobs.
#[derive(Debug, Serialize)]
pub struct JobsDocument {
    /// The one that is due first at the top, those that are not at the end.
    pub jobs: Vec<JobDocument>,
}

/// A drill of a source.
#[derive(Debug, Serialize)]
pub struct DrillDocument {
    /// The source.
    pub source: String,
    /// What came of it.
    #[serde(flatten)]
    pub past: PastDocument,
}

/// Drills.
#[derive(Debug, Serialize)]
pub struct DrillsDocument {
    /// The newest first.
    pub drills: Vec<DrillDocument>,
}

/// Ledgers.
#[derive(Debug, Serialize)]
pub struct LedgerDocument {
    /// Their ends.
    pub heads: Vec<HeadDocument>,
    /// Their entries, the newest first.
    pub entries: Vec<EntryDocument>,
}

/// A job that begins.
#[derive(Debug, Serialize)]
pub struct StartedDocument {
    /// Its name.
    pub job: String,
    /// The entry that says who asked.
    pub entry: HeadDocument,
}

/// A freeze that ended.
#[derive(Debug, Serialize)]
pub struct ThawedDocument {
    /// The source.
    pub thawed: String,
    /// Why it was frozen.
    pub was: String,
}
