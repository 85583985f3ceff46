//! Rows into runs.
//!
//! One thread takes rows, finds their keys and decides where chunks end; others name, encode,
//! compress and seal them; results come back in key order. Invariant: a chunk holds exactly the
//! rows that were cut for it, which is checked by decoding before it is stored.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::crypto::key;
use crate::cut::{CellCutter, RowCutter};
use crate::format::manifest::StoredOrder;
use crate::format::pack::ChunkKind;
use crate::format::run::{LargeCell, Run, RunChunk, RunKind};
use crate::id::{ChunkId, Digest};
use crate::repo::table::digest::CellJoiner;
use crate::repo::table::{Error, RunDescriber};
use crate::repo::vault::Vault;
use crate::repo::writer::{self, Added, Writer};
use crate::row::cell::RowBatch;
use crate::row::codec::{self, Encoder, Limits};
use crate::row::key::{KeyBatch, KeyEncoder};
use crate::row::schema::Table;

/// How many chunks of a table are being sealed at once.
const CHUNKS_AT_ONCE: usize = 4;

thread_local! {
    static ENCODER: RefCell<(Encoder, Vec<u8>)> = RefCell::new((Encoder::new(), Vec::new()));
}

/// Rows and deletions that will be one chunk.
#[derive(Default)]
struct Cut {
    rows: RowBatch,
    deleted: KeyBatch,
    first: Vec<u8>,
    last: Vec<u8>,
    cells: Vec<LargeCell>,
}

impl Cut {
    fn bytes(&self) -> usize {
        self.rows.bytes().len() + self.deleted.bytes().len()
    }
}

struct Sealed {
    chunk: RunChunk,
    digest: Digest,
    added: Added,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct WrittenRun {
    /// The name of its description.
    pub run: ChunkId,
    /// Rows put.
    pub puts: u64,
    /// Keys deleted.
    pub deletions: u64,
    /// Bytes of canonical rows and keys.
    pub bytes_raw: u64,
    /// Sealed bytes of new chunks and descriptions.
    pub bytes_stored: u64,
    /// Sum of the digests of the rows put.
    pub digest: Digest,
}

/// Writes one run. Its calls block; use it on a thread of its own inside a tokio runtime.
pub struct RunWriter {
    writer: Arc<Writer>,
    runtime: Handle,
    table: String,
    columns: usize,
    cutter: RowCutter,
    open: Cut,
    sealing: VecDeque<JoinHandle<Result<Sealed, Error>>>,
    describer: RunDescriber,
    digest: Digest,
    bytes_stored: u64,
}

impl RunWriter {
    /// A writer of a run of `kind` and `tier` for `table`.
    pub fn new(
        writer: Arc<Writer>,
        runtime: Handle,
        table: &Table,
        kind: RunKind,
        tier: u8,
    ) -> RunWriter {
        let vault = writer.vault();
        let target = vault.chunk_target_bytes as usize;
        let cutter = RowCutter::new(vault.access.shared.cut.expose(), target);
        let columns = table.columns.len();
        RunWriter {
            runtime,
            table: table.name.to_string(),
            columns,
            cutter,
            open: Cut::default(),
            sealing: VecDeque::new(),
            describer: RunDescriber::new(Run {
                required: Vec::new(),
                kind,
                tier,
                sequence: 0,
                columns: columns as u32,
                puts: 0,
                deletions: 0,
                bytes: 0,
                chunks: Vec::new(),
                pages: Vec::new(),
                dictionaries: Vec::new(),
                key_filter: None,
            }),
            digest: Digest::ZERO,
            bytes_stored: 0,
            writer,
        }
    }

    /// Puts the next row in key order; `key` is empty where the table has none.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn put(&mut self, key: &[u8], row: &[u8], cells: Vec<LargeCell>) -> Result<(), Error> {
        let decides = if key.is_empty() { row } else { key };
        self.cut_before(decides, row.len())?;
        self.open.rows.push(row);
        self.open.cells.extend(cells);
        self.note(key);
        Ok(())
    }

