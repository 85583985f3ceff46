//! Random schemas with random rows come back, from a seed that a failure prints.

use std::fmt::Write as _;
use std::path::Path;

use rowvault::random::SeededRandom;
use rusqlite::Connection;

use crate::sqlite_copy::{Place, compare, copy};

const TYPES: [&str; 9] = [
    "",
    "INTEGER",
    "INT",
    "TEXT",
    "REAL",
    "NUMERIC",
    "BLOB",
    "VARCHAR(20) COLLATE NOCASE",
    "DATETIME",
];

/// A literal of any class, but for -0.0: no SQL orders it before 0.0, so that a key which leads
/// with both is in no canonical order.
fn literal(random: &SeededRandom) -> String {
    let number = random.below(1 << 62) as i64 - (1 << 61);
    match random.below(14) {
        0 => "NULL".into(),
        1 => random.below(20).to_string(),
        2 => number.to_string(),
        3 => format!("{:e}", number as f64 * 1e-20),
        4 => "1e300".into(),
        5 => format!("{}.0", random.below(50)),
        6 => "''".into(),
        7 => format!("'t{}'", random.below(30)),
        8 => format!(
            "'{}'",
            ["zażółć", "日本", "😀", "a''b", "1", "1.0", "x\ny"][random.below(7) as usize]
        ),
        9 => format!("CAST(x'{:08x}' AS TEXT)", random.below(1 << 32)),
        10 => format!("x'{:04x}'", random.below(1 << 16)),
        11 => "x''".into(),
        12 => format!("hex(zeroblob({}))", random.below(3000)),
        _ => format!("zeroblob({})", random.below(9000)),
    }
}

/// A table with rows, as SQL; rows that a constraint refuses are left out by SQLite.
fn table(random: &SeededRandom, number: usize, utf16: bool) -> String {
    let columns = 1 + random.below(6);
    let mut body: Vec<String> = (0..columns)
        .map(|column| {
            let mut text = format!("c{column} {}", TYPES[random.below(9) as usize]);
            text.push_str(["", "", " NOT NULL", " UNIQUE", " DEFAULT 7"][random.below(5) as usize]);
            text
        })
        .collect();
    let mut options = "";
    match random.below(6) {
        0 => body.insert(0, "id INTEGER PRIMARY KEY".into()),
        1 => body.insert(0, "id INTEGER PRIMARY KEY AUTOINCREMENT".into()),
        2 => {
            body[0] = format!(
                "c0 {} PRIMARY KEY",
                ["TEXT", "INT", "BLOB", "TEXT NOT NULL"][random.below(4) as usize]
            )
        }
        3 => {
            let key = if columns > 1 { "c1, c0" } else { "c0" };
            body.push(format!("PRIMARY KEY({key})"));
            options = "WITHOUT ROWID";
        }
        _ => {}
    }
    if random.below(4) == 0 {
        let stored = ["VIRTUAL", "STORED"][random.below(2) as usize];
        body.insert(
            columns as usize / 2,
            format!("made AS (typeof(c0) || c0) {stored}"),
        );
        body.sort_by_key(|column| column.starts_with("PRIMARY KEY("));
    }
    let mut sql = format!("CREATE TABLE t{number}({}) {options};\n", body.join(", "));
    let names: Vec<String> = (0..columns).map(|c| format!("c{c}")).collect();
    for _ in 0..random.below(60) {
        let values: Vec<String> = (0..columns).map(|_| literal(random)).collect();
        // Random bytes may end inside a UTF-16 character, which is refused elsewhere.
        let values = values.join(", ");
        if !(utf16 && values.contains("AS TEXT")) {
            writeln!(
                sql,
                "INSERT OR IGNORE INTO t{number}({}) VALUES ({values});",
                names.join(", ")
            )
            .unwrap();
        }
    }
    if random.below(2) == 0 {
        writeln!(
            sql,
            "CREATE INDEX i{number} ON t{number}(c0 DESC, length(c{}));",
            columns - 1
        )
        .unwrap();
    }
    if random.below(3) == 0 {
        writeln!(sql, "DELETE FROM t{number} WHERE rowid % 3 = 0;").unwrap();
    }
    sql.replace(
        "WHERE rowid % 3 = 0",
        if options.is_empty() {
            "WHERE rowid % 3 = 0"
        } else {
            "WHERE c0 IS 1"
        },
    )
}

/// The script of the database that belongs to `seed`.
pub fn script(seed: u64) -> String {
    let random = SeededRandom::new(seed);
    let page = 512 << random.below(8);
    let encoding = ["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"][random.below(4) as usize];
    let (vacuum, journal) = (random.below(3), ["wal", "delete"][random.below(2) as usize]);
    let mut sql = format!(
        "PRAGMA page_size={page}; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={journal}; BEGIN;\n"
    );
    for number in 0..1 + random.below(5) {
        sql.push_str(&table(&random, number as usize, encoding != "UTF-8"));
    }
    sql.push_str("COMMIT;");
    if random.below(3) == 0 {
        sql.push_str("ANALYZE;");
    }
    sql
}

/// Makes the database of `seed` at `file`.
pub fn make(seed: u64, file: &Path) {
    let sql = script(seed);
    let made = Connection::open(file).unwrap().execute_batch(&sql);
    made.unwrap_or_else(|error| panic!("seed {seed}: {error}\n{sql}"));
    println!("seed {seed}\n{sql}");
}

async fn round_trip(seed: u64) {
    let place = Place::new();
    make(seed, &place.source());
    copy(&place.source(), &place.target()).await.unwrap();
    compare(&place.source(), &place.target());
}

#[tokio::test]
async fn random_databases_come_back() {
    for seed in 0..60 {
        round_trip(seed).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn long_sqlite_random_databases_come_back() {
    for seed in 0..3000 {
        round_trip(seed).await;
    }
}
