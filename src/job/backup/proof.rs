//! Tables of which only what changed is read.
//!
//! Where the database can show which rows are as they were in the snapshot that the shadow mirrors,
//! it is asked for the others alone, and for the keys of ranges that lost rows. Invariant: a table
//! is taken so only if the database's counts and the shadow agree to the row; otherwise all of its
//! rows are read.

use tokio::sync::{mpsc, oneshot};

use crate::failure::{AnyFailure, Class};
use crate::format::manifest::StoredOrder;
use crate::format::shadow::ShadowTable;
use crate::job::backup::capture::Tables;
use crate::repo::shadow::{
    self, FreshWalk, How, Place, Proof, Range, Search, Subject, Survey, Walked, takes_deltas,
};
use crate::repo::table::{self, Digested, Intake};
use crate::row::key::KeyBatch;
use crate::row::schema::{Key, Table};
use crate::source::{Count, Order, PIECES_WAITING_MAX, Part, Piece, PieceReceiver, Prover, Share};

/// From this share of fresh rows on, one of so many, reading all of them costs no more.
const FRESH_OF: u64 = 4;
/// Ranges with less than this share of the rows, one of so many, are looked up one by one.
const LITTLE_OF: u64 = 5;
/// Most bytes of fresh rows that are held until they are written; more are read twice.
const HELD_BYTES_MAX: usize = 16 << 20;
/// What a row takes beside its bytes: its key, its digest, and where they end.
const HELD_BESIDE: u128 = 80;

/// A table that is being proven.
struct Proving<'a> {
    tables: &'a Tables<'a>,
    prover: &'a dyn Prover,
    witness: &'a str,
    table: &'a Table,
    shadow: &'a ShadowTable,
}

impl Tables<'_> {
    /// The table by what changed in it alone; none where that cannot be proven.
    ///
    /// # Errors
    /// The source's; the storage's; the shadow's where it cannot be written.
    pub(super) async fn proven(&self, table: &Table) -> Result<Option<Box<Walked>>, AnyFailure> {
        let (Some(prover), Some(shadow), How::Changes) =
            (self.source.prover(), self.shadow, self.how)
        else {
            return Ok(None);
        };
        let Some(witness) = shadow.witness.as_deref() else {
            return Ok(None);
        };
        let Some(before) = self.before(table, Order::Key, &mut Vec::new())? else {
            return Ok(None);
        };
        let mark = prover.mark(table);
        let why = match prover.doubt(witness) {
            Some(why) => why,
            None if mark.is_none() => "its rows may read differently though nobody wrote them",
            None if before.mark != mark => "what its rows read by changed",
            None => {
                let proving = Proving {
                    tables: self,
                    prover,
                    witness,
                    table,
                    shadow: &before,
                };
                match proving.run().await? {
                    Proof::Holds(walked) => {
                        self.progress.advance(walked.bytes_read, walked.rows);
                        return Ok(Some(walked));
                    }
                    Proof::Doubt(why) => why,
                }
            }
        };
        tracing::debug!("every row of table {} is read, because {why}", table.name);
        Ok(None)
    }
}

