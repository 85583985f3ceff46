//! Rows into runs.
//!
//! One thread takes rows with their keys and decides where chunks end; others name, encode,
//! compress and seal them; results come back in key order. Chunks of an older base run may be
//! adopted between them as they are. Invariant: a chunk holds exactly the rows that were cut for
//! it, which is checked by decoding before it is stored.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::crypto::key;
use crate::cut::RowCutter;
use crate::format::pack::ChunkKind;
use crate::format::run::{LargeCell, Run, RunChunk, RunKind};
use crate::id::{ChunkId, Digest};
use crate::planted;
use crate::repo::blob::Dictionary;
use crate::repo::table::{Error, RunDescriber};
use crate::repo::vault::Vault;
use crate::repo::writer::{Added, Writer};
use crate::row::cell::RowBatch;
use crate::row::codec::{self, Encoder, Limits};
use crate::row::key::KeyBatch;
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
    covers: u64,
}

impl Cut {
    fn bytes(&self) -> usize {
        self.rows.bytes().len() + self.deleted.bytes().len()
    }
}

struct Sealed {
    chunk: RunChunk,
    added: Added,
}

/// A chunk on its way into the description.
enum Coming {
    Sealing(JoinHandle<Result<Sealed, Error>>),
    Adopted(RunChunk),
}

/// What a run is to be.
#[derive(Clone)]
pub struct RunOptions {
    /// Base or delta.
    pub kind: RunKind,
    /// Its tier; 0 for a base.
    pub tier: u8,
    /// Its place in time.
    pub sequence: u64,
    /// Delta runs up to this sequence are in the chunks that it writes itself (a base only).
    pub covers: u64,
    /// What its chunks are compressed with.
    pub dictionary: Option<Arc<Dictionary>>,
}

/// A row to be put.
pub struct Put<'a> {
    /// Its canonical key; empty where the table has none.
    pub key: &'a [u8],
    /// Its canonical bytes.
    pub row: &'a [u8],
    /// Its digest.
    pub digest: Digest,
    /// Its large cells.
    pub cells: &'a [LargeCell],
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
    /// Sum of the digests of the rows put, those of adopted chunks apart.
    pub digest: Digest,
    /// Chunks that were described since the last call of [`RunWriter::described`].
    pub described: Vec<RunChunk>,
}

/// Writes one run. Its calls block; use it on a thread of its own inside a tokio runtime.
pub struct RunWriter {
    writer: Arc<Writer>,
    runtime: Handle,
    table: String,
    columns: usize,
    cutter: RowCutter,
    options: RunOptions,
    open: Cut,
    /// Where the range of a base that is being rewritten began, until a chunk of it is cut.
    range: Option<Vec<u8>>,
    rewriting: bool,
    coming: VecDeque<Coming>,
    describer: RunDescriber,
    described: Vec<RunChunk>,
    digest: Digest,
    bytes_stored: u64,
}

