//! MariaDB under attack: lost connections, DDL, load, crashes. An error, or one instant; nothing
//! in between, and nothing left behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use rowvault::failure::{AnyFailure, Class};
use rowvault::row::cell::{Cell, cells};
use rowvault::row::schema::{Structure, Table};
use rowvault::source::address::{SourceOptions, TargetOptions};
use rowvault::source::{Order, PIECES_WAITING_MAX, Piece, Source, open};
use tokio::sync::mpsc;

use crate::mysql_server::{Server, copy, digest, shared};

fn source(server: &Server, user: &str, database: &str) -> Box<dyn Source> {
    open::source(&server.url_as(user, database), &SourceOptions::default()).unwrap()
}

fn table<'a>(structure: &'a Structure, name: &str) -> &'a Table {
    structure
        .tables
        .iter()
        .find(|t| t.name.name == name)
        .unwrap()
}

async fn digest_of(source: &dyn Source, table: &Table) -> Result<(u64, u128), AnyFailure> {
    let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
    let (read, digest) = tokio::join!(source.read(table, Order::Key, send), digest(receive));
    read.map(|_| digest)
}

/// Ends the connections of `user`, as an administrator or a broken line would.
fn cut_off(server: &Server, user: &str) {
    server.sql("", &format!("KILL HARD USER {user}@localhost"));
}

fn with_user(server: &Server, user: &str) {
    server.sql(
        "",
        &format!("CREATE OR REPLACE USER {user}@localhost; GRANT ALL ON *.* TO {user}@localhost"),
    );
}

const ROWS: &str = "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200));
 INSERT INTO t SELECT seq, REPEAT(CHAR(65 + seq % 26), 200) FROM seq_1_to_8000;
 CREATE TABLE u (id INT PRIMARY KEY); INSERT INTO u VALUES (1)";

#[tokio::test]
async fn connection_lost_at_any_batch_fails_the_whole_read() {
    let server = shared();
    server.fresh("cut_source", ROWS);
    with_user(&server, "cut_reader");
    let mut cuts = 0;
    for at in 0..64 {
        let mut source = source(&server, "cut_reader", "cut_source");
        let structure = source.begin().await.unwrap();
        let (send, mut receive) = mpsc::channel(1);
        let watch = async {
            let mut seen = 0;
            let mut batches = 0;
            while let Some(piece) = receive.recv().await {
                if batches == at {
                    cut_off(&server, "cut_reader");
                }
                batches += 1;
                if let Piece::Rows(batch) = piece {
                    seen += batch.len();
                }
            }
            (seen, batches)
        };
        let (read, (seen, batches)) =
            tokio::join!(source.read(table(&structure, "t"), Order::Key, send), watch);
        let rest = digest_of(source.as_ref(), table(&structure, "u")).await;
        let end = source.end().await;
        if batches <= at {
            assert_eq!(seen, 8000, "nothing was cut");
            assert!(read.is_ok() && rest.is_ok() && end.is_ok());
            break;
        }
        cuts += 1;
        // The last rows may have been on their way already; the end then knows.
        assert!(
            read.is_err() || end.is_err(),
            "cut at batch {at} went unseen"
        );
        for error in [read.err(), rest.err(), end.err()].into_iter().flatten() {
            assert_eq!(error.class(), Class::Transient, "{error}");
        }
    }
    assert!(cuts >= 4, "only {cuts} batches");
}

#[tokio::test]
async fn connection_lost_while_loading_leaves_nothing_behind() {
    let server = shared();
    server.fresh("cut_from", ROWS);
    server.sql("", "DROP DATABASE IF EXISTS cut_into");
    with_user(&server, "cut_writer");
    for at in [0, 1, 3] {
        let mut source = source(&server, "root", "cut_from");
        let structure = source.begin().await.unwrap();
        let to = server.url_as("cut_writer", "cut_into");
        let mut target = open::target(&to, &TargetOptions::default()).unwrap();
        target.prepare(&structure).await.unwrap();
        let (send, mut receive) = mpsc::channel(1);
        let (forward, forwarded) = mpsc::channel(1);
        let pass_on = async {
            let mut batches = 0;
            while let Some(piece) = receive.recv().await {
                if batches == at {
                    cut_off(&server, "cut_writer");
                }
                batches += 1;
                if forward.send(piece).await.is_err() {
                    break;
                }
            }
            drop(forward);
            receive.close();
        };
        let t = table(&structure, "t");
        let (_, loaded, ()) = tokio::join!(
            source.read(t, Order::Key, send),
            target.load(t, forwarded),
            pass_on
        );
        let error = loaded.expect_err("the connection was cut");
        assert_eq!(error.class(), Class::Transient, "{error}");
        target.discard().await.unwrap();
        assert!(
            !server
                .databases()
                .iter()
                .any(|name| name.starts_with("cut_into"))
        );
    }
}