impl Proving<'_> {
    async fn run(&self) -> Result<Proof<Box<Walked>>, AnyFailure> {
        let (count, places) = match self.prover.count(self.table, self.witness).await {
            Ok(counted) => counted,
            Err(error) => return Ok(unanswered(&error)),
        };
        let before = self.shadow.rows;
        if count.fresh == 0 && count.old == before {
            let (writer, place) = (self.tables.writer.clone(), self.place());
            let (table, shadow) = (self.table.clone(), self.shadow.clone());
            return aside(move || shadow::unchanged(&writer, &place, &table, &shadow)).await;
        }
        if count.old > before {
            return Ok(Proof::Doubt("more old rows are there than there were"));
        }
        if count.fresh >= (count.old + count.fresh) / FRESH_OF {
            return Ok(Proof::Doubt("many of its rows changed"));
        }
        if !takes_deltas(&self.shadow.stack) {
            return Ok(Proof::Doubt("its runs are to be folded"));
        }
        let part = Part::Fresh(places);
        let (gone, fresh) = match count.old == before {
            true => (KeyBatch::default(), Fresh::default()),
            false => match self.gone(count, &part).await? {
                Proof::Holds(found) => found,
                Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
            },
        };
        self.walk(count, &part, gone, fresh).await
    }

    fn place(&self) -> Place {
        self.tables.keeper.place().clone()
    }

    /// The database's counts of all rows, range by range.
    async fn count(&self, all: Count, edges: &[String]) -> Proof<Vec<u64>> {
        if edges.is_empty() {
            return Proof::Holds(vec![all.old + all.fresh]);
        }
        match self.prover.count_ranges(self.table, edges).await {
            Ok(counts) => Proof::Holds(counts),
            Err(error) => unanswered(&error),
        }
    }

    /// The keys that are gone, and what was read of the fresh rows.
    async fn gone(
        &self,
        count: Count,
        part: &Part,
    ) -> Result<Proof<(KeyBatch, Fresh)>, AnyFailure> {
        let keys = keys_of(self.table);
        let with_ranges = self.prover.has_ranges(self.table);
        let (place, table, shadow) = (self.place(), keys.clone(), self.shadow.clone());
        let survey = move || Survey::new(&place, &table, &shadow, with_ranges).map(Proof::Holds);
        let survey = match aside(survey).await? {
            Proof::Holds(survey) => survey,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let (read, held) = match self.may_hold(count.fresh) {
            true => (self.table, Held::Rows(Vec::new())),
            false => (&keys, Held::TooMany),
        };
        let surveyed = self
            .read(read, part, (survey, held, 0_usize), |taken, batch| {
                let (survey, held, bytes) = taken;
                (0..batch.rows.len()).try_for_each(|row| survey.key(batch.key(row)))?;
                *bytes += batch.held_bytes();
                held.take(batch, *bytes);
                Ok(())
            })
            .await?;
        let ((survey, held, _), came) = match surveyed {
            Proof::Holds(surveyed) => surveyed,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let ranges = match aside(move || survey.finish().map(Proof::Holds)).await? {
            Proof::Holds(ranges) => ranges,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let rows = sum(ranges.iter().map(|range| range.rows));
        let known = sum(ranges.iter().map(|range| range.fresh));
        let before = self.shadow.rows;
        if rows != before
            || came.rows != count.fresh
            || count.old + known > before
            || known + sum(ranges.iter().map(|range| range.new)) != count.fresh
        {
            return Ok(Proof::Doubt("its counts contradict each other"));
        }
        let gone = match before - count.old - known {
            0 => Proof::Holds(KeyBatch::default()),
            lost if lost >= before / FRESH_OF => Proof::Doubt("many of its rows are gone"),
            _ => self.search(&keys, ranges, count).await?,
        };
        Ok(gone.map(|gone| (gone, Fresh { held, came })))
    }

    /// Whether so many fresh rows can be held, if they are like those before.
    fn may_hold(&self, fresh: u64) -> bool {
        let bytes = u128::from(self.shadow.bytes) / u128::from(self.shadow.rows.max(1));
        u128::from(fresh) * (bytes + HELD_BESIDE) <= HELD_BYTES_MAX as u128
    }

    /// Searches the ranges that lost rows.
    async fn search(
        &self,
        keys: &Table,
        ranges: Vec<Range>,
        all: Count,
    ) -> Result<Proof<KeyBatch>, AnyFailure> {
        let edges: Vec<String> = ranges
            .iter()
            .skip(1)
            .map(|range| range.edge.clone())
            .collect();
        let counts = match self.count(all, &edges).await {
            Proof::Holds(counts) => counts,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let rows = all.old + all.fresh;
        if sum(counts.iter().copied()) != rows || counts.len() != ranges.len() {
            return Ok(Proof::Doubt("its counts contradict each other"));
        }
        let mut lost = Vec::new();
        let mut to_read = 0;
        for (range, count) in ranges.into_iter().zip(counts) {
            // What was there and what is new, without what is there now.
            match (range.rows + range.new).checked_sub(count) {
                Some(gone) => {
                    to_read += if gone > 0 { count } else { 0 };
                    lost.push((range, gone));
                }
                None => return Ok(Proof::Doubt("a range has more rows than there can be")),
            }
        }
        let part = Part::Within {
            edges,
            ranges: (0..lost.len()).filter(|at| lost[*at].1 > 0).collect(),
            share: match to_read < rows / LITTLE_OF {
                true => Share::Little,
                false => Share::Much,
            },
        };
        let (place, table, shadow) = (self.place(), keys.clone(), self.shadow.clone());
        let search = move || Search::new(&place, &table, &shadow, lost).map(Proof::Holds);
        let search = match aside(search).await? {
            Proof::Holds(search) => search,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let searched = self
            .read(keys, &part, search, |search, batch| {
                (0..batch.rows.len()).try_for_each(|row| search.key(batch.key(row)))
            })
            .await?;
        match searched {
            Proof::Holds((search, _)) => aside(move || search.finish()).await,
            Proof::Doubt(why) => Ok(Proof::Doubt(why)),
        }
    }

    /// Writes what changed: the fresh rows that are held, or as they are read again.
    async fn walk(
        &self,
        count: Count,
        part: &Part,
        gone: KeyBatch,
        fresh: Fresh,
    ) -> Result<Proof<Box<Walked>>, AnyFailure> {
        let before = self.tables.with_dictionary(self.shadow.clone()).await?;
        let subject = Subject {
            table: self.table.clone(),
            order: StoredOrder::Key,
            filters: table::relation_columns(self.tables.structure, self.table).into(),
        };
        let (writer, place) = (self.tables.writer.clone(), self.place());
        let walk = move || FreshWalk::new(writer, &place, subject, before, gone);
        let walk = match aside(walk).await? {
            Proof::Holds(walk) => walk,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        // What the first reading stored is there for the second.
        let stored = fresh.came.cell_bytes;
        let walked = match fresh.held {
            Held::Rows(batches) => {
                let came = Came {
                    cell_bytes: 0,
                    ..fresh.came
                };
                aside(move || Ok(Proof::Holds((walk_held(walk, batches)?, came)))).await?
            }
            Held::TooMany => {
                let read = self.read(self.table, part, walk, FreshWalk::rows);
                read.await?
            }
        };
        let (walk, came) = match walked {
            Proof::Holds(walked) => walked,
            Proof::Doubt(why) => return Ok(Proof::Doubt(why)),
        };
        let counted = count.old + count.fresh;
        let mut finished = aside(move || walk.finish(counted, count.fresh, came.rows)).await?;
        if let Proof::Holds(walked) = &mut finished {
            walked.bytes_stored += stored + came.cell_bytes;
        }
        Ok(finished)
    }

    /// Reads a part of the table and hands its rows to `walk`, batch by batch; gives the walk back
    /// and what came.
    async fn read<W: Send + 'static>(
        &self,
        table: &Table,
        part: &Part,
        mut walk: W,
        take: impl Fn(&mut W, Digested) -> Result<(), shadow::Error> + Send + 'static,
    ) -> Result<Proof<(W, Came)>, AnyFailure> {
        let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
        let (count, counted) = oneshot::channel();
        let intake = Intake::new(self.tables.writer.clone(), table, true);
        let walking = tokio::task::spawn_blocking(move || {
            feed(intake, received, counted, |batch| take(&mut walk, batch))
                .map(|came| came.map(|came| (walk, came)))
        });
        let read = self.prover.read_part(table, self.witness, part, pieces);
        let read = read.await.map(|rows| {
            let _ = count.send(rows);
        });
        let walked = walking
            .await
            .map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?;
        match (walked, read) {
            (Err(error), _) => doubting(Err(error)),
            (Ok(_), Err(error)) => Ok(unanswered(&error)),
            (Ok(Some(walked)), Ok(())) => Ok(Proof::Holds(walked)),
            (Ok(None), Ok(())) => Ok(Proof::Doubt("its rows ended early")),
        }
    }
}

/// Fresh rows, until they are written.
#[derive(Default)]
enum Held {
    Rows(Vec<Digested>),
    /// They are to be read again.
    #[default]
    TooMany,
}

impl Held {
    /// Takes the next rows, with which all that came take `bytes`.
    fn take(&mut self, batch: Digested, bytes: usize) {
        match self {
            Held::Rows(batches) if bytes <= HELD_BYTES_MAX => batches.push(batch),
            _ => *self = Held::TooMany,
        }
    }
}

/// What was read of the fresh rows before they are written; nothing at first.
#[derive(Default)]
struct Fresh {
    held: Held,
    came: Came,
}

/// Hands the rows that were held to `walk`.
fn walk_held(mut walk: FreshWalk, batches: Vec<Digested>) -> Result<FreshWalk, shadow::Error> {
    for batch in batches {
        walk.rows(batch)?;
    }
    Ok(walk)
}

/// What came of a part.
#[derive(Default)]
struct Came {
    rows: u64,
    /// Sealed bytes of the large cells' new chunks.
    cell_bytes: u64,
}

/// Feeds what the source sends to `take`; none where the source failed.
fn feed(
    mut intake: Intake,
    mut pieces: PieceReceiver,
    counted: oneshot::Receiver<u64>,
    mut take: impl FnMut(Digested) -> Result<(), shadow::Error>,
) -> Result<Option<Came>, shadow::Error> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Slice { column, bytes } => intake.slice(column, &bytes)?,
            Piece::Rows(rows) => {
                if let Some(digested) = intake.rows(rows)? {
                    take(digested)?;
                }
            }
        }
    }
    let Ok(rows) = counted.blocking_recv() else {
        return Ok(None);
    };
    while let Some(digested) = intake.next()? {
        take(digested)?;
    }
    let cell_bytes = intake.finish()?;
    Ok(Some(Came { rows, cell_bytes }))
}

/// Where the database does not answer, there is doubt too: if it cannot answer at all, reading
/// every row fails with the error to tell.
fn unanswered<T>(error: &AnyFailure) -> Proof<T> {
    tracing::debug!("what changed could not be asked for: {error}");
    Proof::Doubt("the database did not answer")
}

/// Does what blocks on a thread of its own.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<Proof<T>, shadow::Error> + Send + 'static,
) -> Result<Proof<T>, AnyFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    doubting(done.map_err(|error| AnyFailure::new(Class::Bug, error.to_string(), None))?)
}

