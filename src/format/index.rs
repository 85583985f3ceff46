//! Indexes: which chunk lies in which pack.
//!
//! An index object lists some packs with their footers, the indexes that it replaces, and the
//! packs that maintenance has marked as unneeded. Invariant: indexes only add up; a chunk's place
//! is found in any of them. Bytes: docs/format.md, "Index".

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::{ObjectId, SignerId};

/// A pack and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPack {
    /// The pack.
    pub pack: ObjectId,
    /// Length of the whole object.
    pub length: u64,
    /// The session records of its head, so that a chunk needs no second read.
    #[serde(with = "serde_bytes")]
    pub sessions: Vec<u8>,
    /// The footer's plain bytes (`pack::Footer::write`).
    #[serde(with = "serde_bytes")]
    pub footer: Vec<u8>,
    /// On whose word it stands here, where a maintainer wrote down what another had indexed; none:
    /// on that of who signed this object. Believed from maintainers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerId>,
}

/// A pack that nothing needs, waiting to be swept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The pack.
    pub pack: ObjectId,
    /// When it was marked, by the storage's clock.
    pub marked_at: Timestamp,
}

/// The body of an index object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Packs and what they hold.
    pub packs: Vec<IndexedPack>,
    /// Index objects that this one replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<ObjectId>,
    /// Packs marked as unneeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<Mark>,
}

impl Index {
    /// The body's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Error`]: undecodable, or a required feature that is not known.
    pub fn read(bytes: &[u8]) -> Result<Index, Error> {
        read_featured(bytes, &[], "index")
    }
}
