//! A plan as data: what would be written, why, and what speaks against it.
//!
//! Invariant: `reverse` takes back what `changes` does, one for one.

use crate::source::Change;

/// A row to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// The table, as `show` prints it.
    pub table: String,
    /// Its key.
    pub key: String,
    /// Why it comes back.
    pub why: String,
}

/// A row of which columns are to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The table, as `show` prints it.
    pub table: String,
    /// Its key.
    pub key: String,
    /// The columns, by name.
    pub columns: Vec<String>,
    /// Why.
    pub why: String,
}

/// What speaks against a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The table, as `show` prints it.
    pub table: String,
    /// Its key.
    pub key: String,
    /// What, with both sides.
    pub what: String,
}

/// What would be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Rows to insert.
    pub insert: Vec<Insert>,
    /// Rows to change.
    pub update: Vec<Update>,
    /// What speaks against it.
    pub conflicts: Vec<Conflict>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The changes, in the order in which they are written; large cells are cut out.
    pub changes: Vec<Change>,
    /// The changes that take each of them back, in the order of `changes`.
    pub reverse: Vec<Change>,
}
