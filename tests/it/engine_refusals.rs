//! Database servers that refuse, through the real binary: one clear error, the right exit code,
//! no snapshot, and the target as it was.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cli_desk::{Desk, Ran, ran};
use crate::mysql_server;
use crate::postgres_pipe::trip;
use crate::postgres_server::{Server, give_to_server};
use crate::small_disk::SmallDisk;

/// Runs a verb of the desk with more of an environment.
fn run_with(desk: &Desk, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = desk.command(arguments);
    command.envs(variables.iter().copied());
    ran(command)
}

/// That no snapshot was made, and that nothing announces one.
fn nothing_made(desk: &Desk) {
    let listed = desk.run(&["snapshots", "--json"]).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(desk.names("repo/intents"), Vec::<String>::new());
}

#[test]
fn postgres_that_lets_nobody_in_is_told_apart() {
    let access = "local all all trust\nhost all locked 127.0.0.1/32 scram-sha-256\n\
        hostssl all sealed 127.0.0.1/32 trust\nhost all open 127.0.0.1/32 trust\n";
    let Some((server, port)) = Server::over_tcp(access) else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE locked LOGIN PASSWORD 'right';
         CREATE ROLE sealed LOGIN; CREATE ROLE open LOGIN;",
    );
    let desk = Desk::with_repository();
    let url = |who: &str, rest: &str| format!("postgres://{who}@127.0.0.1:{port}/{rest}");
    let wrong = [("PGPASSWORD", "wr0ng-canary")];
    let refused = run_with(&desk, &wrong, &["backup", &url("locked", "crm")]);
    refused.refused(6, "password");
    assert!(!refused.err.contains("canary"), "{refused:?}");
    desk.run(&["backup", &url("locked", "crm")])
        .refused(6, "password");
    // The server wants TLS, and we were told not to.
    let plain = url("sealed", "crm?sslmode=disable");
    desk.run(&["backup", &plain]).refused(6, "pg_hba");
    // We want TLS, and the server has none.
    let sealed = url("open", "crm?sslmode=require");
    desk.run(&["backup", &sealed]).refused(2, "TLS");
    desk.run(&["backup", &url("open", "nothing_here")])
        .refused(1, "nothing_here");
    // A role that may read nothing of it.
    desk.run(&["backup", &url("open", "crm")])
        .refused(6, "public.t");
    nothing_made(&desk);
    let right = [("PGPASSWORD", "right")];
    server.sql("crm", "GRANT pg_read_all_data TO locked");
    let made = run_with(&desk, &right, &["backup", &url("locked", "crm"), "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
}

/// A session that holds a strong lock on a table until it is dropped.
struct Holder<'s> {
    server: &'s Server,
    client: Child,
    backend: String,
}

impl Holder<'_> {
    fn of<'s>(server: &'s Server, database: &str) -> Holder<'s> {
        let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)";
        let client = Command::new(server.bin().join("psql"))
            .envs(server.environment(database))
            .args(["-X", "-q", "-c", lock])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let backend = wait_for(server, "l.granted AND l.mode = 'AccessExclusiveLock'");
        Holder {
            server,
            client,
            backend,
        }
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        // A server sees that a client is gone when the statement has ended, and not before.
        let end = format!("SELECT pg_terminate_backend({})", self.backend);
        self.server.ask("postgres", &end);
        let _ = self.client.wait();
    }
}