#[tokio::test]
async fn ddl_during_the_backup_is_an_error_or_one_instant() {
    let server = shared();
    let changes = [
        ("truncate", "TRUNCATE TABLE t"),
        ("drop", "DROP TABLE t"),
        (
            "again",
            "DROP TABLE t; CREATE TABLE t (id INT PRIMARY KEY, v INT)",
        ),
        ("add", "ALTER TABLE t ADD COLUMN more INT DEFAULT 5"),
        ("lose", "ALTER TABLE t DROP COLUMN v"),
        (
            "retype",
            "ALTER TABLE t MODIFY v VARCHAR(50) CHARACTER SET latin1",
        ),
        ("rename", "RENAME TABLE t TO t_old"),
        ("swap", "RENAME TABLE t TO t_old, other TO t"),
        ("index", "ALTER TABLE t ADD KEY (v)"),
        ("rebuild", "ALTER TABLE t FORCE"),
        (
            "rows",
            "DELETE FROM t WHERE id < 50; UPDATE t SET v = 0; INSERT INTO t VALUES (900, 900)",
        ),
    ];
    let database = |name: &str| format!("ddl_{name}");
    for (name, _) in changes {
        server.fresh(
            &database(name),
            "CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t SELECT seq, seq FROM seq_1_to_100",
        );
    }
    // A table that is put in another's place is seldom of the same second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut refused = 0;
    for (name, change) in changes {
        let database = database(name);
        server.sql(
            &database,
            "CREATE TABLE other (id INT PRIMARY KEY, v INT); INSERT INTO other VALUES (1, 1)",
        );
        let mut before = source(&server, "root", &database);
        let structure = before.begin().await.unwrap();
        let expected = digest_of(before.as_ref(), table(&structure, "t"))
            .await
            .unwrap();
        before.end().await.unwrap();
        let mut during = source(&server, "root", &database);
        let structure = during.begin().await.unwrap();
        server.sql(&database, change);
        match digest_of(during.as_ref(), table(&structure, "t")).await {
            Ok(found) => assert_eq!(found, expected, "{name}"),
            Err(error) => {
                assert_eq!(error.class(), Class::Transient, "{name}: {error}");
                refused += 1;
            }
        }
        let _ = during.end().await;
    }
    assert!(refused >= 5, "{refused}");
}

#[tokio::test]
async fn backup_holds_no_lock_on_tables_that_were_read() {
    let server = shared();
    server.fresh("unlocked", "CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB); INSERT INTO t VALUES (1, REPEAT('x', 2000000)); CREATE SEQUENCE s; SELECT NEXTVAL(s)");
    let mut source = source(&server, "root", "unlocked");
    let structure = source.begin().await.unwrap();
    digest_of(source.as_ref(), table(&structure, "t"))
        .await
        .unwrap();
    server.sql("unlocked", "SET lock_wait_timeout = 5; ALTER TABLE t ADD COLUMN x INT; DROP TABLE t; DROP SEQUENCE s; CREATE TABLE w (id INT)");
    source.end().await.unwrap();
}

#[tokio::test]
async fn reader_that_turns_away_can_ask_again_in_another_order() {
    let server = shared();
    server.fresh("turned", ROWS);
    let mut source = source(&server, "root", "turned");
    let structure = source.begin().await.unwrap();
    let t = table(&structure, "t");
    for _ in 0..source.parallel() * 2 {
        let (send, mut receive) = mpsc::channel(1);
        let turn_away = async {
            receive.recv().await.unwrap();
            drop(receive);
        };
        let (read, ()) = tokio::join!(source.read(t, Order::Key, send), turn_away);
        assert!(read.is_err());
    }
    let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
    let (read, found) = tokio::join!(source.read(t, Order::Canonical, send), digest(receive));
    assert_eq!((read.unwrap(), found.0), (8000, 8000));
    source.end().await.unwrap();
}

async fn connect(server: &Server, database: &str) -> mysql_async::Conn {
    let options = mysql_async::OptsBuilder::default()
        .socket(Some(server.socket()))
        .user(Some("root"))
        .db_name(Some(database));
    mysql_async::Conn::new(options).await.unwrap()
}

