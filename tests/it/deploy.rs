//! What stands in `deploy/` speaks of things that there are, and what can be tried of it is tried.
//!
//! Metrics that alerts and the dashboard use, commands and configurations of the unit, the image and
//! the cluster, the Debian package unpacked. What a tool is missing for is said and passed over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rowvault::{cli, config};
use serde_json::Value;

const METRICS: &str = include_str!("../../src/daemon/metrics.rs");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of metrics in a text, less the prefix.
fn metrics(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    text.split(word)
        .filter_map(|word| word.strip_prefix("rowvault_"))
        .collect()
}

fn is_registered(name: &str) -> bool {
    let base = ["_seconds", "_bytes", "_total"]
        .iter()
        .find_map(|unit| name.strip_suffix(unit))
        .unwrap_or(name);
    METRICS.contains(&format!("\"{base}\""))
}

/// What a program printed, where it is there and did well.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no {program} here");
        return None;
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn alerts_and_dashboard_use_metrics_that_there_are() {
    for (file, least) in [("prometheus/alerts.yml", 6), ("grafana/rowvault.json", 12)] {
        let text = read(&format!("deploy/{file}"));
        let used = metrics(&text);
        assert!(used.len() >= least, "{file}: {used:?}");
        for name in used {
            assert!(is_registered(name), "{file}: there is no {name}");
        }
    }
    assert!(!is_registered("snapshot_age_seconds"));
}

#[test]
fn dashboard_has_panels_that_ask_something_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/rowvault.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            !title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()),
            "{title}"
        );
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies over another");
            }
        }
        for target in panel["targets"].as_array().unwrap() {
            let asked = target["expr"].as_str().unwrap();
            assert!(asked.contains("rowvault_"), "{title}: {asked}");
            for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
                assert_eq!(
                    asked.matches(open).count(),
                    asked.matches(close).count(),
                    "{asked}"
                );
            }
        }
    }
    assert!(panels.len() >= 12);
}

/// That the command line takes these words.
fn accepted(place: &str, words: &[String]) {
    let all = std::iter::once("rowvault".to_owned()).chain(words.iter().cloned());
    let taken = cli::command().try_get_matches_from(all);
    taken.unwrap_or_else(|error| panic!("{place}: {words:?}: {error}"));
}

#[test]
fn commands_of_the_unit_the_image_and_the_cluster_are_commands() {
    let mut many = 0;
    for file in [
        "container/Containerfile",
        "compose/compose.yaml",
        "kubernetes/base/deployment.yaml",
        "kubernetes/source/cronjob.yaml",
    ] {
        let text = read(&format!("deploy/{file}"));
        for line in text.lines().map(str::trim) {
            let words = ["args: ", "CMD "]
                .iter()
                .find_map(|key| line.strip_prefix(key));
            let Some(words) = words.filter(|words| !words.contains("curl")) else {
                continue;
            };
            let words: Vec<String> = serde_json::from_str(words).unwrap();
            accepted(file, &words);
            many += 1;
        }
    }
    assert_eq!(many, 4);
    let unit = read("deploy/systemd/rowvault.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/rowvault "));
    let words: Vec<String> = start.unwrap().split(' ').map(str::to_owned).collect();
    accepted("unit", &words);
}

#[test]
fn configurations_of_compose_and_the_cluster_load() {
    let credentials = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| "/run/x".to_owned());
    for file in ["compose/rowvault.toml", "kubernetes/example/rowvault.toml"] {
        let loaded = config::load(&root().join("deploy").join(file), &credentials);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.sources.len(), 1, "{file}");
        assert!(loaded.repository.url.is_some(), "{file}");
    }
}

#[test]
fn secrets_of_a_cluster_are_read_whatever_mode_they_have() {
    let desk = crate::cli_desk::Desk::with_repository();
    std::fs::create_dir(desk.path("credentials")).unwrap();
    std::fs::copy(desk.path("owner.key"), desk.path("credentials/key")).unwrap();
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    std::fs::set_permissions(desk.path("credentials/key"), open).unwrap();
    let run = |credentials: &str| {
        let mut command = desk.command(&["snapshots", "--key-file", "credentials/key"]);
        command.env("CREDENTIALS_DIRECTORY", desk.path(credentials));
        crate::cli_desk::ran(command)
    };
    assert_eq!(run("credentials").code, 0);
    run("repo").refused(2, "can be read by others");
}

#[test]
fn overlay_of_the_cluster_gives_each_source_a_job_of_its_own() {
    let Some(made) = printed("kubectl", &["kustomize", "deploy/kubernetes/example"]) else {
        return;
    };
    let kinds: BTreeSet<&str> = made
        .lines()
        .filter_map(|line| line.strip_prefix("kind: "))
        .collect();
    for kind in [
        "CronJob",
        "Deployment",
        "ConfigMap",
        "PersistentVolumeClaim",
        "Namespace",
    ] {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
    assert!(made.contains("name: rowvault-crm") && made.contains("claimName: rowvault-state-crm"));
    assert!(!made.contains("- source\n"), "{made}");
}

#[test]
fn unit_is_hardened() {
    let arguments = [
        "security",
        "--offline=true",
        "--no-pager",
        "deploy/systemd/rowvault.service",
    ];
    let Some(report) = printed("systemd-analyze", &arguments) else {
        return;
    };
    let (_, level) = report
        .split_once("rowvault.service: ")
        .expect("it tells a level");
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    println!("exposure of the unit: {level}");
    assert!(level < 2.0, "{level}");
}

#[test]
fn debian_package_brings_what_the_unit_and_the_manual_name() {
    let tools = ["dpkg-deb", "dpkg-shlibdeps", "strip"];
    if tools
        .iter()
        .any(|tool| printed(tool, &["--version"]).is_none())
    {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(root().join("deploy/debian/build"))
        .arg(env!("CARGO_BIN_EXE_rowvault"))
        .arg(place.path())
        .env("ROWVAULT_DEB_COMPRESSION", "none")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let package = String::from_utf8(output.stdout).unwrap();
    let package = package.trim();
    let field = |name: &str| printed("dpkg-deb", &["-f", package, name]).unwrap();
    assert_eq!(
        field("Version").trim(),
        concat!(env!("CARGO_PKG_VERSION"), "-1")
    );
    assert!(
        field("Depends").starts_with("libc6 (>= "),
        "{}",
        field("Depends")
    );
    let at = place.path().join("root");
    let extracted = printed("dpkg-deb", &["-x", package, at.to_str().unwrap()]);
    assert!(extracted.is_some());
    let version = printed(
        at.join("usr/bin/rowvault").to_str().unwrap(),
        &["--version"],
    );
    assert_eq!(
        version.unwrap().trim(),
        concat!("rowvault ", env!("CARGO_PKG_VERSION"))
    );
    config::load(&at.join("etc/rowvault/rowvault.toml"), &|_| None).unwrap();
    let pages = std::fs::read_dir(at.join("usr/share/man/man1"))
        .unwrap()
        .count();
    assert!(pages > 30, "{pages}");
    for name in [
        "usr/lib/systemd/system/rowvault.service",
        "usr/lib/sysusers.d/rowvault.conf",
        "usr/share/bash-completion/completions/rowvault",
        "usr/share/doc/rowvault/docs/runbook.md",
        "usr/share/doc/rowvault/examples/rowvault.json",
    ] {
        assert!(at.join(name).is_file(), "{name}");
    }
    no_file_others_may_write(&at);
}

fn no_file_others_may_write(place: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::symlink_metadata(&path)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o022, 0, "{}", path.display());
        if path.is_dir() {
            no_file_others_may_write(&path);
        }
    }
}
