//! Documents that more than one face prints: snapshots, ledger entries, drills and failures as JSON.
//!
//! The command line and HTTP say the same thing in the same words, so the words stand here once.
//! Invariant: field names are stable, times are RFC 3339 in UTC, sizes are bytes.

use serde::Serialize;

use crate::failure::AnyFailure;
use crate::format::ledger::Event;
use crate::job::drill::Past;
use crate::repo::catalog::{Snapshot, Source};
use crate::repo::ledger::Linked;

/// A number with its thousands apart.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `number` of something, which gets an `s` where it is not one.
pub fn counted(number: u64, thing: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", count(number))
}

/// A snapshot as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotDocument {
    /// The snapshot.
    pub id: String,
    /// Its source.
    pub source: String,
    /// When the database snapshot was taken.
    pub time: String,
    /// Tables in it.
    pub tables: u64,
    /// Rows in it.
    pub rows: u64,
    /// Bytes that it added to the storage.
    pub bytes_stored: u64,
    /// When it was last found whole.
    pub verified_at: Option<String>,
}

impl SnapshotDocument {
    /// What the ledger says of a snapshot.
    pub fn new(snapshot: &Snapshot) -> SnapshotDocument {
        let (record, totals) = (&snapshot.record, &snapshot.record.totals);
        SnapshotDocument {
            id: record.id.to_string(),
            source: snapshot.source.to_string(),
            time: record.taken_at.rfc3339(),
            tables: totals.tables,
            rows: totals.rows,
            bytes_stored: totals.bytes_stored,
            verified_at: snapshot.verified_at.map(|time| time.rfc3339()),
        }
    }
}

/// The end of a ledger.
#[derive(Clone, Debug, Serialize)]
pub struct HeadDocument {
    /// The source.
    pub source: String,
    /// The number of its last entry.
    pub number: u64,
    /// BLAKE3 of that entry.
    pub hash: String,
}

impl HeadDocument {
    /// The head of a source; none where its ledger has no entry.
    pub fn of(source: &Source) -> Option<HeadDocument> {
        let head = source.head()?;
        Some(HeadDocument {
            source: source.name.to_string(),
            number: head.number,
            hash: head.hash.to_string(),
        })
    }
}

/// An entry of a ledger.
#[derive(Clone, Debug, Serialize)]
pub struct EntryDocument {
    /// The source.
    pub source: String,
    /// Its number.
    pub number: u64,
    /// The writer's clock.
    pub time: String,
    /// What happened, by kind.
    pub event: String,
    /// What it says, for people.
    pub detail: String,
    /// The writer's host.
    pub host: String,
    /// Who signed it.
    pub signer: String,
    /// Whether the keyring lets it count.
    pub counts: bool,
    /// BLAKE3 of its stored bytes.
    pub hash: String,
}

impl EntryDocument {
    /// An entry that was read.
    pub fn new(link: &Linked) -> EntryDocument {
        let entry = &link.entry;
        EntryDocument {
            source: entry.source.to_string(),
            number: entry.number,
            time: entry.time.rfc3339(),
            event: entry.event.kind().to_owned(),
            detail: detail(&entry.event),
            host: entry.host.clone(),
            signer: link.signer.to_string(),
            counts: link.counts,
            hash: link.hash.to_string(),
        }
    }
}

/// What an entry says, in a few words.
pub fn detail(event: &Event) -> String {
    match event {
        Event::Snapshot(record) => format!(
            "{}, {}",
            record.id.short(),
            counted(record.totals.rows, "row")
        ),
        Event::Forgotten(forgotten) => {
            let many = counted(forgotten.snapshots.len() as u64, "snapshot");
            format!("{many}: {}", forgotten.reason)
        }
        Event::Verified(verified) => {
            let many = counted(verified.snapshots.len() as u64, "snapshot");
            format!("{many}, {} % of the data", verified.data_percent)
        }
        Event::Restored(to) | Event::RolledBack(to) | Event::Undeleted(to) | Event::Drilled(to) => {
            format!("{} to {}", to.snapshot.short(), to.place)
        }
        Event::Pinned(one) | Event::Unpinned(one) | Event::Tagged(one) => {
            format!("{}: {}", one.snapshot.short(), one.text)
        }
        Event::Frozen(reason) | Event::Thawed(reason) => reason.text.clone(),
        Event::Requested(request) => {
            let (what, by, address) = (&request.what, &request.by, &request.address);
            format!("{what}, asked for by {by} at {address}")
        }
        Event::IntentVoided(voided) => voided.reason.clone(),
        Event::Summary(summary) => counted(summary.snapshots.len() as u64, "snapshot"),
        Event::Unknown(_) => "(written by a newer rowvault)".into(),
    }
}

/// A drill of the past.
#[derive(Clone, Debug, Serialize)]
pub struct PastDocument {
    /// When it ended.
    pub time: String,
    /// What was restored.
    pub snapshot: String,
    /// Whether all was as expected.
    pub ok: bool,
    /// How long recovering took.
    pub rto_ms: Option<u64>,
    /// How old the snapshot was.
    pub rpo_ms: Option<u64>,
    /// Rows that came back.
    pub rows: u64,
    /// The checks that failed, by name.
    pub failed: Vec<String>,
    /// Where to.
    pub place: String,
    /// Whether it began with nothing but a recovery sheet.
    pub from_recovery: bool,
    /// The host that drilled.
    pub host: String,
}

impl PastDocument {
    /// What the ledger says of a drill.
    pub fn new(past: &Past) -> PastDocument {
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        PastDocument {
            time: past.time.rfc3339(),
            snapshot: past.snapshot.to_string(),
            ok: past.ok,
            rto_ms: past.rto.map(millis),
            rpo_ms: past.rpo.map(millis),
            rows: past.rows,
            failed: past.failed.clone(),
            place: past.place.clone(),
            from_recovery: past.from_recovery,
            host: past.host.clone(),
        }
    }
}

/// A failure.
#[derive(Clone, Debug, Serialize)]
pub struct FailureDocument {
    error: FailureBody,
}

#[derive(Clone, Debug, Serialize)]
struct FailureBody {
    class: &'static str,
    message: String,
    hint: Option<String>,
}

impl FailureDocument {
    /// A failure in words.
    pub fn new(failure: &AnyFailure) -> FailureDocument {
        FailureDocument {
            error: FailureBody {
                class: failure.class().name(),
                message: failure.to_string(),
                hint: failure.hint(),
            },
        }
    }
}
