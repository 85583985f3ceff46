//! What was added, removed and changed between two states of a table.
//!
//! With a key, a walk over both sides in key order, fed batch by batch: the verb `diff` walks over
//! rows, a backup over row digests. Without one, only how often each row is there can be
//! compared. Invariant: keys ascend strictly on each side, or the walk stops with an error.

use std::collections::HashMap;

use crate::failure::{Class, Failure};
use crate::id::Digest;
use crate::row::cell::RowBatch;
use crate::row::key::KeyBatch;

/// One of the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The earlier one.
    Before,
    /// The later one.
    After,
}

/// Why two states cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The keys of a side do not ascend strictly.
    #[error("the rows of a table to be compared are out of order ({side:?})")]
    Order {
        /// Which side.
        side: Side,
    },
    /// Keys and values that do not belong together, or a batch that was not asked for.
    #[error("a comparison of rows was given a batch that it did not want ({side:?})")]
    Unwanted {
        /// Which side.
        side: Side,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Order { .. } => Class::Corrupt,
            Error::Unwanted { .. } => Class::Bug,
        }
    }
}

/// A row on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its canonical key.
    pub key: &'a [u8],
    /// Its value: whatever bytes were fed, a row or a digest.
    pub value: &'a [u8],
    /// Its place in the batch that was fed last on that side.
    pub at: usize,
}

/// What comes next, in key order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// This side's next batch must be fed, or its end told, before anything else.
    Wants(Side),
    /// A row that only the later state has.
    Added(Entry<'a>),
    /// A row that only the earlier state has.
    Removed(Entry<'a>),
    /// A row whose value differs.
    Changed(Entry<'a>, Entry<'a>),
    /// A row whose value is the same.
    Same(Entry<'a>, Entry<'a>),
    /// Both sides have ended.
    Done,
}

#[derive(Default)]
struct Queue {
    keys: KeyBatch,
    values: RowBatch,
    next: usize,
    last: Vec<u8>,
    ended: bool,
}

impl Queue {
    fn head(&self) -> Option<&[u8]> {
        (self.next < self.keys.len()).then(|| self.keys.key(self.next))
    }

    fn wants(&self) -> bool {
        self.next == self.keys.len() && !self.ended
    }

    /// The entry before `next`.
    fn taken(&self) -> Entry<'_> {
        let at = self.next - 1;
        Entry {
            key: self.keys.key(at),
            value: self.values.row(at),
            at,
        }
    }
}

/// Walks over two states of a table with a key.
#[derive(Default)]
pub struct Walk {
    before: Queue,
    after: Queue,
}

impl Walk {
    /// A walk that wants both sides.
    pub fn new() -> Self {
        Walk::default()
    }

    fn queue(&mut self, side: Side) -> &mut Queue {
        match side {
            Side::Before => &mut self.before,
            Side::After => &mut self.after,
        }
    }

    /// Gives the next batch of `side`, which must have been asked for: a value for each key.
    ///
    /// # Errors
    /// Corrupt: the keys do not ascend.
    pub fn feed(&mut self, side: Side, keys: KeyBatch, values: RowBatch) -> Result<(), Error> {
        let queue = self.queue(side);
        if !queue.wants() || keys.len() != values.len() {
            return Err(Error::Unwanted { side });
        }
        if !keys.is_empty() {
            // No canonical key is empty, so an empty last key is that of no batch.
            if keys.key(0) <= &queue.last[..] || !keys.ascends() {
                return Err(Error::Order { side });
            }
            queue.last.clear();
            queue.last.extend_from_slice(keys.key(keys.len() - 1));
        }
        queue.keys = keys;
        queue.values = values;
        queue.next = 0;
        Ok(())
    }

    /// Tells that `side` has no further batch.
    pub fn end(&mut self, side: Side) {
        self.queue(side).ended = true;
    }

    /// What comes next.
    #[allow(clippy::should_implement_trait)] // It lends from itself, which an iterator cannot.
    pub fn next(&mut self) -> Step<'_> {
        if self.before.wants() {
            return Step::Wants(Side::Before);
        }
        if self.after.wants() {
            return Step::Wants(Side::After);
        }
        let order = match (self.before.head(), self.after.head()) {
            (None, None) => return Step::Done,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(before), Some(after)) => before.cmp(after),
        };
        self.before.next += usize::from(order.is_le());
        self.after.next += usize::from(order.is_ge());
        if order.is_lt() {
            return Step::Removed(self.before.taken());
        }
        if order.is_gt() {
            return Step::Added(self.after.taken());
        }
        let (before, after) = (self.before.taken(), self.after.taken());
        if before.value == after.value {
            Step::Same(before, after)
        } else {
            Step::Changed(before, after)
        }
    }
}

