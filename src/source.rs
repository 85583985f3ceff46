//! Databases: read at one instant, and made again.
//!
//! The traits that every engine fills. A [`Source`] gives the structure and the rows of one
//! database snapshot; a [`Target`] is made beside, filled, and published or taken away; a [`Live`]
//! database is looked at and written to in one transaction; a [`Swap`] exchanges a live database
//! for one beside it. None knows where rows go or come from. Invariant: everything that one
//! `Source` gives belongs to one instant, or the call fails.

pub mod address;

pub mod beside;
pub mod scratch;

pub mod mysql;
pub mod postgres;
pub mod sqlite;

pub mod open;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::failure::AnyFailure;
use crate::row::cell::RowBatch;
use crate::row::schema::{Structure, Table};

/// What flows between an engine and the rest, in order.
#[derive(Debug)]
pub enum Piece {
    /// Whole rows; a large cell in them has its class and length, and (captured) a zero digest.
    Rows(RowBatch),
    /// A slice of a large cell, at most 1 MiB. All slices of a row's large cells, by column and
    /// then by offset, come just before the `Rows` whose *first* row holds those cells.
    Slice {
        /// Position of the column.
        column: usize,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Where pieces go; closed early when the receiver has failed.
pub type PieceSender = mpsc::Sender<Piece>;
/// Where pieces come from; closed when the sender has finished or failed.
pub type PieceReceiver = mpsc::Receiver<Piece>;

/// About how many bytes of rows an engine puts into one [`Piece::Rows`].
pub const BATCH_BYTES: usize = 256 << 10;
/// How many pieces may wait in a channel.
pub const PIECES_WAITING_MAX: usize = 4;

/// The order that rows are asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `ORDER BY` the key as the server likes it best; right for most keys, and cheap.
    Key,
    /// `ORDER BY` the canonical bytes of the key, whatever it costs.
    Canonical,
    /// As the rows lie; for a table without a key.
    Physical,
}

/// A database at one instant.
///
/// Made by [`open::source`]. From `begin` to `end` every call sees the same database snapshot.
#[async_trait]
pub trait Source: Send + Sync {
    /// Starts the database snapshot and reads the structure.
    ///
    /// # Errors
    /// Missing, Denied, Invalid, Busy, Corrupt or Transient, naming the database and what to do.
    async fn begin(&mut self) -> Result<Structure, AnyFailure>;

    /// Sends every row of `table`, and returns how many there were by the engine's own count.
    /// May be called for up to `parallel` tables at once. Sending fails when the receiver is
    /// gone; the read then stops and says so with any failure.
    ///
    /// # Errors
    /// As `begin`. Rows that were sent before an error are worth nothing.
    async fn read(&self, table: &Table, order: Order, rows: PieceSender)
    -> Result<u64, AnyFailure>;

    /// How many tables may be read at once (1 or more).
    fn parallel(&self) -> usize {
        1
    }

    /// What can prove that rows did not change since an earlier snapshot; none where the engine
    /// has nothing that shows it.
    fn prover(&self) -> Option<&dyn Prover> {
        None
    }

    /// Ends the database snapshot.
    ///
    /// # Errors
    /// The snapshot was lost before its end: everything read from it is worth nothing.
    async fn end(&mut self) -> Result<(), AnyFailure>;
}

/// Which rows of a table are read, in the order of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every row that is not proven to be as it was in the earlier snapshot.
    Fresh(Places),
    /// Every row whose first key column lies in one of some ranges.
    Within {
        /// Where ranges begin, as texts of the first key column, ascending; range 0 is below all.
        edges: Vec<String>,
        /// The ranges, by number, ascending.
        ranges: Vec<usize>,
        /// How much of the table they hold.
        share: Share,
    },
}

/// Where the fresh rows of a table lie, by the count of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// Anywhere: each row is looked at.
    #[default]
    Unknown,
    /// At these places, as the prover names them to itself.
    Known(Arc<str>),
}

/// How much of a table some ranges hold, which tells how their rows are best found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So little that each of them is looked up.
    Little,
    /// So much that every row is looked at.
    Much,
}

/// How many rows a table has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Rows that are proven to be as they were in the earlier snapshot.
    pub old: u64,
    /// All others.
    pub fresh: u64,
}

/// A database snapshot that can tell which rows are as they were in an earlier one.
///
/// A snapshot leaves a witness, and each table a mark; a later snapshot is asked with them. Rows
/// that it counts as old were in the earlier snapshot, in every byte.
#[async_trait]
pub trait Prover: Send + Sync {
    /// What this snapshot leaves for a later one, once the server cannot forget its transactions
    /// any more; none where nothing may be built on it.
    ///
    /// # Errors
    /// As [`Source::begin`].
    async fn witness(&self) -> Result<Option<String>, AnyFailure>;

    /// What must be the same of `table` for its rows to read the same; none where rows of it may
    /// read differently though nobody wrote them.
    fn mark(&self, table: &Table) -> Option<String>;

    /// Why nothing is proven against the snapshot that left `witness`, if so.
    fn doubt(&self, witness: &str) -> Option<&'static str>;

