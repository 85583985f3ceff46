//! Runs: sorted rows and deletions of one table, described.
//!
//! A run's description names every chunk that the run needs, so that a sweep opens no row. A long
//! run is described in pages. Invariant: chunks stand in key order and their key ranges do not
//! overlap. Bytes: docs/format.md, "Run".

use serde::{Deserialize, Serialize};

use crate::format::object::{Error, read_body, read_featured, write_body};
use crate::id::{ChunkId, Digest};

/// A page holds at most this many chunks, and so does a description without pages.
pub const PAGE_CHUNKS_MAX: usize = 1024;
/// A writer closes a page when it has this many chunks.
const PAGE_CHUNKS_FULL: usize = 256;
/// A page is not closed before it has this many chunks, unless the run ends.
const PAGE_CHUNKS_MIN: usize = 32;

/// Whether a page with `length` chunks ends with the chunk `name`: decided by the name, so that
/// a run that changed in one place keeps its other pages.
pub fn page_ends(length: usize, name: &ChunkId) -> bool {
    let drawn = u16::from_le_bytes([name.0[0], name.0[1]]);
    length >= PAGE_CHUNKS_FULL || (length >= PAGE_CHUNKS_MIN && drawn.is_multiple_of(64))
}

/// Whether a run holds all rows of a table or what changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Every row at one instant; no deletions.
    Base,
    /// Rows put and keys deleted since the runs below.
    Delta,
}

/// A cell that was cut out of its row, and the chunks that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeCell {
    /// Keyed digest of the whole cell, as its row names it.
    pub digest: Digest,
    /// Length in bytes.
    pub length: u64,
    /// Its chunks in order.
    pub chunks: Vec<ChunkId>,
}

/// A filter over the values of one column in one chunk, so that a reader may skip the chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnFilter {
    /// Position of the column.
    pub column: u32,
    /// A filter over keyed hashes of the values (docs/format.md, "Filters").
    #[serde(with = "serde_bytes")]
    pub bits: Vec<u8>,
}

/// A chunk of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChunk {
    /// The chunk's name.
    pub name: ChunkId,
    /// Canonical key of the first row or deletion, or a key before it: where a range of a base run
    /// was rewritten, the place where that range began. Empty where the table has no key.
    #[serde(with = "serde_bytes")]
    pub first: Vec<u8>,
    /// Canonical key of the last row or deletion.
    #[serde(with = "serde_bytes")]
    pub last: Vec<u8>,
    /// Rows put.
    pub puts: u32,
    /// Keys deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deletions: u32,
    /// Bytes of canonical rows and deleted keys.
    pub bytes: u32,
    /// In a base run: delta runs up to this sequence are in this chunk already, and what they say
    /// of keys from its first to the next chunk's first (from the very first, to the very last)
    /// counts no more.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub covers: u64,
    /// Large cells of its rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<LargeCell>,
    /// Filters over columns of relations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<ColumnFilter>,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn is_nothing(value: &u64) -> bool {
    *value == 0
}

/// A page of a long run: some of its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageReference {
    /// Name of the page's chunk.
    pub name: ChunkId,
    /// Canonical key of its first row or deletion.
    #[serde(with = "serde_bytes")]
    pub first: Vec<u8>,
    /// Canonical key of its last row or deletion.
    #[serde(with = "serde_bytes")]
    pub last: Vec<u8>,
    /// How many chunks it describes.
    pub chunks: u32,
}

/// The description of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Features that must be known to read on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Base or delta.
    pub kind: RunKind,
    /// 0 for a base and for a fresh delta; a fold of eight of tier n has n + 1.
    pub tier: u8,
    /// Its place in time among the runs of its table: 0 for a new base, and more than that of any
    /// run below for each run written later; a fold has that of its newest part.
    pub sequence: u64,
    /// The largest `covers` of its chunks: where a delta's sequence is above it, no base range
    /// needs to be looked at.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub covers_max: u64,
    /// How many cells a row has.
    pub columns: u32,
    /// Rows put.
    pub puts: u64,
    /// Keys deleted.
    pub deletions: u64,
    /// Bytes of canonical rows and deleted keys.
    pub bytes: u64,
    /// The chunks, where there are no pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<RunChunk>,
    /// The pages of a long run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<PageReference>,
    /// Dictionaries that its chunks may need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dictionaries: Vec<ChunkId>,
    /// A Bloom filter over the canonical keys (delta runs), 10 bits a key.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub key_filter: Option<Vec<u8>>,
}

impl Run {
    /// The description's bytes.
    pub fn write(&self) -> Vec<u8> {
        write_body(self)
    }

    /// Reads a description.
    ///
    /// # Errors
    /// [`Error`]: undecodable, a required feature that is not known, or chunks and pages at once.
    pub fn read(bytes: &[u8]) -> Result<Run, Error> {
        let run: Run = read_featured(bytes, &[], "run")?;
        if !run.pages.is_empty() && !run.chunks.is_empty() {
            return Err(Error::Field {
                what: "run",
                field: "pages beside chunks",
                value: run.pages.len() as u64,
            });
        }
        check_order(&run.chunks)?;
        Ok(run)
    }
}

/// The bytes of one chunk's description, as a shadow keeps it.
pub fn write_chunk(chunk: &RunChunk) -> Vec<u8> {
    write_body(chunk)
}

/// Reads one chunk's description.
///
/// # Errors
/// [`Error`]: undecodable.
pub fn read_chunk(bytes: &[u8]) -> Result<RunChunk, Error> {
    read_body(bytes, "run chunk")
}

/// The bytes of a page.
pub fn write_page(chunks: &[RunChunk]) -> Vec<u8> {
    write_body(&chunks)
}

/// Reads a page.
///
/// # Errors
/// [`Error`]: undecodable, too many chunks, or chunks out of key order.
pub fn read_page(bytes: &[u8]) -> Result<Vec<RunChunk>, Error> {
    let chunks: Vec<RunChunk> = read_body(bytes, "run page")?;
    if chunks.len() > PAGE_CHUNKS_MAX {
        return Err(Error::Field {
            what: "run page",
            field: "chunk count",
            value: chunks.len() as u64,
        });
    }
    check_order(&chunks)?;
    Ok(chunks)
}

fn check_order(chunks: &[RunChunk]) -> Result<(), Error> {
    let keyed = |chunk: &RunChunk| !chunk.first.is_empty() || !chunk.last.is_empty();
    for (at, pair) in chunks.windows(2).enumerate() {
        if keyed(&pair[0]) && keyed(&pair[1]) && pair[0].last >= pair[1].first {
            return Err(Error::Field {
                what: "run",
                field: "chunk out of key order",
                value: at as u64 + 1,
            });
        }
    }
    Ok(())
}
