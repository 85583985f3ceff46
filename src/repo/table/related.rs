//! Rows by the values of columns: what refers to records, found without reading the table.
//!
//! The order of keys and the filters of chunks say which chunks may hold such a row; of those only
//! the columns that are sought are decoded, and the whole chunk where a row fits. A row that is found
//! in a run counts only if its stack gives it for its key. Invariant: what comes out is what a whole
//! reading of the table, sifted afterwards, would give.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::failure::{Class, Failure};
use crate::format::manifest::ManifestTable;
use crate::format::run::{RunChunk, RunKind};
use crate::repo::reader::{self, Reader, SealedChunk};
use crate::repo::table::read::{Digests, decode, limits, take_cells};
use crate::repo::table::{
    ColumnValues, Error, KeyedChunk, KeyedRun, KeyedStack, Rows, Shape, Shelf,
};
use crate::repo::vault::Vault;
use crate::row::cell::{Cells, RowBatch};
use crate::row::codec::{self, DecodedChunk};
use crate::row::key::KeyEncoder;

/// About how many bytes of rows are sifted between two batches that are given out.
const SIFTED_BYTES: u64 = 16 << 20;
/// About how many bytes of rows are fetched in one go.
const PART_BYTES: u64 = 4 << 20;
/// How many such parts are on their way at once.
const PARTS_AT_ONCE: usize = 2;
/// How many threads decode a part.
const DECODING_AT_ONCE: usize = 4;
/// How many pages of a description are read together.
const PAGES_AT_ONCE: usize = 32;
/// How many keys are asked for together.
const KEYS_AT_ONCE: usize = 256;

/// A column, and values that are looked for in it.
#[derive(Clone, Debug)]
pub struct SoughtColumn {
    /// The column's position.
    pub column: usize,
    /// Canonical bytes of the cells that are looked for; none of them is NULL, and none is large.
    pub cells: HashSet<Vec<u8>>,
}

/// What is looked for: rows that fit one of these, by having one of the values in each column.
/// Values are equal where their canonical bytes are: not for a column whose collation or type holds
/// different bytes for equal.
#[derive(Clone, Debug)]
pub struct Sought(pub Vec<Vec<SoughtColumn>>);

/// The cells of a row, each by its canonical bytes.
fn slices(row: &[u8]) -> Vec<&[u8]> {
    let mut cells = Cells::new(row);
    let mut slices = Vec::new();
    loop {
        let before = cells.rest();
        match cells.next() {
            Some(Ok(_)) => slices.push(&before[..before.len() - cells.rest().len()]),
            _ => return slices,
        }
    }
}

impl Sought {
    /// The columns that are looked at: ascending, each once.
    fn columns(&self) -> Vec<usize> {
        let columns = self.0.iter().flatten().map(|one| one.column);
        let mut columns: Vec<usize> = columns.collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    fn fits<'a>(&self, cell: impl Fn(usize) -> Option<&'a [u8]>) -> bool {
        let has =
            |one: &SoughtColumn| cell(one.column).is_some_and(|cell| one.cells.contains(cell));
        self.0.iter().any(|way| way.iter().all(has))
    }

    fn is_in(&self, row: &[u8]) -> bool {
        let slices = slices(row);
        self.fits(|column| slices.get(column).copied())
    }
}

/// What tells of a chunk that no row of it fits one way.
struct Signs {
    /// Beginnings of the keys that are sought, ascending.
    beginnings: Option<Vec<Vec<u8>>>,
    values: Vec<ColumnValues>,
}

impl Signs {
    fn new(vault: &Vault, way: &[SoughtColumn], encoder: Option<&KeyEncoder>) -> Signs {
        let leading = encoder.map(KeyEncoder::leading);
        let (keyed, rest): (Vec<_>, Vec<_>) =
            way.iter().partition(|one| Some(one.column) == leading);
        let values = rest
            .iter()
            .map(|one| ColumnValues::new(vault, one.column, one.cells.iter()));
        let beginnings = encoder.zip(keyed.first());
        Signs {
            beginnings: beginnings.map(|(encoder, one)| beginnings_of(encoder, one)),
            values: values.collect(),
        }
    }

