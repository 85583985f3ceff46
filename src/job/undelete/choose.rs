//! Which rows of a snapshot are asked for.
//!
//! By key, by the values of columns, or all that are gone from the live database. Invariant: a key
//! that was named and is not in the snapshot is an error, never an empty plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::job::undelete::fit::Fit;
use crate::job::undelete::request::Choice;
use crate::job::undelete::rows::{Chosen, SnapshotRows};
use crate::repo::value::fits;
use crate::row::cell::{self, RowBatch};
use crate::row::filter::Conditions;
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;
use crate::source::{Live, Lookup};

/// How many rows are looked up at a time.
pub const LOOKUP_ROWS: usize = 500;

/// A choice that was understood.
struct Wanted {
    table: usize,
    keys: Option<BTreeSet<Vec<u8>>>,
    conditions: Arc<Conditions>,
    missing: bool,
}

fn wanted(rows: &SnapshotRows, choice: &Choice, table: usize) -> Result<Wanted, AnyFailure> {
    let of = &rows.tables()[table].table;
    let keys: Result<BTreeSet<Vec<u8>>, key::Error> = choice
        .keys
        .iter()
        .map(|text| key::parse(of, text))
        .collect();
    Ok(Wanted {
        table,
        keys: Some(keys?).filter(|keys| !keys.is_empty()),
        conditions: Arc::new(Conditions::parse(of, &choice.conditions)?),
        missing: choice.missing,
    })
}

/// The rows of `choice`, which is about `table` of the snapshot.
///
/// # Errors
/// Missing: a key that the snapshot does not have. Invalid: no key, no column, no value.
pub async fn choose(
    rows: &mut SnapshotRows,
    live: &mut dyn Live,
    fit: Result<&Fit, &String>,
    (choice, table): (&Choice, usize),
) -> Result<Vec<Chosen>, AnyFailure> {
    let wanted = wanted(rows, choice, table)?;
    let of = rows.tables()[table].table.clone();
    if !of.with_rows {
        let what = format!("of table {} only the structure was captured", of.name);
        return Err(AnyFailure::new(Class::Missing, what, None));
    }
    if KeyEncoder::new(&of).is_none() {
        let table = of.name.to_string();
        return Err(key::Error::Keyless { table }.into());
    }
    match &wanted.keys {
        Some(keys) => by_key(rows, &wanted, keys, &of).await,
        None if wanted.missing => missing(rows, live, fit, &wanted).await,
        None => by_value(rows, &wanted, &of).await,
    }
}

async fn by_key(
    rows: &mut SnapshotRows,
    wanted: &Wanted,
    keys: &BTreeSet<Vec<u8>>,
    table: &Table,
) -> Result<Vec<Chosen>, AnyFailure> {
    let found = rows.keyed(wanted.table, keys).await?;
    if let Some(key) = keys.iter().find(|key| !found.contains_key(*key)) {
        return Err(AnyFailure::new(
            Class::Missing,
            format!(
                "the snapshot has no row {} in table {}",
                key::text(table, key)?,
                table.name
            ),
            Some("'rowvault history' says which snapshots have it".into()),
        ));
    }
    let chosen = found.into_values().map(|row| Chosen {
        table: wanted.table,
        row,
        by_key: true,
    });
    Ok(chosen.collect())
}

async fn by_value(
    rows: &mut SnapshotRows,
    wanted: &Wanted,
    table: &Table,
) -> Result<Vec<Chosen>, AnyFailure> {
    let count = table.columns.len();
    let mut stack = rows.open(wanted.table, &wanted.conditions).await?;
    let mut chosen = Vec::new();
    while let Some(some) = stack.next().await? {
        for row in some.rows.iter() {
            if fits(rows.reader(), &wanted.conditions, (row, count), &some.cells).await? {
                rows.keep_cells(row, &some.cells);
                chosen.push(Chosen {
                    table: wanted.table,
                    row: row.to_vec(),
                    by_key: false,
                });
            }
        }
    }
    Ok(chosen)
}

/// Rows that the live database has no more, a batch at a time.
async fn missing(
    rows: &mut SnapshotRows,
    live: &mut dyn Live,
    fit: Result<&Fit, &String>,
    wanted: &Wanted,
) -> Result<Vec<Chosen>, AnyFailure> {
    let table = rows.tables()[wanted.table].table.clone();
    let fit = fit.map_err(|what| {
        let what = format!("table {}: {what}", table.name);
        AnyFailure::new(Class::Conflict, what, None)
    })?;
    let key: Vec<usize> = key_columns(&table);
    let count = table.columns.len();
    let mut stack = rows.open(wanted.table, &wanted.conditions).await?;
    let mut chosen = Vec::new();
    while let Some(some) = stack.next().await? {
        let mut batch = Vec::new();
        for row in some.rows.iter() {
            if fits(rows.reader(), &wanted.conditions, (row, count), &some.cells).await? {
                batch.push(row);
            }
        }
        for part in batch.chunks(LOOKUP_ROWS) {
            let mut values = RowBatch::default();
            for row in part {
                values.push(&picked(row, &key, count)?);
            }
            let lookup = Lookup {
                table: fit.live,
                columns: &fit.key,
                values: &values,
            };
            let mut there = vec![false; part.len()];
            for found in live.look_up(lookup).await? {
                there[found.asked] = true;
            }
            for (row, there) in part.iter().zip(there) {
                if !there {
                    rows.keep_cells(row, &some.cells);
                    chosen.push(Chosen {
                        table: wanted.table,
                        row: row.to_vec(),
                        by_key: false,
                    });
                }
            }
        }
    }
    Ok(chosen)
}

/// Positions of the columns of a table's key.
pub fn key_columns(table: &Table) -> Vec<usize> {
    let key = table.key.iter().flat_map(|key| &key.columns);
    key.map(|&(position, _)| position).collect()
}

/// Some cells of a row, in the order of `columns`.
///
/// # Errors
/// Corrupt: bytes that are no row of `count` cells.
pub fn picked(row: &[u8], columns: &[usize], count: usize) -> Result<Vec<u8>, cell::Error> {
    let cells = cell::cells(row, count)?;
    let mut out = Vec::new();
    for &column in columns {
        cells[column].push(&mut out);
    }
    Ok(out)
}
