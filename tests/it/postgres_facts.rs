//! What a snapshot of PostgreSQL says of its server and of its tables, beside the server's answers.

use rowvault::row::schema::{OnDelete, Structure, Table};
use rowvault::source::open::{self, SourceOptions};

use crate::postgres_server::Server;

const SCHEMA: &str = "CREATE EXTENSION citext;
 CREATE TABLE up (a int, b text, PRIMARY KEY (b, a));
 CREATE TABLE down (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b text NOT NULL, a int DEFAULT 7,
  g int GENERATED ALWAYS AS (a + 1) STORED, c citext,
  CONSTRAINT \"to up\" FOREIGN KEY (a, b) REFERENCES up (a, b) ON DELETE CASCADE);
 CREATE TABLE whole (a int) PARTITION BY LIST (a); CREATE TABLE part PARTITION OF whole FOR VALUES IN (1);";

fn table<'s>(structure: &'s Structure, name: &str) -> &'s Table {
    let found = structure.tables.iter().find(|one| one.name.name == name);
    found.unwrap_or_else(|| panic!("table {name} is not in the snapshot"))
}

/// The names of the columns of a table's key.
fn key(table: &Table) -> Vec<&str> {
    let key = table.key.iter().flat_map(|key| &key.columns);
    key.map(|&(at, _)| table.columns[at].name.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_says_what_the_server_says_of_itself_and_of_its_tables() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("told");
    server.sql("told", SCHEMA);
    let mut source = open::source(&server.url("told"), &SourceOptions::default()).unwrap();
    let structure = source.begin().await.unwrap();
    let fact = |name: &str| structure.facts[name].as_str();
    for (name, sql) in [
        ("server_version", "SHOW server_version"),
        ("server_version_num", "SHOW server_version_num"),
        ("encoding", "SHOW server_encoding"),
        (
            "system_identifier",
            "SELECT system_identifier FROM pg_control_system()",
        ),
        (
            "timeline",
            "SELECT timeline_id FROM pg_control_checkpoint()",
        ),
        (
            "extensions",
            "SELECT string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) FROM pg_extension",
        ),
    ] {
        assert_eq!(fact(name), server.ask("told", sql), "{name}");
    }
    let (snapshot, xmin) = (fact("snapshot"), fact("snapshot_xmin"));
    let sound = format!(
        "SELECT '{}'::pg_lsn BETWEEN '0/1' AND pg_current_wal_lsn() \
         AND pg_snapshot_xmin('{snapshot}') = '{xmin}'::xid8 \
         AND '{xmin}'::xid8 <= pg_snapshot_xmax(pg_current_snapshot())",
        fact("wal_position")
    );
    assert_eq!(server.ask("told", &sound), "t", "{:?}", structure.facts);

    let (up, down) = (table(&structure, "up"), table(&structure, "down"));
    assert_eq!((key(up), key(down)), (vec!["b", "a"], vec!["id"]));
    assert_eq!(down.columns[0].facts["identity"], "a");
    assert_eq!(down.columns[2].default.as_deref(), Some("7"));
    assert_eq!(down.generated, [("g".into(), "(a + 1)".into())]);
    let relation = &down.foreign_keys[0];
    assert_eq!(relation.name, "to up");
    assert_eq!(
        (&relation.parent, relation.on_delete),
        (&up.name, OnDelete::Cascade)
    );
    assert_eq!(
        (&relation.columns[..], &relation.parent_columns[..]),
        (&["a".into(), "b".into()][..], &["a".into(), "b".into()][..])
    );
    let (whole, part) = (table(&structure, "whole"), table(&structure, "part"));
    assert_eq!(whole.facts["partitioned_by"], "LIST (a)");
    assert_eq!(part.facts["partition_of"], "public.whole");
    assert_eq!((whole.with_rows, part.with_rows), (false, true));
    source.end().await.unwrap();
}
