//! Relations between tables that are there, by the positions of tables and columns.
//!
//! A closure asks along edges and knows no names. Invariant: an edge has as many columns on either
//! side, and at least one.

use std::collections::HashMap;

use crate::row::closure::relation::Relation;
use crate::row::schema::{OnDelete, Table, TableName};

/// A relation between two known tables, by position.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The relation.
    pub relation: Relation,
    /// The referring table.
    pub child: usize,
    /// Its columns.
    pub columns: Vec<usize>,
    /// The table that is referred to.
    pub parent: usize,
    /// Its columns.
    pub parent_columns: Vec<usize>,
    /// The column of the relation's condition.
    pub condition: Option<usize>,
    /// Whether the parent is a partition of the table that the relation names: dependents are found
    /// by it, but what a row refers to is looked for in the table as a whole.
    pub by_partition: bool,
}

impl Edge {
    /// Whether a row that refers by this edge stays when the row that it refers to is deleted.
    pub(super) fn outlives(&self) -> bool {
        matches!(
            self.relation.on_delete,
            OnDelete::SetNull | OnDelete::SetDefault
        )
    }
}

fn edge(
    tables: &[Table],
    places: &HashMap<&TableName, usize>,
    relation: &Relation,
) -> Option<Edge> {
    let child = *places.get(&relation.child)?;
    let parent = *places.get(&relation.parent)?;
    let positions = |table: usize, names: &[String]| {
        let table = &tables[table];
        let found: Option<Vec<usize>> = names.iter().map(|name| table.column(name)).collect();
        found.filter(|found| !found.is_empty())
    };
    let condition = match &relation.when {
        Some(when) => Some(tables[child].column(&when.column)?),
        None => None,
    };
    let columns = positions(child, &relation.columns)?;
    let parent_columns = positions(parent, &relation.parent_columns)?;
    (columns.len() == parent_columns.len()).then(|| Edge {
        relation: relation.clone(),
        child,
        columns,
        parent,
        parent_columns,
        condition,
        by_partition: false,
    })
}

/// The partitions, at any depth, of the table `whole`.
fn partitions<'t>(tables: &'t [Table], whole: &TableName) -> Vec<&'t TableName> {
    let mut found: Vec<&TableName> = Vec::new();
    let mut wholes = vec![whole.to_string()];
    while let Some(whole) = wholes.pop() {
        for table in tables {
            let of = table
                .facts
                .get("partition_of")
                .map(|name| name.replace('"', ""));
            if of.as_ref() == Some(&whole) && !found.contains(&&table.name) {
                found.push(&table.name);
                wholes.push(table.name.to_string());
            }
        }
    }
    found
}

/// The edges of all relations whose tables and columns are there; partitions of a parent have edges
/// of their own.
pub(super) fn edges(tables: &[Table], relations: &[Relation]) -> Vec<Edge> {
    let places = tables
        .iter()
        .enumerate()
        .map(|(at, table)| (&table.name, at));
    let places: HashMap<&TableName, usize> = places.collect();
    let mut edges = Vec::new();
    for relation in relations {
        edges.extend(edge(tables, &places, relation));
        for partition in partitions(tables, &relation.parent) {
            let mut relation = relation.clone();
            relation.parent = partition.clone();
            edges.extend(edge(tables, &places, &relation).map(|edge| Edge {
                by_partition: true,
                ..edge
            }));
        }
    }
    edges
}
