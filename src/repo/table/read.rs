//! Rows from runs.
//!
//! A stack is read run by run, chunk by chunk, a few ahead of the one in hand, and merged: the
//! newest run that knows a key wins. Invariant: a chunk's rows are given out only after they have
//! been compared with the chunk's name, and keys only ascend.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::run::{LargeCell, Run, RunChunk, RunKind, read_page};
use crate::id::{ChunkId, Digest};
use crate::planted;
use crate::repo::reader::{self, Reader, SealedChunk};
use crate::repo::table::write::rows_name;
use crate::repo::table::{Coverage, Error};
use crate::repo::vault::Vault;
use crate::row::cell::{Cell, Cells, RowBatch};
use crate::row::codec::{self, DecodedChunk, Limits};
use crate::row::key::KeyEncoder;
use crate::row::merge::{Deletions, Merge, Step};

/// About how many bytes of rows are fetched ahead in one go.
const AHEAD_BYTES: u64 = 4 << 20;
/// About how many bytes of merged rows are given out together.
const MERGED_BYTES: usize = 256 << 10;
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

/// A chunk of rows, decoded.
struct Decoded {
    content: DecodedChunk,
    /// The sum of its rows' digests, where it was asked for.
    digest: Digest,
}

/// Where rows are digested: with their chunk, or after a merge has left some of them out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Digests {
    Here,
    Later,
}

fn sum<'a>(vault: &Vault, rows: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut digest = Digest::ZERO;
    for row in rows {
        digest.add(vault.access.shared.row_digest(row));
    }
    digest
}

/// Opens and decodes a chunk of rows, and compares it with its name.
fn decode(
    reader: &Reader,
    sealed: &SealedChunk,
    chunk: &RunChunk,
    columns: usize,
    digests: Digests,
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
    let digest = match digests {
        Digests::Here => sum(vault, content.rows.iter()),
        Digests::Later => Digest::ZERO,
    };
    Ok(Decoded { content, digest })
}

type Decoding = JoinHandle<Result<Decoded, reader::Error>>;

/// Which chunks of each run of a stack are read, base first.
pub(super) struct Only(pub(super) Vec<HashSet<ChunkId>>);

/// Reads the rows of some chunks of a run, in their order.
pub(super) struct ChunkReader(RunReader);

impl ChunkReader {
    pub(super) fn new(reader: Arc<Reader>, chunks: Vec<RunChunk>, columns: usize) -> ChunkReader {
        ChunkReader(RunReader {
            reader,
            chunks: RunChunks {
                pages: VecDeque::new(),
                chunks: chunks.into(),
            },
            only: None,
            columns,
            sequence: 0,
            digests: Digests::Later,
            fetched: VecDeque::new(),
            decoding: VecDeque::new(),
            ended: false,
        })
    }

    pub(super) async fn next(&mut self) -> Result<Option<RowBatch>, Error> {
        let next = self.0.next().await?;
        Ok(next.map(|(_, decoded)| decoded.content.rows))
    }
}

