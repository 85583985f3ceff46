//! A SQLite file in use, looked at and written to in one transaction.
//!
//! Triggers and foreign key actions are off, since they would do more than was asked; whoever
//! writes checks references. Invariant: a value is bound with its exact class and bytes, and a
//! conflict clause of the schema never removes another row.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::file::{self, Opened};
use super::sql::quoted;
use super::types::{Bound, Encoding, cell};
use super::worker::Worker;
use super::{Error, catalog};
use crate::failure::AnyFailure;
use crate::id::hex;
use crate::row::cell::{Cell, Cells, RowBatch};
use crate::row::schema::{Structure, Table};
use crate::source::address::SourceOptions;
use crate::source::{Change, Found, Live, Lookup, Purpose};

/// A database file in use.
pub struct SqliteLive {
    path: PathBuf,
    options: SourceOptions,
    open: Option<Open>,
    tables: Vec<Table>,
    triggers: Vec<Vec<String>>,
}

struct Open {
    worker: Worker,
    path: PathBuf,
    encoding: Encoding,
    /// Where the file is only looked at: what must live as long.
    looked_at: Option<Opened>,
}

type Begun = (Connection, (PathBuf, Option<Opened>, Structure, Encoding));

fn begin(path: &Path, options: &SourceOptions, purpose: Purpose) -> Result<Begun, Error> {
    let (connection, place, opened) = match purpose {
        Purpose::Look => {
            let (connection, opened) = file::open(path)?;
            (connection, opened.path.clone(), Some(opened))
        }
        Purpose::Write => {
            let (connection, place) = file::open_to_write(path)?;
            (connection, place, None)
        }
    };
    let structure = catalog::read(&connection, &place, options)?;
    let encoding = catalog::encoding(&connection, &place)?;
    Ok((connection, (place, opened, structure, encoding)))
}

fn read_triggers(
    connection: &Connection,
    path: &Path,
) -> Result<HashMap<String, Vec<String>>, Error> {
    let failed = |error| Error::from_sqlite(path, "reading its triggers", error);
    let sql = "SELECT tbl_name, name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)));
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    for row in rows.map_err(failed)? {
        let (table, name) = row.map_err(failed)?;
        found.entry(table.to_lowercase()).or_default().push(name);
    }
    Ok(found)
}

impl SqliteLive {
    /// The database that the file at `path` is. Nothing is opened before `begin`.
    pub fn new(path: &Path, options: &SourceOptions) -> Self {
        SqliteLive {
            path: path.to_owned(),
            options: options.clone(),
            open: None,
            tables: Vec::new(),
            triggers: Vec::new(),
        }
    }

    fn open(&self, what: &'static str) -> Result<&Open, Error> {
        self.open.as_ref().ok_or(Error::NotOpen { what })
    }

    async fn end(&mut self, statement: &'static str) -> Result<(), AnyFailure> {
        let what = "the end";
        let open = self.open.take().ok_or(Error::NotOpen { what })?;
        let path = open.path.clone();
        let ended = open.worker.call(move |connection| {
            let done = connection.execute_batch(statement);
            done.map_err(|error| Error::from_sqlite(&path, "ending the transaction", error))
        });
        let ended = ended.await;
        let closed = open.worker.close().await;
        ended?;
        closed.map_err(|error| Error::from_sqlite(&open.path, "closing it", error))?;
        match &open.looked_at {
            Some(opened) => Ok(opened.check_still()?),
            None => Ok(()),
        }
    }

    /// The statement for `change`, and the cells that are bound to it, in order.
    fn statement<'c>(&self, change: &'c Change) -> (String, Vec<Cell<'c>>) {
        // Values of a change were made by this program from rows that were read whole.
        let cells = |row: &'c [u8]| Cells::new(row).filter_map(Result::ok);
        let terms = |table: &Table, columns: &[usize], between: &str| {
            let names = columns.iter().map(|&at| quoted(&table.columns[at].name));
            let terms: Vec<String> = names.map(|name| format!("{name} = ?")).collect();
            terms.join(between)
        };
        match change {
            Change::Insert {
                table,
                columns,
                values,
            } => {
                let table = &self.tables[*table];
                let names: Vec<String> = columns
                    .iter()
                    .map(|&at| quoted(&table.columns[at].name))
                    .collect();
                let marks = vec!["?"; columns.len()].join(", ");
                let (name, names) = (quoted(&table.name.name), names.join(", "));
                let sql = format!("INSERT OR ABORT INTO main.{name}({names}) VALUES ({marks})");
                (sql, cells(values).collect())
            }
            Change::Update {
                table,
                columns,
                values,
                key,
            } => {
                let table = &self.tables[*table];
                let (name, set) = (quoted(&table.name.name), terms(table, columns, ", "));
                let of = terms(table, &key_columns(table), " AND ");
                let sql = format!("UPDATE OR ABORT main.{name} SET {set} WHERE {of}");
                (sql, cells(values).chain(cells(key)).collect())
            }
            Change::Delete { table, key } => {
                let table = &self.tables[*table];
                let of = terms(table, &key_columns(table), " AND ");
                let sql = format!("DELETE FROM main.{} WHERE {of}", quoted(&table.name.name));
                (sql, cells(key).collect())
            }
        }
    }
}

