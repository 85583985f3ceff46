//! Every version of one record, over all snapshots of a source.
//!
//! Each snapshot's stack is asked for the key; runs and chunks that snapshots share are read once.
//! Invariant: two snapshots between which nothing is told hold the record alike, cell by cell.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::format::run::LargeCell;
use crate::id::{ChunkId, Digest, SnapshotId};
use crate::job::Opened;
use crate::repo::catalog::{Snapshot, Source};
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{KeyedStack, Shelf, StackReader};
use crate::row::cell::Cells;
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;

/// How many manifests are fetched at once.
const MANIFESTS_AT_ONCE: usize = 8;

/// What became of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is there, and was not in the snapshot before.
    Added,
    /// It has other values.
    Changed,
    /// It is gone.
    Removed,
}

impl Operation {
    /// The operation as JSON and tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Added => "added",
            Operation::Changed => "changed",
            Operation::Removed => "removed",
        }
    }
}

/// The record as a snapshot has it.
#[derive(Clone, Debug)]
pub struct Record {
    /// What its table looks like there.
    pub table: Arc<Table>,
    /// Its canonical bytes.
    pub row: Vec<u8>,
    /// Where its large cells lie.
    pub cells: HashMap<Digest, LargeCell>,
}

/// A version of the record.
#[derive(Clone, Debug)]
pub struct Version {
    /// What became of it.
    pub operation: Operation,
    /// The first snapshot that has it so.
    pub snapshot: SnapshotId,
    /// When that was taken.
    pub time: Timestamp,
    /// The snapshot before, which has it otherwise; none for the first of all.
    pub previous: Option<(SnapshotId, Timestamp)>,
    /// The record; none where it is gone.
    pub record: Option<Record>,
}

/// What was found.
pub struct Outcome {
    /// The versions, oldest first; none where no snapshot has the record.
    pub versions: Vec<Version>,
    /// How many snapshots were asked.
    pub snapshots: u64,
    /// What could not be asked, in sentences.
    pub warnings: Vec<String>,
    /// What fetches large cells.
    pub reader: Arc<Reader>,
}

/// What makes the answer of one snapshot that of another too.
struct Asked {
    table: Arc<Table>,
    stack: Vec<ChunkId>,
    record: Option<Record>,
}

impl PartialEq for Record {
    /// The same columns with the same cells.
    fn eq(&self, other: &Record) -> bool {
        let names = |table: &Table| -> Vec<String> {
            table
                .columns
                .iter()
                .map(|column| column.name.clone())
                .collect()
        };
        let (ours, theirs) = (names(&self.table), names(&other.table));
        if ours == theirs {
            return self.row == other.row;
        }
        let cells = |names: Vec<String>, row: &[u8]| -> HashMap<String, String> {
            let cells = Cells::new(row).map(|cell| format!("{cell:?}"));
            names.into_iter().zip(cells).collect()
        };
        cells(ours, &self.row) == cells(theirs, &other.row)
    }
}

/// Looks `key` of `table` up in every snapshot of `source`.
///
/// # Errors
/// Denied with a writer's key; Missing for a table that no snapshot has; Invalid for a key that
/// the table's newest form cannot have; the repository's.
pub async fn run(
    opened: &Opened,
    source: &Source,
    table: &str,
    key: &str,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("look at records")?;
    let reader = opened.record_reader().await?;
    let fetched: Vec<(&Snapshot, Manifest)> =
        stream::iter(&source.snapshots)
            .map(|snapshot| async move {
                Ok::<_, AnyFailure>((snapshot, opened.manifest(snapshot).await?))
            })
            .buffered(MANIFESTS_AT_ONCE)
            .try_collect()
            .await?;
    check(&fetched, table, key)?;
    let mut looking = Looking {
        shelf: Shelf::new(reader.clone()),
        before: None,
        warnings: Vec::new(),
    };
    let mut versions = Vec::new();
    let mut last: Option<(Option<Record>, SnapshotId, Timestamp)> = None;
    for (snapshot, manifest) in &fetched {
        let record = match select::table(manifest, table) {
            Ok(found) => looking.look(snapshot, found, key).await?,
            Err(_) => None,
        };
        let (id, time) = (snapshot.record.id, snapshot.record.taken_at);
        let earlier = last.as_ref().and_then(|(record, ..)| record.as_ref());
        let operation = match (earlier, &record) {
            (None, Some(_)) => Some(Operation::Added),
            (Some(_), None) => Some(Operation::Removed),
            (Some(old), Some(new)) if old != new => Some(Operation::Changed),
            _ => None,
        };
        if let Some(operation) = operation {
            versions.push(Version {
                operation,
                snapshot: id,
                time,
                previous: last.as_ref().map(|(_, id, time)| (*id, *time)),
                record: record.clone(),
            });
        }
        last = Some((record, id, time));
    }
    Ok(Outcome {
        versions,
        snapshots: fetched.len() as u64,
        warnings: looking.warnings,
        reader,
    })
}

