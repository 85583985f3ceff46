//! Scratch places: where a restore is rehearsed, and asked what came back.
//!
//! The database that is made there came from a backup and is not trusted. Invariant: a place is
//! taken away with everything in it, whatever happened, and nothing else is.

pub mod room;
pub mod server;

use std::time::Duration;

use async_trait::async_trait;

use crate::failure::AnyFailure;
use crate::row::schema::Structure;
use crate::source::address::{SourceUrl, TargetOptions};

/// Where a rehearsed restore is made, and with what rights.
#[derive(Clone)]
pub struct Ready {
    /// The address of the database that is to be made there.
    pub url: SourceUrl,
    /// How it is made there.
    pub options: TargetOptions,
    /// The place in words, such as `a PostgreSQL 15.14 of its own`.
    pub place: String,
    /// Sentences for the person who reads the report.
    pub warnings: Vec<String>,
}

/// References of one table that point at nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The referencing table.
    pub table: String,
    /// The referenced one.
    pub parent: String,
    /// Rows of `table` whose reference finds none.
    pub rows: u64,
}

/// A place for a rehearsed restore, which is taken away afterwards.
///
/// Made by `open::scratch`. Call order: `start`, then a `Target` at the address that it gives
/// and, once that is published, questions; `end` whatever happened. A value that is dropped takes
/// the place away as well as it can without waiting.
#[async_trait]
pub trait Scratch: Send + Sync {
    /// Makes the place ready for a database of `structure`: a server, roles that can do no harm.
    ///
    /// # Errors
    /// Missing where no server is found, Conflict where the place is taken, Denied, with what to do.
    async fn start(&mut self, structure: &Structure) -> Result<Ready, AnyFailure>;

    /// The one value that `sql` gives, as the engine writes it; none for NULL. Nothing can be
    /// written by it, and it ends after `limit`.
    ///
    /// # Errors
    /// Conflict where the engine refuses it, it takes too long, or it gives more or less than one
    /// row of one column.
    async fn ask(&mut self, sql: &str, limit: Duration) -> Result<Option<String>, AnyFailure>;

    /// The foreign keys whose rows point at nothing.
    ///
    /// # Errors
    /// As `ask`.
    async fn broken_references(&mut self, structure: &Structure)
    -> Result<Vec<Broken>, AnyFailure>;

    /// The bytes that the place takes on the disk of this host; none where it is another's.
    fn bytes(&self) -> Option<u64>;

    /// Takes the place away, with everything in it.
    ///
    /// # Errors
    /// What could not be taken away, by name.
    async fn end(&mut self) -> Result<(), AnyFailure>;
}
