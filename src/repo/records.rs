//! Records of a snapshot: rows that are asked for, those that they refer to, those that refer to them.
//!
//! What was found once is kept, so that a plan which is made again inside a writing transaction does
//! not wait for the storage. Invariant: rows are given out only after their chunk was compared with
//! its name, and a large cell only with its digest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::crypto;
use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::format::run::LargeCell;
use crate::id::Digest;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::{self, KeyedStack, RelatedRows, Shelf, StackReader};
use crate::repo::value::{fetch_large, fits, plain_text};
use crate::row::cell::{self, Cell, Cells, LargeClass};
use crate::row::closure::Closure;
use crate::row::closure::relation::{Relation, of_content_type, same_cells};
use crate::row::filter::{Conditions, whole};
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::{Engine, Table};

/// Where Django numbers its models.
const CONTENT_TYPES: &str = "django_content_type";
/// So many keys are looked up one by one; for more, the table is read.
const KEYS_LOOKED_UP: usize = 1_000;
/// Up to so many values are looked for by the filters of chunks; for more, the table is read.
const EXACT_CELLS_MAX: usize = 16_384;

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

/// Rows that were found, by what they were sought by.
type Found = HashMap<Sought, Vec<Vec<u8>>>;

/// A column, and cells by their canonical bytes; none where those do not tell.
type ExactCells = (usize, Option<Vec<Vec<u8>>>);

/// For each column that is compared in a row that is sought, every cell that it can have there; none
/// where equal values may have other bytes.
fn exact_cells(
    closure: &Closure,
    (side, edge): (Side, usize),
    member: usize,
) -> Result<Vec<ExactCells>, AnyFailure> {
    let edge = &closure.edges()[edge];
    let child = (edge.child, &edge.columns);
    let parent = (edge.parent, &edge.parent_columns);
    let (own, theirs) = match side {
        Side::Parent => (child, parent),
        Side::Child => (parent, child),
    };
    let tables = closure.tables();
    let cells = cell::cells(&closure.members()[member].row, tables[own.0].columns.len())?;
    let exact = own.1.iter().zip(theirs.1).map(|(&own_at, &at)| {
        let columns = (
            &tables[own.0].columns[own_at],
            &tables[theirs.0].columns[at],
        );
        let cells = same_cells(closure.engine(), columns.0, columns.1, &cells[own_at]);
        (at, cells)
    });
    Ok(exact.collect())
}

/// Values by column; none for a column that says nothing.
type Way = BTreeMap<usize, Option<HashSet<Vec<u8>>>>;

/// What to look for to find the rows that `ends` lead to; none where the table must be read.
fn ways(
    closure: &Closure,
    ends: &BTreeSet<(Side, usize)>,
    sought: &BTreeMap<Sought, usize>,
    fresh: &HashSet<Sought>,
) -> Result<Option<table::Sought>, AnyFailure> {
    let mut ways: BTreeMap<(Side, usize), Way> = BTreeMap::new();
    for (key, &member) in sought.iter().filter(|(key, _)| fresh.contains(*key)) {
        let end = (key.0, key.1);
        if !ends.contains(&end) {
            continue;
        }
        let way = ways.entry(end).or_default();
        for (column, exact) in exact_cells(closure, end, member)? {
            let cells = way.entry(column).or_insert_with(|| Some(HashSet::new()));
            *cells = cells.take().zip(exact).map(|(mut cells, exact)| {
                cells.extend(exact);
                cells
            });
        }
    }
    let mut all = Vec::new();
    for way in ways.into_values() {
        let exact = way.into_iter().filter_map(|(column, cells)| {
            let cells = cells.filter(|cells| cells.len() <= EXACT_CELLS_MAX)?;
            Some(table::SoughtColumn { column, cells })
        });
        let way: Vec<_> = exact.collect();
        if way.is_empty() {
            return Ok(None);
        }
        all.push(way);
    }
    Ok(Some(table::Sought(all)))
}

