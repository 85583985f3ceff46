//! PostgreSQL databases made again: how old their rows are, and by whom they may be made.

use std::process::Stdio;
use std::time::Duration;

use rowvault::source::open::{SourceOptions, TargetOptions};

use crate::cli_desk::{Desk, ran};
use crate::postgres_pipe::{Trip, round_trip, trip};
use crate::postgres_server::{Server, give_to_server};

/// How many rows a table of `database` has, and how many of them are frozen.
fn frozen(server: &Server, database: &str, table: &str) -> String {
    // Both bits of a row that is older than any transaction; a row that was only seen to be
    // committed has one of them.
    let sql = format!(
        "SELECT count(*) || ' rows, frozen ' || count(*) FILTER (WHERE t_infomask & 768 = 768) \
         FROM generate_series(0, pg_relation_size('{table}') / 8192 - 1) AS page, \
         heap_page_items(get_raw_page('{table}', page::int)) WHERE lp_flags = 1"
    );
    server.ask(database, &sql)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_restored_as_frozen_ones() {
    let Some(server) = Server::shared() else {
        return;
    };
    server.create("thawed");
    server.sql(
        "thawed",
        "CREATE EXTENSION pageinspect; CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 3000) i;
         CREATE TABLE heir () INHERITS (t); INSERT INTO heir SELECT i, 'x' FROM generate_series(1, 300) i;
         CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF p DEFAULT;
         INSERT INTO p SELECT generate_series(1, 200); CREATE UNLOGGED TABLE u (a int); INSERT INTO u VALUES (1);",
    );
    assert_eq!(frozen(&server, "thawed", "t"), "3000 rows, frozen 0");
    for existing in [false, true] {
        let back = format!("thawed_{existing}");
        if existing {
            server.create(&back);
        }
        trip(&server.url("thawed"), &server.url(&back)).await;
        for (table, rows) in [("t", 3000), ("heir", 300), ("part", 200)] {
            let found = frozen(&server, &back, table);
            assert_eq!(found, format!("{rows} rows, frozen {rows}"), "{table}");
        }
    }
}

/// A round trip of `from` into an empty database of `keeper`, who is no superuser, by `keeper`.
async fn kept(server: &Server, from: &str, to: &str) -> Trip {
    server.sql(
        "postgres",
        &format!("CREATE DATABASE {to} TEMPLATE template0 OWNER keeper;"),
    );
    let options = (SourceOptions::default(), TargetOptions::default());
    let to = server.url_as(to, "keeper");
    let done = round_trip(&server.url(from), &to, &options.0, &options.1).await;
    done.unwrap_or_else(|error| panic!("{error:?}; hint: {:?}", error.hint()))
}

#[tokio::test(flavor = "multi_thread")]
async fn table_that_its_owner_may_not_empty_is_filled_as_it_is() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.sql(
        "postgres",
        "CREATE ROLE keeper LOGIN; CREATE DATABASE loose TEMPLATE template0 OWNER keeper;",
    );
    server.sql(
        "loose",
        "SET ROLE keeper; CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 3000) i;",
    );
    kept(&server, "loose", "loose_back").await;
    // Whatever is made here may be read and added to by whoever makes it, and no more.
    server.sql(
        "postgres",
        "CREATE DATABASE strict TEMPLATE template0 OWNER keeper;",
    );
    server.sql(
        "strict",
        "ALTER DEFAULT PRIVILEGES FOR ROLE keeper REVOKE ALL ON TABLES FROM keeper;
         ALTER DEFAULT PRIVILEGES FOR ROLE keeper GRANT SELECT, INSERT ON TABLES TO keeper;",
    );
    let options = (SourceOptions::default(), TargetOptions::default());
    let (from, to) = (server.url("loose"), server.url_as("strict", "keeper"));
    let done = round_trip(&from, &to, &options.0, &options.1).await;
    done.unwrap_or_else(|error| panic!("{error:?}"));
    for (back, expected) in [("loose_back", 3000), ("strict", 0)] {
        let sum = "SELECT count(*) || md5(string_agg(t::text, ';' ORDER BY id)) FROM t";
        assert_eq!(server.ask(back, sum), server.ask("loose", sum));
        server.sql(back, "CREATE EXTENSION pageinspect");
        let found = frozen(&server, back, "t");
        assert_eq!(found, format!("3000 rows, frozen {expected}"), "{back}");
    }
}

