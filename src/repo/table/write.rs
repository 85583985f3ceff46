//! Rows into runs.
//!
//! One thread takes rows with their keys and decides where chunks end; others name, encode,
//! compress and seal them; results come back in key order. Chunks of an older base run may be
//! adopted between them as they are. Invariant: a chunk holds exactly the rows that were cut for
//! it, which is checked by decoding before it is stored.

mod make;
mod train;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cut::RowCutter;
use crate::format::pack::ChunkKind;
use crate::format::run::{LargeCell, Run, RunChunk, RunKind};
use crate::id::{ChunkId, Digest};
use crate::planted;
use crate::repo::blob::Dictionary;
use crate::repo::table::filters::KeyFilter;
use crate::repo::table::{Error, RunDescriber};
use crate::repo::workers::Work;
use crate::repo::writer::{Added, Writer};
use crate::row::cell::RowBatch;
use crate::row::schema::Table;
pub(super) use make::rows_name;
use make::{Cut, Made, Maker, Then};
use train::Waiting;

/// How many chunks of a table are being sealed at once.
const CHUNKS_AT_ONCE: usize = 4;

/// A chunk on its way into the description.
enum Coming {
    Making(Work<Result<Made, Error>>),
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
    pub packing: Packing,
    /// The columns that its chunks have filters over, by position, ascending.
    pub filters: Arc<[u32]>,
}

/// What the chunks of a run are compressed with.
#[derive(Clone)]
pub enum Packing {
    /// No dictionary.
    Plain,
    /// The table's dictionary.
    With(Arc<Dictionary>),
    /// A dictionary that is trained on the first of them, where it pays.
    Trained,
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
#[derive(Clone)]
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
    /// What its last chunks were compressed with.
    pub dictionary: Option<Arc<Dictionary>>,
}

/// Writes one run. Its calls block; use it on a thread of its own.
pub struct RunWriter {
    writer: Arc<Writer>,
    maker: Arc<Maker>,
    cutter: RowCutter,
    /// For the rows of a chunk; few chunks are larger.
    room: usize,
    options: RunOptions,
    open: Cut,
    /// Where the range of a base that is being rewritten began, until a chunk of it is cut.
    range: Option<Vec<u8>>,
    rewriting: bool,
    coming: VecDeque<Coming>,
    dictionary: Option<Arc<Dictionary>>,
    /// Whether the repository is known to have the dictionary.
    placed: bool,
    /// Chunks that wait for a dictionary to be trained on them; none when that is decided.
    waiting: Option<Waiting>,
    describer: RunDescriber,
    key_filter: Option<KeyFilter>,
    described: Vec<RunChunk>,
    digest: Digest,
    bytes_stored: u64,
}

impl RunWriter {
    /// A writer of a run for `table`.
    pub fn new(writer: Arc<Writer>, table: &Table, options: RunOptions) -> RunWriter {
        let vault = writer.vault();
        let target = vault.chunk_target_bytes as usize;
        let cutter = RowCutter::new(vault.access.shared.cut.expose(), target);
        let columns = table.columns.len();
        RunWriter {
            maker: Arc::new(Maker {
                writer: writer.clone(),
                table: table.name.to_string(),
                columns,
                filters: options.filters.clone(),
            }),
            cutter,
            room: 2 * target,
            open: Cut::default(),
            range: None,
            rewriting: false,
            coming: VecDeque::new(),
            dictionary: match &options.packing {
                Packing::With(dictionary) => Some(dictionary.clone()),
                Packing::Plain | Packing::Trained => None,
            },
            placed: false,
            waiting: match &options.packing {
                Packing::Trained => Some(Waiting::default()),
                Packing::Plain | Packing::With(_) => None,
            },
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
            key_filter: (options.kind == RunKind::Delta).then(KeyFilter::default),
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
        if let Some(filter) = &mut self.key_filter {
            filter.push(self.writer.vault(), key);
        }
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
        let next = Cut {
            rows: RowBatch::with_room(self.room, self.open.rows.len()),
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
                cut.first = first;
            } else {
                // The first range of all takes keys before it too.
                cut.first = first.min(cut.first);
            }
        }
        while self.coming.len() >= CHUNKS_AT_ONCE {
            self.take_coming()?;
        }
        let maker = self.maker.clone();
        self.place_dictionary()?;
        let then = match &self.waiting {
            Some(_) => Then::Wait,
            None => Then::Store(self.dictionary.clone()),
        };
        let making = self.writer.workers().begin(move || maker.make(cut, then));
        self.coming.push_back(Coming::Making(making));
        Ok(())
    }

