//! The runs and the new shadow that a walk writes.
//!
//! Each row goes to exactly one place: it stays in the run that it is in, or it is put into the
//! new delta run, or into the rewritten base. Invariant: the new shadow says of every key in which
//! tier its newest version is, and a run leaves the stack only when no key's newest version is in
//! its tier any more.

use std::sync::Arc;

use crate::format::run::{RunChunk, RunKind};
use crate::format::shadow::{Entry, ShadowRun, Stream, TIER_MAX};
use crate::planted;
use crate::repo::blob::Dictionary;
use crate::repo::shadow::file::TableStreams;
use crate::repo::shadow::range::{Item, Range, What};
use crate::repo::shadow::{Error, Place};
use crate::repo::table::{self, Digested, Packing, Put, RunOptions, RunWriter, WrittenRun};
use crate::repo::writer::Writer;
use crate::row::schema::Table;

/// This many runs of one tier become one of the next.
const RUNS_A_TIER: usize = 8;

/// What was written.
pub(in crate::repo::shadow) struct Written {
    pub(in crate::repo::shadow) stack: Vec<ShadowRun>,
    pub(in crate::repo::shadow) bytes_stored: u64,
    pub(in crate::repo::shadow) streams: Option<(Stream, Stream)>,
    pub(in crate::repo::shadow) dictionary: Option<Arc<Dictionary>>,
}

/// What a table had before.
pub(in crate::repo::shadow) struct Earlier {
    /// The runs that are built on; empty where the base is new.
    pub(in crate::repo::shadow) stack: Vec<ShadowRun>,
    /// What its chunks were compressed with.
    pub(in crate::repo::shadow) dictionary: Option<Arc<Dictionary>>,
    /// The columns that its chunks have filters over.
    pub(in crate::repo::shadow) filters: Arc<[u32]>,
}

pub(in crate::repo::shadow) struct Runs {
    writer: Arc<Writer>,
    table: Table,
    /// The runs before; empty where the base is new.
    stack: Vec<ShadowRun>,
    base: RunWriter,
    /// Whether the base is to be another one than before.
    rewritten: bool,
    base_puts: u64,
    delta: Option<RunWriter>,
    delta_puts: u64,
    delta_deletions: u64,
    /// The tier of the new delta run; lower ones are folded into it.
    tier: u8,
    /// The sequence that a rewritten base covers; the new delta run comes after it.
    sequence: u64,
    /// How many keys stay in each tier as it was before.
    staying: [u64; TIER_MAX as usize + 1],
    filters: Arc<[u32]>,
    streams: Option<TableStreams>,
}

/// The tier of the next delta run on `stack`: eight runs of one tier become one of the next.
pub(in crate::repo::shadow) fn next_tier(stack: &[ShadowRun]) -> u8 {
    let mut tier = 1;
    let runs = |tier: u8| stack.iter().filter(|run| run.tier == tier).count();
    while tier < TIER_MAX && runs(tier) + 1 >= RUNS_A_TIER {
        tier += 1;
    }
    tier
}

impl Runs {
    /// For a table that had `earlier`; with a new base where that is no stack, and with a shadow
    /// where there is a place for one.
    pub(in crate::repo::shadow) fn new(
        writer: Arc<Writer>,
        table: &Table,
        place: Option<&Place>,
        earlier: Earlier,
    ) -> Runs {
        let stack = earlier.stack;
        let sequence = stack.iter().map(|run| run.sequence + 1).max().unwrap_or(0);
        let options = RunOptions {
            kind: RunKind::Base,
            tier: 0,
            sequence,
            covers: sequence,
            packing: match earlier.dictionary {
                Some(dictionary) => Packing::With(dictionary),
                None => Packing::Trained,
            },
            filters: earlier.filters.clone(),
        };
        Runs {
            base: RunWriter::new(writer.clone(), table, options),
            writer,
            table: table.clone(),
            tier: next_tier(&stack),
            rewritten: stack.is_empty(),
            stack,
            base_puts: 0,
            delta: None,
            delta_puts: 0,
            delta_deletions: 0,
            sequence,
            staying: [0; TIER_MAX as usize + 1],
            filters: earlier.filters,
            streams: place.map(TableStreams::new),
        }
    }

