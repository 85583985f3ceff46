//! The closure of rows that are to come back: what was lost with them, and what they stand on.
//!
//! It knows relations and asks questions, which a job answers from a snapshot and a live database.
//! From a row that comes back it goes down to its dependents, and from every row that comes back up
//! to its parents; a parent that comes only because it is needed is not followed down. Invariant: a
//! row is a member once, and with the first reason that brought it in.

mod edge;
pub mod relation;

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::failure::{Class, Failure};
use crate::row::cell::{self, Cell};
pub use crate::row::closure::edge::Edge;
use crate::row::closure::relation::{Origin, Relation, push_reference};
use crate::row::key::{self, KeyEncoder};
use crate::row::schema::{Engine, Table, TableName};

/// How many rows a closure may have.
pub const MEMBERS_MAX: usize = 1_000_000;

/// Why a closure could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row of a table without a key was asked for.
    #[error("table {table} has no key, so that its rows cannot be told apart")]
    Keyless {
        /// The table.
        table: TableName,
    },
    /// A row is none, or has no key.
    #[error("a row of table {table} has no key")]
    Row {
        /// The table.
        table: TableName,
        /// Why.
        #[source]
        source: key::Error,
    },
    /// A row is none.
    #[error("a row of table {table} is damaged")]
    Cells {
        /// The table.
        table: TableName,
        /// Why.
        #[source]
        source: cell::Error,
    },
    /// More rows than a plan can hold.
    #[error("more than {MEMBERS_MAX} rows would come back")]
    TooMany,
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Keyless { .. } | Error::TooMany => Class::Invalid,
            Error::Row { .. } | Error::Cells { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Keyless { .. } => Some("restore the table beside: restore --table".into()),
            Error::TooMany => Some("ask for fewer rows, or restore the table".into()),
            _ => None,
        }
    }
}

/// What brought a row in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was asked for.
    Asked,
    /// It refers, by this edge, to a member that comes back.
    LostWith {
        /// The edge.
        edge: usize,
        /// The member that it refers to.
        parent: usize,
    },
    /// A member that comes back refers to it by this edge.
    ParentOf {
        /// The edge.
        edge: usize,
        /// The member that refers to it.
        child: usize,
    },
}

/// How a row of the snapshot stands in the live database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not there.
    Absent,
    /// It is there as it was.
    Equal,
    /// It is there, with other values.
    Different,
    /// It is there, and marked as deleted, which it was not.
    SoftDeleted,
    /// Its place is taken in a way that forbids to write it; it does not come back.
    Barred,
}

impl Standing {
    fn comes_back(self) -> bool {
        matches!(self, Standing::Absent | Standing::SoftDeleted)
    }
}

/// A row in the closure.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its table, by position.
    pub table: usize,
    /// Its canonical key.
    pub key: Vec<u8>,
    /// The row, as the snapshot has it.
    pub row: Vec<u8>,
    /// What brought it in.
    pub why: Why,
    /// How it stands; none until that was answered.
    pub standing: Option<Standing>,
    /// Whether it is part of what was asked for, and not only needed by it.
    belongs: bool,
    /// Whether another part of the record that it is one with comes back.
    revived: bool,
}

impl Member {
    /// Whether it is to be written.
    pub fn comes_back(&self) -> bool {
        self.standing.is_some_and(Standing::comes_back)
    }

    /// Whether its record comes back, though the row itself may never have been away.
    pub fn returns(&self) -> bool {
        self.revived || self.comes_back()
    }
}

/// What the closure needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// How a member stands in the live database.
    Standing(usize),
    /// Whether the row that `child` refers to by `edge` lives, or stands in the snapshot.
    Parent {
        /// The edge.
        edge: usize,
        /// The member that refers.
        child: usize,
    },
    /// Which rows of the snapshot refer to `parent` by `edge`.
    Dependents {
        /// The edge.
        edge: usize,
        /// The member that is referred to.
        parent: usize,
    },
}

/// Whether dependents are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// Rows that were lost with a row come back with it.
    Follow,
    /// Only the rows asked for, and what they stand on.
    Leave,
    /// Rows that refer to a record are part of it, but rows of its own table are other records, and
    /// what refers to a row that it would outlive (SET NULL) is not followed any further.
    OfRecord,
}

