//! The merge of a stack of runs into one table: of rows with the same key, the newest wins.
//!
//! A pure state machine: it says which run's next chunk it wants, and gives spans of rows that
//! stand as they are. Between two keys of the deltas a whole span of the base goes through with
//! one search, so a tall stack costs little more than its base. Invariant: keys ascend strictly
//! within each run, and in what comes out; a run that breaks this is an error.

use std::ops::Range;

use crate::failure::{Class, Failure};
use crate::planted;
use crate::row::cell::RowBatch;
use crate::row::codec::DecodedChunk;
use crate::row::key::{self, KeyBatch, KeyEncoder};

/// Why runs cannot be merged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A run whose keys do not ascend strictly, or that both puts and deletes a key.
    #[error("the rows of run {run} of a table's stack are out of order")]
    Order {
        /// Position in the stack; 0 is the base.
        run: usize,
    },
    /// A row without a key.
    #[error("run {run} of a table's stack has a row without a key")]
    Key {
        /// Position in the stack; 0 is the base.
        run: usize,
        /// Why.
        #[source]
        why: key::Error,
    },
    /// A chunk came for a run that did not want one.
    #[error("run {run} of a table's stack was given a chunk that it did not want")]
    Unwanted {
        /// Position in the stack; 0 is the base.
        run: usize,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Order { .. } | Error::Key { .. } => Class::Corrupt,
            Error::Unwanted { .. } => Class::Bug,
        }
    }
}

/// What becomes of deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    /// They hide rows and are gone: for a stack from its base on.
    Drop,
    /// They hide rows and come out too: for folding runs that lie above others.
    Keep,
}

/// Rows that stand, one after the other in key order.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The run that they come from.
    pub run: usize,
    /// The chunk's rows, of which those in `range` stand.
    pub rows: &'a RowBatch,
    /// The keys of the chunk's rows.
    pub keys: &'a KeyBatch,
    /// Which of them.
    pub range: Range<usize>,
}

impl<'a> Span<'a> {
    /// Key and canonical bytes of each row.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (rows, keys) = (self.rows, self.keys);
        self.range.clone().map(|row| (keys.key(row), rows.row(row)))
    }
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// This run's next chunk must be fed, or its end told, before anything else.
    Wants(usize),
    /// Rows of the table.
    Rows(Span<'a>),
    /// A deletion, where they are kept.
    Deleted {
        /// The run that it comes from.
        run: usize,
        /// The key.
        key: &'a [u8],
    },
    /// All runs have ended.
    Done,
}

#[derive(Default)]
struct Run {
    chunk: DecodedChunk,
    keys: KeyBatch,
    /// The next row, and the next deletion.
    row: usize,
    deletion: usize,
    last: Vec<u8>,
    ended: bool,
}

/// The smallest key that a run still has.
struct Head<'a> {
    key: &'a [u8],
    deletion: bool,
}