/// Rows of one snapshot.
pub struct SnapshotRows {
    shelf: Shelf,
    manifest: Arc<Manifest>,
    cells: HashMap<Digest, LargeCell>,
    /// Relations that the rows themselves tell, once they were read.
    pub told: Option<Vec<Relation>>,
    /// What was chosen, once it was.
    pub chosen: Option<Vec<Chosen>>,
    /// What was found, by what it was sought by.
    found: Found,
}

impl SnapshotRows {
    /// The rows that `manifest` names.
    pub fn new(reader: Arc<Reader>, manifest: Arc<Manifest>) -> SnapshotRows {
        SnapshotRows {
            shelf: Shelf::new(reader),
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

    /// The engine of the snapshot.
    pub fn engine(&self) -> Engine {
        self.manifest.engine
    }

    /// Where the large cells of the rows that were found lie.
    pub fn cells(&self) -> &HashMap<Digest, LargeCell> {
        &self.cells
    }

    /// What opens the chunks of the snapshot.
    pub fn reader(&self) -> &Reader {
        self.shelf.reader()
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
        let (reader, table) = (self.shelf.reader().clone(), &self.manifest.tables[table]);
        Ok(match conditions.is_empty() {
            true => StackReader::open(reader, table).await?,
            false => StackReader::open_where(reader, table, conditions.clone()).await?,
        })
    }

    /// Whether rows of a table can be asked for at all.
    ///
    /// # Errors
    /// Missing: only its structure was captured. Invalid: its rows have no key.
    pub fn may_choose(&self, table: usize) -> Result<(), AnyFailure> {
        let of = &self.tables()[table].table;
        if !of.with_rows {
            let what = format!("of table {} only the structure was captured", of.name);
            return Err(AnyFailure::new(Class::Missing, what, None));
        }
        if KeyEncoder::new(of).is_none() {
            let table = of.name.to_string();
            return Err(key::Error::Keyless { table }.into());
        }
        Ok(())
    }

    /// The rows that `keys` name, as a person writes them.
    ///
    /// # Errors
    /// Missing: a key that the snapshot does not have. Invalid: a text that is no key.
    pub async fn named(
        &mut self,
        table: usize,
        keys: &[String],
    ) -> Result<Vec<Chosen>, AnyFailure> {
        let of = self.tables()[table].table.clone();
        let keys: Result<BTreeSet<Vec<u8>>, key::Error> =
            keys.iter().map(|text| key::parse(&of, text)).collect();
        let keys = keys?;
        let found = self.keyed(table, &keys).await?;
        if let Some(key) = keys.iter().find(|key| !found.contains_key(*key)) {
            return Err(AnyFailure::new(
                Class::Missing,
                format!(
                    "the snapshot has no row {} in table {}",
                    key::text(&of, key)?,
                    of.name
                ),
                Some("'rowvault history' says which snapshots have it".into()),
            ));
        }
        let chosen = found.into_values().map(|row| Chosen {
            table,
            row,
            by_key: true,
        });
        Ok(chosen.collect())
    }

    /// The rows that all of `conditions` fit.
    ///
    /// # Errors
    /// The reader's.
    pub async fn fitting(
        &mut self,
        table: usize,
        conditions: &Arc<Conditions>,
    ) -> Result<Vec<Chosen>, AnyFailure> {
        let count = self.tables()[table].table.columns.len();
        let mut stack = self.open(table, conditions).await?;
        let mut chosen = Vec::new();
        while let Some(some) = stack.next().await? {
            for row in some.rows.iter() {
                if fits(self.shelf.reader(), conditions, (row, count), &some.cells).await? {
                    self.keep_cells(row, &some.cells);
                    chosen.push(Chosen {
                        table,
                        row: row.to_vec(),
                        by_key: false,
                    });
                }
            }
        }
        Ok(chosen)
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
        let stack = match keys.len() <= KEYS_LOOKED_UP {
            true => KeyedStack::open(&mut self.shelf, &manifest.tables[table]).await?,
            false => None,
        };
        let Some(stack) = stack else {
            return self.scan_for(table, keys).await;
        };
        let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let rows = stack.rows(&mut self.shelf, &wanted).await?;
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
        let mut stack = StackReader::open(self.shelf.reader().clone(), table).await?;
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

    /// Shows those rows of a table to `take` that are sought; the order of its keys and the filters of
    /// its chunks say which must be read.
    ///
    /// # Errors
    /// The reader's, and those of `take`.
    pub async fn related(
        &mut self,
        table: usize,
        sought: table::Sought,
        take: &mut (dyn FnMut(&[u8]) -> Result<Take, AnyFailure> + Send),
    ) -> Result<(), AnyFailure> {
        let of = &self.manifest.tables[table];
        let mut related = RelatedRows::open(&mut self.shelf, of, sought).await?;
        while let Some(rows) = related.next(&mut self.shelf).await? {
            for row in rows.rows.iter() {
                if take(row)? != Take::Pass {
                    self.keep_cells(row, &rows.cells);
                }
            }
        }
        Ok(())
    }

    /// Looks for rows, each table once, and tells the closure; gives the parents that were found, by
    /// the edge and the reference that led to them.
    ///
    /// # Errors
    /// The reader's, and the closure's.
    pub async fn follow(
        &mut self,
        closure: &mut Closure,
        sought: BTreeMap<Sought, usize>,
    ) -> Result<Vec<((usize, Vec<u8>), usize)>, AnyFailure> {
        self.seek(closure, &sought).await?;
        let mut parents = Vec::new();
        for ((side, edge, reference), member) in sought {
            let key = (side, edge, reference);
            for row in self.found.get(&key).into_iter().flatten() {
                match side {
                    Side::Child => closure.dependent_is(edge, member, row)?,
                    Side::Parent => {
                        let parent = closure.parent_is(edge, member, row)?;
                        parents.push(((edge, key.2.clone()), parent));
                    }
                }
            }
        }
        Ok(parents)
    }

    async fn seek(
        &mut self,
        closure: &Closure,
        sought: &BTreeMap<Sought, usize>,
    ) -> Result<(), AnyFailure> {
        let mut tables: BTreeMap<usize, BTreeSet<(Side, usize)>> = BTreeMap::new();
        let fresh: HashSet<Sought> = sought
            .keys()
            .filter(|key| !self.found.contains_key(*key))
            .cloned()
            .collect();
        for key in &fresh {
            let edge = &closure.edges()[key.1];
            let table = match key.0 {
                Side::Parent => edge.parent,
                Side::Child => edge.child,
            };
            tables.entry(table).or_default().insert((key.0, key.1));
        }
        let mut found = Found::new();
        for (table, ends) in tables {
            self.seek_in(closure, (table, &ends), (sought, &fresh), &mut found)
                .await?;
        }
        for key in fresh {
            let rows = found.remove(&key).unwrap_or_default();
            self.found.insert(key, rows);
        }
        Ok(())
    }

    /// Looks for rows in one table.
    async fn seek_in(
        &mut self,
        closure: &Closure,
        (table, ends): (usize, &BTreeSet<(Side, usize)>),
        (sought, fresh): (&BTreeMap<Sought, usize>, &HashSet<Sought>),
        found: &mut Found,
    ) -> Result<(), AnyFailure> {
        if !closure.tables()[table].with_rows {
            return Ok(());
        }
        let ways = ways(closure, ends, sought, fresh)?;
        let mut take = |row: &[u8]| {
            let mut taken = Take::Pass;
            for &(side, edge) in ends {
                let reference = match side {
                    Side::Parent => closure.referred(edge, row)?,
                    Side::Child => closure.reference(edge, row)?,
                };
                let Some(reference) = reference else { continue };
                let key = (side, edge, reference);
                let rows = match fresh.contains(&key) {
                    true => found.entry(key).or_default(),
                    false => continue,
                };
                // One row may be met by several columns.
                if !rows.iter().any(|other| other == row) {
                    rows.push(row.to_vec());
                }
                taken = Take::Keep;
            }
            Ok(taken)
        };
        match ways {
            Some(ways) => self.related(table, ways, &mut take).await,
            None => self.scan(table, &mut take).await,
        }
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
                    let bytes = fetch_large(self.shelf.reader(), large, &self.cells).await?;
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
        let mut hasher = self.shelf.vault().access.shared.cell_hasher();
        hasher.update(bytes);
        large.length == bytes.len() as u64 && crypto::key::digest(&hasher) == large.digest
    }
}
