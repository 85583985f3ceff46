//! What differs between two stacks of one table, read from what the two do not share.
//!
//! A key can only differ where a run, or a chunk of a base, is in one stack and not in the other,
//! or where the two bases cover deltas differently. Those keys are looked up in both stacks, so
//! that of what is shared only the chunks under changed keys are read. Invariant: the answer is
//! that of two whole merges side by side.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::format::manifest::ManifestTable;
use crate::format::run::RunChunk;
use crate::id::ChunkId;
use crate::repo::reader::Reader;
use crate::repo::table::lookup::{FoundRow, KeyedChunk, KeyedRun, KeyedStack, Shelf};
use crate::repo::table::{Error, RunChunks};
use crate::row::diff::Side;

/// How many keys are looked up together.
const KEYS_AT_ONCE: usize = 256;
/// How many chunks of one run are read ahead.
const CHUNKS_AHEAD: usize = 16;

/// A key whose row differs.
pub struct Differing {
    /// The canonical key.
    pub key: Vec<u8>,
    /// The row before; none where there was none.
    pub before: Option<FoundRow>,
    /// The row after; none where there is none.
    pub after: Option<FoundRow>,
}

/// Two stacks of one table, side by side.
pub struct Between {
    shelf: Shelf,
    before: KeyedStack,
    after: KeyedStack,
    bases: Bases,
    sources: Vec<Touching>,
}

/// Chunks of which one base has what the other has not.
#[derive(Default)]
struct Bases {
    chunks: [Option<RunChunks>; 2],
    heads: [Option<RunChunk>; 2],
    queues: [VecDeque<RunChunk>; 2],
}

/// Where keys that may differ come from.
enum Chunks {
    Run(RunChunks),
    Base(Side),
}

/// Keys that may differ, from one run, ascending.
struct Touching {
    chunks: Chunks,
    loaded: VecDeque<Arc<KeyedChunk>>,
    row: usize,
    deletion: usize,
    ended: bool,
}

impl Bases {
    fn new(before: &KeyedRun, after: &KeyedRun) -> Bases {
        let names = |run: &KeyedRun| -> HashSet<ChunkId> {
            run.run.pages.iter().map(|page| page.name).collect()
        };
        let shared: HashSet<ChunkId> = names(before).intersection(&names(after)).copied().collect();
        let chunks = |run: &KeyedRun| {
            let mut run = run.whole();
            run.pages.retain(|page| !shared.contains(&page.name));
            Some(RunChunks::new(run))
        };
        Bases {
            chunks: [chunks(before), chunks(after)],
            ..Bases::default()
        }
    }

    async fn next(&mut self, reader: &Reader, side: Side) -> Result<Option<RunChunk>, Error> {
        let side = side as usize;
        loop {
            if let Some(chunk) = self.queues[side].pop_front() {
                return Ok(Some(chunk));
            }
            for at in 0..2 {
                if self.heads[at].is_none()
                    && let Some(chunks) = &mut self.chunks[at]
                {
                    self.heads[at] = chunks.next(reader).await?;
                }
            }
            let smaller = match &self.heads {
                [None, None] => return Ok(None),
                [Some(_), None] => 0,
                [None, Some(_)] => 1,
                [Some(before), Some(after)] if before.name == after.name => {
                    self.heads = [None, None];
                    continue;
                }
                [Some(before), Some(after)] => usize::from(before.last > after.last),
            };
            let chunk = self.heads[smaller].take();
            self.queues[smaller].extend(chunk.filter(|chunk| chunk.puts > 0));
        }
    }
}

impl Touching {
    fn new(chunks: Chunks) -> Touching {
        Touching {
            chunks,
            loaded: VecDeque::new(),
            row: 0,
            deletion: 0,
            ended: false,
        }
    }

    /// Reads on where nothing is in hand.
    async fn fill(
        &mut self,
        bases: &mut Bases,
        shelf: &mut Shelf,
        stack: &KeyedStack,
    ) -> Result<(), Error> {
        while !self.ended {
            if let Some(chunk) = self.loaded.front() {
                if self.row < chunk.keys.len() || self.deletion < chunk.deleted.len() {
                    return Ok(());
                }
                self.loaded.pop_front();
                (self.row, self.deletion) = (0, 0);
                continue;
            }
            let mut wanted = Vec::new();
            while wanted.len() < CHUNKS_AHEAD {
                let reader = shelf.reader();
                let next = match &mut self.chunks {
                    Chunks::Run(chunks) => chunks.next(reader).await?,
                    Chunks::Base(side) => bases.next(reader, *side).await?,
                };
                let Some(chunk) = next else { break };
                wanted.push(chunk);
            }
            self.ended = wanted.is_empty();
            self.loaded = shelf.chunks(&wanted, stack.shape()).await?.into();
        }
        Ok(())
    }

