//! Walks over a shadow where only the rows that may have changed are read.
//!
//! Three of them: one counts what is known of the fresh rows' keys, range by range; one finds the
//! keys that are gone from ranges that lost rows; the last writes the delta run and the new shadow.
//! Invariant: what the database counted and what the shadow holds must agree to the row, or
//! [`Proof::Doubt`] comes out and nothing of it counts.

use std::sync::Arc;

use crate::format::manifest::StoredOrder;
use crate::format::shadow::{Entry, ShadowRun, ShadowTable};
use crate::id::Digest;
use crate::repo::shadow::file::{Edges, Entries};
use crate::repo::shadow::walk::write::{Earlier, Runs, next_tier};
use crate::repo::shadow::walk::{Before, Subject, Walked};
use crate::repo::shadow::{Error, Place};
use crate::repo::table::Digested;
use crate::repo::writer::Writer;
use crate::row::key::{KeyBatch, KeyEncoder, Part};
use crate::row::schema::Table;

/// A range has at least this many rows.
const RANGE_ROWS: u64 = 256;
/// Most ranges of a table; a larger one has larger ranges.
const RANGES_MAX: u64 = 16 << 10;
/// Longest text that a range begins with: all of them go to the server in one statement.
const EDGE_BYTES_MAX: usize = 128;
/// Most bytes of keys that are gone; they are held until the delta run is written.
const GONE_BYTES_MAX: usize = 16 << 20;

/// What came of an attempt to do without unchanged rows.
#[derive(Debug)]
pub enum Proof<T> {
    /// It adds up.
    Holds(T),
    /// It does not, and why: every row must be read.
    Doubt(&'static str),
}

impl<T> Proof<T> {
    /// The same of what is made of it.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Proof<U> {
        match self {
            Proof::Holds(value) => Proof::Holds(make(value)),
            Proof::Doubt(why) => Proof::Doubt(why),
        }
    }
}

/// Whether a delta run can be put onto `stack` without any row of it: no fold is due.
pub fn takes_deltas(stack: &[ShadowRun]) -> bool {
    next_tier(stack) == 1
}

/// A range of a table's keys, in the shadow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first key; the first range begins below all.
    pub first: Vec<u8>,
    /// The text of that key's first column.
    pub edge: String,
    /// Rows in the shadow.
    pub rows: u64,
    /// Rows in the shadow whose key is a fresh row's.
    pub fresh: u64,
    /// Fresh rows whose key is no row's in the shadow.
    pub new: u64,
}

/// Counts, range by range, the rows of a shadow, those of them that are fresh, and new ones.
pub struct Survey {
    entries: Entries,
    encoder: Option<KeyEncoder>,
    ranges: Vec<Range>,
    range_rows: u64,
    last: Option<Part>,
    /// The first column of the newest new row, and how many new rows have it; none where no range
    /// can begin before the next row of the shadow.
    newest: Option<(Part, u64)>,
}

