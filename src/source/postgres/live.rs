//! A PostgreSQL database in use, looked at and written to in one transaction.
//!
//! Rows are found by the server's own equality and locked; values are written as literals that the
//! types' own input functions read. A table's triggers are held while it is written, each set back
//! to what it was before the end. Invariant: one connection, one transaction; foreign keys are
//! checked by the server, at the end where they may be deferred.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use async_trait::async_trait;

use super::catalog::{self, texts};
use super::client::{Client, TextRow};
use super::error::Error;
use super::{quote, types};
use crate::failure::{AnyFailure, Class};
use crate::id::{hex, unhex};
use crate::row::cell::{Cell, Cells};
use crate::row::schema::{Column, Engine, Structure, Table};
use crate::source::address::{ServerUrl, SourceUrl};
use crate::source::{Change, Found, Live, Lookup, Purpose};

/// What a value that its type cannot read is answered with: class 22, data exception.
const DATA_EXCEPTION: &str = "22";

const TRIGGERS: &str = "SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text \
 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid \
 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
 WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') ORDER BY 1, 2, 3";

/// The PostgreSQL database at `url`, in use.
///
/// # Errors
/// Invalid: the address is another engine's.
pub fn live(url: &SourceUrl) -> Result<Box<dyn Live>, AnyFailure> {
    match url {
        SourceUrl::Postgres(server) => Ok(Box::new(PostgresLive {
            server: server.clone(),
            client: None,
            purpose: Purpose::Look,
            encoding: String::new(),
            tables: Vec::new(),
            triggers: Vec::new(),
            always: Vec::new(),
            held: BTreeSet::new(),
        })),
        _ => Err(Error::stated(Class::Invalid, "not a PostgreSQL address", "").into()),
    }
}

struct PostgresLive {
    server: ServerUrl,
    client: Option<Client>,
    purpose: Purpose,
    encoding: String,
    tables: Vec<Table>,
    /// The names of the triggers of each table.
    triggers: Vec<Vec<String>>,
    /// Whether each of them fires always, even for a replica's rows.
    always: Vec<Vec<bool>>,
    /// Tables whose triggers are held.
    held: BTreeSet<usize>,
}

fn not_begun() -> Error {
    Error::stated(Class::Bug, "the live database was not opened", "")
}

impl PostgresLive {
    fn client(&mut self) -> Result<&mut Client, Error> {
        self.client.as_mut().ok_or_else(not_begun)
    }

    /// `cell` as a literal that the type `cast` reads, or that the column it is given to reads.
    fn value(&self, cell: &Cell<'_>, cast: Option<&str>) -> String {
        let Cell::Text(bytes) = cell else {
            return "NULL".into();
        };
        let text = std::str::from_utf8(bytes).ok();
        let plain = text.filter(|text| self.encoding == "UTF8" || text.is_ascii());
        let mut out = match plain {
            Some(text) => quote::literal(text).trim_start().to_owned(),
            // Bytes in the database's own encoding, whatever the statement's is.
            None => format!(
                "pg_catalog.convert_from('\\x{}'::pg_catalog.bytea, {})",
                hex(bytes),
                quote::literal(&self.encoding)
            ),
        };
        if let Some(cast) = cast {
            let _ = write!(out, "::{cast}");
        }
        out
    }

    /// `cell` as it is given to `column`.
    fn given(&self, cell: &Cell<'_>, column: &Column) -> String {
        let literal = self.value(cell, None);
        match literal.starts_with("pg_catalog.convert_from") {
            true => format!("{literal}::{}", column.type_name),
            false => literal,
        }
    }

    /// The expression that gives a column's value in the type's own text form.
    fn asked(&self, name: &str) -> String {
        if self.encoding == "UTF8" {
            return name.to_owned();
        }
        let encoding = quote::literal(&self.encoding);
        format!(
            "CASE WHEN {name} IS NULL THEN NULL ELSE pg_catalog.encode(pg_catalog.convert_to(\
             pg_catalog.format('%s', {name}), {encoding}), 'hex') END"
        )
    }

