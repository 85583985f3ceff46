//! A SQLite file with the sample.

use std::path::{Path, PathBuf};

use rowvault::demo::fill;
use rowvault::sample::churn::Edit;
use rowvault::sample::{Sample, Table, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::{Copy, Database, shell};
use crate::measure::version;

/// The file.
pub struct Sqlite {
    directory: PathBuf,
    file: PathBuf,
}

impl Sqlite {
    /// A file in `directory`, not made yet.
    pub fn new(directory: &Path) -> Sqlite {
        Sqlite {
            directory: directory.into(),
            file: directory.join("crm.db"),
        }
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Database for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn version(&self) -> String {
        let client = version("sqlite3", "--version").unwrap_or_default();
        let client = client.split(' ').next().unwrap_or_default().to_owned();
        format!("SQLite {} (peers: {client})", rusqlite::version())
    }

    fn fill(&mut self, sample: &Sample) {
        fill::sqlite(&self.file, sample).expect("the sample fits a new file");
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        fill::apply(&self.file, edits).expect("the edits fit the file");
    }

    fn rows(&self, wanted: &[(Table, Vec<Value>)]) -> Option<Vec<Vec<u8>>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(&self.file, flags).ok()?;
        let rows = wanted.iter().map(|(table, key)| {
            let columns = table.columns()[..key.len()].iter();
            let equal: Vec<String> = columns.map(|one| format!("{} = ?", one.name)).collect();
            let (name, equal) = (table.name(), equal.join(" AND "));
            let sql = format!("SELECT * FROM {name} WHERE {equal}");
            row(&connection, &sql, key)
        });
        let rows: rusqlite::Result<Vec<Vec<u8>>> = rows.collect();
        Some(rows.expect("the sample can be read"))
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.file.display())
    }

    fn dump(&self) -> String {
        format!("sqlite3 {} .dump", shell(&self.file))
    }

    fn copy(&mut self, name: &str) -> Copy {
        let file = self.directory.join(format!("{name}.db"));
        Copy {
            name: name.into(),
            url: format!("sqlite:{}", file.display()),
            load: format!("sqlite3 {}", shell(&file)),
            parallel: None,
        }
    }

    fn discard(&mut self, copy: &Copy) {
        let file = self.directory.join(format!("{}.db", copy.name));
        std::fs::remove_file(file).expect("the copy was made");
    }
}

fn row(connection: &Connection, sql: &str, key: &[Value]) -> rusqlite::Result<Vec<u8>> {
    let mut statement = connection.prepare(sql)?;
    let width = statement.column_count();
    let mut rows = statement.query(params_from_iter(key.iter().map(Value::to_text)))?;
    let mut text = Vec::new();
    if let Some(row) = rows.next()? {
        for at in 0..width {
            match row.get_ref(at)? {
                ValueRef::Null => text.extend(br"\N"),
                ValueRef::Integer(number) => text.extend(number.to_string().bytes()),
                ValueRef::Real(number) => text.extend(number.to_string().bytes()),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => text.extend(bytes),
            }
            text.push(b'\t');
        }
    }
    Ok(text)
}