impl Survey {
    /// A survey of `shadow`, cut into ranges where `with_ranges` says so.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn new(
        place: &Place,
        table: &Table,
        shadow: &ShadowTable,
        with_ranges: bool,
    ) -> Result<Survey, Error> {
        let name = table.name.to_string();
        Ok(Survey {
            entries: Entries::open(place, &name, &shadow.entries)?,
            encoder: KeyEncoder::new(table).filter(|_| with_ranges),
            ranges: vec![Range {
                first: Vec::new(),
                edge: String::new(),
                rows: 0,
                fresh: 0,
                new: 0,
            }],
            range_rows: RANGE_ROWS.max(shadow.rows / RANGES_MAX),
            last: None,
            newest: None,
        })
    }

    /// Takes the next key of a fresh row.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn key(&mut self, key: &[u8]) -> Result<(), Error> {
        self.pass(Some(key))?;
        let known = self.entries.head().filter(|(known, _)| *known == key);
        match known.map(|(_, entry)| entry.digest.is_some()) {
            Some(true) => return self.take(1),
            Some(false) => self.take(0)?,
            None => {}
        }
        self.new_row(key);
        Ok(())
    }

    /// Counts a fresh row whose key is no row's in the shadow.
    fn new_row(&mut self, key: &[u8]) {
        if self.is_full()
            && let Some(encoder) = &self.encoder
        {
            let first = first_column(encoder, key);
            self.newest = match (self.newest.take(), first) {
                (Some((last, rows)), Some(first)) if last == first => Some((last, rows + 1)),
                (_, first) => first.map(|first| (first, 1)),
            };
        }
        if let Some(range) = self.ranges.last_mut() {
            range.new += 1;
        }
    }

    /// Whether a range may begin at the next row.
    fn is_full(&self) -> bool {
        let rows = self.ranges.last().map(|range| range.rows);
        rows.is_some_and(|rows| rows >= self.range_rows - 1)
    }

    fn pass(&mut self, limit: Option<&[u8]>) -> Result<(), Error> {
        while let Some((known, _)) = self.entries.head() {
            if limit.is_some_and(|limit| known >= limit) {
                break;
            }
            self.take(0)?;
        }
        Ok(())
    }

    /// Takes the entry at the head.
    fn take(&mut self, fresh: u64) -> Result<(), Error> {
        let Some((key, entry)) = self.entries.head() else {
            return Ok(());
        };
        if entry.digest.is_some() {
            if self.is_full()
                && let Some(encoder) = &self.encoder
            {
                let (column, first) = (first_column(encoder, key), key.to_vec());
                self.row(column, first);
            }
            self.newest = None;
            if let Some(range) = self.ranges.last_mut() {
                range.rows += 1;
                range.fresh += fresh;
            }
        }
        self.entries.advance()
    }

    /// Begins a range at a row with the key `first`, where it may. Ranges are of the first column
    /// alone, so its value must change at an edge.
    fn row(&mut self, column: Option<Part>, first: Vec<u8>) {
        let edge = column.as_ref().and_then(edge);
        if let (Some(last), Some(column), Some(edge)) = (&self.last, &column, edge)
            && last != column
        {
            // New rows before the first may have its column's value too.
            let newest = self.newest.take().filter(|(newest, _)| newest == column);
            let new = newest.map_or(0, |(_, rows)| rows);
            if let Some(before) = self.ranges.last_mut() {
                before.new -= new;
            }
            self.ranges.push(Range {
                first,
                edge,
                rows: 0,
                fresh: 0,
                new,
            });
            self.last = None;
        } else {
            self.last = column;
        }
    }

    /// The ranges, when all keys were taken.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn finish(mut self) -> Result<Vec<Range>, Error> {
        self.pass(None)?;
        Ok(self.ranges)
    }
}

fn first_column(encoder: &KeyEncoder, key: &[u8]) -> Option<Part> {
    encoder.decode(key)?.into_iter().next()
}

/// The text by which a database knows the value; none where its order may not be the key's.
fn edge(part: &Part) -> Option<String> {
    match part {
        Part::Integer(number) => Some(number.to_string()),
        Part::Uuid(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(hex)
        }
        Part::Bytes(bytes)
            if bytes.is_ascii() && !bytes.contains(&0) && bytes.len() <= EDGE_BYTES_MAX =>
        {
            String::from_utf8(bytes.clone()).ok()
        }
        _ => None,
    }
}

/// Finds the keys that are gone from ranges that lost rows.
pub struct Search {
    entries: Entries,
    ranges: Vec<(Range, u64)>,
    at: usize,
    found: u64,
    gone: KeyBatch,
    doubt: Option<&'static str>,
}

impl Search {
    /// A search over `ranges`, all of them in order; each with how many rows it lost.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn new(
        place: &Place,
        table: &Table,
        shadow: &ShadowTable,
        ranges: Vec<(Range, u64)>,
    ) -> Result<Search, Error> {
        let name = table.name.to_string();
        Ok(Search {
            entries: Entries::open(place, &name, &shadow.entries)?,
            ranges,
            at: 0,
            found: 0,
            gone: KeyBatch::default(),
            doubt: None,
        })
    }

    /// Takes the next key that is there, of ranges that lost rows.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn key(&mut self, key: &[u8]) -> Result<(), Error> {
        self.pass(Some(key))?;
        if self.entries.head().is_some_and(|(known, _)| known == key) {
            self.enter_range();
            self.entries.advance()?;
        }
        Ok(())
    }

    /// Goes on to the range of the entry at the head.
    fn enter_range(&mut self) {
        while let (Some((key, _)), Some((next, _))) =
            (self.entries.head(), self.ranges.get(self.at + 1))
        {
            if key < &next.first[..] {
                break;
            }
            self.end_range();
            self.found = 0;
            self.at += 1;
        }
    }

    fn end_range(&mut self) {
        if self.found != self.ranges[self.at].1 {
            self.doubt = Some("other rows are gone than were counted");
        }
    }

    fn pass(&mut self, limit: Option<&[u8]>) -> Result<(), Error> {
        loop {
            self.enter_range();
            let Some((known, entry)) = self.entries.head() else {
                return Ok(());
            };
            if limit.is_some_and(|limit| known >= limit) {
                return Ok(());
            }
            if entry.digest.is_some() && self.ranges[self.at].1 > 0 {
                self.found += 1;
                if self.gone.bytes().len() < GONE_BYTES_MAX {
                    self.gone.push(known);
                } else {
                    self.doubt = Some("many of its rows are gone");
                }
            }
            self.entries.advance()?;
        }
    }

    /// The keys that are gone, in order, when all that are there were taken.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn finish(mut self) -> Result<Proof<KeyBatch>, Error> {
        self.pass(None)?;
        self.end_range();
        while self.at + 1 < self.ranges.len() {
            self.at += 1;
            self.found = 0;
            self.end_range();
        }
        Ok(match self.doubt {
            None => Proof::Holds(self.gone),
            Some(why) => Proof::Doubt(why),
        })
    }
}

