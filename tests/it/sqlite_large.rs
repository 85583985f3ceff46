//! Large cells: cut where they must be, whole when they come back, and never in memory at once.

use rusqlite::Connection;

use crate::sqlite_copy::{Place, compare, copy};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn cells_around_the_limit_come_back_in_any_position_and_encoding() {
    for encoding in ["UTF-8", "UTF-16le"] {
        let place = Place::with(&format!(
            "PRAGMA encoding='{encoding}';
             CREATE TABLE r(id INTEGER PRIMARY KEY, a, t TEXT, z BLOB);
             CREATE TABLE h(b BLOB, t TEXT);
             CREATE TABLE w(k TEXT PRIMARY KEY, b BLOB, n) WITHOUT ROWID;
             CREATE TABLE g(id INTEGER PRIMARY KEY, b BLOB, l AS (length(b)) STORED);
             CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, b BLOB UNIQUE);"
        ));
        let db = Connection::open(place.source()).unwrap();
        let mut id = 0;
        for length in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7] {
            let blob = format!(
                "CAST(substr(replace(hex(zeroblob({length})), '00', 'q'), 1, {length}) AS BLOB)"
            );
            let text = format!("substr(replace(hex(zeroblob({length})), '00', 'ż'), 1, {length})");
            id += 1;
            db.execute_batch(&format!(
                "INSERT INTO r VALUES ({id}, {blob}, {text}, {blob}), ({id} + 100, 'small', NULL, {blob}), ({id} + 200, {text}, 'x', NULL);
                 INSERT INTO h VALUES ({blob}, {text}), (NULL, 'small');
                 INSERT INTO w VALUES ('k{id}', {blob}, {id});
                 INSERT INTO g(id, b) VALUES ({id}, {blob});
                 INSERT INTO u VALUES ('k{id}', {blob});"
            ))
            .unwrap();
        }
        drop(db);
        copy(&place.source(), &place.target()).await.unwrap();
        compare(&place.source(), &place.target());
        place.assert_nothing_left_over();
    }
}

#[tokio::test]
async fn large_cells_before_values_of_any_class_come_back() {
    for page_size in [512, 4096] {
        let place = Place::with(&format!(
            "PRAGMA page_size={page_size};
             CREATE TABLE t(id INTEGER PRIMARY KEY, r REAL, b, x, y REAL, z TEXT, c BLOB, n NUMERIC);
             CREATE TABLE k(k TEXT PRIMARY KEY NOT NULL, b BLOB, at TEXT NOT NULL CHECK (at > ''), u INT);
             CREATE TABLE s(id INTEGER PRIMARY KEY, b BLOB, n INT NOT NULL) STRICT;
             CREATE INDEX xi ON t(x, z);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO t SELECT i * 3, i, 'b' || i, i, i / 2.0, 'z', NULL, 1 FROM n;
             INSERT INTO k SELECT hex(id), x'00', 'now', id FROM t;"
        ));
        let db = Connection::open(place.source()).unwrap();
        let large = format!("zeroblob({MIB} + 5)");
        let text = format!("hex(zeroblob({MIB}))");
        let values = [
            "0",
            "1",
            "-1",
            "127",
            "-129",
            "70000",
            "8388608",
            "-2147483649",
            "1 << 47",
            "9223372036854775807",
            "NULL",
            "2.5",
            "-0.0",
            "1.0",
            "''",
            "'zażółć'",
            "x''",
            "x'00ff'",
        ];
        for (number, value) in values.iter().enumerate() {
            let id = number as i64 * 500 - 1000;
            db.execute_batch(&format!(
                "INSERT OR REPLACE INTO t VALUES ({id} + 1, 5.0, {large}, {value}, {value}, {value}, {value}, {value}),
                   ({id} + 2, {value}, {value}, {text}, {value}, {text}, {large}, {value});
                 INSERT INTO k VALUES ('large{number}', {large}, 'then', {value});
                 INSERT INTO s VALUES ({id}, {large}, {number});"
            ))
            .unwrap();
        }
        drop(db);
        place.copy_and_compare().await;
    }
}

/// Peak resident memory of this process in MiB since the last call, from the kernel.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak / 1024
}

/// Fills the blob of row 1 with bytes that differ from MiB to MiB.
fn fill(db: &Connection, table: &str, column: &str) {
    let mut blob = db.blob_open("main", table, column, 1, false).unwrap();
    let mut room = vec![0u8; MIB];
    for part in 0..256u32 {
        room[..4].copy_from_slice(&part.to_le_bytes());
        std::io::Write::write_all(&mut blob, &room).unwrap();
    }
}

/// Alone in its process, since it measures the process: `tests/long.sh` runs it by name.
#[tokio::test]
#[ignore = "measures the memory of the whole process"]
async fn long_sqlite_blob_of_256_mib_is_copied_in_little_memory() {
    let bytes = 256 * MIB;
    for table in [
        "t(id INTEGER PRIMARY KEY, name TEXT, data BLOB)",
        "t(id INTEGER PRIMARY KEY, data BLOB, size INTEGER DEFAULT 12345, name TEXT)",
        "t(id TEXT PRIMARY KEY, data BLOB, size REAL DEFAULT 1.5, name TEXT)",
    ] {
        let place = Place::with(&format!("CREATE TABLE {table}"));
        let db = Connection::open(place.source()).unwrap();
        db.execute_batch(&format!(
            "INSERT INTO t(id, name, data) VALUES (1, 'a', zeroblob({bytes}));
             INSERT INTO t(id, name, data) VALUES (2, 'b', x'01');"
        ))
        .unwrap();
        fill(&db, "t", "data");
        drop(db);
        peak_mib();
        copy(&place.source(), &place.target()).await.unwrap();
        let peak = peak_mib();
        println!("{table}: peak {peak} MiB");
        assert!(peak <= 96, "peak memory {peak} MiB with {table}");
    }
}
