//! A run's description, made while its chunks are stored.
//!
//! Chunks come in key order; whole pages are stored as they fill, so that a run of any length is
//! described in bounded memory. Invariant: equal chunks in equal order give equal pages.

use crate::format::pack::ChunkKind;
use crate::format::run::{PAGE_CHUNKS_MAX, PageReference, Run, RunChunk, page_ends, write_page};
use crate::id::ChunkId;
use crate::repo::writer::{Added, Error, Writer};

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
    bytes_stored: u64,
}

impl RunDescriber {
    /// Starts with the facts in `run`, whose chunks, pages and counts are still empty.
    pub fn new(run: Run) -> RunDescriber {
        RunDescriber {
            run,
            current: Vec::new(),
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
        let (name, added) = writer.add_bytes(ChunkKind::RunPage, &write_page(&self.current))?;
        self.count(added);
        self.run.pages.push(PageReference {
            name,
            first,
            last,
            chunks: self.current.len() as u32,
        });
        self.current.clear();
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
        let (run, added) = writer.add_bytes(ChunkKind::Run, &self.run.write())?;
        self.count(added);
        Ok(Described {
            run,
            bytes_stored: self.bytes_stored,
        })
    }
}
