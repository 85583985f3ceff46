//! SQLite: a database file read at one instant, and a new one made beside its place.
//!
//! rusqlite gives storage class and exact bytes (docs/decisions/0002); each open file lives on a
//! thread of its own. Invariant: no byte of a source's file or -wal is ever changed, and a target
//! is either absent or whole. Refuses what it cannot bring back, by name.

pub mod sql;

pub mod types;

pub mod worker;

pub mod file;

pub mod catalog;

pub mod rows;

pub mod capture;

pub mod patch;

pub mod load;

pub mod target;

pub mod beside;

pub mod live;

pub mod scratch;

pub mod swap;

use std::path::{Path, PathBuf};

use crate::failure::{Class, Failure};

/// Why a SQLite database could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
    },
    /// A directory, a socket, ….
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// The header is not SQLite's.
    #[error("{} is not a SQLite database, or it is encrypted", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// SQLite found damage.
    #[error("{} is damaged while {doing}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: String,
        /// SQLite's own words.
        what: String,
    },
    /// Another process holds a lock for longer than we wait.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The operating system says no.
    #[error("{} may not be opened: {what}", path.display())]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
    /// Something stands where the target is to be.
    #[error("{} exists already", path.display())]
    Taken {
        /// What stands there.
        path: PathBuf,
    },
    /// No space for the file or its copy.
    #[error("no space is left for {}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing failed in a way that may pass.
    #[error("{} failed while {doing}: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: String,
        /// What the system or SQLite says.
        what: String,
    },
    /// SQLite refuses; nothing is damaged.
    #[error("SQLite refuses {doing} in {}: {what}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: String,
        /// SQLite's own words.
        what: String,
    },
    /// A copy was taken or a file read without locks, and the file changed meanwhile.
    #[error("{} was changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The source has something that cannot be brought back.
    #[error("{what} in {} cannot be kept: {why}", path.display())]
    Unkept {
        /// The file.
        path: PathBuf,
        /// Which object, row or cell.
        what: String,
        /// Why not.
        why: String,
    },
    /// What is to be restored is not what a SQLite capture gives.
    #[error("the captured structure cannot be restored: {what}")]
    Structure {
        /// What is wrong.
        what: String,
    },
    /// Rows that are to be restored do not fit their table.
    #[error("rows of table {table} cannot be restored: {what}")]
    Rows {
        /// The table.
        table: String,
        /// What is wrong.
        what: String,
    },
    /// A row that is to be written into a live database is refused.
    #[error("a row of table {table} in {} is refused: {what}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The table.
        table: String,
        /// SQLite's own words.
        what: String,
    },
    /// A call out of order.
    #[error("{what} was asked of a SQLite database that is not open")]
    NotOpen {
        /// Which call.
        what: &'static str,
    },
    /// Whoever takes the rows has gone.
    #[error("nobody takes the rows of table {table} any more")]
    Unwanted {
        /// The table.
        table: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Missing { .. } => Class::Missing,
            Error::NotAFile { .. }
            | Error::NotADatabase { .. }
            | Error::Refused { .. }
            | Error::Unkept { .. } => Class::Invalid,
            Error::Damaged { .. } | Error::Structure { .. } | Error::Rows { .. } => Class::Corrupt,
            Error::Locked { .. } => Class::Busy,
            Error::Denied { .. } => Class::Denied,
            Error::Taken { .. } | Error::Row { .. } => Class::Conflict,
            Error::Full { .. }
            | Error::Io { .. }
            | Error::Changed { .. }
            | Error::Unwanted { .. } => Class::Transient,
            Error::NotOpen { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing { .. } => "check the path",
            Error::NotAFile { .. } => "give the path of the database file itself",
            Error::NotADatabase { .. } => {
                "check the path; files encrypted by SQLCipher or SEE cannot be read"
            }
            Error::Damaged { .. } => {
                "run PRAGMA integrity_check on it and restore it from an older snapshot"
            }
            Error::Locked { .. } => "try again when the other process has finished its work",
            Error::Denied { .. } => "run as a user who may read the file and its directory",
            Error::Taken { .. } => "choose a path where nothing stands yet",
            Error::Full { .. } => "free some space, or set TMPDIR to a larger disk for copies",
            Error::Changed { .. } => "try again",
            Error::Refused { .. } => {
                "a function, collation or module that only the application has cannot be used here"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

impl Error {
    /// The error that rusqlite's stands for, met on the file at `path` while `doing`.
    pub fn from_sqlite(path: &Path, doing: &str, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        let doing = doing.to_owned();
        let what = error.to_string();
        match error.sqlite_error_code() {
            Some(Code::NotADatabase) => Error::NotADatabase { path },
            Some(Code::DatabaseCorrupt) => Error::Damaged { path, doing, what },
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Error::Locked { path },
            Some(Code::PermissionDenied | Code::CannotOpen | Code::ReadOnly) => {
                Error::Denied { path, what }
            }
            Some(Code::DiskFull) => Error::Full { path },
            Some(Code::SystemIoFailure | Code::OperationInterrupted | Code::OutOfMemory) => {
                Error::Io { path, doing, what }
            }
            _ if what.contains("malformed database schema") => Error::Damaged { path, doing, what },
            _ => Error::Refused { path, doing, what },
        }
    }

    /// The error that an input or output error stands for.
    pub fn from_io(path: &Path, doing: &str, error: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let path = path.to_owned();
        let what = error.to_string();
        match error.kind() {
            Kind::NotFound => Error::Missing { path },
            Kind::AlreadyExists => Error::Taken { path },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Error::Denied { path, what },
            Kind::StorageFull | Kind::QuotaExceeded => Error::Full { path },
            _ => Error::Io {
                path,
                doing: doing.to_owned(),
                what,
            },
        }
    }
}
