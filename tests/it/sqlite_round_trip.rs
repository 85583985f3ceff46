//! Everything that a SQLite file can hold comes back: each case of the fault list once.

use std::fmt::Write as _;

use rusqlite::Connection;

use crate::sqlite_copy::{Place, compare, copy, rows_of};

#[tokio::test]
async fn empty_database_comes_back() {
    let structure = Place::with("PRAGMA user_version=0; VACUUM")
        .copy_and_compare()
        .await;
    assert!(structure.tables.is_empty());
}

#[tokio::test]
async fn values_of_any_class_in_any_column_come_back() {
    let place = Place::with(
        "CREATE TABLE plain(a, i INTEGER, t TEXT, r REAL, n NUMERIC, b BLOB);
         CREATE TABLE without(k, v, PRIMARY KEY(k, v)) WITHOUT ROWID;
         CREATE TABLE strict_one(id INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT;
         CREATE TABLE empty(x);
         CREATE TABLE doubled(x); INSERT INTO doubled VALUES (1), (1), (NULL), (NULL);",
    );
    let db = Connection::open(place.source()).unwrap();
    let values = [
        "NULL",
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "0.0",
        "-0.0",
        "1e308",
        "-1e-308",
        "9e999",
        "-9e999",
        "1.0",
        "''",
        "'text'",
        "'12'",
        "' 12 '",
        "'1e5'",
        "x''",
        "x'00ff'",
        "CAST(x'61ff62' AS TEXT)",
        "CAST(x'610062' AS TEXT)",
        "CAST(x'00' AS TEXT)",
        "'日本語'",
        "'سلام'",
        "'Zażółć'",
        "9007199254740993",
        "9007199254740992.0",
    ];
    for value in values {
        db.execute_batch(&format!(
            "INSERT INTO plain VALUES ({value}, {value}, {value}, {value}, {value}, {value});"
        ))
        .unwrap();
        if value != "NULL" {
            // Values that SQLite holds equal make one key.
            db.execute_batch(&format!(
                "INSERT OR IGNORE INTO without VALUES ({value}, {value});"
            ))
            .unwrap();
        }
    }
    db.execute_batch("INSERT INTO strict_one VALUES (5, 1, -0.0, 'a', x'00', x'01'), (9, NULL, 2, '', x'', '7');")
        .unwrap();
    drop(db);
    place.copy_and_compare().await;
}

#[tokio::test]
async fn rowids_gaps_and_counters_come_back() {
    let place = Place::with(
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x);
         INSERT INTO a VALUES (1, 'a'), (1000, 'b'), (-7, 'c'), (9223372036854775807, 'd');
         CREATE TABLE z(id INTEGER PRIMARY KEY AUTOINCREMENT, x);
         INSERT INTO z(x) VALUES (1), (2), (3); DELETE FROM z;
         CREATE TABLE hidden(x); INSERT INTO hidden(rowid, x) VALUES (3, 'a'), (-5, 'b'), (77, NULL);
         CREATE TABLE shadowed(rowid TEXT, oid, x); INSERT INTO shadowed VALUES ('a', 1, 2), ('b', 2, 3);
         CREATE TABLE all_taken(rowid, _rowid_, oid); INSERT INTO all_taken VALUES (1, 2, 3), (1, 2, 3);
         CREATE TABLE text_key(k TEXT PRIMARY KEY, v);
         INSERT INTO text_key VALUES ('b', 1), (NULL, 2), (NULL, 3), ('a', 4);
         CREATE TABLE unique_key(a TEXT NOT NULL COLLATE NOCASE, b INT NOT NULL, UNIQUE(a, b));
         INSERT INTO unique_key VALUES ('b', 1), ('A', 2), ('a', 1), ('B', 1.5);",
    );
    place.copy_and_compare().await;
    let db = Connection::open(place.target()).unwrap();
    db.execute("INSERT INTO z(x) VALUES (4)", []).unwrap();
    assert_eq!(rows_of(&db, "SELECT CAST(id AS TEXT) FROM z"), [["4"]]);
}

