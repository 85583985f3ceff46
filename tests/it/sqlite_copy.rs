//! Copying one SQLite file to another through the traits, and comparing the two.
//!
//! What the SQLite tests share. The comparison does not trust the code under test: it asks
//! SQLite for `typeof` and `quote` of every value, and for its own checks.

use std::path::{Path, PathBuf};

use rowvault::failure::AnyFailure;
use rowvault::row::cell::{Cell, cells};
use rowvault::row::key::{KeyBatch, KeyEncoder};
use rowvault::row::schema::{Structure, Table};
use rowvault::source::open::{self, SourceOptions, SourceUrl, TargetOptions};
use rowvault::source::{
    Order, PIECES_WAITING_MAX, Piece, PieceReceiver, PieceSender, Published, Source, Target,
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A private directory with a source and a target in it.
pub struct Place {
    pub directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Place {
            directory: TempDir::with_prefix("rowvault-test-").unwrap(),
        }
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source.db")
    }

    pub fn target(&self) -> PathBuf {
        self.directory.path().join("target.db")
    }

    /// Makes the source by running `sql`.
    pub fn with(sql: &str) -> Self {
        let place = Place::new();
        Connection::open(place.source())
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        place
    }

    /// Copies source to target and compares the two.
    pub async fn copy_and_compare(&self) -> Structure {
        let structure = copy(&self.source(), &self.target()).await.unwrap();
        compare(&self.source(), &self.target());
        self.assert_nothing_left_over();
        structure
    }

    pub fn assert_nothing_left_over(&self) {
        for entry in std::fs::read_dir(self.directory.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("rowvault"), "{name} is left over");
        }
    }
}

pub fn url(path: &Path) -> SourceUrl {
    format!("sqlite:{}", path.display()).parse().unwrap()
}

pub fn source(path: &Path) -> Box<dyn Source> {
    open::source(&url(path), &SourceOptions::default()).unwrap()
}

pub fn target(path: &Path) -> Box<dyn Target> {
    open::target(&url(path), &TargetOptions::default()).unwrap()
}

/// Copies a whole database, and checks that what is read back is what was read.
pub async fn copy(from: &Path, to: &Path) -> Result<Structure, AnyFailure> {
    let mut source = source(from);
    let mut target = target(to);
    let structure = copy_rows(&mut *source, &mut *target).await?;
    source.end().await?;
    let published: Published = target.publish().await?;
    assert!(published.place.starts_with("sqlite:"));
    Ok(structure)
}

async fn copy_rows(
    source: &mut dyn Source,
    target: &mut dyn Target,
) -> Result<Structure, AnyFailure> {
    let structure = source.begin().await?;
    target.prepare(&structure).await?;
    let mut sums = Vec::new();
    for table in structure.tables.iter().filter(|table| table.with_rows) {
        let (give, taken) = mpsc::channel(PIECES_WAITING_MAX);
        let (pass, passed) = mpsc::channel(PIECES_WAITING_MAX);
        let order = match table.key {
            Some(_) => Order::Canonical,
            None => Order::Physical,
        };
        let (read, sum, loaded) = tokio::join!(
            source.read(table, order, give),
            summed(table, taken, Some(pass), true),
            target.load(table, passed),
        );
        let (read, loaded) = (read?, loaded?);
        assert_eq!(
            (read, loaded),
            (sum.rows, sum.rows),
            "rows of {}",
            table.name
        );
        sums.push(sum);
    }
    target.finish(&structure).await?;
    for (table, sum) in structure
        .tables
        .iter()
        .filter(|table| table.with_rows)
        .zip(sums)
    {
        let (give, taken) = mpsc::channel(PIECES_WAITING_MAX);
        let (read, back) = tokio::join!(
            target.read_back(table, give),
            summed(table, taken, None, false)
        );
        assert_eq!(read?, back.rows);
        assert_eq!(back, sum, "table {} came back otherwise", table.name);
    }
    Ok(structure)
}

/// The number of rows and the order-free sum of their hashes.
#[derive(Debug, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    hash: u128,
}

