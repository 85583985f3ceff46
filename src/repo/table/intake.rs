//! Rows as a source gives them, made ready: each with its key and its digest.
//!
//! Large cells are cut into chunks and stored as their slices come; keys and digests of a batch
//! are made on other threads, a few batches at once. Invariant: batches come out in the order in
//! which they went in, and keys ascend strictly over all of them, or it is an error.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::crypto::key;
use crate::cut::CellCutter;
use crate::format::pack::ChunkKind;
use crate::format::run::LargeCell;
use crate::id::{ChunkId, Digest};
use crate::repo::table::Error;
use crate::repo::table::digest::CellJoiner;
use crate::repo::vault::Vault;
use crate::repo::workers::Work;
use crate::repo::writer::{self, Added, Writer};
use crate::row::cell::RowBatch;
use crate::row::key::{KeyBatch, KeyEncoder};
use crate::row::schema::Table;

/// How many batches are being digested at once.
const BATCHES_AT_ONCE: usize = 4;
/// A batch below this size is digested at once, which takes less time than handing it over.
const BATCH_BYTES_MIN: usize = 16 << 10;

/// Rows with their keys and digests.
#[derive(Default)]
pub struct Digested {
    /// The rows.
    pub rows: RowBatch,
    /// Their keys; empty where the table has none.
    pub keys: KeyBatch,
    /// Their digests.
    pub digests: Vec<Digest>,
    /// The large cells of the first row.
    pub cells: Vec<LargeCell>,
}

impl Digested {
    /// The key of a row; empty where the table has none.
    pub fn key(&self, row: usize) -> &[u8] {
        match self.keys.is_empty() {
            true => &[],
            false => self.keys.key(row),
        }
    }

    /// How many bytes of memory it holds.
    pub fn held_bytes(&self) -> usize {
        let chunks = self.cells.iter().map(|cell| cell.chunks.capacity());
        self.rows.held_bytes()
            + self.keys.held_bytes()
            + self.digests.capacity() * size_of::<Digest>()
            + self.cells.capacity() * size_of::<LargeCell>()
            + chunks.sum::<usize>() * size_of::<ChunkId>()
    }

    /// The large cells of a row.
    pub fn cells(&self, row: usize) -> &[LargeCell] {
        if row == 0 { &self.cells } else { &[] }
    }
}

/// A large cell whose slices are coming.
struct OpenCell {
    column: usize,
    cutter: CellCutter,
    hasher: blake3::Hasher,
    cell: LargeCell,
}

/// Takes the pieces of one table. Its calls block; use it on a thread of its own.
pub struct Intake {
    writer: Arc<Writer>,
    table: String,
    keys: Option<Arc<KeyEncoder>>,
    open_cell: Option<OpenCell>,
    joiner: CellJoiner,
    digesting: VecDeque<Work<Result<Digested, Error>>>,
    last_key: Vec<u8>,
    cell_bytes_stored: u64,
}

impl Intake {
    /// An intake for `table`; without `keyed` its key is not looked at.
    pub fn new(writer: Arc<Writer>, table: &Table, keyed: bool) -> Intake {
        let keys = KeyEncoder::new(table).filter(|_| keyed);
        Intake {
            writer,
            table: table.name.to_string(),
            keys: keys.map(Arc::new),
            open_cell: None,
            joiner: CellJoiner::new(table),
            digesting: VecDeque::new(),
            last_key: Vec::new(),
            cell_bytes_stored: 0,
        }
    }

    /// Takes the next slice of a large cell of the row that comes next.
    ///
    /// # Errors
    /// Of storing its chunks.
    pub fn slice(&mut self, column: usize, bytes: &[u8]) -> Result<(), Error> {
        if self
            .open_cell
            .as_ref()
            .is_none_or(|open| open.column != column)
        {
            self.close_cell()?;
            let shared = &self.writer.vault().access.shared;
            self.open_cell = Some(OpenCell {
                column,
                cutter: CellCutter::new(shared.cut.expose()),
                hasher: shared.cell_hasher(),
                cell: LargeCell {
                    digest: Digest::ZERO,
                    length: 0,
                    chunks: Vec::new(),
                },
            });
        }
        if let Some(open) = &mut self.open_cell {
            open.hasher.update(bytes);
            open.cell.length += bytes.len() as u64;
            let mut stored = Stored::new(&self.writer);
            open.cutter.push(bytes, &mut |piece| stored.piece(piece));
            self.cell_bytes_stored += stored.end(&mut open.cell.chunks)?;
        }
        Ok(())
    }

    fn close_cell(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open_cell.take() else {
            return Ok(());
        };
        let mut stored = Stored::new(&self.writer);
        open.cutter.finish(&mut |piece| stored.piece(piece));
        self.cell_bytes_stored += stored.end(&mut open.cell.chunks)?;
        open.cell.digest = key::digest(&open.hasher);
        self.joiner.push(open.column, open.cell);
        Ok(())
    }

