//! A run's description, made while its chunks are stored.
//!
//! Chunks come in key order; whole pages are stored some at a time, so that a run of any length is
//! described in bounded memory. Invariant: equal chunks in equal order give equal pages.

use crate::format::pack::ChunkKind;
use crate::format::run::{PAGE_CHUNKS_MAX, PageReference, Run, RunChunk, page_ends, write_page};
use crate::id::ChunkId;
use crate::repo::writer::{Added, Error, Writer};

/// Pages are stored together when they have this many bytes: beside each other, so that one request
/// fetches many.
const PAGES_TOGETHER_BYTES: usize = 4 << 20;

/// A run that has been stored.
#[derive(Clone, Debug)]
pub struct Described {
    /// The name of its description.
    pub run: ChunkId,
    /// Sealed bytes of new descriptions.
    pub bytes_stored: u64,
}

/// Collects the chunks of a run.
pub struct RunDescriber {
    run: Run,
    current: Vec<RunChunk>,
    /// Pages that are full, and wait for others.
    full: Vec<Vec<u8>>,
    full_bytes: usize,
    bytes_stored: u64,
}

impl RunDescriber {
    /// Starts with the facts in `run`, whose chunks, pages and counts are still empty.
    pub fn new(run: Run) -> RunDescriber {
        RunDescriber {
            run,
            current: Vec::new(),
            full: Vec::new(),
            full_bytes: 0,
            bytes_stored: 0,
        }
    }

    /// Adds the next chunk in key order.
    ///
    /// # Errors
    /// As [`Writer::add`], when a page is full.
    pub fn push(&mut self, writer: &Writer, chunk: RunChunk) -> Result<(), Error> {
        self.run.puts += u64::from(chunk.puts);
        self.run.deletions += u64::from(chunk.deletions);
        self.run.bytes += u64::from(chunk.bytes);
        self.run.covers_max = self.run.covers_max.max(chunk.covers);
        let name = chunk.name;
        self.current.push(chunk);
        if page_ends(self.current.len(), &name) {
            self.page(writer)?;
        }
        Ok(())
    }

    fn page(&mut self, writer: &Writer) -> Result<(), Error> {
        let (Some(first), Some(last)) = (self.current.first(), self.current.last()) else {
            return Ok(());
        };
        let (first, last) = (first.first.clone(), last.last.clone());
        let bytes = write_page(&self.current);
        let shared = &writer.vault().access.shared;
        let name = shared.chunk_id(ChunkKind::RunPage as u8, &bytes);
        self.full_bytes += bytes.len();
        self.full.push(bytes);
        self.run.pages.push(PageReference {
            name,
            first,
            last,
            chunks: self.current.len() as u32,
        });
        self.current.clear();
        match self.full_bytes < PAGES_TOGETHER_BYTES {
            true => Ok(()),
            false => self.store_pages(writer),
        }
    }

    fn store_pages(&mut self, writer: &Writer) -> Result<(), Error> {
        self.full_bytes = 0;
        for bytes in std::mem::take(&mut self.full) {
            let (_, added) = writer.add_bytes(ChunkKind::RunPage, &bytes)?;
            self.count(added);
        }
        Ok(())
    }

    fn count(&mut self, added: Added) {
        if let Added::New(bytes) = added {
            self.bytes_stored += u64::from(bytes);
        }
    }

    /// The counts so far.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Names a dictionary that the run's chunks may need.
    pub fn dictionary(&mut self, name: ChunkId) {
        if !self.run.dictionaries.contains(&name) {
            self.run.dictionaries.push(name);
        }
    }

    /// Gives the run a filter over its keys.
    pub fn key_filter(&mut self, bits: Option<Vec<u8>>) {
        self.run.key_filter = bits;
    }

    /// Stores the description.
    ///
    /// # Errors
    /// As [`Writer::add`].
    pub fn finish(mut self, writer: &Writer) -> Result<Described, Error> {
        if self.run.pages.is_empty() && self.current.len() <= PAGE_CHUNKS_MAX {
            self.run.chunks = std::mem::take(&mut self.current);
        } else {
            self.page(writer)?;
        }
        self.store_pages(writer)?;
        let (run, added) = writer.add_bytes(ChunkKind::Run, &self.run.write())?;
        self.count(added);
        Ok(Described {
            run,
            bytes_stored: self.bytes_stored,
        })
    }
}
