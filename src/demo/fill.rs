//! The sample CRM as a SQLite file, and edits on it.
//!
//! The demo, the tests and the benchmarks fill their files here, because the sample itself is pure
//! and touches none. Invariant: a file is filled in one transaction, and a day of edits is applied
//! in one: whole or not at all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, Transaction, params_from_iter};

use crate::failure::{Class, Failure};
use crate::row::schema::Engine;
use crate::sample::churn::Edit;
use crate::sample::{Sample, Table, Value};

/// Why a file was not filled or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is something at the path.
    #[error("{} exists", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("the sample in {} could not be {did}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        did: &'static str,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Exists { .. } => Class::Conflict,
            Error::Sqlite { .. } => Class::Missing,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Exists { .. } => Some("name a file that is not there yet".into()),
            Error::Sqlite { .. } => Some("see that the directory is writable and has room".into()),
        }
    }
}

/// How many rows edits changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows added.
    pub inserted: u64,
    /// Rows with new values.
    pub updated: u64,
    /// Rows taken away, what the database itself took with them left out.
    pub deleted: u64,
}

/// A value on its way into SQLite; text is borrowed where it is text already.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Value::Bool(value) => ToSqlOutput::Borrowed(ValueRef::Integer(i64::from(*value))),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            // Decimals come as text too: the column's affinity makes the number.
            value => ToSqlOutput::Owned(value.to_text().into()),
        })
    }
}

/// Makes the SQLite file `path` with the whole sample in it, and returns the number of rows.
///
/// # Errors
/// Conflict where there is something at `path`; Missing where SQLite cannot write there. What was
/// made up to then is left, for it is worth nothing.
pub fn sqlite(path: &Path, sample: &Sample) -> Result<u64, Error> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    let make = || -> rusqlite::Result<u64> {
        let mut connection = Connection::open(path)?;
        // A new file that is not finished is worth nothing, so nothing protects it.
        connection.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA cache_size = -131072; PRAGMA foreign_keys = OFF;",
        )?;
        let transaction = connection.transaction()?;
        let rows = fill(&transaction, sample)?;
        transaction.commit()?;
        Ok(rows)
    };
    make().map_err(|source| Error::Sqlite {
        path: path.into(),
        did: "made",
        source,
    })
}

fn fill(transaction: &Transaction<'_>, sample: &Sample) -> rusqlite::Result<u64> {
    let ddl = Sample::ddl(Engine::Sqlite);
    for statement in &ddl.before {
        transaction.execute_batch(statement)?;
    }
    let mut rows = 0;
    for table in Table::ALL {
        let mut insert = transaction.prepare(&Sample::insert_statement(table, Engine::Sqlite))?;
        for row in sample.rows(table) {
            insert.execute(params_from_iter(row.iter().map(Bound)))?;
            rows += 1;
        }
    }
    for statement in &ddl.after {
        transaction.execute_batch(statement)?;
    }
    Ok(rows)
}

/// Applies `edits` to the sample in the SQLite file `path`, in one transaction with foreign keys
/// enforced, and returns how many rows each kind of edit hit.
///
/// # Errors
/// Missing where the file is not a sample, or an edit does not fit its state; it is then as it was.
pub fn apply(path: &Path, edits: impl IntoIterator<Item = Edit>) -> Result<Applied, Error> {
    let make = || -> rusqlite::Result<Applied> {
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536;")?;
        let transaction = connection.transaction()?;
        let applied = apply_all(&transaction, edits)?;
        transaction.commit()?;
        Ok(applied)
    };
    make().map_err(|source| Error::Sqlite {
        path: path.into(),
        did: "changed",
        source,
    })
}

fn apply_all(
    transaction: &Transaction<'_>,
    edits: impl IntoIterator<Item = Edit>,
) -> rusqlite::Result<Applied> {
    let mut applied = Applied::default();
    let mut prepared = BTreeMap::new();
    for edit in edits {
        let sql = statement(&edit);
        let statement = match prepared.entry(sql) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let statement = transaction.prepare(entry.key())?;
                entry.insert(statement)
            }
        };
        let (values, counter) = values(&edit, &mut applied);
        *counter += statement.execute(params_from_iter(values.into_iter().map(Bound)))? as u64;
    }
    Ok(applied)
}

/// The values of an edit in the order of its statement's marks, and where its rows are counted.
fn values<'a, 'b>(edit: &'a Edit, applied: &'b mut Applied) -> (Vec<&'a Value>, &'b mut u64) {
    match edit {
        Edit::Insert { row, .. } => (row.iter().collect(), &mut applied.inserted),
        Edit::Update { key, columns, .. } => {
            let set = columns.iter().map(|column| &column.1);
            (set.chain(key).collect(), &mut applied.updated)
        }
        Edit::Delete { key, .. } => (key.iter().collect(), &mut applied.deleted),
    }
}

