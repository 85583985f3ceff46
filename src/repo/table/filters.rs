//! Filters that a run carries: over its keys, and over columns of relations chunk by chunk.
//!
//! They let a reader who looks for one record, or for what refers to it, pass over what cannot hold
//! it. Invariant: a filter is over everything that it stands for, or it is not written at all.

use crate::format::filter::{self, Filter, Hashes, coded};
use crate::format::run::{ColumnFilter, RunChunk};
use crate::repo::vault::Vault;
use crate::row::cell::{Cell, Cells, RowBatch};
use crate::row::schema::{Structure, Table};

/// A run of more keys than this has no filter over them: its description must stay small, and so
/// must what is held until it is written.
const KEYS_MAX: usize = 1 << 19;

/// Collects the keys of a run.
#[derive(Default)]
pub(super) struct KeyFilter {
    hashes: Vec<[u8; 16]>,
    left_out: bool,
}

impl KeyFilter {
    pub(super) fn push(&mut self, vault: &Vault, key: &[u8]) {
        if self.left_out {
            return;
        }
        if self.hashes.len() < KEYS_MAX {
            self.hashes.push(vault.access.shared.key_filter_hash(key));
        } else {
            self.left_out = true;
            self.hashes = Vec::new();
        }
    }

    /// The filter's bytes; none where there are no keys, or too many.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        let whole = !self.left_out && !self.hashes.is_empty();
        whole.then(|| filter::write(&self.hashes))
    }
}

/// The columns of `table` that relations name on either side, but for those that the order of its
/// rows finds as well: by position, ascending.
pub fn relation_columns(structure: &Structure, table: &Table) -> Vec<u32> {
    let own = table.foreign_keys.iter().flat_map(|key| &key.columns);
    let others = structure
        .tables
        .iter()
        .flat_map(|other| &other.foreign_keys);
    let others = others.filter(|key| key.parent == table.name);
    let named = own.chain(others.flat_map(|key| &key.parent_columns));
    let leading = table.key.as_ref().and_then(|key| key.columns.first());
    let leading = leading.map(|(column, _)| *column);
    let positions = named.filter_map(|name| table.column(name));
    let mut columns: Vec<u32> = positions
        .filter(|column| Some(*column) != leading)
        .map(|column| column as u32)
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// Values that came lately, so that one that comes again is not hashed again.
struct Seen<'a>([&'a [u8]; SEEN_SLOTS]);

const SEEN_SLOTS: usize = 128;

impl<'a> Seen<'a> {
    fn new() -> Seen<'a> {
        Seen([&[]; SEEN_SLOTS])
    }

    /// Whether `cell`, canonical bytes, has to be hashed.
    fn is_new(&mut self, cell: &'a [u8]) -> bool {
        let mut word = [0; 8];
        let last = &cell[cell.len() - cell.len().min(8)..];
        word[..last.len()].copy_from_slice(last);
        let spread = u64::from_le_bytes(word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let slot = &mut self.0[spread as usize % SEEN_SLOTS];
        let known = *slot == cell;
        *slot = cell;
        !known
    }
}

/// Filters over `columns` of `rows`.
pub(super) fn column_filters(vault: &Vault, columns: &[u32], rows: &RowBatch) -> Vec<ColumnFilter> {
    if columns.is_empty() || rows.is_empty() {
        return Vec::new();
    }
    let mut hashes: Vec<Vec<[u8; 16]>> = vec![Vec::new(); columns.len()];
    let mut seen: Vec<Seen<'_>> = columns.iter().map(|_| Seen::new()).collect();
    let shared = &vault.access.shared;
    for row in rows.iter() {
        let mut cells = Cells::new(row);
        let mut position = 0;
        for (at, column) in columns.iter().enumerate() {
            // Rows were checked when they came; a large cell is no reference to anything.
            cells.pass((*column - position) as usize);
            let before = cells.rest();
            let Some(Ok(cell)) = cells.next() else { break };
            position = *column + 1;
            if matches!(cell, Cell::Null) {
                continue;
            }
            let bytes = &before[..before.len() - cells.rest().len()];
            if seen[at].is_new(bytes) {
                hashes[at].push(shared.value_filter_hash(*column, bytes));
            }
        }
    }
    let written = columns.iter().zip(hashes).map(|(column, mut hashes)| {
        hashes.sort_unstable();
        hashes.dedup();
        ColumnFilter {
            column: *column,
            bits: coded::write(&hashes),
        }
    });
    written.collect()
}

/// Values that are looked for in one column, as its filters know them.
pub struct ColumnValues {
    column: u32,
    hashes: Hashes,
}

impl ColumnValues {
    /// The canonical bytes of cells, none of which is NULL, of the column at `column`.
    pub fn new<'a>(
        vault: &Vault,
        column: usize,
        cells: impl Iterator<Item = &'a Vec<u8>>,
    ) -> ColumnValues {
        let column = column as u32;
        let shared = &vault.access.shared;
        let hashes = Hashes::new(cells.map(|cell| shared.value_filter_hash(column, cell)));
        ColumnValues { column, hashes }
    }

    /// Whether `chunk` may hold a row with one of them. Without a filter that can be read, it may.
    pub fn may_be_in(&self, chunk: &RunChunk) -> bool {
        let mut filters = chunk.filters.iter();
        let filter = filters.find(|filter| filter.column == self.column);
        let filter = filter.and_then(|filter| Filter::read(&filter.bits).ok());
        filter.is_none_or(|filter| filter.may_contain_any(&self.hashes))
    }
}
