//! Manifests: what a snapshot consists of.
//!
//! A manifest names, for each table, its stack of runs, and holds the structure as data, counts,
//! digests and the facts of the capture. Invariant: with a manifest and the packs, a snapshot
//! restores by itself. Bytes: docs/format.md, "Manifest".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::object::{Error, read_featured, write_body};
use crate::id::{ChunkId, Digest, SnapshotId, SourceName};
use crate::row::schema::{Engine, Table};

/// How a snapshot found out what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every row was read into new base runs.
    Full,
    /// Every row was read, and only the difference from the shadow was written.
    Rows,
    /// PostgreSQL said which rows changed.
    Proof,
}

impl Mode {
    /// The mode as JSON and tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Full => "full",
            Mode::Rows => "rows",
            Mode::Proof => "proof",
        }
    }
}

/// The order that a table's rows are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredOrder {
    /// By canonical key.
    Key,
    /// As the rows lay in the source.
    Physical,
}

/// A table in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestTable {
    /// What the table looks like.
    pub table: Table,
    /// The order of its rows.
    pub order: StoredOrder,
    /// Its runs, oldest (the base) first; empty where only the structure was captured.
    pub stack: Vec<ChunkId>,
    /// Rows in the table at the snapshot.
    pub rows: u64,
    /// Order-free sum of the rows' digests.
    pub digest: Digest,
    /// Bytes of the canonical rows of the whole table.
    pub bytes_raw: u64,
    /// Sealed bytes that this snapshot added for the table.
    pub bytes_stored: u64,
    /// Rows put and keys deleted against the snapshot before; all rows in a full one.
    pub rows_put: u64,
    /// Keys deleted against the snapshot before.
    pub rows_deleted: u64,
}

/// A piece of structure at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureReference {
    /// What it is.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// Its chunks in order.
    pub chunks: Vec<ChunkId>,
}

/// What a backup did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Tables.
    pub tables: u64,
    /// Rows in all tables.
    pub rows: u64,
    /// Rows put.
    pub rows_put: u64,
    /// Keys deleted.
    pub rows_deleted: u64,
    /// Bytes of rows read from the source.
    pub bytes_read: u64,
    /// Bytes of packs written.
    pub bytes_stored: u64,
    /// Chunks written.
    pub chunks_new: u64,
    /// Chunks found in the repository.
    pub chunks_reused: u64,
}

/// The body of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The source.
    pub source: SourceName,
    /// The engine.
    pub engine: Engine,
    /// When the database snapshot was taken.
    pub taken_at: Timestamp,
    /// How it found out what changed.
    pub mode: Mode,
    /// The snapshot that it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// The tables, sorted by name.
    pub tables: Vec<ManifestTable>,
    /// Structure that only the engine understands.
    pub structure: Vec<StructureReference>,
    /// Facts of the capture.
    pub facts: BTreeMap<String, String>,
    /// What was not as it should be, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The host that took it.
    pub host: String,
    /// The program that took it, with its version.
    pub program: String,
    /// What the backup did.
    pub totals: Totals,
}

impl Manifest {
    /// The body's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Error`]: undecodable, or a required feature that is not known.
    pub fn read(bytes: &[u8]) -> Result<Manifest, Error> {
        read_featured(bytes, &[], "manifest")
    }
}