/// How often each row is there, after less before, for a table without a key.
///
/// Holds one entry for each row that differs so far; rows that balance out are forgotten.
#[derive(Clone, Debug, Default)]
pub struct Multiset {
    counts: HashMap<Digest, i64>,
}

impl Multiset {
    /// An empty comparison.
    pub fn new() -> Self {
        Multiset::default()
    }

    /// Counts `times` rows with `digest` on `side`.
    pub fn add(&mut self, side: Side, digest: Digest, times: u32) {
        let times = match side {
            Side::Before => -i64::from(times),
            Side::After => i64::from(times),
        };
        let count = self.counts.entry(digest).or_default();
        *count += times;
        if *count == 0 {
            self.counts.remove(&digest);
        }
    }

    /// Rows added and rows removed.
    pub fn totals(&self) -> (u64, u64) {
        self.counts
            .values()
            .fold((0, 0), |(added, removed), count| {
                let times = count.unsigned_abs();
                if *count > 0 {
                    (added + times, removed)
                } else {
                    (added, removed + times)
                }
            })
    }

    /// By how much each row differs, sorted by digest: above 0 it was added, below removed.
    pub fn differences(&self) -> Vec<(Digest, i64)> {
        let mut all: Vec<_> = self
            .counts
            .iter()
            .map(|(digest, count)| (*digest, *count))
            .collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn batches(rows: &BTreeMap<u8, u8>, size: usize) -> Vec<(KeyBatch, RowBatch)> {
        let all: Vec<_> = rows.iter().collect();
        all.chunks(size)
            .map(|chunk| {
                let (mut keys, mut values) = (KeyBatch::default(), RowBatch::default());
                for (key, value) in chunk {
                    keys.push(&[**key]);
                    values.push(&[**value]);
                }
                (keys, values)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn walk_finds_what_a_map_finds(
            before in prop::collection::btree_map(any::<u8>(), 0..3u8, 0..60),
            after in prop::collection::btree_map(any::<u8>(), 0..3u8, 0..60),
            sizes in (1..9usize, 1..9usize),
        ) {
            let mut left = batches(&before, sizes.0).into_iter();
            let mut right = batches(&after, sizes.1).into_iter();
            let mut walk = Walk::new();
            let mut found = Vec::new();
            loop {
                match walk.next() {
                    Step::Done => break,
                    Step::Wants(side) => {
                        let next = if side == Side::Before { left.next() } else { right.next() };
                        match next {
                            Some((keys, values)) => walk.feed(side, keys, values).unwrap(),
                            None => walk.end(side),
                        }
                    }
                    Step::Added(new) => found.push((new.key[0], None, Some(new.value[0]))),
                    Step::Removed(old) => found.push((old.key[0], Some(old.value[0]), None)),
                    Step::Changed(old, new) | Step::Same(old, new) => {
                        prop_assert_eq!(old.key, new.key);
                        found.push((old.key[0], Some(old.value[0]), Some(new.value[0])));
                    }
                }
            }
            let mut keys: Vec<u8> = before.keys().chain(after.keys()).copied().collect();
            keys.sort_unstable();
            keys.dedup();
            let model: Vec<_> = keys
                .iter()
                .map(|key| (*key, before.get(key).copied(), after.get(key).copied()))
                .collect();
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn a_side_out_of_order_is_refused() {
        let one = |key: u8| {
            let (mut keys, mut values) = (KeyBatch::default(), RowBatch::default());
            keys.push(&[key]);
            values.push(b"v");
            (keys, values)
        };
        let side = Side::Before;
        for second in [4, 5] {
            let mut walk = Walk::new();
            let ((keys, values), (later_keys, later_values)) = (one(5), one(second));
            walk.feed(side, keys.clone(), values.clone()).unwrap();
            assert_eq!(walk.feed(side, keys, values), Err(Error::Unwanted { side }));
            walk.end(Side::After);
            assert!(matches!(walk.next(), Step::Removed(_)));
            assert_eq!(
                walk.feed(side, later_keys, later_values),
                Err(Error::Order { side })
            );
        }
    }

    #[test]
    fn multiset_counts_rows_that_are_there_more_often() {
        let mut rows = Multiset::new();
        let digest = |byte| Digest([byte; 16]);
        for byte in [1, 2, 2, 3] {
            rows.add(Side::Before, digest(byte), 1);
        }
        for byte in [3, 2, 4, 4] {
            rows.add(Side::After, digest(byte), 1);
        }
        assert_eq!(rows.totals(), (2, 2));
        let wanted = vec![(digest(1), -1), (digest(2), -1), (digest(4), 2)];
        assert_eq!(rows.differences(), wanted);
    }
}
