//! Two sides of a table, read whole and compared: by key, or as a bag of rows.
//!
//! For where there is no stack on both sides that shares something. Invariant: of a table without
//! a key every row counts as often as it is there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::id::Digest;
use crate::job::diff::pairing::{Pairing, SideTable, project};
use crate::job::diff::stream::{Place, Stream};
use crate::job::diff::{Difference, Operation, Version};
use crate::repo::reader::Reader;
use crate::repo::table::Rows;
use crate::row::cell::RowBatch;
use crate::row::diff::{self, Multiset, Side, Step, Walk};
use crate::row::key::{KeyBatch, KeyEncoder};

/// How many differences are given out together.
const DIFFERENCES_AT_ONCE: usize = 256;

fn no_rows() -> Rows {
    Rows {
        rows: RowBatch::default(),
        cells: HashMap::new(),
    }
}

fn version(rows: &Rows, at: usize) -> Version {
    Version::new(rows.rows.row(at), &rows.cells)
}

/// A walk over both sides in key order.
pub(super) struct KeyWalk<'a> {
    pairing: Pairing,
    streams: [Stream<'a>; 2],
    encoders: [KeyEncoder; 2],
    current: [Rows; 2],
    walk: Walk,
}

impl<'a> KeyWalk<'a> {
    /// A walk over two sides that have the same key.
    pub(super) async fn open(
        reader: &Arc<Reader>,
        pairing: &Pairing,
        places: &[Place<'a>; 2],
    ) -> Result<KeyWalk<'a>, AnyFailure> {
        let encoder = |side: &Option<SideTable>| {
            let encoder = side.as_ref().and_then(|side| KeyEncoder::new(side.table()));
            encoder.ok_or_else(|| {
                let what = format!("table {} has no key to compare by", pairing.name);
                AnyFailure::new(Class::Bug, what, None)
            })
        };
        Ok(KeyWalk {
            encoders: [encoder(&pairing.before)?, encoder(&pairing.after)?],
            streams: [places[0].open(reader).await?, places[1].open(reader).await?],
            pairing: pairing.clone(),
            current: [no_rows(), no_rows()],
            walk: Walk::new(),
        })
    }

    async fn feed(&mut self, side: Side) -> Result<(), AnyFailure> {
        let at = side as usize;
        let Some(rows) = self.streams[at].next().await? else {
            self.walk.end(side);
            return Ok(());
        };
        let mut keys = KeyBatch::default();
        self.encoders[at].encode_all(&rows.rows, &mut keys)?;
        let values = match &self.pairing.shared {
            None => rows.rows.clone(),
            Some(shared) => {
                let mut values = RowBatch::with_capacity(rows.rows.bytes().len());
                let mut value = Vec::new();
                for row in rows.rows.iter() {
                    project(row, &shared[at], &mut value)?;
                    values.push(&value);
                }
                values
            }
        };
        let live = matches!(self.streams[at], Stream::Live(_));
        self.current[at] = rows;
        self.walk
            .feed(side, keys, values)
            .map_err(|error| match error {
                diff::Error::Order { .. } if live => AnyFailure::new(
                    Class::Conflict,
                    format!(
                        "the rows of table {} do not come in the order of their keys",
                        self.pairing.name
                    ),
                    Some("leave the table out: --table T for each of the others".into()),
                ),
                error => error.into(),
            })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<Difference>>, AnyFailure> {
        let mut out = Vec::new();
        while out.len() < DIFFERENCES_AT_ONCE {
            let (operation, key, before, after) = match self.walk.next() {
                Step::Wants(side) => {
                    self.feed(side).await?;
                    continue;
                }
                Step::Done => break,
                Step::Same(..) => continue,
                Step::Added(entry) => (Operation::Added, entry.key, None, Some(entry.at)),
                Step::Removed(entry) => (Operation::Removed, entry.key, Some(entry.at), None),
                Step::Changed(old, new) => {
                    (Operation::Changed, old.key, Some(old.at), Some(new.at))
                }
            };
            out.push(Difference {
                operation,
                key: Some(key.to_vec()),
                before: before.map(|at| version(&self.current[0], at)),
                after: after.map(|at| version(&self.current[1], at)),
            });
        }
        Ok((!out.is_empty()).then_some(out))
    }
}

/// The one side that there is.
pub(super) struct OneSide<'a> {
    operation: Operation,
    encoder: Option<KeyEncoder>,
    stream: Stream<'a>,
}

