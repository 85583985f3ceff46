//! Making a plan: looking rows up in the snapshot and in the live database.
//!
//! The planner answers the closure's questions from the snapshot and the live database, both of
//! which it only reads. Invariant: a row is planned only when it was looked up in this transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::failure::AnyFailure;
use crate::job::undelete::choose::{LOOKUP_ROWS, choose, key_columns, picked};
use crate::job::undelete::fit::{Fit, fit};
use crate::job::undelete::plan::{Conflict, Plan};
use crate::job::undelete::request::Request;
use crate::repo::records::{Chosen, Side, SnapshotRows, Sought};
use crate::row::cell::{self, Cell, RowBatch};
use crate::row::closure::relation::SoftDeletion;
use crate::row::closure::{Closure, Member, Question, Standing, Why};
use crate::row::key;
use crate::row::schema::Structure;
use crate::source::{Live, Lookup};

/// What a reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// A live row.
    Lives,
    /// A member of the closure.
    Member(usize),
    /// Nothing, neither live nor in the snapshot.
    Nowhere,
}

/// Makes a plan.
pub struct Planner<'a> {
    pub(super) rows: &'a mut SnapshotRows,
    pub(super) live: &'a mut dyn Live,
    pub(super) structure: &'a Structure,
    pub(super) request: &'a Request,
    pub(super) closure: Closure,
    pub(super) fits: Vec<Result<Fit, String>>,
    pub(super) soft: Vec<Option<(usize, SoftDeletion)>>,
    pub(super) live_rows: HashMap<usize, Vec<u8>>,
    pub(super) parents: HashMap<(usize, Vec<u8>), Parent>,
    /// Members whose hidden row number another row has now: they get a new one.
    pub(super) renumbered: HashSet<usize>,
    pub(super) conflicts: BTreeSet<Conflict>,
    pub(super) notes: BTreeSet<String>,
    pub(super) plan: Plan,
}

