//! A SQLite source is read at one instant and left as it was, or refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rowvault::failure::{AnyFailure, Class};
use rowvault::row::schema::Structure;
use rowvault::source::open::{self, SourceOptions, TablePattern};
use rowvault::source::{Order, PIECES_WAITING_MAX, Source};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::mpsc;

use crate::sqlite_copy::{Place, compare, copy, rows_of, source, summed, url};

/// Every file of a directory with its bytes and time of change, but for the -shm of a WAL.
fn frozen(directory: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        (name, (bytes, about.mtime(), about.mtime_nsec()))
    });
    entries
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect()
}

async fn read_all(source: &dyn Source, structure: &Structure) -> Result<u64, AnyFailure> {
    let mut rows = 0;
    for table in structure.tables.iter().filter(|table| table.with_rows) {
        let (give, taken) = mpsc::channel(PIECES_WAITING_MAX);
        let reading = source.read(table, Order::Key, give);
        let (read, sum) = tokio::join!(reading, summed(table, taken, None, false));
        assert_eq!(read?, sum.rows);
        rows += sum.rows;
    }
    Ok(rows)
}

async fn read_file(path: &Path) -> Result<u64, AnyFailure> {
    let mut source = source(path);
    let structure = source.begin().await?;
    let rows = read_all(&*source, &structure).await?;
    source.end().await?;
    Ok(rows)
}

/// A database in WAL mode as a crashed process leaves it: rows only in the -wal.
fn crashed_wal(place: &Place) {
    let made = place.directory.path().join("made.db");
    let db = Connection::open(&made).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
         CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO t SELECT i, 'row ' || i FROM n;",
    )
    .unwrap();
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", made.display());
        fs::copy(from, format!("{}{suffix}", place.source().display())).unwrap();
    }
    drop(db);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", made.display()));
    }
}

/// A database with a hot rollback journal: half of an uncommitted deletion is in the file.
fn hot_journal(place: &Place) {
    let made = place.directory.path().join("made.db");
    let db = Connection::open(&made).unwrap();
    db.execute_batch(
        "PRAGMA cache_size=5; PRAGMA cache_spill=2;
         CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, hex(zeroblob(100)) FROM n;
         BEGIN IMMEDIATE; UPDATE t SET v = 'never committed';",
    )
    .unwrap();
    for suffix in ["", "-journal"] {
        let from = format!("{}{suffix}", made.display());
        fs::copy(from, format!("{}{suffix}", place.source().display())).unwrap();
    }
    db.execute_batch("ROLLBACK").unwrap();
    drop(db);
    fs::remove_file(made).unwrap();
}

#[tokio::test]
async fn wal_of_a_crashed_process_is_read_and_left_as_it_was() {
    let place = Place::new();
    crashed_wal(&place);
    let wal = format!("{}-wal", place.source().display());
    assert!(fs::metadata(&wal).unwrap().len() > 10 * fs::metadata(place.source()).unwrap().len());
    let before = frozen(place.directory.path());
    assert_eq!(read_file(&place.source()).await.unwrap(), 20000);
    assert_eq!(
        frozen(place.directory.path()),
        before,
        "the source was changed"
    );
}

#[tokio::test]
async fn hot_journal_is_recovered_in_a_copy_and_left_as_it_was() {
    let place = Place::new();
    hot_journal(&place);
    let before = frozen(place.directory.path());
    assert_eq!(before.len(), 2, "{:?}", before.keys());
    let mut reading = source(&place.source());
    let structure = reading.begin().await.unwrap();
    assert_eq!(structure.facts["read_from"], "copy");
    assert_eq!(read_all(&*reading, &structure).await.unwrap(), 5000);
    reading.end().await.unwrap();
    copy(&place.source(), &place.target()).await.unwrap();
    let db = Connection::open(place.target()).unwrap();
    let wrong = rows_of(&db, "SELECT v FROM t WHERE v = 'never committed'");
    assert_eq!(wrong.len(), 0, "uncommitted rows were read");
    drop(db);
    fs::remove_file(place.target()).unwrap();
    assert_eq!(
        frozen(place.directory.path()),
        before,
        "the source was changed"
    );
}

