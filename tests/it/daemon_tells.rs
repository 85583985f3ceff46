//! What the daemon tells people and machines, and what an unusual change stops.

use std::io::{Read, Write};
use std::net::TcpStream;

use rusqlite::Connection;

use crate::cli_desk::Desk;
use crate::daemon::Daemon;

const TELL: &str = "echo \"$ROWVAULT_SUBJECT\" >> subjects\necho \"$ROWVAULT_TEXT\" >> texts\n";

fn text(desk: &Desk, name: &str) -> String {
    std::fs::read_to_string(desk.path(name)).unwrap_or_default()
}

fn count(desk: &Desk) -> i64 {
    let db = Connection::open(desk.path("crm.db")).unwrap();
    let count = db.query_row("SELECT count(*) FROM contacts", [], |row| row.get(0));
    count.unwrap()
}

fn lose_contacts(desk: &Desk) {
    let db = Connection::open(desk.path("crm.db")).unwrap();
    db.execute_batch(
        "PRAGMA foreign_keys = OFF; DELETE FROM contacts WHERE id IN \
             (SELECT id FROM contacts ORDER BY id LIMIT (SELECT count(*) / 2 FROM contacts));",
    )
    .unwrap();
}

#[test]
fn mass_deletion_freezes_pins_and_names_the_command_that_brings_the_rows_back() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[[source]]\nname = 'crm'\nurl = 'sqlite:crm.db'\nkeep = { last = 1 }\nalarm_rows = 5\n",
    );
    assert_eq!(desk.run(&["backup", "crm", "-q"]).code, 0);
    let before = count(&desk);
    lose_contacts(&desk);
    assert!(
        before - count(&desk) > 10,
        "the sample has too few contacts"
    );
    let taken = desk.run(&["backup", "crm"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    assert!(taken.err.contains("unusual change of crm"), "{taken:?}");
    let command = taken
        .err
        .lines()
        .find_map(|line| line.split("rowvault undelete ").nth(1));
    let command = command.unwrap_or_else(|| panic!("no command: {taken:?}"));
    desk.run(&["forget", "crm"]).refused(4, "is frozen");
    desk.run(&["prune"]).refused(4, "is frozen");
    let listed = desk.run(&["ledger", "crm", "--json"]).json().to_string();
    assert!(
        listed.contains("pinned") && listed.contains("frozen"),
        "{listed}"
    );
    let mut words = vec!["undelete"];
    words.extend(command.split_whitespace());
    words.push("--apply");
    let undone = desk.run(&words);
    assert_eq!(undone.code, 0, "{undone:?}");
    assert_eq!(count(&desk), before);
    assert_eq!(
        desk.run(&["thaw", "crm", "--reason", "looked", "-q"]).code,
        0
    );
    desk.run(&["thaw", "crm"]).refused(4, "is not frozen");
    assert_eq!(desk.run(&["forget", "crm", "-q"]).code, 0);
    assert_eq!(desk.run(&["prune", "-q"]).code, 0);
}

#[test]
fn repository_that_cannot_be_read_is_one_message_and_its_return_another() {
    let desk = Desk::with_repository();
    desk.write("tell.sh", TELL);
    desk.write(
        "rowvault.toml",
        "[daemon]\nretry = '1s'\n[notify]\ncommand = [['/bin/sh', 'tell.sh']]\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '* * * * * *'\n",
    );
    let daemon = Daemon::start(&desk, "log");
    daemon.until(&[": snapshot "]);
    std::fs::rename(desk.path("repo/repository"), desk.path("away")).unwrap();
    let failed = |daemon: &Daemon| daemon.told().matches("backup crm of").count();
    let at = failed(&daemon);
    daemon.until_it("it failed many times", |daemon| failed(daemon) > at + 12);
    std::fs::rename(desk.path("away"), desk.path("repo/repository")).unwrap();
    daemon.until_it("it told that all is well", |_| {
        text(&desk, "subjects").contains("recovered")
    });
    assert_eq!(daemon.end(), Some(0));
    let subjects = text(&desk, "subjects");
    let told: Vec<&str> = subjects
        .lines()
        .filter(|line| line.contains("backup crm"))
        .collect();
    assert_eq!(told.len(), 2, "{subjects}");
    assert!(told[0].ends_with("backup crm DAMAGED") && told[1].ends_with("backup crm recovered"));
}

#[test]
fn messages_name_the_server_that_failed_and_never_its_password() {
    const SECRET: &str = "only-the-server-may-know";
    let desk = Desk::with_repository();
    desk.write("tell.sh", TELL);
    let source = |engine: &str| {
        format!(
            "[[source]]\nname = '{engine}'\nurl = '{engine}://keeper:{SECRET}@127.0.0.1:1/crm'\n\
             schedule = '* * * * * *'\n"
        )
    };
    let config = "[daemon]\nretry = '1s'\n[notify]\ncommand = [['/bin/sh', 'tell.sh']]\n";
    let sources = ["postgres", "mysql"].map(source).concat();
    desk.write("rowvault.toml", &format!("{config}{sources}"));
    let daemon = Daemon::start(&desk, "log");
    for engine in ["postgres", "mysql"] {
        daemon.until_it("it told of the failure", |_| {
            text(&desk, "subjects").contains(&format!("backup {engine}"))
                && text(&desk, "texts").contains("127.0.0.1")
        });
    }
    assert_eq!(daemon.end(), Some(0));
    for name in ["subjects", "texts", "log"] {
        let said = text(&desk, name);
        assert!(!said.is_empty() && !said.contains(SECRET), "{name}: {said}");
    }
}

fn get(address: &str, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_and_metrics_are_answered_to_this_host_by_its_own_name() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[http]\nlisten = '127.0.0.1:0'\n[[source]]\nurl = 'sqlite:crm.db'\n\
         schedule = '*/2 * * * * *'\n",
    );
    let daemon = Daemon::start(&desk, "log");
    daemon.until(&["listening at http://", ": snapshot "]);
    let told = daemon.told();
    let address = told.split("listening at http://").nth(1).unwrap();
    let address = address.lines().next().unwrap();
    for path in ["/healthz", "/readyz"] {
        assert!(
            get(address, path, "localhost").starts_with("HTTP/1.1 200"),
            "{path}"
        );
    }
    let metrics = get(address, "/metrics", address);
    for name in [
        "rowvault_snapshot_timestamp_seconds{source=\"crm\"}",
        "rowvault_snapshot_rows{source=\"crm\"}",
        "rowvault_job_next_timestamp_seconds{source=\"crm\",task=\"backup\"}",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    assert!(get(address, "/metrics", "evil.example").starts_with("HTTP/1.1 421"));
    assert!(get(address, "/api/v1/sources", "localhost").starts_with("HTTP/1.1 404"));
    assert_eq!(daemon.end(), Some(0));
}

/// A CRM of 20,000 contacts.
const MANY: &str = "CREATE TABLE contacts(id INTEGER PRIMARY KEY, name TEXT, mail TEXT);
    WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    INSERT INTO contacts SELECT i, 'name ' || i, i || '@example.org' FROM n;";

#[test]
fn import_of_a_tenth_is_quiet_and_5000_deleted_contacts_are_told_with_the_command() {
    let desk = Desk::with_repository();
    let sql = |script: &str| {
        let db = Connection::open(desk.path("crm.db")).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
        db.execute_batch(script).unwrap();
    };
    std::fs::remove_file(desk.path("crm.db")).unwrap();
    sql(MANY);
    desk.write("tell.sh", TELL);
    desk.write(
        "rowvault.toml",
        "[notify]\ncommand = [['/bin/sh', 'tell.sh']]\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '*/2 * * * * *'\nkeep = { last = 3 }\n",
    );
    let daemon = Daemon::start(&desk, "log");
    let taken = |daemon: &Daemon| daemon.told().matches(": snapshot ").count();
    let more = |count: usize| {
        let at = taken(&daemon);
        daemon.until_it("snapshots are taken", |daemon| taken(daemon) >= at + count);
    };
    more(2);
    sql(
        "WITH RECURSIVE n(i) AS (VALUES(20001) UNION ALL SELECT i + 1 FROM n WHERE i < 22000)
        INSERT INTO contacts SELECT i, 'new ' || i, i || '@example.org' FROM n;",
    );
    more(2);
    assert!(!text(&desk, "subjects").contains("UNUSUAL"));
    assert!(daemon.told().contains(" 2000 put"), "{}", daemon.told());
    sql("DELETE FROM contacts WHERE id % 4 = 0 AND id <= 20000;");
    daemon.until_it("it is told", |_| {
        text(&desk, "texts").contains("rowvault thaw crm")
    });
    more(2);
    assert_eq!(daemon.end(), Some(0));
    let subjects = text(&desk, "subjects");
    assert_eq!(
        subjects.matches("backup crm UNUSUAL CHANGE").count(),
        1,
        "{subjects}"
    );
    let texts = text(&desk, "texts");
    assert!(
        texts.contains("5000 of 22000 rows of contacts were deleted"),
        "{texts}"
    );
    let command = texts
        .lines()
        .find_map(|line| line.trim().strip_prefix("rowvault undelete "));
    let listed = desk.run(&["ledger", "crm", "--json"]).json().to_string();
    assert!(
        listed.contains("pinned") && listed.contains("frozen"),
        "{listed}"
    );
    desk.run(&["forget", "crm"]).refused(4, "is frozen");
    let mut words = vec!["undelete"];
    words.extend(command.unwrap().split_whitespace());
    words.extend(["--apply", "-q"]);
    let undone = desk.run(&words);
    assert_eq!((undone.code, count(&desk)), (0, 22_000), "{undone:?}");
}
