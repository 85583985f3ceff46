//! Shadows: what this host keeps of a source's last snapshot, and what follows from it.
//!
//! A shadow tells, without opening a row of the repository, which rows of a reading are new or
//! changed and which are gone. It is a cache: where it is lost, stale or damaged, a full snapshot
//! takes its place. Invariant: a shadow is believed only if it mirrors the newest living snapshot
//! of its source, and it is replaced only after the entry of the next one is durable.

mod file;
mod proof;
mod range;
mod walk;

pub use file::Place;
pub use proof::{FreshWalk, Proof, Range, Search, Survey, takes_deltas, unchanged};
pub use walk::{Before, How, Subject, TableWalk, Walked};

use std::collections::HashSet;
use std::sync::Arc;

use crate::failure::{Class, Failure};
use crate::format::manifest::StoredOrder;
use crate::format::object::{Kind, write_body};
use crate::format::shadow::{CAPTURE_VERSION, Shadow, Stream};
use crate::id::{Digest, ObjectId, SnapshotId, SourceHash};
use crate::repo::table;
use crate::repo::vault::Vault;
use crate::row::schema::Table;
use crate::state::{self, State};

const CURRENT: &str = "current";

/// Why a table could not be compared with its shadow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rows, or their chunks.
    #[error(transparent)]
    Table(#[from] table::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The shadow is not what was written: the table must be read without it.
    #[error("the shadow of table {table} is damaged: {why}")]
    Damaged {
        /// The table.
        table: String,
        /// What is wrong.
        why: String,
    },
    /// Other rows arrived than the source has by its own count.
    #[error("table {table} has {counted} rows by its server's count, and {arrived} arrived")]
    Count {
        /// The table.
        table: String,
        /// By the source's own count.
        counted: u64,
        /// What arrived.
        arrived: u64,
    },
    /// What was found does not add up.
    #[error("table {table} does not add up: {what}")]
    Sum {
        /// The table.
        table: String,
        /// What does not.
        what: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Table(error) => error.class(),
            Error::State(error) => error.class(),
            Error::Damaged { .. } | Error::Count { .. } => Class::Corrupt,
            Error::Sum { .. } => Class::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Table(error) => error.hint(),
            Error::State(error) => error.hint(),
            Error::Damaged { .. } => Some("run the backup again with --full".into()),
            Error::Count { .. } => {
                Some("no snapshot was made; let the database's own tools check the table".into())
            }
            Error::Sum { .. } => Some(
                "no snapshot was made; run the backup again with --full, and report this".into(),
            ),
        }
    }
}

/// The snapshot that a shadow must mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// Its id.
    pub snapshot: SnapshotId,
    /// Its manifest.
    pub manifest: ObjectId,
    /// The ledger entry that holds it.
    pub entry: u64,
}

/// What this host has of a source.
#[derive(Debug)]
pub enum Found {
    /// A shadow of the very snapshot.
    Mirror(Box<Shadow>),
    /// Nothing that counts, and why, as the end of a sentence.
    Nothing(String),
}

/// The shadow of one source on this host. Whoever writes holds the source's lock.
pub struct Keeper {
    place: Place,
}

impl Keeper {
    /// What is kept of `source`.
    pub fn new(vault: Arc<Vault>, state: State, source: &SourceHash) -> Keeper {
        Keeper {
            place: Place {
                vault,
                state,
                directory: format!("shadow/{source}"),
            },
        }
    }

    /// Where its streams stand.
    pub fn place(&self) -> &Place {
        &self.place
    }

    fn current(&self) -> String {
        format!("{}/{CURRENT}", self.place.directory)
    }

    /// The shadow, if it mirrors `newest`.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn load(&self, newest: Mirrored) -> Result<Found, Error> {
        let nothing = |why: &str| Ok(Found::Nothing(why.to_owned()));
        let Some(bytes) = self.place.state.read(&self.current())? else {
            return nothing("this host keeps no shadow of it");
        };
        let opened = self.place.vault.open(Kind::Shadow, &self.current(), &bytes);
        let Ok((_, body)) = opened else {
            return nothing("its shadow on this host is damaged");
        };
        let Ok(shadow) = Shadow::read(&body) else {
            return nothing("its shadow on this host is damaged or another version's");
        };
        if shadow.capture != CAPTURE_VERSION {
            return nothing("its shadow on this host is another version's");
        }
        let mirrored = Mirrored {
            snapshot: shadow.snapshot,
            manifest: shadow.manifest,
            entry: shadow.entry,
        };
        if mirrored != newest {
            return nothing("its shadow on this host is of another snapshot than the newest");
        }
        Ok(Found::Mirror(Box::new(shadow)))
    }

    /// Puts `shadow` in the place of the one before, whose files go. The entry of the snapshot
    /// that it mirrors must be durable.
    ///
    /// # Errors
    /// The state directory; the shadow that stands there then mirrors an older snapshot.
    pub fn swap(&self, shadow: &Shadow) -> Result<(), Error> {
        let vault = &self.place.vault;
        let sealed = vault.seal(Kind::Shadow, &self.current(), &shadow.write());
        let random = vault.random.as_ref();
        self.place.state.write(&self.current(), &sealed, random)?;
        self.clear(Some(shadow))
    }

    /// Takes away the shadow, which is not to be believed.
    ///
    /// # Errors
    /// The state directory.
    pub fn remove(&self) -> Result<(), Error> {
        self.place.state.remove(&self.current())?;
        self.clear(None)
    }

    /// Removes the files that `kept` does not name: of older shadows, and of backups that died.
    ///
    /// # Errors
    /// The state directory.
    pub fn clear(&self, kept: Option<&Shadow>) -> Result<(), Error> {
        let tables = kept.map_or(&[][..], |shadow| &shadow.tables);
        let streams = tables
            .iter()
            .flat_map(|table| [&table.entries, &table.edges]);
        let named = streams.filter_map(|stream| match stream {
            Stream::Inline(_) => None,
            Stream::File(generation) => Some(self.place.file(generation)),
        });
        let dictionaries = tables.iter().filter_map(|table| table.dictionary.as_ref());
        let dictionaries = dictionaries.map(|name| self.place.dictionary_file(name));
        let named = named.chain(dictionaries).chain([self.current()]);
        let named: HashSet<String> = named.collect();
        for name in self.place.state.names(&self.place.directory)? {
            let name = format!("{}/{name}", self.place.directory);
            if !named.contains(&name) {
                self.place.state.remove(&name)?;
            }
        }
        Ok(())
    }
}

/// What must be the same for a table's shadow to count: the columns, the key, and the order.
pub fn fingerprint(vault: &Vault, table: &Table, order: StoredOrder) -> Digest {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| {
            let collation = column.collation.as_deref();
            (&column.name, &column.type_name, column.kind, collation)
        })
        .collect();
    let body = write_body(&("fingerprint", columns, &table.key, order));
    vault.access.shared.row_digest.digest(&body)
}
