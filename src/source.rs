//! Databases: read at one instant, and made again.
//!
//! The two traits that every engine fills. A [`Source`] gives the structure and the rows of one
//! database snapshot; a [`Target`] is made beside, filled, and published or taken away. Neither
//! knows where rows go or come from. Invariant: everything that one `Source` gives belongs to
//! one instant, or the call fails.

pub mod address;

pub mod mysql;
pub mod postgres;
pub mod sqlite;

pub mod open;

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

    /// Ends the database snapshot.
    ///
    /// # Errors
    /// The snapshot was lost before its end: everything read from it is worth nothing.
    async fn end(&mut self) -> Result<(), AnyFailure>;
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