impl Run {
    fn head(&self) -> Option<Head<'_>> {
        let row = (self.row < self.keys.len()).then(|| self.keys.key(self.row));
        let deleted = &self.chunk.deleted;
        let deletion = (self.deletion < deleted.len()).then(|| deleted.key(self.deletion));
        match (row, deletion) {
            (Some(row), deletion) if deletion.is_none_or(|deletion| row <= deletion) => {
                Some(Head {
                    key: row,
                    deletion: false,
                })
            }
            (_, deletion) => deletion.map(|key| Head {
                key,
                deletion: true,
            }),
        }
    }

    fn is_empty(&self) -> bool {
        self.row == self.keys.len() && self.deletion == self.chunk.deleted.len()
    }

    /// Whether the next row and the next deletion have one key.
    fn contradicts(&self) -> bool {
        let deleted = &self.chunk.deleted;
        self.row < self.keys.len()
            && self.deletion < deleted.len()
            && self.keys.key(self.row) == deleted.key(self.deletion)
    }

    fn skip(&mut self) {
        match self.head() {
            Some(Head { deletion: true, .. }) => self.deletion += 1,
            Some(_) => self.row += 1,
            None => {}
        }
    }

    /// The first row from `self.row` on whose key is `bound` or more, found by steps that double.
    fn row_at(&self, bound: &[u8]) -> usize {
        let (mut low, mut step) = (self.row, 1);
        while low + step < self.keys.len() && self.keys.key(low + step) < bound {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(self.keys.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.keys.key(middle) < bound {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether the chunk ascends, from the last key of the chunk before.
    fn ascends(&mut self, first_chunk: bool) -> bool {
        let deleted = &self.chunk.deleted;
        let keys = [&self.keys, deleted];
        let first = keys
            .iter()
            .filter(|keys| !keys.is_empty())
            .map(|keys| keys.key(0))
            .min();
        let Some(first) = first else {
            return true;
        };
        if (!first_chunk && first <= &self.last[..]) || !keys.iter().all(|keys| keys.ascends()) {
            return false;
        }
        let ends = keys.iter().filter(|keys| !keys.is_empty());
        let last = ends.map(|keys| keys.key(keys.len() - 1)).max();
        self.last.clear();
        self.last.extend_from_slice(last.unwrap_or_default());
        true
    }
}

/// Merges the runs of one table.
pub struct Merge {
    encoder: KeyEncoder,
    deletions: Deletions,
    runs: Vec<Run>,
}

impl Merge {
    /// A merge of `runs` runs, oldest first, of the table that `encoder` is for.
    pub fn new(encoder: KeyEncoder, runs: usize, deletions: Deletions) -> Self {
        Merge {
            encoder,
            deletions,
            runs: (0..runs).map(|_| Run::default()).collect(),
        }
    }

    /// Gives the next chunk of `run`, which must have been asked for.
    ///
    /// # Errors
    /// Corrupt: the chunk is out of order, or a row in it has no key.
    pub fn feed(&mut self, run: usize, chunk: DecodedChunk) -> Result<(), Error> {
        let fed = self.runs.get_mut(run).ok_or(Error::Unwanted { run })?;
        if fed.ended || !fed.is_empty() {
            return Err(Error::Unwanted { run });
        }
        fed.keys.clear();
        fed.chunk = chunk;
        (fed.row, fed.deletion) = (0, 0);
        let keyed = self.encoder.encode_all(&fed.chunk.rows, &mut fed.keys);
        keyed.map_err(|why| Error::Key { run, why })?;
        // No canonical key is empty, so an empty last key is that of no chunk.
        if fed.ascends(fed.last.is_empty()) {
            Ok(())
        } else {
            Err(Error::Order { run })
        }
    }

    /// Tells that `run` has no further chunk.
    pub fn end(&mut self, run: usize) {
        if let Some(run) = self.runs.get_mut(run) {
            run.ended = true;
        }
    }

    /// What comes next. Spans are as long as they can be within a chunk.
    ///
    /// # Errors
    /// Corrupt: a run both puts and deletes a key.
    #[allow(clippy::should_implement_trait)] // It lends from itself, which an iterator cannot.
    pub fn next(&mut self) -> Result<Step<'_>, Error> {
        loop {
            if let Some(run) = self
                .runs
                .iter()
                .position(|run| run.is_empty() && !run.ended)
            {
                return Ok(Step::Wants(run));
            }
            let Some((winner, deletion)) = self.newest_of_smallest() else {
                return Ok(Step::Done);
            };
            if let Some(run) = self.runs.iter().position(Run::contradicts) {
                return Err(Error::Order { run });
            }
            let hidden_to_the_end = self.skip_hidden(winner);
            if deletion {
                let at = self.runs[winner].deletion;
                self.runs[winner].deletion += 1;
                if self.deletions == Deletions::Keep {
                    let key = self.runs[winner].chunk.deleted.key(at);
                    return Ok(Step::Deleted { run: winner, key });
                }
                continue;
            }
            let start = self.runs[winner].row;
            let end = if hidden_to_the_end {
                start + 1
            } else {
                self.span_end(winner)
            };
            self.runs[winner].row = end;
            let run = &self.runs[winner];
            return Ok(Step::Rows(Span {
                run: winner,
                rows: &run.chunk.rows,
                keys: &run.keys,
                range: start..end,
            }));
        }
    }

    /// The newest of the runs that have the smallest key, and whether it deletes that key.
    fn newest_of_smallest(&self) -> Option<(usize, bool)> {
        let mut best: Option<(usize, Head<'_>)> = None;
        for (run, head) in self.runs.iter().enumerate() {
            if let Some(head) = head.head()
                && best.as_ref().is_none_or(|(_, best)| {
                    head.key < best.key || (head.key == best.key && !planted::is("older run wins"))
                })
            {
                best = Some((run, head));
            }
        }
        best.map(|(run, head)| (run, head.deletion))
    }

    /// Passes over what the winner's key hides in older runs. Whether one of them has nothing
    /// left: its next key is then unknown, and nothing beyond the winner's key may come out.
    fn skip_hidden(&mut self, winner: usize) -> bool {
        let (older, rest) = self.runs.split_at_mut(winner);
        let Some(head) = rest[0].head() else {
            return false;
        };
        let mut unknown = false;
        for run in older {
            if run.head().is_some_and(|hidden| hidden.key == head.key) {
                run.skip();
                unknown |= run.is_empty() && !run.ended;
            }
        }
        unknown
    }

    /// Where the winner's span ends: before the next key of any other run or of its deletions.
    fn span_end(&self, winner: usize) -> usize {
        let run = &self.runs[winner];
        let others = self
            .runs
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != winner);
        let others = others.filter_map(|(_, run)| run.head().map(|head| head.key));
        let deleted = &run.chunk.deleted;
        let own = (run.deletion < deleted.len()).then(|| deleted.key(run.deletion));
        match others.chain(own).min() {
            Some(bound) => run.row_at(bound).max(run.row + 1),
            None => run.keys.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::cell::Cell;
    use crate::row::schema::{Column, Key, KeyOrder, KeyOrigin, Table, TableName, ValueKind};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn encoder() -> KeyEncoder {
        let column = |name: &str| Column {
            name: name.into(),
            type_name: "integer".into(),
            kind: ValueKind::Integer,
            nullable: false,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        };
        let table = Table {
            name: TableName {
                schema: None,
                name: "deals".into(),
            },
            columns: vec![column("id"), column("stage")],
            generated: Vec::new(),
            key: Some(Key {
                origin: KeyOrigin::Primary,
                columns: vec![(0, KeyOrder::Integer)],
            }),
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        };
        KeyEncoder::new(&table).unwrap()
    }

    fn row(id: i64, stage: i64) -> Vec<u8> {
        let mut row = Vec::new();
        Cell::Integer(id).push(&mut row);
        Cell::Integer(stage).push(&mut row);
        row
    }

    fn key(id: i64) -> Vec<u8> {
        let mut key = Vec::new();
        encoder().encode(&row(id, 0), &mut key).unwrap();
        key
    }

    /// A run as a map: a stage put, or none for a deletion.
    type Model = BTreeMap<i64, Option<i64>>;

    fn chunk(entries: &[(i64, Option<i64>)]) -> DecodedChunk {
        let mut chunk = DecodedChunk::default();
        for &(id, stage) in entries {
            match stage {
                Some(stage) => chunk.rows.push(&row(id, stage)),
                None => chunk.deleted.push(&key(id)),
            }
        }
        chunk
    }

    fn chunks(run: &Model, size: usize) -> Vec<DecodedChunk> {
        let entries: Vec<_> = run.iter().map(|(id, stage)| (*id, *stage)).collect();
        entries.chunks(size).map(chunk).collect()
    }

    /// What comes out, and how many steps it took.
    fn merged(
        runs: &[Vec<DecodedChunk>],
        deletions: Deletions,
    ) -> Result<(Vec<Out>, usize), Error> {
        let mut merge = Merge::new(encoder(), runs.len(), deletions);
        let mut left: Vec<_> = runs
            .iter()
            .map(|chunks| chunks.clone().into_iter())
            .collect();
        let (mut out, mut steps) = (Vec::new(), 0);
        loop {
            match merge.next()? {
                Step::Done => return Ok((out, steps)),
                Step::Wants(run) => match left[run].next() {
                    Some(chunk) => merge.feed(run, chunk)?,
                    None => merge.end(run),
                },
                Step::Rows(span) => {
                    steps += 1;
                    let run = span.run;
                    out.extend(span.iter().map(|(key, row)| Out {
                        run,
                        key: key.to_vec(),
                        row: Some(row.to_vec()),
                    }));
                }
                Step::Deleted { run, key } => out.push(Out {
                    run,
                    key: key.to_vec(),
                    row: None,
                }),
            }
        }
    }

    #[derive(Debug, PartialEq)]
    struct Out {
        run: usize,
        key: Vec<u8>,
        row: Option<Vec<u8>>,
    }

    fn model(runs: &[Model], deletions: Deletions) -> Vec<Out> {
        let mut all: BTreeMap<i64, (usize, Option<i64>)> = BTreeMap::new();
        for (run, entries) in runs.iter().enumerate() {
            all.extend(entries.iter().map(|(id, stage)| (*id, (run, *stage))));
        }
        all.into_iter()
            .filter(|(_, (_, stage))| stage.is_some() || deletions == Deletions::Keep)
            .map(|(id, (run, stage))| Out {
                run,
                key: key(id),
                row: stage.map(|stage| row(id, stage)),
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn newest_wins_as_in_a_map(
            runs in prop::collection::vec(
                prop::collection::btree_map(-40i64..40, prop::option::of(0..9i64), 0..60),
                0..6,
            ),
            sizes in prop::collection::vec(1..12usize, 6),
            keep in any::<bool>(),
        ) {
            let deletions = if keep { Deletions::Keep } else { Deletions::Drop };
            let cut: Vec<_> = runs.iter().zip(&sizes).map(|(run, size)| chunks(run, *size)).collect();
            let (out, _) = merged(&cut, deletions).unwrap();
            prop_assert_eq!(out, model(&runs, deletions));
        }
    }

    #[test]
    fn a_base_alone_goes_through_chunk_by_chunk() {
        let base: Model = (0..1000).map(|id| (id, Some(id))).collect();
        let (out, steps) = merged(&[chunks(&base, 100)], Deletions::Drop).unwrap();
        assert_eq!((out.len(), steps), (1000, 10));
    }

    #[test]
    fn sparse_deltas_leave_long_spans() {
        let base: Model = (0..10_000).map(|id| (id, Some(0))).collect();
        let delta: Model = (0..10)
            .map(|n| (n * 1000 + 500, (n % 2 == 0).then_some(1)))
            .collect();
        let runs = [chunks(&base, 2000), chunks(&delta, 100)];
        let (out, steps) = merged(&runs, Deletions::Drop).unwrap();
        assert_eq!(out.len(), 9_995);
        assert!(steps < 30, "{steps} steps");
    }

    #[test]
    fn a_run_out_of_order_is_refused() {
        let refused = |chunks: Vec<DecodedChunk>| {
            let base = vec![chunk(&[(0, Some(0)), (9, Some(0))])];
            merged(&[base, chunks], Deletions::Drop).unwrap_err()
        };
        let order = Error::Order { run: 1 };
        assert_eq!(refused(vec![chunk(&[(5, Some(1)), (4, Some(1))])]), order);
        assert_eq!(refused(vec![chunk(&[(5, Some(1)), (5, Some(2))])]), order);
        assert_eq!(refused(vec![chunk(&[(5, None), (4, None)])]), order);
        assert_eq!(refused(vec![chunk(&[(5, None), (5, Some(1))])]), order);
        assert_eq!(
            refused(vec![chunk(&[(5, Some(1))]), chunk(&[(5, Some(1))])]),
            order
        );
        assert_eq!(
            refused(vec![chunk(&[(5, None)]), chunk(&[(4, Some(1))])]),
            order
        );
        let mut keyless = DecodedChunk::default();
        keyless.rows.push(&[0, 0]);
        assert!(matches!(refused(vec![keyless]), Error::Key { run: 1, .. }));
    }

    #[test]
    fn a_chunk_that_nobody_wants_is_a_bug() {
        let mut merge = Merge::new(encoder(), 1, Deletions::Drop);
        merge.feed(0, chunk(&[(1, Some(1))])).unwrap();
        let unwanted = Err(Error::Unwanted { run: 0 });
        assert_eq!(merge.feed(0, chunk(&[(2, Some(1))])), unwanted);
        assert_eq!(
            merge.feed(3, DecodedChunk::default()),
            Err(Error::Unwanted { run: 3 })
        );
    }
}
