//! The real binary dies at every fail point, one after the other; the next run needs no person.
//!
//! The list in `rowvault::failpoint` is held against the scenes here: a point that no scene reaches
//! is a point at which nobody ever died. After each death what was reported restores equal, at
//! once; then the same command runs to its end.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowvault::failpoint::NAMES;

use crate::kill::{Stage, age, told};
use crate::sqlite_copy::compare;

/// What `std::process::abort` ends with.
const SIGABRT: i32 = 6;
const MAKE: &str = "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, note BLOB);
    CREATE TABLE calls(id INTEGER PRIMARY KEY, person INTEGER NOT NULL REFERENCES people(id), at TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
    INSERT INTO people SELECT i, 'person ' || i, randomblob(400) FROM n;
    INSERT INTO calls SELECT id * 3, id, '2026-11-' || (10 + id % 20) FROM people;";
/// Most of what a first snapshot stored is needed no more after this, but not all.
const CHANGE: &str = "UPDATE people SET note = randomblob(400) WHERE id > 250";
const LOSE: &str = "PRAGMA foreign_keys=ON; DELETE FROM calls WHERE person IN (7, 8);
    DELETE FROM people WHERE id IN (7, 8)";

/// A command, in the state of things in which it reaches its points.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scene {
    Init,
    Backup,
    Forget,
    PruneMarks,
    PruneSweeps,
    Key,
    Writer,
    Restore,
    Undelete,
    Export,
}

const SCENES: &[(Scene, &[&str])] = &[
    (
        Scene::Init,
        &[
            "init: key files staged",
            "init: slots stored",
            "init: repository stored",
        ],
    ),
    (
        Scene::Backup,
        &[
            "backup: intent stored",
            "backup: packs stored",
            "backup: index stored",
            "backup: manifest stored",
            "backup: entry stored",
            "backup: shadow swapped",
        ],
    ),
    (Scene::Forget, &["forget: planned", "forget: entry stored"]),
    (
        Scene::PruneMarks,
        &[
            "prune: lease taken",
            "repack: packs stored",
            "repack: index stored",
            "sweep: marks stored",
            "sweep: manifests deleted",
        ],
    ),
    (
        Scene::PruneSweeps,
        &[
            "sweep: packs deleted",
            "sweep: indexes rewritten",
            "sweep: marks dropped",
        ],
    ),
    (Scene::Key, &["key: file staged", "key: slot stored"]),
    (Scene::Writer, &["writer: keyring stored"]),
    (Scene::Restore, &["restore: compared", "restore: published"]),
    (
        Scene::Undelete,
        &["undelete: written", "undelete: committed"],
    ),
    (Scene::Export, &["export: written"]),
];

fn execute(crm: &Path, sql: &str) {
    let db = rusqlite::Connection::open(crm).unwrap();
    db.execute_batch(sql).unwrap();
}

impl Scene {
    /// All that comes before the command.
    fn prepare(self, stage: &Stage) {
        let crm = stage.path("crm.db");
        execute(&crm, MAKE);
        if self == Scene::Init {
            return;
        }
        stage.init();
        stage.run(&["backup", &url(&crm)]);
        match self {
            Scene::Backup => execute(&crm, CHANGE),
            Scene::Undelete => execute(&crm, LOSE),
            Scene::Forget | Scene::PruneMarks | Scene::PruneSweeps => {
                execute(&crm, CHANGE);
                stage.run(&["backup", &url(&crm), "--full"]);
            }
            _ => {}
        }
        if matches!(self, Scene::PruneMarks | Scene::PruneSweeps) {
            stage.run(&words(&Scene::Forget.command(stage)));
            age(&stage.path("repository"));
        }
        if self == Scene::PruneSweeps {
            stage.run(&["prune"]);
            age(&stage.path("repository"));
        }
    }

