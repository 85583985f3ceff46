//! Rows of a snapshot for a plan: scanned, chosen, and made whole again.
//!
//! What a plan found once is kept, so that planning again inside the writing transaction does not
//! wait for the storage. Invariant: rows are given out only after their chunk was compared with its
//! name, and a large cell only with its digest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::key;
use crate::failure::AnyFailure;
use crate::format::manifest::{Manifest, ManifestTable};
use crate::format::run::LargeCell;
use crate::id::Digest;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{self, KeyedStack, RelatedRows, Shelf, StackReader};
use crate::repo::value::{fetch_large, plain_text};
use crate::row::cell::{self, Cell, Cells, LargeClass};
use crate::row::closure::relation::{Relation, of_content_type};
use crate::row::filter::{Conditions, whole};
use crate::row::key::KeyEncoder;
use crate::row::schema::Table;

/// Where Django numbers its models.
const CONTENT_TYPES: &str = "django_content_type";
/// So many keys are looked up one by one; for more, the table is read.
const KEYS_LOOKED_UP: usize = 1_000;

/// What to do with a scanned row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is wanted.
    Keep,
    /// It is not.
    Pass,
    /// It is wanted, and nothing after it.
    Last,
}

/// A row that was asked for.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Its table, by position in the snapshot.
    pub table: usize,
    /// The row.
    pub row: Vec<u8>,
    /// Whether it was named by its key.
    pub by_key: bool,
}

/// Which end of a relation was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Rows that are referred to.
    Parent,
    /// Rows that refer.
    Child,
}

/// (end, edge, reference) by which rows were looked for.
pub type Sought = (Side, usize, Vec<u8>);

/// Rows of one snapshot.
pub struct SnapshotRows {
    reader: Arc<Reader>,
    manifest: Arc<Manifest>,
    cells: HashMap<Digest, LargeCell>,
    /// Relations that the rows themselves tell, once they were read.
    pub told: Option<Vec<Relation>>,
    /// What was chosen, once it was.
    pub chosen: Option<Vec<Chosen>>,
    /// What was found, by what it was sought by.
    pub found: HashMap<Sought, Vec<Vec<u8>>>,
}

impl SnapshotRows {
    /// The rows that `manifest` names.
    pub fn new(reader: Arc<Reader>, manifest: Arc<Manifest>) -> SnapshotRows {
        SnapshotRows {
            reader,
            manifest,
            cells: HashMap::new(),
            told: None,
            chosen: None,
            found: HashMap::new(),
        }
    }

    /// The tables.
    pub fn tables(&self) -> &[ManifestTable] {
        &self.manifest.tables
    }

    /// The position of the table that `text` names.
    ///
    /// # Errors
    /// Missing or Invalid, with the nearest names.
    pub fn table(&self, text: &str) -> Result<usize, AnyFailure> {
        let found = select::table(&self.manifest, text)?;
        let same = |table: &ManifestTable| table.table.name == found.table.name;
        Ok(self
            .manifest
            .tables
            .iter()
            .position(same)
            .unwrap_or_default())
    }

    /// What opens the chunks of the snapshot.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Begins to read those rows of a table that `conditions` fit; others may come too.
    ///
    /// # Errors
    /// The reader's.
    pub async fn open(
        &self,
        table: usize,
        conditions: &Arc<Conditions>,
    ) -> Result<StackReader, AnyFailure> {
        let (reader, table) = (self.reader.clone(), &self.manifest.tables[table]);
        Ok(match conditions.is_empty() {
            true => StackReader::open(reader, table).await?,
            false => StackReader::open_where(reader, table, conditions.clone()).await?,
        })
    }

