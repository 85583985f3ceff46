//! Finds records in a snapshot: by key, or the first ones of a table.
//!
//! A plain scan of the table's stack, which ends at the record, at the limit, or where the order
//! of keys says that nothing more can come. Invariant: rows are given out only after their chunk
//! has been compared with its name.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::format::manifest::StoredOrder;
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{Rows, StackReader};
use crate::row::cell::RowBatch;
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;

/// Which records.
#[derive(Clone, Debug)]
pub struct Request {
    /// The table, as a person names it.
    pub table: String,
    /// A key, as a person writes it; none for every row.
    pub key: Option<String>,
    /// How many rows at most.
    pub limit: u64,
}

struct Wanted {
    encoder: KeyEncoder,
    key: Vec<u8>,
    sorted: bool,
}

/// A search under way.
pub struct Finder {
    table: Table,
    reader: Arc<Reader>,
    stack: StackReader,
    wanted: Option<Wanted>,
    left: u64,
}

/// Begins a search.
///
/// # Errors
/// Denied with a writer's key; Missing or Invalid for a table or key that cannot be meant; the
/// storage's.
pub async fn start(
    opened: &Opened,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Finder, AnyFailure> {
    opened.vault.reader("find records")?;
    let manifest = opened.manifest(snapshot).await?;
    let found = select::table(&manifest, &request.table)?;
    let table = found.table.clone();
    if !table.with_rows {
        return Err(AnyFailure::new(
            Class::Missing,
            format!("of table {} only the structure was captured", table.name),
            None,
        ));
    }
    let wanted = match &request.key {
        None => None,
        Some(text) => {
            let key = key::parse(&table, text)?;
            KeyEncoder::new(&table).map(|encoder| Wanted {
                encoder,
                key,
                sorted: found.order == StoredOrder::Key,
            })
        }
    };
    let reader = opened.reader().await?;
    opened.progress.stage("looking", Some(found.bytes_raw));
    Ok(Finder {
        stack: StackReader::open(reader.clone(), found).await?,
        table,
        reader,
        wanted,
        left: request.limit,
    })
}

impl Finder {
    /// The table that is searched.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What fetches the large cells of its rows.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The next records; none at the end.
    ///
    /// # Errors
    /// The reader's; Corrupt where the rows are not those that the manifest names.
    pub async fn next(&mut self) -> Result<Option<Rows>, AnyFailure> {
        while self.left > 0 {
            let Some(mut rows) = self.stack.next().await? else {
                break;
            };
            rows.rows = self.choose(&rows.rows)?;
            if !rows.rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    fn choose(&mut self, rows: &RowBatch) -> Result<RowBatch, AnyFailure> {
        let mut chosen = RowBatch::default();
        let mut key = Vec::new();
        for row in rows.iter() {
            if self.left == 0 {
                break;
            }
            if let Some(wanted) = &self.wanted {
                wanted.encoder.encode(row, &mut key)?;
                match key.cmp(&wanted.key) {
                    Ordering::Equal => self.left = 1,
                    // Keys only ascend: it will not come any more.
                    Ordering::Greater if wanted.sorted => self.left = 0,
                    _ => {}
                }
                if key != wanted.key {
                    continue;
                }
            }
            chosen.push(row);
            self.left -= 1;
        }
        Ok(chosen)
    }
}
