//! Intents: backups that are running.
//!
//! An intent is made durable before its backup looks anything up, so that a sweep leaves alone
//! what the backup may build on. Invariant: an intent is removed by its own backup, passed over
//! by its own host, or voided in the source's ledger. Bytes: docs/format.md, "Intent".

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::{SourceName, Ulid};

/// The body of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The intent's own name.
    pub id: Ulid,
    /// The source that is being backed up.
    pub source: SourceName,
    /// The host, by name.
    pub host: String,
    /// The host's boot, as the operating system numbers it; empty where it does not.
    pub boot: String,
    /// The process on that host.
    pub process: u32,
    /// When that process started, in the operating system's ticks, so that a reused number shows.
    pub process_started: u64,
    /// When the backup began, by its own clock.
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
