//! Runs, pages and chunks of rows that were read, kept while they may be wanted again.
//!
//! Snapshots share most of their runs, so that a walk over many of them reads little twice.
//! Invariant: what is kept is bounded, and was compared with its name.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::failure::{Class, Failure};
use crate::format::run::{LargeCell, Run, RunChunk, read_page};
use crate::id::{ChunkId, Digest};
use crate::repo::reader::Reader;
use crate::repo::table::Error;
use crate::repo::table::read::{Digests, decode};
use crate::repo::vault::Vault;
use crate::row::cell::RowBatch;
use crate::row::codec::DecodedChunk;
use crate::row::key::{KeyBatch, KeyEncoder};

/// How many bytes of decoded rows are kept.
const CHUNK_BYTES_KEPT: usize = 24 << 20;
/// How many pages are kept.
pub(super) const PAGES_KEPT: usize = 64;
/// How many runs are kept; their descriptions may hold a page each.
const RUNS_KEPT: usize = 1024;

/// A chunk of rows with the keys of its rows.
#[derive(Default)]
pub struct KeyedChunk {
    /// The rows.
    pub rows: RowBatch,
    /// Their keys.
    pub keys: KeyBatch,
    /// Keys of deleted rows.
    pub deleted: KeyBatch,
    /// Where the large cells of its rows lie.
    pub cells: HashMap<Digest, LargeCell>,
}

/// What a chunk says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// Its row, by place.
    Row(usize),
    /// That it is gone.
    Deleted,
}

