//! One table over several connections: the same rows in the same order, whatever its key is like.

use rowvault::failure::Class;
use rowvault::source::open::{self, SourceOptions, SourceUrl};
use rowvault::source::{Order, PIECES_WAITING_MAX, Source};
use tokio::sync::mpsc;

use crate::postgres_pipe::{Digester, Seen, read};
use crate::postgres_server::Server;

const TABLES: &str = "
 CREATE TABLE in_order (id bigint PRIMARY KEY, v text);
 INSERT INTO in_order SELECT i * 7 - 100000, repeat(md5(i::text), 10) FROM generate_series(1, 40000) i;
 DELETE FROM in_order WHERE id % 11 = 0;
 CREATE TABLE random_uuid (id uuid PRIMARY KEY, v text);
 INSERT INTO random_uuid SELECT md5(i::text)::uuid, repeat('x', 700) FROM generate_series(1, 40000) i;
 CREATE TABLE words (id text PRIMARY KEY, v text);
 INSERT INTO words SELECT CASE i % 3 WHEN 0 THEN 'żółw ' ELSE 'Word''s \\ ' END || md5(i::text), repeat('x', 200)
  FROM generate_series(1, 30000) i;
 CREATE TABLE few (a int, b int, v text, PRIMARY KEY (a, b));
 INSERT INTO few SELECT i / 20000, i, repeat('x', 200) FROM generate_series(0, 39999) i;
 CREATE DOMAIN number AS int;
 CREATE TABLE large (id number PRIMARY KEY, v text); ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
 INSERT INTO large SELECT i, repeat('y', CASE WHEN i % 4000 = 0 THEN 2500000 ELSE 300 END)
  FROM generate_series(1, 30000) i;
 CREATE TABLE parts (id int, v text) PARTITION BY RANGE (id);
 CREATE TABLE part_1 PARTITION OF parts (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (100000);
 INSERT INTO parts SELECT i, repeat('x', 200) FROM generate_series(1, 30000) i;
 CREATE TABLE none (id int PRIMARY KEY); ANALYZE;
";

fn options(ranged_bytes: u64) -> SourceOptions {
    SourceOptions {
        ranged_bytes,
        parallel: 3,
        ..SourceOptions::default()
    }
}

async fn all(url: &SourceUrl, ranged_bytes: u64) -> Vec<(String, Seen)> {
    let mut source = open::source(url, &options(ranged_bytes)).unwrap();
    let structure = source.begin().await.unwrap();
    let mut seen = Vec::new();
    for table in structure.tables.iter().filter(|table| table.with_rows) {
        let rows = read(source.as_ref(), table, Order::Key).await;
        let rows = rows.unwrap_or_else(|error| panic!("{}: {error:?}", table.name));
        seen.push((table.name.to_string(), rows));
    }
    source.end().await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_give_the_rows_that_one_reading_gives() {
    let Some(server) = Server::debian("log_statement = 'all'") else {
        return;
    };
    server.create("ranges");
    server.sql("ranges", TABLES);
    let url = server.url("ranges");
    let whole = all(&url, u64::MAX).await;
    let before = server.log().matches(" WHERE ").count();
    let ranged = all(&url, 1).await;
    assert_eq!(ranged, whole);
    assert_eq!(whole.len(), 7, "{whole:?}");
    let log = server.log();
    assert!(log.matches(" WHERE ").count() > before);
    for table in ["in_order", "random_uuid", "words", "few", "large", "part_1"] {
        let range = format!("FROM ONLY \"public\".\"{table}\" WHERE ");
        let ranges = log.matches(&range).count();
        assert!(ranges > 1, "{table} was read in {ranges} ranges");
        println!("{table}: {ranges} ranges");
    }
}

/// What the server plans for each range of `table` that it was asked for, where it may not sort.
fn plans(server: &Server, table: &str) -> Vec<String> {
    let start = "COPY (SELECT ";
    let log = server.log();
    let copies = log.lines().filter_map(|line| line.split_once(start));
    let from = format!("FROM ONLY \"public\".\"{table}\" WHERE ");
    let ranges = copies.filter(|(_, copy)| copy.contains(&from));
    let selects = ranges.filter_map(|(_, copy)| copy.split_once(") TO STDOUT"));
    let explain = |(select, _): (&str, &str)| {
        let settings =
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off";
        let sql = format!("{settings}; EXPLAIN (COSTS OFF) SELECT {select}");
        server.ask("ranges", &sql)
    };
    selects.map(explain).collect()
}

/// The server may still choose to sort a range, where rows lie in no order and that is cheaper; but
/// what it is asked for is what the key's index gives as it stands. Text is left out: its order by
/// bytes is that of the index only where the database's own collation is "C".
#[tokio::test(flavor = "multi_thread")]
async fn each_range_is_a_stretch_of_the_keys_index() {
    let Some(server) = Server::debian("log_statement = 'all'") else {
        return;
    };
    server.create("ranges");
    server.sql("ranges", TABLES);
    all(&server.url("ranges"), 1).await;
    for table in ["in_order", "random_uuid", "few", "part_1"] {
        let plans = plans(&server, table);
        assert!(plans.len() > 1, "{table}: {plans:?}");
        for plan in plans {
            let index = format!("Index Scan using {table}_pkey on {table}");
            assert!(plan.contains(&index), "{table}: {plan}");
            assert!(plan.contains("Index Cond: "), "{table}: {plan}");
            assert!(!plan.contains("Sort"), "{table}: {plan}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_use_no_more_connections_than_they_may_and_a_lost_one_fails_the_table() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("ranges");
    server.sql("ranges", TABLES);
    let mut source = open::source(&server.url("ranges"), &options(1)).unwrap();
    let structure = source.begin().await.unwrap();
    let table = |name: &str| {
        let found = structure.tables.iter().find(|t| t.name.name == name);
        found.unwrap()
    };
    let ours = "FROM pg_stat_activity WHERE application_name = 'rowvault' AND datname = 'ranges'";
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let count = async {
        let (mut most, mut digester) = (0u32, Digester::default());
        while let Some(piece) = pieces.recv().await {
            let open = server.ask("ranges", &format!("SELECT count(*) {ours}"));
            most = most.max(open.parse().unwrap());
            digester.piece(&piece, table("in_order"), true);
        }
        most
    };
    let others = async {
        read(source.as_ref(), table("words"), Order::Key).await?;
        read(source.as_ref(), table("few"), Order::Key).await
    };
    let (one, most, two) = tokio::join!(
        source.read(table("in_order"), Order::Key, sender),
        count,
        others
    );
    assert!(one.unwrap() > 30_000);
    two.unwrap();
    assert!((2..=5).contains(&most), "{most} connections");

    // Each of its three ranges is longer than what may wait, so that all are still being read.
    let (sender, mut pieces) = mpsc::channel(1);
    let cut = async {
        pieces.recv().await;
        let some = format!(
            "SELECT pg_terminate_backend(pid) {ours} AND query LIKE 'COPY%' AND state = 'active'"
        );
        server.ask("ranges", &some);
        while pieces.recv().await.is_some() {}
    };
    let (read, ()) = tokio::join!(source.read(table("random_uuid"), Order::Key, sender), cut);
    assert_eq!(read.unwrap_err().class(), Class::Transient);
    // The snapshot itself still stands.
    let again = read_whole(source.as_ref(), table("few")).await;
    assert_eq!(again, 40_000);
    source.end().await.unwrap();
}

async fn read_whole(source: &dyn Source, table: &rowvault::row::schema::Table) -> u64 {
    read(source, table, Order::Key).await.unwrap().rows
}
