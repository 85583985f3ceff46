//! The walk over a table's rows and its shadow, side by side in key order.
//!
//! New and changed rows and deleted keys go to a delta run on the stack; tiers that are full are
//! folded into it from the reading itself; worn ranges of the base are rewritten. Without a shadow
//! every row goes to a new base. Invariant: rows before, plus new keys, less deleted ones, are the
//! rows read, in number and in digest, and what the runs hold is what was handed to them.

pub(super) mod write;

use std::sync::Arc;

use crate::format::manifest::StoredOrder;
use crate::format::run::RunChunk;
use crate::format::shadow::{Entry, ShadowRun, ShadowTable};
use crate::id::{ChunkId, Digest};
use crate::repo::blob::Dictionary;
use crate::repo::shadow::file::{Edges, Entries};
use crate::repo::shadow::range::Range;
use crate::repo::shadow::{Error, Place, fingerprint};
use crate::repo::table::Digested;
use crate::repo::writer::Writer;
use crate::row::schema::Table;
use write::{Earlier, Runs};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Every row into a new base.
    Anew,
    /// What differs from the shadow, onto the stack.
    Changes,
    /// Every row into a new base, and the shadow is walked beside to see whether it adds up.
    Audit,
}

/// What is walked over.
pub struct Subject {
    /// The table.
    pub table: Table,
    /// The order of its rows.
    pub order: StoredOrder,
    /// The columns that its chunks get filters over, by position, ascending.
    pub filters: Arc<[u32]>,
}

/// What a table is compared with.
pub struct Before {
    /// Its shadow.
    pub shadow: ShadowTable,
    /// Whether the shadow decides what is written, or is only audited.
    pub how: How,
    /// The dictionary that the shadow names, if it could be had.
    pub dictionary: Option<Arc<Dictionary>>,
}

/// What a table came to.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The order of its rows.
    pub order: StoredOrder,
    /// Its runs, base first.
    pub stack: Vec<ChunkId>,
    /// Rows.
    pub rows: u64,
    /// Order-free sum of the rows' digests.
    pub digest: Digest,
    /// Bytes of canonical rows; reckoned where not all of them were read.
    pub bytes_raw: u64,
    /// Bytes of the rows that were read.
    pub bytes_read: u64,
    /// Sealed bytes of new chunks and descriptions, those of large cells apart.
    pub bytes_stored: u64,
    /// Rows put: all of them where the base is new.
    pub rows_put: u64,
    /// Keys deleted since the snapshot before.
    pub rows_deleted: u64,
    /// What the next backup compares with; none for a table without a key.
    pub shadow: Option<ShadowTable>,
    /// What an audit found wrong.
    pub wrong: Option<String>,
}

/// The earlier side of the walk.
struct Old {
    facts: ShadowTable,
    entries: Entries,
    edges: Edges,
    rows: u64,
    digest: Digest,
}

/// What happened so far.
#[derive(Default)]
struct Sums {
    rows: u64,
    bytes: u64,
    digest: Option<Digest>,
    added: u64,
    changed: u64,
    removed: u64,
}

impl Sums {
    fn digest(&self) -> Digest {
        self.digest.unwrap_or(Digest::ZERO)
    }
}

/// Walks over one table. Its calls block; use it on a thread of its own.
pub struct TableWalk {
    table: Table,
    order: StoredOrder,
    how: How,
    place: Place,
    old: Option<Old>,
    /// The base's range in hand; none while the base is being written.
    range: Option<Range>,
    runs: Runs,
    sums: Sums,
}

