//! Ledgers: everything that happened to a source, one signed entry after the other.
//!
//! An entry names the hash of the one before, so that nothing can be taken out of the middle, and
//! the heads of all sources that its writer knows, so that nothing can be left off the end unseen.
//! Invariant: an entry, once written, is never replaced. Bytes: docs/format.md, "Ledger".

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::manifest::{Mode, Totals};
use crate::format::object::{Error, read_body, write_body};
use crate::id::{ObjectId, SnapshotId, SourceHash, SourceName, Ulid};

/// Every entry whose number is a multiple of this one is a summary.
pub const SUMMARY_EVERY: u64 = 1000;

/// The last entry of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Its number, from 1.
    pub number: u64,
    /// BLAKE3 of the entry's stored bytes.
    pub hash: ObjectId,
}

/// A snapshot, with all that `snapshots` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its manifest.
    pub manifest: ObjectId,
    /// When the database snapshot was taken.
    pub taken_at: Timestamp,
    /// How it found out what changed.
    pub mode: Mode,
    /// What the backup did.
    pub totals: Totals,
    /// Tags given by the person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Why this record replaces an earlier one of the same id (erasure).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// Snapshots that were taken out of the living.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Why, in a sentence.
    pub reason: String,
}

/// A verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The snapshots that were found whole.
    pub snapshots: Vec<SnapshotId>,
    /// Share of their data that was opened and hashed, in percent; 0: existence and sealed hashes.
    pub data_percent: u8,
}

/// A snapshot that was brought back somewhere (restored, rolled back, undeleted, drilled).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Where to, without a password.
    pub place: String,
    /// Rows written.
    pub rows: u64,
    /// More facts, by name (durations, names of what was kept, keys by table, outcome of checks).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// A snapshot whose treatment changed (pinned, unpinned, tagged).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Treated {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The tag, or why it is pinned.
    pub text: String,
    /// Until when it holds; without an end where none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why a source was frozen or thawed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// In a sentence.
    pub text: String,
}

/// Something that somebody asked the daemon for, from another program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// What, as the job is called.
    pub what: String,
    /// The name of the token.
    pub by: String,
    /// The address that it came from.
    pub address: String,
}

/// An intent that no longer counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentVoided {
    /// The intent.
    pub intent: Ulid,
    /// Why, in a sentence.
    pub reason: String,
}

/// The living at this entry, so that a new client need not read years.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Living snapshots, oldest first.
    pub snapshots: Vec<SnapshotRecord>,
    /// When each was last verified.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verified_at: BTreeMap<String, Timestamp>,
    /// Pins in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Treated>,
    /// Why the source is frozen, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Reason>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A snapshot was taken: this entry is its commit point.
    Snapshot(SnapshotRecord),
    /// Snapshots were taken out of the living.
    Forgotten(Forgotten),
    /// Snapshots were found whole.
    Verified(Verified),
    /// A snapshot was restored.
    Restored(Recovered),
    /// A live database was put back to a snapshot.
    RolledBack(Recovered),
    /// Records were brought back into a live database.
    Undeleted(Recovered),
    /// A restore was rehearsed.
    Drilled(Recovered),
    /// A snapshot is kept from retention.
    Pinned(Treated),
    /// A pin was taken away.
    Unpinned(Treated),
    /// A snapshot was tagged.
    Tagged(Treated),
    /// Retention stands still until a person has looked.
    Frozen(Reason),
    /// The freeze ended.
    Thawed(Reason),
    /// Somebody asked the daemon for something.
    Requested(Requested),
    /// A dead backup's intent no longer counts.
    IntentVoided(IntentVoided),
    /// A summary of the living.
    Summary(Summary),
    /// A kind that this program does not know and may skip.
    Unknown(String),
}

/// An entry of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// Hash of the entry before; none for the first.
    pub previous: Option<ObjectId>,
    /// The source.
    pub source: SourceName,
    /// Drawn by the writer, so that it knows its own entry again.
    pub token: Ulid,
    /// The writer's clock.
    pub time: Timestamp,
    /// The writer's host.
    pub host: String,
    /// Heads of all sources that the writer knows, this one's before this entry included. No map:
    /// ledgers are read whole, and one for each entry would take most of the memory.
    pub heads: Vec<(SourceHash, Head)>,
    /// What happened.
    pub event: Event,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    number: u64,
    previous: Option<ObjectId>,
    source: SourceName,
    token: Ulid,
    time: Timestamp,
    host: String,
    heads: Vec<(SourceHash, Head)>,
    kind: String,
    required: bool,
    #[serde(with = "serde_bytes")]
    event: Vec<u8>,
}