    /// The rows of a table that have one of `keys`, by their keys.
    ///
    /// # Errors
    /// The reader's.
    pub async fn keyed(
        &mut self,
        table: usize,
        keys: &BTreeSet<Vec<u8>>,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, AnyFailure> {
        let manifest = self.manifest.clone();
        let mut shelf = Shelf::new(self.reader.clone());
        let stack = match keys.len() <= KEYS_LOOKED_UP {
            true => KeyedStack::open(&mut shelf, &manifest.tables[table]).await?,
            false => None,
        };
        let Some(stack) = stack else {
            return self.scan_for(table, keys).await;
        };
        let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let rows = stack.rows(&mut shelf, &wanted).await?;
        let mut found = BTreeMap::new();
        for (key, row) in keys.iter().zip(rows) {
            if let Some(row) = row {
                self.keep_cells(row.row(), &row.chunk.cells);
                found.insert(key.clone(), row.row().to_vec());
            }
        }
        Ok(found)
    }

    async fn scan_for(
        &mut self,
        table: usize,
        keys: &BTreeSet<Vec<u8>>,
    ) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, AnyFailure> {
        let mut found = BTreeMap::new();
        let Some(encoder) = KeyEncoder::new(&self.manifest.tables[table].table) else {
            return Ok(found);
        };
        let mut key = Vec::new();
        let mut take = |row: &[u8]| {
            encoder.encode(row, &mut key)?;
            if !keys.contains(&key) {
                return Ok(Take::Pass);
            }
            found.insert(key.clone(), row.to_vec());
            Ok(match found.len() == keys.len() {
                true => Take::Last,
                false => Take::Keep,
            })
        };
        self.scan(table, &mut take).await?;
        Ok(found)
    }

    /// Shows every row of a table to `take`.
    ///
    /// # Errors
    /// The reader's, and those of `take`.
    pub async fn scan(
        &mut self,
        table: usize,
        take: &mut (dyn FnMut(&[u8]) -> Result<Take, AnyFailure> + Send),
    ) -> Result<(), AnyFailure> {
        let table = &self.manifest.tables[table];
        let mut stack = StackReader::open(self.reader.clone(), table).await?;
        while let Some(rows) = stack.next().await? {
            for row in rows.rows.iter() {
                let taken = take(row)?;
                if taken == Take::Pass {
                    continue;
                }
                self.keep_cells(row, &rows.cells);
                if taken == Take::Last {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Shows those rows of a table to `take` that have one of `cells` in `column`; the filters of its
    /// chunks say which must be read.
    ///
    /// # Errors
    /// The reader's, and those of `take`.
    pub async fn related(
        &mut self,
        table: usize,
        column: usize,
        cells: HashSet<Vec<u8>>,
        take: &mut (dyn FnMut(&[u8]) -> Result<Take, AnyFailure> + Send),
    ) -> Result<(), AnyFailure> {
        let sought = table::Sought { column, cells };
        let of = &self.manifest.tables[table];
        let mut related = RelatedRows::open(self.reader.clone(), of, sought).await?;
        while let Some(rows) = related.next().await? {
            for row in rows.rows.iter() {
                if take(row)? != Take::Pass {
                    self.keep_cells(row, &rows.cells);
                }
            }
        }
        Ok(())
    }

    /// The relations that Django's table of content types tells; read once.
    ///
    /// # Errors
    /// The reader's.
    pub async fn content_types(&mut self) -> Result<Vec<Relation>, AnyFailure> {
        if let Some(told) = &self.told {
            return Ok(told.clone());
        }
        let tables: Vec<Table> = self.tables().iter().map(|one| one.table.clone()).collect();
        let mut told = Vec::new();
        for (at, table) in tables.iter().enumerate() {
            let names = ["id", "app_label", "model"].map(|name| table.column(name));
            let [Some(id), Some(app), Some(model)] = names else {
                continue;
            };
            if table.name.name != CONTENT_TYPES || !table.with_rows {
                continue;
            }
            let mut take = |row: &[u8]| {
                let cells = cell::cells(row, table.columns.len())?;
                let text = |at: usize| plain_text(&cells[at]).unwrap_or_default();
                let found = of_content_type(&tables, &text(id), &text(app), &text(model));
                told.extend(found);
                Ok(Take::Pass)
            };
            self.scan(at, &mut take).await?;
        }
        self.told = Some(told.clone());
        Ok(told)
    }

    /// Remembers where the large cells of a row lie.
    pub fn keep_cells(&mut self, row: &[u8], cells: &HashMap<Digest, LargeCell>) {
        for cell in Cells::new(row) {
            if let Ok(Cell::Large(large)) = cell
                && let Some(found) = cells.get(&large.digest)
            {
                self.cells.insert(large.digest, found.clone());
            }
        }
    }

    /// The cells of `values` with every large one in full.
    ///
    /// # Errors
    /// Corrupt: a large cell is not what its row says.
    pub async fn whole(&self, values: &[u8]) -> Result<Vec<u8>, AnyFailure> {
        let mut out = Vec::with_capacity(values.len());
        for cell in Cells::new(values) {
            match cell? {
                Cell::Large(large) => {
                    let bytes = fetch_large(&self.reader, large, &self.cells).await?;
                    whole(large.class, &bytes).push(&mut out);
                }
                cell => cell.push(&mut out),
            }
        }
        Ok(out)
    }

    /// Whether a cell of the snapshot and one of a live database are the same.
    pub fn same(&self, kept: &Cell<'_>, live: &Cell<'_>) -> bool {
        let (large, bytes) = match (kept, live) {
            (Cell::Large(large), Cell::Text(bytes)) if large.class == LargeClass::Text => {
                (large, bytes)
            }
            (Cell::Large(large), Cell::Blob(bytes)) if large.class == LargeClass::Blob => {
                (large, bytes)
            }
            _ => return kept == live,
        };
        let mut hasher = self.reader.vault().access.shared.cell_hasher();
        hasher.update(bytes);
        large.length == bytes.len() as u64 && key::digest(&hasher) == large.digest
    }
}
