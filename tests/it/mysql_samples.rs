//! Known sample databases on MariaDB, where they lie beside the checkout: equal by fingerprint.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mysql_server::{Server, copy, shared};

/// Where known sample databases lie, for this engine and others.
pub fn samples() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["../shared/samples", "../../shared/samples"];
    found
        .iter()
        .map(|path| root.join(path))
        .find(|path| path.is_dir())
}

fn run(server: &Server, script: &Path, database: &str) -> String {
    let output = Command::new(script)
        .env("MYSQL_SOCKET", server.socket())
        .env("MYSQL_DATABASE", database)
        .envs([("FORCE", "1"), ("FP_DB", "1"), ("FP_STRICT", "1")])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn round_trip(name: &str) {
    let Some(samples) = samples() else {
        println!("skipped: no sample databases beside the checkout");
        return;
    };
    let server = shared();
    let (from, to) = (format!("{name}_from"), format!("{name}_to"));
    let case = samples.join(name);
    run(&server, &case.join("load.sh"), &from);
    server.sql("", &format!("DROP DATABASE IF EXISTS `{to}`"));
    let copied = copy(&server.url(&from), &server.url(&to)).await.unwrap();
    let print = |database: &str| run(&server, &case.join("fingerprint.sh"), database);
    let (before, after) = (print(&from), print(&to));
    let lines = before.lines().zip(after.lines());
    for (before, after) in lines {
        assert_eq!(after, before);
    }
    assert_eq!(after, before);
    println!(
        "{name}: {} rows, {} lines of fingerprint",
        copied.rows,
        before.lines().count()
    );
}

#[tokio::test]
async fn sakila_comes_back_with_its_fingerprint() {
    round_trip("sakila-mysql").await;
}

#[tokio::test]
async fn chinook_comes_back_with_its_fingerprint() {
    round_trip("chinook-mysql").await;
}

/// Our own cases by the strict fingerprint: FLOAT by its bits, ENUM by index, history.
#[tokio::test]
async fn all_cases_come_back_with_their_fingerprint() {
    let Some(samples) = samples() else {
        println!("skipped: no sample databases beside the checkout");
        return;
    };
    let server = shared();
    server.fresh("print_from", include_str!("mysql_cases.sql"));
    server.sql("", "DROP DATABASE IF EXISTS print_to");
    copy(&server.url("print_from"), &server.url("print_to"))
        .await
        .unwrap();
    let script = samples.join("sakila-mysql/fingerprint.sh");
    let (before, after) = (
        run(&server, &script, "print_from"),
        run(&server, &script, "print_to"),
    );
    for (before, after) in before.lines().zip(after.lines()) {
        assert_eq!(after, before);
    }
}
