//! Tables of a snapshot put into a PostgreSQL database in use, under names of their own.
//!
//! A table is made of its captured columns; after its rows come its keys, unique constraints and
//! indexes, as the archive defines them. What refers to other tables, what acts by itself and what
//! makes values is left out and told. Invariant: nothing that was there is touched, and what was
//! made is gone after a failure.

use std::sync::{Mutex as SyncMutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};

use super::client::Client;
use super::error::Error;
use super::needs::server_major;
use super::structure::{self, ARCHIVE, State};
use super::target::not_prepared;
use super::tools::InMemory;
use super::{load, quote, rows, tools};
use crate::failure::{AnyFailure, Class};
use crate::row::schema::{Column, Engine, Structure, Table, TableName};
use crate::source::address::{ServerUrl, SourceUrl, TargetOptions};
use crate::source::beside::{self, Beside, Dialect, is_blank, pieces};
use crate::source::{PieceReceiver, PieceSender, Published, Target};

/// A database in use that gets tables beside its own.
pub struct PostgresBeside {
    server: ServerUrl,
    options: TargetOptions,
    beside: Beside,
    making: Option<Making>,
    /// Tables that were made, and go again where that fails.
    made: Vec<TableName>,
}

struct Making {
    encoding: String,
    side: Mutex<Client>,
    idle: SyncMutex<Vec<Client>>,
    slots: Semaphore,
    statements: Vec<String>,
    warnings: Vec<String>,
}

/// What comes after rows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Later {
    statements: Vec<String>,
    /// How many triggers each of the tables has.
    triggers: Vec<TableName>,
}

/// The text of one name, without its quotes.
fn plain(piece: &str) -> String {
    let inside = piece
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    inside.map_or_else(|| piece.to_owned(), |name| name.replace("\"\"", "\""))
}

/// What one statement of an archive means for the tables that go beside.
fn follow(statement: &str, beside: &Beside, later: &mut Later) {
    let all = pieces(statement, Dialect::Postgres);
    let said: Vec<usize> = (0..all.len()).filter(|at| !is_blank(all[*at])).collect();
    let word = |at: usize| said.get(at).map_or("", |at| all[*at]);
    // The name of a table stands in three pieces, with its schema.
    let new_name = |at: usize| {
        let old = TableName {
            schema: Some(plain(word(at))),
            name: plain(word(at + 2)),
        };
        let found = beside.names().find(|(name, _)| **name == old);
        found.map(|(old, new)| (old.clone(), quote::table(new)))
    };
    let rest = |at: usize| said.get(at).map_or(String::new(), |at| all[*at..].concat());
    let unique = usize::from(word(1) == "UNIQUE");
    match (word(0), word(1 + unique)) {
        ("CREATE", "INDEX") => {
            let only = usize::from(word(4 + unique) == "ONLY");
            let at = 4 + unique + only;
            if let Some((_, new)) = new_name(at) {
                let kind = if unique == 1 { "UNIQUE INDEX" } else { "INDEX" };
                let sql = format!("CREATE {kind} ON {new} {}", rest(at + 3));
                later.statements.push(sql);
            }
        }
        ("ALTER", "TABLE") => {
            let at = 2 + usize::from(word(2) == "ONLY");
            // ADD CONSTRAINT, its name, and what it is.
            let is_kept = matches!(word(at + 6), "PRIMARY" | "UNIQUE" | "EXCLUDE");
            if word(at + 3) == "ADD"
                && is_kept
                && let Some((_, new)) = new_name(at)
            {
                let sql = format!("ALTER TABLE {new} ADD {}", rest(at + 6));
                later.statements.push(sql);
            }
        }
        ("CREATE", "TRIGGER") | ("CREATE", "CONSTRAINT") => {
            let on = (0..said.len()).find(|at| word(*at) == "ON");
            let named = on.and_then(|on| new_name(on + 1));
            later.triggers.extend(named.map(|(old, _)| old));
        }
        _ => {}
    }
}

/// What the definitions after rows mean for the tables that go beside.
fn follows(definitions: &str, beside: &Beside) -> Later {
    let mut later = Later::default();
    let mut statement = String::new();
    for piece in pieces(definitions, Dialect::Postgres) {
        match piece {
            ";" => follow(&std::mem::take(&mut statement), beside, &mut later),
            piece => statement.push_str(piece),
        }
    }
    later
}