/// The sum of what a server says, which may be anything.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// Where the shadow or the order of rows is not as it should be, there is doubt, and no failure:
/// reading every row says what is wrong.
fn doubting<T>(tried: Result<Proof<T>, shadow::Error>) -> Result<Proof<T>, AnyFailure> {
    match tried {
        Ok(proof) => Ok(proof),
        Err(shadow::Error::Damaged { .. }) => Ok(Proof::Doubt("its shadow is damaged")),
        Err(shadow::Error::Table(table::Error::Order { .. })) => Ok(Proof::Doubt(
            "its rows came in another order than that of their keys",
        )),
        Err(error) => Err(error.into()),
    }
}

/// The table with the columns of its key alone.
fn keys_of(table: &Table) -> Table {
    let mut keys = table.clone();
    if let Some(key) = &table.key {
        let columns = key.columns.iter();
        keys.columns = columns
            .clone()
            .map(|(at, _)| table.columns[*at].clone())
            .collect();
        keys.key = Some(Key {
            origin: key.origin.clone(),
            columns: columns
                .enumerate()
                .map(|(at, (_, order))| (at, *order))
                .collect(),
        });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::cell::RowBatch;

    fn batch(bytes: usize) -> Digested {
        let mut rows = RowBatch::default();
        rows.push(&vec![7; bytes]);
        Digested {
            rows,
            ..Digested::default()
        }
    }

    #[test]
    fn fresh_rows_are_held_up_to_a_bound_and_never_in_part() {
        let mut held = Held::Rows(Vec::new());
        held.take(batch(100), 100);
        held.take(batch(100), HELD_BYTES_MAX);
        assert!(matches!(&held, Held::Rows(batches) if batches.len() == 2));
        held.take(batch(1), HELD_BYTES_MAX + 1);
        held.take(batch(1), 1);
        assert!(matches!(held, Held::TooMany));
    }

    #[test]
    fn memory_of_a_batch_counts_its_buffers() {
        assert_eq!(Digested::default().held_bytes(), 0);
        let roomy = Digested {
            rows: RowBatch::with_capacity(300 << 10),
            ..Digested::default()
        };
        assert!(roomy.held_bytes() >= 300 << 10);
    }
}
