//! Columns that were overwritten, put back: all that differ, or only the damage of one time.
//!
//! With a later snapshot it is a three-way comparison: what changed between the two is damage, what
//! changed after the later one is work that stays, and a column that changed in both is a conflict.
//! Invariant: a column that does not differ from the snapshot is never written.

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::AnyFailure;
use crate::job::undelete::choose::{LOOKUP_ROWS, key_columns, picked};
use crate::job::undelete::fit::Fit;
use crate::job::undelete::plan::{Conflict, Update};
use crate::job::undelete::planner::Planner;
use crate::job::undelete::settle::{change, now};
use crate::repo::records::{Chosen, SnapshotRows};
use crate::repo::value::preview;
use crate::row::cell::{self, RowBatch};
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::Table;
use crate::source::Lookup;

/// How much of a value a conflict shows.
const SHOWN_LETTERS: usize = 30;

/// Rows of the later snapshot by their key, and where each column of the earlier one is in them.
struct Later {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    columns: Vec<Option<usize>>,
    count: usize,
}

/// Plans what is put back; rows that are gone and were asked for by key are inserted.
///
/// # Errors
/// The repository's and the database's.
pub async fn plan(
    planner: &mut Planner<'_>,
    chosen: &[Chosen],
    later: &mut Option<SnapshotRows>,
) -> Result<(), AnyFailure> {
    let mut tables: BTreeMap<usize, Vec<&Chosen>> = BTreeMap::new();
    for one in chosen {
        tables.entry(one.table).or_default().push(one);
    }
    for (table, chosen) in tables {
        let of = planner.closure.tables()[table].clone();
        let fit = match &planner.fits[table] {
            Ok(fit) => fit.clone(),
            Err(what) => {
                let conflict = Conflict {
                    table: of.name.to_string(),
                    key: "*".into(),
                    what: format!("table: {what}"),
                };
                planner.conflicts.insert(conflict);
                continue;
            }
        };
        let later = match later {
            Some(rows) => Some(read_later(rows, &of, &chosen).await?),
            None => None,
        };
        let mut gone = 0;
        for part in chosen.chunks(LOOKUP_ROWS) {
            gone += put_back(planner, part, &fit, later.as_ref()).await?;
        }
        if gone > 0 {
            let note = format!(
                "table {}: {gone} of these rows are gone from the live database; --missing brings them back",
                of.name
            );
            planner.notes.insert(note);
        }
    }
    Ok(())
}

async fn read_later(
    rows: &mut SnapshotRows,
    of: &Table,
    chosen: &[&Chosen],
) -> Result<Later, AnyFailure> {
    let table = rows.table(&of.name.to_string())?;
    let then = rows.tables()[table].table.clone();
    let mut wanted = BTreeSet::new();
    let mut key = Vec::new();
    let (Some(own), Some(_)) = (KeyEncoder::new(of), KeyEncoder::new(&then)) else {
        return Ok(Later {
            rows: BTreeMap::new(),
            columns: Vec::new(),
            count: 0,
        });
    };
    for one in chosen {
        own.encode(&one.row, &mut key)?;
        wanted.insert(key.clone());
    }
    let found = rows.keyed(table, &wanted).await?;
    let columns = of.columns.iter().map(|column| then.column(&column.name));
    Ok(Later {
        rows: found,
        columns: columns.collect(),
        count: then.columns.len(),
    })
}

/// Plans some rows of one table, and says how many are gone that were not asked for by key.
async fn put_back(
    planner: &mut Planner<'_>,
    part: &[&Chosen],
    fit: &Fit,
    later: Option<&Later>,
) -> Result<usize, AnyFailure> {
    let Some(table) = part.first().map(|one| one.table) else {
        return Ok(0);
    };
    let of = planner.closure.tables()[table].clone();
    let mut values = RowBatch::default();
    for one in part {
        values.push(&picked(&one.row, &key_columns(&of), of.columns.len())?);
    }
    let lookup = Lookup {
        table: fit.live,
        columns: &fit.key,
        values: &values,
    };
    let mut there: Vec<Option<Vec<u8>>> = vec![None; part.len()];
    for found in planner.live.look_up(lookup).await? {
        there[found.asked] = Some(found.row);
    }
    let mut gone = 0;
    for (one, live) in part.iter().zip(there) {
        match live {
            Some(live) => row(planner, (table, &one.row), &live, (fit, later)).await?,
            None if one.by_key => planner.closure.ask_for(table, &one.row)?,
            None => gone += 1,
        }
    }
    Ok(gone)
}

