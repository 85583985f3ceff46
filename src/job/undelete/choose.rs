//! Which rows of a snapshot are asked for.
//!
//! By key, by the values of columns, or all that are gone from the live database. Invariant: a key
//! that was named and is not in the snapshot is an error, never an empty plan.

use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::job::undelete::fit::Fit;
use crate::job::undelete::request::Choice;
use crate::repo::records::{Chosen, SnapshotRows};
use crate::repo::value::fits;
use crate::row::cell::{self, RowBatch};
use crate::row::filter::Conditions;
use crate::row::schema::Table;
use crate::source::{Live, Lookup};

/// How many rows are looked up at a time.
pub const LOOKUP_ROWS: usize = 500;

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
    rows.may_choose(table)?;
    let of = &rows.tables()[table].table;
    let conditions = Arc::new(Conditions::parse(of, &choice.conditions)?);
    match choice.keys.is_empty() {
        false => rows.named(table, &choice.keys).await,
        true if choice.missing => missing(rows, live, fit, (table, &conditions)).await,
        true => rows.fitting(table, &conditions).await,
    }
}

/// Rows that the live database has no more, a batch at a time.
async fn missing(
    rows: &mut SnapshotRows,
    live: &mut dyn Live,
    fit: Result<&Fit, &String>,
    (at, conditions): (usize, &Arc<Conditions>),
) -> Result<Vec<Chosen>, AnyFailure> {
    let table = rows.tables()[at].table.clone();
    let fit = fit.map_err(|what| {
        let what = format!("table {}: {what}", table.name);
        AnyFailure::new(Class::Conflict, what, None)
    })?;
    let key: Vec<usize> = key_columns(&table);
    let count = table.columns.len();
    let mut stack = rows.open(at, conditions).await?;
    let mut chosen = Vec::new();
    while let Some(some) = stack.next().await? {
        let mut batch = Vec::new();
        for row in some.rows.iter() {
            if fits(rows.reader(), conditions, (row, count), &some.cells).await? {
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
                        table: at,
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