/// A journal that its owner may no longer change, and a counter that it may no longer set.
const SEALED: &str = "SET ROLE keeper;
 CREATE TABLE journal (id serial PRIMARY KEY, v text);
 INSERT INTO journal (v) SELECT md5(i::text) FROM generate_series(1, 3000) i;
 REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON journal FROM keeper;
 REVOKE UPDATE, USAGE ON SEQUENCE journal_id_seq FROM keeper;
 CREATE TABLE written (a int); INSERT INTO written VALUES (1); REVOKE TRUNCATE ON written FROM keeper;
 GRANT SELECT (v) ON journal TO PUBLIC; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
 REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE DELETE ON TABLES FROM keeper;
 CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM journal;";

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_an_owner_gave_away_come_after_its_rows() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.sql(
        "postgres",
        "CREATE ROLE keeper LOGIN; CREATE DATABASE sealed TEMPLATE template0 OWNER keeper;",
    );
    server.sql("sealed", SEALED);
    let done = kept(&server, "sealed", "sealed_back").await;
    assert_eq!(done.published.warnings, Vec::<String>::new());
    assert_eq!(server.dump("sealed", &[]), server.dump("sealed_back", &[]));
    let next = "SELECT last_value::text || is_called FROM journal_id_seq";
    assert_eq!(server.ask("sealed_back", next), "3000true");
}

/// Where a table and its index lie.
const LIES: &str = "SELECT coalesce(string_agg(DISTINCT s.spcname, ','), 'elsewhere') FROM pg_class c \
    JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.relname ~ '^placed'";

#[tokio::test(flavor = "multi_thread")]
async fn tablespace_that_is_missing_is_told_and_done_without() {
    let (Some(one), Some(two)) = (Server::debian(""), Server::debian("")) else {
        return;
    };
    let fast = one.place().join("fast");
    std::fs::create_dir(&fast).unwrap();
    give_to_server(&fast);
    let sql = format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display());
    one.sql("postgres", &sql);
    one.create("placing");
    one.sql(
        "placing",
        "CREATE TABLE placed (id int PRIMARY KEY USING INDEX TABLESPACE fast, v text) TABLESPACE fast;
         INSERT INTO placed SELECT i, md5(i::text) FROM generate_series(1, 3000) i;",
    );
    let done = trip(&one.url("placing"), &one.url("placing_back")).await;
    assert_eq!(done.published.warnings, Vec::<String>::new());
    assert_eq!(one.ask("placing_back", LIES), "fast");
    let done = trip(&one.url("placing"), &two.url("placing")).await;
    let warnings = done.published.warnings.join("\n");
    assert!(warnings.contains("no tablespace fast"), "{warnings}");
    assert_eq!(two.ask("placing", LIES), "elsewhere");
    let arguments = ["--no-tablespaces"];
    assert_eq!(
        one.dump("placing", &arguments),
        two.dump("placing", &arguments)
    );

    let desk = Desk::with_repository();
    let url = one.url("placing").to_string();
    assert_eq!(desk.run(&["backup", &url, "-q"]).code, 0);
    let mut drill = desk.command(&["drill", "placing", "--json"]);
    drill.env("TMPDIR", two.place());
    let drilled = ran(drill).json();
    assert_eq!(drilled["ok"], true, "{drilled}");
    let warnings = drilled["warnings"].to_string();
    assert!(warnings.contains("no tablespace fast"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn role_that_may_make_no_database_is_told_what_to_do() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.sql("postgres", "CREATE ROLE keeper LOGIN;");
    server.create("some");
    server.sql(
        "some",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
    );
    let desk = Desk::with_repository();
    assert_eq!(
        desk.run(&["backup", &server.url("some").to_string(), "-q"])
            .code,
        0
    );
    let to = server.url_as("some_back", "keeper").to_string();
    let restore = ["restore", "some@latest", "--to", &to, "--no-owner"];
    desk.run(&restore).refused(6, "CREATEDB");
    let databases = "SELECT count(*) FROM pg_database WHERE datname LIKE 'some%'";
    assert_eq!(server.ask("postgres", databases), "1");
    server.sql("postgres", "ALTER ROLE keeper CREATEDB;");
    let done = desk.run(&restore);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(server.ask("some_back", "SELECT id FROM t"), "1");
}

#[test]
fn restore_whose_rows_are_cut_off_takes_away_what_it_made() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("cut");
    server.sql(
        "cut",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 60000) i;",
    );
    let desk = Desk::with_repository();
    let backup = ["backup", &server.url("cut").to_string(), "-q"];
    assert_eq!(desk.run(&backup).code, 0);
    server.create("empty_one");
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let before = server.ask("postgres", databases);
    let empty = server.dump("empty_one", &["--create"]);
    for to in ["cut_back", "empty_one"] {
        let url = server.url(to).to_string();
        let child = desk
            .command(&["restore", "cut@latest", "--to", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname LIKE '{to}%' AND query LIKE 'COPY%FREEZE%'"
        );
        let cuts = (0..3000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            server.ask("postgres", &cut) != "0"
        });
        assert!(cuts, "no COPY was met");
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("filling table public.t"), "{told}");
        assert_eq!(server.ask("postgres", databases), before);
        assert_eq!(server.dump("empty_one", &["--create"]), empty);
    }
}