fn column(column: &Column) -> String {
    let mut sql = format!("{} {}", quote::identifier(&column.name), column.type_name);
    if let Some(collation) = &column.collation {
        sql.push_str(&format!(" COLLATE {}", quote::identifier(collation)));
    }
    if !column.nullable {
        sql.push_str(" NOT NULL");
    }
    sql
}

impl PostgresBeside {
    /// The database at `server`, which gets the tables of `beside`.
    pub fn new(server: ServerUrl, options: &TargetOptions, beside: Beside) -> Self {
        PostgresBeside {
            server,
            options: options.clone(),
            beside,
            making: None,
            made: Vec::new(),
        }
    }

    fn making(&self) -> Result<&Making, Error> {
        self.making.as_ref().ok_or_else(not_prepared)
    }

    /// The definitions that come after rows, as SQL.
    async fn later(&self, client: &mut Client, structure: &Structure) -> Result<Later, AnyFailure> {
        let written_by = structure.facts.get("pg_dump_version");
        let written_by = written_by.map_or("", String::as_str);
        let digits = written_by.split(|c: char| !c.is_ascii_digit()).next();
        let written_by = digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_default();
        let major = server_major(client).await?;
        let only_in = self.options.pg_bin_dir.as_deref();
        let tool = tools::find("pg_restore", major, written_by, only_in).await?;
        let archive = InMemory::new(structure::part(structure, ARCHIVE)?)?;
        let path = archive.path();
        let arguments = [
            "--section=post-data",
            "--no-owner",
            "--file=-",
            path.as_str(),
        ];
        let arguments = arguments.map(str::to_owned);
        let output = tools::run(&tool, None, &arguments, None).await?;
        let definitions = String::from_utf8(output.bytes).map_err(|_| {
            let what = "the definitions of the snapshot are not in UTF-8";
            Error::stated(Class::Invalid, what, "restore the whole snapshot with --to")
        })?;
        Ok(follows(&definitions, &self.beside))
    }

    async fn check_free(&self, client: &mut Client) -> Result<(), AnyFailure> {
        for (_, name) in self.beside.names() {
            let sql = format!(
                "SELECT (pg_catalog.to_regclass({}) IS NOT NULL)::text",
                quote::literal(&quote::table(name))
            );
            let found = client.value(&sql, "looking for the tables' names").await?;
            if found == "true" {
                return Err(beside::taken(name));
            }
        }
        Ok(())
    }

    async fn make(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        if structure.engine != Engine::Postgres {
            return Err(beside::other_engine(structure.engine, Engine::Postgres));
        }
        let state = State::of(structure)?;
        let mut client = Client::connect(&self.server).await?;
        self.check_free(&mut client).await?;
        let later = self.later(&mut client, structure).await?;
        for table in &structure.tables {
            let new = self.beside.renamed(table)?;
            let columns: Vec<String> = new.columns.iter().map(column).collect();
            let (name, columns) = (quote::table(&new.name), columns.join(", "));
            let doing = format!("making table {}", new.name);
            let sql = format!("CREATE TABLE {name} ({columns})");
            client.run(&sql, &doing).await?;
            self.made.push(new.name);
        }
        self.making = Some(Making {
            encoding: state.database.encoding,
            side: Mutex::new(client),
            idle: SyncMutex::default(),
            slots: Semaphore::new(self.options.parallel.clamp(1, 64)),
            warnings: warnings(structure, &later),
            statements: later.statements,
        });
        Ok(())
    }
}

/// What is told of what was left out.
fn warnings(structure: &Structure, later: &Later) -> Vec<String> {
    let mut told = Vec::new();
    for table in &structure.tables {
        let triggers = later.triggers.iter().filter(|on| **on == table.name);
        let keys = table.foreign_keys.len();
        told.extend(beside::left_out(&table.name, keys, triggers.count()));
        if !table.generated.is_empty() {
            let names: Vec<&str> = table.generated.iter().map(|one| one.0.as_str()).collect();
            let names = names.join(", ");
            told.push(format!("table {}: left out generated {names}", table.name));
        }
    }
    told.push("defaults, checks, policies and grants are not put beside".into());
    told
}

impl Making {
    fn idle(&self) -> MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn worker(&self, server: &ServerUrl) -> Result<Client, Error> {
        let waiting = self.idle().pop();
        match waiting {
            Some(client) => Ok(client),
            None => Client::connect(server).await,
        }
    }

