//! Tables of a snapshot put into a MySQL or MariaDB database in use, under names of their own.
//!
//! Each is made from its recorded definition with its keys, indexes and checks; what refers to
//! other tables and what acts by itself is left out and told. Invariant: nothing that was there is
//! touched, and what was made is gone after a failure.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::error::Error;
use super::handover;
use super::inspect;
use super::load::{self, Way};
use super::program;
use super::quote;
use super::rows::{self, Reading};
use super::session::{Purpose, Session, number};
use super::structure::Definitions;
use super::target::enter;
use crate::failure::AnyFailure;
use crate::row::schema::{Engine, Structure, Table};
use crate::source::address::{ServerUrl, SourceUrl, TargetOptions};
use crate::source::beside::{self, Beside, Dialect};
use crate::source::{Order, PieceReceiver, PieceSender, Published, Target};

/// A database in use that gets tables beside its own.
pub struct MysqlBeside {
    url: ServerUrl,
    options: TargetOptions,
    beside: Beside,
    making: Option<Making>,
    /// Tables that were made, and go again where that fails.
    made: Vec<String>,
}

struct Making {
    control: tokio::sync::Mutex<Session>,
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
    way: Way,
    warnings: Vec<String>,
}

const TOO_EARLY: Error = Error::OutOfOrder {
    what: "the target was used before it was prepared",
};

impl Making {
    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, table: &Table) -> Result<Session, Error> {
        self.idle().pop().ok_or_else(|| Error::Lost {
            doing: format!("working on table {}", table.name),
            what: "a connection to the target was lost before".into(),
        })
    }
}

impl MysqlBeside {
    /// The database at `url`, which gets the tables of `beside`.
    pub fn new(url: ServerUrl, options: &TargetOptions, beside: Beside) -> Self {
        MysqlBeside {
            url,
            options: options.clone(),
            beside,
            making: None,
            made: Vec::new(),
        }
    }

    fn making(&self) -> Result<&Making, Error> {
        self.making.as_ref().ok_or(TOO_EARLY)
    }

    async fn check_free(&self, session: &mut Session) -> Result<(), AnyFailure> {
        for (_, name) in self.beside.names() {
            let sql = format!(
                "SELECT COUNT(*) FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = {}",
                quote::text(&name.name)
            );
            let found = session.one(&sql, "looking for the tables' names").await?;
            if number(&found, 0) != Some(0) {
                return Err(beside::taken(name));
            }
        }
        Ok(())
    }

    async fn make_table(
        &mut self,
        session: &mut Session,
        definitions: &Definitions,
        table: &Table,
    ) -> Result<(), AnyFailure> {
        let name = self.beside.renamed(table)?.name;
        let recorded = definitions.tables.iter();
        let recorded = recorded.clone().find(|one| one.name == table.name.name);
        let quoted = quote::identifier(&name.name);
        let sql = recorded.and_then(|one| beside::create_table(&one.sql, Dialect::Mysql, &quoted));
        let sql = sql.ok_or_else(|| Error::Unsupported {
            what: format!("the definition of table {} is not understood", table.name),
            hint: "restore the whole snapshot with --to".into(),
        })?;
        let sql = quote::moved(sql.as_bytes(), &definitions.database, &self.url.database());
        let doing = format!("making table {name}");
        session.run_bytes(&sql, &doing).await?;
        self.made.push(name.name);
        Ok(())
    }

    fn warnings(&self, definitions: &Definitions, structure: &Structure) -> Vec<String> {
        let on = |table: &Table| {
            let named = handover::triggers(definitions).filter_map(program::table);
            named.filter(|name| *name == table.name.name).count()
        };
        let tables = structure.tables.iter();
        let told = tables
            .filter_map(|table| beside::left_out(&table.name, table.foreign_keys.len(), on(table)));
        told.collect()
    }

    async fn make(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        if structure.engine != Engine::Mysql {
            return Err(beside::other_engine(structure.engine, Engine::Mysql));
        }
        let definitions = Definitions::from_parts(&structure.parts)?;
        let database = self.url.database();
        let connect = || Session::connect(&self.url, Some(&database), Purpose::Filling);
        let mut control = connect().await?;
        self.check_free(&mut control).await?;
        let versioned = |table: &Table| table.facts.contains_key(inspect::HISTORY);
        let history = structure.tables.iter().any(versioned);
        let mut idle = Vec::new();
        for _ in 0..self.options.parallel.max(1) {
            let mut session = connect().await?;
            enter(&mut session, &database, history).await?;
            let raw = "SET SESSION character_set_results = NULL";
            session.run(raw, "its settings").await?;
            idle.push(session);
        }
        let infile = control.one("SELECT @@local_infile", "its settings").await;
        let way = match infile {
            Ok(answer) if number(&answer, 0) == Some(1) => Way::LoadData,
            _ => Way::Insert,
        };
        enter(&mut control, &database, history).await?;
        for table in &structure.tables {
            self.make_table(&mut control, &definitions, table).await?;
        }
        self.making = Some(Making {
            control: tokio::sync::Mutex::new(control),
            permits: Semaphore::new(idle.len()),
            idle: Mutex::new(idle),
            way,
            warnings: self.warnings(&definitions, structure),
        });
        Ok(())
    }
}

#[async_trait]
impl Target for MysqlBeside {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        self.make(structure).await
    }

    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let making = self.making()?;
        let _permit = making.permits.acquire().await.map_err(|_| TOO_EARLY)?;
        let mut session = making.take(table)?;
        let (table, database) = (self.beside.renamed(table)?, self.url.database());
        let taken = load::load(&mut session, &database, &table, making.way, rows).await?;
        making.idle().push(session);
        Ok(taken)
    }

    async fn finish(&mut self, _: &Structure) -> Result<(), AnyFailure> {
        Ok(())
    }

    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        let making = self.making()?;
        let _permit = making.permits.acquire().await.map_err(|_| TOO_EARLY)?;
        let mut session = making.take(table)?;
        let reading = Reading {
            database: &self.url.database(),
            table: &self.beside.renamed(table)?,
            order: Order::Key,
            rows: &rows,
            stands_still: true,
            savepoint: false,
        };
        let read = rows::read(&mut session, Some(&making.control), &reading).await?;
        making.idle().push(session);
        Ok(read)
    }

    fn parallel(&self) -> usize {
        self.options.parallel.max(1)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        let making = self.making.take().ok_or(TOO_EARLY)?;
        self.made.clear();
        Ok(Published {
            place: SourceUrl::Mysql(self.url.clone()).display(),
            warnings: making.warnings,
        })
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        // What still loads into them would keep them.
        self.making = None;
        if self.made.is_empty() {
            return Ok(());
        }
        let database = self.url.database();
        let mut session = Session::connect(&self.url, Some(&database), Purpose::Filling).await?;
        while let Some(name) = self.made.last() {
            let sql = format!("DROP TABLE IF EXISTS {}", quote::identifier(name));
            let dropped = session.run(&sql, &format!("dropping table {name}")).await;
            if let Err(error) = dropped {
                let what = format!("table {name}: {error}");
                return Err(Error::Left { what }.into());
            }
            self.made.pop();
        }
        session.close().await;
        Ok(())
    }
}