#[tokio::test]
async fn counter_table_without_a_counting_table_comes_back() {
    Place::with(
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT); DROP TABLE a; CREATE TABLE b(x);",
    )
    .copy_and_compare()
    .await;
}

#[tokio::test]
async fn indexes_views_triggers_and_keys_come_back() {
    let place = Place::with(
        "PRAGMA foreign_keys=OFF;
         CREATE TABLE parent(a INT, b INT, PRIMARY KEY(a, b));
         CREATE TABLE child(id INTEGER PRIMARY KEY, a INT, b INT, self INT REFERENCES child DEFERRABLE INITIALLY DEFERRED,
           FOREIGN KEY(a, b) REFERENCES parent ON DELETE CASCADE);
         CREATE TABLE ring1(id INTEGER PRIMARY KEY, o INT REFERENCES ring2(id));
         CREATE TABLE ring2(id INTEGER PRIMARY KEY, o INT REFERENCES ring1(id) ON DELETE SET NULL);
         CREATE TABLE log(what TEXT);
         CREATE TRIGGER note AFTER INSERT ON child BEGIN INSERT INTO log VALUES ('fired ' || new.id); END;
         CREATE VIEW both AS SELECT * FROM child JOIN parent USING (a, b);
         CREATE TRIGGER instead INSTEAD OF INSERT ON both BEGIN SELECT RAISE(ABORT, 'no'); END;
         CREATE INDEX \"by expression\" ON child(lower(a || b), b DESC) WHERE a IS NOT NULL;
         CREATE UNIQUE INDEX nocase ON log(what COLLATE NOCASE);
         CREATE TABLE made(w INT, h INT, area INT AS (w * h) STORED, girth INT GENERATED ALWAYS AS (2 * (w + h)) VIRTUAL, tail TEXT);
         CREATE INDEX by_girth ON made(girth);
         INSERT INTO made(w, h, tail) VALUES (2, 3, 'x'), (4, NULL, 'y');
         CREATE TABLE checked(x INT CHECK (x > 0)); PRAGMA ignore_check_constraints=ON;
         INSERT INTO checked VALUES (-1), (1);
         INSERT INTO parent VALUES (1, 2); INSERT INTO child VALUES (1, 1, 2, 1), (2, 9, 9, NULL);
         INSERT INTO ring1 VALUES (1, 1); INSERT INTO ring2 VALUES (1, 1);
         PRAGMA user_version=42; PRAGMA application_id=-7;
         ANALYZE;",
    );
    let structure = place.copy_and_compare_but_checks().await;
    let child = structure
        .tables
        .iter()
        .find(|t| t.name.name == "child")
        .unwrap();
    assert_eq!(child.foreign_keys.len(), 2);
    let to_parent = child
        .foreign_keys
        .iter()
        .find(|k| k.parent.name == "parent")
        .unwrap();
    assert_eq!(to_parent.parent_columns, ["a", "b"]);
    let made = structure
        .tables
        .iter()
        .find(|t| t.name.name == "made")
        .unwrap();
    assert_eq!(made.generated.len(), 2);
    let db = Connection::open(place.target()).unwrap();
    let log = rows_of(&db, "SELECT what FROM log ORDER BY 1");
    assert_eq!(
        log,
        [["fired 1"], ["fired 2"]],
        "a trigger fired while rows were loaded"
    );
    db.execute("INSERT INTO child VALUES (3, 1, 2, 3)", [])
        .unwrap();
    assert_eq!(rows_of(&db, "SELECT what FROM log").len(), 3);
}