    /// Deletes the next key in key order.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        self.cut_before(key, key.len())?;
        self.open.deleted.push(key);
        self.note(key);
        Ok(())
    }

    fn note(&mut self, key: &[u8]) {
        if self.open.rows.len() + self.open.deleted.len() == 1 {
            self.open.first.clear();
            self.open.first.extend_from_slice(key);
        }
        self.open.last.clear();
        self.open.last.extend_from_slice(key);
    }

    fn cut_before(&mut self, decides: &[u8], bytes: usize) -> Result<(), Error> {
        if self.cutter.cut_before(decides, self.open.bytes(), bytes) {
            self.seal_open()?;
        }
        Ok(())
    }

    fn seal_open(&mut self) -> Result<(), Error> {
        let room = self.open.bytes();
        let next = Cut {
            rows: RowBatch::with_capacity(room),
            ..Cut::default()
        };
        let cut = std::mem::replace(&mut self.open, next);
        while self.sealing.len() >= CHUNKS_AT_ONCE {
            self.take_sealed()?;
        }
        let (writer, table, columns) = (self.writer.clone(), self.table.clone(), self.columns);
        let sealing = self
            .runtime
            .spawn_blocking(move || seal(&writer, &table, columns, cut));
        self.sealing.push_back(sealing);
        Ok(())
    }

    fn take_sealed(&mut self) -> Result<(), Error> {
        let Some(sealing) = self.sealing.pop_front() else {
            return Ok(());
        };
        let sealed = self
            .runtime
            .block_on(sealing)
            .map_err(|error| Error::Worker {
                why: error.to_string(),
            })??;
        self.digest.add(sealed.digest);
        if let Added::New(bytes) = sealed.added {
            self.bytes_stored += u64::from(bytes);
        }
        self.describer.push(&self.writer, sealed.chunk)?;
        Ok(())
    }

    /// Rows put and keys deleted so far.
    pub fn is_empty(&self) -> bool {
        let run = self.describer.run();
        self.sealing.is_empty() && self.open.bytes() == 0 && run.puts + run.deletions == 0
    }

    /// Seals what is open and stores the description.
    ///
    /// # Errors
    /// Of any chunk.
    pub fn finish(mut self) -> Result<WrittenRun, Error> {
        if self.open.rows.len() + self.open.deleted.len() > 0 {
            self.seal_open()?;
        }
        while !self.sealing.is_empty() {
            self.take_sealed()?;
        }
        let run = self.describer.run();
        let (puts, deletions, bytes_raw) = (run.puts, run.deletions, run.bytes);
        let described = self.describer.finish(&self.writer)?;
        Ok(WrittenRun {
            run: described.run,
            puts,
            deletions,
            bytes_raw,
            bytes_stored: self.bytes_stored + described.bytes_stored,
            digest: self.digest,
        })
    }
}

/// The name of a chunk of rows.
pub(super) fn rows_name(
    vault: &Vault,
    columns: usize,
    rows: &RowBatch,
    deleted: &KeyBatch,
) -> ChunkId {
    let mut hasher = vault.access.shared.chunk_hasher(ChunkKind::Rows as u8);
    codec::feed_content(columns, rows, deleted, &mut |bytes| {
        hasher.update(bytes);
    });
    key::chunk_id(&hasher)
}

fn seal(writer: &Writer, table: &str, columns: usize, cut: Cut) -> Result<Sealed, Error> {
    let vault = writer.vault();
    let mut digest = Digest::ZERO;
    for row in cut.rows.iter() {
        digest.add(vault.access.shared.row_digest(row));
    }
    let name = rows_name(vault, columns, &cut.rows, &cut.deleted);
    let added = if writer.has(&name) {
        Added::Reused
    } else {
        ENCODER.with_borrow_mut(|(encoder, raw)| {
            encoder
                .encode(columns, &cut.rows, &cut.deleted, raw)
                .map_err(|source| Error::Encode {
                    table: table.to_owned(),
                    source,
                })?;
            let added = writer.add(ChunkKind::Rows, name, raw, None, |opened| {
                let decoded = codec::decode(opened, columns, Limits::default());
                decoded
                    .is_ok_and(|decoded| decoded.rows == cut.rows && decoded.deleted == cut.deleted)
            })?;
            Ok::<_, Error>(added)
        })?
    };
    Ok(Sealed {
        chunk: RunChunk {
            name,
            puts: cut.rows.len() as u32,
            deletions: cut.deleted.len() as u32,
            bytes: cut.bytes() as u32,
            covers: 0,
            first: cut.first,
            last: cut.last,
            cells: cut.cells,
            filters: Vec::new(),
        },
        digest,
        added,
    })
}