    async fn close(self) {
        let idle: Vec<Client> = self.idle().drain(..).collect();
        for client in idle {
            client.close_hard().await;
        }
        self.side.into_inner().close_hard().await;
    }
}

#[async_trait]
impl Target for PostgresBeside {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.make(structure).await
    }

    async fn load(&self, table: &Table, mut rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let making = self.making()?;
        let _slot = making.slots.acquire().await.map_err(|_| not_prepared())?;
        let mut client = making.worker(&self.server).await?;
        let load = load::Load {
            table: &self.beside.renamed(table)?,
            encoding: &making.encoding,
            side: &making.side,
            emptied: false,
        };
        match load::load(&mut client, &load, &mut rows).await {
            Ok(count) => {
                making.idle().push(client);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error.into())
            }
        }
    }

    async fn finish(&mut self, _: &Structure) -> Result<(), AnyFailure> {
        let making = self.making()?;
        let mut side = making.side.lock().await;
        for statement in &making.statements {
            side.run(statement, "making keys and indexes").await?;
        }
        Ok(())
    }

    async fn read_back(&self, table: &Table, out: PieceSender) -> Result<u64, AnyFailure> {
        let making = self.making()?;
        let _slot = making.slots.acquire().await.map_err(|_| not_prepared())?;
        let mut client = making.worker(&self.server).await?;
        let table = self.beside.renamed(table)?;
        let (encoding, side) = (&making.encoding, &making.side);
        match rows::read_all(&mut client, &table, encoding, side, &out).await {
            Ok(count) => {
                making.idle().push(client);
                Ok(count)
            }
            Err(error) => {
                client.close_hard().await;
                Err(error.into())
            }
        }
    }

    fn parallel(&self) -> usize {
        self.options.parallel.clamp(1, 64)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        let mut making = self.making.take().ok_or_else(not_prepared)?;
        let warnings = std::mem::take(&mut making.warnings);
        making.close().await;
        self.made.clear();
        Ok(Published {
            place: SourceUrl::Postgres(self.server.clone()).display(),
            warnings,
        })
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        if let Some(making) = self.making.take() {
            making.close().await;
        }
        if self.made.is_empty() {
            return Ok(());
        }
        let mut client = Client::connect(&self.server).await?;
        while let Some(name) = self.made.last() {
            let sql = format!("DROP TABLE IF EXISTS {}", quote::table(name));
            let dropped = client.run(&sql, "taking a table away").await;
            dropped.map_err(|error| {
                let what = format!("table {name} could not be taken away: {error}");
                Error::stated(Class::Conflict, what, "drop it by hand")
            })?;
            self.made.pop();
        }
        client.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn keys_and_indexes_follow_and_what_refers_to_others_does_not() {
        let name = |name: &str| TableName {
            schema: Some("my s".into()),
            name: name.into(),
        };
        let table = Table {
            name: name("t"),
            columns: Vec::new(),
            generated: Vec::new(),
            key: None,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: Default::default(),
        };
        let now = Timestamp::from_seconds(0);
        let beside = Beside::new(Engine::Postgres, &[table], now).unwrap();
        let definitions = "--\n-- Name: x; Type: y\n--\n\nSET a = b;\n\
            ALTER TABLE ONLY \"my s\".t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);\n\
            ALTER TABLE ONLY \"my s\".u\n    ADD CONSTRAINT u_pkey PRIMARY KEY (id);\n\
            CREATE UNIQUE INDEX t_x ON \"my s\".t USING btree (lower(a)) WHERE (a <> ';'::text);\n\
            CREATE INDEX t_y ON ONLY \"my s\".t USING gin (b);\n\
            CREATE TRIGGER g AFTER INSERT ON \"my s\".t FOR EACH ROW EXECUTE FUNCTION f();\n\
            ALTER TABLE ONLY \"my s\".t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u(id);\n";
        let later = follows(definitions, &beside);
        let new = "\"my s\".\"t__rowvault_19700101000000\"";
        assert_eq!(
            later.statements,
            [
                format!("ALTER TABLE {new} ADD PRIMARY KEY (id)"),
                format!(
                    "CREATE UNIQUE INDEX ON {new} USING btree (lower(a)) WHERE (a <> ';'::text)"
                ),
                format!("CREATE INDEX ON {new} USING gin (b)"),
            ]
        );
        assert_eq!(later.triggers, [name("t")]);
    }
}
