//! PostgreSQL at the edges: encodings, versions, sizes, exclusions, live writers, known samples.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rowvault::failure::Class;
use rowvault::source::open::{Ownership, SourceOptions, TablePattern, TargetOptions};

use crate::postgres_pipe::{round_trip, trip};
use crate::postgres_server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_other_encodings_come_back_as_they_were() {
    let Some(server) = Server::debian("") else {
        return;
    };
    for (name, encoding, script) in [
        ("ascii", "SQL_ASCII", &b"INSERT INTO t VALUES (E'\\xff\\xfe', 1), ('caf\xe9', 2), (E'\\x80\\\\', 3);"[..]),
        ("latin", "LATIN2", b"SET client_encoding = LATIN2; INSERT INTO t VALUES ('za\xbf\xf3\xb3\xe6', 1), ('\xb1', 2);"),
    ] {
        server.sql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C';"),
        );
        server.sql(name, "CREATE TABLE t (k text PRIMARY KEY, n int);");
        server.script(name, script);
        let back = format!("{name}_back");
        let done = trip(&server.url(name), &server.url(&back)).await;
        assert!(done.seen["public.t"].rows > 1);
        let bytes = "SELECT string_agg(encode(k::bytea, 'hex') || n, ',' ORDER BY n) FROM \
            (SELECT decode(replace(encode(convert_to(k, getdatabaseencoding()), 'hex'), '', ''), 'hex') AS k, n FROM t) x";
        assert_eq!(server.ask(name, bytes), server.ask(&back, bytes));
        assert_eq!(server.ask(&back, "SHOW server_encoding"), encoding);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_tables_are_left_out_and_what_needs_them_still_restores() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("excluding");
    server.sql(
        "excluding",
        "CREATE TABLE gone (a int PRIMARY KEY); INSERT INTO gone VALUES (1);
         CREATE TABLE viewed (a int PRIMARY KEY); INSERT INTO viewed VALUES (1); CREATE VIEW v AS SELECT * FROM viewed;
         CREATE TABLE bare (a serial PRIMARY KEY); INSERT INTO bare DEFAULT VALUES;
         CREATE TABLE refs (v int REFERENCES viewed, b int CONSTRAINT \"to bare\" REFERENCES bare ON DELETE CASCADE);
         INSERT INTO refs VALUES (1, 1);",
    );
    let options = SourceOptions {
        exclude_tables: vec![
            TablePattern::new("public.gone"),
            TablePattern::new("viewed"),
        ],
        exclude_data: vec![TablePattern::new("ba*")],
        ..SourceOptions::default()
    };
    let (from, to) = (server.url("excluding"), server.url("excluding_back"));
    let done = round_trip(&from, &to, &options, &TargetOptions::default()).await;
    let done = done.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(done.structure.facts["excluded_tables"], "public.gone");
    assert!(
        done.structure.warnings[0].contains("public.viewed"),
        "{:?}",
        done.structure.warnings
    );
    assert_eq!(done.seen.keys().collect::<Vec<_>>(), ["public.refs"]);
    assert_eq!(
        done.published.warnings.len(),
        2,
        "{:?}",
        done.published.warnings
    );
    let keys = "SELECT string_agg(conname || convalidated || confdeltype::text, ',' ORDER BY conname) \
        FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(
        server.ask("excluding_back", keys),
        "refs_v_fkeyfalsea,to barefalsec"
    );
    let rows = "SELECT (SELECT count(*) FROM viewed) || ',' || (SELECT count(*) FROM bare) || ',' \
        || (SELECT count(*) FROM refs) || ',' || nextval('bare_a_seq')";
    assert_eq!(server.ask("excluding_back", rows), "0,0,1,2");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_roles_are_named_and_can_be_done_without() {
    let (Some(one), Some(two)) = (Server::debian(""), Server::debian("")) else {
        return;
    };
    one.create("owned");
    one.sql(
        "owned",
        "CREATE ROLE boss; CREATE ROLE \"guest \"\"q\"; CREATE TABLE t (a int); INSERT INTO t VALUES (1);
         ALTER TABLE t OWNER TO boss; GRANT SELECT ON t TO \"guest \"\"q\"; SELECT lo_create(77); ALTER LARGE OBJECT 77 OWNER TO boss;",
    );
    let options = SourceOptions::default();
    let (from, to) = (one.url("owned"), two.url("owned"));
    let refused = round_trip(&from, &to, &options, &TargetOptions::default()).await;
    let error = refused.err().expect("roles are missing");
    assert_eq!(error.class(), Class::Conflict);
    assert!(error.to_string().contains("boss, guest \"q"), "{error}");
    let databases = "SELECT count(*) FROM pg_database WHERE datname LIKE 'owned%'";
    assert_eq!(two.ask("postgres", databases), "0");
    let without = TargetOptions {
        ownership: Ownership {
            no_owner: true,
            no_privileges: true,
            role_map: Vec::new(),
        },
        ..TargetOptions::default()
    };
    let done = round_trip(&from, &to, &options, &without).await;
    done.unwrap_or_else(|error| panic!("{error:?}"));
    let mapped = TargetOptions {
        ownership: Ownership {
            role_map: vec![
                ("boss".into(), "Chief \"x".into()),
                ("guest \"q".into(), "visitor".into()),
            ],
            ..Ownership::default()
        },
        ..TargetOptions::default()
    };
    two.sql(
        "postgres",
        "CREATE ROLE \"Chief \"\"x\"; CREATE ROLE visitor;",
    );
    let done = round_trip(&from, &two.url("mapped"), &options, &mapped).await;
    done.unwrap_or_else(|error| panic!("{error:?}"));
    let owner = "SELECT tableowner || ';' || has_table_privilege('visitor', 't', 'SELECT') || ';' || \
        (SELECT lomowner::regrole::text FROM pg_largeobject_metadata) \
        FROM pg_tables WHERE tablename = 't'";
    let found = two.ask("mapped", owner);
    assert_eq!(found, "Chief \"x;true;\"Chief \"\"x\"");
    assert_eq!(
        two.ask(
            "owned",
            "SELECT tableowner FROM pg_tables WHERE tablename = 't'"
        ),
        "postgres"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_server_takes_an_older_snapshot_and_not_the_other_way() {
    let (Some(old), Some(new)) = (Server::debian(""), Server::eighteen("")) else {
        return;
    };
    // The same tables on both; what one of the two cannot have is left out.
    let script = "CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text, n numeric, g int GENERATED ALWAYS AS (1) STORED);
         INSERT INTO a (t, n) SELECT md5(i::text), i / 7.0 FROM generate_series(1, 5000) i;
         CREATE TABLE r (a bigint REFERENCES a, u uuid PRIMARY KEY); INSERT INTO r SELECT i, md5(i::text)::uuid FROM generate_series(1, 500) i;
         CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM a; SELECT lo_from_bytea(5, 'abc');
         CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1);";
    for server in [&old, &new] {
        server.create("v");
        server.sql("v", script);
    }
    let tools = |server: &Server| TargetOptions {
        pg_bin_dir: Some(server.bin().to_owned()),
        // Nobody's name is changed, but each version's archive is read and written again.
        ownership: Ownership {
            role_map: vec![("no one".into(), "nobody".into())],
            ..Ownership::default()
        },
        ..TargetOptions::default()
    };
    let reads = |server: &Server| SourceOptions {
        pg_bin_dir: Some(server.bin().to_owned()),
        ..SourceOptions::default()
    };
    for (from, to, name) in [(&old, &new, "from_old"), (&new, &new, "from_new")] {
        let done = round_trip(&from.url("v"), &to.url(name), &reads(from), &tools(to)).await;
        done.unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(new.dump("v", &["-b"]), new.dump(name, &["-b"]));
    }
    let refused = round_trip(
        &new.url("v"),
        &old.url("from_new"),
        &reads(&new),
        &tools(&old),
    )
    .await;
    let error = refused.err().expect("an older server is refused");
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("older (15)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bank_keeps_its_sum_and_its_log_in_every_backup() {
    bank(8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "50 backups; tests/long.sh runs it"]
async fn long_bank_keeps_its_sum_and_its_log_in_50_backups() {
    bank(50).await;
}

/// Eight writers move money while `backups` are taken and restored, one after the other.
async fn bank(backups: u32) {
    let Some(server) = Server::debian("").map(Arc::new) else {
        return;
    };
    server.create("bank");
    server.sql(
        "bank",
        "CREATE TABLE account (id int PRIMARY KEY, money bigint); INSERT INTO account SELECT i, 1000 FROM generate_series(1, 200) i;
         CREATE TABLE log (writer int, n int, PRIMARY KEY (writer, n));",
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::task::spawn_blocking(move || {
                let mut next = 1;
                while !stop.load(Ordering::Relaxed) {
                    let script: String = (next..next + 40).map(|n| transfer(writer, n)).collect();
                    server.sql("bank", &script);
                    next += 40;
                }
            })
        })
        .collect();
    let mut moved = 0;
    for backup in 0..backups {
        let to = format!("bank_{backup}");
        trip(&server.url("bank"), &server.url(&to)).await;
        let books = "SELECT (SELECT sum(money) FROM account) || ',' || (SELECT count(*) FROM \
            (SELECT max(n) AS top, count(*) AS n FROM log GROUP BY writer) x WHERE top <> n)";
        assert_eq!(server.ask(&to, books), "200000,0");
        moved = server
            .ask(&to, "SELECT count(*) FROM log")
            .parse()
            .unwrap_or(0);
        server.sql("postgres", &format!("DROP DATABASE {to}"));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("{backups} backups, {moved} transfers in the last");
    assert!(moved > 100);
}

fn transfer(writer: u32, n: u32) -> String {
    // Always the lower account first, so that writers do not stand in each other's way for ever.
    let (a, b) = (1 + (writer * 31 + n * 7) % 199, 200);
    format!(
        "BEGIN; UPDATE account SET money = money - {n} WHERE id = {a}; \
         UPDATE account SET money = money + {n} WHERE id = {b}; \
         INSERT INTO log VALUES ({writer}, {n}); COMMIT;\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn bytea_of_32_mib_goes_through_in_slices() {
    huge_bytea(32).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute unoptimised; tests/long.sh runs it"]
async fn long_bytea_of_200_mib_goes_through_in_slices() {
    huge_bytea(200).await;
}

async fn huge_bytea(mib: u32) {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("huge");
    server.sql(
        "huge",
        &format!("CREATE TABLE t (id int PRIMARY KEY, b bytea, n int); ALTER TABLE t ALTER b SET STORAGE EXTERNAL;
         INSERT INTO t SELECT 1, decode(repeat('00ff5c0a', {}), 'hex'), 7; INSERT INTO t VALUES (2, '', 8);", mib << 18),
    );
    let before = resident_peak_kib();
    let done = trip(&server.url("huge"), &server.url("huge_back")).await;
    let after = resident_peak_kib();
    assert_eq!(done.seen["public.t"].large, 1);
    let check = "SELECT string_agg(id || md5(b) || n || length(b), ',' ORDER BY id) FROM t";
    assert_eq!(server.ask("huge", check), server.ask("huge_back", check));
    // Printed, not asserted: other tests of this process may peak at the same time. That no piece
    // is longer than a MiB is asserted for every piece on its way.
    println!("peak memory {before} KiB before, {after} KiB after");
}

/// The highest resident size of this process so far.
fn resident_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; tests/long.sh runs it"]
async fn long_ten_thousand_tables_come_back() {
    let Some(server) = Server::debian("max_locks_per_transaction = 2000") else {
        return;
    };
    server.create("many");
    for part in 0..10 {
        let script: String = (0..1000)
            .map(|i| format!("CREATE TABLE t{part}_{i} (id int PRIMARY KEY, v text); INSERT INTO t{part}_{i} VALUES ({i}, 'x');\n"))
            .collect();
        server.sql("many", &script);
    }
    let done = trip(&server.url("many"), &server.url("many_back")).await;
    assert_eq!(done.seen.len(), 10_000);
    assert!(done.seen.values().all(|seen| seen.rows == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn known_sample_databases_come_back_with_the_same_fingerprint() {
    let Some(samples) = crate::mysql_samples::samples() else {
        eprintln!("skipped: no sample databases beside the checkout");
        return;
    };
    let Some(server) = Server::debian("") else {
        return;
    };
    for sample in ["pagila-pg", "chinook-pg", "northwind-pg", "pagila-old-pg"] {
        let script = |name: &str, database: &str| {
            let output = Command::new("bash")
                .arg(samples.join(sample).join(name))
                .envs(server.environment(database))
                .env("FORCE", "1")
                .env("FP_DB", "1")
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{sample}/{name}: {error}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (from, to) = (
            sample.replace('-', "_"),
            format!("{}_back", sample.replace('-', "_")),
        );
        script("load.sh", &from);
        let done = trip(&server.url(&from), &server.url(&to)).await;
        let before = script("fingerprint.sh", &from).replace(&to, &from);
        let after = script("fingerprint.sh", &to).replace(&to, &from);
        assert!(before.lines().count() > 20);
        let differing = before.lines().zip(after.lines()).find(|(a, b)| a != b);
        assert_eq!(differing, None, "{sample}");
        let rows: u64 = done.seen.values().map(|seen| seen.rows).sum();
        println!("{sample}: {} tables, {rows} rows", done.seen.len());
    }
}
