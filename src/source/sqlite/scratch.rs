//! A SQLite file for a rehearsed restore, in a directory of its own, asked and taken away.
//!
//! The database came from a backup and is not trusted: it is opened read-only and defensively, and
//! no trigger of it fires. Invariant: nothing but what was made here is ever removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::Error;
use super::file::beside;
use super::worker::Worker;
use crate::failure::{AnyFailure, Class};
use crate::id::hex;
use crate::row::schema::Structure;
use crate::source::address::{ONE_VALUE, SourceUrl, TargetOptions, not_one_value};
use crate::source::scratch::{Broken, Ready, Scratch, room};

/// A scratch file, by its address or in a temporary directory.
pub struct SqliteScratch {
    asked: Option<PathBuf>,
    options: TargetOptions,
    place: Option<Place>,
    worker: Option<Worker>,
}

/// The file, which is taken away when this is dropped.
struct Place {
    path: PathBuf,
    /// Where the file lies in no directory of ours.
    stands_alone: bool,
    _directory: Option<TempDir>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody waits for the outcome here; `end` tells it.
        let _ = self.remove();
    }
}

impl Place {
    fn remove(&self) -> std::io::Result<()> {
        if !self.stands_alone {
            return Ok(());
        }
        for suffix in ["", "-wal", "-shm", "-journal"] {
            match fs::remove_file(beside(&self.path, suffix)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl SqliteScratch {
    /// A file at `asked`, where nothing stands yet, or one in a temporary directory.
    pub fn new(asked: Option<&Path>, options: &TargetOptions) -> Self {
        SqliteScratch {
            asked: asked.map(Path::to_owned),
            options: options.clone(),
            place: None,
            worker: None,
        }
    }

    fn path(&self) -> Result<PathBuf, Error> {
        let place = self.place.as_ref();
        place
            .map(|place| place.path.clone())
            .ok_or(Error::NotOpen { what: "a check" })
    }

    async fn worker(&mut self) -> Result<&Worker, Error> {
        let path = self.path()?;
        if self.worker.is_none() {
            let start = Worker::start("scratch", move || Ok((open(&path)?, ())));
            self.worker = Some(start.await?.0);
        }
        self.worker
            .as_ref()
            .ok_or(Error::NotOpen { what: "a check" })
    }
}

/// Opens a file that came from anywhere, to be asked and never written.
fn open(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = || {
        let connection = Connection::open_with_flags(path, flags)?;
        for (setting, on) in [
            (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
            (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        ] {
            connection.set_db_config(setting, on)?;
        }
        connection.execute_batch("PRAGMA query_only=ON; PRAGMA cell_size_check=ON")?;
        Ok(connection)
    };
    opened().map_err(|error| Error::from_sqlite(path, "opening it to be checked", error))
}

fn refused(what: impl Into<String>) -> AnyFailure {
    AnyFailure::new(Class::Conflict, what, Some(ONE_VALUE.into()))
}

/// The one value of `sql`; none for NULL.
pub fn value(connection: &Connection, sql: &str) -> Result<Option<String>, String> {
    let told = |error: rusqlite::Error| error.to_string();
    let mut statement = connection.prepare(sql).map_err(told)?;
    let columns = statement.column_count();
    if let Some(what) = not_one_value(1, columns) {
        return Err(what);
    }
    let wrong = |rows| not_one_value(rows, columns).unwrap_or_default();
    let mut rows = statement.raw_query();
    let row = rows.next().map_err(told)?.ok_or_else(|| wrong(0))?;
    let value = match row.get_ref(0).map_err(told)? {
        ValueRef::Null => None,
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Real(value) => Some(value.to_string()),
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Blob(bytes) => Some(hex(bytes)),
    };
    match rows.next().map_err(told)? {
        None => Ok(value),
        Some(_) => Err(wrong(2)),
    }
}

/// Rows that point at nothing, by table and parent.
fn broken(connection: &Connection) -> rusqlite::Result<BTreeMap<(String, String), u64>> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        *found.entry((row.get(0)?, row.get(2)?)).or_default() += 1;
    }
    Ok(found)
}

#[async_trait]
impl Scratch for SqliteScratch {
    async fn start(&mut self, _structure: &Structure) -> Result<Ready, AnyFailure> {
        let place = match &self.asked {
            Some(path) if fs::symlink_metadata(path).is_ok() => {
                return Err(Error::Taken { path: path.clone() }.into());
            }
            Some(path) => Place {
                path: path.clone(),
                stands_alone: true,
                _directory: None,
            },
            None => {
                let root = std::env::temp_dir();
                let directory = room::make()
                    .map_err(|error| Error::from_io(&root, "making a scratch directory", error))?;
                Place {
                    path: directory.path().join("drill.db"),
                    stands_alone: false,
                    _directory: Some(directory),
                }
            }
        };
        let url = SourceUrl::Sqlite(place.path.clone());
        self.place = Some(place);
        Ok(Ready {
            url,
            options: self.options.clone(),
            place: "a temporary SQLite file".into(),
            warnings: Vec::new(),
        })
    }

    async fn ask(&mut self, sql: &str, limit: Duration) -> Result<Option<String>, AnyFailure> {
        let worker = self.worker().await?;
        let sql = sql.to_owned();
        let asking = worker.call(move |connection| Ok(value(connection, &sql)));
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer?.map_err(refused),
            Err(_) => {
                worker.interrupt();
                Err(refused(format!("no answer within {} s", limit.as_secs())))
            }
        }
    }

    async fn broken_references(
        &mut self,
        _structure: &Structure,
    ) -> Result<Vec<Broken>, AnyFailure> {
        let path = self.path()?;
        let worker = self.worker().await?;
        let found = worker.call(move |connection| {
            broken(connection)
                .map_err(|error| Error::from_sqlite(&path, "checking foreign keys", error))
        });
        let found = found.await?;
        let told = |((table, parent), rows)| Broken {
            table,
            parent,
            rows,
        };
        Ok(found.into_iter().map(told).collect())
    }

    fn bytes(&self) -> Option<u64> {
        let place = self.place.as_ref()?;
        let about = fs::metadata(&place.path).ok()?;
        Some(about.len())
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        if let Some(worker) = self.worker.take() {
            worker.interrupt();
            // What SQLite says about closing a file that goes away does not matter.
            let _ = worker.close().await;
        }
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        let removed = place.remove();
        removed.map_err(|error| Error::from_io(&place.path, "taking it away", error))?;
        Ok(())
    }
}
