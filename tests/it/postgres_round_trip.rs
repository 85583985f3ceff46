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