/// What the fresh rows and the deletions of a table are written into.
pub struct FreshWalk {
    facts: ShadowTable,
    entries: Entries,
    gone: KeyBatch,
    gone_at: usize,
    runs: Runs,
    rows: u64,
    digest: Digest,
    /// Rows and digest of the shadow as it is found, which must be those of the snapshot before.
    before: (u64, Digest),
    bytes_fresh: u64,
    put: u64,
    known: u64,
    removed: u64,
}

impl FreshWalk {
    /// A walk over `subject`, of which the rows under the keys `gone` are deleted; none where the
    /// repository lacks a chunk of its base.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the shadow.
    pub fn new(
        writer: Arc<Writer>,
        place: &Place,
        subject: Subject,
        before: Before,
        gone: KeyBatch,
    ) -> Result<Proof<FreshWalk>, Error> {
        let name = subject.table.name.to_string();
        let facts = before.shadow;
        if let Some(dictionary) = &before.dictionary {
            place.put_dictionary(dictionary)?;
        }
        let earlier = Earlier {
            stack: facts.stack.clone(),
            dictionary: before.dictionary,
            filters: subject.filters,
        };
        let mut runs = Runs::new(writer, &subject.table, Some(place), earlier);
        let mut edges = Edges::open(place, &name, &facts.edges)?;
        while let Some(edge) = edges.take()? {
            if !runs.may_adopt(&edge)? {
                return Ok(Proof::Doubt("the repository lacks a part of the base"));
            }
            runs.adopt(edge)?;
            runs.settle()?;
        }
        Ok(Proof::Holds(FreshWalk {
            entries: Entries::open(place, &name, &facts.entries)?,
            facts,
            gone,
            gone_at: 0,
            runs,
            rows: 0,
            digest: Digest::ZERO,
            before: (0, Digest::ZERO),
            bytes_fresh: 0,
            put: 0,
            known: 0,
            removed: 0,
        }))
    }

