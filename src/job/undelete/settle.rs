//! From a closure to changes: who comes back, in which order, and who is linked again.
//!
//! Invariant: a row that a foreign key ties to a row which neither lives nor comes back is never
//! written; it becomes a conflict of its own.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::failure::AnyFailure;
use crate::job::undelete::choose::{key_columns, picked};
use crate::job::undelete::plan::{Insert, Update};
use crate::job::undelete::planner::{Parent, Planner};
use crate::row::cell::{self, Cell};
use crate::row::closure::relation::Origin;
use crate::row::closure::{Standing, Why, is_nothing};
use crate::source::Change;

/// Makes the plan's changes from a complete closure.
///
/// # Errors
/// Corrupt: rows that are none; the database's.
pub async fn settle(planner: &mut Planner<'_>) -> Result<(), AnyFailure> {
    let coming = coming(planner)?;
    let order: Vec<usize> = planner.closure.in_order()?;
    let order: Vec<usize> = order
        .into_iter()
        .filter(|one| coming.contains(one))
        .collect();
    let mut written: HashSet<usize> = HashSet::new();
    let mut links: Vec<(usize, Vec<usize>)> = Vec::new();
    for member in order {
        match planner.closure.members()[member].standing {
            Some(Standing::SoftDeleted) => raise(planner, member)?,
            _ => {
                let waiting = insert(planner, member, &coming, &written)?;
                if !waiting.is_empty() {
                    links.push((member, waiting));
                }
            }
        }
        written.insert(member);
    }
    for (member, columns) in links {
        link_own(planner, member, &columns)?;
    }
    survivors(planner, &coming).await?;
    notes(planner);
    Ok(())
}

/// The members that come back, without those that cannot stand on what they refer to.
fn coming(planner: &mut Planner<'_>) -> Result<HashSet<usize>, AnyFailure> {
    let members = planner.closure.members();
    let mut coming: HashSet<usize> = (0..members.len())
        .filter(|&member| members[member].comes_back())
        .collect();
    loop {
        let mut fallen = Vec::new();
        for &member in &coming {
            if planner.closure.members()[member].standing == Some(Standing::Absent)
                && let Some(what) = without_parent(planner, member, &coming)?
            {
                fallen.push((member, what));
            }
        }
        if fallen.is_empty() {
            return Ok(coming);
        }
        for (member, what) in fallen {
            planner.conflict(member, &what)?;
            coming.remove(&member);
        }
    }
}

fn without_parent(
    planner: &mut Planner<'_>,
    member: usize,
    coming: &HashSet<usize>,
) -> Result<Option<String>, AnyFailure> {
    let table = planner.closure.members()[member].table;
    let edges: Vec<usize> = planner.closure.edges_from(table).collect();
    for edge in edges {
        let row = &planner.closure.members()[member].row;
        let Some(reference) = planner.closure.reference(edge, row)? else {
            continue;
        };
        let what = match planner.parents.get(&(edge, reference)) {
            None | Some(Parent::Lives) => continue,
            Some(&Parent::Member(parent)) => {
                let standing = planner.closure.members()[parent].standing;
                if coming.contains(&parent) || standing == Some(Standing::Equal) {
                    continue;
                }
                let (table, key) = (planner.table_name(parent), planner.key_text(parent)?);
                format!("it refers to {table} {key}, which does not come back")
            }
            Some(Parent::Nowhere) if in_partition(planner, (edge, member), coming)? => continue,
            Some(Parent::Nowhere) => {
                let relation = &planner.closure.edges()[edge].relation;
                let (columns, parent) = (relation.columns.join(", "), &relation.parent);
                format!(
                    "its {columns} refers to a row of {parent} that is neither live nor in the snapshot"
                )
            }
        };
        if matches!(
            planner.closure.edges()[edge].relation.origin,
            Origin::Declared(_)
        ) {
            return Ok(Some(what));
        }
        let (table, key) = (planner.table_name(member), planner.key_text(member)?);
        planner.notes.insert(format!("{table} {key}: {what}"));
    }
    Ok(None)
}