/// Rows that belong together.
pub struct Closure {
    engine: Engine,
    tables: Vec<Table>,
    encoders: Vec<Option<KeyEncoder>>,
    edges: Vec<Edge>,
    dependents: Dependents,
    members: Vec<Member>,
    known: HashMap<(usize, Vec<u8>), usize>,
    waiting: Vec<Question>,
    parents_asked: HashSet<(usize, Vec<u8>)>,
    uncovered: BTreeSet<(usize, usize)>,
}

/// What applications write where a reference names nothing.
pub fn is_nothing(cell: &Cell<'_>) -> bool {
    matches!(cell, Cell::Integer(0) | Cell::Text(b"" | b"0"))
}

impl Closure {
    /// An empty closure over `tables`. Relations of tables or columns that are not there are left
    /// out.
    pub fn new(
        engine: Engine,
        tables: Vec<Table>,
        relations: &[Relation],
        dependents: Dependents,
    ) -> Closure {
        let edges = edge::edges(&tables, relations);
        Closure {
            engine,
            encoders: tables.iter().map(KeyEncoder::new).collect(),
            edges,
            tables,
            dependents,
            members: Vec::new(),
            known: HashMap::new(),
            waiting: Vec::new(),
            parents_asked: HashSet::new(),
            uncovered: BTreeSet::new(),
        }
    }

    /// The engine of the snapshot.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The tables, in the order that positions mean.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The relations that are followed.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// All rows so far.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this key.
    pub fn member(&self, table: usize, key: &[u8]) -> Option<usize> {
        self.known.get(&(table, key.to_vec())).copied()
    }

    /// The key of a member as a person writes it.
    ///
    /// # Errors
    /// Corrupt: a member without a key.
    pub fn key_text(&self, member: usize) -> Result<String, Error> {
        let member = &self.members[member];
        let table = &self.tables[member.table];
        key::text(table, &member.key).map_err(|source| Error::Row {
            table: table.name.clone(),
            source,
        })
    }

    /// What brought a member in, in words.
    ///
    /// # Errors
    /// Corrupt: a member without a key.
    pub fn why(&self, member: usize) -> Result<String, Error> {
        let (edge, other, words) = match self.members[member].why {
            Why::Asked => return Ok("asked for".into()),
            Why::LostWith { edge, parent } if self.dependents == Dependents::OfRecord => {
                (edge, parent, "refers to")
            }
            Why::LostWith { edge, parent } => (edge, parent, "lost with"),
            Why::ParentOf { edge, child } => (edge, child, "needed by"),
        };
        let relation = &self.edges[edge].relation;
        let by = match &relation.origin {
            Origin::Declared(_) => relation.columns.join(", "),
            Origin::Convention(name) => format!("{}, by {name}", relation.columns.join(", ")),
        };
        let table = &self.tables[self.members[other].table].name;
        Ok(format!("{words} {table} {} ({by})", self.key_text(other)?))
    }

    /// (referring table without a key, table that it refers to): rows that cannot be brought back.
    pub fn uncovered(&self) -> &BTreeSet<(usize, usize)> {
        &self.uncovered
    }

    /// Adds a row that was asked for.
    ///
    /// # Errors
    /// Invalid: its table has no key, or there are too many rows.
    pub fn ask_for(&mut self, table: usize, row: &[u8]) -> Result<(), Error> {
        self.add(table, row, Why::Asked)?;
        Ok(())
    }