    /// Takes the next fresh rows, in the order of their keys.
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
        let (key, digest) = (batch.key(row), batch.digests[row]);
        self.pass(Some(key))?;
        let known = self.entries.head().filter(|(known, _)| *known == key);
        let known = known.map(|(_, entry)| entry);
        if let Some(entry) = known {
            self.take(entry)?;
        }
        self.rows += 1;
        self.digest.add(digest);
        self.bytes_fresh += batch.rows.row(row).len() as u64;
        self.known += u64::from(known.is_some_and(|entry| entry.digest.is_some()));
        match known {
            Some(entry) if entry.digest == Some(digest) => self.runs.stays(key, entry),
            _ => {
                self.put += 1;
                self.runs.changes(batch, row)
            }
        }
    }

    /// Passes the shadow's entries before `limit`; all without one.
    fn pass(&mut self, limit: Option<&[u8]>) -> Result<(), Error> {
        while let Some((key, entry)) = self.entries.head() {
            if limit.is_some_and(|limit| key >= limit) {
                break;
            }
            let is_gone = self.gone_at < self.gone.len() && self.gone.key(self.gone_at) == key;
            match (is_gone, entry.digest) {
                (true, _) => {
                    self.gone_at += 1;
                    self.removed += 1;
                    self.runs.goes(key)?;
                }
                (false, digest) => {
                    if let Some(digest) = digest {
                        self.rows += 1;
                        self.digest.add(digest);
                    }
                    self.runs.stays(key, entry)?;
                }
            }
            self.take(entry)?;
        }
        Ok(())
    }

    /// Takes the entry at the head.
    fn take(&mut self, entry: Entry) -> Result<(), Error> {
        if let Some(digest) = entry.digest {
            self.before.0 += 1;
            self.before.1.add(digest);
        }
        self.entries.advance()
    }

    /// Ends the table and stores its run. `counted` is the database's count of its rows, and
    /// `fresh` that of the fresh ones, of which `came` came.
    ///
    /// # Errors
    /// Of storing chunks.
    pub fn finish(
        mut self,
        counted: u64,
        fresh: u64,
        came: u64,
    ) -> Result<Proof<Box<Walked>>, Error> {
        self.pass(None)?;
        let added = came.saturating_sub(self.known);
        if self.before != (self.facts.rows, self.facts.digest) {
            return Ok(Proof::Doubt(
                "its shadow holds other rows than the snapshot before",
            ));
        }
        if came != fresh
            || self.gone_at != self.gone.len()
            || self.rows != counted
            || self.facts.rows + added != counted + self.removed
        {
            return Ok(Proof::Doubt(
                "rows before, new ones and deleted ones do not add up",
            ));
        }
        let written = self.runs.finish()?;
        let Some((entries, edges)) = written.streams else {
            return Ok(Proof::Doubt("no shadow was written"));
        };
        let kept = u128::from(counted - fresh) * u128::from(self.facts.bytes);
        let bytes = kept / u128::from(self.facts.rows.max(1)) + u128::from(self.bytes_fresh);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let stack = written.stack.iter().map(|run| run.run).collect();
        let shadow = ShadowTable {
            stack: written.stack,
            rows: self.rows,
            digest: self.digest,
            entries,
            edges,
            bytes,
            ..self.facts
        };
        Ok(Proof::Holds(Box::new(Walked {
            order: StoredOrder::Key,
            stack,
            rows: self.rows,
            digest: self.digest,
            bytes_raw: bytes,
            bytes_read: self.bytes_fresh,
            bytes_stored: written.bytes_stored,
            rows_put: self.put,
            rows_deleted: self.removed,
            shadow: Some(shadow),
            wrong: None,
        })))
    }
}

/// A table of which nothing changed, where the repository has all of its base.
///
/// # Errors
/// [`Error::Damaged`]: the shadow.
pub fn unchanged(
    writer: &Writer,
    place: &Place,
    table: &Table,
    shadow: &ShadowTable,
) -> Result<Proof<Box<Walked>>, Error> {
    let name = table.name.to_string();
    let mut edges = Edges::open(place, &name, &shadow.edges)?;
    while let Some(edge) = edges.take()? {
        if !super::walk::write::is_there(writer, &edge)? {
            return Ok(Proof::Doubt("the repository lacks a part of the base"));
        }
    }
    Ok(Proof::Holds(Box::new(Walked {
        order: StoredOrder::Key,
        stack: shadow.stack.iter().map(|run| run.run).collect(),
        rows: shadow.rows,
        digest: shadow.digest,
        bytes_raw: shadow.bytes,
        bytes_read: 0,
        bytes_stored: 0,
        rows_put: 0,
        rows_deleted: 0,
        shadow: Some(shadow.clone()),
        wrong: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_is_told_only_where_the_server_orders_as_the_key_does() {
        let text = |text: &str| edge(&Part::Bytes(text.as_bytes().to_vec()));
        assert_eq!(text("it's"), Some("it's".into()));
        assert_eq!(text(""), Some("".into()));
        assert_eq!(text("żółw"), None);
        assert_eq!(text("a\0b"), None);
        assert_eq!(text(&"x".repeat(EDGE_BYTES_MAX + 1)), None);
        assert_eq!(edge(&Part::Integer(-7)), Some("-7".into()));
        let uuid = edge(&Part::Uuid([0xa5; 16]));
        assert_eq!(uuid, Some("a5".repeat(16)));
        assert_eq!(edge(&Part::Real(1.5)), None);
    }

    #[test]
    fn delta_goes_on_a_stack_as_long_as_no_fold_is_due() {
        let run = |tier| ShadowRun {
            run: crate::id::ChunkId([tier; 32]),
            tier,
            sequence: 0,
        };
        let mut stack = vec![run(0)];
        for _ in 0..7 {
            assert!(takes_deltas(&stack));
            stack.push(run(1));
        }
        assert!(!takes_deltas(&stack));
    }
}
