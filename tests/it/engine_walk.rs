//! Servers through the whole house, by the real binary: a CRM without foreign keys whose next
//! snapshot is a delta run, what a backup holds while it runs, and a target whose disk is full.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use crate::cli_desk::Desk;
use crate::mysql_server;
use crate::postgres_server::Server;
use crate::small_disk::SmallDisk;

/// Tables as SuiteCRM has them: ids of 36 characters in a collation that knows no case, no foreign
/// keys, `deleted` flags, a join table; some ids are words.
const SUITE: &str = "
 CREATE FUNCTION an_id(seed VARCHAR(40)) RETURNS CHAR(36) DETERMINISTIC RETURN
  INSERT(INSERT(INSERT(INSERT(MD5(seed), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-');
 CREATE TABLE users (id CHAR(36) NOT NULL PRIMARY KEY, user_name VARCHAR(60), deleted TINYINT(1) DEFAULT 0);
 INSERT INTO users VALUES ('1', 'admin', 0), ('seed_jim_id', 'jim', 0), ('seed_max_id', 'max', 0), ('SEED_WILL_ID', 'will', 1);
 CREATE TABLE accounts (id CHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(150), date_modified DATETIME,
  assigned_user_id CHAR(36), description TEXT, deleted TINYINT(1) DEFAULT 0, KEY idx_accnt_id_del (id, deleted));
 INSERT INTO accounts SELECT an_id(CONCAT('a', seq)), CONCAT('Account ', seq), '2026-01-01', 'seed_jim_id',
  REPEAT(MD5(seq), 4), 0 FROM seq_1_to_6000;
 CREATE TABLE contacts LIKE accounts;
 INSERT INTO contacts SELECT an_id(CONCAT('c', seq)), CONCAT('Contact ', seq), '2026-01-01', 'seed_max_id',
  REPEAT(MD5(seq + 7), 4), 0 FROM seq_1_to_12000;
 CREATE TABLE accounts_contacts (id VARCHAR(36) NOT NULL PRIMARY KEY, contact_id VARCHAR(36), account_id VARCHAR(36),
  date_modified DATETIME, deleted TINYINT(1) DEFAULT 0, KEY idx_account_contact (account_id, contact_id));
 INSERT INTO accounts_contacts SELECT an_id(CONCAT('j', seq)), an_id(CONCAT('c', seq)), an_id(CONCAT('a', seq MOD 6000)),
  '2026-01-01', 0 FROM seq_1_to_12000;";

const SUITE_DAY: &str = "
 UPDATE accounts SET deleted = 1, date_modified = '2026-01-02' WHERE CRC32(id) % 200 = 0;
 UPDATE contacts SET description = 'called', date_modified = '2026-01-02' WHERE CRC32(id) % 125 = 0;
 UPDATE accounts_contacts SET deleted = 1 WHERE CRC32(id) % 200 = 0;
 INSERT INTO contacts SELECT an_id(CONCAT('n', seq)), 'New', '2026-01-02', '1', 'x', 0 FROM seq_1_to_40;
 DELETE FROM accounts_contacts WHERE CRC32(id) % 300 = 1;";

#[test]
fn crm_without_foreign_keys_gives_a_delta_run_and_comes_back() {
    let server = mysql_server::shared();
    server.sql(
        "",
        "DROP DATABASE IF EXISTS suite;
         CREATE DATABASE suite CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci",
    );
    server.sql("suite", SUITE);
    let desk = Desk::with_repository();
    let url = |database: &str| format!("mysql://root@127.0.0.1:{}/{database}", server.port());
    let backup = || {
        let ran = desk.run(&["backup", &url("suite"), "--json"]);
        assert!(!ran.err.contains("without its key"), "{ran:?}");
        ran.json()["snapshots"][0].clone()
    };
    let first = backup();
    assert_eq!(
        (&first["mode"], &first["rows"]),
        (&"full".into(), &30_004.into())
    );
    server.sql("suite", SUITE_DAY);
    let second = backup();
    assert_eq!(second["mode"], "rows", "{second}");
    let count = |field: &str| second[field].as_u64().unwrap();
    let changed = count("rows_put") + count("rows_deleted");
    assert!((200..=400).contains(&changed), "{second}");
    let whole = first["bytes_stored"].as_u64().unwrap();
    assert!(count("bytes_stored") * 20 < whole, "{second} after {first}");
    let shown = desk.run(&["show", "suite@latest", "--json"]).json();
    for (table, runs) in [
        ("accounts", 2),
        ("contacts", 2),
        ("accounts_contacts", 2),
        ("users", 1),
    ] {
        let tables = shown["tables"].as_array().unwrap();
        let found = tables.iter().find(|found| found["name"] == table).unwrap();
        assert_eq!(found["runs"], runs, "{found}");
    }
    server.sql("", "DROP DATABASE IF EXISTS suite_back");
    let back = desk.run(&["restore", "suite@latest", "--to", &url("suite_back"), "-q"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(server.rows("suite_back"), server.rows("suite"));
    assert_eq!(server.dump("suite_back"), server.dump("suite"));
    println!(
        "{changed} rows changed: {} bytes after {whole}",
        second["bytes_stored"]
    );
}

#[test]
fn postgres_backup_holds_weak_locks_and_few_connections_from_start_to_end() {
    let access = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n";
    let Some((server, port)) = Server::over_tcp(access) else {
        return;
    };
    server.create("held");
    server.sql(
        "held",
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id uuid PRIMARY KEY, v text);
         INSERT INTO t SELECT i, repeat(md5(i::text), 12) FROM generate_series(1, 40000) i;
         INSERT INTO u SELECT md5(i::text)::uuid, repeat('x', 300) FROM generate_series(1, 40000) i;
         CREATE TABLE b (v text); INSERT INTO b SELECT repeat('y', 2000000) FROM generate_series(1, 3);
         CREATE SEQUENCE s; CREATE VIEW w AS SELECT * FROM t; SELECT lo_create(0);",
    );
    let desk = Desk::with_repository();
    let url = format!("postgres://postgres@127.0.0.1:{port}/held");
    let mut command = desk.command(&["backup", &url, "-q"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let locks = "SELECT coalesce(string_agg(DISTINCT l.mode, ','), '') FROM pg_locks l \
        JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid \
        WHERE l.pid <> pg_backend_pid() AND c.oid >= 16384 \
        AND a.backend_type = 'client backend'"; // The server analyses new tables by itself.
    let sessions = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'held' \
        AND application_name <> 'psql' AND backend_type = 'client backend'"; // psql is this test's.
    let (mut modes, mut most, mut looked) = (BTreeSet::new(), 0, 0);
    let status = loop {
        let found = server.ask("held", &format!("{locks} UNION ALL {sessions}"));
        if let Some((found, open)) = found.split_once('\n') {
            modes.extend(found.split(',').map(str::to_owned));
            most = most.max(open.parse::<u32>().unwrap());
        }
        looked += 1;
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    modes.remove("");
    println!("{looked} looks: at most {most} connections; {modes:?}");
    assert_eq!(modes, BTreeSet::from(["AccessShareLock".to_owned()]));
    assert!((2..=4).contains(&most), "{most} connections");
}

#[test]
fn mariadb_target_whose_disk_is_full_stays_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("disk");
    let Some(disk) = SmallDisk::mount(&at, 320) else {
        return;
    };
    let source = mysql_server::shared();
    source.fresh(
        "too_much",
        "CREATE TABLE t (id INT PRIMARY KEY, v LONGTEXT);
         INSERT INTO t SELECT seq, REPEAT(MD5(seq), 400) FROM seq_1_to_3000;",
    );
    let target = mysql_server::Server::start_in(&at, &["--innodb-log-file-size=8M"]);
    target.fresh(
        "kept",
        "CREATE TABLE mine (id INT PRIMARY KEY); INSERT INTO mine VALUES (1)",
    );
    target.fresh("empty_one", "");
    disk.fill_up(12 << 20);
    let before = (
        target.databases(),
        target.dump("kept"),
        target.dump("empty_one"),
    );
    let desk = Desk::with_repository();
    let url = |port: u16, database: &str| format!("mysql://root@127.0.0.1:{port}/{database}");
    let made = desk.run(&["backup", &url(source.port(), "too_much"), "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    for database in ["new_one", "empty_one"] {
        let to = url(target.port(), database);
        desk.run(&["restore", "too_much@latest", "--to", &to])
            .refused(1, "make room on the server's disk");
        let after = (
            target.databases(),
            target.dump("kept"),
            target.dump("empty_one"),
        );
        assert_eq!(after, before);
    }
    disk.clear();
    let done = desk.run(&[
        "restore",
        "too_much@latest",
        "--to",
        &url(target.port(), "new_one"),
        "-q",
    ]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(target.rows("new_one"), source.rows("too_much"));
}

/// Most memory that a whole backup or restore of a server may take, whatever its cells.
const PEAK_KIB_MAX: u64 = 192 << 10;

/// Runs a verb to its end and gives the most memory that it had.
fn peak_kib(desk: &Desk, arguments: &[&str]) -> u64 {
    let mut command = desk.command(arguments);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        peak = peak.max(kib.map_or(0, |kib| kib.parse().unwrap()));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{arguments:?}");
            return peak;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Backs up `from` and restores into `to`, each in bounded memory.
fn walk_in_little_memory(from: &str, to: &str) {
    let desk = Desk::with_repository();
    let backup = peak_kib(&desk, &["backup", from, "--name", "huge", "-q"]);
    let restore = peak_kib(&desk, &["restore", "huge@latest", "--to", to, "-q"]);
    println!("peak memory: backup {backup} KiB, restore {restore} KiB");
    assert!(backup <= PEAK_KIB_MAX, "backup: {backup} KiB");
    assert!(restore <= PEAK_KIB_MAX, "restore: {restore} KiB");
}

#[test]
#[ignore = "moves 600 MiB; tests/long.sh runs it"]
fn long_bytea_of_200_mib_takes_little_memory_through_the_whole_house() {
    let access = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n";
    let Some((server, port)) = Server::over_tcp(access) else {
        return;
    };
    server.create("huge");
    server.sql(
        "huge",
        "CREATE TABLE t (id int PRIMARY KEY, b bytea); ALTER TABLE t ALTER b SET STORAGE EXTERNAL;
         INSERT INTO t SELECT 1, string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 13107200) i;",
    );
    let url = |database: &str| format!("postgres://postgres@127.0.0.1:{port}/{database}");
    walk_in_little_memory(&url("huge"), &url("huge_back"));
    let check = "SELECT length(b) || md5(b) FROM t";
    assert_eq!(server.ask("huge", check), server.ask("huge_back", check));
}

#[test]
#[ignore = "moves 300 MiB; tests/long.sh runs it"]
fn long_cells_of_100_mib_take_little_memory_through_the_whole_house() {
    let server =
        mysql_server::Server::start(&["--max-allowed-packet=256M", "--innodb-log-file-size=1G"]);
    server.fresh(
        "huge",
        "CREATE TABLE t (id INT PRIMARY KEY, b LONGBLOB);
         INSERT INTO t VALUES (1, REPEAT(RANDOM_BYTES(1024), 102400))",
    );
    let url = |database: &str| format!("mysql://root@127.0.0.1:{}/{database}", server.port());
    walk_in_little_memory(&url("huge"), &url("huge_back"));
    let check = "SELECT LENGTH(b), SHA1(b) FROM t";
    assert_eq!(server.sql("huge", check), server.sql("huge_back", check));
}
