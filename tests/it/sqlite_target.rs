//! A SQLite target is absent or whole, and takes nothing on trust.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use rowvault::failure::Class;
use rowvault::row::cell::{Cell, Large, LargeClass, RowBatch};
use rowvault::row::schema::{Engine, Structure, Table};
use rowvault::source::{Piece, Target};
use rowvault::{failure::AnyFailure, id::Digest};
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::sqlite_copy::{Place, copy, source, target};

async fn structure_of(place: &Place) -> Structure {
    let mut source = source(&place.source());
    let structure = source.begin().await.unwrap();
    source.end().await.unwrap();
    structure
}

/// The structure with `from` in its definitions replaced by `to` and spaces, equally long.
fn altered(structure: &Structure, from: &str, to: &str) -> Structure {
    let to = format!("{to:<width$}", width = from.len());
    assert_eq!(from.len(), to.len());
    let mut structure = structure.clone();
    let bytes = &mut structure.parts[0].bytes;
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    structure
}

async fn load(target: &dyn Target, table: &Table, pieces: Vec<Piece>) -> Result<u64, AnyFailure> {
    let (give, taken) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        give.send(piece).await.unwrap();
    }
    drop(give);
    target.load(table, taken).await
}

fn rows(cells: &[Cell<'_>]) -> Piece {
    let mut batch = RowBatch::default();
    batch.push_with(|row| cells.iter().for_each(|cell| cell.push(row)));
    Piece::Rows(batch)
}

#[tokio::test]
async fn place_that_is_taken_is_a_conflict_and_stays_as_it_was() {
    let place = Place::with("CREATE TABLE t(x)");
    let structure = structure_of(&place).await;
    for name in ["target.db", "target.db-wal", "target.db-journal"] {
        let path = place.directory.path().join(name);
        fs::write(&path, "").unwrap();
        let failure = target(&place.target())
            .prepare(&structure)
            .await
            .unwrap_err();
        assert_eq!(failure.class(), Class::Conflict, "{failure}");
        assert!(failure.to_string().contains(name), "{failure}");
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::remove_file(&path).unwrap();
    }
    symlink("nowhere", place.target()).unwrap();
    let failure = target(&place.target())
        .prepare(&structure)
        .await
        .unwrap_err();
    assert_eq!(failure.class(), Class::Conflict);
    place.assert_nothing_left_over();
}

#[tokio::test]
async fn missing_directory_is_named() {
    let place = Place::with("CREATE TABLE t(x)");
    let structure = structure_of(&place).await;
    let path = place.directory.path().join("no/such/target.db");
    let failure = target(&path).prepare(&structure).await.unwrap_err();
    assert_eq!(failure.class(), Class::Missing);
    assert!(failure.to_string().contains("no/such"), "{failure}");
}

#[tokio::test]
async fn place_taken_while_loading_is_not_overwritten() {
    let place = Place::with("CREATE TABLE t(x)");
    let structure = structure_of(&place).await;
    let mut making = target(&place.target());
    making.prepare(&structure).await.unwrap();
    making.finish(&structure).await.unwrap();
    fs::write(place.target(), "somebody's").unwrap();
    let failure = making.publish().await.unwrap_err();
    assert_eq!(failure.class(), Class::Conflict);
    making.discard().await.unwrap();
    assert_eq!(fs::read(place.target()).unwrap(), b"somebody's");
    place.assert_nothing_left_over();
}

#[tokio::test]
async fn discarded_or_dropped_target_leaves_nothing() {
    let place = Place::with("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let structure = structure_of(&place).await;
    for discard in [true, false] {
        let mut making = target(&place.target());
        making.prepare(&structure).await.unwrap();
        let part = fs::read_dir(place.directory.path())
            .unwrap()
            .find_map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                name.ends_with(".part").then(|| entry.metadata().unwrap())
            });
        assert_eq!(part.unwrap().permissions().mode() & 0o777, 0o600);
        if discard {
            making.discard().await.unwrap();
            making.discard().await.unwrap();
        }
        drop(making);
        place.assert_nothing_left_over();
        assert!(!place.target().exists());
    }
}

