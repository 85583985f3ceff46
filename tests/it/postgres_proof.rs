//! Backups of PostgreSQL that read what changed alone, against readings of every row.
//!
//! After each step one snapshot is taken by proof and another, of another source of the same
//! repository, by reading everything: rows and digests of every table must be equal.

use std::sync::Arc;

use rowvault::format::ledger::{Event, Forgotten};
use rowvault::format::manifest::{Manifest, Mode};
use rowvault::id::SourceName;
use rowvault::job::backup::{self, Outcome, Reading, Request};
use rowvault::job::{Opened, Silent};
use rowvault::repo::intent::Whoami;
use rowvault::repo::shadow::{Found, Keeper, Mirrored};
use rowvault::repo::table::StackReader;
use rowvault::source::open::{self, SourceOptions};
use rowvault::state::State;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::cli_desk::copy_tree;
use crate::house::{self, House};
use crate::postgres_server::Server;
use crate::tiny;

/// Nothing that the server does by itself may move a count of bytes.
pub const SETTINGS: &str =
    "fsync = on\nautovacuum = off\nmax_prepared_transactions = 60\nlock_timeout = 30s";

/// A database, and a repository that it is backed up into.
pub struct Rig {
    pub server: Server,
    house: House,
    place: TempDir,
    /// Who backs up.
    role: &'static str,
}

/// How a step was read.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub mode: Mode,
    /// Bytes that were read, and bytes that there are.
    pub read: u64,
    pub all: u64,
}