#[tokio::test]
async fn names_of_any_kind_come_back() {
    let place = Place::new();
    let db = Connection::open(place.source()).unwrap();
    let names = [
        "select",
        "Upper",
        "with space",
        "q\"uote",
        "new\nline",
        "😀",
        "../x",
        "'; DROP TABLE y; --",
        "[b]",
        "`t`",
        "rowid",
    ];
    for name in names {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        db.execute_batch(&format!(
            "CREATE TABLE {quoted}({quoted} TEXT, b); INSERT INTO {quoted} VALUES ('x', 1);"
        ))
        .unwrap();
    }
    drop(db);
    place.copy_and_compare().await;
}

#[tokio::test]
async fn file_settings_come_back() {
    for (page, encoding, vacuum, journal) in [
        (512, "UTF-16le", 1, "wal"),
        (65536, "UTF-16be", 2, "delete"),
        (1024, "UTF-8", 0, "wal"),
    ] {
        let place = Place::with(&format!(
            "PRAGMA page_size={page}; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum={vacuum};
             PRAGMA journal_mode={journal};
             CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE k(k TEXT PRIMARY KEY NOT NULL, v);
             INSERT INTO t VALUES (1, 'Zażółć 日本 😀'), (2, x'00ff'), (3, 1.5), (4, NULL), (5, 'a' || char(0) || 'b'),
               (6, char(65535)), (7, char(65279) || 'bom'), (8, '');
             INSERT INTO k VALUES ('😀', 1), (char(65533), 2), ('z', 3), ('é', 4), ('Z', 5), ('za', 6);"
        ));
        let structure = place.copy_and_compare().await;
        assert_eq!(structure.facts["page_size"], page.to_string());
        assert_eq!(structure.facts["encoding"], encoding);
    }
}

#[tokio::test]
async fn lone_surrogates_in_utf16_come_back() {
    let place = Place::with(
        "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v);
         INSERT INTO t VALUES (CAST(x'3dd8' AS TEXT)), (CAST(x'00de3dd86100' AS TEXT)), (CAST(x'fffe6100' AS TEXT));",
    );
    place.copy_and_compare().await;
}

#[tokio::test]
async fn virtual_tables_come_back_over_their_shadow_tables() {
    let place = Place::with(
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT);
         INSERT INTO docs VALUES (1, 'the quick brown fox'), (7, 'jumps over');
         CREATE VIRTUAL TABLE own USING fts5(title, body, tokenize='porter');
         INSERT INTO own(rowid, title, body) VALUES (5, 'running', 'a dog ran'), (2, 'x', 'y z');
         DELETE FROM own WHERE rowid = 2;
         CREATE VIRTUAL TABLE outside USING fts5(body, content='docs', content_rowid='id');
         INSERT INTO outside(outside) VALUES ('rebuild');
         CREATE VIRTUAL TABLE bare USING fts5(body, content='', contentless_delete=1);
         INSERT INTO bare(rowid, body) VALUES (3, 'nothing kept'), (4, 'nothing else'); DELETE FROM bare WHERE rowid = 4;
         CREATE VIRTUAL TABLE old USING fts4(body); INSERT INTO old VALUES ('fourth kind');
         CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1, +label);
         INSERT INTO boxes VALUES (1, 0, 1, 0, 1, 'a'), (9, 5, 6, 5, 6, 'b');",
    );
    place.copy_and_compare().await;
    let db = Connection::open(place.target()).unwrap();
    for (query, found) in [
        ("SELECT CAST(rowid AS TEXT) FROM own('run')", "5"),
        ("SELECT CAST(rowid AS TEXT) FROM outside('jumps')", "7"),
        ("SELECT CAST(rowid AS TEXT) FROM bare('nothing')", "3"),
        (
            "SELECT CAST(rowid AS TEXT) FROM old WHERE old MATCH 'fourth'",
            "1",
        ),
        ("SELECT label FROM boxes WHERE x0 > 4", "b"),
    ] {
        assert_eq!(rows_of(&db, query), [[found]], "{query}");
    }
    db.execute_batch(
        "INSERT INTO own(own) VALUES ('integrity-check'); INSERT INTO outside(outside) VALUES ('integrity-check');
         INSERT INTO own(title, body) VALUES ('new', 'words');",
    )
    .unwrap();
    assert_eq!(rows_of(&db, "SELECT rtreecheck('boxes')"), [["ok"]]);
}

