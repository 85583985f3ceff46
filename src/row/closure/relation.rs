//! Relations: which rows refer to which, declared by the database or known only to the CRM.
//!
//! A foreign key is a relation, and so is a pair of columns that an application fills by convention:
//! a bare id, a type with an id, a flag that stands for deletion. Invariant: plain data; where a
//! relation came from is kept, because a broken convention is told and a broken key is refused.

use std::fmt;

use crate::row::cell::Cell;
use crate::row::schema::{Column, Engine, OnDelete, Table, TableName, ValueKind};

/// Where Django keeps the number of a content type.
const TYPE_COLUMN: &str = "content_type_id";

/// Where a relation is known from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A foreign key of the database, by its name.
    Declared(String),
    /// A convention of an application, by the name of its list.
    Convention(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Declared(name) if name.is_empty() => f.write_str("foreign key"),
            Origin::Declared(name) => write!(f, "foreign key {name}"),
            Origin::Convention(name) => write!(f, "convention of {name}"),
        }
    }
}

/// How a column that names a table spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Exactly as the condition says.
    Exact,
    /// With dots where the table's name has underscores (Odoo's models).
    Dotted,
}

/// When a relation holds for a row: a column of it names the parent's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The column of the child.
    pub column: String,
    /// What it must say.
    pub value: String,
    /// How it is spelled.
    pub spelling: Spelling,
}

impl Condition {
    /// Whether the relation holds where the column has `cell`.
    pub fn holds(&self, cell: &Cell<'_>) -> bool {
        let text = match cell {
            Cell::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Cell::Integer(value) => value.to_string(),
            _ => return false,
        };
        match self.spelling {
            Spelling::Exact => text == self.value,
            Spelling::Dotted => text.replace('.', "_") == self.value,
        }
    }
}

/// Columns of one table that name a row of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The referring table.
    pub child: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub parent: TableName,
    /// Its columns, in the same order.
    pub parent_columns: Vec<String>,
    /// What a deletion of the parent does, as far as it is known.
    pub on_delete: OnDelete,
    /// When it holds; none for always.
    pub when: Option<Condition>,
    /// Where it is known from.
    pub origin: Origin,
    /// Whether both rows are one record of the application, so that one is nothing alone.
    pub extends: bool,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (columns, parents) = (self.columns.join(", "), self.parent_columns.join(", "));
        write!(
            f,
            "{} ({columns}) -> {} ({parents})",
            self.child, self.parent
        )?;
        if let Some(when) = &self.when {
            write!(f, " where {} = {}", when.column, when.value)?;
        }
        Ok(())
    }
}

/// When a flag says that a row is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The column has this value.
    Is(String),
    /// The column is not NULL (a time of deletion).
    NotNull,
}

/// A column that stands for deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftDeletion {
    /// The table.
    pub table: TableName,
    /// The column.
    pub column: String,
    /// When the row counts as deleted.
    pub deleted: Deleted,
}

impl SoftDeletion {
    /// Whether a row with `cell` in the column is deleted.
    pub fn is_deleted(&self, cell: &Cell<'_>) -> bool {
        match (&self.deleted, cell) {
            (Deleted::NotNull, cell) => !matches!(cell, Cell::Null),
            (Deleted::Is(value), Cell::Integer(number)) => number.to_string() == *value,
            (Deleted::Is(value), Cell::Text(text)) => {
                // PostgreSQL writes a boolean as one letter.
                let letter = text.len() == 1 && value.as_bytes().starts_with(text);
                *text == value.as_bytes() || (letter && value.parse::<bool>().is_ok())
            }
            _ => false,
        }
    }
}

/// All relations that are known of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relations {
    /// Relations that no foreign key declares; those that one does are found in the tables.
    pub conventions: Vec<Relation>,
    /// Flags that stand for deletion.
    pub soft: Vec<SoftDeletion>,
    /// Whether rows refer to others through Django's table of content types.
    pub content_types: bool,
    /// The lists that they come from.
    pub lists: Vec<String>,
}

/// The relations that `tables` declare as foreign keys.
pub fn declared(tables: &[Table]) -> Vec<Relation> {
    let mut found = Vec::new();
    for table in tables {
        for key in &table.foreign_keys {
            found.push(Relation {
                child: table.name.clone(),
                columns: key.columns.clone(),
                parent: key.parent.clone(),
                parent_columns: key.parent_columns.clone(),
                on_delete: key.on_delete,
                when: None,
                origin: Origin::Declared(key.name.clone()),
                extends: false,
            });
        }
    }
    found
}