const SCHEMA: &str = "CREATE TYPE stage AS ENUM ('new', 'won', 'lost');
 CREATE TYPE place AS (street text, number int);
 CREATE TABLE contact (id int PRIMARY KEY, name text, age int);
 CREATE TABLE deal (id uuid PRIMARY KEY, stage stage, at place, note text);
 CREATE TABLE tag (name text, contact int, PRIMARY KEY (name, contact));
 CREATE TABLE event (id bigint, day date, what text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
 CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
 CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
 INSERT INTO contact SELECT i, md5(i::text), i % 90 FROM generate_series(1, 4000) i;
 INSERT INTO deal SELECT md5(i::text)::uuid, 'new', ('street ' || i, i)::place, repeat('x', i % 50)
   FROM generate_series(1, 3000) i;
 INSERT INTO tag SELECT 'tag ' || i % 7, i FROM generate_series(1, 3000) i;
 INSERT INTO event SELECT i, '2026-01-01'::date + i % 365, md5(i::text) FROM generate_series(1, 3000) i;";

impl Rig {
    pub async fn on(server: Server) -> Rig {
        server.create("crm");
        let place = tiny::directory();
        let url = format!("file://{}", place.path().join("repo").display());
        let house = house::make(&url, &place.path().join("state"), 16 << 10).await;
        Rig {
            server,
            house,
            place,
            role: "postgres",
        }
    }

    /// On Debian's server, after a first snapshot of `schema`.
    async fn with(settings: &str, schema: &str) -> Option<Rig> {
        let server = Server::debian(&format!("{SETTINGS}\n{settings}"))?;
        let rig = Rig::on(server).await;
        rig.sql(schema);
        assert_eq!(rig.step().await.mode, Mode::Full);
        Some(rig)
    }

    pub fn sql(&self, script: &str) {
        self.server.sql("crm", script);
    }

    fn ask(&self, sql: &str) -> String {
        self.server.ask("crm", sql)
    }

    /// Has the log written out, so that a backup need not wait for it.
    fn flush(&self) {
        self.sql("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, '', '')");
    }

    async fn session(&self) -> PgConnection {
        let url = self.server.url("crm").display();
        PgConnection::connect(&url).await.unwrap()
    }

    pub async fn take(&self, opened: &Opened, name: &str, reading: Reading) -> Outcome {
        let options = SourceOptions {
            pg_bin_dir: Some(self.server.bin().to_owned()),
            ..SourceOptions::default()
        };
        let url = self.server.url_as("crm", self.role);
        let mut source = open::source(&url, &options).unwrap();
        let request = Request {
            reading,
            ..Request::new(name.parse().unwrap())
        };
        let taken = backup::run(opened, source.as_mut(), &request).await;
        taken.unwrap()
    }

    async fn manifest(&self, taken: &Outcome) -> Manifest {
        let catalog = self.house.opened.catalog().await.unwrap();
        let mut snapshots = catalog.sources[&taken.source].snapshots.iter();
        let own = snapshots.find(|one| one.record.id == taken.record.id);
        self.house.opened.manifest(own.unwrap()).await.unwrap()
    }

    /// Takes both snapshots, compares them, and says how the first was read.
    pub async fn step(&self) -> Step {
        self.step_on(&self.house.opened).await
    }

    async fn step_on(&self, opened: &Opened) -> Step {
        self.flush();
        let proven = self.take(opened, "crm", Reading::Changes).await;
        self.flush();
        let whole = self.take(&self.house.opened, "whole", Reading::All).await;
        let (found, wanted) = (self.manifest(&proven).await, self.manifest(&whole).await);
        assert_eq!(found.tables.len(), wanted.tables.len());
        for (one, other) in found.tables.iter().zip(&wanted.tables) {
            let facts = (&one.table.name, one.rows, one.digest);
            let wanted = (&other.table.name, other.rows, other.digest);
            assert_eq!(facts, wanted, "in a snapshot by {:?}", found.mode);
        }
        Step {
            mode: proven.record.mode,
            read: proven.record.totals.bytes_read,
            all: wanted.tables.iter().map(|table| table.bytes_raw).sum(),
        }
    }

    async fn mode(&self) -> Mode {
        self.step().await.mode
    }

    /// How a snapshot is taken, where it is known that all is read.
    async fn mode_alone(&self) -> Mode {
        self.flush();
        let taken = self.take(&self.house.opened, "crm", Reading::Changes);
        taken.await.record.mode
    }

    /// Reads every stack back, and compares its digest with what its manifest says.
    pub async fn read_back(&self) {
        let reader = self.house.opened.reader().await.unwrap();
        let catalog = self.house.opened.catalog().await.unwrap();
        for snapshot in &catalog.sources[&crm()].snapshots {
            let manifest = self.house.opened.manifest(snapshot).await.unwrap();
            for table in &manifest.tables {
                let mut stack = StackReader::open(reader.clone(), table).await.unwrap();
                while stack.next().await.unwrap().is_some() {}
            }
        }
    }

    /// Another host with a copy of what this one keeps.
    fn another_host(&self, directory: &str) -> Opened {
        let own = &self.house.opened;
        let state = self.place.path().join(directory);
        copy_tree(&self.place.path().join("state"), &state);
        Opened {
            vault: own.vault.clone(),
            keyring: own.keyring.clone(),
            state: State::open(&state, &own.vault.realm.repository).unwrap(),
            whoami: Whoami::ask(),
            progress: Arc::new(Silent),
        }
    }

    /// Edits what the newest snapshot left for the next one.
    async fn alter_witness(&self, edit: impl Fn(&mut Value)) {
        let opened = &self.house.opened;
        let catalog = opened.catalog().await.unwrap();
        let newest = catalog.at(&crm(), None).unwrap();
        let hash = opened.vault.source_hash(&crm());
        let keeper = Keeper::new(opened.vault.clone(), opened.state.clone(), &hash);
        let mirrored = Mirrored {
            snapshot: newest.record.id,
            manifest: newest.record.manifest,
            entry: newest.entry,
        };
        let Found::Mirror(mut shadow) = keeper.load(mirrored).unwrap() else {
            panic!("there is no shadow");
        };
        let witness = shadow.witness.as_deref().expect("the snapshot left one");
        let mut witness = serde_json::from_str(witness).unwrap();
        edit(&mut witness);
        shadow.witness = Some(witness.to_string());
        keeper.swap(&shadow).unwrap();
    }
}

fn crm() -> SourceName {
    "crm".parse().unwrap()
}

/// What is done, and whether next to nothing is read then.
const STEPS: &[(&str, bool)] = &[
    ("SELECT 1", true),
    (
        "UPDATE contact SET age = age + 1 WHERE id % 40 = 0;
         UPDATE deal SET stage = 'won' WHERE note = 'xxxx'",
        true,
    ),
    (
        "DELETE FROM contact WHERE id BETWEEN 700 AND 720 OR id % 500 = 3",
        true,
    ),
    (
        "DELETE FROM deal WHERE note = 'xx'; DELETE FROM tag WHERE contact % 300 = 7",
        true,
    ),
    // The same key again, in the place of the old row and in none.
    (
        "DELETE FROM contact WHERE id = 55; INSERT INTO contact VALUES (55, 'new', 1);
         DELETE FROM contact WHERE id = 56; INSERT INTO contact VALUES (703, 'new', 1)",
        true,
    ),
    ("UPDATE contact SET age = age WHERE id < 30", true),
    (
        "VACUUM FREEZE contact; VACUUM FULL deal; CLUSTER tag USING tag_pkey; CLUSTER contact USING contact_pkey",
        true,
    ),
    (
        "BEGIN; INSERT INTO contact VALUES (9001, 'a', 1); SAVEPOINT s;
         INSERT INTO contact VALUES (9002, 'b', 1); RELEASE s; SAVEPOINT t;
         UPDATE contact SET age = 7 WHERE id = 200; ROLLBACK TO t; COMMIT;
         BEGIN; DELETE FROM contact; ROLLBACK",
        true,
    ),
    (
        "UPDATE event SET day = day + 200 WHERE day < '2026-02-01' AND id % 50 = 0",
        true,
    ),
    (
        "ALTER TABLE event DETACH PARTITION event_1; INSERT INTO event_1 VALUES (9003, '2026-03-03', 'x')",
        true,
    ),
    (
        "ALTER TABLE event ATTACH PARTITION event_1 FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
        true,
    ),
    (
        "ALTER TABLE event ALTER what TYPE text USING what || ''",
        false,
    ),
    (
        "BEGIN; TRUNCATE tag; COPY tag FROM STDIN WITH (FREEZE);\nfrozen\t1\nfrozen\t2\n\\.\nCOMMIT;",
        true,
    ),
    ("TRUNCATE deal", true),
    ("DELETE FROM event", true),
    ("SELECT 2", true),
];

async fn what_servers_do(rig: Rig) {
    rig.sql(SCHEMA);
    assert_eq!(rig.mode().await, Mode::Full);
    for (script, almost_nothing) in STEPS {
        rig.sql(script);
        let step = rig.step().await;
        assert_eq!(step.mode, Mode::Proof, "{script}");
        let little = step.read * 10 < step.all;
        assert_eq!(little, *almost_nothing, "{script}: {step:?}");
    }
    rig.read_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_do_to_rows_is_proven_right() {
    if let Some(server) = Server::debian(SETTINGS) {
        what_servers_do(Rig::on(server).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_of_18_do_to_rows_is_proven_right() {
    if let Some(server) = Server::eighteen(SETTINGS) {
        what_servers_do(Rig::on(server).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_rows_too_many_to_be_held_are_read_twice() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int, w text);
         INSERT INTO t SELECT i, 0, '' FROM generate_series(1, 1000) i";
    let Some(rig) = Rig::with("", schema).await else {
        return;
    };
    // More than rows before them let expect, then as many as those do.
    for v in 1..3 {
        rig.sql(&format!(
            "UPDATE t SET v = {v}, w = repeat(md5(id::text), 3200) WHERE id % 5 = {v};
             DELETE FROM t WHERE id IN (100 + {v}, 900, 1005 - {v} * 5)"
        ));
        assert_eq!(rig.mode().await, Mode::Proof, "{v}");
    }
    // One cell in slices, and a row that is gone.
    rig.sql(
        "UPDATE t SET w = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 70000) i)
         WHERE id = 400; DELETE FROM t WHERE id = 405",
    );
    assert_eq!(rig.mode().await, Mode::Proof);
    rig.read_back().await;
}

/// Rows that come and go where ranges of the first key column meet.
const AT_EDGES: &[&str] = &[
    "INSERT INTO pair SELECT k, -1, 'before' FROM generate_series(0, 39) k;
     DELETE FROM pair WHERE n = 0 AND k % 3 = 0",
    // What was deleted is there again, and what came is gone.
    "INSERT INTO pair SELECT k, 0, 'again' FROM generate_series(0, 39, 3) k;
     DELETE FROM pair WHERE n = -1 AND k % 2 = 0; DELETE FROM pair WHERE n = 99",
    "INSERT INTO pair SELECT k, -n, 'low' FROM generate_series(2, 38, 4) k, generate_series(2, 9) n;
     DELETE FROM pair WHERE k = 7; UPDATE pair SET n = -50 WHERE n = 50",
    "INSERT INTO pair SELECT 7, n, 'low' FROM generate_series(-3, 3) n;
     DELETE FROM pair WHERE n < 1 AND k % 5 = 1",
    // So few ranges that they are looked up: the lowest, the highest, some between.
    "DELETE FROM pair WHERE (k, n) IN ((0, 40), (39, 40))",
    "DELETE FROM pair WHERE k = 20 AND n < 9; DELETE FROM single WHERE id::text < '04'",
    "DELETE FROM single WHERE id::text > 'fd';
     INSERT INTO single SELECT repeat(digit, 32)::uuid, 'new' FROM unnest('{0,f}'::text[]) digit",
    "DELETE FROM name WHERE k = 'n 1010'; DELETE FROM single WHERE id::text BETWEEN '80' AND '81'",
];

/// With `before` each of them.
async fn at_edges(before: &str) {
    // So many pages that those with rows of before stay visible.
    let schema = "CREATE TABLE pair (k int, n int, v text, PRIMARY KEY (k, n)) WITH (fillfactor = 10);
         CREATE TABLE single (id uuid PRIMARY KEY, v text) WITH (fillfactor = 10); CREATE TABLE name (k text PRIMARY KEY);
         INSERT INTO pair SELECT i / 100, i % 100, repeat('v', 50) FROM generate_series(0, 3999) i;
         INSERT INTO single SELECT md5(i::text)::uuid, repeat('v', 50) FROM generate_series(1, 4000) i;
         INSERT INTO name SELECT 'n ' || i FROM generate_series(1000, 3999) i";
    let Some(rig) = Rig::with("", schema).await else {
        return;
    };
    for script in AT_EDGES {
        rig.sql(before);
        rig.sql(script);
        let step = rig.step().await;
        assert_eq!(step.mode, Mode::Proof, "{script}");
        assert!(step.read * 5 < step.all, "{script}: {step:?}");
    }
    rig.read_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_at_the_edges_of_ranges_are_counted_on_the_right_side() {
    at_edges("SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_at_the_edges_of_ranges_are_counted_right_by_the_index() {
    at_edges("VACUUM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_that_lost_rows_is_scanned_once() {
    let schema =
        "CREATE TABLE lost (id int PRIMARY KEY, v text); CREATE TABLE t (LIKE lost INCLUDING ALL);
         CREATE TABLE u (id uuid PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat('v', 50) FROM generate_series(1, 60000) i;
         INSERT INTO lost SELECT * FROM t;
         INSERT INTO u SELECT md5(i::text)::uuid, repeat('v', 50) FROM generate_series(1, 60000) i";
    let Some(rig) = Rig::with("", schema).await else {
        return;
    };
    rig.sql("VACUUM");
    rig.sql(
        "DELETE FROM t WHERE id % 600 = 7; UPDATE t SET v = 'new' WHERE id % 750 = 9;
         DELETE FROM lost WHERE id % 600 = 7;
         DELETE FROM u WHERE id::text LIKE '__7a%8'; UPDATE u SET v = 'new' WHERE id::text LIKE '__9b%8'",
    );
    let scans = || {
        let alone = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'crm'";
        while rig.ask(alone) != "1" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let scans = rig.ask(
            "SELECT string_agg(seq_scan::text, ' ' ORDER BY relname) FROM pg_stat_user_tables",
        );
        let scans = scans.split(' ').map(|scans| scans.parse::<u64>().unwrap());
        scans.collect::<Vec<u64>>()
    };
    let before = scans();
    assert_eq!(rig.mode_alone().await, Mode::Proof);
    let now = scans().into_iter().zip(before);
    let now: Vec<u64> = now.map(|(now, before)| now - before).collect();
    assert_eq!(now, [1, 1, 1]);
    assert_eq!(rig.mode().await, Mode::Proof);
    rig.read_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_open_at_the_earlier_snapshot_are_not_lost() {
    let Some(rig) = Rig::with("", SCHEMA).await else {
        return;
    };
    let mut open = rig.session().await;
    let begin = "BEGIN; UPDATE contact SET name = 'open' WHERE id = 21; SAVEPOINT s;
         DELETE FROM contact WHERE id = 22; RELEASE s; INSERT INTO contact VALUES (9005, 'open', 3)";
    open.execute(begin).await.unwrap();
    rig.sql(
        "BEGIN; UPDATE contact SET name = 'later' WHERE id = 9; DELETE FROM contact WHERE id = 10;
         INSERT INTO contact VALUES (9004, 'later', 2); PREPARE TRANSACTION 'held'",
    );
    // They end before those do, and count as fresh as long as those last.
    for id in 11..14 {
        rig.sql(&format!(
            "UPDATE contact SET name = 'early' WHERE id = {id}"
        ));
        assert_eq!(rig.mode().await, Mode::Proof);
    }
    open.execute("COMMIT").await.unwrap();
    assert_eq!(rig.mode().await, Mode::Proof);
    rig.sql("COMMIT PREPARED 'held'");
    assert_eq!(rig.mode().await, Mode::Proof);
    let late = "SELECT count(*) FROM contact WHERE name IN ('later', 'open')";
    assert_eq!(rig.ask(late), "4");
    rig.read_back().await;
}

const ONE_TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v int, w text);
 INSERT INTO t SELECT i, 0, md5(i::text) FROM generate_series(1, 400) i";

#[tokio::test(flavor = "multi_thread")]
async fn what_reads_differently_without_being_written_is_read_again() {
    let schema = "CREATE TYPE stage AS ENUM ('new', 'won'); CREATE TYPE place AS (street text, number int);
         CREATE TYPE way AS (a place, b stage[]); CREATE DOMAIN road AS way;
         CREATE TABLE t (id int PRIMARY KEY, stage stage, way road, extra int);
         INSERT INTO t SELECT i, 'new', (('s', i)::place, '{new,won}'::stage[])::way::road, 5 FROM generate_series(1, 500) i";
    let Some(rig) = Rig::with("", schema).await else {
        return;
    };
    assert_eq!(rig.mode().await, Mode::Proof);
    let scripts = [
        "ALTER TYPE stage RENAME VALUE 'new' TO 'fresh'",
        // Labels as before, but rows that were read in between had others.
        "ALTER TYPE stage RENAME VALUE 'fresh' TO 'old'; ALTER TYPE stage RENAME VALUE 'old' TO 'fresh'",
        "ALTER TYPE place ADD ATTRIBUTE town text",
        "ALTER TYPE place DROP ATTRIBUTE street",
        // The same column by all that is stored of it; no row is written.
        "ALTER TABLE t DROP COLUMN extra; ALTER TABLE t ADD COLUMN extra int DEFAULT 7",
        // The same columns, but another table.
        "CREATE TABLE u (LIKE t INCLUDING ALL); INSERT INTO u SELECT * FROM t WHERE id <> 3;
         INSERT INTO u SELECT 903, stage, way, extra FROM t WHERE id = 3;
         DROP TABLE t; ALTER TABLE u RENAME TO t",
    ];
    for script in scripts {
        rig.sql(script);
        assert_eq!(rig.mode().await, Mode::Rows, "{script}");
        assert_eq!(rig.mode().await, Mode::Proof, "after {script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_name_what_may_be_renamed_are_always_read() {
    let schema = "CREATE ROLE helen; CREATE TABLE named (x int);
         CREATE TYPE deep AS (who regrole); CREATE TYPE span AS RANGE (subtype = deep);
         CREATE TABLE r (id int PRIMARY KEY, who regrole);
         INSERT INTO r VALUES (1, 'helen')";
    let Some(rig) = Rig::with("", schema).await else {
        return;
    };
    assert_eq!(rig.mode_alone().await, Mode::Rows);
    rig.sql("ALTER ROLE helen RENAME TO helena");
    assert_eq!(rig.mode().await, Mode::Rows);
    for column in ["regclass[]", "deep", "deep[]", "span", "aclitem"] {
        rig.sql(&format!(
            "DROP TABLE r; CREATE TABLE r (id int PRIMARY KEY, c {column}); INSERT INTO r VALUES (1)"
        ));
        rig.mode_alone().await;
        assert_eq!(rig.mode_alone().await, Mode::Rows, "{column}");
    }
    rig.sql(
        "DROP TABLE r; CREATE UNLOGGED TABLE r (id int PRIMARY KEY, c int); INSERT INTO r VALUES (1)",
    );
    rig.mode_alone().await;
    assert_eq!(rig.mode_alone().await, Mode::Rows, "unlogged");
    rig.sql("ALTER TABLE r SET LOGGED");
    assert_eq!(rig.mode_alone().await, Mode::Rows);
    assert_eq!(rig.mode_alone().await, Mode::Proof);
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_is_of_servers_that_are_known_and_say_enough() {
    let Some(mut rig) = Rig::with("", ONE_TABLE).await else {
        return;
    };
    rig.sql("CREATE EXTENSION citext; ALTER TABLE t ADD c citext DEFAULT 'C'");
    assert_eq!(rig.mode_alone().await, Mode::Rows, "another extension");
    assert_eq!(rig.mode_alone().await, Mode::Proof);
    rig.sql("CREATE EXTENSION pg_surgery");
    assert_eq!(rig.mode_alone().await, Mode::Rows);
    assert_eq!(
        rig.mode_alone().await,
        Mode::Rows,
        "rows may be put back to life"
    );
    rig.sql(
        "DROP EXTENSION pg_surgery; CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader",
    );
    assert_eq!(rig.mode_alone().await, Mode::Rows);
    rig.role = "reader";
    assert_eq!(
        rig.mode_alone().await,
        Mode::Proof,
        "no right of a superuser is needed"
    );
    rig.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    assert_eq!(
        rig.mode_alone().await,
        Mode::Rows,
        "the system is not known"
    );
    rig.role = "postgres";
    rig.sql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()");
    while rig.ask("SHOW fsync") == "on" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        rig.mode_alone().await,
        Mode::Rows,
        "nothing was left by that"
    );
    assert_eq!(
        rig.mode_alone().await,
        Mode::Rows,
        "what is flushed may be lost"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_with_commits_lost_every_row_is_read() {
    let settings = "synchronous_commit = off\nwal_writer_delay = 2s";
    let Some(rig) = Rig::with(settings, ONE_TABLE).await else {
        return;
    };
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let mut reused = 0;
    for round in 0..3 {
        assert_eq!(rig.mode().await, Mode::Proof, "round {round}");
        rig.sql(&format!("UPDATE t SET v = 1 WHERE id = {round} + 1"));
        let before: u64 = rig.ask(next).parse().unwrap();
        rig.server.crash_and_restart();
        reused += u32::from(rig.ask(next).parse::<u64>().unwrap() < before);
        rig.sql(&format!("UPDATE t SET v = 2 WHERE id = {round} + 100"));
        assert_eq!(rig.mode().await, Mode::Rows, "round {round}");
    }
    assert!(reused > 0, "no transaction's number was used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_of_one_process_takes_nothing_back_that_was_built_on() {
    let settings = "synchronous_commit = off\nwal_writer_delay = 2s";
    let Some(rig) = Rig::with(settings, ONE_TABLE).await else {
        return;
    };
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let mut reused = 0;
    for round in 0..6 {
        rig.flush();
        // In every other round what is lost was seen by a snapshot.
        let seen = round % 2 == 1;
        if !seen {
            rig.step().await;
        }
        rig.sql(&format!("UPDATE t SET v = 1 WHERE id = {round} + 1"));
        let before: u64 = rig.ask(next).parse().unwrap();
        let mut victim = rig.session().await;
        let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
        let pid = pid.fetch_one(&mut victim).await.unwrap();
        if seen {
            let opened = &rig.house.opened;
            rig.take(opened, "crm", Reading::Changes).await;
        }
        rig.server.crash_backend(pid);
        reused += u32::from(rig.ask(next).parse::<u64>().unwrap() < before);
        for id in 100..103 {
            rig.sql(&format!("UPDATE t SET v = 2 + {round} WHERE id = {id}"));
        }
        rig.step().await;
    }
    assert!(reused > 0, "no transaction's number was used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_directory_that_is_put_back_is_read_again() {
    let Some(rig) = Rig::with("", ONE_TABLE).await else {
        return;
    };
    rig.server.stopped("cp -a data kept");
    assert_eq!(rig.mode().await, Mode::Rows, "after a restart");
    for id in 1..4 {
        rig.sql(&format!("UPDATE t SET v = 1 WHERE id = {id}"));
    }
    assert_eq!(rig.mode().await, Mode::Proof);
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let before: u64 = rig.ask(next).parse().unwrap();
    rig.server.stopped("mv data other; mv kept data");
    // The same numbers, for other rows, and then more than were used before.
    let mut id = 200;
    while rig.ask(next).parse::<u64>().unwrap() <= before + 3 {
        rig.sql(&format!("UPDATE t SET v = 2 WHERE id = {id}"));
        id += 1;
    }
    assert_eq!(rig.mode().await, Mode::Rows);
    assert_eq!(rig.mode().await, Mode::Proof);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_doubt_about_the_line_of_transactions_has_every_row_read() {
    let Some(server) = Server::debian(SETTINGS) else {
        return;
    };
    // The numbers have wrapped around once.
    server.stopped("$BIN/pg_resetwal -e 1 data");
    let rig = Rig::on(server).await;
    rig.sql(ONE_TABLE);
    assert_eq!(rig.mode().await, Mode::Full);
    rig.alter_witness(|_| {}).await;
    rig.sql("UPDATE t SET v = 1 WHERE id = 1");
    assert_eq!(rig.mode().await, Mode::Proof, "nothing was altered");
    for line in [
        "system",
        "timeline",
        "started",
        "version",
        "database",
        "extensions",
    ] {
        rig.alter_witness(|witness| witness["line"][line] = json!("another"))
            .await;
        assert_eq!(rig.mode_alone().await, Mode::Rows, "{line}");
    }
    for (number, by) in [
        ("xmin", 1_000),
        ("xmax", 1_000),
        ("wal", 1 << 40),
        ("xmin", -(1_i64 << 31)),
    ] {
        let edit = |witness: &mut Value| {
            let was = witness[number].as_i64().unwrap();
            witness[number] = json!(was + by);
        };
        rig.alter_witness(edit).await;
        assert_eq!(rig.mode_alone().await, Mode::Rows, "{number} {by}");
    }
    rig.alter_witness(|witness| *witness = json!("something else"))
        .await;
    assert_eq!(rig.mode_alone().await, Mode::Rows);
    rig.sql("UPDATE t SET v = 2 WHERE id = 2");
    assert_eq!(rig.mode().await, Mode::Proof);
}

#[tokio::test(flavor = "multi_thread")]
async fn database_made_again_under_its_number_is_read_again() {
    let Some(rig) = Rig::with("", ONE_TABLE).await else {
        return;
    };
    // What became of the same table elsewhere, before the snapshot that is built on.
    rig.server
        .sql("postgres", "CREATE DATABASE aside TEMPLATE crm");
    rig.server
        .sql("aside", "UPDATE t SET v = 9 WHERE id % 2 = 0");
    assert_eq!(rig.mode().await, Mode::Proof);
    let number = rig.ask("SELECT oid FROM pg_database WHERE datname = 'crm'");
    rig.server.sql(
        "postgres",
        &format!("DROP DATABASE crm; CREATE DATABASE crm TEMPLATE aside OID {number}"),
    );
    assert_eq!(rig.mode().await, Mode::Rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_that_is_not_the_newest_any_more_proves_nothing() {
    let Some(rig) = Rig::with("", ONE_TABLE).await else {
        return;
    };
    let other = rig.another_host("other");
    rig.sql("UPDATE t SET v = 1 WHERE id = 1");
    assert_eq!(rig.step_on(&other).await.mode, Mode::Proof);
    rig.sql("UPDATE t SET v = 1 WHERE id = 2");
    assert_eq!(
        rig.mode().await,
        Mode::Full,
        "another host's stands between"
    );
    rig.sql("UPDATE t SET v = 1 WHERE id = 3");
    assert_eq!(rig.mode().await, Mode::Proof);
    let opened = &rig.house.opened;
    let catalog = opened.catalog().await.unwrap();
    let forgotten = Event::Forgotten(Forgotten {
        snapshots: vec![catalog.at(&crm(), None).unwrap().record.id],
        reason: "by hand".into(),
    });
    opened.record(&crm(), forgotten).await.unwrap();
    rig.sql("UPDATE t SET v = 1 WHERE id = 4");
    assert_eq!(rig.mode().await, Mode::Full, "it was forgotten");
    rig.read_back().await;
}
