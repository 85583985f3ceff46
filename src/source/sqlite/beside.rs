//! Tables of a snapshot put into a SQLite file in use, under names of their own.
//!
//! All of it is one transaction of SQLite's own, in which others may read and not write. A table
//! is made from its recorded definition without its foreign keys, then rows, then its indexes.
//! Invariant: the file is as it was until `publish`, and nothing that was there is touched.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rusqlite::Connection;

use super::catalog::{self, Schema};
use super::sql::{self, Definition, quoted};
use super::worker::Worker;
use super::{Error, file, load, rows};
use crate::failure::AnyFailure;
use crate::row::schema::{Engine, Structure, Table, TableName};
use crate::source::address::SourceUrl;
use crate::source::beside::{self, Beside, Dialect, is_blank, pieces};
use crate::source::{Order, PieceReceiver, PieceSender, Published, Target};

/// A file in use that gets tables beside its own.
pub struct SqliteBeside {
    path: PathBuf,
    beside: Beside,
    making: Option<Making>,
}

struct Making {
    worker: Worker,
    path: PathBuf,
    schema: Schema,
    warnings: Vec<String>,
}

/// A recorded index, on a table of another name, under a name that nothing has.
fn index(sql: &str, name: &TableName, number: usize) -> Option<String> {
    let all = pieces(sql, Dialect::Sqlite);
    let open = all.iter().position(|piece| *piece == "(")?;
    let words = all.iter().filter(|piece| !is_blank(piece));
    let unique = words.clone().nth(1)?.eq_ignore_ascii_case("unique");
    let kind = if unique { "UNIQUE INDEX" } else { "INDEX" };
    let own = quoted(&format!("{}_{number}", name.name));
    let (table, columns) = (quoted(&name.name), all[open..].concat());
    Some(format!("CREATE {kind} {own} ON {table} {columns}"))
}

impl SqliteBeside {
    /// The file at `path`, which gets the tables of `beside`.
    pub fn new(path: &Path, beside: Beside) -> Self {
        SqliteBeside {
            path: path.to_owned(),
            beside,
            making: None,
        }
    }

    fn making(&self, what: &'static str) -> Result<&Making, Error> {
        self.making.as_ref().ok_or(Error::NotOpen { what })
    }

    /// The statements that make the tables, with their names.
    fn statements(&self, schema: &Schema) -> Result<Vec<(TableName, String)>, AnyFailure> {
        let mut made = Vec::new();
        for (old, new) in self.beside.names() {
            let objects = schema.objects.iter();
            let object = objects
                .clone()
                .find(|one| one.has_rows() && one.name == old.name);
            let recorded = object.and_then(|object| object.sql.as_deref());
            let recorded = recorded.filter(|sql| sql::definition(sql) == Some(Definition::Table));
            let quoted = quoted(&new.name);
            let sql = recorded.and_then(|sql| beside::create_table(sql, Dialect::Sqlite, &quoted));
            let sql = sql.ok_or_else(|| Error::Structure {
                what: format!("the definition of table {old} is not understood"),
            })?;
            made.push((new.clone(), sql));
        }
        Ok(made)
    }

    fn warnings(&self, structure: &Structure, schema: &Schema) -> Vec<String> {
        let told = structure.tables.iter().filter_map(|table| {
            let objects = schema.objects.iter();
            let name = &table.name.name;
            let triggers = objects.filter(|one| one.kind == "trigger" && one.table == *name);
            let keys = table.foreign_keys.len();
            beside::left_out(&table.name, keys, triggers.count())
        });
        told.collect()
    }
}

/// Opens the file for writing and makes the tables; gives its real path.
fn start(
    path: &Path,
    schema: &Schema,
    statements: &[(TableName, String)],
) -> Result<(Connection, PathBuf), Error> {
    let (connection, path) = file::open_to_write(path)?;
    let encoding = catalog::encoding(&connection, &path)?;
    if encoding.name() != schema.settings.encoding {
        return Err(Error::Unkept {
            path,
            what: format!("text in {}", schema.settings.encoding),
            why: format!("the file's own is in {}", encoding.name()),
        });
    }
    for (name, sql) in statements {
        let doing = format!("making table {name}");
        let made = connection.execute(sql, []);
        made.map_err(|error| Error::from_sqlite(&path, &doing, error))?;
        let query = "SELECT count(*) FROM pragma_foreign_key_list(?1)";
        let keys = connection.query_row(query, [&name.name], |row| row.get::<_, i64>(0));
        if keys.map_err(|error| Error::from_sqlite(&path, &doing, error))? > 0 {
            return Err(Error::Structure {
                what: format!("the foreign keys of table {name} are not understood"),
            });
        }
    }
    Ok((connection, path))
}