impl Relations {
    /// All relations among `tables`: foreign keys, and conventions that no foreign key declares. What
    /// is one record by convention is one record where a foreign key says the same.
    pub fn among(&self, tables: &[Table]) -> Vec<Relation> {
        let mut all = declared(tables);
        for convention in &self.conventions {
            let mut same = all.iter_mut().filter(|one| {
                matches!(one.origin, Origin::Declared(_))
                    && (&one.child, &one.columns, &one.parent)
                        == (&convention.child, &convention.columns, &convention.parent)
            });
            match (same.next(), &convention.when) {
                (Some(declared), None) => declared.extends |= convention.extends,
                _ => all.push(convention.clone()),
            }
        }
        all
    }
}

/// The relations of every table with a type and an id, where `id` is the number of the content type
/// of `model` in `app`; none where its table is not there, or has a key of several columns.
pub fn of_content_type(tables: &[Table], id: &str, app: &str, model: &str) -> Vec<Relation> {
    let name = format!("{app}_{model}");
    let mut found = Vec::new();
    for parent in tables.iter().filter(|table| table.name.name == name) {
        let key = parent.key.iter().flat_map(|key| &key.columns);
        let [(at, _)] = key.copied().collect::<Vec<_>>()[..] else {
            continue;
        };
        for child in tables
            .iter()
            .filter(|one| one.name.schema == parent.name.schema)
        {
            for column in ["object_id", "object_pk"] {
                let both = child.column(column).is_some() && child.column(TYPE_COLUMN).is_some();
                // The log of the admin tells what people did; it is no part of a record.
                if !both || child.name.name == "django_admin_log" {
                    continue;
                }
                found.push(Relation {
                    child: child.name.clone(),
                    columns: vec![column.to_owned()],
                    parent: parent.name.clone(),
                    parent_columns: vec![parent.columns[at].name.clone()],
                    on_delete: OnDelete::Restrict,
                    when: Some(Condition {
                        column: TYPE_COLUMN.to_owned(),
                        value: id.to_owned(),
                        spelling: Spelling::Exact,
                    }),
                    origin: Origin::Convention("Django".into()),
                    extends: false,
                });
            }
        }
    }
    found
}

/// Appends the form in which a reference and what it refers to are the same bytes, as far as the
/// server would call them equal; false where the cell refers to nothing.
pub fn push_reference(engine: Engine, column: &Column, cell: &Cell<'_>, out: &mut Vec<u8>) -> bool {
    let text = match cell {
        Cell::Null | Cell::Large(_) => return false,
        Cell::Integer(value) => value.to_string().into_bytes(),
        Cell::Real(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            (*value as i64).to_string().into_bytes()
        }
        Cell::Real(value) => format!("{value:?}").into_bytes(),
        Cell::Text(bytes) | Cell::Blob(bytes) => text_form(engine, column, bytes),
    };
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(&text);
    true
}

/// The canonical bytes of every cell that `theirs` can have where [`push_reference`] makes the same of
/// it as of `cell` in `own`; none where that cannot be told.
pub fn same_cells(
    engine: Engine,
    own: &Column,
    theirs: &Column,
    cell: &Cell<'_>,
) -> Option<Vec<Vec<u8>>> {
    let mut form = Vec::new();
    if !push_reference(engine, own, cell, &mut form) {
        return None;
    }
    // The form begins with its own length.
    let text = &form[8..];
    let pushed = |cells: &[Cell<'_>]| {
        let one = |cell: &Cell<'_>| {
            let mut bytes = Vec::new();
            cell.push(&mut bytes);
            bytes
        };
        Some(cells.iter().map(one).collect())
    };
    let both = |kind| own.kind == kind && theirs.kind == kind;
    if engine == Engine::Sqlite {
        let mut cells = vec![Cell::Text(text), Cell::Blob(text)];
        let number = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number {
            cells.extend([Cell::Integer(number), Cell::Real(number as f64)]);
            cells.extend((number == 0).then_some(Cell::Real(-0.0)));
        }
        // A real that is no whole number has more than one text: the table is read.
        return match cell {
            Cell::Real(value) if value.fract() != 0.0 => None,
            _ => pushed(&cells),
        };
    }
    if both(ValueKind::Integer) && !theirs.type_name.contains("zerofill") {
        return pushed(&[Cell::Text(text)]);
    }
    let exact = engine == Engine::Postgres && own.type_name == theirs.type_name;
    let compared = ["uuid", "text"].contains(&theirs.type_name.as_str())
        || theirs.type_name.starts_with("character varying");
    match (exact && compared, cell) {
        (true, Cell::Text(bytes)) if !bytes.ends_with(b" ") => pushed(&[Cell::Text(bytes)]),
        _ => None,
    }
}

