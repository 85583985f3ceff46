//! PostgreSQL databases, captured and restored: `pg_dump` of both must be equal.

use crate::postgres_pipe::trip;
use crate::postgres_server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_tables_come_back_equal() {
    let Some(server) = Server::shared() else {
        return;
    };
    server.create("plain");
    server.sql(
        "plain",
        "CREATE TABLE a (id bigserial PRIMARY KEY, t text, n numeric, b bytea);
         INSERT INTO a (t, n, b) SELECT CASE WHEN i % 7 = 0 THEN NULL WHEN i % 7 = 1 THEN ''
          ELSE E'tab\\t nl\\n cr\\r bs\\\\ \\\\N ' || i END, i / 3.0, decode(md5(i::text), 'hex')
          FROM generate_series(1, 20000) i;
         CREATE TABLE u (id uuid PRIMARY KEY, a_id bigint REFERENCES a);
         INSERT INTO u SELECT md5(i::text)::uuid, i FROM generate_series(1, 5000) i;
         CREATE TABLE nokey (x int); INSERT INTO nokey SELECT 1 FROM generate_series(1, 10);
         CREATE TABLE empty (x int);",
    );
    let done = trip(&server.url("plain"), &server.url("plain_back")).await;
    assert_eq!(done.seen["public.a"].rows, 20000);
    assert_eq!(server.dump("plain", &[]), server.dump("plain_back", &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_comes_back_equal() {
    let Some(server) = Server::shared() else {
        return;
    };
    server.create("cases");
    server.sql("cases", include_str!("postgres/cases.sql"));
    let done = trip(&server.url("cases"), &server.url("cases_back")).await;
    assert_eq!(done.published.warnings, Vec::<String>::new());
    assert_eq!(done.structure.warnings, Vec::<String>::new());
    for (arguments, what) in [(&["--create"][..], "archive"), (&["-b", "-a"][..], "data")] {
        let before = server.dump("cases", arguments);
        let after = server
            .dump("cases_back", arguments)
            .replace("cases_back", "cases");
        assert_same(&before, &after, what);
    }
    assert_eq!(server.ask("cases_back", "SELECT count(*) FROM fired"), "0");
    let filled = "SELECT string_agg(relname || relispopulated, ',' ORDER BY relname) \
        FROM pg_class WHERE relkind = 'm'";
    assert_eq!(
        server.ask("cases_back", filled),
        "mat_atrue,mat_btrue,mat_emptyfalse"
    );
    for view in ["mat_a", "mat_b"] {
        let sql = format!("SELECT string_agg(x::text, ';' ORDER BY x::text) FROM public.{view} x");
        assert_eq!(server.ask("cases", &sql), server.ask("cases_back", &sql));
    }
    let large = |table: &str| done.seen[table].large;
    assert_eq!(large("public.large"), 7);
    assert_eq!(large("public.large_nokey"), 4);
    assert_eq!(large("public.expanded"), 1);
}

/// Fails with the first lines that differ, not with two whole dumps.
fn assert_same(before: &str, after: &str, what: &str) {
    if before == after {
        return;
    }
    let cut = |line: &str| line.chars().take(200).collect::<String>();
    let differing: Vec<String> = before
        .lines()
        .zip(after.lines())
        .filter(|(before, after)| before != after)
        .take(10)
        .map(|(before, after)| format!("- {}\n+ {}", cut(before), cut(after)))
        .collect();
    let (long, back) = (before.lines().count(), after.lines().count());
    panic!(
        "{what} differs ({long} and {back} lines):\n{}",
        differing.join("\n")
    );
}