impl Event {
    /// The kind, as it is stored and as JSON prints it.
    pub fn kind(&self) -> &str {
        match self {
            Event::Snapshot(_) => "snapshot",
            Event::Forgotten(_) => "forgotten",
            Event::Verified(_) => "verified",
            Event::Restored(_) => "restored",
            Event::RolledBack(_) => "rolled_back",
            Event::Undeleted(_) => "undeleted",
            Event::Drilled(_) => "drilled",
            Event::Pinned(_) => "pinned",
            Event::Unpinned(_) => "unpinned",
            Event::Tagged(_) => "tagged",
            Event::Frozen(_) => "frozen",
            Event::Thawed(_) => "thawed",
            Event::Requested(_) => "requested",
            Event::IntentVoided(_) => "intent_voided",
            Event::Summary(_) => "summary",
            Event::Unknown(kind) => kind,
        }
    }

    /// Whether a reader that does not know the kind must stop.
    fn is_required(&self) -> bool {
        !matches!(
            self,
            Event::Verified(_)
                | Event::Restored(_)
                | Event::RolledBack(_)
                | Event::Undeleted(_)
                | Event::Drilled(_)
                | Event::Requested(_)
                | Event::Unknown(_)
        )
    }

    /// Whether it can take something out of the living, or out of what keeps it there: it counts
    /// only from who may forget.
    pub fn takes_away(&self) -> bool {
        match self {
            Event::Snapshot(record) => record.replaces.is_some(),
            Event::Forgotten(_) | Event::Unpinned(_) | Event::Thawed(_) | Event::Summary(_) => true,
            _ => false,
        }
    }

    fn write(&self) -> Vec<u8> {
        match self {
            Event::Snapshot(data) => write_body(data),
            Event::Forgotten(data) => write_body(data),
            Event::Verified(data) => write_body(data),
            Event::Restored(data)
            | Event::RolledBack(data)
            | Event::Undeleted(data)
            | Event::Drilled(data) => write_body(data),
            Event::Pinned(data) | Event::Unpinned(data) | Event::Tagged(data) => write_body(data),
            Event::Frozen(data) | Event::Thawed(data) => write_body(data),
            Event::Requested(data) => write_body(data),
            Event::IntentVoided(data) => write_body(data),
            Event::Summary(data) => write_body(data),
            Event::Unknown(_) => Vec::new(),
        }
    }

    fn read(kind: &str, required: bool, bytes: &[u8]) -> Result<Event, Error> {
        fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
            read_body(bytes, "ledger entry")
        }
        Ok(match kind {
            "snapshot" => Event::Snapshot(body(bytes)?),
            "forgotten" => Event::Forgotten(body(bytes)?),
            "verified" => Event::Verified(body(bytes)?),
            "restored" => Event::Restored(body(bytes)?),
            "rolled_back" => Event::RolledBack(body(bytes)?),
            "undeleted" => Event::Undeleted(body(bytes)?),
            "drilled" => Event::Drilled(body(bytes)?),
            "pinned" => Event::Pinned(body(bytes)?),
            "unpinned" => Event::Unpinned(body(bytes)?),
            "tagged" => Event::Tagged(body(bytes)?),
            "frozen" => Event::Frozen(body(bytes)?),
            "thawed" => Event::Thawed(body(bytes)?),
            "requested" => Event::Requested(body(bytes)?),
            "intent_voided" => Event::IntentVoided(body(bytes)?),
            "summary" => Event::Summary(body(bytes)?),
            other if required => {
                return Err(Error::Feature {
                    what: "ledger entry",
                    feature: other.to_owned(),
                });
            }
            other => Event::Unknown(other.to_owned()),
        })
    }
}

impl Entry {
    /// The entry's bytes, before sealing.
    pub fn write(&self) -> Vec<u8> {
        write_body(&Stored {
            number: self.number,
            previous: self.previous,
            source: self.source.clone(),
            token: self.token,
            time: self.time,
            host: self.host.clone(),
            heads: self.heads.clone(),
            kind: self.event.kind().to_owned(),
            required: self.event.is_required(),
            event: self.event.write(),
        })
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`Error`]: undecodable, or of an unknown kind that must be understood.
    pub fn read(bytes: &[u8]) -> Result<Entry, Error> {
        let stored: Stored = read_body(bytes, "ledger entry")?;
        if stored.number == 0 || (stored.number == 1) != stored.previous.is_none() {
            return Err(Error::Field {
                what: "ledger entry",
                field: "number",
                value: stored.number,
            });
        }
        Ok(Entry {
            number: stored.number,
            previous: stored.previous,
            source: stored.source,
            token: stored.token,
            time: stored.time,
            host: stored.host,
            heads: stored.heads,
            event: Event::read(&stored.kind, stored.required, &stored.event)?,
        })
    }
}
