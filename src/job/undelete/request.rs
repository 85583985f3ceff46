//! What is asked of an undelete.
//!
//! Plain data: the faces fill it in, and the job knows no configuration.

use crate::repo::catalog::Snapshot;
use crate::row::closure::Dependents;
use crate::row::closure::relation::Relations;

/// Rows of one table that are asked for.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The table, as a person names it.
    pub table: String,
    /// Keys, as a person writes them; each names a row.
    pub keys: Vec<String>,
    /// Conditions, `COL=VAL`, all of which must hold.
    pub conditions: Vec<String>,
    /// Only rows that are gone from the live database.
    pub missing: bool,
}

/// What to do about rows that were overwritten.
#[derive(Clone, Debug)]
pub enum Overwritten {
    /// Nothing: a row that is there with other values is a conflict.
    Refuse,
    /// Every column that differs is put back.
    PutBack,
    /// Columns that changed between the snapshot and this one are put back; what was edited after
    /// it stays, and a column edited in both is a conflict.
    PutBackUntil(Box<Snapshot>),
}

/// What a conflict does to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is written.
    Stop,
    /// The rows in conflict are left out, and those that cannot be without them.
    Skip,
}

/// Whether what is planned is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The plan alone.
    Plan,
    /// The plan, made again in the transaction that writes it.
    Apply,
}

/// What to bring back.
#[derive(Clone, Debug)]
pub struct Request {
    /// The rows.
    pub choices: Vec<Choice>,
    /// Rows that are there with other values.
    pub overwritten: Overwritten,
    /// Whether rows come back that were lost with those asked for.
    pub dependents: Dependents,
    /// What a conflict does.
    pub on_conflict: OnConflict,
    /// Whether triggers may fire where the server cannot hold them.
    pub with_triggers: bool,
    /// Relations that no foreign key declares.
    pub relations: Relations,
    /// Whether statements are rendered.
    pub render: bool,
    /// Where the live database is, without a password: for the ledger.
    pub place: String,
}
