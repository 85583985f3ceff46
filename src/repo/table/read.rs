//! Rows from runs.
//!
//! A stack is read run by run, chunk by chunk, a few ahead of the one in hand, and merged: the
//! newest run that knows a key wins. Invariant: a chunk's rows are given out only after they have
//! been compared with the chunk's name, and keys only ascend.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::failure::{Class, Failure};
use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::run::{LargeCell, Run, RunChunk, RunKind, read_page};
use crate::id::{ChunkId, Digest};
use crate::planted;
use crate::repo::reader::{self, Reader, SealedChunk};
use crate::repo::table::write::rows_name;
use crate::repo::table::{ColumnValues, Coverage, Error};
use crate::repo::vault::Vault;
use crate::row::cell::{Cell, Cells, RowBatch};
use crate::row::codec::{self, DecodedChunk, Limits};
use crate::row::filter::{Conditions, Verdict};
use crate::row::key::KeyEncoder;
use crate::row::merge::{Deletions, Merge, Step};

/// About how many bytes of rows are fetched ahead in one go.
const AHEAD_BYTES: u64 = 4 << 20;
/// About how many bytes of merged rows are given out together.
const MERGED_BYTES: usize = 256 << 10;
/// How many pages of a run's description are fetched together at most. They were stored beside each
/// other, and one request for each would make a terabyte's description two hundred thousand.
const PAGES_TOGETHER_MAX: usize = 64;
/// So many at first: who wants only the beginning of a run should not wait for more.
const PAGES_TOGETHER_FIRST: usize = 4;
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
    /// The first of `pages`, where they were fetched.
    fetched: VecDeque<SealedChunk>,
    together: usize,
    chunks: VecDeque<RunChunk>,
}

impl RunChunks {
    /// All chunks of `run`.
    pub fn new(run: Run) -> RunChunks {
        RunChunks {
            pages: run.pages.iter().map(|page| page.name).collect(),
            fetched: VecDeque::new(),
            together: PAGES_TOGETHER_FIRST,
            chunks: run.chunks.into(),
        }
    }

    /// The next chunk in key order; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where a page is not one.
    pub async fn next(&mut self, reader: &Reader) -> Result<Option<RunChunk>, Error> {
        while self.chunks.is_empty() {
            if self.fetched.is_empty() {
                self.fetch(reader).await?;
            }
            let Some(page) = self.pages.pop_front() else {
                return Ok(None);
            };
            let fetched = self.fetched.pop_front();
            let opened = fetched.and_then(|page| page.open(reader.vault()).ok());
            let bytes = match opened {
                Some(bytes) => bytes,
                // It may lie whole in another place.
                None => reader.chunk(&page).await?,
            };
            self.chunks = read_page(&bytes)?.into();
        }
        Ok(self.chunks.pop_front())
    }

    /// Fetches the next pages, more each time. Where one of them is damaged or missing they are
    /// fetched one by one from there on, so that those before it can be had.
    async fn fetch(&mut self, reader: &Reader) -> Result<(), Error> {
        let names = self.pages.iter().take(self.together).copied();
        let names: Vec<ChunkId> = names.collect();
        if names.len() < 2 {
            return Ok(());
        }
        match reader.fetch(&names).await {
            Ok(pages) => {
                self.fetched = pages.into();
                self.together = (self.together * 2).min(PAGES_TOGETHER_MAX);
            }
            Err(error) if error.class() == Class::Corrupt => self.together = 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// A chunk of rows, decoded.
pub(super) struct Decoded {
    pub(super) content: DecodedChunk,
    /// The sum of its rows' digests, where it was asked for.
    digest: Digest,
}

/// Whether rows are digested with their chunk: not where a merge leaves some of them out, and not
/// where nobody asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Digests {
    Here,
    Elsewhere,
}

/// What is compared with the manifest when all rows of a table have been read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// How many they are, and the sum of their digests.
    Digests,
    /// How many they are: for whoever compares the digests of where he puts them.
    Counts,
}

fn sum<'a>(vault: &Vault, rows: impl Iterator<Item = &'a [u8]>) -> Digest {
    let mut digest = Digest::ZERO;
    for row in rows {
        digest.add(vault.access.shared.row_digest(row));
    }
    digest
}