    fn command(self, stage: &Stage) -> Vec<String> {
        let crm = url(&stage.path("crm.db"));
        let back = url(&stage.path("back.db"));
        let words: &[&str] = match self {
            Scene::Init => &[
                "init",
                "--key-file",
                "owner.key",
                "--recovery-out",
                "sheet.txt",
            ],
            Scene::Backup => &["backup", &crm],
            // Files are made older than they are, so times are those of the host.
            Scene::Forget => &["forget", "crm", "--keep-last", "1", "--times", "taken"],
            Scene::PruneMarks | Scene::PruneSweeps => &["prune"],
            Scene::Key => &["key", "add", "--key-file", "second.key"],
            Scene::Writer => &["key", "writer", "--name", "db1", "--out", "db1.key"],
            Scene::Restore => &["restore", "crm@latest", "--to", &back],
            Scene::Undelete => &[
                "undelete",
                "crm@latest",
                "--into",
                &crm,
                "--table",
                "people",
                "--missing",
                "--apply",
            ],
            Scene::Export => &[
                "export",
                "crm@latest",
                "--table",
                "calls",
                "--format",
                "csv",
                "--out",
                "calls.csv",
            ],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }

    /// What must hold right after the death.
    fn check_dead(self, stage: &Stage, before: &str) {
        let crm = stage.path("crm.db");
        match self {
            Scene::Init => {}
            // Nothing that was made under the name is half-made.
            Scene::Restore if stage.path("back.db").exists() => {
                compare(&crm, &stage.path("back.db"));
                std::fs::remove_file(stage.path("back.db")).unwrap();
            }
            Scene::Export => assert!(!stage.path("calls.csv").exists()),
            Scene::Undelete => {
                let now = told(&crm);
                let whole = now == before || now.matches("person ").count() == 900;
                assert!(whole, "an undelete was written by halves");
            }
            _ => {
                stage.run(&["verify", "--data", "all", "-q"]);
            }
        }
    }

    /// What must hold after the next run.
    fn check(self, stage: &Stage) {
        let crm = stage.path("crm.db");
        match self {
            Scene::Init => {
                stage.run(&["backup", &url(&crm)]);
            }
            Scene::Key | Scene::Writer => {
                let back = url(&stage.path("other.db"));
                let (key, words) = match self {
                    Scene::Key => ("second.key", vec!["restore", "crm@latest", "--to", &back]),
                    _ => ("db1.key", vec!["snapshots"]),
                };
                let mut command = stage.command(&words);
                command.env("ROWVAULT_KEY_FILE", stage.path(key));
                assert!(command.output().unwrap().status.success(), "{key}");
            }
            Scene::Restore => std::fs::remove_file(stage.path("back.db")).unwrap(),
            Scene::Export => {
                let lines = std::fs::read_to_string(stage.path("calls.csv")).unwrap();
                assert_eq!(lines.lines().count(), 901);
                return;
            }
            Scene::Undelete => assert_eq!(told(&crm).matches("person ").count(), 900),
            _ => {}
        }
        stage.assert_newest_equals(&crm, "back.db");
        stage.run(&["verify", "--data", "all", "-q"]);
    }
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

fn dies_at(scene: Scene, point: &str) {
    let stage = Stage::bare();
    scene.prepare(&stage);
    let before = told(&stage.path("crm.db"));
    let command = scene.command(&stage);
    let words = words(&command);
    let mut dying = stage.command(&words);
    let died = dying
        .env("FAILPOINTS", format!("{point}=return"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&died.stderr);
    assert_eq!(
        died.status.signal(),
        Some(SIGABRT),
        "{point} was not reached: {}, {told}",
        died.status
    );
    scene.check_dead(&stage, &before);
    stage.run(&words);
    scene.check(&stage);
}

#[test]
fn the_next_run_after_a_death_at_any_fail_point_ends_well() {
    let known: BTreeSet<&str> = NAMES.iter().copied().collect();
    let tried: Vec<(Scene, &str)> = SCENES
        .iter()
        .flat_map(|(scene, points)| points.iter().map(|point| (*scene, *point)))
        .collect();
    assert_eq!(
        known,
        tried.iter().map(|(_, point)| *point).collect(),
        "a fail point without a scene, or a scene without a fail point"
    );
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((scene, point)) = tried.get(next.fetch_add(1, Ordering::SeqCst)) {
                    dies_at(*scene, point);
                }
            });
        }
    });
    println!(
        "the binary died at each of {} fail points; every next run ended well",
        tried.len()
    );
}