/// Sums what comes, checks how it is cut and ordered, and hands it on.
pub async fn summed(
    table: &Table,
    mut taken: PieceReceiver,
    pass: Option<PieceSender>,
    ordered: bool,
) -> Sum {
    let mut sum = Sum { rows: 0, hash: 0 };
    let mut slices: Vec<(usize, blake3::Hasher, u64)> = Vec::new();
    let mut keys = KeyBatch::default();
    let encoder = KeyEncoder::new(table).filter(|_| ordered);
    while let Some(piece) = taken.recv().await {
        match &piece {
            Piece::Slice { column, bytes } => {
                assert!(!bytes.is_empty() && bytes.len() <= 1 << 20);
                if slices.last().is_none_or(|(last, ..)| last != column) {
                    assert!(slices.last().is_none_or(|(last, ..)| last < column));
                    slices.push((*column, blake3::Hasher::new(), 0));
                }
                let (_, hasher, length) = slices.last_mut().unwrap();
                hasher.update(bytes);
                *length += bytes.len() as u64;
            }
            Piece::Rows(batch) => {
                if let Some(encoder) = &encoder {
                    encoder.encode_all(batch, &mut keys).unwrap();
                }
                for row in batch.iter() {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(row);
                    let found = cells(row, table.columns.len()).unwrap();
                    let large =
                        found
                            .iter()
                            .enumerate()
                            .filter_map(|(position, cell)| match cell {
                                Cell::Large(large) => Some((position, large.length)),
                                _ => None,
                            });
                    let slices = std::mem::take(&mut slices);
                    assert!(large.eq(slices.iter().map(|(column, _, length)| (*column, *length))));
                    for (_, slice, _) in slices {
                        hasher.update(slice.finalize().as_bytes());
                    }
                    let hash = hasher.finalize();
                    let hash = u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap());
                    sum.hash = sum.hash.wrapping_add(hash);
                    sum.rows += 1;
                }
            }
        }
        if let Some(pass) = &pass
            && pass.send(piece).await.is_err()
        {
            break;
        }
    }
    assert!(keys.ascends(), "table {} is out of order", table.name);
    sum
}

/// Asserts that two files hold the same database.
pub fn compare(from: &Path, to: &Path) {
    let (from, to) = (
        Connection::open(from).unwrap(),
        Connection::open(to).unwrap(),
    );
    let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2, 3";
    let schema_of = |c: &Connection| rows_of(c, schema);
    assert_eq!(schema_of(&from), schema_of(&to));
    for pragma in [
        "page_size",
        "encoding",
        "auto_vacuum",
        "user_version",
        "application_id",
        "journal_mode",
    ] {
        let value = |c: &Connection| rows_of(c, &format!("PRAGMA {pragma}"));
        assert_eq!(value(&from), value(&to), "{pragma}");
    }
    assert_eq!(rows_of(&to, "PRAGMA integrity_check"), [["ok".to_owned()]]);
    let foreign = |c: &Connection| rows_of(c, "PRAGMA foreign_key_check");
    assert_eq!(foreign(&from), foreign(&to));
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1";
    for table in rows_of(&from, tables) {
        compare_table(&from, &to, &table[0]);
    }
}

fn compare_table(from: &Connection, to: &Connection, table: &str) {
    let name = format!("\"{}\"", table.replace('"', "\"\""));
    let columns: Vec<String> = {
        let mut statement = from
            .prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden <> 1")
            .unwrap();
        let names = statement
            .query_map([table], |row| row.get::<_, String>(0))
            .unwrap();
        names.map(Result::unwrap).collect()
    };
    let mut wanted: Vec<String> = Vec::new();
    for column in columns {
        let column = format!("\"{}\"", column.replace('"', "\"\""));
        wanted.push(format!(
            "typeof({column}), quote({column}), hex(CAST({column} AS BLOB))"
        ));
    }
    if from.prepare(&format!("SELECT _rowid_ FROM {name}")).is_ok() {
        wanted.push("_rowid_".into());
    }
    for wanted in wanted.chunks(500) {
        let query = format!("SELECT {} FROM {name}", wanted.join(", "));
        let sorted = |c: &Connection| {
            let mut rows = rows_of(c, &query);
            rows.sort();
            rows
        };
        assert_eq!(sorted(from), sorted(to), "table {table}");
    }
}

/// All values of a query as text, with NULL apart.
pub fn rows_of(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        Ok((0..columns)
            .map(|column| match row.get_ref(column).unwrap() {
                rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            })
            .collect())
    });
    rows.unwrap().map(Result::unwrap).collect()
}
