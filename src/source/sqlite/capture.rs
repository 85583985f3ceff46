//! A SQLite file as a [`Source`]: one read transaction from begin to end.
//!
//! Invariant: every call between `begin` and `end` works in the one transaction that `begin`
//! started, or fails.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::file::{self, Opened};
use super::scratch::value;
use super::worker::Worker;
use super::{Error, catalog, rows};
use crate::failure::AnyFailure;
use crate::row::schema::{Structure, Table};
use crate::source::address::{QUESTION_TIME_MAX, SourceOptions};
use crate::source::{Order, PieceSender, Source};

/// A database file to be read.
pub struct SqliteSource {
    path: PathBuf,
    options: SourceOptions,
    open: Option<(Worker, Opened)>,
}

impl SqliteSource {
    /// The source that the file at `path` is. Nothing is opened before `begin`.
    pub fn new(path: &Path, options: &SourceOptions) -> Self {
        SqliteSource {
            path: path.to_owned(),
            options: options.clone(),
            open: None,
        }
    }

    fn worker(&self, what: &'static str) -> Result<&(Worker, Opened), Error> {
        self.open.as_ref().ok_or(Error::NotOpen { what })
    }
}

#[async_trait]
impl Source for SqliteSource {
    async fn begin(&mut self) -> Result<Structure, AnyFailure> {
        let path = self.path.clone();
        let options = self.options.clone();
        let start = Worker::start("source", move || {
            let (connection, opened) = file::open(&path)?;
            let mut structure = catalog::read(&connection, &opened.path, &options)?;
            if opened.is_copy() {
                let read = "the file was read from a private copy, where it could be recovered";
                structure.facts.insert("read_from".into(), "copy".into());
                structure.warnings.push(read.into());
            }
            Ok((connection, (opened, structure)))
        });
        let (worker, (opened, mut structure)) = start.await?;
        for question in &self.options.questions {
            let answer = answer(&worker, question.sql.clone()).await?;
            question.note(answer, &mut structure.facts, &mut structure.warnings);
        }
        self.open = Some((worker, opened));
        Ok(structure)
    }

    async fn read(
        &self,
        table: &Table,
        order: Order,
        rows: PieceSender,
    ) -> Result<u64, AnyFailure> {
        let (worker, opened) = self.worker("reading rows")?;
        let path = opened.path.clone();
        let table = table.clone();
        let count = worker
            .call(move |connection| {
                check_transaction(connection, &path)?;
                rows::send(connection, &path, &table, order, &rows)
            })
            .await?;
        Ok(count)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        let Some((worker, opened)) = self.open.take() else {
            return Err(Error::NotOpen { what: "the end" }.into());
        };
        let path = opened.path.clone();
        let ended = worker
            .call(move |connection| {
                check_transaction(connection, &path)?;
                connection
                    .execute_batch("COMMIT")
                    .map_err(|error| Error::from_sqlite(&path, "ending the read", error))
            })
            .await;
        let closed = worker.close().await;
        ended?;
        closed.map_err(|error| Error::from_sqlite(&opened.path, "closing it", error))?;
        opened.check_still()?;
        Ok(())
    }
}

/// The answer of the database, or why it has none.
async fn answer(worker: &Worker, sql: String) -> Result<Result<Option<String>, String>, Error> {
    let asking = worker.call(move |connection| Ok(value(connection, &sql)));
    match tokio::time::timeout(QUESTION_TIME_MAX, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            worker.interrupt();
            Ok(Err("it took too long".into()))
        }
    }
}

fn check_transaction(connection: &rusqlite::Connection, path: &Path) -> Result<(), Error> {
    match connection.is_autocommit() {
        false => Ok(()),
        true => Err(Error::Changed {
            path: path.to_owned(),
        }),
    }
}
