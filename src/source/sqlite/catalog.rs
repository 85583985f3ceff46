//! What a database file consists of: its settings, its definitions, its tables.
//!
//! Read from `sqlite_schema` and pragmas, without running anything that a schema brings along:
//! no view, no trigger, no virtual table is touched. Invariant: definitions are kept byte for
//! byte, and every b-tree with rows (shadow and internal tables too) is a table of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::{Error, sql, types};
use crate::row::schema::{
    Column, Engine, ForeignKey, Key, KeyOrder, KeyOrigin, OnDelete, Structure, StructurePart,
    Table, TableName, ValueKind,
};
use crate::source::address::SourceOptions;

/// The name of the structure part that a capture writes and a restore reads.
pub const PART: &str = "sqlite_schema";
const VERSION: u32 = 1;
const COLUMNS_MAX: usize = 2000;

/// The content of the part [`PART`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    version: u32,
    /// Settings of the file.
    pub settings: Settings,
    /// Rows of `sqlite_schema`, in their order.
    pub objects: Vec<Object>,
}

/// Settings that live in a database file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Bytes of a page.
    pub page_size: u32,
    /// As `PRAGMA encoding` prints it.
    pub encoding: String,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u8,
    /// The application's own number.
    pub user_version: i32,
    /// The application's own mark.
    pub application_id: i32,
    /// Whether the file is in WAL mode.
    pub wal: bool,
}

/// A row of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// Its definition; none for what SQLite makes by itself.
    pub sql: Option<String>,
}

impl Object {
    /// Whether it is a virtual table.
    pub fn is_virtual(&self) -> bool {
        self.kind == "table"
            && self.sql.as_deref().and_then(sql::definition) == Some(sql::Definition::VirtualTable)
    }

    /// Whether it is a table with rows of its own.
    pub fn has_rows(&self) -> bool {
        self.kind == "table" && !self.is_virtual()
    }
}

impl Schema {
    /// The part that carries this schema.
    pub fn to_part(&self) -> StructurePart {
        let bytes = rmp_serde::to_vec_named(self).expect("numbers and strings always serialise");
        StructurePart {
            name: PART.into(),
            bytes,
        }
    }

    /// The schema that `structure` carries.
    ///
    /// # Errors
    /// [`Error::Structure`]: none, of another version, or not one.
    pub fn from_structure(structure: &Structure) -> Result<Self, Error> {
        let refuse = |what: String| Error::Structure { what };
        if structure.engine != Engine::Sqlite {
            return Err(refuse(format!("it is that of {}", structure.engine)));
        }
        let part = structure.parts.iter().find(|part| part.name == PART);
        let part = part.ok_or_else(|| refuse(format!("part {PART} is absent")))?;
        let schema: Schema = rmp_serde::from_slice(&part.bytes)
            .map_err(|error| refuse(format!("part {PART} does not parse: {error}")))?;
        if schema.version != VERSION {
            return Err(refuse(format!(
                "part {PART} has version {}",
                schema.version
            )));
        }
        Ok(schema)
    }
}

/// Reads the structure of the database that `connection` has a transaction on.
///
/// # Errors
/// Damaged; Unkept for what is no text.
pub fn read(
    connection: &Connection,
    path: &Path,
    options: &SourceOptions,
) -> Result<Structure, Error> {
    let failed = |error| Error::from_sqlite(path, "reading its schema", error);
    let settings = settings(connection).map_err(failed)?;
    let all = objects(connection, path)?;
    let mut catalog = Catalog {
        connection,
        path,
        primary: HashMap::new(),
    };
    let mut warnings = Vec::new();
    let mut excluded = Vec::new();
    let mut objects = Vec::new();
    let mut tables = Vec::new();
    for object in all {
        if options.excludes(&table_name(&object.table)) {
            if object.kind == "table" {
                excluded.push(object.name);
            }
            continue;
        }
        if object.kind == "table" {
            let mut table = catalog.table(&object)?;
            table.with_rows &= !options.excludes_data(&table.name);
            tables.push(table);
        }
        objects.push(object);
    }
    if !excluded.is_empty() {
        warnings.push(format!("left out as configured: {}", excluded.join(", ")));
    }
    warnings.extend(catalog.unknown_collations(&objects).map_err(failed)?);
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    let schema = Schema {
        version: VERSION,
        settings,
        objects,
    };
    Ok(Structure {
        engine: Engine::Sqlite,
        tables,
        parts: vec![schema.to_part()],
        facts: facts(&schema.settings),
        warnings,
    })
}

