//! What a `pg_dump` archive leaves out, as a document of its own.
//!
//! A schema-only archive has no counters, no large objects, does not say which materialised
//! views were filled, and its database-level settings are bound to the old name. Invariant: all
//! of it was read inside the capture's snapshot, but for counters, which a server does not
//! version: they are read after it, so that they are never behind the rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::failure::Class;
use crate::row::schema::{
    Column, Key, KeyOrder, KeyOrigin, Structure, StructurePart, Table, TableName, ValueKind,
};

/// The name of the part that holds the archive.
pub const ARCHIVE: &str = "pg_dump";
/// The name of the part that holds [`State`] as JSON.
pub const STATE: &str = "postgres_state";
/// The schema and name under which large objects are captured as rows.
pub const LARGE_OBJECTS: (&str, &str) = ("pg_catalog", "pg_largeobject");

/// Everything that the archive leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The database itself.
    pub database: Database,
    /// Roles that are needed, by name, and what for.
    pub roles: Vec<(String, RoleUse)>,
    /// Tablespaces that something lies in, but for the default.
    pub tablespaces: Vec<String>,
    /// Counters.
    pub sequences: Vec<Sequence>,
    /// Large objects without their bytes.
    pub large_objects: Vec<LargeObject>,
    /// Filled materialised views, in the order of their making.
    pub filled_views: Vec<(String, String)>,
    /// Foreign keys into tables whose rows are left out: (schema, table, name, definition).
    pub unchecked_keys: Vec<(String, String, String, String)>,
}

/// What a role is needed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleUse {
    /// It owns something.
    pub owns: bool,
    /// It is granted something.
    pub granted: bool,
    /// A policy names it.
    pub policy: bool,
}

/// A database's own properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name when it was captured.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Its encoding.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `c` (libc), `i` (ICU) or `b` (built in).
    pub provider: String,
    /// The locale of ICU or the built-in provider.
    pub locale: Option<String>,
    /// ICU's further rules.
    pub rules: Option<String>,
    /// How many may connect; -1 for no limit.
    pub connection_limit: i64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its rights; none where they are the default.
    pub grants: Option<Vec<Grant>>,
    /// `ALTER DATABASE … SET`, as (role or none, `name=value`).
    pub settings: Vec<(Option<String>, String)>,
}

/// One right of one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role; none for everybody.
    pub role: Option<String>,
    /// The right.
    pub right: String,
    /// Whether it may be handed on.
    pub grantable: bool,
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The last value given out or, before the first, the value to give.
    pub last_value: i64,
    /// Whether `last_value` was given out.
    pub is_called: bool,
}

/// A large object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObject {
    /// Its number.
    pub oid: u32,
    /// Its owner.
    pub owner: String,
    /// Its comment.
    pub comment: Option<String>,
    /// Its rights; none where they are the default.
    pub grants: Option<Vec<Grant>>,
}

impl State {
    /// The part that carries this.
    pub fn to_part(&self) -> StructurePart {
        StructurePart {
            name: STATE.into(),
            bytes: serde_json::to_vec(self).expect("plain texts and numbers are JSON"),
        }
    }

    /// What the part in `structure` says.
    ///
    /// # Errors
    /// Corrupt: there is none, or it does not parse.
    pub fn of(structure: &Structure) -> Result<Self, Error> {
        let bytes = part(structure, STATE)?;
        serde_json::from_slice(bytes).map_err(|error| {
            Error::stated(
                Class::Corrupt,
                format!("the snapshot's {STATE} part does not parse: {error}"),
                "restore another snapshot",
            )
        })
    }
}

/// The bytes of the part `name`.
///
/// # Errors
/// Corrupt: there is none.
pub fn part<'s>(structure: &'s Structure, name: &str) -> Result<&'s [u8], Error> {
    let found = structure.parts.iter().find(|part| part.name == name);
    found.map(|part| &part.bytes[..]).ok_or_else(|| {
        Error::stated(
            Class::Corrupt,
            format!("the snapshot has no {name} part"),
            "restore another snapshot",
        )
    })
}

/// Large objects as a table: their bytes are rows of 2 KiB pages.
pub fn large_objects() -> Table {
    let column = |name: &str, type_name: &str, kind| Column {
        name: name.into(),
        type_name: type_name.into(),
        kind,
        nullable: false,
        default: None,
        collation: None,
        hidden: false,
        facts: BTreeMap::new(),
    };
    Table {
        name: TableName {
            schema: Some(LARGE_OBJECTS.0.into()),
            name: LARGE_OBJECTS.1.into(),
        },
        columns: vec![
            column("loid", "oid", ValueKind::Integer),
            column("pageno", "integer", ValueKind::Integer),
            column("data", "bytea", ValueKind::Text),
        ],
        generated: Vec::new(),
        key: Some(Key {
            origin: KeyOrigin::Primary,
            columns: vec![(0, KeyOrder::Integer), (1, KeyOrder::Integer)],
        }),
        foreign_keys: Vec::new(),
        unique: Vec::new(),
        with_rows: true,
        facts: BTreeMap::from([("large_objects".into(), "true".into())]),
    }
}
