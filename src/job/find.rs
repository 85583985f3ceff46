//! Finds records in a snapshot: by key, by conditions on their columns, or the first of a table.
//!
//! A key costs one small read for each run of the table; conditions are judged on the columns that
//! they name, and only chunks that hold a fitting row are read whole. Invariant: rows are given
//! out only after their chunk has been compared with its name.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{KeyedStack, Rows, Shelf, StackReader};
use crate::repo::value::fits;
use crate::row::cell::RowBatch;
use crate::row::filter::Conditions;
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;

/// Which records.
#[derive(Clone, Debug)]
pub struct Request {
    /// The table, as a person names it.
    pub table: String,
    /// A key, as a person writes it; none for every row.
    pub key: Option<String>,
    /// Conditions that all hold, as a person writes them.
    pub conditions: Vec<String>,
    /// How many rows at most.
    pub limit: u64,
}

struct Wanted {
    encoder: KeyEncoder,
    key: Vec<u8>,
}

/// Where rows come from.
enum Rest {
    /// All that a key gave.
    Found(Option<Rows>),
    /// The table, read through; with a key where its rows do not lie in the key's order.
    Scan(Box<StackReader>, Option<Wanted>),
}

/// A search under way.
pub struct Finder {
    table: Table,
    reader: Arc<Reader>,
    rest: Rest,
    conditions: Arc<Conditions>,
    left: u64,
}

/// Begins a search.
///
/// # Errors
/// Denied with a writer's key; Missing or Invalid for a table, a key or a condition that cannot be
/// meant; the storage's.
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
    let conditions = Arc::new(Conditions::parse(&table, &request.conditions)?);
    let key = request.key.as_ref().map(|text| key::parse(&table, text));
    let key = key.transpose()?;
    let reader = opened.record_reader().await?;
    let rest = match key {
        Some(key) if found.order == StoredOrder::Key => {
            Rest::Found(by_key(&reader, found, &key).await?)
        }
        key => {
            opened.progress.stage("looking", Some(found.bytes_raw));
            let stack = match (&key, conditions.is_empty()) {
                (None, false) => {
                    let conditions = conditions.clone();
                    StackReader::open_where(reader.clone(), found, conditions).await?
                }
                _ => StackReader::open(reader.clone(), found).await?,
            };
            let wanted = key.zip(KeyEncoder::new(&table));
            let wanted = wanted.map(|(key, encoder)| Wanted { encoder, key });
            Rest::Scan(Box::new(stack), wanted)
        }
    };
    Ok(Finder {
        table,
        reader,
        rest,
        conditions,
        left: request.limit,
    })
}

async fn by_key(
    reader: &Arc<Reader>,
    table: &ManifestTable,
    key: &[u8],
) -> Result<Option<Rows>, AnyFailure> {
    let mut shelf = Shelf::new(reader.clone());
    let Some(stack) = KeyedStack::open(&mut shelf, table).await? else {
        return Ok(None);
    };
    let found = stack.rows(&mut shelf, &[key]).await?;
    Ok(found.into_iter().flatten().next().map(|found| {
        let mut rows = RowBatch::default();
        rows.push(found.row());
        Rows {
            rows,
            cells: found.chunk.cells.clone(),
        }
    }))
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
            let rows = match &mut self.rest {
                Rest::Found(rows) => rows.take(),
                Rest::Scan(stack, _) => stack.next().await?,
            };
            let Some(mut rows) = rows else {
                break;
            };
            rows.rows = self.choose(&rows).await?;
            if !rows.rows.is_empty() {
                return Ok(Some(rows));
            }
        }
        Ok(None)
    }

    async fn choose(&mut self, rows: &Rows) -> Result<RowBatch, AnyFailure> {
        let mut chosen = RowBatch::default();
        let mut key = Vec::new();
        for row in rows.rows.iter() {
            if self.left == 0 {
                break;
            }
            if let Rest::Scan(_, Some(wanted)) = &self.rest {
                wanted.encoder.encode(row, &mut key)?;
                if key.cmp(&wanted.key) != Ordering::Equal {
                    continue;
                }
                self.left = 1;
            }
            let row_of = (row, self.table.columns.len());
            if fits(&self.reader, &self.conditions, row_of, &rows.cells).await? {
                chosen.push(row);
                self.left -= 1;
            }
        }
        Ok(chosen)
    }
}