    /// What must be answered before the closure goes on; nothing when it is complete.
    pub fn questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.waiting)
    }

    /// The reference by which `row` names its parent through `edge`, in the form that
    /// [`Closure::referred`] gives; none where it names none.
    ///
    /// # Errors
    /// Corrupt: bytes that are no row.
    pub fn reference(&self, edge: usize, row: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let edge = &self.edges[edge];
        let cells = self.cells(edge.child, row)?;
        if let (Some(at), Some(when)) = (edge.condition, &edge.relation.when)
            && !when.holds(&cells[at])
        {
            return Ok(None);
        }
        let convention = matches!(edge.relation.origin, Origin::Convention(_));
        if convention && edge.columns.iter().any(|&at| is_nothing(&cells[at])) {
            return Ok(None);
        }
        Ok(self.form(edge.child, &edge.columns, &cells))
    }

    /// The reference that names `row` as a parent through `edge`.
    ///
    /// # Errors
    /// Corrupt: bytes that are no row.
    pub fn referred(&self, edge: usize, row: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let edge = &self.edges[edge];
        let cells = self.cells(edge.parent, row)?;
        Ok(self.form(edge.parent, &edge.parent_columns, &cells))
    }

    fn form(&self, table: usize, columns: &[usize], cells: &[Cell<'_>]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let table = &self.tables[table];
        columns
            .iter()
            .all(|&at| push_reference(self.engine, &table.columns[at], &cells[at], &mut out))
            .then_some(out)
    }

    fn cells<'r>(&self, table: usize, row: &'r [u8]) -> Result<Vec<Cell<'r>>, Error> {
        let table = &self.tables[table];
        cell::cells(row, table.columns.len()).map_err(|source| Error::Cells {
            table: table.name.clone(),
            source,
        })
    }

    fn add(&mut self, table: usize, row: &[u8], why: Why) -> Result<usize, Error> {
        let name = || self.tables[table].name.clone();
        let encoder = self.encoders[table].as_ref();
        let encoder = encoder.ok_or_else(|| Error::Keyless { table: name() })?;
        let mut key = Vec::new();
        let encoded = encoder.encode(row, &mut key);
        encoded.map_err(|source| Error::Row {
            table: name(),
            source,
        })?;
        let belongs = self.belongs(why);
        if let Some(&member) = self.known.get(&(table, key.clone())) {
            if belongs && !self.members[member].belongs {
                // It is lost in its own right after all, and so is what is one record with it.
                self.members[member].why = why;
                self.members[member].belongs = true;
                self.follow_down(member);
                self.follow_record(member)?;
            }
            return Ok(member);
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(Error::TooMany);
        }
        let member = self.members.len();
        self.members.push(Member {
            table,
            key: key.clone(),
            row: row.to_vec(),
            why,
            standing: None,
            belongs,
            revived: false,
        });
        self.known.insert((table, key), member);
        self.waiting.push(Question::Standing(member));
        Ok(member)
    }

    /// Answers [`Question::Standing`].
    ///
    /// # Errors
    /// Corrupt: a member that is no row.
    pub fn stands(&mut self, member: usize, standing: Standing) -> Result<(), Error> {
        self.members[member].standing = Some(standing);
        self.follow_up(member, standing)?;
        self.follow_down(member);
        if standing.comes_back() {
            self.revive(member);
        }
        Ok(())
    }

    /// A row that is one record with one that comes back is followed down like it.
    fn revive(&mut self, member: usize) {
        if let Why::ParentOf { edge, child } = self.members[member].why
            && self.edges[edge].relation.extends
            && !self.members[child].returns()
        {
            self.members[child].revived = true;
            self.follow_down(child);
        }
    }

    /// What a row stands on must come too; of a row that lives, only what is one record with it.
    fn follow_up(&mut self, member: usize, standing: Standing) -> Result<(), Error> {
        let table = self.members[member].table;
        let belongs = self.members[member].belongs;
        for edge in 0..self.edges.len() {
            let (child, extends) = (self.edges[edge].child, self.edges[edge].relation.extends);
            let wanted = standing.comes_back() || extends && belongs;
            if child != table || !wanted || self.edges[edge].by_partition {
                continue;
            }
            if let Some(reference) = self.reference(edge, &self.members[member].row)?
                && self.parents_asked.insert((edge, reference))
            {
                let child = member;
                self.waiting.push(Question::Parent { edge, child });
            }
        }
        Ok(())
    }

    /// Whether a row that comes for this reason is part of what was asked for: what is one record
    /// with a row shares its reason.
    fn belongs(&self, why: Why) -> bool {
        let (edge, other, own) = match why {
            Why::Asked => return true,
            Why::LostWith { edge, parent } => (edge, parent, true),
            Why::ParentOf { edge, child } => (edge, child, false),
        };
        match self.edges[edge].relation.extends {
            true => self.members[other].belongs,
            false => own,
        }
    }

    /// Asks again for what is one record with a member, now that it comes for another reason.
    fn follow_record(&mut self, member: usize) -> Result<(), Error> {
        let table = self.members[member].table;
        for edge in 0..self.edges.len() {
            let one = &self.edges[edge];
            let upwards = one.child == table && one.relation.extends && !one.by_partition;
            if upwards && self.reference(edge, &self.members[member].row)?.is_some() {
                let child = member;
                self.waiting.push(Question::Parent { edge, child });
            }
        }
        Ok(())
    }

    fn follow_down(&mut self, member: usize) {
        let Member { table, .. } = self.members[member];
        if self.dependents == Dependents::Leave || !self.members[member].returns() {
            return;
        }
        for edge in 0..self.edges.len() {
            let (child, parent) = (self.edges[edge].child, self.edges[edge].parent);
            if parent != table || !self.goes_down(member, edge) {
                continue;
            }
            if self.encoders[child].is_none() || !self.tables[child].with_rows {
                self.uncovered.insert((child, parent));
                continue;
            }
            let parent = member;
            self.waiting.push(Question::Dependents { edge, parent });
        }
    }

    /// Whether what refers to a member by `edge` comes with it.
    fn goes_down(&self, member: usize, edge: usize) -> bool {
        let one = &self.edges[edge];
        if one.relation.extends {
            return true;
        }
        let of_record = self.dependents == Dependents::OfRecord;
        match self.members[member].why {
            _ if !self.members[member].belongs => false,
            Why::LostWith { edge: by, .. } if of_record && self.edges[by].outlives() => false,
            _ => !of_record || one.child != one.parent,
        }
    }

    /// Answers [`Question::Parent`] with a row of the snapshot that does not live.
    ///
    /// # Errors
    /// Invalid or Corrupt: the row cannot be a member.
    pub fn parent_is(&mut self, edge: usize, child: usize, row: &[u8]) -> Result<usize, Error> {
        self.add(self.edges[edge].parent, row, Why::ParentOf { edge, child })
    }

    /// Answers [`Question::Dependents`] with one of the rows.
    ///
    /// # Errors
    /// Invalid or Corrupt: the row cannot be a member.
    pub fn dependent_is(&mut self, edge: usize, parent: usize, row: &[u8]) -> Result<(), Error> {
        let table = self.edges[edge].child;
        self.add(table, row, Why::LostWith { edge, parent })?;
        Ok(())
    }

    /// The members that come back, parents before the children that cannot be without them: a
    /// reference that may be NULL can wait for its parent, which is how circles are broken.
    ///
    /// # Errors
    /// Corrupt: a member that is no row.
    pub fn in_order(&self) -> Result<Vec<usize>, Error> {
        let coming: Vec<usize> = (0..self.members.len())
            .filter(|&member| self.members[member].comes_back())
            .collect();
        let mut named: HashMap<(usize, Vec<u8>), usize> = HashMap::new();
        for &member in &coming {
            for edge in self.edges_to(self.members[member].table) {
                if let Some(reference) = self.referred(edge, &self.members[member].row)? {
                    named.insert((edge, reference), member);
                }
            }
        }
        let mut order = Vec::with_capacity(coming.len());
        let mut met = vec![false; self.members.len()];
        for &start in &coming {
            // Depth first, by hand: chains of managers may be long.
            let mut path = vec![(start, false)];
            while let Some((member, done)) = path.pop() {
                if done {
                    order.push(member);
                    continue;
                }
                if std::mem::replace(&mut met[member], true) {
                    continue;
                }
                path.push((member, true));
                for edge in self.edges_from(self.members[member].table) {
                    if self.may_wait(edge) {
                        continue;
                    }
                    let reference = self.reference(edge, &self.members[member].row)?;
                    let parent = reference.and_then(|found| named.get(&(edge, found)).copied());
                    path.extend(
                        parent
                            .filter(|&parent| !met[parent])
                            .map(|one| (one, false)),
                    );
                }
            }
        }
        Ok(order)
    }

    fn may_wait(&self, edge: usize) -> bool {
        let edge = &self.edges[edge];
        let columns = &self.tables[edge.child].columns;
        edge.columns.iter().any(|&at| columns[at].nullable)
    }

    /// The edges by which rows of `table` are referred to.
    pub fn edges_to(&self, table: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.edges.len()).filter(move |&edge| self.edges[edge].parent == table)
    }

    /// The edges by which rows of `table` refer to others.
    pub fn edges_from(&self, table: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.edges.len()).filter(move |&edge| self.edges[edge].child == table)
    }
}
