//! `show --relations`: how the tables of a snapshot refer to each other.
//!
//! Invariant: what is printed is exactly what `undelete` follows.

use serde::Serialize;

use crate::cli::render;
use crate::cli::session::Session;
use crate::failure::AnyFailure;
use crate::format::manifest::Manifest;
use crate::repo::catalog::Snapshot;
use crate::row::closure::relation;

#[derive(Serialize)]
struct RelationsDocument {
    lists: Vec<String>,
    relations: Vec<RelationDocument>,
    soft_deletion: Vec<SoftDocument>,
    content_types: bool,
}

#[derive(Serialize)]
struct RelationDocument {
    child: String,
    columns: Vec<String>,
    parent: String,
    parent_columns: Vec<String>,
    origin: String,
    when: Option<String>,
}

#[derive(Serialize)]
struct SoftDocument {
    table: String,
    column: String,
}

/// Prints the relations that `undelete` follows.
///
/// # Errors
/// Where stdout cannot be written.
pub fn show(session: &Session, snapshot: &Snapshot, manifest: &Manifest) -> Result<(), AnyFailure> {
    let tables: Vec<_> = manifest
        .tables
        .iter()
        .map(|one| one.table.clone())
        .collect();
    let known = session.relations(&snapshot.source, &tables);
    let all = known.among(&tables);
    if session.output.is_json() {
        let relation = |one: &relation::Relation| RelationDocument {
            child: one.child.to_string(),
            columns: one.columns.clone(),
            parent: one.parent.to_string(),
            parent_columns: one.parent_columns.clone(),
            origin: one.origin.to_string(),
            when: one
                .when
                .as_ref()
                .map(|when| format!("{} = {}", when.column, when.value)),
        };
        let soft = known.soft.iter().map(|one| SoftDocument {
            table: one.table.to_string(),
            column: one.column.clone(),
        });
        return session.output.document(&RelationsDocument {
            lists: known.lists.clone(),
            relations: all.iter().map(relation).collect(),
            soft_deletion: soft.collect(),
            content_types: known.content_types,
        });
    }
    let mut text = match known.lists.is_empty() {
        true => "no known CRM; only what the database declares\n".to_owned(),
        false => format!("conventions of {}\n", known.lists.join(", ")),
    };
    for one in &all {
        text.push_str(&render::plain(&format!("  {one}  ({})", one.origin)));
        text.push('\n');
    }
    for one in &known.soft {
        let line = format!("  {}.{} marks deletion", one.table, one.column);
        text.push_str(&render::plain(&line));
        text.push('\n');
    }
    if known.content_types {
        text.push_str("  and what django_content_type says of each row\n");
    }
    session.output.text(&text)
}
