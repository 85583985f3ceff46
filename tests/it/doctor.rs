//! `doctor` on what a person gets wrong, and on real servers with the rights that the docs give.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::cli_desk::{Desk, Ran};
use crate::documents;
use crate::mysql_server;
use crate::postgres_server::Server;

/// The checks of a document, by name: whether each is well, what was found, what to do.
fn checks(ran: &Ran) -> Vec<(String, bool, String, String)> {
    let document: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let checks = document["checks"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let check = |one: &Value| {
        let ok = one["ok"].as_bool().unwrap();
        (
            text(&one["name"]),
            ok,
            text(&one["detail"]),
            text(&one["hint"]),
        )
    };
    checks.iter().map(check).collect()
}

/// That one check is there, and is as it should be; what was found.
#[track_caller]
fn well(ran: &Ran, name: &str) -> String {
    let found = checks(ran).into_iter().find(|check| check.0 == name);
    let (_, ok, detail, _) = found.unwrap_or_else(|| panic!("no check {name}: {ran:?}"));
    assert!(ok, "{name}: {detail}");
    detail
}

/// That one check is there, and says what is wrong and what to do in these words.
#[track_caller]
fn wrong(ran: &Ran, name: &str, detail: &str, hint: &str) {
    let found = checks(ran).into_iter().find(|check| check.0 == name);
    let (_, ok, found, does) = found.unwrap_or_else(|| panic!("no check {name}: {ran:?}"));
    assert!(!ok, "{name}: {found}");
    assert!(found.contains(detail), "{name}: {found}");
    assert!(does.contains(hint), "{name}: {does}");
}

/// That no line is wider than the screen, but for a path that cannot be broken.
#[track_caller]
pub fn fits(ran: &Ran) {
    for line in ran.out.lines() {
        let fits = line.chars().count() <= 80 || line.split_whitespace().count() == 1;
        assert!(fits, "{line:?}");
    }
}

#[test]
fn everything_that_the_configuration_names_is_looked_at() {
    let desk = Desk::with_repository();
    desk.write("webhook.secret", "hunter2-canary\n");
    desk.write("page", "#!/bin/sh\n");
    desk.write(
        "rowvault.toml",
        "[notify]\ncommand = [['./page']]\n\
         webhook = [{ url = 'http://127.0.0.1:9/', secret_file = 'webhook.secret' }]\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '@daily'\n\
         before = ['/no/such/program on']\nafter = ['true']\n",
    );
    let mode = |name: &str, mode: u32| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(desk.path(name), mode).unwrap();
    };
    mode("webhook.secret", 0o644);
    let state = desk.names(".local/state/rowvault");
    let state = format!(".local/state/rowvault/{}", state[0]);
    mode(&state, 0o755);
    let ran = desk.run(&["doctor", "--json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    wrong(&ran, "command before crm", "/no/such/program", "chmod +x");
    wrong(
        &ran,
        "command of [notify]",
        "./page is no program",
        "install it",
    );
    wrong(&ran, "messages", "can be read by others", "chmod 600");
    wrong(&ran, "state", "others may enter", "chmod 700");
    assert_eq!(well(&ran, "command after crm"), "true is there");
    assert_eq!(well(&ran, "key slots").matches(',').count(), 1);
    for name in [
        "storage",
        "several writers",
        "maintenance",
        "clock",
        "repository",
        "ledgers",
    ] {
        well(&ran, name);
    }
    well(&ran, "room of the state directory");
    well(&ran, "room of the scratch directory");
    well(&ran, "source crm");
    well(&ran, "schedule of backup crm");
    assert!(!ran.out.contains("canary"), "{ran:?}");

    let text = desk.run(&["doctor"]);
    assert_eq!(text.code, 2);
    fits(&text);
    assert_eq!(text.out.matches("\nWRONG ").count(), 4, "{text:?}");
    assert!(text.out.ends_with("4 things are wrong\n"), "{text:?}");

    for name in ["webhook.secret", "page", &state] {
        mode(name, 0o700);
    }
    let config = std::fs::read_to_string(desk.path("rowvault.toml")).unwrap();
    desk.write("rowvault.toml", &config.replace("/no/such/program", "true"));
    let healthy = desk.run(&["doctor"]);
    assert_eq!(healthy.code, 0, "{healthy:?}");
    assert!(healthy.out.ends_with("all is well\n"), "{healthy:?}");
}

#[test]
fn repository_with_one_way_in_is_told() {
    let desk = Desk::with_repository();
    let listed = desk.run(&["key", "list", "--json"]).json();
    let slots = listed["slots"].as_array().unwrap();
    let sheet = slots
        .iter()
        .find(|slot| slot["kind"] == "recovery")
        .unwrap();
    let slot = sheet["slot"].as_str().unwrap();
    assert_eq!(desk.run(&["key", "remove", slot, "-q"]).code, 0);
    let ran = desk.run(&["doctor", "--json"]);
    assert_eq!(ran.code, 2);
    wrong(
        &ran,
        "key slots",
        "key file is the only way in",
        "key recovery",
    );
}

/// A desk with the source `crm` at `url`, of which a drill is planned.
fn desk(url: &str) -> Desk {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        &format!("[[source]]\nname = 'crm'\nurl = '{url}'\ndrill = {{ schedule = '@weekly' }}\n"),
    );
    desk
}

#[test]
fn rights_of_the_docs_are_enough_on_postgres_and_less_is_named() {
    let Some(server) = Server::debian("") else {
        return;
    };
    server.create("crm");
    server.sql(
        "crm",
        "CREATE TABLE contacts (id int PRIMARY KEY); CREATE ROLE poor LOGIN;",
    );
    let ran = desk(&server.url_as("crm", "poor").display()).run(&["doctor", "--json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    wrong(&ran, "source crm", "contacts", "pg_read_all_data");

    server.sql(
        "crm",
        &documents::block("docs/operations.md", "sql", "postgres"),
    );
    let desk = desk(&server.url_as("crm", "backup").display());
    let ran = desk.run(&["doctor", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(well(&ran, "source crm").contains("tables: 1, each may be read"));
    for program in ["pg_dump", "pg_restore", "postgres"] {
        let found = well(&ran, &format!("{program} for crm"));
        assert!(found.starts_with("15."), "{found}");
        assert!(found.contains("/usr/lib/postgresql/"), "{found}");
    }
    assert_eq!(desk.run(&["backup", "crm", "-q"]).code, 0);
}

#[test]
fn rights_of_the_docs_are_enough_on_mariadb_and_less_is_named() {
    let server = mysql_server::Server::start(&[]);
    server.fresh(
        "crm",
        "CREATE TABLE contacts (id INT PRIMARY KEY); CREATE PROCEDURE p () SELECT 1",
    );
    server.sql(
        "",
        "CREATE USER poor@localhost; GRANT SELECT ON crm.* TO poor@localhost",
    );
    let ran = desk(&server.url_as("poor", "crm").display()).run(&["doctor", "--json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    wrong(&ran, "source crm", "SHOW VIEW", "GRANT");

    server.sql("", &documents::block("docs/operations.md", "sql", "mysql"));
    let desk = desk(&server.url_as("backup", "crm").display());
    let run = |arguments: &[&str]| {
        let mut command = desk.command(arguments);
        command.env("MYSQL_PWD", "change-me");
        crate::cli_desk::ran(command)
    };
    let ran = run(&["doctor", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found = well(&ran, "source crm");
    assert!(
        found.contains("MariaDB") && !found.contains("RELOAD"),
        "{found}"
    );
    well(&ran, "mariadbd for crm");
    assert_eq!(run(&["backup", "crm", "-q"]).code, 0);
}