fn facts(settings: &Settings) -> BTreeMap<String, String> {
    let mode = if settings.wal { "wal" } else { "rollback" };
    [
        ("sqlite_version", rusqlite::version().to_owned()),
        ("page_size", settings.page_size.to_string()),
        ("encoding", settings.encoding.clone()),
        ("auto_vacuum", settings.auto_vacuum.to_string()),
        ("user_version", settings.user_version.to_string()),
        ("application_id", settings.application_id.to_string()),
        ("journal_mode", mode.to_owned()),
        ("consistency", "one read transaction".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn settings(connection: &Connection) -> rusqlite::Result<Settings> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let text =
        |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
    Ok(Settings {
        page_size: number("page_size")? as u32,
        encoding: text("encoding")?,
        auto_vacuum: number("auto_vacuum")? as u8,
        user_version: number("user_version")? as i32,
        application_id: number("application_id")? as i32,
        wal: text("journal_mode")?.eq_ignore_ascii_case("wal"),
    })
}

/// The encoding of the text in the database.
///
/// # Errors
/// [`Error::Refused`]: an encoding that SQLite does not have today.
pub fn encoding(connection: &Connection, path: &Path) -> Result<types::Encoding, Error> {
    let name = connection
        .pragma_query_value(None, "encoding", |row| row.get::<_, String>(0))
        .map_err(|error| Error::from_sqlite(path, "reading its encoding", error))?;
    types::Encoding::from_name(&name).ok_or_else(|| Error::Refused {
        path: path.to_owned(),
        doing: "reading its text".into(),
        what: format!("encoding {name}"),
    })
}

/// All rows of `sqlite_schema`.
///
/// # Errors
/// Damaged; Unkept for a name or definition that is not UTF-8.
pub fn objects(connection: &Connection, path: &Path) -> Result<Vec<Object>, Error> {
    let failed = |error| Error::from_sqlite(path, "reading its schema", error);
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        objects.push(Object {
            kind: text(row, 0, path)?.unwrap_or_default(),
            name: text(row, 1, path)?.unwrap_or_default(),
            table: text(row, 2, path)?.unwrap_or_default(),
            sql: text(row, 3, path)?,
        });
    }
    Ok(objects)
}

fn text(row: &Row<'_>, column: usize, path: &Path) -> Result<Option<String>, Error> {
    let value = row
        .get_ref(column)
        .map_err(|error| Error::from_sqlite(path, "reading its schema", error))?;
    match value {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Error::Unkept {
                path: path.to_owned(),
                what: format!("the definition {:?}", String::from_utf8_lossy(bytes)),
                why: "it is not valid UTF-8".into(),
            }),
        },
        _ => Err(Error::Damaged {
            path: path.to_owned(),
            doing: "reading its schema".into(),
            what: "a definition is not text".into(),
        }),
    }
}

fn table_name(name: &str) -> TableName {
    TableName {
        schema: None,
        name: name.to_owned(),
    }
}

/// What `PRAGMA index_list` says of one index.
struct Index {
    name: String,
    unique: bool,
    origin: String,
    partial: bool,
}

struct Catalog<'a> {
    connection: &'a Connection,
    path: &'a Path,
    /// Columns of primary keys, by table, as they were asked for.
    primary: HashMap<String, Vec<String>>,
}