impl RunWriter {
    /// A writer of a run for `table`.
    pub fn new(
        writer: Arc<Writer>,
        runtime: Handle,
        table: &Table,
        options: RunOptions,
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
            range: None,
            rewriting: false,
            coming: VecDeque::new(),
            describer: RunDescriber::new(Run {
                required: Vec::new(),
                kind: options.kind,
                tier: options.tier,
                sequence: options.sequence,
                covers_max: 0,
                columns: columns as u32,
                puts: 0,
                deletions: 0,
                bytes: 0,
                chunks: Vec::new(),
                pages: Vec::new(),
                dictionaries: Vec::new(),
                key_filter: None,
            }),
            described: Vec::new(),
            digest: Digest::ZERO,
            bytes_stored: 0,
            options,
            writer,
        }
    }

    /// Puts the next row in key order.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn put(&mut self, put: &Put<'_>) -> Result<(), Error> {
        let decides = if put.key.is_empty() { put.row } else { put.key };
        self.cut_before(decides, put.row.len())?;
        self.open.rows.push(put.row);
        self.open.cells.extend_from_slice(put.cells);
        self.digest.add(put.digest);
        self.note(put.key);
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

    /// Begins to rewrite the range of the base from `first` to the next chunk that is adopted.
    /// Until then every row of it is put; where there is none, an empty chunk keeps the place.
    pub fn rewrite_from(&mut self, first: &[u8]) {
        if !self.rewriting {
            self.rewriting = true;
            self.range = Some(first.to_vec());
        }
    }

    /// Takes a chunk of an older base run as it is.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn adopt(&mut self, chunk: RunChunk) -> Result<(), Error> {
        self.end_range()?;
        while self.coming.len() >= CHUNKS_AT_ONCE {
            self.take_coming()?;
        }
        self.coming.push_back(Coming::Adopted(chunk));
        Ok(())
    }

    fn end_range(&mut self) -> Result<(), Error> {
        if self.open.rows.len() + self.open.deleted.len() > 0 || self.range.is_some() {
            self.seal_open()?;
        }
        self.rewriting = false;
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
        let mut cut = std::mem::replace(&mut self.open, next);
        cut.covers = self.options.covers;
        if planted::is("last row of a chunk dropped") {
            cut.rows = cut.rows.iter().take(cut.rows.len() - 1).fold(
                RowBatch::default(),
                |mut rows, row| {
                    rows.push(row);
                    rows
                },
            );
        }
        if let Some(first) = self.range.take() {
            if cut.bytes() == 0 {
                cut.last.clone_from(&first);
            }
            cut.first = first;
        }
        while self.coming.len() >= CHUNKS_AT_ONCE {
            self.take_coming()?;
        }
        let (writer, table, columns) = (self.writer.clone(), self.table.clone(), self.columns);
        let dictionary = self.options.dictionary.clone();
        let sealing = self
            .runtime
            .spawn_blocking(move || seal(&writer, &table, columns, cut, dictionary.as_deref()));
        self.coming.push_back(Coming::Sealing(sealing));
        Ok(())
    }

    fn take_coming(&mut self) -> Result<(), Error> {
        let chunk = match self.coming.pop_front() {
            None => return Ok(()),
            Some(Coming::Adopted(chunk)) => chunk,
            Some(Coming::Sealing(sealing)) => {
                let sealed = self.runtime.block_on(sealing);
                let sealed = sealed.map_err(|error| Error::Worker {
                    why: error.to_string(),
                })??;
                if let Added::New(bytes) = sealed.added {
                    self.bytes_stored += u64::from(bytes);
                }
                sealed.chunk
            }
        };
        for dictionary in self.writer.dictionaries_of(&chunk.name) {
            self.describer.dictionary(dictionary);
        }
        self.describer.push(&self.writer, chunk.clone())?;
        self.described.push(chunk);
        Ok(())
    }

    /// The chunks that were described since the last call, in key order.
    pub fn described(&mut self) -> Vec<RunChunk> {
        std::mem::take(&mut self.described)
    }

    /// Gives the run up without a description, where it came to be the base that was there.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn leave(mut self) -> Result<Vec<RunChunk>, Error> {
        self.end_range()?;
        while !self.coming.is_empty() {
            self.take_coming()?;
        }
        Ok(self.described)
    }

    /// Seals what is open and stores the description.
    ///
    /// # Errors
    /// Of any chunk.
    pub fn finish(mut self) -> Result<WrittenRun, Error> {
        self.end_range()?;
        while !self.coming.is_empty() {
            self.take_coming()?;
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
            described: self.described,
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

fn seal(
    writer: &Writer,
    table: &str,
    columns: usize,
    cut: Cut,
    dictionary: Option<&Dictionary>,
) -> Result<Sealed, Error> {
    let name = rows_name(writer.vault(), columns, &cut.rows, &cut.deleted);
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
            let added = writer.add(ChunkKind::Rows, name, raw, dictionary, |opened| {
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
            covers: cut.covers,
            first: cut.first,
            last: cut.last,
            cells: cut.cells,
            filters: Vec::new(),
        },
        added,
    })
}
