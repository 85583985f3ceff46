//! Rows by the value of a column: what refers to a record, found without reading the table.
//!
//! Filters of chunks say which may hold the value; a row that is found in an older run counts only
//! if no newer run knows its key, so the chunks that may speak of it are read as well. Invariant:
//! what comes out is what a whole reading of the table, sifted afterwards, would give.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::filter::Filter;
use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::format::run::RunChunk;
use crate::id::ChunkId;
use crate::repo::reader::Reader;
use crate::repo::table::filters::may_hold;
use crate::repo::table::read::{ChunkReader, Only};
use crate::repo::table::{Error, Rows, RunChunks, StackReader, read_run};
use crate::row::cell::{Cells, RowBatch};
use crate::row::key::KeyEncoder;

/// A column, and the values that are looked for in it.
#[derive(Clone, Debug)]
pub struct Sought {
    /// The column's position.
    pub column: usize,
    /// Canonical bytes of the cells that are looked for; none of them is NULL, and none is large.
    pub cells: HashSet<Vec<u8>>,
}

impl Sought {
    fn is_in(&self, row: &[u8]) -> bool {
        let mut bytes = Vec::new();
        match Cells::new(row).nth(self.column) {
            Some(Ok(cell)) => cell.push(&mut bytes),
            _ => return false,
        }
        self.cells.contains(&bytes)
    }

    fn may_be_in(&self, reader: &Reader, chunk: &RunChunk) -> bool {
        let vault = reader.vault();
        let column = self.column as u32;
        let mut cells = self.cells.iter();
        chunk.puts > 0 && cells.any(|cell| may_hold(vault, chunk, column, cell))
    }
}

/// The rows of a table in which a column has one of some values, in the order of the table.
pub struct RelatedRows {
    sought: Sought,
    stack: StackReader,
    /// How many chunks of rows may hold what is sought, or speak of its keys.
    pub chunks: usize,
}

impl RelatedRows {
    /// Finds out which chunks of `table` must be read. Values are equal where their canonical bytes
    /// are: not for a column whose collation or type holds different bytes for equal.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one, or the runs do not fit the table.
    pub async fn open(
        reader: Arc<Reader>,
        table: &ManifestTable,
        sought: Sought,
    ) -> Result<RelatedRows, Error> {
        let keys = KeyEncoder::new(&table.table).filter(|_| table.order == StoredOrder::Key);
        let search = Search {
            reader: &reader,
            columns: table.table.columns.len(),
            table: table.table.name.to_string(),
            keys,
            sought: &sought,
        };
        let mut wanted: Vec<HashSet<ChunkId>> = Vec::new();
        // Keys that an older run than the one in hand has with such a value.
        let mut known: Vec<Vec<u8>> = Vec::new();
        for run in &table.stack {
            let (chunks, found) = search.run(run, &known).await?;
            wanted.push(chunks);
            known.extend(found);
            known.sort_unstable();
            known.dedup();
        }
        let chunks = wanted.iter().map(HashSet::len).sum();
        Ok(RelatedRows {
            stack: StackReader::open_only(reader, table, Only(wanted)).await?,
            sought,
            chunks,
        })
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where a chunk is damaged.
    pub async fn next(&mut self) -> Result<Option<Rows>, Error> {
        while let Some(rows) = self.stack.next().await? {
            let mut chosen = RowBatch::default();
            for row in rows.rows.iter().filter(|row| self.sought.is_in(row)) {
                chosen.push(row);
            }
            if !chosen.is_empty() {
                return Ok(Some(Rows {
                    rows: chosen,
                    cells: rows.cells,
                }));
            }
        }
        Ok(None)
    }
}

/// Looks through one run after the other.
struct Search<'a> {
    reader: &'a Arc<Reader>,
    columns: usize,
    table: String,
    keys: Option<KeyEncoder>,
    sought: &'a Sought,
}

impl Search<'_> {
    /// The chunks of a run that must be read, and the keys that it has with a value that is sought.
    async fn run(
        &self,
        name: &ChunkId,
        known: &[Vec<u8>],
    ) -> Result<(HashSet<ChunkId>, Vec<Vec<u8>>), Error> {
        let run = read_run(self.reader, name).await?;
        // A filter that cannot be read denies nothing.
        let filter = run.key_filter.as_deref();
        let filter = filter.and_then(|bits| Filter::read(bits).ok());
        let shared = &self.reader.vault().access.shared;
        let mentioned = known.iter().filter(|key| {
            filter.is_none_or(|filter| filter.may_contain(&shared.key_filter_hash(key)))
        });
        let mentioned: Vec<&Vec<u8>> = mentioned.collect();
        let mut chunks = RunChunks::new(run.clone());
        let mut wanted = HashSet::new();
        let mut holding = Vec::new();
        while let Some(chunk) = chunks.next(self.reader).await? {
            let next = mentioned.partition_point(|key| **key < chunk.first);
            let speaks = mentioned.get(next).is_some_and(|key| **key <= chunk.last);
            let holds = self.sought.may_be_in(self.reader, &chunk);
            if holds || speaks {
                wanted.insert(chunk.name);
            }
            if holds {
                holding.push(chunk);
            }
        }
        let mut found = Vec::new();
        let Some(keys) = &self.keys else {
            return Ok((wanted, found));
        };
        let mut chunks = ChunkReader::new(self.reader.clone(), holding, self.columns);
        while let Some(rows) = chunks.next().await? {
            for row in rows.iter().filter(|row| self.sought.is_in(row)) {
                let mut key = Vec::new();
                keys.encode(row, &mut key).map_err(|source| Error::Row {
                    table: self.table.clone(),
                    source,
                })?;
                found.push(key);
            }
        }
        Ok((wanted, found))
    }
}
