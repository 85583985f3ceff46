//! The tools that are compared: rowvault by its command line, and its peers by theirs.
//!
//! Each keeps a repository of its own in the run's directory. Invariant: all see the same data in
//! turn, and what one stores is the growth of its repository's directory.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::measure::{Cost, Meter, stored, version};

/// A tool that takes snapshots.
pub trait Tool {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Takes a snapshot of the database at `url`, or of what the line `dump` writes.
    fn backup(&mut self, url: &str, dump: &str) -> Taken;
}

/// A snapshot that was taken.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// What it cost.
    pub cost: Cost,
    /// How much the repository grew.
    pub bytes: u64,
    /// How the tool found what changed, where it says so.
    pub mode: String,
}

/// The release binary, as a user runs it.
pub struct Rowvault {
    binary: PathBuf,
    meter: Meter,
    repository: PathBuf,
}

impl Rowvault {
    /// Makes a repository `called` under `directory` with `binary`, opened by a key file.
    pub fn new(binary: &Path, directory: &Path, called: &str) -> Rowvault {
        let base = directory.join(called);
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let mut meter = Meter::new(&base);
        let repository = base.join("repository");
        meter.set("ROWVAULT_REPO", &repository);
        meter.set("ROWVAULT_KEY_FILE", base.join("key"));
        meter.set("ROWVAULT_STATE_DIR", base.join("state"));
        let tool = Rowvault {
            binary: binary.into(),
            meter,
            repository,
        };
        let sheet = base.join("sheet");
        tool.json(&format!("init --recovery-out '{}'", sheet.display()));
        tool
    }

    /// Runs a verb and reads its document.
    pub fn json(&self, arguments: &str) -> (Cost, Value) {
        let binary = self.binary.display();
        let line = format!("'{binary}' --json --progress never {arguments}");
        let (cost, printed) = self.meter.run(&line);
        let document = serde_json::from_str(&printed).expect("--json prints a document");
        (cost, document)
    }

    /// Restores `snapshot` to `url`.
    pub fn restore(&self, snapshot: &str, url: &str) -> Cost {
        self.restore_timed(snapshot, url).0
    }

    /// As `restore`, and how many seconds of it went into reading everything back.
    pub fn restore_timed(&self, snapshot: &str, url: &str) -> (Cost, f64) {
        let (cost, document) = self.json(&format!("restore {snapshot} --to '{url}'"));
        let read_back = document["read_back_ms"].as_f64().unwrap_or(0.0);
        (cost, read_back / 1000.0)
    }

    /// How many bytes the repository has.
    pub fn bytes(&self) -> u64 {
        stored(&self.repository)
    }

    /// How many runs the tables of `snapshot` have together.
    pub fn runs(&self, snapshot: &str) -> u64 {
        let (_, shown) = self.json(&format!("show {snapshot}"));
        let tables = shown["tables"].as_array().expect("show lists tables");
        tables
            .iter()
            .filter_map(|table| table["runs"].as_u64())
            .sum()
    }

    /// The id of the newest snapshot.
    pub fn newest(&self) -> String {
        let (_, shown) = self.json("show latest");
        shown["id"].as_str().expect("a snapshot has an id").into()
    }
}

impl Tool for Rowvault {
    fn name(&self) -> &'static str {
        "rowvault"
    }

    fn backup(&mut self, url: &str, _dump: &str) -> Taken {
        let before = self.bytes();
        let (cost, document) = self.json(&format!("backup '{url}' --name crm"));
        let snapshot = &document["snapshots"][0];
        Taken {
            cost,
            bytes: self.bytes() - before,
            mode: snapshot["mode"].as_str().unwrap_or("?").into(),
        }
    }
}

/// restic with its defaults: compression "auto", its cache kept between snapshots.
pub struct Restic {
    meter: Meter,
    repository: PathBuf,
}

impl Restic {
    /// Makes a repository; nothing where restic is not installed.
    pub fn new(directory: &Path) -> Option<Restic> {
        version("restic", "version")?;
        let base = directory.join("restic");
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let password = base.join("password");
        std::fs::write(&password, "benchmark\n").expect("the run's directory is writable");
        let mut meter = Meter::new(&base);
        let repository = base.join("repository");
        meter.set("RESTIC_REPOSITORY", &repository);
        meter.set("RESTIC_PASSWORD_FILE", password);
        meter.set("RESTIC_CACHE_DIR", base.join("cache"));
        meter.run("restic init --quiet");
        Some(Restic { meter, repository })
    }

    /// Writes the newest snapshot into the line `load`.
    pub fn restore(&self, load: &str) -> Cost {
        let line = format!("restic dump --quiet latest crm.sql | {load}");
        self.meter.run(&line).0
    }
}

impl Tool for Restic {
    fn name(&self) -> &'static str {
        "dump → restic"
    }

    fn backup(&mut self, _url: &str, dump: &str) -> Taken {
        let before = stored(&self.repository);
        let line = format!("{dump} | restic backup --quiet --stdin --stdin-filename crm.sql");
        let (cost, _) = self.meter.run(&line);
        let bytes = stored(&self.repository) - before;
        Taken {
            cost,
            bytes,
            mode: String::new(),
        }
    }
}

/// borg with encryption, and the compression that rowvault and restic use too.
pub struct Borg {
    meter: Meter,
    repository: PathBuf,
    count: u32,
}

impl Borg {
    /// Makes a repository; nothing where borg is not installed.
    pub fn new(directory: &Path) -> Option<Borg> {
        version("borg", "--version")?;
        let base = directory.join("borg");
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let mut meter = Meter::new(&base);
        let repository = base.join("repository");
        meter.set("BORG_REPO", &repository);
        meter.set("BORG_PASSPHRASE", "benchmark");
        meter.set("BORG_BASE_DIR", base.join("base"));
        meter.run("borg init --encryption repokey-blake2");
        Some(Borg {
            meter,
            repository,
            count: 0,
        })
    }
}

impl Tool for Borg {
    fn name(&self) -> &'static str {
        "dump → borg"
    }

    fn backup(&mut self, _url: &str, dump: &str) -> Taken {
        self.count += 1;
        let before = stored(&self.repository);
        let archive = self.count;
        let line = format!(
            "{dump} | borg create --compression zstd,3 --stdin-name crm.sql ::snapshot-{archive} -"
        );
        let (cost, _) = self.meter.run(&line);
        // borg rewrites some of its files, so that a repository can shrink a little.
        let bytes = stored(&self.repository).saturating_sub(before);
        Taken {
            cost,
            bytes,
            mode: String::new(),
        }
    }
}
