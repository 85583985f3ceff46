//! Tables as data: columns, keys and relations out of `information_schema`.
//!
//! The verbs on records, the digests and the order of rows all hang on this. One question a view
//! of the schema, for all tables together. Invariant: the captured columns of a table are exactly
//! those that its rows are made of; what the server makes itself is listed apart.

use std::collections::BTreeMap;

use super::error::Error;
use super::session::{Answer, Session, maybe, number, text};
use super::structure::Listed;
use super::types;
use crate::row::schema::{
    Column, ForeignKey, Key, KeyOrigin, OnDelete, Table, TableName, ValueKind,
};

/// Fact of a table: which rows are read. `history` where old versions come too.
pub const HISTORY: &str = "history";
/// A key column is at most this wide, so that keys fit memory and sorts are whole.
const KEY_BYTES_MAX: u64 = 65_535;

/// What the questions gave, by table.
#[derive(Default)]
struct Found {
    columns: BTreeMap<String, Vec<Answer>>,
    indexes: BTreeMap<String, Vec<Answer>>,
    foreign: BTreeMap<String, Vec<Answer>>,
    triggers: BTreeMap<String, u64>,
}

/// Which parts of system-versioned tables are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// All versions of every row.
    All,
    /// Only what holds now.
    Current,
}

/// The tables among `listed`, sorted by name.
///
/// # Errors
/// [`Error`] of the server.
pub async fn tables(
    session: &mut Session,
    listed: &[Listed],
    versions: Versions,
) -> Result<Vec<Table>, Error> {
    let found = ask(session).await?;
    let mut tables = Vec::new();
    for object in listed {
        if matches!(object.kind.as_str(), "VIEW" | "SYSTEM VIEW" | "SEQUENCE") {
            continue;
        }
        tables.push(table(object, &found, versions));
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tables)
}

async fn ask(session: &mut Session) -> Result<Found, Error> {
    let mut found = Found::default();
    let columns = "SELECT table_name, ordinal_position, column_name, column_type, is_nullable, \
         column_default, collation_name, character_set_name, extra, generation_expression, \
         character_octet_length FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND BINARY table_schema = DATABASE()";
    let indexes = "SELECT table_name, seq_in_index, index_name, column_name, sub_part, nullable \
         FROM information_schema.statistics \
         WHERE table_schema = DATABASE() AND BINARY table_schema = DATABASE() AND non_unique = 0";
    let foreign = "SELECT k.table_name, k.ordinal_position, k.constraint_name, k.column_name, \
         k.referenced_table_schema, k.referenced_table_name, k.referenced_column_name, \
         r.delete_rule FROM information_schema.key_column_usage k \
         JOIN information_schema.referential_constraints r \
         ON r.constraint_schema = k.constraint_schema AND r.table_name = k.table_name \
         AND r.constraint_name = k.constraint_name \
         WHERE k.table_schema = DATABASE() AND BINARY k.table_schema = DATABASE() \
         AND r.constraint_schema = DATABASE() AND k.referenced_table_name IS NOT NULL";
    for (sql, into) in [
        (columns, &mut found.columns),
        (indexes, &mut found.indexes),
        (foreign, &mut found.foreign),
    ] {
        for row in session.ask(sql, "reading columns and keys").await? {
            into.entry(text(&row, 0)).or_default().push(row);
        }
        for rows in into.values_mut() {
            rows.sort_by_key(|row| number(row, 1));
        }
    }
    let triggers = "SELECT event_object_table, COUNT(*) FROM information_schema.triggers \
         WHERE BINARY trigger_schema = DATABASE() GROUP BY event_object_table";
    for row in session.ask(triggers, "counting triggers").await? {
        found
            .triggers
            .insert(text(&row, 0), number(&row, 1).unwrap_or(0));
    }
    Ok(found)
}

/// Whether a column is the start or the end of a row's time.
fn period(row: &Answer) -> Option<&'static str> {
    match text(row, 9).to_ascii_uppercase().as_str() {
        "ROW START" => Some("start"),
        "ROW END" => Some("end"),
        _ => None,
    }
}

fn table(object: &Listed, found: &Found, versions: Versions) -> Table {
    let none = Vec::new();
    let rows = found.columns.get(&object.name).unwrap_or(&none);
    let mut facts = BTreeMap::from([("engine".to_owned(), object.engine.clone())]);
    if let Some(count) = found.triggers.get(&object.name) {
        facts.insert("triggers".into(), count.to_string());
    }
    let versioned = object.kind == "SYSTEM VERSIONED";
    let by_transaction = rows
        .iter()
        .any(|row| period(row).is_some() && text(row, 3).starts_with("bigint"));
    let history = versioned && !by_transaction && versions == Versions::All;
    let mut columns = Vec::new();
    let mut generated = Vec::new();
    for row in rows {
        let made = text(row, 8).to_ascii_uppercase().contains("GENERATED")
            && !text(row, 8)
                .to_ascii_uppercase()
                .contains("DEFAULT_GENERATED");
        if period(row).is_some() && history {
            columns.push(column(row));
        } else if made {
            generated.push((text(row, 2), text(row, 9)));
        } else {
            columns.push(column(row));
        }
    }
    if history && !rows.iter().any(|row| period(row).is_some()) {
        columns.push(hidden_period("row_start", "start"));
        columns.push(hidden_period("row_end", "end"));
    }
    if versioned {
        facts.insert("system_versioned".into(), "true".into());
    }
    if history {
        facts.insert(HISTORY.into(), "true".into());
    }
    let mut table = Table {
        name: TableName {
            schema: None,
            name: object.name.clone(),
        },
        columns,
        generated,
        key: None,
        foreign_keys: foreign_keys(found.foreign.get(&object.name).unwrap_or(&none)),
        unique: Vec::new(),
        with_rows: true,
        facts,
    };
    keys(
        &mut table,
        rows,
        found.indexes.get(&object.name).unwrap_or(&none),
    );
    table
}