    /// Whether the repository has all that a chunk of the old base needs.
    pub(in crate::repo::shadow) fn may_adopt(&self, chunk: &RunChunk) -> Result<bool, Error> {
        is_there(&self.writer, chunk)
    }

    /// Leaves a range of the base as it is; what changed in it comes apart from it.
    pub(in crate::repo::shadow) fn adopt(&mut self, chunk: RunChunk) -> Result<(), Error> {
        self.base_puts += u64::from(chunk.puts);
        self.base.adopt(chunk)?;
        Ok(())
    }

    /// A row or a deleted key that is as it was.
    pub(in crate::repo::shadow) fn stays(&mut self, key: &[u8], entry: Entry) -> Result<(), Error> {
        self.staying[usize::from(entry.tier.min(TIER_MAX))] += 1;
        self.entry(key, entry)
    }

    /// A row that is new or differs.
    pub(in crate::repo::shadow) fn changes(
        &mut self,
        batch: &Digested,
        row: usize,
    ) -> Result<(), Error> {
        self.delta_puts += 1;
        self.delta().put(&put(batch, row))?;
        let (digest, tier) = (Some(batch.digests[row]), self.tier);
        self.entry(batch.key(row), Entry { digest, tier })
    }

    /// A key that is deleted.
    pub(in crate::repo::shadow) fn goes(&mut self, key: &[u8]) -> Result<(), Error> {
        self.delta_deletions += 1;
        self.delta().delete(key)?;
        let (digest, tier) = (None, self.tier);
        self.entry(key, Entry { digest, tier })
    }

    fn entry(&mut self, key: &[u8], entry: Entry) -> Result<(), Error> {
        match &mut self.streams {
            Some(streams) => streams.entry(key, entry),
            None => Ok(()),
        }
    }

    /// Puts a row into the base that is being written.
    pub(in crate::repo::shadow) fn base_row(
        &mut self,
        batch: &Digested,
        row: usize,
    ) -> Result<(), Error> {
        self.rewritten = true;
        self.base_puts += 1;
        self.base.put(&put(batch, row))?;
        let digest = Some(batch.digests[row]);
        self.entry(batch.key(row), Entry { digest, tier: 0 })
    }

    /// Rewrites a range, from what is held of it on.
    pub(in crate::repo::shadow) fn rewrite(&mut self, range: &Range) -> Result<(), Error> {
        self.rewritten = true;
        self.base.rewrite_from(&range.edge.first);
        for item in &range.items {
            if let What::Row { batch, row } = item.what {
                self.base_row(range.batch(batch), row)?;
            }
        }
        Ok(())
    }

    /// Leaves a range of the base as it is, and puts what changed in it on the stack.
    pub(in crate::repo::shadow) fn keep(&mut self, range: Range) -> Result<(), Error> {
        for item in &range.items {
            let moves = item.changed || (item.tier > 0 && item.tier < self.tier);
            let tier = if moves { self.tier } else { item.tier };
            if !moves {
                self.staying[usize::from(tier.min(TIER_MAX))] += 1;
            }
            self.keep_item(&range, item, moves, tier)?;
        }
        self.base_puts += u64::from(range.edge.puts);
        self.base.adopt(range.edge)?;
        Ok(())
    }

    fn keep_item(
        &mut self,
        range: &Range,
        item: &Item,
        moves: bool,
        tier: u8,
    ) -> Result<(), Error> {
        match item.what {
            What::Row { batch, row } => {
                let batch = range.batch(batch);
                if moves {
                    return self.changes(batch, row);
                }
                let digest = Some(batch.digests[row]);
                self.entry(batch.key(row), Entry { digest, tier })
            }
            What::Gone(at) => {
                let key = range.gone_key(at);
                let lost = !item.changed && planted::is("deletion lost in a fold");
                if moves && !lost {
                    self.delta_deletions += 1;
                    self.delta().delete(key)?;
                }
                let digest = None;
                self.entry(key, Entry { digest, tier })
            }
        }
    }