/// Reads one run, a few chunks ahead.
struct RunReader {
    reader: Arc<Reader>,
    chunks: RunChunks,
    /// The chunks that are read; all of them without it.
    only: Option<HashSet<ChunkId>>,
    columns: usize,
    sequence: u64,
    digests: Digests,
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
                let passed = self.only.as_ref();
                let passed = passed.is_some_and(|only| !only.contains(&chunk.name));
                if passed || (chunk.puts == 0 && chunk.deletions == 0) {
                    continue;
                }
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
            let (reader, columns, digests) = (self.reader.clone(), self.columns, self.digests);
            let facts = chunk.clone();
            let decoding = tokio::task::spawn_blocking(move || {
                decode(&reader, &sealed, &facts, columns, digests)
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
        let accept =
            |sealed: &SealedChunk| decode(&self.reader, sealed, chunk, self.columns, self.digests);
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

/// Reads a table from its stack of runs, in order, each row once.
pub struct StackReader {
    vault: Arc<Vault>,
    name: String,
    runs: Vec<RunReader>,
    merge: Option<Merge>,
    keys: Option<KeyEncoder>,
    coverage: Coverage,
    cells: Vec<HashMap<Digest, LargeCell>>,
    /// Rows and digest of the whole table; none where only some chunks are read.
    expected: Option<(u64, Digest)>,
    found: (u64, Digest),
}

impl StackReader {
    /// Opens the stack of `table`.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one, or the runs do not fit the table.
    pub async fn open(reader: Arc<Reader>, table: &ManifestTable) -> Result<StackReader, Error> {
        StackReader::open_some(reader, table, None).await
    }

    /// Opens the stack of `table`, of which only some chunks are read: rows that come out may be
    /// superseded or deleted by those that are not.
    pub(super) async fn open_only(
        reader: Arc<Reader>,
        table: &ManifestTable,
        only: Only,
    ) -> Result<StackReader, Error> {
        StackReader::open_some(reader, table, Some(only)).await
    }

    async fn open_some(
        reader: Arc<Reader>,
        table: &ManifestTable,
        mut only: Option<Only>,
    ) -> Result<StackReader, Error> {
        let name = table.table.name.to_string();
        let misfit = |why: &str| Error::Merge {
            table: name.clone(),
            why: why.to_owned(),
        };
        let columns = table.table.columns.len();
        let keys = KeyEncoder::new(&table.table).filter(|_| table.order == StoredOrder::Key);
        let merge = match (table.stack.len(), &keys) {
            (0 | 1, _) => None,
            (_, None) => return Err(misfit("it has no key and several runs")),
            (runs, Some(keys)) => Some(Merge::new(keys.clone(), runs, Deletions::Drop)),
        };
        let digests = match merge {
            None => Digests::Here,
            Some(_) => Digests::Later,
        };
        let mut runs = Vec::new();
        let mut coverage = Coverage::default();
        for (at, run) in table.stack.iter().enumerate() {
            let run = read_run(&reader, run).await?;
            if run.columns as usize != columns || (at == 0) != (run.kind == RunKind::Base) {
                return Err(misfit(
                    "a run is of another shape or stands in another's place",
                ));
            }
            if at == 0 && table.stack.len() > 1 {
                coverage = Coverage::load(&reader, &run).await?;
            }
            runs.push(RunReader {
                reader: reader.clone(),
                sequence: run.sequence,
                chunks: RunChunks::new(run),
                only: only.as_mut().map(|only| std::mem::take(&mut only.0[at])),
                columns,
                digests,
                fetched: VecDeque::new(),
                decoding: VecDeque::new(),
                ended: false,
            });
        }
        Ok(StackReader {
            vault: reader.vault().clone(),
            name,
            cells: vec![HashMap::new(); runs.len()],
            runs,
            merge,
            keys,
            coverage,
            expected: only.is_none().then_some((table.rows, table.digest)),
            found: (0, Digest::ZERO),
        })
    }

    /// The next rows; none at the end, after count and digest have been compared with the
    /// manifest's.
    ///
    /// # Errors
    /// The reader's; Corrupt where the rows are not those that the manifest names.
    pub async fn next(&mut self) -> Result<Option<Rows>, Error> {
        let rows = match self.merge {
            None => self.next_of_base().await?,
            Some(_) => self.next_merged().await?,
        };
        if rows.is_none()
            && let Some(expected) = self.expected
            && self.found != expected
        {
            return Err(Error::Merge {
                table: self.name.clone(),
                why: format!(
                    "{} rows came out where the manifest names {}, or their digests differ",
                    self.found.0, expected.0
                ),
            });
        }
        Ok(rows)
    }

    async fn next_of_base(&mut self) -> Result<Option<Rows>, Error> {
        let Some(base) = self.runs.first_mut() else {
            return Ok(None);
        };
        let Some((chunk, decoded)) = base.next().await? else {
            return Ok(None);
        };
        let rows = decoded.content.rows;
        self.found.0 += rows.len() as u64;
        self.found.1.add(decoded.digest);
        let cells = chunk.cells.into_iter().map(|cell| (cell.digest, cell));
        Ok(Some(Rows {
            rows,
            cells: cells.collect(),
        }))
    }

    async fn next_merged(&mut self) -> Result<Option<Rows>, Error> {
        let mut out = Rows {
            rows: RowBatch::default(),
            cells: HashMap::new(),
        };
        while out.rows.bytes().len() < MERGED_BYTES {
            let Some(merge) = &mut self.merge else { break };
            let step = merge.next().map_err(|error| Error::Merge {
                table: self.name.clone(),
                why: error.to_string(),
            })?;
            match step {
                Step::Wants(run) => self.feed(run).await?,
                Step::Rows(span) => {
                    let cells = &self.cells[span.run];
                    for (_, row) in span.iter() {
                        self.found.0 += 1;
                        self.found.1.add(self.vault.access.shared.row_digest(row));
                        out.rows.push(row);
                        if !cells.is_empty() {
                            take_cells(row, cells, &mut out.cells);
                        }
                    }
                }
                Step::Deleted { .. } => {}
                Step::Done => break,
            }
        }
        Ok((!out.rows.is_empty()).then_some(out))
    }

    async fn feed(&mut self, run: usize) -> Result<(), Error> {
        let next = self.runs[run].next().await?;
        let Some(merge) = &mut self.merge else {
            return Ok(());
        };
        let Some((chunk, decoded)) = next else {
            merge.end(run);
            return Ok(());
        };
        let cells = chunk.cells.into_iter().map(|cell| (cell.digest, cell));
        self.cells[run] = cells.collect();
        let mut content = decoded.content;
        let sequence = self.runs[run].sequence;
        if run > 0
            && let Some(keys) = &self.keys
            && !planted::is("covered deltas count")
            && self.coverage.touches(&chunk.first, &chunk.last, sequence)
        {
            content = self
                .coverage
                .filter(content, keys, sequence)
                .map_err(|why| {
                    let table = self.name.clone();
                    let why = why.to_string();
                    Error::Merge { table, why }
                })?;
        }
        merge.feed(run, content).map_err(|error| Error::Merge {
            table: self.name.clone(),
            why: error.to_string(),
        })
    }
}

fn take_cells(
    row: &[u8],
    known: &HashMap<Digest, LargeCell>,
    out: &mut HashMap<Digest, LargeCell>,
) {
    for cell in Cells::new(row) {
        if let Ok(Cell::Large(large)) = cell
            && let Some(found) = known.get(&large.digest)
        {
            out.insert(large.digest, found.clone());
        }
    }
}