/// What a table came to.
#[derive(Clone, Debug)]
pub struct WrittenTable {
    /// Its run.
    pub run: WrittenRun,
    /// The order of its rows.
    pub order: StoredOrder,
}

/// A large cell whose slices are coming.
struct OpenCell {
    column: usize,
    cutter: CellCutter,
    hasher: blake3::Hasher,
    cell: LargeCell,
}

/// Writes all rows of a table into a base run: finds keys, checks their order, and puts large
/// cells into chunks of their own. Its calls block, as [`RunWriter`]'s do.
pub struct TableWriter {
    run: RunWriter,
    writer: Arc<Writer>,
    name: String,
    keys: Option<KeyEncoder>,
    columns: usize,
    key: Vec<u8>,
    last_key: Vec<u8>,
    rows: u64,
    open_cell: Option<OpenCell>,
    joiner: CellJoiner,
    row: Vec<u8>,
    cell_bytes_stored: u64,
}

impl TableWriter {
    /// A writer for `table`; with [`StoredOrder::Physical`] its key is not looked at.
    pub fn new(
        writer: Arc<Writer>,
        runtime: Handle,
        table: &Table,
        order: StoredOrder,
    ) -> TableWriter {
        let keys = match order {
            StoredOrder::Key => KeyEncoder::new(table),
            StoredOrder::Physical => None,
        };
        TableWriter {
            run: RunWriter::new(writer.clone(), runtime, table, RunKind::Base, 0),
            writer,
            name: table.name.to_string(),
            keys,
            columns: table.columns.len(),
            key: Vec::new(),
            last_key: Vec::new(),
            rows: 0,
            open_cell: None,
            joiner: CellJoiner::new(table),
            row: Vec::new(),
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

    /// Takes the next rows; slices that came before belong to the first of them.
    ///
    /// # Errors
    /// [`Error::Order`] where the rows are not in the order of their keys; else of storing them.
    pub fn rows(&mut self, rows: &RowBatch) -> Result<(), Error> {
        self.close_cell()?;
        for row in rows.iter() {
            if self.joiner.is_empty() {
                self.put(row, Vec::new())?;
            } else {
                let mut filled = std::mem::take(&mut self.row);
                let cells = self.joiner.fill(row, &mut filled)?;
                self.put(&filled, cells)?;
                self.row = filled;
            }
        }
        Ok(())
    }

    fn put(&mut self, row: &[u8], cells: Vec<LargeCell>) -> Result<(), Error> {
        self.key.clear();
        if let Some(keys) = &self.keys {
            keys.encode(row, &mut self.key)
                .map_err(|source| Error::Row {
                    table: self.name.clone(),
                    source,
                })?;
            if self.rows > 0 && self.key <= self.last_key {
                return Err(Error::Order {
                    table: self.name.clone(),
                });
            }
        }
        self.run.put(&self.key, row, cells)?;
        std::mem::swap(&mut self.key, &mut self.last_key);
        self.rows += 1;
        Ok(())
    }

    /// Rows taken so far.
    pub fn rows_taken(&self) -> u64 {
        self.rows
    }

    /// How many cells a row must have.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Stores what is left.
    ///
    /// # Errors
    /// Of any chunk; slices without a row.
    pub fn finish(mut self) -> Result<WrittenTable, Error> {
        self.close_cell()?;
        self.joiner.end()?;
        let order = match self.keys {
            Some(_) => StoredOrder::Key,
            None => StoredOrder::Physical,
        };
        let mut run = self.run.finish()?;
        run.bytes_stored += self.cell_bytes_stored;
        Ok(WrittenTable { run, order })
    }
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