    /// Whether a chunk may hold such a row; all keys that it may hold lie between `first` and its last.
    fn may_be_in(&self, chunk: &RunChunk, first: &[u8]) -> bool {
        let begins = |beginnings: &Vec<Vec<u8>>| {
            let next = beginnings.partition_point(|one| one[..] <= chunk.last[..]);
            let one = next.checked_sub(1).map(|at| &beginnings[at]);
            one.is_some_and(|one| one[..] >= *first || first.starts_with(one))
        };
        chunk.puts > 0
            && self.beginnings.as_ref().is_none_or(begins)
            && self.values.iter().all(|values| values.may_be_in(chunk))
    }
}

/// The beginnings of keys with these values in their first column, ascending. What has no place in
/// the order is in no row.
fn beginnings_of(encoder: &KeyEncoder, one: &SoughtColumn) -> Vec<Vec<u8>> {
    let mut beginnings: Vec<Vec<u8>> = one
        .cells
        .iter()
        .filter_map(|cell| encoder.beginning(cell))
        .collect();
    beginnings.sort_unstable();
    beginnings.dedup();
    beginnings
}

enum Left {
    /// Chunks of the only run of a table that may hold what is sought.
    Chunks(VecDeque<RunChunk>),
    /// Keys with which a run may have it, in order; the stack says what became of them.
    Keys(KeyedStack, VecDeque<Vec<u8>>),
}

/// The rows of a table that are sought, in the order of the table.
pub struct RelatedRows {
    sought: Arc<Sought>,
    columns: usize,
    encoder: Option<KeyEncoder>,
    left: Left,
    /// How many chunks of rows may hold what is sought.
    pub chunks: usize,
}

impl RelatedRows {
    /// Finds out what of `table` must be read.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one, or the runs do not fit the table.
    pub async fn open(
        shelf: &mut Shelf,
        table: &ManifestTable,
        sought: Sought,
    ) -> Result<RelatedRows, Error> {
        let keyed = KeyedStack::open(shelf, table).await?;
        let runs = match &keyed {
            Some(stack) => stack.runs().to_vec(),
            None => shelf.runs(&table.stack).await?,
        };
        let columns = table.table.columns.len();
        let misshapen = |run: &Arc<KeyedRun>| run.run.columns as usize != columns;
        if keyed.is_none() && (runs.len() > 1 || runs.iter().any(misshapen)) {
            return Err(Error::Merge {
                table: table.table.name.to_string(),
                why: "it has no key and several runs, or they are of another shape".into(),
            });
        }
        let encoder = keyed.as_ref().map(|stack| stack.encoder.clone());
        let (mut keys, mut signs) = (Vec::new(), Vec::new());
        for way in &sought.0 {
            match encoder
                .as_ref()
                .and_then(|encoder| whole_keys(encoder, way))
            {
                Some(some) => keys.extend(some),
                None => signs.push(Signs::new(shelf.vault(), way, encoder.as_ref())),
            }
        }
        let mut related = RelatedRows {
            sought: Arc::new(sought),
            columns,
            encoder,
            left: Left::Chunks(VecDeque::new()),
            chunks: 0,
        };
        let by_key = keyed.filter(|_| runs.len() > 1 || !keys.is_empty());
        for run in &runs {
            let chunks = match signs.is_empty() {
                true => Vec::new(),
                false => candidates(shelf, run, &signs).await?,
            };
            related.chunks += chunks.len();
            match by_key {
                Some(_) => related.keys_of(shelf, chunks.into(), &mut keys).await?,
                None => related.left = Left::Chunks(chunks.into()),
            }
        }
        if let Some(stack) = by_key {
            keys.sort_unstable();
            keys.dedup();
            related.left = Left::Keys(stack, keys.into());
        }
        Ok(related)
    }

