//! Tables at rest: stacks of sorted runs, written and read.
//!
//! Writing cuts rows into chunks and describes them as a run; reading merges the runs of a stack,
//! newest wins. Invariant: rows are stored in strictly ascending order of their canonical keys, or
//! the table is stored without a key.

mod between;
mod cover;
mod describe;
mod digest;
mod filters;
mod intake;
mod lookup;
mod read;
mod related;
mod write;

pub use between::{Between, Differing};
pub use cover::Coverage;
pub use describe::{Described, RunDescriber};
pub use digest::TableDigest;
pub use filters::{ColumnValues, relation_columns};
pub use intake::{Digested, Intake};
pub use lookup::{FoundRow, KeyedChunk, KeyedRun, KeyedStack, Mention, Shape, Shelf};
pub use read::{Rows, RunChunks, StackReader, Sums, read_run};
pub use related::{RelatedRows, Sought, SoughtColumn};
pub use write::{Packing, Put, RunOptions, RunWriter, WrittenRun};

use crate::failure::{Class, Failure};
use crate::format::object;
use crate::id::ChunkId;
use crate::repo::{reader, writer};
use crate::row::{cell, codec, key};

/// Why a table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Storing chunks.
    #[error(transparent)]
    Writer(#[from] writer::Error),
    /// Fetching chunks.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// A row is none, or has no key.
    #[error("a row of table {table} cannot be stored")]
    Row {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: key::Error,
    },
    /// The rows do not come in the order of their keys: not an error of anybody, but the caller
    /// must ask for another order.
    #[error("the rows of table {table} do not come in the order of their keys")]
    Order {
        /// The table.
        table: String,
    },
    /// A cell's slices are not what its row says.
    #[error("a large cell of table {table} came with {found} bytes where its row says {length}")]
    LargeCell {
        /// The table.
        table: String,
        /// What came.
        found: u64,
        /// What the row says.
        length: u64,
    },
    /// A chunk of rows cannot be decoded.
    #[error("chunk {chunk} cannot be decoded")]
    Codec {
        /// The chunk.
        chunk: ChunkId,
        /// Why.
        #[source]
        source: codec::Error,
    },
    /// A chunk's content is not what its name says.
    #[error("chunk {chunk} holds other rows than its name says")]
    Name {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The rows of a run cannot be merged with those below.
    #[error("the runs of table {table} do not fit together: {why}")]
    Merge {
        /// The table.
        table: String,
        /// Why.
        why: String,
    },
    /// A run's description is not one.
    #[error("the description of a run is damaged")]
    Run(#[from] object::Error),
    /// Encoding failed for rows that were checked before.
    #[error("rows of table {table} cannot be encoded")]
    Encode {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: codec::Error,
    },
    /// A cell is damaged at this point of a row.
    #[error("a row of table {table} is damaged")]
    Cell {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: cell::Error,
    },
    /// A worker thread ended before its work did.
    #[error("a worker thread ended early: {why}")]
    Worker {
        /// Why.
        why: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Writer(error) => error.class(),
            Error::Reader(error) => error.class(),
            Error::Row { .. } | Error::Encode { .. } => Class::Invalid,
            Error::Order { .. } | Error::LargeCell { .. } => Class::Conflict,
            Error::Worker { .. } => Class::Bug,
            Error::Codec { .. } | Error::Name { .. } | Error::Merge { .. } | Error::Cell { .. } => {
                Class::Corrupt
            }
            Error::Run(error) => error.class(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Writer(error) => error.hint(),
            Error::Reader(error) => error.hint(),
            _ => None,
        }
    }
}