#[tokio::test]
async fn live_writer_does_not_show_and_its_wal_is_never_checkpointed() {
    let place = Place::with(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         INSERT INTO t VALUES (1, 'a');",
    );
    let writer = Connection::open(place.source()).unwrap();
    writer
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES (2, 'b')")
        .unwrap();
    let mut reading = source(&place.source());
    let structure = reading.begin().await.unwrap();
    writer
        .execute_batch("INSERT INTO t VALUES (3, 'c'); DELETE FROM t WHERE id = 1;")
        .unwrap();
    assert_eq!(
        read_all(&*reading, &structure).await.unwrap(),
        2,
        "two instants were mixed"
    );
    writer.execute_batch("CREATE TABLE later(x)").unwrap();
    assert_eq!(read_all(&*reading, &structure).await.unwrap(), 2);
    // The writer goes first, so that ours is the last connection and could checkpoint.
    drop(writer);
    let before = frozen(place.directory.path());
    reading.end().await.unwrap();
    drop(reading);
    assert_eq!(
        frozen(place.directory.path()),
        before,
        "closing changed the source"
    );
    assert!(!before["source.db-wal"].0.is_empty());
    assert_eq!(read_file(&place.source()).await.unwrap(), 2);
}

#[tokio::test]
async fn path_through_a_symlink_finds_the_wal_beside_the_real_file() {
    let place = Place::new();
    crashed_wal(&place);
    let elsewhere = Place::new();
    symlink(place.source(), elsewhere.source()).unwrap();
    assert_eq!(read_file(&elsewhere.source()).await.unwrap(), 20000);
}

#[tokio::test]
async fn unreadable_source_is_refused_by_name_and_class() {
    let place = Place::new();
    let path = place.directory.path().join("x.db");
    let class = |failure: AnyFailure| (failure.class(), failure.to_string());

    let (found, text) = class(read_file(&path).await.unwrap_err());
    assert_eq!(found, Class::Missing);
    assert!(text.contains("x.db does not exist"), "{text}");

    let (found, text) = class(read_file(place.directory.path()).await.unwrap_err());
    assert_eq!(
        (found, text.contains("is not a file")),
        (Class::Invalid, true),
        "{text}"
    );

    fs::write(&path, "not a database ".repeat(1000)).unwrap();
    let (found, text) = class(read_file(&path).await.unwrap_err());
    assert_eq!(found, Class::Invalid);
    assert!(
        text.contains("not a SQLite database, or it is encrypted"),
        "{text}"
    );

    symlink(place.directory.path().join("nowhere"), place.source()).unwrap();
    assert_eq!(
        read_file(&place.source()).await.unwrap_err().class(),
        Class::Missing
    );
}

#[tokio::test]
async fn damaged_source_is_refused_by_name() {
    let place = Place::with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;",
    );
    let whole = fs::read(place.source()).unwrap();
    let mut refused = 0;
    for page in 1..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..page * 4096 + 64].fill(0xee);
        fs::write(place.source(), &bytes).unwrap();
        match read_file(&place.source()).await {
            Err(failure) => {
                assert_eq!(failure.class(), Class::Corrupt, "page {page}: {failure}");
                assert!(failure.to_string().contains("source.db"), "{failure}");
                refused += 1;
            }
            Ok(_) => panic!("damage of page {page} was not seen"),
        }
    }
    assert!(refused > 100);
    fs::write(place.source(), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(
        read_file(&place.source()).await.unwrap_err().class(),
        Class::Corrupt
    );
}

#[tokio::test]
async fn locked_source_is_busy() {
    let place = Place::with("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let db = Connection::open(place.source()).unwrap();
    db.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let failure = read_file(&place.source()).await.unwrap_err();
    assert_eq!(failure.class(), Class::Busy, "{failure}");
    assert!(failure.hint().is_some());
    db.execute_batch("ROLLBACK").unwrap();
    assert_eq!(read_file(&place.source()).await.unwrap(), 1);
}

#[tokio::test]
async fn hostile_schema_runs_nothing_while_it_is_read() {
    let place = Place::with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         INSERT INTO t VALUES (1, 'a');
         CREATE VIEW v AS SELECT load_extension('/tmp/x.so');
         CREATE TABLE lies(x); INSERT INTO lies VALUES (1);
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'CREATE VIEW lies AS SELECT load_extension(''/x'') AS x', rootpage = 0
          WHERE name = 'lies';",
    );
    let failure = read_file(&place.source()).await.unwrap_err();
    assert_eq!(failure.class(), Class::Corrupt, "{failure}");
}