    /// Stores the dictionary again, should the repository have lost it.
    fn place_dictionary(&mut self) -> Result<(), Error> {
        let unplaced = self.dictionary.as_ref().filter(|_| !self.placed);
        if let Some(dictionary) = unplaced {
            self.writer
                .add_bytes(ChunkKind::Dictionary, dictionary.bytes())?;
            self.placed = true;
        }
        Ok(())
    }

    fn take_coming(&mut self) -> Result<(), Error> {
        let made = match self.coming.pop_front() {
            None => return Ok(()),
            Some(Coming::Adopted(chunk)) => Made::Stored(chunk, Added::Reused),
            Some(Coming::Making(making)) => self.wait(making)?,
        };
        let Some(waiting) = &mut self.waiting else {
            return self.describe_made(made);
        };
        match made {
            Made::Stored(chunk, added) if waiting.is_empty() => self.describe(chunk, added),
            Made::Stored(chunk, _) => {
                waiting.described(chunk);
                self.train_if_full()
            }
            Made::Encoded(chunk, raw) => {
                waiting.encoded(chunk, &raw);
                self.train_if_full()
            }
        }
    }

    fn wait(&self, making: Work<Result<Made, Error>>) -> Result<Made, Error> {
        let made = self.writer.workers().end(making);
        made.map_err(|error| Error::Worker {
            why: error.to_string(),
        })?
    }

    fn describe_made(&mut self, made: Made) -> Result<(), Error> {
        match made {
            Made::Stored(chunk, added) => self.describe(chunk, added),
            Made::Encoded(chunk, raw) => {
                let storing = self.store(chunk, raw);
                let stored = self.wait(storing)?;
                self.describe_made(stored)
            }
        }
    }

    fn describe(&mut self, chunk: RunChunk, added: Added) -> Result<(), Error> {
        if let Added::New(bytes) = added {
            self.bytes_stored += u64::from(bytes);
        }
        for dictionary in self.writer.dictionaries_of(&chunk.name)? {
            self.describer.dictionary(dictionary);
        }
        self.describer.push(&self.writer, chunk.clone())?;
        self.described.push(chunk);
        Ok(())
    }

    /// The dictionary that the next chunk is compressed with, if there is one by now.
    pub fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        self.dictionary.as_ref()
    }

    /// The chunks that were described since the last call, in key order.
    pub fn described(&mut self) -> Vec<RunChunk> {
        std::mem::take(&mut self.described)
    }

    fn drain(&mut self) -> Result<(), Error> {
        while !self.coming.is_empty() {
            self.take_coming()?;
        }
        self.train()
    }

    /// Gives the run up without a description, where it came to be the base that was there.
    ///
    /// # Errors
    /// Of a chunk that was cut before.
    pub fn leave(mut self) -> Result<Vec<RunChunk>, Error> {
        self.end_range()?;
        self.drain()?;
        Ok(self.described)
    }

    /// Seals what is open and stores the description.
    ///
    /// # Errors
    /// Of any chunk.
    pub fn finish(mut self) -> Result<WrittenRun, Error> {
        self.end_range()?;
        if planted::is("last chunk dropped") {
            self.coming.pop_back();
        }
        self.drain()?;
        let run = self.describer.run();
        let (puts, deletions, bytes_raw) = (run.puts, run.deletions, run.bytes);
        let filter = self.key_filter.and_then(KeyFilter::finish);
        self.describer.key_filter(filter);
        let described = self.describer.finish(&self.writer)?;
        Ok(WrittenRun {
            run: described.run,
            puts,
            deletions,
            bytes_raw,
            bytes_stored: self.bytes_stored + described.bytes_stored,
            digest: self.digest,
            described: self.described,
            dictionary: self.dictionary,
        })
    }
}
