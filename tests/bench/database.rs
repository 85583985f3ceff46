//! The databases that are backed up: what fills one, edits it and writes it out for the peers.
//!
//! Servers are this program's own: in a temporary directory, on a Unix socket, ended with the run.
//! Invariant: every engine gets the same rows and the same edits.

pub mod mysql;
pub mod neighbour;
pub mod postgres;
pub mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;

use rowvault::row::schema::Engine;
use rowvault::sample::churn::Edit;
use rowvault::sample::{Row, Sample, Table, Value};

use crate::tools::Tool;
use neighbour::Neighbour;

/// A database with the sample in it.
pub trait Database {
    /// The engine's name.
    fn name(&self) -> &'static str;
    /// The program's and the server's version.
    fn version(&self) -> String;
    /// Makes the sample.
    fn fill(&mut self, sample: &Sample);
    /// Applies a part of a day's edits, in one transaction.
    fn apply(&mut self, edits: Vec<Edit>);
    /// The rows with these keys as text, each empty where it is gone; not every engine can say.
    fn rows(&self, _wanted: &[(Table, Vec<Value>)]) -> Option<Vec<Vec<u8>>> {
        None
    }
    /// Its address.
    fn url(&self) -> String;
    /// The line that writes it as a dump to stdout.
    fn dump(&self) -> String;
    /// An address where a copy called `name` may be made, and the line that loads a dump there.
    fn copy(&mut self, name: &str) -> Copy;
    /// Takes a copy away.
    fn discard(&mut self, copy: &Copy);
    /// The process id of its server.
    fn server(&self) -> Option<u32> {
        None
    }
    /// Another database of its server, to be written into meanwhile.
    fn neighbour(&self) -> Option<Neighbour> {
        None
    }
    /// The peer that knows this engine alone, if it is installed.
    fn own_tool(&self, _directory: &Path) -> Option<Box<dyn Tool>> {
        None
    }
}

/// Where a copy may be made.
pub struct Copy {
    /// Its name.
    pub name: String,
    /// The address for rowvault, of what is not there yet.
    pub url: String,
    /// The line that makes it and loads the dump from stdin.
    pub load: String,
    /// The lines that write and load it by the engine's own parallel dump, where it has one.
    pub parallel: Option<(String, String)>,
}

/// The edits as one script of the engine's SQL, in one transaction.
pub fn script(edits: &[Edit], engine: Engine) -> String {
    let quote = match engine {
        Engine::Mysql => '`',
        _ => '"',
    };
    let mut sql = String::from("BEGIN;\n");
    for edit in edits {
        match edit {
            Edit::Insert { table, row } => insert(&mut sql, quote, engine, *table, row),
            Edit::Update {
                table,
                key,
                columns,
            } => {
                let columns = columns.iter().map(|(at, value)| (*at, value));
                let set = equals(columns, *table, engine, ", ");
                let key = equals(key.iter().enumerate(), *table, engine, " AND ");
                let name = table.name();
                sql.push_str(&format!(
                    "UPDATE {quote}{name}{quote} SET {set} WHERE {key};\n"
                ));
            }
            Edit::Delete { table, key } => {
                let key = equals(key.iter().enumerate(), *table, engine, " AND ");
                let name = table.name();
                sql.push_str(&format!("DELETE FROM {quote}{name}{quote} WHERE {key};\n"));
            }
        }
    }
    sql.push_str("COMMIT;\n");
    sql
}

fn insert(sql: &mut String, quote: char, engine: Engine, table: Table, row: &Row) {
    let values: Vec<String> = row.iter().map(|value| value.to_literal(engine)).collect();
    let (name, values) = (table.name(), values.join(", "));
    sql.push_str(&format!(
        "INSERT INTO {quote}{name}{quote} VALUES ({values});\n"
    ));
}

fn equals<'a>(
    values: impl Iterator<Item = (usize, &'a Value)>,
    table: Table,
    engine: Engine,
    between: &str,
) -> String {
    let all: Vec<String> = values
        .map(|(at, value)| {
            let column = table.columns()[at].name;
            format!("{column} = {}", value.to_literal(engine))
        })
        .collect();
    all.join(between)
}

/// How many bytes the rows that `edits` changed have under zstd level 3, in one stream, sorted by
/// table and key; of a deleted row, its key. It is the least that any row-wise tool would store.
pub fn changed_rows(database: &dyn Database, edits: &[Edit]) -> Option<u64> {
    let mut changed: BTreeMap<(Table, Vec<String>), Vec<Value>> = BTreeMap::new();
    for edit in edits {
        let (table, key) = match edit {
            Edit::Insert { table, row } => (*table, &row[..table.key_columns()]),
            Edit::Update { table, key, .. } | Edit::Delete { table, key } => (*table, &key[..]),
        };
        let name = key.iter().map(Value::to_text).collect();
        changed.insert((table, name), key.to_vec());
    }
    let (names, wanted): (Vec<_>, Vec<_>) = changed
        .into_iter()
        .map(|((table, name), key)| (name, (table, key)))
        .unzip();
    let mut all = Vec::new();
    for (name, row) in names.iter().zip(database.rows(&wanted)?) {
        match row.is_empty() {
            true => all.extend(name.join("\t").bytes()),
            false => all.extend(row),
        }
    }
    let packed = zstd::bulk::compress(&all, 3).expect("zstd compresses anything");
    Some(packed.len() as u64)
}

/// A path in single quotes, for a line of shell.
pub fn shell(path: &Path) -> String {
    format!("'{}'", path.display())
}
