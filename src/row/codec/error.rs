//! Why rows cannot be encoded, or bytes are no chunk.
//!
//! Shared by all column codecs; what is damaged is named, so that a report can say more than
//! "corrupt". Invariant: every variant is met by a test that makes it.

use crate::failure::{Class, Failure};
use crate::row::cell;

/// Why rows cannot be encoded, or bytes are no chunk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A row to be encoded is not a row of the table.
    #[error("a row to be encoded is damaged")]
    Row(#[from] cell::Error),
    /// Written by a newer version, or not a chunk.
    #[error("a chunk of rows has layout version {version}, and this program reads version 1")]
    Version {
        /// The version found.
        version: u8,
    },
    /// Another table's chunk.
    #[error("a chunk of rows has {found} columns where its table has {columns}")]
    Columns {
        /// Columns found.
        found: u64,
        /// Columns expected.
        columns: usize,
    },
    /// A column codec that this version does not have.
    #[error(
        "column {column} of a chunk is written with codec {codec}, which this program does not have"
    )]
    Codec {
        /// Position of the column.
        column: usize,
        /// The codec's number.
        codec: u8,
    },
    /// More than the caller is ready to hold.
    #[error("a chunk of rows says that it holds {found} {what}, more than the {max} allowed")]
    TooLarge {
        /// Rows or bytes.
        what: &'static str,
        /// How many it says.
        found: u64,
        /// How many are allowed.
        max: u64,
    },
    /// Bytes that no encoder writes.
    #[error("the {what} of a chunk of rows is damaged")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// A column was asked for that the table does not have.
    #[error("column {column} was asked for in a chunk of {columns} columns")]
    Wanted {
        /// Position asked for.
        column: usize,
        /// Columns of the table.
        columns: usize,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Wanted { .. } => Class::Bug,
            _ => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Version { .. } | Error::Codec { .. } => {
                Some("a newer rowvault may have written it: read it with that one".into())
            }
            _ => None,
        }
    }
}