fn key_columns(table: &Table) -> Vec<usize> {
    let key = table.key.iter().flat_map(|key| &key.columns);
    key.map(|&(position, _)| position).collect()
}

/// Binds a cell with its class and bytes; none where the database's encoding cannot hold it.
fn value<'a>(encoding: Encoding, cell: &Cell<'a>) -> Option<ValueRef<'a>> {
    Some(match *cell {
        Cell::Null | Cell::Large(_) => ValueRef::Null,
        Cell::Integer(value) => ValueRef::Integer(value),
        Cell::Real(value) => ValueRef::Real(value),
        Cell::Blob(bytes) => ValueRef::Blob(bytes),
        // SQLite makes UTF-16 of text itself, which is right only for text that is well formed.
        Cell::Text(bytes) if encoding != Encoding::Utf8 && std::str::from_utf8(bytes).is_err() => {
            return None;
        }
        Cell::Text(bytes) => ValueRef::Text(bytes),
    })
}

fn literal(cell: &Cell<'_>) -> String {
    match *cell {
        Cell::Null | Cell::Large(_) => "NULL".into(),
        Cell::Integer(i64::MIN) => "(-9223372036854775807 - 1)".into(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) if value == f64::INFINITY => "9e999".into(),
        Cell::Real(value) if value == f64::NEG_INFINITY => "-9e999".into(),
        Cell::Real(value) => format!("{value:?}"),
        Cell::Blob(bytes) => format!("x'{}'", hex(bytes)),
        Cell::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(x'{}' AS TEXT)", hex(bytes)),
        },
    }
}

fn find(
    connection: &Connection,
    place: (&Path, Encoding),
    table: &Table,
    columns: &[usize],
    values: &RowBatch,
) -> Result<Vec<Found>, Error> {
    let (path, encoding) = place;
    let doing = format!("looking rows of table {} up", table.name);
    let failed = |error| Error::from_sqlite(path, &doing, error);
    let names: Vec<String> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    let terms: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(mark, &at)| format!("{} = ?{}", names[at], mark + 1))
        .collect();
    let sql = format!(
        "SELECT {} FROM main.{} WHERE {}",
        names.join(", "),
        quoted(&table.name.name),
        terms.join(" AND ")
    );
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let mut found = Vec::new();
    for (asked, wanted) in values.iter().enumerate() {
        let mut can_be = true;
        for (mark, cell) in Cells::new(wanted).filter_map(Result::ok).enumerate() {
            match value(encoding, &cell) {
                Some(value) => statement
                    .raw_bind_parameter(mark + 1, Bound(value))
                    .map_err(failed)?,
                None => can_be = false,
            }
        }
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(failed)?
            && can_be
        {
            let mut bytes = Vec::new();
            for at in 0..names.len() {
                cell(row.get_ref(at).map_err(failed)?).push(&mut bytes);
            }
            found.push(Found { asked, row: bytes });
        }
    }
    Ok(found)
}

#[async_trait]
impl Live for SqliteLive {
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure> {
        let (path, options) = (self.path.clone(), self.options.clone());
        let start = Worker::start("live", move || begin(&path, &options, purpose));
        let (worker, (path, looked_at, structure, encoding)) = start.await?;
        let place = path.clone();
        let triggers = worker
            .call(move |connection| read_triggers(connection, &place))
            .await?;
        let of = |table: &Table| triggers.get(&table.name.name.to_lowercase()).cloned();
        let triggers = structure
            .tables
            .iter()
            .map(|table| of(table).unwrap_or_default());
        self.triggers = triggers.collect();
        self.tables = structure.tables.clone();
        self.open = Some(Open {
            worker,
            path,
            encoding,
            looked_at,
        });
        Ok(structure)
    }

    fn triggers(&self, table: usize) -> &[String] {
        &self.triggers[table]
    }

    fn fires_triggers(&self) -> bool {
        false
    }