/// Whether a name is there already.
fn is_taken(path: &Path, name: &TableName) -> Result<bool, Error> {
    let (connection, opened) = file::open(path)?;
    let query = "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE)";
    let found = connection.query_row(query, [&name.name], |row| row.get(0));
    found.map_err(|error| Error::from_sqlite(&opened.path, "looking at it", error))
}

#[async_trait]
impl Target for SqliteBeside {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        if structure.engine != Engine::Sqlite {
            return Err(beside::other_engine(structure.engine, Engine::Sqlite));
        }
        let schema = Schema::from_structure(structure)?;
        for (_, name) in self.beside.names() {
            if is_taken(&self.path, name)? {
                return Err(beside::taken(name));
            }
        }
        let statements = self.statements(&schema)?;
        let (path, for_worker) = (self.path.clone(), schema.clone());
        let open = Worker::start("beside", move || start(&path, &for_worker, &statements));
        let (worker, path) = open.await?;
        self.making = Some(Making {
            worker,
            path,
            warnings: self.warnings(structure, &schema),
            schema,
        });
        Ok(())
    }

    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let making = self.making("loading rows")?;
        let (path, table) = (making.path.clone(), self.beside.renamed(table)?);
        let name = table.name.clone();
        let taken = making.worker.call(move |connection| {
            let (taken, patches) = load::take(connection, &path, &table, rows)?;
            match patches.is_empty() {
                true => Ok(taken),
                // Such rows are completed while nobody has the file.
                false => Err(Error::Unkept {
                    path,
                    what: format!("a row of table {name} with several large cells"),
                    why: "it can only be written into a file of its own".into(),
                }),
            }
        });
        Ok(taken.await?)
    }

    async fn finish(&mut self, _: &Structure) -> Result<(), AnyFailure> {
        let making = self.making("finishing")?;
        let mut statements = Vec::new();
        for (old, new) in self.beside.names() {
            let indexes = making.schema.objects.iter();
            let indexes = indexes.filter(|one| one.kind == "index" && one.table == old.name);
            let recorded = indexes.filter_map(|one| one.sql.as_deref());
            for (number, recorded) in (1..).zip(recorded) {
                statements.extend(index(recorded, new, number));
            }
        }
        let path = making.path.clone();
        let made = making.worker.call(move |connection| {
            for sql in statements {
                let made = connection.execute(&sql, []);
                made.map_err(|error| Error::from_sqlite(&path, "making an index", error))?;
            }
            Ok(())
        });
        Ok(made.await?)
    }

    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        let making = self.making("reading back")?;
        let (path, table) = (making.path.clone(), self.beside.renamed(table)?);
        let read = making
            .worker
            .call(move |connection| rows::send(connection, &path, &table, Order::Physical, &rows));
        Ok(read.await?)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        let making = self.making("publishing")?;
        let path = making.path.clone();
        let committed = making.worker.call(move |connection| {
            let committed = connection.execute_batch("COMMIT");
            committed.map_err(|error| Error::from_sqlite(&path, "committing", error))
        });
        committed.await?;
        let place = SourceUrl::Sqlite(making.path.clone()).display();
        let making = self.making.take();
        let warnings = making.map(|making| making.warnings).unwrap_or_default();
        Ok(Published { place, warnings })
    }

    /// What was not committed is gone with its connection.
    async fn discard(&mut self) -> Result<(), AnyFailure> {
        let Some(making) = self.making.take() else {
            return Ok(());
        };
        making.worker.interrupt();
        let closed = making.worker.close().await;
        Ok(closed.map_err(|error| Error::from_sqlite(&making.path, "closing it", error))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_keeps_what_it_is_of() {
        let name = TableName {
            schema: None,
            name: "n".into(),
        };
        for (sql, expected) in [
            (
                "CREATE INDEX i ON t(a, lower(b)) WHERE c > 1",
                "INDEX \"n_1\" ON \"n\" (a, lower(b)) WHERE c > 1",
            ),
            (
                "CREATE UNIQUE INDEX \"i (\" ON [t (](a)",
                "UNIQUE INDEX \"n_1\" ON \"n\" (a)",
            ),
        ] {
            assert_eq!(index(sql, &name, 1), Some(format!("CREATE {expected}")));
        }
    }
}