    /// Takes the next rows; slices that came before belong to the first of them. Gives an earlier
    /// batch when enough are under way.
    ///
    /// # Errors
    /// [`Error::Order`] where the rows are not in the order of their keys.
    pub fn rows(&mut self, rows: RowBatch) -> Result<Option<Digested>, Error> {
        self.close_cell()?;
        let (rows, cells) = self.fill(rows)?;
        let small = rows.bytes().len() < BATCH_BYTES_MIN;
        let (vault, keys, table) = (
            self.writer.vault().clone(),
            self.keys.clone(),
            self.table.clone(),
        );
        let digest = move || digest(&vault, keys.as_deref(), &table, rows, cells);
        if small && self.digesting.is_empty() {
            return self.check(digest()?).map(Some);
        }
        self.digesting
            .push_back(self.writer.workers().begin(digest));
        match self.digesting.len() > BATCHES_AT_ONCE {
            true => self.next(),
            false => Ok(None),
        }
    }

    /// The batch with the digests of the large cells in its first row.
    fn fill(&mut self, rows: RowBatch) -> Result<(RowBatch, Vec<LargeCell>), Error> {
        if self.joiner.is_empty() || rows.is_empty() {
            return Ok((rows, Vec::new()));
        }
        let mut filled = RowBatch::with_capacity(rows.bytes().len());
        let mut first = Vec::new();
        let cells = self.joiner.fill(rows.row(0), &mut first)?;
        filled.push(&first);
        for row in rows.iter().skip(1) {
            filled.push(row);
        }
        Ok((filled, cells))
    }

    /// The next batch that is under way; none where there is no more.
    ///
    /// # Errors
    /// As [`Intake::rows`].
    #[allow(clippy::should_implement_trait)] // An iterator would have to end at its first error.
    pub fn next(&mut self) -> Result<Option<Digested>, Error> {
        let Some(digesting) = self.digesting.pop_front() else {
            return Ok(None);
        };
        let digested = self.writer.workers().end(digesting);
        let digested = digested.map_err(|error| Error::Worker {
            why: error.to_string(),
        })??;
        self.check(digested).map(Some)
    }

    fn check(&mut self, digested: Digested) -> Result<Digested, Error> {
        let keys = &digested.keys;
        if keys.is_empty() {
            return Ok(digested);
        }
        // No canonical key is empty, so an empty last key is that of no batch.
        if keys.key(0) <= &self.last_key[..] {
            return Err(Error::Order {
                table: self.table.clone(),
            });
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(keys.key(keys.len() - 1));
        Ok(digested)
    }

    /// Ends the table, when every batch was taken: sealed bytes of the large cells' new chunks.
    ///
    /// # Errors
    /// Slices without a row.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.close_cell()?;
        self.joiner.end()?;
        Ok(self.cell_bytes_stored)
    }
}

fn digest(
    vault: &Vault,
    encoder: Option<&KeyEncoder>,
    table: &str,
    rows: RowBatch,
    cells: Vec<LargeCell>,
) -> Result<Digested, Error> {
    let mut keys = KeyBatch::default();
    if let Some(encoder) = encoder {
        // Most keys are a number or a UUID.
        keys = KeyBatch::with_capacity(rows.len() * 18, rows.len());
        let keyed = encoder.encode_all(&rows, &mut keys);
        keyed.map_err(|source| Error::Row {
            table: table.to_owned(),
            source,
        })?;
        if !keys.ascends() {
            return Err(Error::Order {
                table: table.to_owned(),
            });
        }
    }
    let shared = &vault.access.shared;
    let digests = rows.iter().map(|row| shared.row_digest(row)).collect();
    Ok(Digested {
        rows,
        keys,
        digests,
        cells,
    })
}

/// Stores the pieces of a large cell, and keeps the first failure until it can be told.
struct Stored<'a> {
    writer: &'a Writer,
    chunks: Vec<ChunkId>,
    bytes: u64,
    failure: Option<writer::Error>,
}

impl<'a> Stored<'a> {
    fn new(writer: &'a Writer) -> Self {
        Stored {
            writer,
            chunks: Vec::new(),
            bytes: 0,
            failure: None,
        }
    }

    fn piece(&mut self, piece: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        match self.writer.add_bytes(ChunkKind::Cell, piece) {
            Ok((name, added)) => {
                self.chunks.push(name);
                if let Added::New(bytes) = added {
                    self.bytes += u64::from(bytes);
                }
            }
            Err(error) => self.failure = Some(error),
        }
    }

    fn end(self, chunks: &mut Vec<ChunkId>) -> Result<u64, Error> {
        match self.failure {
            Some(error) => Err(error.into()),
            None => {
                chunks.extend(self.chunks);
                Ok(self.bytes)
            }
        }
    }
}
