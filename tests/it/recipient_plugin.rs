//! A root wrapped and opened through a plugin of age.
//!
//! The plugin is a script that keeps the file key as it is: enough to see that the door speaks
//! the plugin protocol without a person. A plugin is found by PATH, so the test runs itself once
//! more as a child whose PATH leads to the script.

#![cfg(feature = "age")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rowvault::crypto::key::RootSecret;
use rowvault::id::RepositoryId;
use rowvault::recipient::{unwrap, wrap};

const RECIPIENT: &str = "age1rowvaulttest1qypqx0g9s6z";
const IDENTITY: &str = "AGE-PLUGIN-ROWVAULTTEST-1QYPQXHWMNNR";

const PLUGIN: &str = r#"#!/bin/sh
body=
while read -r line; do
  case "$line" in
    "-> wrap-file-key" | "-> recipient-stanza 0 rowvaulttest") read -r body ;;
    "-> done") read -r line; break ;;
  esac
done
case "$1" in
  --age-plugin=recipient-v1) printf -- '-> recipient-stanza 0 rowvaulttest\n%s\n' "$body" ;;
  --age-plugin=identity-v1) printf -- '-> file-key 0\n%s\n' "$body" ;;
esac
read -r line; read -r line
printf -- '-> done\n\n'
"#;

#[test]
fn plugin_of_age_wraps_and_opens_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("age-plugin-rowvaulttest");
    fs::write(&program, PLUGIN).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "recipient_plugin::through_the_plugin",
            "--ignored",
        ])
        .env("PATH", format!("{}:{path}", directory.path().display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
#[ignore = "the child of the test above, which gives it the plugin"]
fn through_the_plugin() {
    let repository = RepositoryId([1; 16]);
    let slot = "k3ysloot".parse().unwrap();
    let root = RootSecret::from_bytes([9; 32]);
    let file = wrap(RECIPIENT, &root, repository, slot).unwrap();
    assert!(unwrap(IDENTITY, &file, repository, slot) == Ok(root));
}