impl Catalog<'_> {
    fn table(&mut self, object: &Object) -> Result<Table, Error> {
        let mut table = Table {
            name: table_name(&object.name),
            columns: Vec::new(),
            generated: Vec::new(),
            key: None,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        };
        let definition = object.sql.as_deref().unwrap_or_default();
        if object.is_virtual() {
            table.with_rows = false;
            table
                .facts
                .insert("virtual".into(), sql::module(definition));
            return Ok(table);
        }
        if sql::definition(definition) != Some(sql::Definition::Table) {
            return Err(Error::Damaged {
                path: self.path.to_owned(),
                doing: "reading its schema".into(),
                what: format!("table {:?} is not defined as a table", object.name),
            });
        }
        if sql::has_option(definition, "STRICT") {
            table.facts.insert("strict".into(), "yes".into());
        }
        let doing = format!("reading the schema of table {}", object.name);
        self.fill(&mut table)
            .map_err(|error| Error::from_sqlite(self.path, &doing, error))?;
        Ok(table)
    }

    fn fill(&mut self, table: &mut Table) -> rusqlite::Result<()> {
        let primary = self.columns(table)?;
        let indexes = self.indexes(&table.name.name)?;
        let own_index = indexes.iter().find(|index| index.origin == "pk");
        // The index of a WITHOUT ROWID table is the table itself, which sqlite_schema leaves out.
        let with_rowid = match own_index {
            Some(index) => self.has_entry(&index.name)?,
            None => true,
        };
        let integer_key = match (own_index, &primary[..]) {
            (None, [only]) => table.column(only),
            _ => None,
        };
        if !with_rowid {
            table.facts.insert("without_rowid".into(), "yes".into());
        } else if let Some(position) = integer_key {
            table.columns[position].kind = ValueKind::Integer;
        } else if let Some(hidden) = rowid_column(table) {
            table.columns.insert(0, hidden);
        }
        for index in indexes.iter().filter(|i| i.unique && !i.partial) {
            if let Some(columns) = self.index_columns(&index.name)? {
                table.unique.push(columns);
            }
        }
        table.key = match integer_key {
            Some(position) => Some(Key {
                origin: KeyOrigin::Primary,
                columns: vec![(position, KeyOrder::Integer)],
            }),
            None => self.declared_key(table, &primary, &indexes, with_rowid)?,
        };
        table.foreign_keys = self.foreign_keys(&table.name.name)?;
        Ok(())
    }

    /// A key of columns that cannot be NULL, or the rowid.
    fn declared_key(
        &self,
        table: &Table,
        primary: &[String],
        indexes: &[Index],
        with_rowid: bool,
    ) -> rusqlite::Result<Option<Key>> {
        let key = |origin: KeyOrigin, names: &[String]| {
            let positions = names.iter().map(|name| {
                let position = table.column(name)?;
                let fits = !table.columns[position].nullable || !with_rowid;
                fits.then_some((position, KeyOrder::Class))
            });
            let columns: Option<Vec<_>> = positions.collect();
            columns
                .filter(|c| !c.is_empty())
                .map(|columns| Key { origin, columns })
        };
        if let Some(found) = key(KeyOrigin::Primary, primary) {
            return Ok(Some(found));
        }
        for index in indexes.iter().rev().filter(|i| i.unique && !i.partial) {
            if let Some(columns) = self.index_columns(&index.name)?
                && let Some(found) = key(KeyOrigin::Unique(index.name.clone()), &columns)
            {
                return Ok(Some(found));
            }
        }
        let hidden = table.columns.iter().position(|column| column.hidden);
        Ok(hidden.map(|position| Key {
            origin: KeyOrigin::Rowid,
            columns: vec![(position, KeyOrder::Integer)],
        }))
    }

    /// Fills the columns in, and returns those of the primary key in its order.
    fn columns(&self, table: &mut Table) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare(
            "SELECT name, type, \"notnull\", dflt_value, pk, hidden
             FROM pragma_table_xinfo(?1, 'main') ORDER BY cid",
        )?;
        let mut rows = statement.query([&table.name.name])?;
        let mut primary: Vec<(i64, String)> = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let position: i64 = row.get(4)?;
            match row.get::<_, i64>(5)? {
                2 => table.generated.push((name, "VIRTUAL".into())),
                3 => table.generated.push((name, "STORED".into())),
                _ => table.columns.push(Column {
                    name: name.clone(),
                    type_name: row.get(1)?,
                    kind: ValueKind::Any,
                    nullable: !row.get::<_, bool>(2)?,
                    default: row.get(3)?,
                    collation: None,
                    hidden: false,
                    facts: BTreeMap::new(),
                }),
            }
            if position > 0 {
                primary.push((position, row.get(0)?));
            }
        }
        primary.sort();
        Ok(primary.into_iter().map(|(_, name)| name).collect())
    }

    fn indexes(&self, table: &str) -> rusqlite::Result<Vec<Index>> {
        let mut statement = self.connection.prepare(
            "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1, 'main') ORDER BY seq",
        )?;
        let rows = statement.query_map([table], |row| {
            Ok(Index {
                name: row.get(0)?,
                unique: row.get(1)?,
                origin: row.get(2)?,
                partial: row.get(3)?,
            })
        })?;
        rows.collect()
    }

    fn has_entry(&self, index: &str) -> rusqlite::Result<bool> {
        let mut statement = self
            .connection
            .prepare("SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = ?1)")?;
        statement.query_row([index], |row| row.get(0))
    }

    /// The columns of an index; none where it holds an expression.
    fn index_columns(&self, index: &str) -> rusqlite::Result<Option<Vec<String>>> {
        let mut statement = self
            .connection
            .prepare("SELECT name FROM pragma_index_info(?1, 'main') ORDER BY seqno")?;
        let names = statement.query_map([index], |row| row.get::<_, Option<String>>(0))?;
        names.collect()
    }

    fn foreign_keys(&mut self, table: &str) -> rusqlite::Result<Vec<ForeignKey>> {
        let mut statement = self.connection.prepare(
            "SELECT id, \"table\", \"from\", \"to\", on_delete
             FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
        )?;
        let mut rows = statement.query([table])?;
        let mut found: Vec<(i64, ForeignKey)> = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            if found.last().is_none_or(|(last, _)| *last != id) {
                found.push((
                    id,
                    ForeignKey {
                        name: String::new(),
                        columns: Vec::new(),
                        parent: table_name(&row.get::<_, String>(1)?),
                        parent_columns: Vec::new(),
                        on_delete: on_delete(&row.get::<_, String>(4)?),
                    },
                ));
            }
            if let Some((_, key)) = found.last_mut() {
                key.columns.push(row.get(2)?);
                key.parent_columns.extend(row.get::<_, Option<String>>(3)?);
            }
        }
        let mut keys: Vec<ForeignKey> = found.into_iter().map(|(_, key)| key).collect();
        for key in keys.iter_mut().filter(|key| key.parent_columns.is_empty()) {
            key.parent_columns = self.primary_of(&key.parent.name)?;
        }
        Ok(keys)
    }

    /// The primary key of a table that may not exist.
    fn primary_of(&mut self, table: &str) -> rusqlite::Result<Vec<String>> {
        if let Some(columns) = self.primary.get(table) {
            return Ok(columns.clone());
        }
        let mut statement = self.connection.prepare(
            "SELECT x.name FROM sqlite_schema s, pragma_table_xinfo(s.name, 'main') x
             WHERE s.type = 'table' AND s.rootpage > 0 AND s.name = ?1 COLLATE NOCASE AND x.pk > 0
             ORDER BY x.pk",
        )?;
        let names = statement.query_map([table], |row| row.get(0))?;
        let columns: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        self.primary.insert(table.to_owned(), columns.clone());
        Ok(columns)
    }

    /// One sentence for each index that no restore can build without its application.
    fn unknown_collations(&self, objects: &[Object]) -> rusqlite::Result<Vec<String>> {
        let known = self
            .connection
            .prepare("SELECT name FROM pragma_collation_list")?
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<rusqlite::Result<HashSet<String>>>()?;
        let mut warnings = Vec::new();
        let mut statement = self
            .connection
            .prepare("SELECT coll FROM pragma_index_xinfo(?1, 'main') WHERE key")?;
        for index in objects.iter().filter(|o| o.kind == "index") {
            let used = statement.query_map([&index.name], |row| row.get::<_, Option<String>>(0))?;
            for collation in used {
                let collation: Option<String> = collation?;
                match collation {
                    Some(name) if !known.iter().any(|k| k.eq_ignore_ascii_case(&name)) => {
                        warnings.push(format!(
                            "index {} uses collation {name}, which only its application has: it cannot be restored as a database",
                            index.name
                        ));
                    }
                    _ => {}
                }
            }
        }
        Ok(warnings)
    }
}

/// The rowid as a column, under whichever of its names the table has left free.
fn rowid_column(table: &Table) -> Option<Column> {
    let taken = |name: &str| {
        let columns = table.columns.iter().map(|column| &column.name);
        let generated = table.generated.iter().map(|(name, _)| name);
        columns
            .chain(generated)
            .any(|n| n.eq_ignore_ascii_case(name))
    };
    let name = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|n| !taken(n))?;
    (table.columns.len() < COLUMNS_MAX).then(|| Column {
        name: name.into(),
        type_name: "INTEGER".into(),
        kind: ValueKind::Integer,
        nullable: false,
        default: None,
        collation: None,
        hidden: true,
        facts: BTreeMap::new(),
    })
}

fn on_delete(action: &str) -> OnDelete {
    match action {
        "CASCADE" => OnDelete::Cascade,
        "SET NULL" => OnDelete::SetNull,
        "SET DEFAULT" => OnDelete::SetDefault,
        _ => OnDelete::Restrict,
    }
}