/// Moves money between two tables and writes each move down, all in one transaction.
async fn move_money(server: Arc<Server>, writer: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut conn = connect(&server, "bank").await;
    let mut moves = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = (
            (writer * 7 + moves * 13) % 200,
            (writer * 11 + moves * 29) % 200,
        );
        let amount = moves % 50 + 1;
        let sql = [
            "START TRANSACTION".to_owned(),
            format!("UPDATE accounts_a SET balance = balance - {amount} WHERE id = {from}"),
            format!("UPDATE accounts_b SET balance = balance + {amount} WHERE id = {to}"),
            format!("INSERT INTO log VALUES ({writer}, {moves}, {amount})"),
            "COMMIT".to_owned(),
        ];
        let mut done = true;
        for statement in sql {
            if conn.query_drop(statement).await.is_err() {
                // A deadlock: the move did not happen.
                let _ = conn.query_drop("ROLLBACK").await;
                done = false;
                break;
            }
        }
        moves += u64::from(done);
    }
    moves
}

async fn numbers(source: &dyn Source, table: &Table) -> Vec<Vec<i64>> {
    let (send, mut receive) = mpsc::channel(PIECES_WAITING_MAX);
    let columns = table.columns.len();
    let collect = async {
        let mut rows = Vec::new();
        while let Some(Piece::Rows(batch)) = receive.recv().await {
            for row in batch.iter() {
                let number = |cell: Cell<'_>| match cell {
                    Cell::Text(text) => std::str::from_utf8(text).unwrap().parse().unwrap(),
                    other => panic!("{other:?}"),
                };
                rows.push(
                    cells(row, columns)
                        .unwrap()
                        .into_iter()
                        .map(number)
                        .collect(),
                );
            }
        }
        rows
    };
    let (read, rows) = tokio::join!(source.read(table, Order::Key, send), collect);
    read.unwrap();
    rows
}

