//! Writing a plan: statement by statement, and then the checks that no server made.
//!
//! Invariant: when `write` returns well, every reference of every written row leads to a row, and no
//! row was left behind that refers to a value which was changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::{AnyFailure, Class};
use crate::job::undelete::choose::{LOOKUP_ROWS, key_columns, picked};
use crate::job::undelete::plan::Plan;
use crate::repo::records::SnapshotRows;
use crate::row::cell::{self, Cell, Cells, RowBatch};
use crate::row::schema::{ForeignKey, Structure, Table};
use crate::source::{Change, Live, Lookup};

async fn whole(rows: &SnapshotRows, change: &Change) -> Result<Change, AnyFailure> {
    let mut change = change.clone();
    if let Change::Insert { values, .. } | Change::Update { values, .. } = &mut change {
        *values = rows.whole(values).await?;
    }
    Ok(change)
}

/// The statements that write a plan, and those that take it back.
///
/// # Errors
/// The reader's.
pub async fn render(
    rows: &SnapshotRows,
    live: &dyn Live,
    plan: &Plan,
) -> Result<(Vec<String>, Vec<String>), AnyFailure> {
    let tables: BTreeSet<usize> = plan.changes.iter().map(Change::table).collect();
    let tables: Vec<usize> = tables.into_iter().collect();
    let mut there = Vec::new();
    for change in &plan.changes {
        there.push(live.render(&whole(rows, change).await?));
    }
    let back = plan.reverse.iter().rev().map(|change| live.render(change));
    let framed = |statements: Vec<String>| {
        let (before, after) = live.frame(&tables);
        [before, statements, after].concat()
    };
    Ok((framed(there), framed(back.collect())))
}

/// Writes the plan into the transaction that `live` has begun, and checks it.
///
/// # Errors
/// Conflict: the server or a check refuses a row; the transaction can only be abandoned.
pub async fn write(
    rows: &SnapshotRows,
    live: &mut dyn Live,
    structure: &Structure,
    plan: &Plan,
) -> Result<(), AnyFailure> {
    for change in &plan.changes {
        live.write(&whole(rows, change).await?).await?;
    }
    if live.checks_references() {
        return Ok(());
    }
    check_parents(live, structure, plan).await?;
    check_children(live, structure, plan).await
}

fn key_of(change: &Change, table: &Table) -> Result<Vec<u8>, AnyFailure> {
    match change {
        Change::Update { key, .. } | Change::Delete { key, .. } => Ok(key.clone()),
        Change::Insert {
            columns, values, ..
        } => {
            let places: Option<Vec<usize>> = key_columns(table)
                .iter()
                .map(|at| columns.iter().position(|column| column == at))
                .collect();
            Ok(picked(values, &places.unwrap_or_default(), columns.len())?)
        }
    }
}

/// Every reference of a written row, as it stands now, must lead to a row.
async fn check_parents(
    live: &mut dyn Live,
    structure: &Structure,
    plan: &Plan,
) -> Result<(), AnyFailure> {
    let mut keys: BTreeMap<usize, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for change in &plan.changes {
        let table = change.table();
        if !structure.tables[table].foreign_keys.is_empty() {
            let key = key_of(change, &structure.tables[table])?;
            keys.entry(table).or_default().insert(key);
        }
    }
    for (at, keys) in keys {
        let table = &structure.tables[at];
        let columns = key_columns(table);
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        for part in keys.chunks(LOOKUP_ROWS) {
            let mut values = RowBatch::default();
            part.iter().for_each(|key| values.push(key));
            let lookup = Lookup {
                table: at,
                columns: &columns,
                values: &values,
            };
            let found = live.look_up(lookup).await?;
            let rows: Vec<&[u8]> = found.iter().map(|found| &found.row[..]).collect();
            for key in &table.foreign_keys {
                check_key(live, structure, (table, key), &rows).await?;
            }
        }
    }
    Ok(())
}

async fn check_key(
    live: &mut dyn Live,
    structure: &Structure,
    (table, key): (&Table, &ForeignKey),
    rows: &[&[u8]],
) -> Result<(), AnyFailure> {
    let own: Option<Vec<usize>> = key.columns.iter().map(|name| table.column(name)).collect();
    let parent = structure
        .tables
        .iter()
        .position(|one| one.name == key.parent);
    let (Some(own), Some(parent)) = (own, parent) else {
        return Ok(());
    };
    let names = key.parent_columns.iter();
    let columns: Option<Vec<usize>> = names
        .map(|name| structure.tables[parent].column(name))
        .collect();
    let Some(columns) = columns else {
        return Ok(());
    };
    let mut references = BTreeSet::new();
    for row in rows {
        let cells = cell::cells(row, table.columns.len())?;
        if own.iter().all(|&at| !matches!(cells[at], Cell::Null)) {
            references.insert(picked(row, &own, table.columns.len())?);
        }
    }
    if references.is_empty() {
        return Ok(());
    }
    let mut values = RowBatch::default();
    references
        .iter()
        .for_each(|reference| values.push(reference));
    let lookup = Lookup {
        table: parent,
        columns: &columns,
        values: &values,
    };
    let found: BTreeSet<usize> = live
        .look_up(lookup)
        .await?
        .iter()
        .map(|one| one.asked)
        .collect();
    if found.len() == values.len() {
        return Ok(());
    }
    let what = format!(
        "a row of {} would refer by {} to a row of {} that is not there",
        table.name,
        key.columns.join(", "),
        key.parent
    );
    Err(refused(what))
}

/// A value that was changed must not have been what other rows refer to.
async fn check_children(
    live: &mut dyn Live,
    structure: &Structure,
    plan: &Plan,
) -> Result<(), AnyFailure> {
    for back in &plan.reverse {
        let Change::Update {
            table,
            columns,
            values,
            ..
        } = back
        else {
            continue;
        };
        let parent = &structure.tables[*table];
        for child in 0..structure.tables.len() {
            for key in &structure.tables[child].foreign_keys {
                let places: Option<Vec<usize>> = key
                    .parent_columns
                    .iter()
                    .map(|name| {
                        let at = parent.column(name)?;
                        columns.iter().position(|column| *column == at)
                    })
                    .collect();
                let own = key
                    .columns
                    .iter()
                    .map(|name| structure.tables[child].column(name));
                let own: Option<Vec<usize>> = own.collect();
                let (Some(places), Some(own)) = (places, own) else {
                    continue;
                };
                if key.parent != parent.name {
                    continue;
                }
                let old = picked(values, &places, columns.len())?;
                if Cells::new(&old).any(|cell| matches!(cell, Ok(Cell::Null))) {
                    continue;
                }
                let mut asked = RowBatch::default();
                asked.push(&old);
                let lookup = Lookup {
                    table: child,
                    columns: &own,
                    values: &asked,
                };
                if !live.look_up(lookup).await?.is_empty() {
                    let name = &structure.tables[child].name;
                    let columns = key.columns.join(", ");
                    return Err(refused(format!(
                        "rows of {name} refer by {columns} to the value of {} that would be put back",
                        parent.name
                    )));
                }
            }
        }
    }
    Ok(())
}

fn refused(what: String) -> AnyFailure {
    AnyFailure::new(
        Class::Conflict,
        what,
        Some("nothing was written; bring those rows back first, or leave the row out".into()),
    )
}