#[tokio::test]
async fn definition_that_does_more_than_define_is_refused() {
    let place = Place::with(
        "CREATE TABLE t(x, y, z, abcdefghijklmnopqrstuvwxyz0123456789); CREATE INDEX i ON t(x, y, z);",
    );
    let structure = structure_of(&place).await;
    let from = "CREATE TABLE t(x, y, z, abcdefghijklmnopqrstuvwxyz0123456789)";
    for to in [
        "ATTACH '/tmp/rowvault-attached' AS other",
        "CREATE TEMP TABLE t(x)",
        "PRAGMA writable_schema=ON",
        "CREATE TABLE t(x); ATTACH 'a' AS b",
        "CREATE VIEW t AS SELECT 1",
    ] {
        let hostile = altered(&structure, from, to);
        let failure = target(&place.target()).prepare(&hostile).await.unwrap_err();
        assert!(
            matches!(failure.class(), Class::Corrupt | Class::Invalid),
            "{failure}"
        );
        place.assert_nothing_left_over();
    }
    let hostile = altered(&structure, "CREATE INDEX i ON t(x", "DELETE FROM t --  i(x");
    let mut making = target(&place.target());
    making.prepare(&hostile).await.unwrap();
    let failure = making.finish(&hostile).await.unwrap_err();
    assert_eq!(failure.class(), Class::Corrupt, "{failure}");
    making.discard().await.unwrap();
}

#[tokio::test]
async fn structure_that_is_none_is_refused() {
    let place = Place::with("CREATE TABLE t(x)");
    let structure = structure_of(&place).await;
    let refuse = async |structure: &Structure| {
        let failure = target(&place.target())
            .prepare(structure)
            .await
            .unwrap_err();
        assert_eq!(failure.class(), Class::Corrupt, "{failure}");
        place.assert_nothing_left_over();
    };
    let mut other = structure.clone();
    other.engine = Engine::Postgres;
    refuse(&other).await;
    let mut none = structure.clone();
    none.parts.clear();
    refuse(&none).await;
    for end in 0..structure.parts[0].bytes.len() {
        let mut cut = structure.clone();
        cut.parts[0].bytes.truncate(end);
        refuse(&cut).await;
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused_by_table() {
    let place = Place::with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB); CREATE TABLE s(x INT) STRICT;
         CREATE TABLE k(k TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID;",
    );
    let structure = structure_of(&place).await;
    let mut making = target(&place.target());
    making.prepare(&structure).await.unwrap();
    let table = |name: &str| {
        structure
            .tables
            .iter()
            .find(|t| t.name.name == name)
            .unwrap()
    };
    let large = |length| {
        Cell::Large(Large {
            class: LargeClass::Blob,
            length,
            digest: Digest([0; 16]),
        })
    };
    let slice = |column, length| Piece::Slice {
        column,
        bytes: vec![7; length],
    };
    let cases: Vec<(&str, Vec<Piece>)> = vec![
        ("t", vec![rows(&[Cell::Integer(1)])]),
        ("t", vec![rows(&[Cell::Text(b"a"), Cell::Null])]),
        ("t", vec![rows(&[Cell::Integer(2), large(3 << 20)])]),
        (
            "t",
            vec![slice(1, 10), rows(&[Cell::Integer(3), large(11)])],
        ),
        (
            "t",
            vec![slice(1, 10), rows(&[Cell::Integer(4), Cell::Null])],
        ),
        ("t", vec![slice(1, 10)]),
        ("t", vec![slice(2, 10)]),
        ("t", vec![slice(1, 10), slice(0, 10)]),
        ("s", vec![rows(&[Cell::Integer(1), Cell::Text(b"a")])]),
        (
            "k",
            vec![rows(&[Cell::Text(b"a")]), rows(&[Cell::Text(b"a")])],
        ),
    ];
    for (name, pieces) in cases {
        let failure = load(&*making, table(name), pieces).await.unwrap_err();
        assert_eq!(failure.class(), Class::Corrupt, "{failure}");
        assert!(
            failure.to_string().contains(&format!("table {name}")),
            "{failure}"
        );
    }
    making.discard().await.unwrap();
    place.assert_nothing_left_over();
}

#[tokio::test]
async fn index_on_an_unknown_function_or_collation_is_named() {
    let place = Place::new();
    let db = Connection::open(place.source()).unwrap();
    db.create_collation("app_order", |a: &str, b: &str| b.cmp(a))
        .unwrap();
    db.execute_batch("CREATE TABLE t(x); CREATE INDEX strange ON t(x COLLATE app_order); INSERT INTO t VALUES (1)")
        .unwrap();
    drop(db);
    let structure = structure_of(&place).await;
    assert!(
        structure.warnings.iter().any(|w| w.contains("app_order")),
        "{:?}",
        structure.warnings
    );
    let failure = copy(&place.source(), &place.target()).await.unwrap_err();
    assert_eq!(failure.class(), Class::Invalid);
    let text = failure.to_string();
    assert!(
        text.contains("index strange") && text.contains("app_order"),
        "{text}"
    );
    place.assert_nothing_left_over();
    assert!(!place.target().exists());
}