async fn bank(backups: usize) {
    // Its own server: what other tests lock may hold the global read lock up.
    let server = Arc::new(Server::start(&[]));
    server.fresh("bank", "CREATE TABLE accounts_a (id INT PRIMARY KEY, balance BIGINT); INSERT INTO accounts_a SELECT seq - 1, 1000 FROM seq_1_to_200; CREATE TABLE accounts_b LIKE accounts_a; INSERT INTO accounts_b SELECT * FROM accounts_a; CREATE TABLE log (writer INT, move INT, amount INT, PRIMARY KEY (writer, move))");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| tokio::spawn(move_money(server.clone(), writer, stop.clone())))
        .collect();
    let mut logged = 0;
    for backup in 0..backups {
        let mut source = source(&server, "root", "bank");
        let structure = source.begin().await.unwrap();
        assert!(
            structure.facts["consistency"].starts_with("several"),
            "{:?}",
            structure.facts
        );
        let reader = source.as_ref();
        // The first two at once, so that each is read on a connection of its own.
        let (a, b, log) = tokio::join!(
            numbers(reader, table(&structure, "accounts_a")),
            numbers(reader, table(&structure, "accounts_b")),
            async {
                tokio::time::sleep(Duration::from_millis(60)).await;
                numbers(reader, table(&structure, "log")).await
            }
        );
        source.end().await.unwrap();
        let sum = |rows: &[Vec<i64>]| rows.iter().map(|row| row[1]).sum::<i64>();
        let moved: i64 = log.iter().map(|row| row[2]).sum();
        assert_eq!(sum(&a) + sum(&b), 400_000, "backup {backup}");
        assert_eq!(sum(&b), 200_000 + moved, "backup {backup}");
        let mut next: BTreeMap<i64, i64> = BTreeMap::new();
        for row in &log {
            let expected = next.entry(row[0]).or_default();
            assert_eq!(row[1], *expected, "a gap in the log of writer {}", row[0]);
            *expected += 1;
        }
        assert!(log.len() >= logged);
        logged = log.len();
    }
    stop.store(true, Ordering::Relaxed);
    let mut moves = 0;
    for writer in writers {
        moves += writer.await.unwrap();
    }
    println!("{moves} moves during {backups} backups, {logged} in the last");
    assert!(logged > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bank_is_seen_at_one_instant_by_all_connections() {
    bank(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 50 backups"]
async fn long_bank_is_seen_at_one_instant_by_all_connections() {
    bank(50).await;
}

#[tokio::test]
async fn crash_of_the_server_is_an_error_and_the_next_backup_works() {
    let mut server = Server::start(&[]);
    server.fresh("crashed", ROWS);
    let mut source = source(&server, "root", "crashed");
    let structure = source.begin().await.unwrap();
    let expected = digest_of(source.as_ref(), table(&structure, "t"))
        .await
        .unwrap();
    server.crash(&[]);
    let error = digest_of(source.as_ref(), table(&structure, "t"))
        .await
        .err();
    assert_eq!(
        error.expect("the server was gone").class(),
        Class::Transient
    );
    assert!(source.end().await.is_err());
    let structure = source.begin().await.unwrap();
    let again = digest_of(source.as_ref(), table(&structure, "t"))
        .await
        .unwrap();
    assert_eq!(again, expected);
    source.end().await.unwrap();
}

#[tokio::test]
async fn target_that_is_not_empty_is_refused_and_untouched() {
    let server = shared();
    server.fresh("full_from", ROWS);
    for (name, script) in [
        (
            "full_table",
            "CREATE TABLE mine (id INT); INSERT INTO mine VALUES (1)",
        ),
        ("full_view", "CREATE VIEW mine AS SELECT 1"),
        ("full_routine", "CREATE PROCEDURE mine () SELECT 1"),
        (
            "full_event",
            "CREATE EVENT mine ON SCHEDULE EVERY 1 YEAR DO SELECT 1",
        ),
    ] {
        server.fresh(name, script);
        let before = server.dump(name);
        let error = copy(&server.url("full_from"), &server.url(name))
            .await
            .err()
            .unwrap();
        assert_eq!(error.class(), Class::Conflict, "{name}: {error}");
        assert_eq!(server.dump(name), before);
    }
    // What is put there while the restore runs is found before anything is moved.
    server.fresh("full_late", "");
    let mut source = source(&server, "root", "full_from");
    let structure = source.begin().await.unwrap();
    let mut target = open::target(&server.url("full_late"), &TargetOptions::default()).unwrap();
    target.prepare(&structure).await.unwrap();
    target.finish(&structure).await.unwrap();
    server.sql("full_late", "CREATE TABLE mine (id INT)");
    let error = target.publish().await.err().unwrap();
    assert_eq!(error.class(), Class::Conflict, "{error}");
    target.discard().await.unwrap();
    assert_eq!(
        server.rows("full_late").keys().collect::<Vec<_>>(),
        ["mine"]
    );
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("full_late__"))
    );
    source.end().await.unwrap();
}

#[tokio::test]
async fn publishing_that_fails_half_way_is_undone() {
    let server = shared();
    server.fresh("undone_from", "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1); CREATE PROCEDURE p () SELECT 1; CREATE VIEW v AS SELECT id FROM t");
    server.sql("", "DROP DATABASE IF EXISTS undone");
    let mut source = source(&server, "root", "undone_from");
    let mut structure = source.begin().await.unwrap();
    source.end().await.unwrap();
    // A view that no server can make.
    let part = &mut structure.parts[0].bytes;
    let from = part.windows(10).position(|w| w == b" AS select").unwrap();
    part[from..from + 10].copy_from_slice(b" AS sElecT");
    let wrong = part.windows(4).rposition(|w| w == b"`t`.").unwrap_or(from);
    part[wrong + 1] = b'x';
    for existed in [false, true] {
        if existed {
            server.fresh("undone", "");
        }
        let mut target = open::target(&server.url("undone"), &TargetOptions::default()).unwrap();
        target.prepare(&structure).await.unwrap();
        target.finish(&structure).await.unwrap();
        let error = target.publish().await.expect_err("the view cannot be made");
        assert!(error.to_string().contains("view v"), "{error}");
        target.discard().await.unwrap();
        let left: Vec<String> = server
            .databases()
            .into_iter()
            .filter(|name| name.starts_with("undone"))
            .collect();
        match existed {
            false => assert_eq!(left, ["undone_from"]),
            true => assert_eq!(server.dump("undone").matches("CREATE").count(), 0),
        }
    }
}

#[tokio::test]
async fn view_that_its_own_server_cannot_open_is_said_and_left() {
    let server = shared();
    server.fresh("broken", "CREATE TABLE t (id INT PRIMARY KEY); CREATE TABLE g (id INT); CREATE VIEW ok AS SELECT id FROM t; CREATE VIEW broken AS SELECT id FROM g; CREATE VIEW worse AS SELECT id FROM broken; DROP TABLE g");
    server.sql("", "DROP DATABASE IF EXISTS broken_back");
    let copied = copy(&server.url("broken"), &server.url("broken_back"))
        .await
        .unwrap();
    assert_eq!(
        copied.structure.warnings.len(),
        2,
        "{:?}",
        copied.structure.warnings
    );
    assert_eq!(
        copied.published.warnings.len(),
        2,
        "{:?}",
        copied.published.warnings
    );
    let views = "SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE()";
    assert_eq!(server.sql("broken_back", views), "ok\n");
}