    fn delta(&mut self) -> &mut RunWriter {
        let options = RunOptions {
            kind: RunKind::Delta,
            tier: self.tier,
            sequence: self.sequence + 1,
            covers: 0,
            packing: match self.base.dictionary() {
                Some(dictionary) => Packing::With(dictionary.clone()),
                None => Packing::Plain,
            },
            filters: self.filters.clone(),
        };
        let writer = self.writer.clone();
        let table = &self.table;
        self.delta
            .get_or_insert_with(|| RunWriter::new(writer, table, options))
    }

    /// Notes what became of chunks meanwhile.
    pub(in crate::repo::shadow) fn settle(&mut self) -> Result<(), Error> {
        let described = self.base.described();
        self.edges(&described)?;
        if let Some(delta) = &mut self.delta {
            drop(delta.described());
        }
        Ok(())
    }

    fn edges(&mut self, chunks: &[RunChunk]) -> Result<(), Error> {
        match &mut self.streams {
            Some(streams) => chunks.iter().try_for_each(|chunk| streams.edge(chunk)),
            None => Ok(()),
        }
    }

    /// Stores the runs that are new.
    pub(in crate::repo::shadow) fn finish(mut self) -> Result<Written, Error> {
        self.settle()?;
        let mut stack = Vec::new();
        let mut bytes_stored = 0;
        let mut dictionary = self.base.dictionary().cloned();
        let described = match self.rewritten {
            true => {
                let run = self.base.finish()?;
                dictionary = run.dictionary.clone();
                adds_up(&self.table, &run, (self.base_puts, 0))?;
                bytes_stored += run.bytes_stored;
                stack.push(ShadowRun {
                    run: run.run,
                    tier: 0,
                    sequence: self.sequence,
                });
                run.described
            }
            false => {
                stack.extend(self.stack.first().cloned());
                self.base.leave()?
            }
        };
        let stays = |run: &&ShadowRun| self.staying[usize::from(run.tier.min(TIER_MAX))] > 0;
        stack.extend(self.stack.iter().skip(1).filter(stays).cloned());
        if let Some(delta) = self.delta {
            let run = delta.finish()?;
            adds_up(&self.table, &run, (self.delta_puts, self.delta_deletions))?;
            bytes_stored += run.bytes_stored;
            stack.push(ShadowRun {
                run: run.run,
                tier: self.tier,
                sequence: self.sequence + 1,
            });
        }
        let streams = match self.streams {
            None => None,
            Some(mut streams) => {
                described.iter().try_for_each(|chunk| streams.edge(chunk))?;
                Some(streams.end()?)
            }
        };
        Ok(Written {
            stack,
            bytes_stored,
            streams,
            dictionary,
        })
    }
}

/// Whether the repository has all that a chunk of a base needs.
pub(in crate::repo::shadow) fn is_there(writer: &Writer, chunk: &RunChunk) -> Result<bool, Error> {
    let pieces = chunk.cells.iter().flat_map(|cell| &cell.chunks);
    for name in std::iter::once(&chunk.name).chain(pieces) {
        if !writer.has(name).map_err(table::Error::from)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses a run that does not hold as many rows and deletions as were handed to it.
fn adds_up(table: &Table, run: &WrittenRun, given: (u64, u64)) -> Result<(), Error> {
    if (run.puts, run.deletions) == given {
        return Ok(());
    }
    Err(Error::Sum {
        table: table.name.to_string(),
        what: format!(
            "a run holds {} rows and {} deletions of {} and {}",
            run.puts, run.deletions, given.0, given.1
        ),
    })
}

fn put(batch: &Digested, row: usize) -> Put<'_> {
    Put {
        key: batch.key(row),
        row: batch.rows.row(row),
        digest: batch.digests[row],
        cells: batch.cells(row),
    }
}