fn column(row: &Answer) -> Column {
    let type_name = text(row, 3);
    let extra = text(row, 8);
    let mut facts = BTreeMap::new();
    if let Some(charset) = maybe(row, 7) {
        facts.insert(types::CHARSET.to_owned(), charset);
    }
    if let Some(period) = period(row) {
        facts.insert(types::PERIOD.to_owned(), period.to_owned());
    } else if !extra.is_empty() {
        facts.insert("extra".to_owned(), extra);
    }
    Column {
        name: text(row, 2),
        kind: types::kind(&type_name),
        type_name,
        nullable: text(row, 4).eq_ignore_ascii_case("yes"),
        default: maybe(row, 5),
        collation: maybe(row, 6),
        hidden: false,
        facts,
    }
}

/// A column that a system-versioned table has without saying so.
fn hidden_period(name: &str, period: &str) -> Column {
    Column {
        name: name.into(),
        type_name: "timestamp(6)".into(),
        kind: ValueKind::Text,
        nullable: false,
        default: None,
        collation: None,
        hidden: true,
        facts: BTreeMap::from([(types::PERIOD.to_owned(), period.to_owned())]),
    }
}

/// Finds the key and the other unique sets of columns.
fn keys(table: &mut Table, columns: &[Answer], indexes: &[Answer]) {
    let mut by_name: BTreeMap<String, Vec<&Answer>> = BTreeMap::new();
    for row in indexes {
        by_name.entry(text(row, 2)).or_default().push(row);
    }
    let width = |name: &str| {
        let row = columns.iter().find(|row| text(row, 2) == name);
        row.and_then(|row| number(row, 10)).unwrap_or(0)
    };
    let mut best: Option<(u8, usize, u64, Key)> = None;
    for (name, rows) in by_name {
        let names: Vec<Option<String>> = rows.iter().map(|row| maybe(row, 3)).collect();
        let Some(names) = names.into_iter().collect::<Option<Vec<String>>>() else {
            continue;
        };
        let by_prefix = rows.iter().any(|row| maybe(row, 4).is_some());
        let mut positions: Vec<usize> = names.iter().filter_map(|n| table.column(n)).collect();
        if positions.len() == names.len() && name != "PRIMARY" && !by_prefix {
            table.unique.push(names.clone());
        }
        let nullable = rows.iter().any(|row| text(row, 5) == "YES");
        let widest = names.iter().map(|n| width(n)).max().unwrap_or(0);
        if positions.len() != names.len() || nullable || widest > KEY_BYTES_MAX {
            continue;
        }
        add_version(table, &mut positions);
        let columns: Vec<_> = positions
            .into_iter()
            .map(|at| (at, types::key_order(&table.columns[at].type_name)))
            .collect();
        let (rank, origin) = if name == "PRIMARY" {
            (0, KeyOrigin::Primary)
        } else {
            (1, KeyOrigin::Unique(name))
        };
        let candidate = (rank, columns.len(), widest, Key { origin, columns });
        let better = best
            .as_ref()
            .is_none_or(|best| (candidate.0, candidate.1, candidate.2) < (best.0, best.1, best.2));
        if better {
            best = Some(candidate);
        }
    }
    table.key = best.map(|(_, _, _, key)| key);
}

/// Where old versions are captured too, a row is known by its key and the end of its time.
fn add_version(table: &Table, positions: &mut Vec<usize>) {
    if !table.facts.contains_key(HISTORY) {
        return;
    }
    let end = table
        .columns
        .iter()
        .position(|column| column.facts.get(types::PERIOD).is_some_and(|p| p == "end"));
    if let Some(end) = end.filter(|end| !positions.contains(end)) {
        positions.push(end);
    }
}

fn foreign_keys(rows: &[Answer]) -> Vec<ForeignKey> {
    let mut by_name: BTreeMap<String, ForeignKey> = BTreeMap::new();
    for row in rows {
        let name = text(row, 2);
        let key = by_name.entry(name.clone()).or_insert_with(|| ForeignKey {
            name,
            columns: Vec::new(),
            parent: TableName {
                schema: maybe(row, 4),
                name: text(row, 5),
            },
            parent_columns: Vec::new(),
            on_delete: match text(row, 7).as_str() {
                "CASCADE" => OnDelete::Cascade,
                "SET NULL" => OnDelete::SetNull,
                "SET DEFAULT" => OnDelete::SetDefault,
                _ => OnDelete::Restrict,
            },
        });
        key.columns.push(text(row, 3));
        key.parent_columns.push(text(row, 6));
    }
    by_name.into_values().collect()
}

/// Takes the database's own name out of relations, so that they hold wherever it is restored.
pub fn neutralise(tables: &mut [Table], database: &str) {
    for table in tables {
        for key in &mut table.foreign_keys {
            if key.parent.schema.as_deref() == Some(database) {
                key.parent.schema = None;
            }
        }
    }
}