/// Whether what a member refers to by `edge` comes back as a row of a partition.
fn in_partition(
    planner: &Planner<'_>,
    (edge, member): (usize, usize),
    coming: &HashSet<usize>,
) -> Result<bool, AnyFailure> {
    let closure = &planner.closure;
    let (row, columns) = (
        &closure.members()[member].row,
        &closure.edges()[edge].columns,
    );
    for other in closure.edges_from(closure.edges()[edge].child) {
        let one = &closure.edges()[other];
        if !one.by_partition || one.columns != *columns {
            continue;
        }
        let reference = closure.reference(other, row)?;
        for &parent in coming {
            let named = &closure.members()[parent];
            if named.table == one.parent && closure.referred(other, &named.row)? == reference {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Plans an insertion, and gives the columns that must wait for rows that come later.
fn insert(
    planner: &mut Planner<'_>,
    member: usize,
    coming: &HashSet<usize>,
    written: &HashSet<usize>,
) -> Result<Vec<usize>, AnyFailure> {
    let one = planner.closure.members()[member].clone();
    let Ok(fit) = &planner.fits[one.table] else {
        return Ok(Vec::new());
    };
    let of = &planner.closure.tables()[one.table];
    let now = &planner.structure.tables[fit.live];
    let mut waiting: BTreeSet<usize> = BTreeSet::new();
    if planner.live.checks_references() {
        for edge in planner.closure.edges_from(one.table) {
            let Some(reference) = planner.closure.reference(edge, &one.row)? else {
                continue;
            };
            let relation = &planner.closure.edges()[edge];
            if let Some(&Parent::Member(parent)) = planner.parents.get(&(edge, reference))
                && parent != member
                && coming.contains(&parent)
                && !written.contains(&parent)
                && matches!(relation.relation.origin, Origin::Declared(_))
            {
                let may_wait = |at: &&usize| {
                    let live = fit.live_column(**at);
                    live.is_some_and(|live| now.columns[live].nullable)
                };
                waiting.extend(relation.columns.iter().filter(may_wait));
            }
        }
    }
    let cells = cell::cells(&one.row, of.columns.len())?;
    let mut values = Vec::new();
    let numbered = !planner.renumbered.contains(&member);
    let given = |pair: &&(usize, usize)| numbered || !of.columns[pair.0].hidden;
    for (kept, _) in fit.columns.iter().filter(given) {
        match waiting.contains(kept) {
            true => Cell::Null.push(&mut values),
            false => cells[*kept].push(&mut values),
        }
    }
    let key = picked(&one.row, &key_columns(of), of.columns.len())?;
    let table = fit.live;
    let given = fit.columns.iter().filter(given);
    let columns = given.map(|&(_, live)| live).collect();
    planner.plan.changes.push(Change::Insert {
        table,
        columns,
        values,
    });
    planner.plan.reverse.push(Change::Delete { table, key });
    let planned = Insert {
        table: planner.table_name(member),
        key: planner.key_text(member)?,
        why: planner.why(member)?,
    };
    planner.plan.insert.push(planned);
    Ok(waiting.into_iter().collect())
}

/// Gives an inserted row the references that had to wait.
fn link_own(planner: &mut Planner<'_>, member: usize, columns: &[usize]) -> Result<(), AnyFailure> {
    let one = planner.closure.members()[member].clone();
    let mut nothing = Vec::new();
    for _ in columns {
        Cell::Null.push(&mut nothing);
    }
    change(planner, (one.table, &one.row), columns, nothing)
}

/// Adds an update of some columns of a row to what the snapshot has; `before` is what they are now.
pub(super) fn change(
    planner: &mut Planner<'_>,
    (table, row): (usize, &[u8]),
    columns: &[usize],
    before: Vec<u8>,
) -> Result<(), AnyFailure> {
    let Ok(fit) = &planner.fits[table] else {
        return Ok(());
    };
    let of = &planner.closure.tables()[table];
    let count = of.columns.len();
    let live: Vec<usize> = columns
        .iter()
        .filter_map(|&at| fit.live_column(at))
        .collect();
    let key = picked(row, &key_columns(of), count)?;
    let update = |values| Change::Update {
        table: fit.live,
        columns: live.clone(),
        values,
        key: key.clone(),
    };
    let there = update(picked(row, columns, count)?);
    let back = update(before);
    planner.plan.changes.push(there);
    planner.plan.reverse.push(back);
    Ok(())
}

/// What a live row has in these columns of the snapshot.
pub(super) fn now(
    planner: &Planner<'_>,
    table: usize,
    columns: &[usize],
    live: &[u8],
) -> Result<Vec<u8>, AnyFailure> {
    let Ok(fit) = &planner.fits[table] else {
        return Ok(Vec::new());
    };
    let places: Vec<usize> = columns
        .iter()
        .filter_map(|&at| fit.live_column(at))
        .collect();
    let count = planner.structure.tables[fit.live].columns.len();
    Ok(picked(live, &places, count)?)
}

/// Takes the mark of deletion off a row.
fn raise(planner: &mut Planner<'_>, member: usize) -> Result<(), AnyFailure> {
    let one = planner.closure.members()[member].clone();
    let (Some((flag, _)), Some(live)) = (
        &planner.soft[one.table],
        planner.live_rows.get(&member).cloned(),
    ) else {
        return Ok(());
    };
    let columns = [*flag];
    if let Ok(fit) = planner.fits[one.table].clone() {
        let mut others = planner.differing((one.table, &one.row), &live, &fit)?;
        others.retain(|at| *at != columns[0]);
        if !others.is_empty() {
            let (table, key) = (planner.table_name(member), planner.key_text(member)?);
            let names = planner.names(one.table, &others);
            let note = format!(
                "{table} {key} was only marked as deleted; its {names} changed since and stays"
            );
            planner.notes.insert(note);
        }
    }
    let before = now(planner, one.table, &columns, &live)?;
    change(planner, (one.table, &one.row), &columns, before)?;
    planned_update(planner, member, &columns, planner.why(member)?)
}

fn planned_update(
    planner: &mut Planner<'_>,
    member: usize,
    columns: &[usize],
    why: String,
) -> Result<(), AnyFailure> {
    let of = &planner.closure.tables()[planner.closure.members()[member].table];
    let update = Update {
        table: of.name.to_string(),
        key: planner.key_text(member)?,
        columns: columns
            .iter()
            .map(|&at| of.columns[at].name.clone())
            .collect(),
        why,
    };
    planner.plan.update.push(update);
    Ok(())
}

/// Dependents that live stay as they are, but for references that were emptied with the deletion.
async fn survivors(planner: &mut Planner<'_>, coming: &HashSet<usize>) -> Result<(), AnyFailure> {
    let mut named: HashMap<(usize, Vec<u8>), usize> = HashMap::new();
    for (member, one) in planner.closure.members().iter().enumerate() {
        if !one.returns() || one.comes_back() && !coming.contains(&member) {
            continue;
        }
        for edge in planner.closure.edges_to(one.table) {
            if let Some(reference) = planner.closure.referred(edge, &one.row)? {
                named.insert((edge, reference), member);
            }
        }
    }
    let survived: Vec<usize> = (0..planner.closure.members().len())
        .filter(|&at| {
            let one = &planner.closure.members()[at];
            one.standing == Some(Standing::Different) && matches!(one.why, Why::LostWith { .. })
        })
        .collect();
    for member in survived {
        let one = planner.closure.members()[member].clone();
        let (Ok(fit), Some(live)) = (
            planner.fits[one.table].clone(),
            planner.live_rows.get(&member).cloned(),
        ) else {
            continue;
        };
        let columns = emptied(planner, member, &named)?;
        let mut rest = planner.differing((one.table, &one.row), &live, &fit)?;
        rest.retain(|at| !columns.contains(at));
        let (table, key) = (planner.table_name(member), planner.key_text(member)?);
        if !rest.is_empty() {
            let names = planner.names(one.table, &rest);
            let note =
                format!("{table} {key} survived and stays as it is; it has another {names} now");
            planner.notes.insert(note);
        }
        if columns.is_empty() {
            continue;
        }
        let mut against = planner.barred(fit.live);
        if against.is_none() {
            against = planner.taken(one.table, &one.row, Some(&columns)).await?;
        }
        if let Some(what) = against {
            planner.conflict(member, &what)?;
            continue;
        }
        let before = now(planner, one.table, &columns, &live)?;
        change(planner, (one.table, &one.row), &columns, before)?;
        let why = planner
            .why(member)?
            .replacen("lost with", "linked again to", 1);
        planned_update(planner, member, &columns, why)?;
    }
    Ok(())
}

/// The columns of a survivor that name nothing now and named a row that comes back.
fn emptied(
    planner: &Planner<'_>,
    member: usize,
    named: &HashMap<(usize, Vec<u8>), usize>,
) -> Result<Vec<usize>, AnyFailure> {
    let one = &planner.closure.members()[member];
    let (Ok(fit), Some(live)) = (&planner.fits[one.table], planner.live_rows.get(&member)) else {
        return Ok(Vec::new());
    };
    let of = &planner.closure.tables()[one.table];
    let was = cell::cells(&one.row, of.columns.len())?;
    let is = cell::cells(live, planner.structure.tables[fit.live].columns.len())?;
    let mut columns = BTreeSet::new();
    for edge in planner.closure.edges_from(one.table) {
        let Some(reference) = planner.closure.reference(edge, &one.row)? else {
            continue;
        };
        if !named.contains_key(&(edge, reference)) {
            continue;
        }
        let mut empty = Vec::new();
        let mut fits = true;
        let one = &planner.closure.edges()[edge];
        let convention = matches!(one.relation.origin, Origin::Convention(_));
        for &at in &one.columns {
            match fit.live_column(at).map(|live| &is[live]) {
                Some(Cell::Null) => empty.push(at),
                Some(cell) if convention && is_nothing(cell) => empty.push(at),
                // The rest of a composite reference must still be what it was.
                Some(cell) => fits &= planner.rows.same(&was[at], cell),
                None => fits = false,
            }
        }
        if fits {
            columns.extend(empty);
        }
    }
    Ok(columns.into_iter().collect())
}

fn notes(planner: &mut Planner<'_>) {
    let tables = planner.closure.tables();
    for &(child, parent) in planner.closure.uncovered() {
        let (child, parent) = (&tables[child].name, &tables[parent].name);
        let note = format!(
            "not covered: rows of {child} that referred to {parent}, because {child} has no key or no rows in the snapshot"
        );
        planner.notes.insert(note);
    }
    let written: BTreeSet<usize> = planner.plan.changes.iter().map(Change::table).collect();
    for table in written {
        let triggers = planner.live.triggers(table);
        if !triggers.is_empty() {
            let verb = match planner.live.fires_triggers() {
                true => "fire",
                false => "do not fire",
            };
            let name = &planner.structure.tables[table].name;
            let note = format!("triggers of {name} {verb}: {}", triggers.join(", "));
            planner.notes.insert(note);
        }
        let fits = planner.fits.iter().flatten();
        for fit in fits.filter(|fit| fit.live == table) {
            planner.notes.extend(fit.notes.iter().cloned());
        }
    }
}