impl<'a> OneSide<'a> {
    pub(super) async fn open(
        reader: &Arc<Reader>,
        pairing: &Pairing,
        places: &[Place<'a>; 2],
    ) -> Result<OneSide<'a>, AnyFailure> {
        let (operation, place, side) = match &pairing.before {
            Some(side) => (Operation::Removed, &places[0], Some(side)),
            None => (Operation::Added, &places[1], pairing.after.as_ref()),
        };
        Ok(OneSide {
            operation,
            encoder: side.and_then(|side| KeyEncoder::new(side.table())),
            stream: place.open(reader).await?,
        })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<Difference>>, AnyFailure> {
        let Some(rows) = self.stream.next().await? else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(rows.rows.len());
        for at in 0..rows.rows.len() {
            let mut key = Vec::new();
            if let Some(encoder) = &self.encoder {
                encoder.encode(rows.rows.row(at), &mut key)?;
            }
            let version = Some(version(&rows, at));
            let (before, after) = match self.operation {
                Operation::Removed => (version, None),
                _ => (None, version),
            };
            out.push(Difference {
                operation: self.operation,
                key: self.encoder.is_some().then_some(key),
                before,
                after,
            });
        }
        Ok(Some(out))
    }
}

/// Both sides as bags of rows.
pub(super) struct Bags<'a> {
    reader: Arc<Reader>,
    shared: Option<[Vec<usize>; 2]>,
    places: [Place<'a>; 2],
    /// By how much each row differs; known after the first reading.
    left: HashMap<Digest, i64>,
    counted: bool,
    /// What is read a second time, and which side of it.
    again: VecDeque<Side>,
    stream: Option<(Side, Stream<'a>)>,
}

impl<'a> Bags<'a> {
    pub(super) fn new(reader: &Arc<Reader>, pairing: &Pairing, places: [Place<'a>; 2]) -> Bags<'a> {
        Bags {
            reader: reader.clone(),
            shared: pairing.shared.clone(),
            places,
            left: HashMap::new(),
            counted: false,
            again: VecDeque::from([Side::Before, Side::After]),
            stream: None,
        }
    }

    fn digest(&self, side: Side, row: &[u8], value: &mut Vec<u8>) -> Result<Digest, AnyFailure> {
        let keys = &self.reader.vault().access.shared;
        match &self.shared {
            None => Ok(keys.row_digest(row)),
            Some(shared) => {
                project(row, &shared[side as usize], value)?;
                Ok(keys.row_digest(value))
            }
        }
    }

    /// As [`Bags::count`]; none where that was done before.
    pub(super) async fn count_once(&mut self) -> Result<Option<(u64, u64)>, AnyFailure> {
        match self.counted {
            true => Ok(None),
            false => self.count().await.map(Some),
        }
    }

    /// Rows added and rows removed, from a first reading of both sides.
    async fn count(&mut self) -> Result<(u64, u64), AnyFailure> {
        let mut bag = Multiset::new();
        let mut value = Vec::new();
        for side in [Side::Before, Side::After] {
            let mut stream = self.places[side as usize].open(&self.reader).await?;
            while let Some(rows) = stream.next().await? {
                for row in rows.rows.iter() {
                    bag.add(side, self.digest(side, row, &mut value)?, 1);
                }
            }
        }
        self.left = bag.differences().into_iter().collect();
        self.counted = true;
        Ok(bag.totals())
    }

    /// Some rows that differ, from a second reading.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Difference>>, AnyFailure> {
        if !self.counted {
            self.count().await?;
        }
        let mut value = Vec::new();
        loop {
            let Some((side, stream)) = &mut self.stream else {
                let Some(side) = self.again.pop_front() else {
                    return Ok(None);
                };
                let any = |count: &i64| (*count > 0) == (side == Side::After);
                if self.left.values().any(any) {
                    let stream = self.places[side as usize].open(&self.reader).await?;
                    self.stream = Some((side, stream));
                }
                continue;
            };
            let side = *side;
            let Some(rows) = stream.next().await? else {
                self.stream = None;
                continue;
            };
            let mut out = Vec::new();
            for at in 0..rows.rows.len() {
                let digest = self.digest(side, rows.rows.row(at), &mut value)?;
                out.extend(self.take(side, digest, &rows, at));
            }
            if !out.is_empty() {
                return Ok(Some(out));
            }
        }
    }

    /// The row as a difference, if its side still has too many of it.
    fn take(&mut self, side: Side, digest: Digest, rows: &Rows, at: usize) -> Option<Difference> {
        let left = self.left.get_mut(&digest)?;
        match side {
            Side::Before if *left < 0 => {
                *left += 1;
                Some(Difference {
                    operation: Operation::Removed,
                    key: None,
                    before: Some(version(rows, at)),
                    after: None,
                })
            }
            Side::After if *left > 0 => {
                *left -= 1;
                Some(Difference {
                    operation: Operation::Added,
                    key: None,
                    before: None,
                    after: Some(version(rows, at)),
                })
            }
            _ => None,
        }
    }
}