    fn head(&self) -> Option<&[u8]> {
        let chunk = self.loaded.front()?;
        let row = (self.row < chunk.keys.len()).then(|| chunk.keys.key(self.row));
        let deleted = &chunk.deleted;
        let deletion = (self.deletion < deleted.len()).then(|| deleted.key(self.deletion));
        match (row, deletion) {
            (Some(row), Some(deletion)) => Some(row.min(deletion)),
            (row, deletion) => row.or(deletion),
        }
    }

    fn pass(&mut self, key: &[u8]) {
        let Some(chunk) = self.loaded.front() else {
            return;
        };
        let (keys, deleted) = (&chunk.keys, &chunk.deleted);
        self.row += usize::from(self.row < keys.len() && keys.key(self.row) == key);
        let at = self.deletion;
        self.deletion += usize::from(at < deleted.len() && deleted.key(at) == key);
    }
}

impl Between {
    /// Opens both stacks of a table that has the same columns and the same key in both; none where
    /// its rows are not stored by key.
    ///
    /// # Errors
    /// The reader's; Corrupt where a run is not one.
    pub async fn open(
        reader: Arc<Reader>,
        before: &ManifestTable,
        after: &ManifestTable,
    ) -> Result<Option<Between>, Error> {
        let mut shelf = Shelf::new(reader);
        let earlier = KeyedStack::open(&mut shelf, before).await?;
        let later = KeyedStack::open(&mut shelf, after).await?;
        let (Some(before), Some(after)) = (earlier, later) else {
            return Ok(None);
        };
        let (Some(old), Some(new)) = (before.runs().first(), after.runs().first()) else {
            return Ok(None);
        };
        let mut sources = Vec::new();
        let mut bases = Bases::default();
        let mut covered = 0;
        if old.name != new.name {
            bases = Bases::new(old, new);
            covered = old.run.covers_max.max(new.run.covers_max);
            sources.push(Touching::new(Chunks::Base(Side::Before)));
            sources.push(Touching::new(Chunks::Base(Side::After)));
        }
        let has = |stack: &KeyedStack, run: &KeyedRun| {
            stack.runs().iter().any(|other| other.name == run.name)
        };
        for run in before.runs().iter().skip(1) {
            // What both have may count in one of them alone, where its base covers it.
            if !has(&after, run) || run.run.sequence <= covered {
                sources.push(Touching::new(Chunks::Run(RunChunks::new(run.whole()))));
            }
        }
        for run in after.runs().iter().skip(1) {
            if !has(&before, run) {
                sources.push(Touching::new(Chunks::Run(RunChunks::new(run.whole()))));
            }
        }
        Ok(Some(Between {
            shelf,
            before,
            after,
            bases,
            sources,
        }))
    }

    /// How many chunks of rows were read so far.
    pub fn chunks_read(&self) -> u64 {
        self.shelf.chunks_read
    }

    /// Some rows that differ, in key order; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where a chunk is not what its name says.
    pub async fn next(&mut self) -> Result<Option<Vec<Differing>>, Error> {
        loop {
            let keys = self.keys().await?;
            if keys.is_empty() {
                return Ok(None);
            }
            let asked: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let before = self.before.rows(&mut self.shelf, &asked).await?;
            let after = self.after.rows(&mut self.shelf, &asked).await?;
            let rows = keys.into_iter().zip(before.into_iter().zip(after));
            let differing: Vec<Differing> = rows
                .map(|(key, (before, after))| Differing { key, before, after })
                .filter(|one| {
                    let before = one.before.as_ref().map(FoundRow::row);
                    before != one.after.as_ref().map(FoundRow::row)
                })
                .collect();
            if !differing.is_empty() {
                return Ok(Some(differing));
            }
        }
    }

    /// The next keys that may differ.
    async fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < KEYS_AT_ONCE {
            for source in &mut self.sources {
                source
                    .fill(&mut self.bases, &mut self.shelf, &self.before)
                    .await?;
            }
            let Some(key) = self.sources.iter().filter_map(Touching::head).min() else {
                break;
            };
            let key = key.to_vec();
            if keys.last().is_some_and(|last| *last >= key) {
                return Err(Error::Merge {
                    table: self.before.name().to_owned(),
                    why: "the keys of a run do not ascend".into(),
                });
            }
            for source in &mut self.sources {
                source.pass(&key);
            }
            keys.push(key);
        }
        Ok(keys)
    }
}