#[tokio::test]
async fn virtual_table_of_an_unknown_module_comes_back() {
    let place = Place::with(
        "CREATE TABLE geo_cells(id INTEGER PRIMARY KEY, data BLOB); INSERT INTO geo_cells VALUES (1, x'01');
         PRAGMA writable_schema=ON;
         INSERT INTO sqlite_schema VALUES ('table', 'geo', 'geo', 0, 'CREATE VIRTUAL TABLE geo USING spatial_magic(x)');",
    );
    let structure = copy(&place.source(), &place.target()).await.unwrap();
    let geo = structure
        .tables
        .iter()
        .find(|t| t.name.name == "geo")
        .unwrap();
    assert_eq!(
        (geo.with_rows, geo.facts["virtual"].as_str()),
        (false, "spatial_magic")
    );
    let db = Connection::open(place.target()).unwrap();
    assert_eq!(
        rows_of(&db, "SELECT quote(data) FROM geo_cells"),
        [["X'01'"]]
    );
    let sql = rows_of(&db, "SELECT sql FROM sqlite_schema WHERE name = 'geo'");
    assert_eq!(sql, [["CREATE VIRTUAL TABLE geo USING spatial_magic(x)"]]);
}

#[tokio::test]
async fn many_tables_and_wide_tables_come_back() {
    let mut sql = String::from("BEGIN;");
    for number in 0..500 {
        writeln!(
            sql,
            "CREATE TABLE t{number}(a); INSERT INTO t{number} VALUES ({number});"
        )
        .unwrap();
    }
    for width in [1600, 2000] {
        let columns: Vec<String> = (0..width).map(|c| format!("c{c}")).collect();
        let values: Vec<String> = (0..width).map(|c| format!("'v{c}'")).collect();
        writeln!(sql, "CREATE TABLE wide{width}({});", columns.join(",")).unwrap();
        for _ in 0..3 {
            writeln!(
                sql,
                "INSERT INTO wide{width} VALUES ({});",
                values.join(",")
            )
            .unwrap();
        }
    }
    sql.push_str("COMMIT;");
    Place::with(&sql).copy_and_compare().await;
}

#[tokio::test]
async fn altered_definitions_come_back_letter_by_letter() {
    let place = Place::with(
        "create  table  Odd ( a /* why */ int , b default 'x;y' ) ;
         ALTER TABLE Odd RENAME TO \"odd er\"; ALTER TABLE \"odd er\" ADD COLUMN c TEXT DEFAULT (1 + 2);
         INSERT INTO \"odd er\"(a) VALUES (1);
         CREATE TABLE copied AS SELECT 1 AS x, 'y' AS y;
         PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'create table  copied (x, y)' WHERE name = 'copied';",
    );
    copy(&place.source(), &place.target()).await.unwrap();
    compare(&place.source(), &place.target());
}

impl Place {
    /// As `copy_and_compare`, where rows break a CHECK that the integrity check then names.
    async fn copy_and_compare_but_checks(&self) -> rowvault::row::schema::Structure {
        let structure = copy(&self.source(), &self.target()).await.unwrap();
        let checks = |path| rows_of(&Connection::open(path).unwrap(), "PRAGMA integrity_check");
        assert_eq!(
            checks(self.source()),
            [["CHECK constraint failed in checked"]]
        );
        assert_eq!(
            checks(self.target()),
            [["CHECK constraint failed in checked"]]
        );
        for path in [self.source(), self.target()] {
            let db = Connection::open(path).unwrap();
            db.execute("DELETE FROM checked WHERE x < 0", []).unwrap();
        }
        compare(&self.source(), &self.target());
        structure
    }
}
