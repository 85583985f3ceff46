//! MariaDB databases out and back in: what comes out is what went in.

use rowvault::row::cell::{Cell, cells};
use rowvault::row::schema::{Key, KeyOrder};
use rowvault::source::address::SourceOptions;
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, open};
use tokio::sync::mpsc;

use crate::mysql_server::{Server, copy, shared};

const CASES: &str = include_str!("mysql_cases.sql");

#[tokio::test]
async fn every_case_comes_back_byte_for_byte() {
    let server = shared();
    server.fresh("cases", CASES);
    server.sql("", "DROP DATABASE IF EXISTS `cases again`");
    let copied = copy(&server.url("cases"), &server.url("cases again"))
        .await
        .unwrap();
    assert!(copied.rows > 600, "{}", copied.rows);
    let (source, target) = (server.rows("cases"), server.rows("cases again"));
    assert_eq!(
        source.keys().collect::<Vec<_>>(),
        target.keys().collect::<Vec<_>>()
    );
    for (table, rows) in &source {
        assert_eq!(&target[table], rows, "table {table}");
    }
    assert_eq!(server.dump("cases again"), server.dump("cases"));
    assert_eq!(
        server
            .databases()
            .iter()
            .filter(|d| d.contains("__rowvault_"))
            .count(),
        0
    );
}

/// Definitions that name their own database must name the new one.
#[tokio::test]
async fn definitions_follow_their_database_to_another_name_and_server() {
    let server = shared();
    server.sql("", "DROP DATABASE IF EXISTS `named new`");
    server.fresh(
        "neighbour",
        "CREATE TABLE other (id INT PRIMARY KEY); INSERT INTO other VALUES (1)",
    );
    server.fresh(
        "named",
        "CREATE TABLE named.t (id INT PRIMARY KEY, o INT, boss INT, CONSTRAINT abroad FOREIGN KEY (o) REFERENCES neighbour.other (id), CONSTRAINT home FOREIGN KEY (boss) REFERENCES named.t (id));
         INSERT INTO t VALUES (1, 1, 1); CREATE SEQUENCE s; CREATE TABLE named.u (id INT DEFAULT NEXTVAL(named.s));
         CREATE TABLE named (id INT); INSERT INTO named VALUES (7);
         CREATE TRIGGER named.tr BEFORE INSERT ON named.t FOR EACH ROW SET NEW.o = 1;
         CREATE VIEW own AS SELECT named.named.id FROM named.named;
         CREATE VIEW both_of_them AS SELECT t.id, other.id AS o, 'named.t' AS text FROM named.t JOIN neighbour.other",
    );
    let copied = copy(&server.url("named"), &server.url("named new"))
        .await
        .unwrap();
    let t = copied
        .structure
        .tables
        .iter()
        .find(|t| t.name.name == "t")
        .unwrap();
    let parents: Vec<String> = t
        .foreign_keys
        .iter()
        .map(|key| key.parent.to_string())
        .collect();
    assert_eq!(parents, ["neighbour.other", "t"]);
    server.sql("", "DROP DATABASE named");
    server.sql(
        "named new",
        "INSERT INTO t (id) VALUES (2); INSERT INTO u VALUES (DEFAULT)",
    );
    assert_eq!(
        server.sql("named new", "SELECT * FROM both_of_them ORDER BY id"),
        "1\t1\tnamed.t\n2\t1\tnamed.t\n"
    );
    assert_eq!(server.sql("named new", "SELECT * FROM own"), "7\n");

    let second = Server::start(&[]);
    server.fresh("cases_second", CASES);
    copy(&server.url("cases_second"), &second.url("cases_here"))
        .await
        .unwrap();
    assert_eq!(second.rows("cases_here"), server.rows("cases_second"));
    assert_eq!(second.dump("cases_here"), server.dump("cases_second"));
}

/// Reads the only table's keys, as text.
async fn keys(server: &Server, database: &str, order: Order) -> (Vec<Vec<u8>>, Option<Key>) {
    let mut source = open::source(&server.url(database), &SourceOptions::default()).unwrap();
    let structure = source.begin().await.unwrap();
    let table = &structure.tables[0];
    let (send, mut receive) = mpsc::channel(PIECES_WAITING_MAX);
    let collect = async {
        let mut keys = Vec::new();
        while let Some(Piece::Rows(batch)) = receive.recv().await {
            for row in batch.iter() {
                let cells = cells(row, table.columns.len()).unwrap();
                let Cell::Text(key) = cells[0] else {
                    panic!("a key that is no text")
                };
                keys.push(key.to_vec());
            }
        }
        keys
    };
    let (read, keys) = tokio::join!(source.read(table, order, send), collect);
    read.unwrap();
    source.end().await.unwrap();
    (keys, structure.tables[0].key.clone())
}