    /// Adds the keys that these chunks have with what is sought.
    async fn keys_of(
        &self,
        shelf: &mut Shelf,
        mut chunks: VecDeque<RunChunk>,
        keys: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        while !chunks.is_empty() {
            for chunk in self.sift(shelf, &mut chunks).await? {
                let fitting =
                    (0..chunk.rows.len()).filter(|at| self.sought.is_in(chunk.rows.row(*at)));
                keys.extend(fitting.map(|at| chunk.keys.key(at).to_vec()));
            }
        }
        Ok(())
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where a chunk is damaged.
    pub async fn next(&mut self, shelf: &mut Shelf) -> Result<Option<Rows>, Error> {
        loop {
            let mut out = Rows {
                rows: RowBatch::default(),
                cells: HashMap::new(),
            };
            let mut take = |row: &[u8], chunk: &KeyedChunk| {
                if self.sought.is_in(row) {
                    take_cells(row, &chunk.cells, &mut out.cells);
                    out.rows.push(row);
                }
            };
            match &mut self.left {
                Left::Chunks(chunks) if chunks.is_empty() => return Ok(None),
                Left::Keys(_, keys) if keys.is_empty() => return Ok(None),
                Left::Chunks(chunks) => {
                    let mut chunks = std::mem::take(chunks);
                    for chunk in self.sift(shelf, &mut chunks).await? {
                        chunk.rows.iter().for_each(|row| take(row, &chunk));
                    }
                    self.left = Left::Chunks(chunks);
                }
                Left::Keys(stack, keys) => {
                    let some: Vec<Vec<u8>> = keys.drain(..keys.len().min(KEYS_AT_ONCE)).collect();
                    let asked: Vec<&[u8]> = some.iter().map(Vec::as_slice).collect();
                    for found in stack.rows(shelf, &asked).await?.iter().flatten() {
                        take(found.row(), &found.chunk);
                    }
                }
            }
            if !out.rows.is_empty() {
                return Ok(Some(out));
            }
        }
    }

    /// Takes the first of `chunks` and gives those in which a row is sought.
    async fn sift(
        &self,
        shelf: &mut Shelf,
        chunks: &mut VecDeque<RunChunk>,
    ) -> Result<Vec<Arc<KeyedChunk>>, Error> {
        let mut parts: Vec<Vec<RunChunk>> = Vec::new();
        let (mut all, mut part) = (0, PART_BYTES);
        while all < SIFTED_BYTES
            && let Some(chunk) = chunks.pop_front()
        {
            let bytes = u64::from(chunk.bytes);
            match parts.last_mut().filter(|_| part < PART_BYTES) {
                Some(last) => last.push(chunk),
                None => {
                    part = 0;
                    parts.push(vec![chunk]);
                }
            }
            (all, part) = (all + bytes, part + bytes);
        }
        let sieve = Sieve {
            reader: shelf.reader().clone(),
            columns: self.columns,
            wanted: self.sought.columns(),
            sought: self.sought.clone(),
        };
        let sieve = Arc::new(sieve);
        let sifted: Vec<Vec<(RunChunk, DecodedChunk)>> = stream::iter(parts)
            .map(|part| sieve.clone().part(part))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        let shape = Shape {
            columns: self.columns,
            encoder: self.encoder.as_ref(),
        };
        let mut out = Vec::new();
        for (chunk, content) in sifted.into_iter().flatten() {
            out.push(shelf.stock(chunk, content, shape)?);
        }
        Ok(out)
    }
}

/// The keys that a way names, where it names the whole key.
fn whole_keys(encoder: &KeyEncoder, way: &[SoughtColumn]) -> Option<Vec<Vec<u8>>> {
    let leading = way.iter().find(|one| one.column == encoder.leading())?;
    (encoder.columns() == 1).then(|| beginnings_of(encoder, leading))
}

/// The chunks of a run that may hold a row that fits.
async fn candidates(
    shelf: &mut Shelf,
    run: &KeyedRun,
    signs: &[Signs],
) -> Result<Vec<RunChunk>, Error> {
    let mut found = Vec::new();
    let mut begun = run.run.kind == RunKind::Delta;
    let mut look = |page: &[RunChunk]| {
        for chunk in page {
            // The first chunk of a base that was rewritten may hold keys before its range.
            let first = if begun { &chunk.first[..] } else { &[] };
            begun = true;
            if signs.iter().any(|signs| signs.may_be_in(chunk, first)) {
                found.push(chunk.clone());
            }
        }
    };
    look(&run.chunks);
    for some in run.run.pages.chunks(PAGES_AT_ONCE) {
        let names: Vec<_> = some.iter().map(|page| page.name).collect();
        shelf
            .pages(&names)
            .await?
            .iter()
            .for_each(|page| look(page));
    }
    Ok(found)
}

/// Opens chunks and keeps those in which a row is sought.
struct Sieve {
    reader: Arc<Reader>,
    columns: usize,
    /// Positions of the columns that are sought, ascending.
    wanted: Vec<usize>,
    sought: Arc<Sought>,
}

impl Sieve {
    async fn part(
        self: Arc<Sieve>,
        chunks: Vec<RunChunk>,
    ) -> Result<Vec<(RunChunk, DecodedChunk)>, Error> {
        let names: Vec<_> = chunks.iter().map(|chunk| chunk.name).collect();
        let sealed = self.reader.fetch(&names).await?;
        let each = chunks.len().div_ceil(DECODING_AT_ONCE).max(1);
        let mut pairs = chunks.into_iter().zip(sealed);
        let mut opening = Vec::new();
        loop {
            let some: Vec<(RunChunk, SealedChunk)> = pairs.by_ref().take(each).collect();
            if some.is_empty() {
                break;
            }
            let sieve = self.clone();
            opening.push(tokio::task::spawn_blocking(move || {
                let opened = some.into_iter().map(|(chunk, sealed)| {
                    let opened = sieve.open(&sealed, &chunk);
                    (chunk, opened)
                });
                opened.collect::<Vec<_>>()
            }));
        }
        let mut out = Vec::new();
        for opened in opening {
            let opened = opened.await.map_err(|error| Error::Worker {
                why: error.to_string(),
            })?;
            for (chunk, opened) in opened {
                let content = match opened {
                    Err(error) if error.class() == Class::Corrupt => {
                        let accept = |sealed: &_| self.open(sealed, &chunk);
                        self.reader.chunk_elsewhere(&chunk.name, accept).await?
                    }
                    opened => opened?,
                };
                out.extend(content.map(|content| (chunk, content)));
            }
        }
        Ok(out)
    }

    /// The chunk, decoded and compared with its name; none where no row of it is sought.
    fn open(
        &self,
        sealed: &SealedChunk,
        chunk: &RunChunk,
    ) -> Result<Option<DecodedChunk>, reader::Error> {
        let raw = sealed.open(self.reader.vault())?;
        let named = codec::decode_columns(&raw, self.columns, &self.wanted, limits(chunk));
        let named = named.map_err(|_| sealed.misnamed())?;
        let count = named.first().map_or(0, RowBatch::len);
        let fits = |row: usize| {
            let at = |column| self.wanted.binary_search(&column).ok();
            self.sought
                .fits(|column| at(column).map(|at| named[at].row(row)))
        };
        if !(0..count).any(fits) {
            return Ok(None);
        }
        let whole = decode(
            &self.reader,
            sealed,
            chunk,
            self.columns,
            Digests::Elsewhere,
        )?;
        Ok(Some(whole.content))
    }
}