pub(super) fn limits(chunk: &RunChunk) -> Limits {
    Limits {
        raw_bytes_max: chunk.bytes as usize,
        rows_max: chunk.puts as usize + chunk.deletions as usize,
    }
}

/// Opens and decodes a chunk of rows, and compares it with its name.
pub(super) fn decode(
    reader: &Reader,
    sealed: &SealedChunk,
    chunk: &RunChunk,
    columns: usize,
    digests: Digests,
) -> Result<Decoded, reader::Error> {
    let vault = reader.vault();
    let raw = sealed.open(vault)?;
    let damaged = || sealed.misnamed();
    let content = codec::decode(&raw, columns, limits(chunk)).map_err(|_| damaged())?;
    if rows_name(vault, columns, &content.rows, &content.deleted) != chunk.name {
        return Err(damaged());
    }
    let digest = match digests {
        Digests::Here => sum(vault, content.rows.iter()),
        Digests::Elsewhere => Digest::ZERO,
    };
    Ok(Decoded { content, digest })
}

/// What the filters of chunks are asked for these conditions.
fn values_of(vault: &Vault, conditions: &Conditions) -> Vec<ColumnValues> {
    let equalities = conditions.equalities().into_iter();
    let values = equalities.map(|(column, forms)| ColumnValues::new(vault, column, forms.iter()));
    values.collect()
}

/// Opens a chunk of a base and decodes the columns that `conditions` name; where a row may fit,
/// decodes it whole, compares it with its name, and keeps the rows that may fit.
fn decode_where(
    reader: &Reader,
    sealed: &SealedChunk,
    chunk: &RunChunk,
    columns: usize,
    conditions: &Conditions,
) -> Result<Decoded, reader::Error> {
    let raw = sealed.open(reader.vault())?;
    let limits = limits(chunk);
    let wanted = conditions.columns();
    let named = codec::decode_columns(&raw, columns, &wanted, limits);
    let named = named.map_err(|_| sealed.misnamed())?;
    let count = named.first().map_or(0, RowBatch::len);
    let fits = |row: usize| {
        let cell = |column: usize| {
            let at = wanted.binary_search(&column).unwrap_or_default();
            // What was decoded is cells; a cell that is none is found when all is decoded.
            let cell = Cells::new(named[at].row(row)).next();
            cell.and_then(Result::ok).unwrap_or(Cell::Null)
        };
        conditions.judge(cell) != Verdict::No
    };
    let fitting: Vec<usize> = (0..count).filter(|row| fits(*row)).collect();
    let mut content = DecodedChunk::default();
    if !fitting.is_empty() {
        let whole = decode(reader, sealed, chunk, columns, Digests::Elsewhere)?;
        let rows = fitting
            .into_iter()
            .filter(|row| *row < whole.content.rows.len());
        rows.for_each(|row| content.rows.push(whole.content.rows.row(row)));
    }
    let digest = Digest::ZERO;
    Ok(Decoded { content, digest })
}

type Decoding = JoinHandle<Result<Decoded, reader::Error>>;

