//! The configurations that come with the program: each loads; secrets that commands print are used.

use std::path::{Path, PathBuf};

use rowvault::config::{self, Config};
use rowvault::daemon::plan;

use crate::cli_desk::{self, Desk, Ran};
use crate::postgres_server::Server;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn load(text: &str) -> Config {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let variable = |name: &str| match name {
        "HEARTBEAT_URL" => Some("https://hc.example/token".to_owned()),
        "CREDENTIALS_DIRECTORY" => Some("/run/credentials/rowvault".to_owned()),
        _ => None,
    };
    config::load(file.path(), &variable).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn configurations_that_come_with_the_program_load_and_plan_jobs() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let config = load(&std::fs::read_to_string(&path).unwrap());
        if name != "rowvault" {
            assert!(config.repository.url.is_some(), "{name}");
            let jobs = plan::jobs(&config);
            let planned = jobs.iter().filter(|job| job.schedule().is_some());
            assert!(planned.count() >= config.sources.len(), "{name}");
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        [
            "postgres-s3",
            "rowvault",
            "several",
            "sqlite-local",
            "suitecrm",
            "write-only"
        ]
    );
}

/// A desk whose configuration says by `line` what opens the repository.
fn desk(line: &str) -> Desk {
    let desk = Desk::with_repository();
    let text = format!("[repository]\n{line}\n[[source]]\nurl = \"sqlite:crm.db\"\n");
    desk.write("rowvault.toml", &text);
    desk
}

/// Runs a command that finds its key in the configuration alone.
fn run(desk: &Desk, arguments: &[&str]) -> Ran {
    let mut command = desk.command(arguments);
    command.env_remove("ROWVAULT_KEY_FILE");
    cli_desk::ran(command)
}

#[test]
fn key_that_a_command_prints_opens_the_repository() {
    let desk = desk("key_command = [\"cat owner.key\"]");
    let ran = run(&desk, &["backup", "crm", "--json"]);
    assert_eq!(ran.json()["snapshots"][0]["source"], "crm", "{ran:?}");
    // It cannot take the key that init would make.
    let mut command = desk.command(&["init", "--repo", "other"]);
    command.env_remove("ROWVAULT_KEY_FILE");
    cli_desk::ran(command).refused(2, "a command cannot take it");
}

#[test]
fn passphrase_that_a_command_prints_opens_the_repository_and_is_not_shown() {
    let desk = desk("passphrase_command = [\"sh\", \"-c\", \"cat secret\"]");
    desk.write("secret", "correct horse battery\n");
    let added = desk.run(&["key", "add", "--passphrase-file", "secret", "-q"]);
    assert_eq!(added.code, 0, "{added:?}");
    let ran = run(&desk, &["snapshots"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    std::fs::remove_file(desk.path("secret")).unwrap();
    run(&desk, &["snapshots"]).refused(1, "the command for the passphrase, sh, ended with");
}

#[test]
fn programs_of_postgresql_are_looked_for_where_the_configuration_says_and_nowhere_else() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1);",
    );
    let desk = Desk::with_repository();
    desk.write("rowvault.toml", "[tools]\npg_bin_dir = \"programs\"\n");
    let from = server.url("crm").display();
    let to = server.url("back").display();
    desk.run(&["backup", &from])
        .refused(1, "pg_dump: not found");
    std::os::unix::fs::symlink(server.bin(), desk.path("programs")).unwrap();
    let taken = desk.run(&["backup", &from, "-q"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    std::fs::remove_file(desk.path("programs")).unwrap();
    let restore = ["restore", "latest", "--to", &to];
    desk.run(&restore).refused(1, "pg_restore: not found");
    std::os::unix::fs::symlink(server.bin(), desk.path("programs")).unwrap();
    let back = desk.run(&restore);
    assert_eq!(back.code, 0, "{back:?}");
    assert_eq!(server.ask("back", "SELECT sum(a) FROM t"), "1");
}