/// Refuses a table that no snapshot has, and a key that the newest one cannot have.
fn check(fetched: &[(&Snapshot, Manifest)], table: &str, key: &str) -> Result<(), AnyFailure> {
    let mut refusal = None;
    for (_, manifest) in fetched.iter().rev() {
        match select::table(manifest, table) {
            Ok(found) if !found.table.with_rows => {
                let what = format!(
                    "of table {} only the structure was captured",
                    found.table.name
                );
                return Err(AnyFailure::new(Class::Missing, what, None));
            }
            Ok(found) => return Ok(key::parse(&found.table, key).map(|_| ())?),
            Err(error) if error.class() == Class::Missing => {
                refusal.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match refusal {
        Some(error) => Err(error.into()),
        None => Err(AnyFailure::new(
            Class::Missing,
            "the source has no snapshot",
            Some("'rowvault snapshots' lists what there is".into()),
        )),
    }
}

struct Looking {
    shelf: Shelf,
    before: Option<Asked>,
    warnings: Vec<String>,
}

impl Looking {
    async fn look(
        &mut self,
        snapshot: &Snapshot,
        found: &ManifestTable,
        text: &str,
    ) -> Result<Option<Record>, AnyFailure> {
        let same = |asked: &&Asked| asked.stack == found.stack && *asked.table == found.table;
        if let Some(asked) = self.before.as_ref().filter(same) {
            return Ok(asked.record.clone());
        }
        let key = match key::parse(&found.table, text) {
            Ok(key) => key,
            Err(error) => {
                self.warnings.push(format!(
                    "snapshot {} was passed over: {error}",
                    snapshot.record.id.short()
                ));
                return Ok(None);
            }
        };
        let table = Arc::new(found.table.clone());
        let stack = KeyedStack::open(&mut self.shelf, found).await?;
        let record = match stack {
            Some(stack) => {
                let rows = stack.rows(&mut self.shelf, &[&key]).await?;
                rows.into_iter().flatten().next().map(|row| Record {
                    table: table.clone(),
                    row: row.row().to_vec(),
                    cells: row.chunk.cells.clone(),
                })
            }
            None => self.scan(found, &table, &key).await?,
        };
        self.before = Some(Asked {
            table,
            stack: found.stack.clone(),
            record: record.clone(),
        });
        Ok(record)
    }

    /// Reads a table whose rows are not stored by key.
    async fn scan(
        &mut self,
        found: &ManifestTable,
        table: &Arc<Table>,
        key: &[u8],
    ) -> Result<Option<Record>, AnyFailure> {
        let Some(encoder) = KeyEncoder::new(table) else {
            return Ok(None);
        };
        let mut stack = StackReader::open(self.shelf.reader().clone(), found).await?;
        let mut own = Vec::new();
        while let Some(rows) = stack.next().await? {
            for row in rows.rows.iter() {
                encoder.encode(row, &mut own)?;
                if own == key {
                    return Ok(Some(Record {
                        table: table.clone(),
                        row: row.to_vec(),
                        cells: rows.cells.clone(),
                    }));
                }
            }
        }
        Ok(None)
    }
}