fn text_form(engine: Engine, column: &Column, bytes: &[u8]) -> Vec<u8> {
    if column.kind == ValueKind::Integer {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(number) = text.trim().parse::<i128>() {
            return number.to_string().into_bytes();
        }
    }
    let padded = column.type_name.starts_with("char");
    match std::str::from_utf8(bytes) {
        // Most collations of MySQL take upper and lower case for the same, and no spaces at the end
        // for as good as some.
        Ok(text) if engine == Engine::Mysql && column.kind == ValueKind::Text => {
            text.trim_end_matches(' ').to_lowercase().into_bytes()
        }
        Ok(text) if padded => text.trim_end_matches(' ').as_bytes().to_vec(),
        _ => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn column(kind: ValueKind, type_name: &str) -> Column {
        Column {
            name: "c".into(),
            type_name: type_name.into(),
            kind,
            nullable: true,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        }
    }

    fn form(engine: Engine, kind: ValueKind, type_name: &str, cell: Cell<'_>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        push_reference(engine, &column(kind, type_name), &cell, &mut out).then_some(out)
    }

    #[test]
    fn references_meet_what_they_name_across_types() {
        use Engine::{Mysql, Postgres, Sqlite};
        let any = |cell| form(Sqlite, ValueKind::Any, "", cell);
        assert_eq!(any(Cell::Integer(42)), any(Cell::Text(b"42")));
        assert_eq!(any(Cell::Integer(42)), any(Cell::Real(42.0)));
        assert_ne!(any(Cell::Integer(42)), any(Cell::Text(b"042")));
        assert_eq!(any(Cell::Null), None);
        let zerofill = form(Mysql, ValueKind::Integer, "int", Cell::Text(b"007"));
        let plain = form(Mysql, ValueKind::Integer, "int", Cell::Text(b"7"));
        assert_eq!(zerofill, plain);
        let upper = form(Mysql, ValueKind::Text, "varchar(36)", Cell::Text(b"AB-1"));
        let lower = form(Mysql, ValueKind::Text, "char(36)", Cell::Text(b"ab-1 "));
        assert_eq!(upper, lower);
        let postgres = |text| form(Postgres, ValueKind::Text, "text", Cell::Text(text));
        assert_ne!(postgres(b"A"), postgres(b"a"));
    }

    #[test]
    fn cells_that_a_reference_can_have_are_all_there_or_none_is_said() {
        let (any, int) = (
            column(ValueKind::Any, ""),
            column(ValueKind::Integer, "bigint"),
        );
        let bytes = |cell: Cell<'_>| {
            let mut out = Vec::new();
            cell.push(&mut out);
            out
        };
        let found = same_cells(Engine::Sqlite, &any, &any, &Cell::Integer(7)).unwrap();
        for cell in [
            Cell::Integer(7),
            Cell::Text(b"7"),
            Cell::Real(7.0),
            Cell::Blob(b"7"),
        ] {
            assert!(found.contains(&bytes(cell)), "{cell:?}");
        }
        let found = same_cells(Engine::Mysql, &int, &int, &Cell::Text(b"007")).unwrap();
        assert_eq!(found, [bytes(Cell::Text(b"7"))]);
        let zerofill = column(ValueKind::Integer, "int(5) unsigned zerofill");
        assert_eq!(
            same_cells(Engine::Mysql, &int, &zerofill, &Cell::Text(b"7")),
            None
        );
        let text = column(ValueKind::Text, "varchar(36)");
        assert_eq!(
            same_cells(Engine::Mysql, &text, &text, &Cell::Text(b"a")),
            None
        );
        assert_eq!(same_cells(Engine::Sqlite, &any, &any, &Cell::Null), None);
    }

    #[test]
    fn conditions_and_flags_read_what_servers_write() {
        let dotted = Condition {
            column: "res_model".into(),
            value: "res_partner".into(),
            spelling: Spelling::Dotted,
        };
        assert!(dotted.holds(&Cell::Text(b"res.partner")));
        assert!(!dotted.holds(&Cell::Text(b"res.partner.bank")));
        assert!(!dotted.holds(&Cell::Null));
        let flag = |deleted| SoftDeletion {
            table: TableName {
                schema: None,
                name: "t".into(),
            },
            column: "c".into(),
            deleted,
        };
        let one = flag(Deleted::Is("1".into()));
        assert!(one.is_deleted(&Cell::Integer(1)) && one.is_deleted(&Cell::Text(b"1")));
        assert!(!one.is_deleted(&Cell::Integer(0)) && !one.is_deleted(&Cell::Null));
        let truth = flag(Deleted::Is("true".into()));
        assert!(truth.is_deleted(&Cell::Text(b"t")) && !truth.is_deleted(&Cell::Text(b"f")));
        let time = flag(Deleted::NotNull);
        assert!(time.is_deleted(&Cell::Text(b"2026-01-01")) && !time.is_deleted(&Cell::Null));
    }
}