async fn row(
    planner: &mut Planner<'_>,
    (table, kept): (usize, &[u8]),
    live: &[u8],
    (fit, later): (&Fit, Option<&Later>),
) -> Result<(), AnyFailure> {
    let of = planner.closure.tables()[table].clone();
    let mut canonical = Vec::new();
    if let Some(encoder) = KeyEncoder::new(&of) {
        encoder.encode(kept, &mut canonical)?;
    }
    let key = key::text(&of, &canonical)?;
    let conflict = |what: String| Conflict {
        table: of.name.to_string(),
        key: key.clone(),
        what,
    };
    let mut columns = planner.differing((table, kept), live, fit)?;
    if let Some(later) = later {
        let found = damaged(
            planner,
            (&of, kept),
            (live, fit),
            (later, &canonical),
            columns,
        )?;
        columns = found.0;
        planner.conflicts.extend(found.1.into_iter().map(conflict));
    }
    columns.retain(|at| !key_columns(&of).contains(at));
    if columns.is_empty() {
        return Ok(());
    }
    let mut against = planner.barred(fit.live);
    if against.is_none() {
        against = planner.taken(table, kept, Some(&columns)).await?;
    }
    if against.is_none() {
        against = parent_gone(planner, (table, kept), &columns, fit).await?;
    }
    if let Some(what) = against {
        planner.conflicts.insert(conflict(what));
        return Ok(());
    }
    let before = now(planner, table, &columns, live)?;
    change(planner, (table, kept), &columns, before)?;
    planner.plan.update.push(Update {
        table: of.name.to_string(),
        key,
        columns: columns
            .iter()
            .map(|&at| of.columns[at].name.clone())
            .collect(),
        why: "overwritten".into(),
    });
    Ok(())
}

/// Of the columns that differ, those that are damage; and what speaks against others.
fn damaged(
    planner: &Planner<'_>,
    (of, kept): (&Table, &[u8]),
    (live, fit): (&[u8], &Fit),
    (later, key): (&Later, &[u8]),
    differing: Vec<usize>,
) -> Result<(Vec<usize>, Vec<String>), AnyFailure> {
    let (mut columns, mut against) = (Vec::new(), Vec::new());
    let Some(then) = later.rows.get(key) else {
        if !differing.is_empty() {
            let what = "it was gone in the later snapshot, and is there again with other values";
            against.push(what.to_owned());
        }
        return Ok((columns, against));
    };
    let was = cell::cells(kept, of.columns.len())?;
    let then = cell::cells(then, later.count)?;
    let is = cell::cells(live, planner.structure.tables[fit.live].columns.len())?;
    for at in differing {
        let (Some(damaged), Some(place)) = (later.columns[at], fit.live_column(at)) else {
            continue;
        };
        if was[at] == then[damaged] {
            // It changed after the later snapshot only: somebody's work, which stays.
            continue;
        }
        if planner.rows.same(&then[damaged], &is[place]) {
            columns.push(at);
            continue;
        }
        against.push(format!(
            "column {} was {}, became {}, and was edited since: {}",
            of.columns[at].name,
            preview(&was[at], SHOWN_LETTERS),
            preview(&then[damaged], SHOWN_LETTERS),
            preview(&is[place], SHOWN_LETTERS)
        ));
    }
    Ok((columns, against))
}

/// Which reference would lead nowhere if these columns were put back, as a sentence.
async fn parent_gone(
    planner: &mut Planner<'_>,
    (table, kept): (usize, &[u8]),
    columns: &[usize],
    fit: &Fit,
) -> Result<Option<String>, AnyFailure> {
    let live = &planner.structure.tables[fit.live];
    let of = &planner.closure.tables()[table];
    let cells = cell::cells(kept, of.columns.len())?;
    for foreign in &live.foreign_keys {
        let own: Option<Vec<usize>> = foreign.columns.iter().map(|name| of.column(name)).collect();
        let tables = &planner.structure.tables;
        let parent = tables.iter().position(|one| one.name == foreign.parent);
        let (Some(own), Some(parent)) = (own, parent) else {
            continue;
        };
        let names = foreign.parent_columns.iter();
        let places: Option<Vec<usize>> = names.map(|name| tables[parent].column(name)).collect();
        let touched = own.iter().any(|at| columns.contains(at));
        let whole = own.iter().all(|&at| !matches!(cells[at], cell::Cell::Null));
        let Some(places) = places.filter(|_| touched && whole) else {
            continue;
        };
        let mut values = RowBatch::default();
        values.push(&picked(kept, &own, of.columns.len())?);
        let lookup = Lookup {
            table: parent,
            columns: &places,
            values: &values,
        };
        if planner.live.look_up(lookup).await?.is_empty() {
            let columns = foreign.columns.join(", ");
            let what = format!(
                "its {columns} would refer to a row of {} that is gone",
                foreign.parent
            );
            return Ok(Some(what));
        }
    }
    Ok(None)
}