    /// Whether rows of `table` can be counted and read by ranges of its first key column.
    fn has_ranges(&self, table: &Table) -> bool;

    /// How many rows there are, and where the fresh ones lie.
    ///
    /// # Errors
    /// As [`Source::begin`].
    async fn count(&self, table: &Table, witness: &str) -> Result<(Count, Places), AnyFailure>;

    /// How many rows there are in each range, one more than `edges`, which are as those of
    /// [`Part::Within`].
    ///
    /// # Errors
    /// As [`Source::begin`].
    async fn count_ranges(&self, table: &Table, edges: &[String]) -> Result<Vec<u64>, AnyFailure>;

    /// Sends a part of the rows, in the order of the key. `table` may have fewer columns than
    /// there are, but those of its key.
    ///
    /// # Errors
    /// As [`Source::read`].
    async fn read_part(
        &self,
        table: &Table,
        witness: &str,
        part: &Part,
        rows: PieceSender,
    ) -> Result<u64, AnyFailure>;
}

/// A database in the making, beside the place where it will be found.
///
/// Call order: `prepare`, `load` for each table with rows, `finish`, `read_back` for each table,
/// then `publish`; `discard` at any point instead.
#[async_trait]
pub trait Target: Send + Sync {
    /// Checks that the place is free and makes everything that must stand before rows.
    ///
    /// # Errors
    /// Conflict where the place is taken; Denied, Missing, Invalid with what to do.
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure>;

    /// Takes all rows of `table`, and returns how many were taken. A receiver that closes ends the table;
    /// the caller discards the target where that was a failure.
    ///
    /// # Errors
    /// As `prepare`; Transient where the connection was lost.
    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure>;

    /// Makes everything that must come after rows: indexes, constraints, triggers, counters.
    ///
    /// # Errors
    /// As `prepare`.
    async fn finish(&mut self, structure: &Structure) -> Result<(), AnyFailure>;

    /// Sends every row of `table` as it stands in the target now, in any order.
    ///
    /// # Errors
    /// As [`Source::read`].
    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure>;

    /// How many tables may be loaded at once (1 or more).
    fn parallel(&self) -> usize {
        1
    }

    /// Puts the finished database where it was asked for.
    ///
    /// # Errors
    /// Conflict where the place was taken meanwhile. The target is then as it was.
    async fn publish(&mut self) -> Result<Published, AnyFailure>;

    /// Takes away everything that was made. Never touches what was there before.
    ///
    /// # Errors
    /// What could not be taken away, by name.
    async fn discard(&mut self) -> Result<(), AnyFailure>;
}

/// What `publish` did.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// Where the database is, as a URL without a password.
    pub place: String,
    /// Sentences for the person who restores.
    pub warnings: Vec<String>,
}

/// What a live database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To look at it; nothing is locked, nothing can be written.
    Look,
    /// To write; rows that are looked up stay as they are until the end.
    Write,
}

/// Rows to be looked up by the values of some of their columns.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The table, by its position in the structure that `begin` gave.
    pub table: usize,
    /// Positions of the columns; at least one.
    pub columns: &'a [usize],
    /// What the columns may be: a row of as many cells for each; no NULL.
    pub values: &'a RowBatch,
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Position of the values that it was found by.
    pub asked: usize,
    /// The row, as capture would read it; large cells stand in it whole.
    pub row: Vec<u8>,
}

/// One row to be written; tables and columns are positions in the structure that `begin` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new row; columns that are left out get their defaults.
    Insert {
        /// The table.
        table: usize,
        /// The columns that are given.
        columns: Vec<usize>,
        /// A cell for each of them.
        values: Vec<u8>,
    },
    /// Some columns of one row.
    Update {
        /// The table.
        table: usize,
        /// The columns that change.
        columns: Vec<usize>,
        /// A cell for each of them.
        values: Vec<u8>,
        /// A cell for each column of the table's key: the row that is meant.
        key: Vec<u8>,
    },
    /// A row goes: only rendered, for taking an insertion back.
    Delete {
        /// The table.
        table: usize,
        /// A cell for each column of the table's key.
        key: Vec<u8>,
    },
}

impl Change {
    /// The table that is written.
    pub fn table(&self) -> usize {
        match self {
            Change::Insert { table, .. }
            | Change::Update { table, .. }
            | Change::Delete { table, .. } => *table,
        }
    }
}

/// A database in use, in one transaction in which all is looked up and written.
///
/// Made by [`open::live`]. From `begin` to `commit` or `abandon` everything happens in one
/// transaction; a value dropped between them has written nothing.
#[async_trait]
pub trait Live: Send + Sync {
    /// Starts the transaction and reads the structure.
    ///
    /// # Errors
    /// As [`Source::begin`]; Denied where there is no right to write and that is the purpose.
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure>;

    /// The names of the triggers that a row written to `table` would fire.
    fn triggers(&self, table: usize) -> &[String];

    /// Whether those triggers fire for what is written here, because the server cannot hold them.
    fn fires_triggers(&self) -> bool;