#[tokio::test]
async fn uuids_in_a_case_insensitive_collation_are_in_order_at_once() {
    let server = shared();
    server.fresh("ordered", "CREATE TABLE contacts (id CHAR(36) NOT NULL PRIMARY KEY, deleted TINYINT(1)) COLLATE utf8mb4_general_ci; INSERT INTO contacts SELECT UUID(), 0 FROM seq_1_to_3000");
    let (found, key) = keys(&server, "ordered", Order::Key).await;
    assert_eq!(found.len(), 3000);
    assert!(found.is_sorted());
    assert_eq!(key.unwrap().columns, [(0, KeyOrder::Bytes)]);
}

#[tokio::test]
async fn canonical_order_is_the_order_of_bytes_for_every_kind_of_key() {
    let server = shared();
    let tables = [
        (
            "VARCHAR(30) COLLATE utf8mb4_unicode_ci",
            "('b'), ('A'), ('_'), ('Z'), ('é'), ('f'), ('-'), ('ab')",
        ),
        (
            "VARCHAR(30) CHARACTER SET latin1",
            "('b'), ('A'), ('é'), ('z'), ('ß')",
        ),
        ("DECIMAL(10,2)", "(10), (9), (-1), (100.5), (0)"),
        ("DOUBLE", "(10), (9), (-1), (1e300), (0.1)"),
        ("DATE", "('2020-01-01'), ('0999-01-01'), ('2019-12-31')"),
        ("ENUM('z', 'a', 'm')", "('z'), ('a'), ('m')"),
        ("VARBINARY(10)", "(x'ff'), (x'00'), (''), (x'0000'), ('a')"),
        (
            "UUID",
            "('ffffffff-0000-1000-8000-000000000001'), ('00000000-ffff-1fff-8000-000000000001'), ('10000000-0000-1000-8000-000000000001')",
        ),
        ("YEAR", "(2020), (1999), (0)"),
        (
            "VARCHAR(9000) CHARACTER SET latin1",
            "(CONCAT(REPEAT('x', 2000), 'b')), (CONCAT(REPEAT('x', 2000), 'A')), (CONCAT(REPEAT('x', 2000), 'a_'))",
        ),
    ];
    for (type_name, values) in tables {
        let key = if type_name.contains("9000") {
            "k(2100)"
        } else {
            "k"
        };
        server.fresh("canonical", &format!("SET sql_mode = ''; CREATE TABLE t (k {type_name} NOT NULL, PRIMARY KEY ({key})); INSERT INTO t VALUES {values}"));
        let (found, key) = keys(&server, "canonical", Order::Canonical).await;
        assert!(key.is_some(), "{type_name}");
        assert!(found.is_sorted(), "{type_name}: {found:?}");
        assert_eq!(
            found.len(),
            values.matches("), (").count() + 1,
            "{type_name}"
        );
    }
}

#[tokio::test]
async fn wide_and_many_tables_come_back() {
    let server = shared();
    let columns: Vec<String> = (0..1000).map(|n| format!("c{n} TINYINT")).collect();
    let mut script = format!(
        "CREATE TABLE wide (id INT PRIMARY KEY, {}); INSERT INTO wide (id, c999) VALUES (1, 5);",
        columns.join(", ")
    );
    for n in 0..300 {
        script.push_str(&format!(
            "CREATE TABLE t{n} (id INT PRIMARY KEY) ENGINE = MyISAM; INSERT INTO t{n} VALUES ({n});"
        ));
    }
    server.fresh("wide", &script);
    server.sql("", "DROP DATABASE IF EXISTS wide_back");
    let copied = copy(&server.url("wide"), &server.url("wide_back"))
        .await
        .unwrap();
    assert_eq!((copied.rows, copied.structure.tables.len()), (301, 301));
    assert!(copied.structure.facts["tables_outside_snapshot"].contains("t299"));
    assert_eq!(server.rows("wide"), server.rows("wide_back"));
    server.fresh("nothing", "");
    server.sql("", "DROP DATABASE IF EXISTS nothing_back");
    copy(&server.url("nothing"), &server.url("nothing_back"))
        .await
        .unwrap();
    assert_eq!(server.dump("nothing"), server.dump("nothing_back"));
}

#[tokio::test]
#[ignore = "long: 10,000 tables"]
async fn long_ten_thousand_tables_come_back() {
    let server = Server::start(&["--table-open-cache=20000"]);
    let script: String = (0..10_000)
        .map(|n| format!("CREATE TABLE t{n} (id INT PRIMARY KEY) ENGINE = Aria; INSERT INTO t{n} VALUES ({n});"))
        .collect();
    server.fresh("many", &script);
    let copied = copy(&server.url("many"), &server.url("many_back"))
        .await
        .unwrap();
    assert_eq!(copied.rows, 10_000);
}