#[tokio::test]
async fn excluded_tables_are_left_out_with_what_belongs_to_them() {
    let place = Place::with(
        "CREATE TABLE kept(x); INSERT INTO kept VALUES (1);
         CREATE TABLE sessions(x); CREATE INDEX si ON sessions(x); INSERT INTO sessions VALUES (1);
         CREATE TABLE log_a(x); INSERT INTO log_a VALUES (1);",
    );
    let options = SourceOptions {
        exclude_tables: vec![TablePattern::new("sess*")],
        exclude_data: vec![TablePattern::new("log_?")],
        ..SourceOptions::default()
    };
    let mut reading = open::source(&url(&place.source()), &options).unwrap();
    let structure = reading.begin().await.unwrap();
    let names: Vec<_> = structure
        .tables
        .iter()
        .map(|t| (t.name.name.as_str(), t.with_rows))
        .collect();
    assert_eq!(names, [("kept", true), ("log_a", false)]);
    assert!(
        structure.warnings.iter().any(|w| w.contains("sessions")),
        "{:?}",
        structure.warnings
    );
    assert!(!String::from_utf8_lossy(&structure.parts[0].bytes).contains("sessions"));
    reading.end().await.unwrap();
}

#[tokio::test]
async fn reader_that_goes_away_stops_the_read() {
    let place = Place::with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
         INSERT INTO t SELECT i, hex(zeroblob(50)) FROM n;",
    );
    let mut reading = source(&place.source());
    let structure = reading.begin().await.unwrap();
    let (give, taken) = mpsc::channel(1);
    drop(taken);
    let stopped = reading.read(&structure.tables[0], Order::Key, give).await;
    assert_eq!(stopped.unwrap_err().class(), Class::Transient);
    assert_eq!(read_all(&*reading, &structure).await.unwrap(), 50000);
    reading.end().await.unwrap();
    assert_eq!(reading.end().await.unwrap_err().class(), Class::Bug);
}

#[tokio::test]
async fn rows_that_an_index_has_lost_are_not_lost_silently() {
    let place = Place::with(
        "CREATE TABLE t(k TEXT PRIMARY KEY NOT NULL); INSERT INTO t VALUES ('a'), ('b'), ('c');
         CREATE TABLE other(k TEXT PRIMARY KEY NOT NULL); INSERT INTO other VALUES ('a');
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_other_1')
          WHERE name = 'sqlite_autoindex_t_1';
         DELETE FROM sqlite_schema WHERE tbl_name = 'other';",
    );
    let mut reading = source(&place.source());
    let structure = reading.begin().await.unwrap();
    let (give, taken) = mpsc::channel(PIECES_WAITING_MAX);
    let table = &structure.tables[0];
    let (read, sum) = tokio::join!(
        reading.read(table, Order::Key, give),
        summed(table, taken, None, false)
    );
    match read {
        Ok(count) => assert!(count != sum.rows, "{count} rows by both counts"),
        Err(failure) => assert_eq!(failure.class(), Class::Corrupt),
    }
}

#[tokio::test]
async fn wal_of_a_crashed_process_is_restored() {
    let place = Place::new();
    crashed_wal(&place);
    copy(&place.source(), &place.target()).await.unwrap();
    compare(&place.source(), &place.target());
}

/// A directory that its owner may not write; false where that stops nobody (root).
fn unwritable(directory: &Path, yes: bool) -> bool {
    let mode = if yes { 0o555 } else { 0o755 };
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
    let probe = directory.join("probe");
    let stopped = fs::write(&probe, "").is_err();
    let _ = fs::remove_file(probe);
    stopped
}

#[tokio::test]
async fn source_in_a_directory_that_may_not_be_written_is_read() {
    for make in [crashed_wal, hot_journal, quiet_wal] {
        let place = Place::new();
        make(&place);
        if !unwritable(place.directory.path(), true) {
            println!("skipped: this user may write everywhere");
            return;
        }
        let before = frozen(place.directory.path());
        let read = read_file(&place.source()).await;
        assert_eq!(frozen(place.directory.path()), before);
        let failure = copy(&place.source(), &place.target()).await.unwrap_err();
        unwritable(place.directory.path(), false);
        assert!(read.unwrap() > 0);
        assert_eq!(failure.class(), Class::Denied, "{failure}");
    }
}

/// A database in WAL mode that was closed in order.
fn quiet_wal(place: &Place) {
    let db = Connection::open(place.source()).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        .unwrap();
}
