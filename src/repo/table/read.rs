//! Rows from runs.
//!
//! A stack is read run by run, chunk by chunk, a few ahead of the one in hand, and merged: the
//! newest run that knows a key wins. Invariant: a chunk's rows are given out only after they have
//! been compared with the chunk's name, and keys only ascend.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::run::{LargeCell, Run, RunChunk, read_page};
use crate::id::{ChunkId, Digest};
use crate::repo::reader::{self, Reader, SealedChunk};
use crate::repo::table::Error;
use crate::repo::table::write::rows_name;
use crate::row::cell::RowBatch;
use crate::row::codec::{self, DecodedChunk, Limits};
use crate::row::key::{KeyBatch, KeyEncoder};

/// About how many bytes of rows are fetched ahead in one go.
const AHEAD_BYTES: u64 = 4 << 20;
/// How many chunks are being opened and decoded at once.
const DECODING_AT_ONCE: usize = 4;

/// Fetches and reads a run's description.
///
/// # Errors
/// The reader's; Corrupt where it is not a description.
pub async fn read_run(reader: &Reader, name: &ChunkId) -> Result<Run, Error> {
    Ok(Run::read(&reader.chunk(name).await?)?)
}

/// The chunks of a run, page by page.
pub struct RunChunks {
    pages: VecDeque<ChunkId>,
    chunks: VecDeque<RunChunk>,
}

impl RunChunks {
    /// All chunks of `run`.
    pub fn new(run: Run) -> RunChunks {
        RunChunks {
            pages: run.pages.iter().map(|page| page.name).collect(),
            chunks: run.chunks.into(),
        }
    }

    /// The next chunk in key order; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where a page is not one.
    pub async fn next(&mut self, reader: &Reader) -> Result<Option<RunChunk>, Error> {
        while self.chunks.is_empty() {
            let Some(page) = self.pages.pop_front() else {
                return Ok(None);
            };
            self.chunks = read_page(&reader.chunk(&page).await?)?.into();
        }
        Ok(self.chunks.pop_front())
    }
}

/// A chunk of rows, decoded, with the keys of its rows.
pub struct Decoded {
    /// Its rows and deletions.
    pub content: DecodedChunk,
    /// The canonical keys of its rows; empty where the table has none.
    pub keys: KeyBatch,
    /// The sum of its rows' digests.
    pub digest: Digest,
}

/// Opens and decodes a chunk of rows, and compares it with its name.
fn decode(
    reader: &Reader,
    sealed: &SealedChunk,
    chunk: &RunChunk,
    columns: usize,
    keys: Option<&KeyEncoder>,
) -> Result<Decoded, reader::Error> {
    let vault = reader.vault();
    let raw = sealed.open(vault)?;
    let limits = Limits {
        raw_bytes_max: chunk.bytes as usize,
        rows_max: chunk.puts as usize + chunk.deletions as usize,
    };
    let damaged = || sealed.misnamed();
    let content = codec::decode(&raw, columns, limits).map_err(|_| damaged())?;
    if rows_name(vault, columns, &content.rows, &content.deleted) != chunk.name {
        return Err(damaged());
    }
    let mut digest = Digest::ZERO;
    for row in content.rows.iter() {
        digest.add(vault.access.shared.row_digest(row));
    }
    let mut batch = KeyBatch::default();
    if let Some(keys) = keys {
        keys.encode_all(&content.rows, &mut batch)
            .map_err(|_| damaged())?;
    }
    Ok(Decoded {
        content,
        keys: batch,
        digest,
    })
}

type Decoding = JoinHandle<Result<Decoded, reader::Error>>;

/// Reads one run, a few chunks ahead.
struct RunReader {
    reader: Arc<Reader>,
    chunks: RunChunks,
    columns: usize,
    keys: Option<Arc<KeyEncoder>>,
    fetched: VecDeque<(RunChunk, SealedChunk)>,
    decoding: VecDeque<(RunChunk, Decoding)>,
    ended: bool,
}

impl RunReader {
    async fn fill(&mut self) -> Result<(), Error> {
        if self.fetched.is_empty() && !self.ended {
            let mut wanted = Vec::new();
            let mut bytes = 0;
            while bytes < AHEAD_BYTES {
                let Some(chunk) = self.chunks.next(&self.reader).await? else {
                    self.ended = true;
                    break;
                };
                bytes += u64::from(chunk.bytes);
                wanted.push(chunk);
            }
            let names: Vec<ChunkId> = wanted.iter().map(|chunk| chunk.name).collect();
            let sealed = self.reader.fetch(&names).await?;
            self.fetched.extend(wanted.into_iter().zip(sealed));
        }
        while self.decoding.len() < DECODING_AT_ONCE {
            let Some((chunk, sealed)) = self.fetched.pop_front() else {
                break;
            };
            let (reader, keys, columns) = (self.reader.clone(), self.keys.clone(), self.columns);
            let facts = chunk.clone();
            let decoding = tokio::task::spawn_blocking(move || {
                decode(&reader, &sealed, &facts, columns, keys.as_deref())
            });
            self.decoding.push_back((chunk, decoding));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(RunChunk, Decoded)>, Error> {
        self.fill().await?;
        let Some((chunk, decoding)) = self.decoding.pop_front() else {
            return Ok(None);
        };
        let decoded = decoding.await.map_err(|error| Error::Worker {
            why: error.to_string(),
        })?;
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(reader::Error::Vault(error)) => return Err(reader::Error::Vault(error).into()),
            Err(_) => self.elsewhere(&chunk).await?,
        };
        Ok(Some((chunk, decoded)))
    }

    /// The chunk from another pack, where its first place is damaged.
    async fn elsewhere(&self, chunk: &RunChunk) -> Result<Decoded, Error> {
        let keys = self.keys.as_deref();
        let accept = |sealed: &SealedChunk| decode(&self.reader, sealed, chunk, self.columns, keys);
        Ok(self.reader.chunk_elsewhere(&chunk.name, accept).await?)
    }
}

/// Some rows of a table in order.
pub struct Rows {
    /// The rows; at least one.
    pub rows: RowBatch,
    /// Where the large cells of these rows lie.
    pub cells: HashMap<Digest, LargeCell>,
}