    fn checks_references(&self) -> bool {
        false
    }

    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure> {
        let open = self.open("looking rows up")?;
        let (path, encoding) = (open.path.clone(), open.encoding);
        let table = self.tables[lookup.table].clone();
        let (columns, values) = (lookup.columns.to_vec(), lookup.values.clone());
        let found = open
            .worker
            .call(move |connection| find(connection, (&path, encoding), &table, &columns, &values));
        Ok(found.await?)
    }

    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure> {
        let open = self.open("writing a row")?;
        let (path, encoding) = (open.path.clone(), open.encoding);
        let table = self.tables[change.table()].name.to_string();
        let (sql, _) = self.statement(change);
        let change = change.clone();
        let values = move || match change {
            Change::Insert { values, .. } => values,
            Change::Update { values, key, .. } => [values, key].concat(),
            Change::Delete { key, .. } => key,
        };
        let written = open.worker.call(move |connection| {
            let refused = |what: String| Error::Row {
                path: path.clone(),
                table: table.clone(),
                what,
            };
            let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
                Some(
                    rusqlite::ErrorCode::ConstraintViolation
                    | rusqlite::ErrorCode::TypeMismatch
                    | rusqlite::ErrorCode::TooBig,
                ) => refused(error.to_string()),
                _ => Error::from_sqlite(&path, &format!("writing to table {table}"), error),
            };
            let mut statement = connection.prepare(&sql).map_err(failed)?;
            let values = values();
            for (mark, cell) in Cells::new(&values).enumerate() {
                let cell = cell.map_err(|error| refused(error.to_string()))?;
                let value = value(encoding, &cell)
                    .ok_or_else(|| refused("a text is none that UTF-16 can hold".into()))?;
                let bound = statement.raw_bind_parameter(mark + 1, Bound(value));
                bound.map_err(failed)?;
            }
            match statement.raw_execute().map_err(failed)? {
                1 => Ok(()),
                rows => Err(refused(format!("{rows} rows were touched instead of one"))),
            }
        });
        Ok(written.await?)
    }

    fn render(&self, change: &Change) -> String {
        let (sql, cells) = self.statement(change);
        let mut literals = cells.iter().map(literal);
        let mut out = String::new();
        let mut inside = false;
        for letter in sql.chars() {
            inside ^= letter == '"';
            match letter {
                '?' if !inside => out.push_str(&literals.next().unwrap_or_default()),
                letter => out.push(letter),
            }
        }
        out
    }

    fn frame(&self, _: &[usize]) -> (Vec<String>, Vec<String>) {
        let before = ["PRAGMA foreign_keys=OFF", "BEGIN IMMEDIATE"];
        (before.map(String::from).into(), vec!["COMMIT".into()])
    }

    async fn commit(&mut self) -> Result<(), AnyFailure> {
        self.end("COMMIT").await
    }

    async fn abandon(&mut self) -> Result<(), AnyFailure> {
        self.end("ROLLBACK").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_written_are_those_that_were_bound_and_rendered_alike() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("live.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE \"a?\"(\"i?\" INTEGER PRIMARY KEY, b UNIQUE ON CONFLICT REPLACE, c REAL);
             CREATE TABLE log(x);
             CREATE TRIGGER t AFTER INSERT ON \"a?\" BEGIN INSERT INTO log VALUES(1); END;
             INSERT INTO \"a?\" VALUES(1, 'taken', 0.5); DELETE FROM log;",
        )
        .unwrap();
        let mut live = SqliteLive::new(&path, &SourceOptions::default());
        let structure = live.begin(Purpose::Write).await.unwrap();
        assert_eq!(structure.tables[0].name.name, "a?");
        assert_eq!(live.triggers(0), ["t"]);
        let insert = |id: i64, b: Cell<'_>| {
            let mut values = Vec::new();
            for cell in [Cell::Integer(id), b, Cell::Real(1e300)] {
                cell.push(&mut values);
            }
            Change::Insert {
                table: 0,
                columns: vec![0, 1, 2],
                values,
            }
        };
        let change = insert(7, Cell::Text(b"it's \xff\0"));
        live.write(&change).await.unwrap();
        let mut values = RowBatch::default();
        values.push_with(|row| Cell::Integer(6).push(row));
        values.push_with(|row| Cell::Text(b"7").push(row));
        let lookup = Lookup {
            table: 0,
            columns: &[0],
            values: &values,
        };
        let found = live.look_up(lookup).await.unwrap();
        let Change::Insert { values, .. } = &change else {
            unreachable!()
        };
        assert_eq!(
            found,
            [Found {
                asked: 1,
                row: values.clone()
            }]
        );
        let rendered = live.render(&insert(8, Cell::Text(b"it's")));
        assert_eq!(
            rendered,
            "INSERT OR ABORT INTO main.\"a?\"(\"i?\", \"b\", \"c\") VALUES (8, 'it''s', 1e300)"
        );
        // The schema says REPLACE: the other row must stay, and the new one be refused.
        let refused = live.write(&insert(9, Cell::Text(b"taken"))).await;
        assert_eq!(
            refused.unwrap_err().class(),
            crate::failure::Class::Conflict
        );
        live.commit().await.unwrap();
        db.execute_batch(&rendered).unwrap();
        let ids: String = db
            .query_row(
                "SELECT group_concat(i) FROM (SELECT \"i?\" AS i FROM \"a?\" ORDER BY 1)",
                [],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(ids, "1,7,8");
        let logged: i64 = db
            .query_row("SELECT count(*) FROM log", [], |r| r.get(0))
            .unwrap();
        assert_eq!(
            logged, 1,
            "only the statement run by hand fired the trigger"
        );
    }
}