/// The statement of an edit, with `?` for each value. The sample's names need no escaping.
fn statement(edit: &Edit) -> String {
    let equals = |table: &Table, positions: &mut dyn Iterator<Item = usize>, between: &str| {
        let all: Vec<String> = positions
            .map(|position| format!("\"{}\" = ?", table.columns()[position].name))
            .collect();
        all.join(between)
    };
    let key = |table: &Table| equals(table, &mut (0..table.key_columns()), " AND ");
    match edit {
        Edit::Insert { table, .. } => Sample::insert_statement(*table, Engine::Sqlite),
        Edit::Update { table, columns, .. } => {
            let set = equals(table, &mut columns.iter().map(|column| column.0), ", ");
            format!("UPDATE \"{}\" SET {set} WHERE {}", table.name(), key(table))
        }
        Edit::Delete { table, .. } => {
            format!("DELETE FROM \"{}\" WHERE {}", table.name(), key(table))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sample::churn::Churn;

    fn number(connection: &Connection, sql: &str) -> i64 {
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn check(path: &Path) {
        let connection = Connection::open(path).unwrap();
        let broken = number(&connection, "SELECT count(*) FROM pragma_foreign_key_check");
        assert_eq!(broken, 0, "rows refer to nothing");
        let whole: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(whole, "ok");
    }

    #[test]
    fn filled_file_has_every_row_and_keeps_every_foreign_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.db");
        let sample = Sample::new(7, 0.002);
        assert_eq!(sqlite(&path, &sample).unwrap(), sample.count_all());
        check(&path);
        let connection = Connection::open(&path).unwrap();
        for table in Table::ALL {
            let rows = number(
                &connection,
                &format!("SELECT count(*) FROM {}", table.name()),
            );
            assert_eq!(rows, i64::from(sample.count(table)), "{}", table.name());
        }
        let circle = "SELECT count(*) FROM accounts a JOIN contacts c
            ON c.id = a.primary_contact_id AND c.account_id = a.id";
        assert!(number(&connection, circle) > 50, "the circle is not closed");
        let again = sqlite(&path, &sample);
        assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    }

    #[test]
    fn cells_are_what_sqlite_stores() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.db");
        let sample = Sample::new(9, 0.0);
        sqlite(&path, &sample).unwrap();
        let connection = Connection::open(&path).unwrap();
        for table in Table::ALL {
            let sql = format!("SELECT * FROM {} ORDER BY rowid", table.name());
            let mut statement = connection.prepare(&sql).unwrap();
            let mut stored = statement.query([]).unwrap();
            for row in sample.rows(table) {
                let found = stored.next().unwrap().unwrap();
                for (position, value) in row.iter().enumerate() {
                    let (mut wanted, mut got) = (Vec::new(), Vec::new());
                    value.push_sqlite_cell(&mut wanted);
                    push_stored(found.get_ref(position).unwrap(), &mut got);
                    assert_eq!(got, wanted, "{value:?} in {}", table.name());
                }
            }
        }
    }

    fn push_stored(value: ValueRef<'_>, out: &mut Vec<u8>) {
        use crate::row::cell::Cell;
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number),
            ValueRef::Text(bytes) => Cell::Text(bytes),
            ValueRef::Blob(bytes) => Cell::Blob(bytes),
        }
        .push(out);
    }

    #[test]
    fn days_of_edits_hit_one_row_each_and_keep_every_foreign_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.db");
        let sample = Sample::new(11, 0.004);
        sqlite(&path, &sample).unwrap();
        let mut churn = Churn::new(&sample);
        for seed in 0..3 {
            for kind in [
                Churn::crm_day,
                Churn::append_only,
                Churn::random_updates,
                |churn: &mut Churn, seed| churn.delete_contacts(seed, 20),
            ] {
                let day = kind(&mut churn, seed);
                let edits = day.len() as u64;
                let applied = apply(&path, day).unwrap();
                let hit = applied.inserted + applied.updated + applied.deleted;
                assert_eq!(hit, edits, "{applied:?}");
                check(&path);
            }
        }
        let connection = Connection::open(&path).unwrap();
        for table in Table::ALL {
            let rows = number(
                &connection,
                &format!("SELECT count(*) FROM {}", table.name()),
            );
            assert_eq!(rows, i64::from(churn.count(table)), "{}", table.name());
        }
    }

    #[test]
    fn deleted_contacts_take_their_dependents_and_leave_no_reference() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.db");
        let sample = Sample::new(13, 0.004);
        sqlite(&path, &sample).unwrap();
        let edits: Vec<Edit> = Churn::new(&sample).delete_contacts(1, 50).collect();
        let mut tables = HashSet::new();
        for edit in &edits {
            match edit {
                Edit::Delete { table, .. } => tables.insert((*table, "deleted")),
                Edit::Update { table, .. } => tables.insert((*table, "cleared")),
                Edit::Insert { table, .. } => panic!("a row came into {}", table.name()),
            };
        }
        for wanted in [
            (Table::Contacts, "deleted"),
            (Table::Activities, "deleted"),
            (Table::Mails, "deleted"),
            (Table::Notes, "deleted"),
            (Table::ContactTags, "deleted"),
            (Table::Accounts, "cleared"),
            (Table::Deals, "cleared"),
        ] {
            assert!(tables.contains(&wanted), "no {wanted:?}");
        }
        apply(&path, edits).unwrap();
        let connection = Connection::open(&path).unwrap();
        let orphans = "SELECT count(*) FROM attachments WHERE parent_type = 'contact'
            AND parent_id NOT IN (SELECT id FROM contacts)";
        assert_eq!(number(&connection, orphans), 0);
    }

    #[test]
    fn edits_that_do_not_fit_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crm.db");
        let sample = Sample::new(17, 0.0);
        sqlite(&path, &sample).unwrap();
        let before = std::fs::read(&path).unwrap();
        let new = sample.row(Table::Tags, 0);
        let edits = vec![
            Edit::Delete {
                table: Table::Notes,
                key: vec![Value::Int(1)],
            },
            Edit::Insert {
                table: Table::Tags,
                row: new,
            },
        ];
        assert!(apply(&path, edits).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
