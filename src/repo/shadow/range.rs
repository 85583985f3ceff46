//! Rows of one range of a base run, held until it is known what becomes of them.
//!
//! While few of a range's rows differ from the base, they go to the delta run and the base's chunk
//! is adopted; when as many do as the base has, the range is rewritten. Invariant: what is held is
//! bounded by the range's own chunk and a few chunks' worth of changes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::run::RunChunk;
use crate::repo::table::Digested;
use crate::row::key::KeyBatch;

/// A range is rewritten when this many chunks' worth of bytes are held beyond the base's own.
const CHUNKS_HELD_MAX: u64 = 8;

/// A row of the reading, or a key that is not in it.
pub(super) enum What {
    /// A row, by the number of its batch since the range began.
    Row {
        /// Which batch.
        batch: usize,
        /// Which row of it.
        row: usize,
    },
    /// A key that was there before, by its place among the held ones.
    Gone(usize),
}

/// What the walk found at one key.
pub(super) struct Item {
    /// The row, or the key.
    pub(super) what: What,
    /// The tier that the shadow has it in; of no meaning where it changed.
    pub(super) tier: u8,
    /// Whether it differs from the shadow.
    pub(super) changed: bool,
}

/// A range of a base run that is being walked through.
pub(super) struct Range {
    /// The chunk that it stands for.
    pub(super) edge: RunChunk,
    /// What was found so far.
    pub(super) items: Vec<Item>,
    batches: VecDeque<Arc<Digested>>,
    gone: KeyBatch,
    deltas: u64,
    bytes: u64,
    bytes_max: u64,
}

impl Range {
    /// The range of `edge`, with nothing found yet, where chunks have about `target` bytes.
    pub(super) fn new(edge: RunChunk, target: u32) -> Range {
        let bytes_max = u64::from(edge.bytes) + CHUNKS_HELD_MAX * u64::from(target);
        Range {
            edge,
            items: Vec::new(),
            batches: VecDeque::new(),
            gone: KeyBatch::default(),
            deltas: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds a row of `batch`.
    pub(super) fn row(&mut self, batch: &Arc<Digested>, row: usize, tier: u8, changed: bool) {
        if self
            .batches
            .back()
            .is_none_or(|last| !Arc::ptr_eq(last, batch))
        {
            self.batches.push_back(batch.clone());
        }
        let what = What::Row {
            batch: self.batches.len() - 1,
            row,
        };
        self.bytes += batch.rows.row(row).len() as u64;
        self.item(what, tier, changed);
    }

    /// Adds a key that is not in the reading.
    pub(super) fn gone(&mut self, key: &[u8], tier: u8, changed: bool) {
        self.gone.push(key);
        self.bytes += key.len() as u64;
        self.item(What::Gone(self.gone.len() - 1), tier, changed);
    }

    fn item(&mut self, what: What, tier: u8, changed: bool) {
        self.deltas += u64::from(changed || tier > 0);
        let item = Item {
            what,
            tier,
            changed,
        };
        self.items.push(item);
    }

    /// The batch of an item.
    pub(super) fn batch(&self, batch: usize) -> &Arc<Digested> {
        &self.batches[batch]
    }

    /// A key that is not in the reading.
    pub(super) fn gone_key(&self, at: usize) -> &[u8] {
        self.gone.key(at)
    }

    /// Whether so much of it differs from the base that it is to be rewritten. At a quarter of its
    /// rows already, as a smaller stack would ask for, 60 days of a table with random keys cost
    /// twice as much; restoring them is no more than a tenth cheaper.
    pub(super) fn is_worn(&self) -> bool {
        let worn = self.deltas > 0 && self.deltas >= u64::from(self.edge.puts);
        worn || self.bytes > self.bytes_max
    }
}
