//! Leases: who may maintain a repository, and until when.
//!
//! A lease is one object, replaced only by conditional put. Holding it proves that no other
//! maintainer was admitted before `expires_at`; it does not prove that we are still in time, so
//! every destructive step asks again. Bytes: docs/format.md, "Lease".

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::Ulid;

/// The body of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Drawn by the holder.
    pub holder: Ulid,
    /// The holder's host, for people.
    pub host: String,
    /// Grows by one with each holder, so that a late one is known.
    pub fence: u64,
    /// Until when the lease holds, by the storage's clock.
    pub expires_at: Timestamp,
}

impl Lease {
    /// The body's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Error`]: undecodable, or a required feature that is not known.
    pub fn read(bytes: &[u8]) -> Result<Lease, Error> {
        read_featured(bytes, &[], "lease")
    }
}