    fn row(&self, cells: impl Iterator<Item = Option<String>>) -> Result<Vec<u8>, Error> {
        let mut row = Vec::new();
        for cell in cells {
            match cell {
                None => Cell::Null.push(&mut row),
                Some(text) if self.encoding == "UTF8" => {
                    Cell::Text(text.as_bytes()).push(&mut row);
                }
                Some(text) => {
                    let bytes = unhex(&text).ok_or_else(|| {
                        Error::stated(
                            Class::Bug,
                            "the server wrote bytes otherwise than in hex",
                            "",
                        )
                    })?;
                    Cell::Text(&bytes).push(&mut row);
                }
            }
        }
        Ok(row)
    }

    fn select(&self, lookup: &Lookup<'_>, values: &[(usize, Vec<Cell<'_>>)]) -> String {
        let table = &self.tables[lookup.table];
        let mut sql = String::from("SELECT v.asked");
        for column in &table.columns {
            let name = format!("t.{}", quote::identifier(&column.name));
            let _ = write!(sql, ", {}", self.asked(&name));
        }
        let _ = write!(sql, " FROM {} t JOIN (VALUES ", quote::table(&table.name));
        for (nth, (asked, cells)) in values.iter().enumerate() {
            let between = if nth > 0 { ", " } else { "" };
            let _ = write!(sql, "{between}({asked}");
            for (&at, cell) in lookup.columns.iter().zip(cells) {
                let cast = cast(&table.columns[at]);
                let _ = write!(sql, ", {}", self.value(cell, Some(cast)));
            }
            sql.push(')');
        }
        sql.push_str(") v(asked");
        for nth in 0..lookup.columns.len() {
            let _ = write!(sql, ", v{nth}");
        }
        sql.push_str(") ON ");
        for (nth, &at) in lookup.columns.iter().enumerate() {
            let between = if nth > 0 { " AND " } else { "" };
            let name = quote::identifier(&table.columns[at].name);
            let _ = write!(sql, "{between}t.{name} = v.v{nth}");
        }
        if self.purpose == Purpose::Write {
            sql.push_str(" FOR NO KEY UPDATE OF t");
        }
        sql
    }

    /// The rows of one statement; none where the server cannot read a value as its column's type.
    async fn ask(&mut self, sql: &str) -> Result<Option<Vec<TextRow>>, Error> {
        let doing = "looking rows up";
        let client = self.client()?;
        client.run("SAVEPOINT lookup", doing).await?;
        match client.rows(sql, doing).await {
            Ok(rows) => {
                client.run("RELEASE SAVEPOINT lookup", doing).await?;
                Ok(Some(rows))
            }
            Err(error) if error.code().starts_with(DATA_EXCEPTION) => {
                client.run("ROLLBACK TO SAVEPOINT lookup", doing).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn condition(&self, table: &Table, key: &[u8]) -> String {
        let columns = table.key.iter().flat_map(|key| &key.columns);
        let cells = Cells::new(key).filter_map(Result::ok);
        let terms: Vec<String> = columns
            .zip(cells)
            .map(|(&(at, _), cell)| {
                let column = &table.columns[at];
                let value = self.value(&cell, Some(cast(column)));
                format!("{} = {value}", quote::identifier(&column.name))
            })
            .collect();
        terms.join(" AND ")
    }

    /// Holds the triggers of a table, once.
    async fn hold(&mut self, table: usize) -> Result<(), Error> {
        if !self.held.insert(table) {
            return Ok(());
        }
        for statement in self.holding(table) {
            self.client()?.run(&statement, "holding triggers").await?;
        }
        Ok(())
    }

    fn holding(&self, table: usize) -> Vec<String> {
        let name = quote::table(&self.tables[table].name);
        let hold = |trigger: &String| {
            let trigger = quote::identifier(trigger);
            format!("ALTER TABLE {name} DISABLE TRIGGER {trigger}")
        };
        self.triggers[table].iter().map(hold).collect()
    }

    fn letting_go(&self, table: usize) -> Vec<String> {
        let name = quote::table(&self.tables[table].name);
        let let_go = |(trigger, always): (&String, &bool)| {
            let trigger = quote::identifier(trigger);
            let mode = if *always { "ENABLE ALWAYS" } else { "ENABLE" };
            format!("ALTER TABLE {name} {mode} TRIGGER {trigger}")
        };
        let triggers = self.triggers[table].iter().zip(&self.always[table]);
        triggers.map(let_go).collect()
    }

    async fn read_triggers(&mut self) -> Result<(), Error> {
        let rows = self
            .client()?
            .rows(TRIGGERS, "reading the triggers")
            .await?;
        let mut found: BTreeMap<(String, String), Vec<(String, bool)>> = BTreeMap::new();
        for row in rows {
            let [schema, table, name, enabled] = texts(row);
            let triggers = found.entry((schema, table)).or_default();
            triggers.push((name, enabled == "A"));
        }
        self.triggers.clear();
        self.always.clear();
        for table in &self.tables {
            let schema = table.name.schema.clone().unwrap_or_default();
            let triggers = found.remove(&(schema, table.name.name.clone()));
            let (names, always) = triggers.unwrap_or_default().into_iter().unzip();
            self.triggers.push(names);
            self.always.push(always);
        }
        Ok(())
    }

    async fn end(&mut self, statements: &[String]) -> Result<(), Error> {
        let mut client = self.client.take().ok_or_else(not_begun)?;
        for statement in statements {
            if let Err(error) = client.run(statement, "ending the transaction").await {
                // The connection's end is the transaction's.
                client.close_hard().await;
                return Err(match (statement.as_str(), error) {
                    ("COMMIT", Error::Connection { cause, .. }) => Error::stated(
                        Class::Unsettled,
                        format!("the connection was lost while the rows were committed: {cause}"),
                        "look whether the rows are there before trying again",
                    ),
                    (_, error) => error,
                });
            }
        }
        client.close().await;
        Ok(())
    }
}

/// The type that a value is compared as: the column's, without a length that would cut it.
fn cast(column: &Column) -> &str {
    match types::base(column) {
        "character" => "pg_catalog.bpchar",
        "bit" => &column.type_name,
        "timestamp" if column.type_name.ends_with("with time zone") => "timestamptz",
        base => base,
    }
}

#[async_trait]
impl Live for PostgresLive {
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure> {
        let mut client = Client::connect(&self.server).await?;
        let begin = match purpose {
            Purpose::Look => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
            Purpose::Write => "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
        };
        client.run(begin, "beginning").await?;
        let encoding = "SELECT pg_catalog.current_setting('server_encoding')";
        self.encoding = client.value(encoding, "beginning").await?;
        if purpose == Purpose::Write {
            client
                .run("SET CONSTRAINTS ALL DEFERRED", "beginning")
                .await?;
        }
        let found = catalog::tables(&mut client).await?;
        self.client = Some(client);
        self.purpose = purpose;
        self.tables = found.into_iter().map(|found| found.table).collect();
        self.held.clear();
        self.read_triggers().await?;
        Ok(Structure::of_tables(Engine::Postgres, self.tables.clone()))
    }

    fn triggers(&self, table: usize) -> &[String] {
        &self.triggers[table]
    }

    fn fires_triggers(&self) -> bool {
        false
    }

    fn checks_references(&self) -> bool {
        true
    }

    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure> {
        let cells = |row| Cells::new(row).collect::<Result<Vec<_>, _>>();
        let mut values = Vec::new();
        for (asked, row) in lookup.values.iter().enumerate() {
            values.push((asked, cells(row)?));
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let sql = self.select(&lookup, &values);
        let mut rows = Vec::new();
        match self.ask(&sql).await? {
            Some(found) => rows = found,
            // One of the values is none of its type: the others are asked for one by one.
            None => {
                for one in values.chunks(1) {
                    let sql = self.select(&lookup, one);
                    rows.extend(self.ask(&sql).await?.unwrap_or_default());
                }
            }
        }
        let mut found = Vec::new();
        for row in rows {
            let mut cells = row.into_iter();
            let asked = cells.next().flatten().and_then(|text| text.parse().ok());
            found.push(Found {
                asked: asked.unwrap_or_default(),
                row: self.row(cells)?,
            });
        }
        Ok(found)
    }

    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure> {
        self.hold(change.table()).await?;
        let sql = format!("{} RETURNING 1", self.render(change));
        let name = self.tables[change.table()].name.to_string();
        let doing = format!("writing to table {name}");
        let written = self.client()?.rows(&sql, &doing).await?;
        match written.len() {
            1 => Ok(()),
            rows => Err(AnyFailure::new(
                Class::Conflict,
                format!("{rows} rows of table {name} were touched instead of one"),
                None,
            )),
        }
    }

    fn render(&self, change: &Change) -> String {
        let table = &self.tables[change.table()];
        let name = quote::table(&table.name);
        let cells = |row| Cells::new(row).filter_map(Result::ok);
        match change {
            Change::Insert {
                columns, values, ..
            } => {
                let columns: Vec<&Column> = columns.iter().map(|&at| &table.columns[at]).collect();
                let names: Vec<String> = columns
                    .iter()
                    .map(|column| quote::identifier(&column.name))
                    .collect();
                let values: Vec<String> = columns
                    .iter()
                    .zip(cells(values))
                    .map(|(column, cell)| self.given(&cell, column))
                    .collect();
                format!(
                    "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    names.join(", "),
                    values.join(", ")
                )
            }
            Change::Update {
                columns,
                values,
                key,
                ..
            } => {
                let set = columns.iter().zip(cells(values)).map(|(&at, cell)| {
                    let column = &table.columns[at];
                    let value = self.given(&cell, column);
                    format!("{} = {value}", quote::identifier(&column.name))
                });
                let set: Vec<String> = set.collect();
                let of = self.condition(table, key);
                format!("UPDATE {name} SET {} WHERE {of}", set.join(", "))
            }
            Change::Delete { key, .. } => {
                format!("DELETE FROM {name} WHERE {}", self.condition(table, key))
            }
        }
    }

    fn frame(&self, tables: &[usize]) -> (Vec<String>, Vec<String>) {
        let mut before = vec![
            "BEGIN".to_owned(),
            "SET CONSTRAINTS ALL DEFERRED".to_owned(),
        ];
        before.extend(tables.iter().flat_map(|&table| self.holding(table)));
        let mut after = vec!["SET CONSTRAINTS ALL IMMEDIATE".to_owned()];
        after.extend(tables.iter().flat_map(|&table| self.letting_go(table)));
        after.push("COMMIT".into());
        (before, after)
    }

    async fn commit(&mut self) -> Result<(), AnyFailure> {
        // Checks that wait would stand in the way of setting triggers back.
        let mut statements = vec!["SET CONSTRAINTS ALL IMMEDIATE".to_owned()];
        let held: Vec<usize> = self.held.iter().copied().collect();
        statements.extend(held.into_iter().flat_map(|table| self.letting_go(table)));
        statements.push("COMMIT".into());
        Ok(self.end(&statements).await?)
    }

    async fn abandon(&mut self) -> Result<(), AnyFailure> {
        Ok(self.end(&["ROLLBACK".to_owned()]).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_literals_whatever_bytes_they_have() {
        let url: SourceUrl = "postgres://nobody@localhost/none".parse().unwrap();
        let SourceUrl::Postgres(server) = url else {
            unreachable!()
        };
        let live = |encoding: &str| PostgresLive {
            server: server.clone(),
            client: None,
            purpose: Purpose::Look,
            encoding: encoding.into(),
            tables: Vec::new(),
            triggers: Vec::new(),
            always: Vec::new(),
            held: BTreeSet::new(),
        };
        let text = Cell::Text("it's \\ łąka".as_bytes());
        assert_eq!(
            live("UTF8").value(&text, Some("text")),
            "E'it''s \\\\ łąka'::text"
        );
        assert_eq!(live("UTF8").value(&Cell::Null, None), "NULL");
        assert_eq!(
            live("LATIN1").value(&Cell::Text(b"\xe9"), None),
            "pg_catalog.convert_from('\\xe9'::pg_catalog.bytea, 'LATIN1')"
        );
    }
}
