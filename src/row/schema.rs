//! What a table looks like: columns, key, relations, as data.
//!
//! Engines fill these in, manifests carry them, and the verbs on records work from them without
//! asking a server. Invariant: `columns` are exactly the cells of a row, in their order.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of database that a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// SQLite 3.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL or MariaDB; the facts say which.
    Mysql,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Sqlite => "SQLite",
            Engine::Postgres => "PostgreSQL",
            Engine::Mysql => "MySQL/MariaDB",
        })
    }
}

/// A table's name; `schema` is none where the engine has no schemas (SQLite, MySQL).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, as the server spells it.
    pub schema: Option<String>,
    /// The table, as the server spells it.
    pub name: String,
}

impl fmt::Display for TableName {
    /// `schema.name`, unquoted: for people and for choosing a table, never for SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// How a column's values are to be read by people and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueKind {
    /// Text in the server's form, whatever the type.
    Text,
    /// Whole numbers in decimal digits.
    Integer,
    /// Other numbers.
    Number,
    /// Bytes that are no text.
    Bytes,
    /// Each cell has its own class (SQLite).
    Any,
}

/// A captured column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name, as the server spells it.
    pub name: String,
    /// The declared type, as the server prints it; empty where there is none (SQLite).
    pub type_name: String,
    /// How values are read and compared.
    pub kind: ValueKind,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The default expression, as the server prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The collation, where it is not the database's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    /// True for a column that is not in the table's definition: SQLite's rowid.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Engine-specific facts (`identity`, `typmod`, …), for fingerprints and for restoring.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

/// How the canonical bytes of one key column are made, so that memcmp gives the run's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyOrder {
    /// A whole number of 64 bits, signed or unsigned, biased, big-endian.
    Integer,
    /// The 16 bytes of a UUID.
    Uuid,
    /// The bytes of the server's text.
    Bytes,
    /// SQLite: the storage class (integer, real, text, blob), then the value.
    Class,
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyOrigin {
    /// The primary key.
    Primary,
    /// A unique constraint or index of NOT NULL columns, by name.
    Unique(String),
    /// SQLite's rowid.
    Rowid,
}

/// The columns by which rows are sorted and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Where the key comes from.
    pub origin: KeyOrigin,
    /// Positions in [`Table::columns`], in key order, and how each is ordered.
    pub columns: Vec<(usize, KeyOrder)>,
}

/// What happens to a referencing row when the referenced one goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// The deletion is refused (NO ACTION too).
    Restrict,
    /// The row goes too.
    Cascade,
    /// The reference becomes NULL.
    SetNull,
    /// The reference becomes its default.
    SetDefault,
}

/// A foreign key that the database declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name; empty where it has none.
    pub name: String,
    /// The referencing columns of this table, by name.
    pub columns: Vec<String>,
    /// The referenced table.
    pub parent: TableName,
    /// The referenced columns, by name, in the same order.
    pub parent_columns: Vec<String>,
    /// What a deletion of the parent does.
    pub on_delete: OnDelete,
}

/// A table as it was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The name.
    pub name: TableName,
    /// The captured columns: the cells of a row, in this order.
    pub columns: Vec<Column>,
    /// Columns that the server makes itself (generated), by name, with their expression.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated: Vec<(String, String)>,
    /// The key; none where rows have none or its order cannot be had.
    pub key: Option<Key>,
    /// Foreign keys from this table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_keys: Vec<ForeignKey>,
    /// Further unique sets of columns, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unique: Vec<Vec<String>>,
    /// False where only the structure is captured (`exclude_data`, foreign tables).
    pub with_rows: bool,
    /// Engine-specific facts (`partition_of`, `engine`, `triggers`, `without_rowid`, …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
}

impl Table {
    /// The position of the captured column `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A piece of structure that only its engine understands (SQL text, a `pg_dump` archive).
#[derive(Clone, PartialEq, Eq)]
pub struct StructurePart {
    /// What it is, e.g. `sqlite_schema`, `pg_dump`, `show_create`.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for StructurePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StructurePart({}, {} bytes)",
            self.name,
            self.bytes.len()
        )
    }
}

/// Everything about a database at one instant but its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// The engine.
    pub engine: Engine,
    /// The tables, sorted by name.
    pub tables: Vec<Table>,
    /// What the engine needs to make it again; sealed for readers.
    pub parts: Vec<StructurePart>,
    /// Facts of the capture (server version, system identifier, consistency, tables outside the
    /// snapshot, page size, …), for manifests; never a secret.
    pub facts: BTreeMap<String, String>,
    /// Sentences for the person who runs the backup.
    pub warnings: Vec<String>,
}

impl Structure {
    /// The tables of a database of `engine`, and nothing else of it.
    pub fn of_tables(engine: Engine, tables: Vec<Table>) -> Structure {
        Structure {
            engine,
            tables,
            parts: Vec::new(),
            facts: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}