impl<'a> Planner<'a> {
    /// A planner for the live database of this structure, in the transaction that `live` has begun.
    pub fn new(
        rows: &'a mut SnapshotRows,
        live: &'a mut dyn Live,
        structure: &'a Structure,
        request: &'a Request,
    ) -> Planner<'a> {
        let tables: Vec<_> = rows.tables().iter().map(|one| one.table.clone()).collect();
        let mut relations = request.relations.among(&tables);
        relations.extend(rows.told.iter().flatten().cloned());
        let soft = tables.iter().map(|table| {
            let flags = request.relations.soft.iter();
            let mut fitting = flags.filter(|flag| flag.table == table.name);
            let flag = fitting.find_map(|flag| Some((table.column(&flag.column)?, flag)));
            flag.map(|(column, flag)| (column, flag.clone()))
        });
        Planner {
            fits: tables.iter().map(|table| fit(table, structure)).collect(),
            soft: soft.collect(),
            closure: Closure::new(structure.engine, tables, &relations, request.dependents),
            rows,
            live,
            structure,
            request,
            live_rows: HashMap::new(),
            parents: HashMap::new(),
            renumbered: HashSet::new(),
            conflicts: BTreeSet::new(),
            notes: BTreeSet::new(),
            plan: Plan::default(),
        }
    }

    /// Brings rows in, as asked for.
    ///
    /// # Errors
    /// Invalid: a table without a key, or too many rows.
    pub fn ask_for(&mut self, chosen: &[Chosen]) -> Result<(), AnyFailure> {
        for one in chosen {
            self.closure.ask_for(one.table, &one.row)?;
        }
        Ok(())
    }

    /// Answers the closure's questions until it has none.
    ///
    /// # Errors
    /// The repository's and the database's.
    pub async fn close(&mut self) -> Result<(), AnyFailure> {
        loop {
            let questions = self.closure.questions();
            if questions.is_empty() {
                return Ok(());
            }
            self.answer(&questions).await?;
        }
    }

    /// The plan as it came to be.
    pub fn done(mut self) -> Plan {
        self.plan.conflicts = self.conflicts.into_iter().collect();
        self.plan.notes = self.notes.into_iter().collect();
        self.plan
    }

    /// The rows that were asked for.
    ///
    /// # Errors
    /// Missing or Invalid for what cannot be asked for; the repository's and the database's.
    pub async fn chosen(&mut self) -> Result<Vec<Chosen>, AnyFailure> {
        if let Some(chosen) = &self.rows.chosen {
            return Ok(chosen.clone());
        }
        let mut all = Vec::new();
        for choice in &self.request.choices {
            let table = self.rows.table(&choice.table)?;
            let fit = self.fits[table].as_ref();
            let chosen = choose(self.rows, self.live, fit, (choice, table)).await?;
            if chosen.is_empty() {
                let note = format!("table {}: no row was found to bring back", choice.table);
                self.notes.insert(note);
            }
            all.extend(chosen);
        }
        self.rows.chosen = Some(all.clone());
        Ok(all)
    }

    async fn answer(&mut self, questions: &[Question]) -> Result<(), AnyFailure> {
        let mut standing: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut up: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut down: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for question in questions {
            let (by, at, member) = match *question {
                Question::Standing(member) => {
                    (&mut standing, self.closure.members()[member].table, member)
                }
                Question::Parent { edge, child } => (&mut up, edge, child),
                Question::Dependents { edge, parent } => (&mut down, edge, parent),
            };
            by.entry(at).or_default().push(member);
        }
        for (table, members) in standing {
            for members in members.chunks(LOOKUP_ROWS) {
                self.standing(table, members).await?;
            }
        }
        let mut sought = BTreeMap::new();
        for (edge, children) in up {
            for children in children.chunks(LOOKUP_ROWS) {
                self.live_parents(edge, children, &mut sought).await?;
            }
        }
        for (edge, parents) in down {
            for parent in parents {
                let row = &self.closure.members()[parent].row;
                if let Some(reference) = self.closure.referred(edge, row)? {
                    sought.insert((Side::Child, edge, reference), parent);
                }
            }
        }
        let parents = self.rows.follow(&mut self.closure, sought).await?;
        let found = |(place, member)| (place, Parent::Member(member));
        self.parents.extend(parents.into_iter().map(found));
        Ok(())
    }

    /// Says of members of one table how they stand.
    async fn standing(&mut self, table: usize, members: &[usize]) -> Result<(), AnyFailure> {
        let fit = match &self.fits[table] {
            Ok(fit) => fit.clone(),
            Err(what) => {
                let what = format!("table: {what}");
                for &member in members {
                    self.conflict(member, &what)?;
                    self.closure.stands(member, Standing::Barred)?;
                }
                return Ok(());
            }
        };
        let of = self.closure.tables()[table].clone();
        let key = key_columns(&of);
        let mut values = RowBatch::default();
        for &member in members {
            let row = &self.closure.members()[member].row;
            values.push(&picked(row, &key, of.columns.len())?);
        }
        let lookup = Lookup {
            table: fit.live,
            columns: &fit.key,
            values: &values,
        };
        let mut there: Vec<Option<Vec<u8>>> = vec![None; members.len()];
        for found in self.live.look_up(lookup).await? {
            there[found.asked] = Some(found.row);
        }
        for (&member, live) in members.iter().zip(there) {
            let standing = match live {
                None => self.absent(member, &fit).await?,
                Some(live) => {
                    let standing = self.compare(member, &live, &fit)?;
                    self.live_rows.insert(member, live);
                    standing
                }
            };
            self.closure.stands(member, standing)?;
        }
        Ok(())
    }

    /// A row that is not there: whether it may be put there.
    async fn absent(&mut self, member: usize, fit: &Fit) -> Result<Standing, AnyFailure> {
        let Member { table, row, .. } = self.closure.members()[member].clone();
        let mut against = self.barred(fit.live);
        if against.is_none() {
            against = self.taken(table, &row, None).await?;
        }
        match against {
            Some(what) => {
                self.conflict(member, &what)?;
                Ok(Standing::Barred)
            }
            None => {
                self.renumber((member, table), &row, fit).await?;
                Ok(Standing::Absent)
            }
        }
    }

    /// A row number that nobody sees, and that is no key, is no reason to refuse a row: where another
    /// row has it now, the server gives a new one.
    async fn renumber(
        &mut self,
        (member, table): (usize, usize),
        row: &[u8],
        fit: &Fit,
    ) -> Result<(), AnyFailure> {
        let of = &self.closure.tables()[table];
        let key = key_columns(of);
        let hidden = |pair: &&(usize, usize)| of.columns[pair.0].hidden && !key.contains(&pair.0);
        let Some(&(was, is)) = fit.columns.iter().find(hidden) else {
            return Ok(());
        };
        let mut values = RowBatch::default();
        values.push(&picked(row, &[was], of.columns.len())?);
        let lookup = Lookup {
            table: fit.live,
            columns: &[is],
            values: &values,
        };
        if !self.live.look_up(lookup).await?.is_empty() {
            self.renumbered.insert(member);
        }
        Ok(())
    }

    /// Why a live table may not be written: its engine, or triggers that cannot be held.
    pub(super) fn barred(&self, live: usize) -> Option<String> {
        if let Some(what) = self.live.bars(live) {
            return Some(what);
        }
        let triggers = self.live.triggers(live);
        let fire = self.live.fires_triggers() && !triggers.is_empty();
        (fire && !self.request.with_triggers).then(|| {
            let names = triggers.join(", ");
            format!("its table has triggers that would fire: {names}; --with-triggers lets them")
        })
    }

    /// What other live row has a value that must be unique, as a sentence. Where `changed` names
    /// columns of the snapshot, only sets with one of them count.
    pub(super) async fn taken(
        &mut self,
        table: usize,
        row: &[u8],
        changed: Option<&[usize]>,
    ) -> Result<Option<String>, AnyFailure> {
        let Ok(fit) = &self.fits[table] else {
            return Ok(None);
        };
        let now = &self.structure.tables[fit.live];
        let of = &self.closure.tables()[table];
        let cells = cell::cells(row, of.columns.len())?;
        for set in &now.unique {
            let live: Option<Vec<usize>> = set.iter().map(|name| now.column(name)).collect();
            let Some(live) = live.filter(|live| !live.is_empty() && *live != fit.key) else {
                continue;
            };
            let kept: Option<Vec<usize>> = live.iter().map(|&at| fit.kept_column(at)).collect();
            let Some(kept) = kept else { continue };
            let whole = |at: &usize| !matches!(cells[*at], Cell::Null | Cell::Large(_));
            let touched = changed.is_none_or(|changed| kept.iter().any(|at| changed.contains(at)));
            if !touched || !kept.iter().all(whole) {
                continue;
            }
            let mut values = RowBatch::default();
            values.push(&picked(row, &kept, of.columns.len())?);
            let lookup = Lookup {
                table: fit.live,
                columns: &live,
                values: &values,
            };
            let own = picked(row, &key_columns(of), of.columns.len())?;
            for found in self.live.look_up(lookup).await? {
                let key = picked(&found.row, &fit.key, now.columns.len())?;
                if key != own {
                    let mut canonical = Vec::new();
                    if let Some(encoder) = key::KeyEncoder::new(now) {
                        encoder.encode(&found.row, &mut canonical)?;
                    }
                    let other = key::text(now, &canonical)?;
                    let what = format!("its {} is used by row {other} now", set.join(", "));
                    return Ok(Some(what));
                }
            }
        }
        Ok(None)
    }

    fn compare(&mut self, member: usize, live: &[u8], fit: &Fit) -> Result<Standing, AnyFailure> {
        let Member { table, row, .. } = &self.closure.members()[member];
        let table = *table;
        let differing = self.differing((table, row), live, fit)?;
        if differing.is_empty() {
            return Ok(Standing::Equal);
        }
        if let Some((column, flag)) = &self.soft[table]
            && differing.contains(column)
            && let Some(at) = fit.live_column(*column)
        {
            let now = cell::cells(live, self.structure.tables[fit.live].columns.len())?;
            let of = &self.closure.tables()[table];
            let was = cell::cells(&self.closure.members()[member].row, of.columns.len())?;
            if flag.is_deleted(&now[at]) && !flag.is_deleted(&was[*column]) {
                return Ok(Standing::SoftDeleted);
            }
        }
        if self.closure.members()[member].why == Why::Asked {
            let names = self.names(table, &differing);
            let what = format!("it is there, with another {names} than in the snapshot");
            self.conflict(member, &what)?;
        }
        Ok(Standing::Different)
    }

    /// Positions in the snapshot of the columns in which a row and the live one differ.
    pub(super) fn differing(
        &self,
        (table, row): (usize, &[u8]),
        live: &[u8],
        fit: &Fit,
    ) -> Result<Vec<usize>, AnyFailure> {
        let kept = cell::cells(row, self.closure.tables()[table].columns.len())?;
        let now = cell::cells(live, self.structure.tables[fit.live].columns.len())?;
        let differs = |&&(was, is): &&(usize, usize)| !self.rows.same(&kept[was], &now[is]);
        Ok(fit
            .columns
            .iter()
            .filter(differs)
            .map(|&(was, _)| was)
            .collect())
    }

    pub(super) fn names(&self, table: usize, columns: &[usize]) -> String {
        let of = &self.closure.tables()[table];
        let names: Vec<&str> = columns
            .iter()
            .map(|&at| of.columns[at].name.as_str())
            .collect();
        names.join(", ")
    }

    /// Asks the live database for the rows that members refer to; those that it does not have are
    /// to be sought in the snapshot.
    async fn live_parents(
        &mut self,
        edge: usize,
        children: &[usize],
        sought: &mut BTreeMap<Sought, usize>,
    ) -> Result<(), AnyFailure> {
        let relation = self.closure.edges()[edge].clone();
        let count = self.closure.tables()[relation.child].columns.len();
        let mut asked = Vec::new();
        let mut values = RowBatch::default();
        for &child in children {
            let row = &self.closure.members()[child].row;
            if let Some(reference) = self.closure.reference(edge, row)? {
                values.push(&picked(row, &relation.columns, count)?);
                asked.push((child, reference));
            }
        }
        let mut lives = vec![false; asked.len()];
        // By name, whatever else became of the table: a parent that exists is enough.
        let name = &relation.relation.parent;
        let tables = &self.structure.tables;
        if let Some(table) = tables.iter().position(|table| table.name == *name)
            && let names = relation.relation.parent_columns.iter()
            && let Some(columns) = names.map(|name| tables[table].column(name)).collect()
        {
            let columns: Vec<usize> = columns;
            let lookup = Lookup {
                table,
                columns: &columns,
                values: &values,
            };
            let deleted = self.soft[relation.parent].as_ref();
            let deleted =
                deleted.and_then(|(_, flag)| Some((tables[table].column(&flag.column)?, flag)));
            for found in self.live.look_up(lookup).await? {
                let cells = cell::cells(&found.row, tables[table].columns.len())?;
                lives[found.asked] = !deleted.is_some_and(|(at, flag)| flag.is_deleted(&cells[at]));
            }
        }
        for ((child, reference), lives) in asked.into_iter().zip(lives) {
            if lives {
                self.parents.insert((edge, reference), Parent::Lives);
            } else {
                self.parents
                    .insert((edge, reference.clone()), Parent::Nowhere);
                sought.insert((Side::Parent, edge, reference), child);
            }
        }
        Ok(())
    }

    /// Notes what speaks against a member.
    pub(super) fn conflict(&mut self, member: usize, what: &str) -> Result<(), AnyFailure> {
        let conflict = Conflict {
            table: self.table_name(member),
            key: self.key_text(member)?,
            what: what.to_owned(),
        };
        self.conflicts.insert(conflict);
        Ok(())
    }

    pub(super) fn table_name(&self, member: usize) -> String {
        let table = self.closure.members()[member].table;
        self.closure.tables()[table].name.to_string()
    }

    pub(super) fn key_text(&self, member: usize) -> Result<String, AnyFailure> {
        let member = &self.closure.members()[member];
        Ok(key::text(
            &self.closure.tables()[member.table],
            &member.key,
        )?)
    }

    /// Why a member is in the plan, in words.
    pub(super) fn why(&self, member: usize) -> Result<String, AnyFailure> {
        Ok(self.closure.why(member)?)
    }
}
