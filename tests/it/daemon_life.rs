//! The real daemon at work on real servers, beside another daemon, and for long.
//!
//! SQLite and PostgreSQL, with the repository on an S3 server; a kill in the middle; the metrics as
//! Prometheus reads them. What is waited for has to come in the end; nothing is timed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::cli_desk::Desk;
use crate::daemon::Daemon;
use crate::moto::Moto;
use crate::postgres_server::Server;

const SHOP: &str = "CREATE TABLE orders(id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT n, 'order ' || n FROM generate_series(1, 500) n;";

/// How often a run of `job` ended with `word`.
fn count(daemon: &Daemon<'_>, job: &str, word: &str) -> usize {
    let (begin, told) = (format!("{job} of "), daemon.told());
    let lines = told.lines().filter(|line| line.contains(&begin));
    lines.filter(|line| line.contains(word)).count()
}

/// Each job of the scene, and what its line says when all is well.
const DONE: [(&str, &str); 8] = [
    ("backup crm", ": snapshot "),
    ("backup shop", ": snapshot "),
    ("forget crm", "forgot "),
    ("forget shop", "forgot "),
    ("prune", "freed "),
    ("verify", "are whole"),
    ("drill crm", "came back as expected"),
    ("drill shop", "came back as expected"),
];

fn all_done(daemon: &Daemon<'_>) -> bool {
    DONE.iter().all(|(job, word)| count(daemon, job, word) > 0)
}

/// The metrics, as the daemon answers them.
fn metrics(daemon: &Daemon<'_>) -> String {
    let told = daemon.told();
    let address = told.split("listening at http://").nth(1).unwrap();
    let mut stream = TcpStream::connect(address.lines().next().unwrap()).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Lets promtool read the metrics, where there is one.
fn read_by_promtool(text: &str) {
    let begun = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = begun else {
        eprintln!("skipped: there is no promtool");
        return;
    };
    // It reads the older text form, which has no end mark and no units.
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    println!("promtool: {} {said}", ended.status);
    assert!(!said.contains("error"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_does_everything_for_two_engines_on_s3_through_a_kill() {
    let (Some(moto), Some(server)) = (Moto::start(), Server::shared()) else {
        return;
    };
    moto.make_bucket("acme").await;
    server.create("shop_of_daemon");
    server.sql("shop_of_daemon", SHOP);
    let mut desk = Desk::bare();
    let endpoint = moto.options().endpoint.unwrap();
    for (name, value) in [
        ("ROWVAULT_REPO", "s3://acme/crm"),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test-secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ] {
        desk.set(name, value);
    }
    let made = desk.run(&["init", "--recovery-out", "sheet.txt", "-q"]);
    assert_eq!(made.code, 0, "{made:?}");
    let shop = server.url("shop_of_daemon");
    desk.write(
        "rowvault.toml",
        &format!(
            "[http]\nlisten = '127.0.0.1:0'\n\
             [daemon]\nprune = {{ schedule = '*/9 * * * * *' }}\n\
             verify = {{ schedule = '*/8 * * * * *', data = '10%' }}\n\
             [[source]]\nname = 'crm'\nurl = 'sqlite:crm.db'\nschedule = '*/5 * * * * *'\n\
             keep = {{ last = 2 }}\ndrill = {{ schedule = '*/10 * * * * *' }}\n\
             [[source]]\nname = 'shop'\nurl = '{shop}'\nschedule = '*/5 * * * * *'\n\
             keep = {{ last = 2 }}\ndrill = {{ schedule = '*/15 * * * * *' }}\n"
        ),
    );
    let mut first = Daemon::start(&desk, "first");
    first.until_it("all of it was done", all_done);
    let before = count(&first, "backup shop", "begins");
    first.until_it("another backup", |daemon| {
        count(daemon, "backup shop", "begins") > before
    });
    first.kill();
    let second = Daemon::start(&desk, "second");
    second.until_it("all of it was done again", all_done);
    let text = metrics(&second);
    for name in [
        "rowvault_snapshot_timestamp_seconds{source=\"shop\"}",
        "rowvault_verification_timestamp_seconds",
        "rowvault_drill_timestamp_seconds{source=\"crm\"}",
        "rowvault_repository_bytes{} ",
        "rowvault_repository_locked_bytes{} ",
        "rowvault_source_stored_bytes{source=\"shop\"}",
        "rowvault_ledger_head{source=\"crm\"}",
        "rowvault_job_next_timestamp_seconds{source=\"shop\",task=\"drill\"}",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    read_by_promtool(&text);
    assert_eq!(second.end(), Some(0));
    let verified = desk.run(&["verify", "--data", "all", "-q"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(desk.run(&["ledger", "--verify", "-q"]).code, 0);
}

#[test]
fn two_daemons_on_one_repository_are_both_safe() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[daemon]\nprune = { schedule = '*/4 * * * * *' }\nretry = '1s'\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '*/2 * * * * *'\nkeep = { last = 2 }\n",
    );
    let one = Daemon::start_with(&desk, "one", &["--state-dir", "state-one"]);
    let other = Daemon::start_with(&desk, "other", &["--state-dir", "state-other"]);
    for daemon in [&one, &other] {
        daemon.until_it("both back up and prune", |daemon| {
            count(daemon, "backup crm", ": snapshot ") > 3 && count(daemon, "prune", "freed ") > 1
        });
    }
    let told = [one.told(), other.told()];
    assert_eq!((one.end(), other.end()), (Some(0), Some(0)));
    for told in told {
        assert!(
            !told.contains("damaged") && !told.contains("fork"),
            "{told}"
        );
    }
    assert_eq!(desk.names("repo/intents"), Vec::<String>::new());
    let verified = desk.run(&["verify", "--data", "all", "-q"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let restored = desk.run(&["restore", "crm@latest", "--to", "sqlite:back.db", "-q"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    crate::sqlite_copy::compare(&desk.path("crm.db"), &desk.path("back.db"));
}

/// Memory that the daemon holds now, all of it and what is no file's, in KiB.
fn memory(daemon: &Daemon<'_>) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    (of("VmRSS"), of("RssAnon"))
}

#[test]
#[ignore = "ten minutes: tests/long.sh daemon"]
fn long_daemon_holds_no_more_memory_after_500_backups() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[daemon]\nprune = { schedule = '*/20 * * * * *' }\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '* * * * * *'\nkeep = { last = 5 }\n",
    );
    let daemon = Daemon::start(&desk, "log");
    let mut seen = Vec::new();
    for backups in [100, 200, 300, 400, 500] {
        let mut turns = 0;
        while count(&daemon, "backup crm", ": snapshot ") < backups {
            std::thread::sleep(std::time::Duration::from_millis(500));
            turns += 1;
            assert!(turns < 3600, "{}", daemon.told());
        }
        // Of several looks the least: what a job holds while it runs is not what stays.
        let looks = (0..20).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            memory(&daemon)
        });
        let (all, anonymous) = looks.min().unwrap();
        println!("{backups} backups: {all} KiB, {anonymous} KiB of them no file's");
        seen.push(all as f64);
    }
    for later in &seen[1..] {
        assert!((0.95..=1.05).contains(&(later / seen[0])), "{seen:?}");
    }
    let forgot = daemon.told().matches("snapshots, forgot 1").count();
    assert!(forgot > 400, "snapshots pile up: {forgot}");
    assert_eq!(daemon.end(), Some(0));
}