/// Waits until some lock on the table `t` is as `condition` says, and gives its process.
fn wait_for(server: &Server, condition: &str) -> String {
    let sql = format!(
        "SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
         WHERE c.relname = 't' AND {condition} LIMIT 1"
    );
    for _ in 0..600 {
        let found = server.ask("crm", &sql);
        if !found.is_empty() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no lock is so: {condition}");
}

#[test]
fn postgres_that_cancels_or_cuts_off_fails_the_backup_whole() {
    let access = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n";
    let Some((server, port)) = Server::over_tcp(access) else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);",
    );
    let desk = Desk::with_repository();
    let url = format!("postgres://postgres@127.0.0.1:{port}/crm");
    for (act, said) in [
        ("pg_cancel_backend", "cancel"),
        ("pg_terminate_backend", "connection"),
    ] {
        let holder = Holder::of(&server, "crm");
        let mut command = desk.command(&["backup", &url]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = child.spawn().unwrap();
        let backend = wait_for(&server, "NOT l.granted");
        server.ask("crm", &format!("SELECT {act}({backend})"));
        let output = child.wait_with_output().unwrap();
        drop(holder);
        let failed = Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        failed.refused(1, said);
        nothing_made(&desk);
    }
    let made = desk.run(&["backup", &url, "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
}

#[test]
fn postgres_targets_that_are_not_empty_or_too_small_stay_as_they_were() {
    let access = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n";
    let Some((server, port)) = Server::over_tcp(access) else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat(md5(i::text), 16) FROM generate_series(1, 60000) i;",
    );
    let desk = Desk::with_repository();
    let url = |database: &str| format!("postgres://postgres@127.0.0.1:{port}/{database}");
    let made = desk.run(&["backup", &url("crm"), "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    let before = server.dump("crm", &[]);
    desk.run(&["restore", "crm@latest", "--to", &url("crm")])
        .refused(4, "not empty");
    assert!(server.dump("crm", &[]) == before, "the target was changed");
    let Some(_disk) = SmallDisk::mount(&server.place().join("disk"), 20) else {
        return;
    };
    let place = server.place().join("disk");
    give_to_server(&place);
    server.sql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{}';", place.display()),
    );
    server.sql(
        "postgres",
        "CREATE DATABASE small TEMPLATE template0 TABLESPACE small;",
    );
    let empty = server.dump("small", &[]);
    let full = desk.run(&["restore", "crm@latest", "--to", &url("small")]);
    full.refused(1, "free space");
    assert_eq!(server.dump("small", &[]), empty);
    let databases = "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database";
    let names = server.ask("postgres", databases);
    assert_eq!(names, "crm,postgres,small,template0,template1");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_standby_is_backed_up_like_its_primary() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE t (id serial PRIMARY KEY, v text);
         INSERT INTO t (v) SELECT md5(i::text) FROM generate_series(1, 3000) i;
         CREATE UNLOGGED TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1);",
    );
    let standby = server.standby();
    assert_eq!(standby.ask("crm", "SELECT pg_is_in_recovery()"), "t");
    let done = trip(&standby.url("crm"), &server.url("back")).await;
    assert_eq!(done.seen["public.t"].rows, 3000);
    let warnings = &done.structure.warnings;
    assert!(
        warnings.iter().any(|w| w.contains("public.u")),
        "{warnings:?}"
    );
    assert_eq!(
        server.dump("crm", &["-t", "t"]),
        server.dump("back", &["-t", "t"])
    );
    drop(standby);
}

#[test]
fn mariadb_that_lets_nobody_in_is_told_apart() {
    let server = mysql_server::shared();
    server.fresh("refusing", "CREATE TABLE t (id INT PRIMARY KEY)");
    server.fresh("refusing_full", "CREATE TABLE x (id INT PRIMARY KEY)");
    server.sql(
        "",
        "CREATE OR REPLACE USER rf_locked@localhost IDENTIFIED BY 'right';
         GRANT ALL ON *.* TO rf_locked@localhost;
         CREATE OR REPLACE USER rf_sealed@localhost REQUIRE SSL; GRANT ALL ON *.* TO rf_sealed@localhost;
         CREATE OR REPLACE USER rf_weak@localhost; GRANT SELECT ON refusing.t TO rf_weak@localhost",
    );
    let desk = Desk::with_repository();
    let url = |who: &str, rest: &str| format!("mysql://{who}@127.0.0.1:{}/{rest}", server.port());
    let wrong = [("MYSQL_PWD", "wr0ng-canary")];
    let refused = run_with(&desk, &wrong, &["backup", &url("rf_locked", "refusing")]);
    refused.refused(6, "rf_locked");
    assert!(!refused.err.contains("canary"), "{refused:?}");
    desk.run(&["backup", &url("rf_sealed", "refusing")])
        .refused(6, "rf_sealed");
    desk.run(&["backup", &url("rf_weak", "refusing?ssl-mode=required")])
        .refused(2, "TLS");
    let weak = desk.run(&["backup", &url("rf_weak", "refusing")]);
    weak.refused(6, "GRANT");
    for right in ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"] {
        assert!(weak.err.contains(right), "{right} is not in {weak:?}");
    }
    let right = [("MYSQL_PWD", "right")];
    run_with(
        &desk,
        &right,
        &["backup", &url("rf_locked", "no_such_database")],
    )
    .refused(1, "no_such_database");
    nothing_made(&desk);
    let source = url("rf_locked", "refusing");
    let made = run_with(&desk, &right, &["backup", &source, "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    let before = server.dump("refusing_full");
    let to = url("rf_locked", "refusing_full");
    run_with(&desk, &right, &["restore", "refusing@latest", "--to", &to]).refused(4, "not empty");
    assert_eq!(server.dump("refusing_full"), before);
}
