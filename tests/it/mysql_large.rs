//! Large cells of MariaDB: in slices, whole, whatever the key, the rights and the way in.

use rowvault::row::cell::{Cell, LARGE_CELL_BYTES, cells};
use rowvault::source::address::SourceOptions;
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, open};
use tokio::sync::mpsc;

use crate::mysql_server::{Server, copy, shared};

/// Cells around the limit, several in a row, beside small ones and NULL, in text and bytes, with
/// every byte that an escape could get wrong.
const LARGE: &str = "
SET @piece = CONCAT(x'00090a0d1a275c22ff', REPEAT('x', 1015));
CREATE TABLE keyed (id INT, name VARCHAR(20), a LONGTEXT CHARACTER SET latin1, n INT, b LONGBLOB NOT NULL, m MEDIUMTEXT, PRIMARY KEY (name, id));
INSERT INTO keyed VALUES
 (1, 'limit', REPEAT('a', 1048576), 1, REPEAT('b', 1048575), ''),
 (2, 'Over', REPEAT('a', 1048577), 2, '', NULL),
 (3, 'both', REPEAT(@piece, 2048), 3, REPEAT(@piece, 5000), REPEAT('ż😀', 400000)),
 (4, 'second', 'small', 4, REPEAT(@piece, 1025), 'small'),
 (5, 'none', NULL, NULL, 'x', NULL),
 (6, 'third', NULL, 6, '', REPEAT('ö', 600000));
INSERT INTO keyed SELECT seq + 10, 'many', 'little', seq, 'y', NULL FROM seq_1_to_3000;
CREATE TABLE bare (a LONGTEXT, b LONGBLOB);
INSERT INTO bare VALUES ('x', 'y'), (REPEAT('q', 1048577), 'z'), (REPEAT('q', 1048577), 'z'), (NULL, REPEAT(@piece, 1025)), (NULL, NULL);
CREATE TABLE shapes (id INT PRIMARY KEY, g GEOMETRY, j JSON);
INSERT INTO shapes SELECT 1, ST_GeomFromText(CONCAT('LINESTRING(', GROUP_CONCAT(seq, ' ', seq / 7), ')')), '[]' FROM seq_1_to_90000;
INSERT INTO shapes VALUES (2, NULL, CONCAT('[\"', REPEAT('j', 2000000), '\"]')), (3, ST_GeomFromText('POINT(1 1)'), '{}');
";

fn script() -> String {
    format!("SET SESSION group_concat_max_len = 100000000;{LARGE}")
}

fn assert_equal(server: &Server, source: &str, target: &str) {
    let (source, target) = (server.rows(source), server.rows(target));
    for (table, rows) in source {
        assert!(rows == target[&table], "table {table} differs");
    }
}

#[tokio::test]
async fn cells_around_the_limit_come_back_whole() {
    let server = shared();
    server.fresh("large", &script());
    server.sql("", "DROP DATABASE IF EXISTS large_back");
    let copied = copy(&server.url("large"), &server.url("large_back"))
        .await
        .unwrap();
    assert_eq!(copied.rows, 3014);
    assert_equal(&server, "large", "large_back");
}

#[tokio::test]
async fn one_connection_reads_large_cells_too() {
    let server = shared();
    server.fresh("large_alone", &script());
    server.sql(
        "",
        "DROP DATABASE IF EXISTS large_alone_back; CREATE OR REPLACE USER alone@localhost; \
         GRANT ALL ON large_alone.* TO alone@localhost",
    );
    let from = server.url_as("alone", "large_alone");
    let copied = copy(&from, &server.url("large_alone_back")).await.unwrap();
    assert!(copied.structure.facts["consistency"].contains("RELOAD"));
    assert!(copied.structure.warnings[0].contains("one connection"));
    assert_equal(&server, "large_alone", "large_alone_back");
}

