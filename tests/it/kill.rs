//! `kill -9` of the real binary at a random moment: the next run needs no person.
//!
//! Moments are drawn from a seed over the time that an undisturbed run takes, so that early and
//! late ones are both met on any machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rowvault::demo::fill;
use rowvault::random::SeededRandom;
use rowvault::sample::Sample;
use rowvault::sample::churn::Churn;
use tempfile::TempDir;

use crate::sqlite_copy::{compare, rows_of};

/// A repository and a CRM that the binary works on.
pub struct Stage {
    directory: TempDir,
}

impl Stage {
    /// A directory with nothing in it yet.
    pub fn bare() -> Stage {
        let directory = TempDir::with_prefix("rowvault-kill-").unwrap();
        Stage { directory }
    }

    fn new() -> Stage {
        let stage = Stage::bare();
        fill::sqlite(&stage.path("crm.db"), &Sample::new(3, 0.004)).unwrap();
        stage
    }

    /// A place below the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The binary on this repository; `init` names its key itself.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rowvault"));
        command
            .args(words)
            .env_remove("ROWVAULT_CONFIG")
            .env("ROWVAULT_REPO", self.path("repository"))
            .env("ROWVAULT_STATE_DIR", self.path("state"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if words.first() != Some(&"init") {
            command.env("ROWVAULT_KEY_FILE", self.path("owner.key"));
        }
        command
    }

    /// Runs, and says how long it took.
    pub fn run(&self, words: &[&str]) -> Duration {
        let start = Instant::now();
        let output = self.command(words).output().unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        start.elapsed()
    }

    /// Runs and kills after `moment`; whether the kill was in time.
    fn run_killed(&self, words: &[&str], moment: Duration) -> bool {
        let mut child = self.command(words).spawn().unwrap();
        std::thread::sleep(moment);
        let in_time = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        in_time
    }

    /// Makes the repository.
    pub fn init(&self) {
        self.run(&[
            "init",
            "--key-file",
            "owner.key",
            "--recovery-out",
            "sheet.txt",
        ]);
    }

    /// Restores the newest snapshot and compares it with the CRM as it is.
    pub fn assert_newest_equals(&self, crm: &Path, name: &str) {
        let target = self.path(name);
        let url = format!("sqlite:{}", target.display());
        self.run(&["restore", "crm@latest", "--to", &url]);
        compare(crm, &target);
        std::fs::remove_file(target).unwrap();
    }
}

fn moment(random: &SeededRandom, whole: Duration) -> Duration {
    whole.mul_f64(random.below(1000) as f64 / 1000.0)
}

fn killed_backups(kills: u64, seed: u64) {
    let stage = Stage::new();
    let random = SeededRandom::new(seed);
    stage.init();
    let crm = stage.path("crm.db");
    let url = format!("sqlite:{}", crm.display());
    let backup = ["backup", url.as_str()];
    let mut whole = stage.run(&backup);
    let sample = Sample::new(3, 0.004);
    let mut churn = Churn::new(&sample);
    let mut in_time = 0;
    for day in 0..kills {
        fill::apply(&crm, churn.crm_day(day)).unwrap();
        in_time += u64::from(stage.run_killed(&backup, moment(&random, whole)));
        whole = stage.run(&backup);
        stage.assert_newest_equals(&crm, "back.db");
    }
    stage.run(&["verify", "--data", "all"]);
    println!("{in_time} of {kills} kills met a running backup; every next run ended well");
    assert!(in_time > 0, "no kill was in time");
}

fn killed_restores(kills: u64, seed: u64) {
    let stage = Stage::new();
    let random = SeededRandom::new(seed);
    stage.init();
    let crm = stage.path("crm.db");
    stage.run(&["backup", &format!("sqlite:{}", crm.display())]);
    let target = stage.path("back.db");
    let url = format!("sqlite:{}", target.display());
    let restore = ["restore", "crm@latest", "--to", url.as_str()];
    let mut whole = stage.run(&restore);
    std::fs::remove_file(&target).unwrap();
    let mut in_time = 0;
    for _ in 0..kills {
        if stage.run_killed(&restore, moment(&random, whole)) {
            in_time += 1;
        } else {
            // The machine got faster meanwhile: the next kill comes earlier.
            whole /= 4;
        }
        if target.exists() {
            // It was published, so it is whole.
            compare(&crm, &target);
            std::fs::remove_file(&target).unwrap();
        }
        stage.assert_newest_equals(&crm, "back.db");
    }
    println!(
        "{in_time} of {kills} kills met a running restore; none left a half-made file under the name"
    );
    assert!(in_time > 0, "no kill was in time");
}

/// Makes everything in the repository look a day and an hour older, so that marks are ripe.
pub fn age(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path);
        } else {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            let older = modified - Duration::from_secs(25 * 3600);
            file.set_modified(older).unwrap();
        }
    }
}

