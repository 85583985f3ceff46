//! Which tables stand against each other, and by what their rows are compared.
//!
//! Columns that one side alone has are named and left out of the comparison. Invariant: rows are
//! compared by key only where both sides have the same key, by the same columns in the same form.

use crate::format::manifest::{ManifestTable, StoredOrder};
use crate::row::cell::{self, Cells};
use crate::row::schema::{Column, Key, Table};

/// How two states of a table are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Row by row, by key.
    ByKey,
    /// How often each row is there.
    AsWholeRows,
    /// Not at all: of one side at least only the structure is there.
    NotAtAll,
    /// There is nothing on the other side.
    OneSide,
}

/// One side of a table.
#[derive(Clone, Debug)]
pub enum SideTable {
    /// In a snapshot.
    Stored(Box<ManifestTable>),
    /// In a database as it is now.
    Live(Box<Table>),
}

impl SideTable {
    /// What the table looks like.
    pub fn table(&self) -> &Table {
        match self {
            SideTable::Stored(stored) => &stored.table,
            SideTable::Live(table) => table,
        }
    }

    /// Its key, where its rows come in the key's order.
    fn key(&self) -> Option<&Key> {
        let keyed = match self {
            SideTable::Stored(stored) => stored.order == StoredOrder::Key,
            SideTable::Live(_) => true,
        };
        self.table().key.as_ref().filter(|_| keyed)
    }
}

/// A table of one side or both.
#[derive(Clone, Debug)]
pub struct Pairing {
    /// Its name, as `show` prints it.
    pub name: String,
    /// As it was; none where it was not there.
    pub before: Option<SideTable>,
    /// As it is; none where it is not there.
    pub after: Option<SideTable>,
    /// How its rows are compared.
    pub compared: Compared,
    /// Columns that only the later side has.
    pub columns_added: Vec<String>,
    /// Columns that only the earlier side has.
    pub columns_removed: Vec<String>,
    /// Columns of both whose type is another.
    pub columns_changed: Vec<String>,
    /// Whether the key is another.
    pub key_changed: bool,
    /// Where the columns that both have stand in each side; none where both are the same.
    pub(super) shared: Option<[Vec<usize>; 2]>,
}

fn shown(column: &&Column) -> bool {
    !column.hidden
}

/// Names and forms of a key's columns: what must be the same for keys to be comparable.
fn form(side: &SideTable) -> Option<Vec<(String, String)>> {
    let (key, table) = (side.key()?, side.table());
    let column = |&(position, order): &(usize, _)| {
        let column = table.columns.get(position)?;
        Some((column.name.clone(), format!("{order:?}")))
    };
    key.columns.iter().map(column).collect()
}

impl Pairing {
    /// Two sides of a table; one at least is there.
    pub(super) fn new(before: Option<SideTable>, after: Option<SideTable>) -> Pairing {
        let either = before.as_ref().or(after.as_ref());
        let mut pairing = Pairing {
            name: either.map_or_else(String::new, |side| side.table().name.to_string()),
            before: None,
            after: None,
            compared: Compared::OneSide,
            columns_added: Vec::new(),
            columns_removed: Vec::new(),
            columns_changed: Vec::new(),
            key_changed: false,
            shared: None,
        };
        if let (Some(before), Some(after)) = (&before, &after) {
            pairing.pair(before, after);
        } else if either.is_some_and(|side| !side.table().with_rows) {
            pairing.compared = Compared::NotAtAll;
        }
        pairing.before = before;
        pairing.after = after;
        pairing
    }

    fn pair(&mut self, before: &SideTable, after: &SideTable) {
        let (old, new) = (before.table(), after.table());
        let lacks = |table: &Table, other: &Table| -> Vec<String> {
            let columns = table.columns.iter().filter(shown);
            let names = columns.map(|column| column.name.clone());
            names.filter(|name| other.column(name).is_none()).collect()
        };
        self.columns_removed = lacks(old, new);
        self.columns_added = lacks(new, old);
        let mut shared = [Vec::new(), Vec::new()];
        for (at, column) in old.columns.iter().enumerate() {
            let Some(there) = new.column(&column.name) else {
                continue;
            };
            shared[0].push(at);
            shared[1].push(there);
            if column.type_name != new.columns[there].type_name {
                self.columns_changed.push(column.name.clone());
            }
        }
        let all = |side: &[usize], table: &Table| side.iter().copied().eq(0..table.columns.len());
        let same = all(&shared[0], old) && all(&shared[1], new);
        let (old_form, new_form) = (form(before), form(after));
        self.key_changed = key_names(old) != key_names(new);
        self.compared = match old_form.is_some() && old_form == new_form {
            _ if !old.with_rows || !new.with_rows => Compared::NotAtAll,
            true => Compared::ByKey,
            false => Compared::AsWholeRows,
        };
        self.shared = (!same).then_some(shared);
    }

    /// Whether both sides have the same columns in the same order.
    pub(super) fn same_columns(&self) -> bool {
        self.shared.is_none()
    }
}

fn key_names(table: &Table) -> Option<Vec<&str>> {
    let key = table.key.as_ref()?;
    let name = |&(position, _): &(usize, _)| {
        let column = table.columns.get(position);
        column.map_or("", |column| column.name.as_str())
    };
    Some(key.columns.iter().map(name).collect())
}

/// Writes the cells at `positions` of `row` to `out`, whose old content goes.
pub(super) fn project(
    row: &[u8],
    positions: &[usize],
    out: &mut Vec<u8>,
) -> Result<(), cell::Error> {
    let cells: Vec<cell::Cell<'_>> = Cells::new(row).collect::<Result<_, _>>()?;
    out.clear();
    for &position in positions {
        let cell = cells.get(position).ok_or(cell::Error::Count {
            found: cells.len(),
            columns: position + 1,
        })?;
        cell.push(out);
    }
    Ok(())
}
