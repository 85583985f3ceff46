//! A chunk of a run on a worker thread: named, encoded, compared, sealed.
//!
//! Invariant: what is stored decodes to the very rows that were cut for it.

use std::cell::RefCell;
use std::sync::Arc;

use crate::crypto::key;
use crate::format::pack::ChunkKind;
use crate::format::run::{ColumnFilter, LargeCell, RunChunk};
use crate::id::ChunkId;
use crate::repo::blob::Dictionary;
use crate::repo::table::Error;
use crate::repo::table::filters::column_filters;
use crate::repo::vault::Vault;
use crate::repo::writer::{self, Added, Writer};
use crate::row::cell::RowBatch;
use crate::row::codec::{self, Encoder};
use crate::row::key::KeyBatch;

thread_local! {
    static ENCODER: RefCell<(Encoder, Vec<u8>)> = RefCell::new((Encoder::new(), Vec::new()));
}

/// Rows and deletions that will be one chunk.
#[derive(Default)]
pub(super) struct Cut {
    pub(super) rows: RowBatch,
    pub(super) deleted: KeyBatch,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    pub(super) cells: Vec<LargeCell>,
    pub(super) covers: u64,
}

impl Cut {
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes().len() + self.deleted.bytes().len()
    }

    fn described(self, name: ChunkId, filters: Vec<ColumnFilter>) -> RunChunk {
        RunChunk {
            name,
            puts: self.rows.len() as u32,
            deletions: self.deleted.len() as u32,
            bytes: self.bytes() as u32,
            covers: self.covers,
            first: self.first,
            last: self.last,
            cells: self.cells,
            filters,
        }
    }
}

/// What a worker made of a chunk.
pub(super) enum Made {
    /// It is stored.
    Stored(RunChunk, Added),
    /// It is encoded, and waits for a dictionary.
    Encoded(RunChunk, Vec<u8>),
}

/// The name of a chunk of rows.
pub(in crate::repo::table) fn rows_name(
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

/// What becomes of a chunk that the repository does not have.
pub(super) enum Then {
    Store(Option<Arc<Dictionary>>),
    Wait,
}

/// Makes the chunks of one table.
pub(super) struct Maker {
    pub(super) writer: Arc<Writer>,
    pub(super) table: String,
    pub(super) columns: usize,
    /// Columns that filters are made over.
    pub(super) filters: Arc<[u32]>,
}

impl Maker {
    /// Names what was cut, and stores it unless the repository has it.
    pub(super) fn make(&self, cut: Cut, then: Then) -> Result<Made, Error> {
        let vault = self.writer.vault();
        let name = rows_name(vault, self.columns, &cut.rows, &cut.deleted);
        let filters = column_filters(vault, &self.filters, &cut.rows);
        if self.writer.has(&name)? {
            return Ok(Made::Stored(cut.described(name, filters), Added::Reused));
        }
        ENCODER.with_borrow_mut(|(encoder, raw)| {
            encoder
                .encode(self.columns, &cut.rows, &cut.deleted, raw)
                .map_err(|source| Error::Encode {
                    table: self.table.clone(),
                    source,
                })?;
            let same = |opened: &[u8]| codec::holds(opened, self.columns, &cut.rows, &cut.deleted);
            match then {
                Then::Wait if same(raw) => {
                    let raw = raw.clone();
                    Ok(Made::Encoded(cut.described(name, filters), raw))
                }
                Then::Wait => Err(writer::Error::Mismatch.into()),
                Then::Store(dictionary) => {
                    let dictionary = dictionary.as_deref();
                    let kind = ChunkKind::Rows;
                    let added = self.writer.add(kind, name, raw, dictionary, same)?;
                    Ok(Made::Stored(cut.described(name, filters), added))
                }
            }
        })
    }

    /// Stores what was encoded before.
    pub(super) fn store(
        &self,
        chunk: RunChunk,
        raw: &[u8],
        dictionary: Option<&Dictionary>,
    ) -> Result<Made, Error> {
        // The bytes were decoded and compared with their rows before they had to wait.
        let same = |opened: &[u8]| opened == raw;
        let kind = ChunkKind::Rows;
        let added = self.writer.add(kind, chunk.name, raw, dictionary, same)?;
        Ok(Made::Stored(chunk, added))
    }
}
