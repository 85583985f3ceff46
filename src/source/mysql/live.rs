//! A MySQL or MariaDB database in use, looked at and written to in one transaction.
//!
//! The server's own checks of foreign keys are off, since they would fire actions and know no
//! deferral; whoever writes checks references. Triggers cannot be held. Invariant: one session, one
//! transaction; a table whose engine has none is not written.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mysql_async::prelude::Queryable;

use super::error::Error;
use super::inspect::{self, Versions};
use super::session::{Session, text};
use super::types::{self, Form};
use super::{quote, structure};
use crate::failure::{AnyFailure, Class, Failure};
use crate::row::cell::{Cell, Cells};
use crate::row::schema::{Column, Engine, Structure, Table};
use crate::source::address::ServerUrl;
use crate::source::{Change, Found, Live, Lookup, Purpose};

const NOT_BEGUN: Error = Error::OutOfOrder {
    what: "the live database was not opened",
};
/// A value that would not come back as it was is refused, whatever the server's default.
const STRICT: &str =
    "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION";
const TRIGGERS: &str = "SELECT event_object_table, trigger_name FROM information_schema.triggers \
 WHERE BINARY trigger_schema = DATABASE() AND event_manipulation IN ('INSERT', 'UPDATE') \
 ORDER BY 1, 2";
/// Engines whose rows belong to a transaction.
const TRANSACTIONAL: [&str; 3] = ["innodb", "rocksdb", "ndbcluster"];

/// A database in use.
pub struct MysqlLive {
    url: ServerUrl,
    session: Option<Session>,
    purpose: Purpose,
    database: String,
    tables: Vec<Table>,
    triggers: Vec<Vec<String>>,
}

impl MysqlLive {
    /// The database at `url`; nothing is connected before `begin`.
    pub fn new(url: ServerUrl) -> Self {
        MysqlLive {
            url,
            session: None,
            purpose: Purpose::Look,
            database: String::new(),
            tables: Vec::new(),
            triggers: Vec::new(),
        }
    }

    fn name(&self, table: &Table) -> String {
        quote::qualified(&self.database, &table.name.name)
    }

    /// What a column is given, as SQL.
    fn given(column: &Column, cell: &Cell<'_>) -> String {
        let bytes = match cell {
            Cell::Text(bytes) | Cell::Blob(bytes) => bytes,
            _ => return "NULL".into(),
        };
        // A value that is none of the column becomes bytes, which the server refuses.
        types::literal(column, &types::form(column), bytes).unwrap_or_else(|| quote::bytes(bytes))
    }

    /// The condition under which `columns` have the values of `cells`; none where they cannot.
    fn condition(table: &Table, columns: &[usize], cells: &[Cell<'_>]) -> Option<String> {
        let terms = columns.iter().zip(cells).map(|(&at, cell)| match cell {
            Cell::Text(bytes) | Cell::Blob(bytes) => types::equals(&table.columns[at], bytes, "="),
            _ => None,
        });
        let terms: Vec<String> = terms.collect::<Option<_>>()?;
        Some(terms.join(" AND "))
    }

    fn of(table: &Table, key: &[u8]) -> String {
        let columns = table.key.iter().flat_map(|key| &key.columns);
        let columns: Vec<usize> = columns.map(|&(at, _)| at).collect();
        let cells: Vec<Cell<'_>> = Cells::new(key).filter_map(Result::ok).collect();
        // A key was read from this very column.
        Self::condition(table, &columns, &cells).unwrap_or_else(|| "FALSE".into())
    }

    async fn find(&mut self, lookup: &Lookup<'_>) -> Result<Vec<Found>, Error> {
        let table = &self.tables[lookup.table];
        let doing = format!("looking rows of table {} up", table.name);
        let forms: Vec<Form> = table.columns.iter().map(types::form).collect();
        let columns = forms.iter().zip(&table.columns);
        let select: Vec<String> = columns.map(|(form, one)| form.select(&one.name)).collect();
        let lock = match self.purpose {
            Purpose::Write => " FOR UPDATE",
            Purpose::Look => "",
        };
        let head = format!(
            "SELECT {} FROM {} WHERE ",
            select.join(", "),
            self.name(table)
        );
        let session = self.session.as_mut().ok_or(NOT_BEGUN)?;
        let mut found = Vec::new();
        for (asked, values) in lookup.values.iter().enumerate() {
            let cells: Vec<Cell<'_>> = Cells::new(values).filter_map(Result::ok).collect();
            let Some(condition) = Self::condition(table, lookup.columns, &cells) else {
                continue;
            };
            for answer in session
                .ask(&format!("{head}{condition}{lock}"), &doing)
                .await?
            {
                let mut row = Vec::new();
                for value in &answer {
                    match value {
                        None => Cell::Null.push(&mut row),
                        Some(bytes) => Cell::Text(bytes).push(&mut row),
                    }
                }
                found.push(Found { asked, row });
            }
        }
        Ok(found)
    }

    async fn settle(session: &mut Session, purpose: Purpose) -> Result<(), Error> {
        let doing = "its settings";
        let settings = format!(
            "SET SESSION sql_mode = '{STRICT}', foreign_key_checks = 0, unique_checks = 1, \
             character_set_results = NULL"
        );
        session.run(&settings, doing).await?;
        if session.server().is_mariadb_since((10, 2, 1)) {
            session
                .run("SET SESSION check_constraint_checks = 1", doing)
                .await?;
        }
        let begin = match purpose {
            Purpose::Look => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
            Purpose::Write => "START TRANSACTION",
        };
        session.run(begin, "beginning").await
    }

    async fn end(&mut self, statement: &str) -> Result<(), AnyFailure> {
        let mut session = self.session.take().ok_or(NOT_BEGUN)?;
        let ended = session.run(statement, "ending the transaction").await;
        session.close().await;
        match ended {
            Err(Error::Lost { what, .. }) if statement == "COMMIT" => Err(AnyFailure::new(
                Class::Unsettled,
                format!("the connection was lost while the rows were committed: {what}"),
                Some("look whether the rows are there before trying again".into()),
            )),
            ended => Ok(ended?),
        }
    }
}

#[async_trait]
impl Live for MysqlLive {
    async fn begin(&mut self, purpose: Purpose) -> Result<Structure, AnyFailure> {
        let database = self.url.database();
        let filling = super::session::Purpose::Filling;
        let mut session = Session::connect(&self.url, Some(&database), filling).await?;
        let listed = structure::list(&mut session).await?;
        let mut tables = inspect::tables(&mut session, &listed, Versions::Current).await?;
        inspect::neutralise(&mut tables, &database);
        let mut triggers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in session.ask(TRIGGERS, "listing triggers").await? {
            triggers
                .entry(text(&row, 0))
                .or_default()
                .push(text(&row, 1));
        }
        Self::settle(&mut session, purpose).await?;
        let of = |table: &Table| triggers.remove(&table.name.name).unwrap_or_default();
        self.triggers = tables.iter().map(of).collect();
        self.session = Some(session);
        self.purpose = purpose;
        self.database = database;
        self.tables = tables.clone();
        Ok(Structure::of_tables(Engine::Mysql, tables))
    }