#[tokio::test]
async fn inserts_do_where_load_data_is_forbidden() {
    let server = Server::start(&["--local-infile=0", "--max-allowed-packet=24M"]);
    server.fresh("large", &script());
    server.fresh("cases", include_str!("mysql_cases.sql"));
    for name in ["large", "cases"] {
        let back = format!("{name}_back");
        copy(&server.url(name), &server.url(&back)).await.unwrap();
        assert_equal(&server, name, &back);
    }
}

#[tokio::test]
async fn row_over_the_packet_is_one_clear_error_and_leaves_nothing() {
    let server = Server::start(&["--local-infile=0", "--max-allowed-packet=64M"]);
    server.fresh("big", "CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB); SET @x = REPEAT('x', 9000000); INSERT INTO t VALUES (1, @x)");
    server.sql("big", "UPDATE t SET b = CONCAT(b, b)");
    server.sql("", "SET GLOBAL max_allowed_packet = 8388608");
    let error = copy(&server.url("big"), &server.url("big_back")).await;
    let error = error.err().expect("18 MB went through 8 MB");
    assert_eq!(error.class().exit_code(), 2, "{error:?}");
    assert!(
        error.hint().unwrap().contains("max_allowed_packet"),
        "{error:?}"
    );
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("big_"))
    );
}

#[tokio::test]
async fn slices_come_before_their_row_and_rows_stay_in_order() {
    let server = shared();
    server.fresh("sliced", &script());
    let mut source = open::source(&server.url("sliced"), &SourceOptions::default()).unwrap();
    let structure = source.begin().await.unwrap();
    let table = structure
        .tables
        .iter()
        .find(|t| t.name.name == "keyed")
        .unwrap();
    let (send, mut receive) = mpsc::channel(PIECES_WAITING_MAX);
    let read = source.read(table, Order::Canonical, send);
    let check = async {
        let mut received = [0u64; 6];
        let mut last: Option<Vec<u8>> = None;
        while let Some(piece) = receive.recv().await {
            match piece {
                Piece::Slice { column, bytes } => {
                    assert!(bytes.len() <= LARGE_CELL_BYTES);
                    assert!(
                        received[column + 1..].iter().all(|n| *n == 0),
                        "out of order"
                    );
                    received[column] += bytes.len() as u64;
                }
                Piece::Rows(batch) => {
                    for row in batch.iter() {
                        let row = cells(row, 6).unwrap();
                        for (at, cell) in row.iter().enumerate() {
                            let expected = match cell {
                                Cell::Large(large) => large.length,
                                _ => 0,
                            };
                            assert_eq!(std::mem::take(&mut received[at]), expected);
                        }
                        let Cell::Text(name) = row[1] else {
                            panic!("a key that is no text")
                        };
                        assert!(last.as_deref() <= Some(name));
                        last = Some(name.to_vec());
                    }
                }
            }
        }
    };
    let (count, ()) = tokio::join!(read, check);
    assert_eq!(count.unwrap(), 3006);
    source.end().await.unwrap();
}

/// 100 MiB and 200 MiB; by hand, with GNU time beside for the memory.
#[tokio::test]
#[ignore = "long: moves 600 MiB"]
async fn long_cells_of_200_mib_come_back_whole() {
    let server = Server::start(&["--max-allowed-packet=512M", "--innodb-log-file-size=1G"]);
    server.fresh(
        "huge",
        "CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB, t LONGTEXT);
         INSERT INTO t VALUES (1, REPEAT('0123456789abcdef', 6553600), ''), (2, NULL, REPEAT('0123456789abcdef', 13107200))",
    );
    copy(&server.url("huge"), &server.url("huge_back"))
        .await
        .unwrap();
    let sums = "SELECT id, SHA1(b), SHA1(t) FROM t ORDER BY id";
    assert_eq!(server.sql("huge", sums), server.sql("huge_back", sums));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    println!("{peak}");
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib <= 192 << 10, "{peak}");
}
