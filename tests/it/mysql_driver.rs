//! Why rows are read by `mysql_async`: two faults of sqlx 0.9 that lost data without an error.
//!
//! Both are asked of our own reader here, and of sqlx beside it, so that we hear when it is mended.

use mysql_async::prelude::Queryable;
use rowvault::row::cell::{Cell, cells};
use rowvault::source::address::SourceOptions;
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, open};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::sync::mpsc;

use crate::mysql_server::{Server, shared};

async fn sqlx_connection(server: &Server, database: &str) -> sqlx::MySqlConnection {
    sqlx::mysql::MySqlConnectOptions::new()
        .socket(server.socket())
        .username("root")
        .database(database)
        .ssl_mode(sqlx::mysql::MySqlSslMode::Disabled)
        .connect()
        .await
        .unwrap()
}

/// All rows of the only table, as they come from our source.
async fn ours(server: &Server, database: &str, columns: usize) -> Vec<Vec<Option<Vec<u8>>>> {
    let mut source = open::source(&server.url(database), &SourceOptions::default()).unwrap();
    let structure = source.begin().await.unwrap();
    let (send, mut receive) = mpsc::channel(PIECES_WAITING_MAX);
    let collect = async {
        let mut rows = Vec::new();
        while let Some(piece) = receive.recv().await {
            let Piece::Rows(batch) = piece else { continue };
            for row in batch.iter() {
                let row = cells(row, columns).unwrap();
                let bytes = |cell: &Cell<'_>| match cell {
                    Cell::Text(bytes) => Some(bytes.to_vec()),
                    Cell::Large(large) => Some(large.length.to_string().into_bytes()),
                    _ => None,
                };
                rows.push(row.iter().map(bytes).collect());
            }
        }
        rows
    };
    let read = source.read(&structure.tables[0], Order::Key, send);
    let (count, rows) = tokio::join!(read, collect);
    assert_eq!(count.unwrap(), rows.len() as u64);
    source.end().await.unwrap();
    rows
}

/// In the text protocol, sqlx 0.9 took a row whose first column is 16 MiB or longer for the end
/// of the result: `Ok`, and no row.
#[tokio::test]
async fn row_with_16_mib_in_front_is_not_taken_for_the_end() {
    let server = shared();
    server.fresh(
        "driver_long",
        "CREATE TABLE t (b LONGBLOB, id INT PRIMARY KEY);
         INSERT INTO t VALUES (REPEAT('x', 16777216), 1), (REPEAT('x', 16777217), 2), ('y', 3)",
    );
    let rows = ours(&server, "driver_long", 2).await;
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1][0].as_deref(), Some(&b"16777217"[..]));

    // The driver alone, without slices, gets it right as well.
    let options = mysql_async::OptsBuilder::default()
        .socket(Some(server.socket()))
        .user(Some("root"))
        .max_allowed_packet(Some(1 << 30))
        .db_name(Some("driver_long"));
    let mut conn = mysql_async::Conn::new(options).await.unwrap();
    let whole: Vec<(Vec<u8>, u32)> = conn.query("SELECT b, id FROM t ORDER BY id").await.unwrap();
    assert_eq!(
        whole.iter().map(|row| row.0.len()).sum::<usize>(),
        33_554_434
    );
    conn.disconnect().await.unwrap();

    let mut sqlx = sqlx_connection(&server, "driver_long").await;
    let found = sqlx::raw_sql("SELECT b, id FROM t ORDER BY id")
        .fetch_all(&mut sqlx)
        .await;
    if found.is_ok_and(|rows| rows.len() == 3) {
        println!("sqlx gives rows of 16 MiB now");
    }
    sqlx.close().await.unwrap();
}

/// In the binary protocol, sqlx 0.9 gave zero dates as NULL.
#[tokio::test]
async fn zero_date_is_not_null() {
    let server = shared();
    server.fresh(
        "driver_zero",
        "SET sql_mode = ''; CREATE TABLE t (id INT PRIMARY KEY, d DATE, dt DATETIME, ts TIMESTAMP NULL);
         INSERT INTO t VALUES (1, '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00'), (2, NULL, NULL, NULL), (3, '2020-00-01', '2020-01-00 01:00:00', NULL)",
    );
    let rows = ours(&server, "driver_zero", 4).await;
    assert_eq!(rows[0][1].as_deref(), Some(&b"0000-00-00"[..]));
    assert_eq!(rows[0][2].as_deref(), Some(&b"0000-00-00 00:00:00"[..]));
    assert_eq!(rows[0][3].as_deref(), Some(&b"0000-00-00 00:00:00"[..]));
    assert_eq!(rows[1][1..], [None, None, None]);
    assert_eq!(rows[2][1].as_deref(), Some(&b"2020-00-01"[..]));

    let mut sqlx = sqlx_connection(&server, "driver_zero").await;
    let row = sqlx::query("SELECT d IS NULL, d FROM t WHERE id = 1")
        .fetch_one(&mut sqlx)
        .await
        .unwrap();
    assert!(!row.get::<bool, _>(0), "the server has a date there");
    sqlx.close().await.unwrap();
}
