//! How a table of a snapshot fits the live one: which columns are still the same.
//!
//! Columns meet by name. One that came since gets its default, one that went is named, and one that
//! was renamed or has another type speaks against writing at all. Invariant: a fit covers every
//! column of the key.

use crate::row::schema::{Column, Structure, Table};

/// How a table of the snapshot fits a live one.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The live table, by position.
    pub live: usize,
    /// Positions of each common column: in the snapshot, and live.
    pub columns: Vec<(usize, usize)>,
    /// Positions of the live key's columns.
    pub key: Vec<usize>,
    /// What a person should know, in sentences.
    pub notes: Vec<String>,
}

impl Fit {
    /// Where a column of the snapshot is now.
    pub fn live_column(&self, kept: usize) -> Option<usize> {
        let found = self.columns.iter().find(|(column, _)| *column == kept);
        found.map(|&(_, live)| live)
    }

    /// Where a live column was in the snapshot.
    pub fn kept_column(&self, live: usize) -> Option<usize> {
        let found = self.columns.iter().find(|(_, column)| *column == live);
        found.map(|&(kept, _)| kept)
    }
}

fn has_default(column: &Column) -> bool {
    let extra = column.facts.get("extra");
    column.nullable
        || column.default.is_some()
        || column.hidden
        || column.facts.contains_key("identity")
        || extra.is_some_and(|extra| extra.contains("auto_increment"))
}

/// How `kept` fits the table of the same name in `live`; or what speaks against it.
///
/// # Errors
/// A sentence for the person: the table is gone, or a column was renamed or changed its type.
pub fn fit(kept: &Table, live: &Structure) -> Result<Fit, String> {
    let at = live.tables.iter().position(|table| table.name == kept.name);
    let at = at.ok_or("the live database has no such table")?;
    let now = &live.tables[at];
    let mut fit = Fit {
        live: at,
        columns: Vec::new(),
        key: Vec::new(),
        notes: Vec::new(),
    };
    for (position, column) in kept.columns.iter().enumerate() {
        match now.column(&column.name) {
            None if column.hidden => {}
            None => fit.notes.push(gone(kept, now, position)?),
            Some(other) => {
                check_type(column, &now.columns[other])?;
                fit.columns.push((position, other));
            }
        }
    }
    let added = now.columns.iter();
    for column in added.filter(|column| kept.column(&column.name).is_none()) {
        let name = &column.name;
        if !has_default(column) {
            return Err(format!("column {name} came since, and has no default"));
        }
        let note = format!(
            "column {name} of {} came since and gets its default",
            kept.name
        );
        fit.notes.push(note);
    }
    let names = |table: &Table| -> Vec<String> {
        let key = table.key.iter().flat_map(|key| &key.columns);
        key.map(|&(at, _)| table.columns[at].name.clone()).collect()
    };
    if names(kept) != names(now) {
        return Err(format!(
            "its key was {} and is {} now",
            names(kept).join(", "),
            names(now).join(", ")
        ));
    }
    fit.key = now
        .key
        .iter()
        .flat_map(|key| &key.columns)
        .map(|&(at, _)| at)
        .collect();
    Ok(fit)
}

/// The note about a column that is gone; or that it seems to live on under another name.
fn gone(kept: &Table, now: &Table, position: usize) -> Result<String, String> {
    let column = &kept.columns[position];
    let heir = now
        .columns
        .get(position)
        .filter(|heir| kept.column(&heir.name).is_none() && heir.type_name == column.type_name);
    match heir {
        Some(heir) => Err(format!(
            "column {} seems to be {} now",
            column.name, heir.name
        )),
        None => Ok(format!(
            "column {} of {} is gone, its values stay in the snapshot",
            column.name, kept.name
        )),
    }
}

fn check_type(was: &Column, is: &Column) -> Result<(), String> {
    match was.type_name == is.type_name {
        true => Ok(()),
        false => Err(format!(
            "column {} was {} and is {} now",
            was.name,
            named_type(&was.type_name),
            named_type(&is.type_name)
        )),
    }
}

fn named_type(name: &str) -> &str {
    match name {
        "" => "without a type",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::row::schema::{Engine, Key, KeyOrder, KeyOrigin, TableName, ValueKind};

    fn table(columns: &[(&str, &str, bool)]) -> Table {
        let column = |&(name, type_name, nullable): &(&str, &str, bool)| Column {
            name: name.into(),
            type_name: type_name.into(),
            kind: ValueKind::Text,
            nullable,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        };
        Table {
            name: TableName {
                schema: None,
                name: "people".into(),
            },
            columns: columns.iter().map(column).collect(),
            generated: Vec::new(),
            key: Some(Key {
                origin: KeyOrigin::Primary,
                columns: vec![(0, KeyOrder::Bytes)],
            }),
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        }
    }

    fn tried(now: &[(&str, &str, bool)]) -> Result<Fit, String> {
        let kept = table(&[
            ("id", "uuid", false),
            ("name", "text", true),
            ("age", "int", true),
        ]);
        let live = Structure::of_tables(Engine::Postgres, vec![table(now)]);
        fit(&kept, &live)
    }

    #[test]
    fn columns_that_changed_are_told_or_refused() {
        let moved = tried(&[
            ("id", "uuid", false),
            ("age", "int", true),
            ("name", "text", true),
        ]);
        assert_eq!(moved.unwrap().columns, [(0, 0), (1, 2), (2, 1)]);
        let dropped = tried(&[("id", "uuid", false), ("name", "text", true)]).unwrap();
        assert!(dropped.notes[0].contains("column age"));
        let added = tried(&[
            ("id", "uuid", false),
            ("name", "text", true),
            ("age", "int", true),
            ("more", "text", true),
        ]);
        assert!(added.unwrap().notes[0].contains("default"));
        for (now, what) in [
            (
                vec![
                    ("id", "uuid", false),
                    ("full_name", "text", true),
                    ("age", "int", true),
                ],
                "seems to be full_name",
            ),
            (
                vec![
                    ("id", "uuid", false),
                    ("name", "text", true),
                    ("age", "bigint", true),
                ],
                "was int and is bigint",
            ),
            (
                vec![
                    ("id", "uuid", false),
                    ("name", "text", true),
                    ("age", "int", true),
                    ("must", "text", false),
                ],
                "no default",
            ),
            (
                vec![
                    ("name", "text", true),
                    ("id", "uuid", false),
                    ("age", "int", true),
                ],
                "its key",
            ),
        ] {
            let refused = tried(&now).unwrap_err();
            assert!(refused.contains(what), "{refused}");
        }
    }
}