fn position(keys: &KeyBatch, key: &[u8]) -> Option<usize> {
    let (mut low, mut high) = (0, keys.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match keys.key(middle).cmp(key) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

impl KeyedChunk {
    /// What it says of `key`; none where it says nothing.
    pub fn find(&self, key: &[u8]) -> Option<Mention> {
        let row = position(&self.keys, key).map(Mention::Row);
        row.or_else(|| position(&self.deleted, key).map(|_| Mention::Deleted))
    }

    fn bytes(&self) -> usize {
        self.rows.bytes().len() + self.keys.bytes().len() + self.deleted.bytes().len()
    }
}

/// A decoded chunk with the keys of its rows.
fn keyed(
    chunk: RunChunk,
    content: DecodedChunk,
    shape: Shape<'_>,
) -> Result<Arc<KeyedChunk>, Error> {
    let cells = chunk.cells.into_iter().map(|cell| (cell.digest, cell));
    let mut keyed = KeyedChunk {
        rows: content.rows,
        deleted: content.deleted,
        cells: cells.collect(),
        ..KeyedChunk::default()
    };
    let keys = match shape.encoder {
        Some(encoder) => encoder.encode_all(&keyed.rows, &mut keyed.keys),
        None => Ok(()),
    };
    let ordered = keys.is_ok() && keyed.keys.ascends() && keyed.deleted.ascends();
    match ordered {
        true => Ok(Arc::new(keyed)),
        false => Err(Error::Name { chunk: chunk.name }),
    }
}

/// A run's description.
pub struct KeyedRun {
    /// The name of the description.
    pub name: ChunkId,
    /// The description; its chunks are taken out.
    pub run: Run,
    /// The chunks, where there are no pages.
    pub chunks: Arc<Vec<RunChunk>>,
}

impl KeyedRun {
    /// The whole description.
    pub fn whole(&self) -> Run {
        Run {
            chunks: self.chunks.to_vec(),
            ..self.run.clone()
        }
    }
}

/// Reads runs, pages and chunks, and keeps some.
pub struct Shelf {
    reader: Arc<Reader>,
    runs: HashMap<ChunkId, Arc<KeyedRun>>,
    pages: HashMap<ChunkId, Arc<Vec<RunChunk>>>,
    chunks: HashMap<ChunkId, Arc<KeyedChunk>>,
    /// Names of chunks in the order of their coming.
    order: VecDeque<ChunkId>,
    bytes: usize,
    /// How many chunks of rows were read, those read again included.
    pub chunks_read: u64,
}

/// How a table's chunks are read.
#[derive(Clone, Copy)]
pub struct Shape<'a> {
    /// Cells of a row.
    pub columns: usize,
    /// How keys are made; none where rows have none.
    pub encoder: Option<&'a KeyEncoder>,
}

impl Shelf {
    /// An empty shelf over `reader`.
    pub fn new(reader: Arc<Reader>) -> Shelf {
        Shelf {
            reader,
            runs: HashMap::new(),
            pages: HashMap::new(),
            chunks: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            chunks_read: 0,
        }
    }

    /// What it reads with.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The vault that it reads from.
    pub fn vault(&self) -> &Arc<Vault> {
        self.reader.vault()
    }

    /// The runs of these names, those that are not here fetched together.
    ///
    /// # Errors
    /// The reader's; Corrupt where it is not a run.
    pub async fn runs(&mut self, names: &[ChunkId]) -> Result<Vec<Arc<KeyedRun>>, Error> {
        if self.runs.len() + names.len() > RUNS_KEPT {
            self.runs.clear();
        }
        let missing = names.iter().filter(|name| !self.runs.contains_key(name));
        let missing: Vec<ChunkId> = missing.copied().collect();
        for (name, bytes) in missing.iter().zip(self.plain(&missing).await?) {
            let mut run = Run::read(&bytes)?;
            let chunks = Arc::new(std::mem::take(&mut run.chunks));
            let name = *name;
            self.runs
                .insert(name, Arc::new(KeyedRun { name, run, chunks }));
        }
        Ok(names.iter().map(|name| self.runs[name].clone()).collect())
    }

    /// Chunks of plain bytes, fetched together.
    async fn plain(&self, names: &[ChunkId]) -> Result<Vec<Vec<u8>>, Error> {
        let mut out = Vec::new();
        let fetched = match self.reader.fetch(names).await {
            Ok(fetched) => fetched,
            // The first place of one is gone; each is looked for in all of its places.
            Err(error) if error.class() == Class::Corrupt => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for (at, name) in names.iter().enumerate() {
            let opened = fetched
                .get(at)
                .and_then(|chunk| chunk.open(self.vault()).ok());
            out.push(match opened {
                Some(bytes) => bytes,
                None => self.reader.chunk(name).await?,
            });
        }
        Ok(out)
    }

    /// A page of a run.
    ///
    /// # Errors
    /// The reader's; Corrupt where it is not a page.
    pub async fn page(&mut self, name: &ChunkId) -> Result<Arc<Vec<RunChunk>>, Error> {
        let mut pages = self.pages(std::slice::from_ref(name)).await?;
        pages.pop().ok_or_else(|| Error::Worker {
            why: "a page was not read".into(),
        })
    }

    /// Pages of a run, those that are not here fetched together.
    ///
    /// # Errors
    /// The reader's; Corrupt where it is not a page.
    pub async fn pages(&mut self, names: &[ChunkId]) -> Result<Vec<Arc<Vec<RunChunk>>>, Error> {
        let missing = names.iter().filter(|name| !self.pages.contains_key(name));
        let missing: Vec<ChunkId> = missing.copied().collect();
        let mut fresh = HashMap::new();
        for (name, bytes) in missing.iter().zip(self.plain(&missing).await?) {
            fresh.insert(*name, Arc::new(read_page(&bytes)?));
        }
        let of = |name| fresh.get(name).or_else(|| self.pages.get(name)).cloned();
        let pages = names.iter().filter_map(of).collect();
        if self.pages.len() + fresh.len() > PAGES_KEPT {
            self.pages.clear();
        }
        self.pages.extend(fresh.into_iter().take(PAGES_KEPT));
        Ok(pages)
    }

    /// These chunks of rows, those that are not here fetched together.
    ///
    /// # Errors
    /// The reader's; Corrupt where a chunk is not what its name says.
    pub async fn chunks(
        &mut self,
        wanted: &[RunChunk],
        shape: Shape<'_>,
    ) -> Result<Vec<Arc<KeyedChunk>>, Error> {
        let missing = wanted
            .iter()
            .filter(|chunk| !self.chunks.contains_key(&chunk.name));
        let missing: Vec<RunChunk> = missing.cloned().collect();
        let held: Vec<Option<Arc<KeyedChunk>>> = wanted
            .iter()
            .map(|chunk| self.chunks.get(&chunk.name).cloned())
            .collect();
        let mut read = self.read(missing, shape).await?.into_iter();
        let mut out = Vec::with_capacity(wanted.len());
        for (chunk, held) in wanted.iter().zip(held) {
            // What is not held is read, in the same order.
            let Some(keyed) = held.or_else(|| read.next()) else {
                return Err(Error::Worker {
                    why: "a chunk was not read".into(),
                });
            };
            self.keep(chunk.name, &keyed);
            out.push(keyed);
        }
        Ok(out)
    }

    async fn read(
        &mut self,
        missing: Vec<RunChunk>,
        shape: Shape<'_>,
    ) -> Result<Vec<Arc<KeyedChunk>>, Error> {
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        self.chunks_read += missing.len() as u64;
        let names: Vec<ChunkId> = missing.iter().map(|chunk| chunk.name).collect();
        let sealed = self.reader.fetch(&names).await?;
        let (reader, columns) = (self.reader.clone(), shape.columns);
        let opening = tokio::task::spawn_blocking(move || {
            let pairs = missing.into_iter().zip(sealed);
            let opened = pairs.map(|(chunk, sealed)| {
                let opened = decode(&reader, &sealed, &chunk, columns, Digests::Elsewhere);
                (chunk, opened)
            });
            opened.collect::<Vec<_>>()
        });
        let opened = opening.await.map_err(|error| Error::Worker {
            why: error.to_string(),
        })?;
        let mut out = Vec::with_capacity(opened.len());
        for (chunk, opened) in opened {
            let decoded = match opened {
                Ok(decoded) => decoded,
                Err(error) if error.class() != Class::Corrupt => return Err(error.into()),
                Err(_) => {
                    let accept = |sealed: &_| {
                        decode(&self.reader, sealed, &chunk, columns, Digests::Elsewhere)
                    };
                    self.reader.chunk_elsewhere(&chunk.name, accept).await?
                }
            };
            out.push(keyed(chunk, decoded.content, shape)?);
        }
        Ok(out)
    }

    /// Takes a chunk in that was decoded elsewhere.
    ///
    /// # Errors
    /// Corrupt: its rows do not come in the order of their keys.
    pub(in crate::repo::table) fn stock(
        &mut self,
        chunk: RunChunk,
        content: DecodedChunk,
        shape: Shape<'_>,
    ) -> Result<Arc<KeyedChunk>, Error> {
        let name = chunk.name;
        self.chunks_read += 1;
        let keyed = keyed(chunk, content, shape)?;
        self.keep(name, &keyed);
        Ok(keyed)
    }

    fn keep(&mut self, name: ChunkId, chunk: &Arc<KeyedChunk>) {
        if self.chunks.insert(name, chunk.clone()).is_none() {
            self.bytes += chunk.bytes();
            self.order.push_back(name);
        }
        while self.bytes > CHUNK_BYTES_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(gone) = self.chunks.remove(&oldest) {
                self.bytes -= gone.bytes();
            }
        }
    }
}