fn killed_prunes(kills: u64, seed: u64) {
    let stage = Stage::new();
    let random = SeededRandom::new(seed);
    stage.init();
    let crm = stage.path("crm.db");
    let url = format!("sqlite:{}", crm.display());
    stage.run(&["backup", &url]);
    let sample = Sample::new(3, 0.004);
    let mut churn = Churn::new(&sample);
    // Files are made older than they are, so times are those of the host.
    let forget = [
        "forget",
        "crm",
        "--keep-last",
        "2",
        "--times",
        "taken",
        "-q",
    ];
    let prune = ["prune", "--max-delete", "100%"];
    let mut whole = stage.run(&prune);
    let (mut in_time, mut packs_gone) = (0, 0);
    for day in 0..kills {
        fill::apply(&crm, churn.crm_day(day)).unwrap();
        let full: &[&str] = if day % 3 == 0 { &["--full"] } else { &[] };
        stage.run(&[&["backup", &url], full].concat());
        stage.run(&forget);
        age(&stage.path("repository"));
        let before = packs(&stage);
        in_time += u64::from(stage.run_killed(&prune, moment(&random, whole)));
        stage.assert_newest_equals(&crm, "back.db");
        whole = stage.run(&prune);
        packs_gone += before
            .iter()
            .filter(|one| !packs(&stage).contains(one))
            .count();
        stage.assert_newest_equals(&crm, "back.db");
    }
    stage.run(&["verify", "--data", "all"]);
    println!(
        "{in_time} of {kills} kills met a running prune; {packs_gone} packs were swept; every next run ended well"
    );
    assert!(in_time > 0 && packs_gone > 0);
}

fn packs(stage: &Stage) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(stage.path("repository/packs")).unwrap();
    let folders = folders.map(|folder| folder.unwrap().path());
    let packs = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
    packs.map(|pack| pack.unwrap().path()).collect()
}

fn killed_inits(kills: u64, seed: u64) {
    let random = SeededRandom::new(seed);
    let words = [
        "init",
        "--key-file",
        "owner.key",
        "--recovery-out",
        "sheet.txt",
    ];
    let whole = Stage::new().run(&words);
    for _ in 0..kills {
        let stage = Stage::new();
        stage.run_killed(&words, moment(&random, whole));
        if !stage.path("owner.key").exists() || !stage.path("repository/repository").exists() {
            stage.init();
        }
        let crm = stage.path("crm.db");
        stage.run(&["backup", &format!("sqlite:{}", crm.display())]);
        stage.assert_newest_equals(&crm, "back.db");
    }
}

/// All tables of a file with their rows, as one text.
pub fn told(path: &Path) -> String {
    let db = rusqlite::Connection::open(path).unwrap();
    let names = rows_of(
        &db,
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1",
    );
    let rows = names
        .iter()
        .map(|name| rows_of(&db, &format!("SELECT * FROM \"{}\" ORDER BY 1", name[0])));
    format!("{:?}", rows.collect::<Vec<_>>())
}

fn killed_undeletes(kills: u64, seed: u64) {
    let stage = Stage::new();
    let random = SeededRandom::new(seed);
    stage.init();
    let crm = stage.path("crm.db");
    let url = format!("sqlite:{}", crm.display());
    stage.run(&["backup", &url]);
    let lost = "PRAGMA foreign_keys=ON; DELETE FROM accounts WHERE id IN (1, 2, 3)";
    rusqlite::Connection::open(&crm)
        .unwrap()
        .execute_batch(lost)
        .unwrap();
    let (kept, words) = (
        stage.path("lost.db"),
        [
            "undelete",
            "crm@latest",
            "--into",
            &url,
            "--table",
            "accounts",
            "--missing",
            "--apply",
        ],
    );
    std::fs::copy(&crm, &kept).unwrap();
    let mut whole = stage.run(&words);
    let (before, after) = (told(&kept), told(&crm));
    assert!(before != after);
    let (mut in_time, mut written) = (0, 0);
    for _ in 0..kills {
        std::fs::copy(&kept, &crm).unwrap();
        match stage.run_killed(&words, moment(&random, whole)) {
            true => in_time += 1,
            false => whole /= 2,
        }
        let now = told(&crm);
        assert!(
            now == before || now == after,
            "an undelete was written by halves"
        );
        written += u64::from(now == after);
        stage.run(&words);
        assert!(told(&crm) == after, "the next run brings everything back");
    }
    println!(
        "{in_time} of {kills} kills met a running undelete; {written} had written all, the others nothing"
    );
    assert!(in_time > 0, "no kill was in time");
}

#[test]
fn undelete_killed_at_any_moment_has_written_all_or_nothing() {
    killed_undeletes(6, 4);
}

#[test]
fn backup_killed_at_any_moment_needs_no_person() {
    killed_backups(10, 1);
}

#[test]
fn prune_killed_at_any_moment_needs_no_person() {
    killed_prunes(10, 4);
}

#[test]
fn restore_killed_at_any_moment_leaves_no_half_made_file() {
    killed_restores(3, 2);
}

#[test]
fn init_killed_at_any_moment_goes_on() {
    killed_inits(3, 3);
}

#[test]
#[ignore = "takes minutes: tests/long.sh kill"]
fn long_kill_backups_restores_and_inits() {
    killed_backups(50, 11);
    killed_prunes(50, 14);
    killed_restores(30, 12);
    killed_inits(20, 13);
    killed_undeletes(100, 14);
}
