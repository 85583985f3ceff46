//! Intents: backups and readings that are running.
//!
//! An intent is made durable before its backup looks anything up, so that a sweep leaves alone
//! what the backup may build on, or a restore still reads. Invariant: an intent is removed by its
//! own process, passed over by its own host, or voided; that of a backup, in the source's ledger.
//! Bytes: docs/format.md, "Intents and leases".

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::{SourceName, Ulid};

/// What is being done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A snapshot is being taken.
    #[default]
    Backup,
    /// Snapshots are being read: restored, verified, exported.
    Reading,
}

impl Purpose {
    fn is_backup(&self) -> bool {
        *self == Purpose::Backup
    }
}

/// The body of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The intent's own name.
    pub id: Ulid,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Purpose::is_backup")]
    pub purpose: Purpose,
    /// The source that is being backed up or read.
    pub source: SourceName,
    /// The host, by name.
    pub host: String,
    /// The host's boot, as the operating system numbers it; empty where it does not.
    pub boot: String,
    /// The process on that host.
    pub process: u32,
    /// When that process started, in the operating system's ticks, so that a reused number shows.
    pub process_started: u64,
    /// When it began, by its own clock.
    pub started_at: Timestamp,
    /// After this the intent may be voided, by the storage's clock.
    pub deadline: Timestamp,
}

impl Intent {
    /// The body's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Error`]: undecodable, or a required feature that is not known.
    pub fn read(bytes: &[u8]) -> Result<Intent, Error> {
        read_featured(bytes, &[], "intent")
    }
}
