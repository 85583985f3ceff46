//! The configurations that come with the program: each loads, and the long one has every key.

use std::path::{Path, PathBuf};

use rowvault::config::{self, Config};
use rowvault::daemon::plan;

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

#[test]
fn long_configuration_is_good_with_every_key_switched_on() {
    let text = std::fs::read_to_string(directory().join("rowvault.toml")).unwrap();
    let mut on = String::new();
    let mut keys = 0;
    for line in text.lines() {
        // One of the two that open the repository may be given.
        let key = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        match key {
            Some(rest) if !rest.starts_with("passphrase_file") => {
                keys += 1;
                on.push_str(rest);
            }
            _ => on.push_str(line),
        }
        on.push('\n');
    }
    assert!(keys > 40, "{keys}");
    let config = load(&on);
    let source = &config.sources[0];
    assert_eq!(source.name.as_str(), "crm");
    assert!(source.plan.drill.is_some() && source.keep.is_some());
    assert!(config.daemon.prune.is_some() && config.daemon.verify.is_some());
}
