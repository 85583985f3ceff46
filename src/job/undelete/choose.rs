//! Which rows of a snapshot are asked for.
//!
//! By key, by the values of columns, or all that are gone from the live database. Invariant: a key
//! that was named and is not in the snapshot is an error, never an empty plan.

use std::collections::HashSet;

use crate::failure::{AnyFailure, Class};
use crate::job::undelete::fit::Fit;
use crate::job::undelete::request::Choice;
use crate::job::undelete::rows::{Chosen, SnapshotRows, Take};
use crate::row::cell::{self, RowBatch};
use crate::row::filter::{Conditions, Verdict};
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;
use crate::source::{Live, Lookup};

/// How many rows are looked up at a time.
pub const LOOKUP_ROWS: usize = 500;

/// A choice that was understood.
struct Wanted {
    table: usize,
    keys: Option<HashSet<Vec<u8>>>,
    conditions: Conditions,
    missing: bool,
}

fn wanted(rows: &SnapshotRows, choice: &Choice, table: usize) -> Result<Wanted, AnyFailure> {
    let of = &rows.tables()[table].table;
    let keys: Result<HashSet<Vec<u8>>, key::Error> = choice
        .keys
        .iter()
        .map(|text| key::parse(of, text))
        .collect();
    Ok(Wanted {
        table,
        keys: Some(keys?).filter(|keys| !keys.is_empty()),
        conditions: Conditions::parse(of, &choice.conditions)?,
        missing: choice.missing,
    })
}

/// Whether a row fits; a large cell that cannot be judged here does not.
fn holds(conditions: &Conditions, table: &Table, row: &[u8]) -> Result<bool, AnyFailure> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let cells = cell::cells(row, table.columns.len())?;
    Ok(conditions.judge(|at| cells[at]) == Verdict::Yes)
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
    let encoder = KeyEncoder::new(&of).ok_or_else(|| key::Error::Keyless {
        table: of.name.to_string(),
    })?;
    match &wanted.keys {
        Some(keys) => by_key(rows, &wanted, keys, (&of, &encoder)).await,
        None if wanted.missing => missing(rows, live, fit, &wanted).await,
        None => by_value(rows, &wanted, &of).await,
    }
}

async fn by_key(
    rows: &mut SnapshotRows,
    wanted: &Wanted,
    keys: &HashSet<Vec<u8>>,
    (table, encoder): (&Table, &KeyEncoder),
) -> Result<Vec<Chosen>, AnyFailure> {
    let mut left = keys.clone();
    let mut chosen = Vec::new();
    let mut key = Vec::new();
    let mut take = |row: &[u8]| {
        encoder.encode(row, &mut key)?;
        if !left.remove(&key) {
            return Ok(Take::Pass);
        }
        chosen.push(Chosen {
            table: wanted.table,
            row: row.to_vec(),
            by_key: true,
        });
        Ok(match left.is_empty() {
            true => Take::Last,
            false => Take::Keep,
        })
    };
    rows.scan(wanted.table, &mut take).await?;
    match left.iter().min() {
        None => Ok(chosen),
        Some(key) => Err(AnyFailure::new(
            Class::Missing,
            format!(
                "the snapshot has no row {} in table {}",
                key::text(table, key)?,
                table.name
            ),
            Some("'rowvault history' says which snapshots have it".into()),
        )),
    }
}

async fn by_value(
    rows: &mut SnapshotRows,
    wanted: &Wanted,
    table: &Table,
) -> Result<Vec<Chosen>, AnyFailure> {
    let mut chosen = Vec::new();
    let mut take = |row: &[u8]| {
        if !holds(&wanted.conditions, table, row)? {
            return Ok(Take::Pass);
        }
        chosen.push(Chosen {
            table: wanted.table,
            row: row.to_vec(),
            by_key: false,
        });
        Ok(Take::Keep)
    };
    rows.scan(wanted.table, &mut take).await?;
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
    let mut stack = rows.open(wanted.table).await?;
    let mut chosen = Vec::new();
    while let Some(some) = stack.next().await? {
        let mut batch = Vec::new();
        for row in some.rows.iter() {
            if holds(&wanted.conditions, &table, row)? {
                batch.push(row);
            }
        }
        for part in batch.chunks(LOOKUP_ROWS) {
            let mut values = RowBatch::default();
            for row in part {
                values.push(&picked(row, &key, table.columns.len())?);
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