/// Reads one run, a few chunks ahead.
struct RunReader {
    reader: Arc<Reader>,
    chunks: RunChunks,
    columns: usize,
    sequence: u64,
    digests: Digests,
    /// In a base, where only rows that fit are wanted: they hide nothing, so others are left out.
    conditions: Option<Arc<Conditions>>,
    /// One value of each of these is in every row that fits.
    values: Vec<ColumnValues>,
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
                let mut values = self.values.iter();
                let denied = values.any(|values| !values.may_be_in(&chunk));
                if denied || (chunk.puts == 0 && chunk.deletions == 0) {
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
            let (facts, conditions) = (chunk.clone(), self.conditions.clone());
            let decoding = tokio::task::spawn_blocking(move || match conditions {
                None => decode(&reader, &sealed, &facts, columns, digests),
                Some(these) => decode_where(&reader, &sealed, &facts, columns, &these),
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
        let accept = |sealed: &SealedChunk| match &self.conditions {
            None => decode(&self.reader, sealed, chunk, self.columns, self.digests),
            Some(these) => decode_where(&self.reader, sealed, chunk, self.columns, these),
        };
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
    /// Count and digest of all rows; none where chunks or rows are left out.
    expected: Option<(u64, Digest)>,
    found: (u64, Digest),
    sums: Sums,
}

impl StackReader {
    /// Opens the stack of `table`.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one, or the runs do not fit the table.
    pub async fn open(reader: Arc<Reader>, table: &ManifestTable) -> Result<StackReader, Error> {
        StackReader::begin(reader, table, None, Sums::Digests).await
    }

    /// Opens the stack of `table`, of whose rows `sums` are compared.
    ///
    /// # Errors
    /// As [`StackReader::open`].
    pub async fn open_for(
        reader: Arc<Reader>,
        table: &ManifestTable,
        sums: Sums,
    ) -> Result<StackReader, Error> {
        StackReader::begin(reader, table, None, sums).await
    }

    /// Opens the stack of `table` to get all rows that `conditions` fit, and perhaps others:
    /// chunks of the base without such a row are decoded in the columns that are named, or not
    /// read where their filters deny them.
    ///
    /// # Errors
    /// As [`StackReader::open`].
    pub async fn open_where(
        reader: Arc<Reader>,
        table: &ManifestTable,
        conditions: Arc<Conditions>,
    ) -> Result<StackReader, Error> {
        StackReader::begin(reader, table, Some(conditions), Sums::Digests).await
    }

    async fn begin(
        reader: Arc<Reader>,
        table: &ManifestTable,
        conditions: Option<Arc<Conditions>>,
        sums: Sums,
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
        let digests = match (&merge, sums) {
            (None, Sums::Digests) => Digests::Here,
            _ => Digests::Elsewhere,
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
                columns,
                digests,
                conditions: conditions.clone().filter(|_| at == 0),
                values: match &conditions {
                    Some(these) if at == 0 => values_of(reader.vault(), these),
                    _ => Vec::new(),
                },
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
            expected: conditions.is_none().then_some((table.rows, table.digest)),
            found: (0, Digest::ZERO),
            sums,
        })
    }

    /// The next rows; none at the end, after their [`Sums`] have been compared with the
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
            && (self.found.0 != expected.0
                || (self.sums == Sums::Digests && self.found.1 != expected.1))
        {
            return Err(Error::Merge {
                table: self.name.clone(),
                why: match self.found.0 == expected.0 {
                    true => "its rows are not those that the manifest names".into(),
                    false => format!(
                        "{} rows came out where the manifest names {}",
                        self.found.0, expected.0
                    ),
                },
            });
        }
        Ok(rows)
    }

    async fn next_of_base(&mut self) -> Result<Option<Rows>, Error> {
        let Some(base) = self.runs.first_mut() else {
            return Ok(None);
        };
        let (chunk, rows, digest) = loop {
            let Some((chunk, decoded)) = base.next().await? else {
                return Ok(None);
            };
            if !decoded.content.rows.is_empty() {
                break (chunk, decoded.content.rows, decoded.digest);
            }
        };
        self.found.0 += rows.len() as u64;
        self.found.1.add(digest);
        let cells = chunk.cells.into_iter().map(|cell| (cell.digest, cell));
        Ok(Some(Rows {
            rows,
            cells: cells.collect(),
        }))
    }

    async fn next_merged(&mut self) -> Result<Option<Rows>, Error> {
        let mut out = Rows {
            rows: RowBatch::with_capacity(MERGED_BYTES + MERGED_BYTES / 4),
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
                    self.found.0 += span.range.len() as u64;
                    for (_, row) in span.iter().filter(|_| self.sums == Sums::Digests) {
                        self.found.1.add(self.vault.access.shared.row_digest(row));
                    }
                    for (_, row) in span.iter().filter(|_| !cells.is_empty()) {
                        take_cells(row, cells, &mut out.cells);
                    }
                    out.rows.push_range(span.rows, span.range);
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

pub(super) fn take_cells(
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