    /// Whether the server checks references while it writes, so that a row must come after those
    /// that it refers to. Where it does not, who writes must check them before the end.
    fn checks_references(&self) -> bool;

    /// Why rows of `table` cannot be written in one transaction with others, if so.
    fn bars(&self, _table: usize) -> Option<String> {
        None
    }

    /// The rows that are equal to any of the values, by the server's own equality; locked where the
    /// purpose is to write. Values that the server cannot read as the columns' types find nothing.
    ///
    /// # Errors
    /// As [`Source::begin`]; Busy where others hold the rows for too long.
    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure>;

    /// Writes one row, each cell exactly as capture would read it again.
    ///
    /// # Errors
    /// Conflict where the server refuses it or another number of rows than one was touched. The
    /// transaction can then only be abandoned.
    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure>;

    /// The statement that `write` would run, without its end.
    fn render(&self, change: &Change) -> String;

    /// The statements before and after those of `tables`, when they are run by hand.
    fn frame(&self, tables: &[usize]) -> (Vec<String>, Vec<String>);

    /// Makes everything that was written durable, all at once.
    ///
    /// # Errors
    /// Conflict where a check at the end refuses; nothing is written then. Unsettled where the
    /// connection was lost on the way.
    async fn commit(&mut self) -> Result<(), AnyFailure>;

    /// Ends the transaction; nothing is written.
    ///
    /// # Errors
    /// The connection was lost: nothing is written either.
    async fn abandon(&mut self) -> Result<(), AnyFailure>;
}

/// Who else may be working in a database that is to be exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// Whoever is in the middle of a transaction stops the exchange; idle sessions are ended.
    #[default]
    Respect,
    /// Transactions may come to their end first.
    Wait,
    /// Every session is ended, and what would be lost with the old database is passed over.
    End,
}

/// The names of an exchange, and what was noted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The database that comes in; it is gone under this name afterwards.
    pub side: String,
    /// The name under which the old database is kept; free before.
    pub kept: String,
    /// What the engine noted before it changed anything; empty before.
    pub note: String,
}

/// What an exchange did.
#[derive(Clone, Debug, Default)]
pub struct Exchanged {
    /// For how long the database could not be used.
    pub downtime: Duration,
    /// Sentences for the person.
    pub warnings: Vec<String>,
}

/// What became of an exchange that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The database is the old one; the side database is as it was.
    Old,
    /// The database is the new one, and the old one stands under its kept name.
    New,
}

/// Keeps a note durably.
pub type Keep<'a> = &'a mut (dyn FnMut(&str) -> Result<(), AnyFailure> + Send);

/// A live database that can be exchanged for one that stands beside it.
///
/// Made by [`open::swap`]. Whatever happens, clients find the old database or the new one whole,
/// never neither for good and never a mixture; [`Swap::settle`] ends what was cut off.
#[async_trait]
pub trait Swap: Send + Sync {
    /// The database, as one address of all that lead to it, without a password.
    ///
    /// # Errors
    /// Missing where it is not there.
    async fn place(&mut self) -> Result<String, AnyFailure>;

    /// The name of a database beside, made of the live one's and of `mark`.
    fn beside(&self, mark: &str) -> String;

    /// What the exchange must know of a snapshot that was restored beside; kept as its note.
    ///
    /// # Errors
    /// Corrupt or Invalid where the structure is not of this engine.
    fn remember(&self, _structure: &Structure) -> Result<String, AnyFailure> {
        Ok(String::new())
    }

    /// What an exchange back must know, from the note of the one that was made.
    fn turned(&self, _note: &str) -> String {
        String::new()
    }

    /// Looks for everything that could stop the exchange, and changes nothing.
    ///
    /// # Errors
    /// Conflict for a name that is taken and for what would be lost with the old database; Busy
    /// where others work in it; Denied for a right that is missing, by name.
    async fn check(&mut self, names: &Exchange, others: Others) -> Result<(), AnyFailure>;

    /// How many rows of the database called `name` refer to rows that are not there, in sentences.
    ///
    /// # Errors
    /// The server's.
    async fn broken_references(&mut self, name: &str) -> Result<Vec<String>, AnyFailure>;

    /// Makes the side database the live one, and keeps the old one.
    ///
    /// # Errors
    /// As [`Swap::check`]; the database is then the old one. Unsettled where it must be settled.
    async fn exchange(
        &mut self,
        names: &Exchange,
        others: Others,
        keep: Keep<'_>,
    ) -> Result<Exchanged, AnyFailure>;

    /// Brings an exchange that was cut off to one of its two ends.
    ///
    /// # Errors
    /// The server's; it may be tried again.
    async fn settle(&mut self, names: &Exchange) -> Result<Settled, AnyFailure>;

    /// Removes the database beside that is called `name`, whole or in the making; that there is
    /// none is fine. Never the live one.
    ///
    /// # Errors
    /// What could not be removed, by name.
    async fn remove(&mut self, name: &str) -> Result<(), AnyFailure>;
}