    fn triggers(&self, table: usize) -> &[String] {
        &self.triggers[table]
    }

    fn fires_triggers(&self) -> bool {
        true
    }

    fn checks_references(&self) -> bool {
        false
    }

    fn bars(&self, table: usize) -> Option<String> {
        let engine = self.tables[table].facts.get("engine")?;
        let known = TRANSACTIONAL.contains(&engine.to_lowercase().as_str());
        (!known).then(|| format!("its table's engine {engine} has no transactions"))
    }

    async fn look_up(&mut self, lookup: Lookup<'_>) -> Result<Vec<Found>, AnyFailure> {
        Ok(self.find(&lookup).await?)
    }

    async fn write(&mut self, change: &Change) -> Result<(), AnyFailure> {
        let sql = self.render(change);
        let name = self.tables[change.table()].name.to_string();
        let session = self.session.as_mut().ok_or(NOT_BEGUN)?;
        let written = async {
            let answer = session.conn().query_iter(sql).await?;
            let rows = answer.affected_rows();
            answer.drop_result().await?;
            Ok(rows)
        };
        let written: Result<u64, mysql_async::Error> = written.await;
        let rows = written.map_err(|error| {
            let error = Error::driver(error, format!("writing to table {name}"));
            match error.class() {
                Class::Invalid => AnyFailure::new(Class::Conflict, error.to_string(), error.hint()),
                _ => error.into(),
            }
        })?;
        match rows {
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
        let name = self.name(table);
        let cells = |row| Cells::new(row).filter_map(Result::ok);
        match change {
            Change::Insert {
                columns, values, ..
            } => {
                let columns = columns.iter().map(|&at| &table.columns[at]);
                let names: Vec<String> = columns
                    .clone()
                    .map(|one| quote::identifier(&one.name))
                    .collect();
                let values: Vec<String> = columns
                    .zip(cells(values))
                    .map(|(column, cell)| Self::given(column, &cell))
                    .collect();
                let (names, values) = (names.join(", "), values.join(", "));
                format!("INSERT INTO {name} ({names}) VALUES ({values})")
            }
            Change::Update {
                columns,
                values,
                key,
                ..
            } => {
                let mut set: Vec<String> = Vec::new();
                for (&at, cell) in columns.iter().zip(cells(values)) {
                    let column = &table.columns[at];
                    let value = Self::given(column, &cell);
                    set.push(format!("{} = {value}", quote::identifier(&column.name)));
                }
                // A time that the server would set by itself stays what it is.
                for (at, column) in table.columns.iter().enumerate() {
                    let extra = column.facts.get("extra");
                    let moves =
                        extra.is_some_and(|extra| extra.to_lowercase().contains("on update"));
                    if moves && !columns.contains(&at) {
                        let column = quote::identifier(&column.name);
                        set.push(format!("{column} = {column}"));
                    }
                }
                let of = Self::of(table, key);
                format!("UPDATE {name} SET {} WHERE {of}", set.join(", "))
            }
            Change::Delete { key, .. } => {
                format!("DELETE FROM {name} WHERE {}", Self::of(table, key))
            }
        }
    }

    fn frame(&self, _: &[usize]) -> (Vec<String>, Vec<String>) {
        let before = vec![
            format!(
                "SET SESSION sql_mode = '{STRICT}', foreign_key_checks = 0, time_zone = '+00:00'"
            ),
            "START TRANSACTION".into(),
        ];
        let after = vec!["COMMIT".into(), "SET SESSION foreign_key_checks = 1".into()];
        (before, after)
    }

    async fn commit(&mut self) -> Result<(), AnyFailure> {
        self.end("COMMIT").await
    }

    async fn abandon(&mut self) -> Result<(), AnyFailure> {
        self.end("ROLLBACK").await
    }
}