impl TableWalk {
    /// A walk over `subject`; in physical order there is nothing to compare with.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn new(
        writer: Arc<Writer>,
        place: &Place,
        subject: Subject,
        before: Option<Before>,
    ) -> Result<TableWalk, Error> {
        let Subject {
            table,
            order,
            filters,
        } = subject;
        let before = before.filter(|_| order == StoredOrder::Key);
        let how = before.as_ref().map_or(How::Anew, |before| before.how);
        let name = table.name.to_string();
        let dictionary = before.as_ref().and_then(|before| before.dictionary.clone());
        let old = before.map(|before| Old::open(place, &name, before.shadow));
        let old = old.transpose()?;
        let stack = match (&old, how) {
            (Some(old), How::Changes) => old.facts.stack.clone(),
            _ => Vec::new(),
        };
        let earlier = Earlier {
            stack,
            dictionary,
            filters,
        };
        let keyed = (order == StoredOrder::Key).then_some(place);
        let mut walk = TableWalk {
            runs: Runs::new(writer, &table, keyed, earlier),
            table,
            order,
            how,
            place: place.clone(),
            old,
            range: None,
            sums: Sums::default(),
        };
        if how == How::Changes
            && let Some(edge) = walk.take_edge()?
        {
            walk.open_range(edge)?;
        }
        Ok(walk)
    }

    fn take_edge(&mut self) -> Result<Option<RunChunk>, Error> {
        match &mut self.old {
            Some(old) => old.edges.take(),
            None => Ok(None),
        }
    }

    /// Takes the next rows in the order of the table.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow; of storing chunks.
    pub fn rows(&mut self, batch: Digested) -> Result<(), Error> {
        let batch = Arc::new(batch);
        for row in 0..batch.rows.len() {
            self.row(&batch, row)?;
        }
        self.runs.settle()
    }

    fn row(&mut self, batch: &Arc<Digested>, row: usize) -> Result<(), Error> {
        let digest = batch.digests[row];
        self.sums.rows += 1;
        self.sums.bytes += batch.rows.row(row).len() as u64;
        self.sums.digest.get_or_insert(Digest::ZERO).add(digest);
        let known = match self.old {
            None => None,
            Some(_) => self.known(batch.key(row))?,
        };
        let same = known.is_some_and(|entry| entry.digest == Some(digest));
        match known.and_then(|entry| entry.digest) {
            None => self.sums.added += 1,
            Some(_) if !same => self.sums.changed += 1,
            Some(_) => {}
        }
        let tier = known.filter(|_| same).map_or(0, |entry| entry.tier);
        match &mut self.range {
            None => self.runs.base_row(batch, row),
            Some(range) => {
                range.row(batch, row, tier, !same);
                self.rewrite_if_worn()
            }
        }
    }

    /// What the shadow has of `key`, after everything before it was passed.
    fn known(&mut self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.pass(Some(key))?;
        let Some(old) = &mut self.old else {
            return Ok(None);
        };
        match old.entries.head() {
            Some((known, entry)) if known == key => {
                old.take_entry(entry)?;
                Ok(Some(entry))
            }
            _ => Ok(None),
        }
    }

    /// Passes the shadow's edges up to `limit` and its entries before it; all without one.
    fn pass(&mut self, limit: Option<&[u8]>) -> Result<(), Error> {
        while let Some(old) = &mut self.old {
            let edge = old.edges.head().filter(|_| self.how == How::Changes);
            let edge = edge.map(|edge| &edge.first[..]);
            let edge = edge.filter(|first| limit.is_none_or(|limit| *first <= limit));
            let entry = old.entries.head();
            let entry = entry.filter(|(key, _)| limit.is_none_or(|limit| *key < limit));
            match (edge, entry) {
                (Some(first), entry) if entry.is_none_or(|(key, _)| first <= key) => {
                    if let Some(edge) = old.edges.take()? {
                        self.open_range(edge)?;
                    }
                }
                (_, Some((key, entry))) => {
                    let removed = entry.digest.is_some();
                    self.sums.removed += u64::from(removed);
                    if let Some(range) = &mut self.range {
                        range.gone(key, entry.tier, removed);
                    }
                    old.take_entry(entry)?;
                    self.rewrite_if_worn()?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn rewrite_if_worn(&mut self) -> Result<(), Error> {
        match self.range.take_if(|range| range.is_worn()) {
            Some(range) => self.runs.rewrite(&range),
            None => Ok(()),
        }
    }

    /// Ends the range in hand and begins that of `edge`.
    fn open_range(&mut self, edge: RunChunk) -> Result<(), Error> {
        self.close_range()?;
        if self.runs.may_adopt(&edge)? {
            let target = self.place.vault.chunk_target_bytes;
            self.range = Some(Range::new(edge, target));
            Ok(())
        } else {
            self.runs.rewrite(&Range::new(edge, 0))
        }
    }

    fn close_range(&mut self) -> Result<(), Error> {
        match self.range.take() {
            Some(range) => self.runs.keep(range),
            None => Ok(()),
        }
    }

    /// Ends the table and stores its runs; `counted` is the source's own count of its rows.
    ///
    /// # Errors
    /// [`Error::Sum`] where anything does not add up; of storing chunks.
    pub fn finish(mut self, counted: u64) -> Result<Walked, Error> {
        self.pass(None)?;
        self.close_range()?;
        let wrong = self.check(counted)?;
        let written = self.runs.finish()?;
        let dictionary = written.dictionary.filter(|_| written.streams.is_some());
        if let Some(dictionary) = &dictionary {
            self.place.put_dictionary(dictionary)?;
        }
        let shadow = written.streams.map(|(entries, edges)| ShadowTable {
            name: self.table.name.clone(),
            fingerprint: fingerprint(&self.place.vault, &self.table, self.order),
            stack: written.stack.clone(),
            rows: self.sums.rows,
            digest: self.sums.digest(),
            entries,
            edges,
            dictionary: dictionary.map(|dictionary| dictionary.name),
            mark: None,
            bytes: self.sums.bytes,
        });
        let changes = self.how == How::Changes;
        let stack: Vec<ShadowRun> = written.stack;
        Ok(Walked {
            order: self.order,
            stack: stack.iter().map(|run| run.run).collect(),
            rows: self.sums.rows,
            digest: self.sums.digest(),
            bytes_raw: self.sums.bytes,
            bytes_read: self.sums.bytes,
            bytes_stored: written.bytes_stored,
            rows_put: match changes {
                true => self.sums.added + self.sums.changed,
                false => self.sums.rows,
            },
            rows_deleted: if changes { self.sums.removed } else { 0 },
            shadow,
            wrong,
        })
    }

    /// What an audit finds wrong; an error in any other walk.
    fn check(&self, counted: u64) -> Result<Option<String>, Error> {
        let sums = &self.sums;
        let sum = |what: String| Error::Sum {
            table: self.table.name.to_string(),
            what,
        };
        if counted != sums.rows {
            return Err(Error::Count {
                table: self.table.name.to_string(),
                counted,
                arrived: sums.rows,
            });
        }
        let Some(old) = &self.old else {
            return Ok(None);
        };
        let before = old.facts.rows;
        let wrong = if before + sums.added != sums.rows + sums.removed {
            Some(format!(
                "{before} rows before, {} new and {} deleted ones do not make the {} rows read",
                sums.added, sums.removed, sums.rows
            ))
        } else if (old.rows, old.digest) != (before, old.facts.digest) {
            Some(format!(
                "its shadow holds {} rows of the {before} of the snapshot before, or others",
                old.rows
            ))
        } else {
            None
        };
        match (wrong, self.how) {
            (Some(wrong), How::Changes) => Err(sum(wrong)),
            (wrong, _) => Ok(wrong),
        }
    }
}

impl Old {
    fn open(place: &Place, name: &str, facts: ShadowTable) -> Result<Old, Error> {
        Ok(Old {
            entries: Entries::open(place, name, &facts.entries)?,
            edges: Edges::open(place, name, &facts.edges)?,
            facts,
            rows: 0,
            digest: Digest::ZERO,
        })
    }

    fn take_entry(&mut self, entry: Entry) -> Result<(), Error> {
        if let Some(digest) = entry.digest {
            self.rows += 1;
            self.digest.add(digest);
        }
        self.entries.advance()
    }
}
