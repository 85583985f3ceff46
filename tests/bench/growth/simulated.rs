//! The tables of described repositories: one over the size of the database, two over snapshots.
//!
//! The repository stands where fsync costs nothing, if there is such a place. Each step is a
//! process of its own under GNU time, so that memory of one step says nothing of another's.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::described::{FEW, rows};
use super::{Reach, Series, Table, Unit, newest_manifest};
use crate::Options;
use crate::measure::{Cost, Meter, stored};

/// How many GiB the database stands for that is backed up hour by hour.
const HOURLY_GIB: f64 = 0.1;

/// What a step asked of the storage.
struct Asked {
    cost: Cost,
    told: Value,
    requests: f64,
    bytes: f64,
}

struct Repository {
    directory: TempDir,
    meter: Meter,
    program: PathBuf,
}

/// Makes those of the tables that are wanted.
pub fn run(options: &Options) {
    let reach = &options.reach;
    if reach.wants(Table::Size) {
        sizes(options, reach);
    }
    if reach.wants(Table::Hours) {
        hours(options, reach);
    }
    if reach.wants(Table::Years) {
        years(options, reach, "kept", "all of them kept");
    }
    if reach.wants(Table::Retained) {
        let what = "48 hourly, 14 daily, 8 weekly, 12 monthly and 3 yearly kept";
        years(options, reach, "retained", what);
    }
}

impl Repository {
    fn new(options: &Options) -> Repository {
        let memory = Path::new("/dev/shm");
        let place = match memory.is_dir() {
            true => memory,
            false => &options.directory,
        };
        let mut made = tempfile::Builder::new();
        let directory = made.prefix("rowvault-growth-").tempdir_in(place);
        let directory = directory.expect("the place is writable");
        let mut meter = Meter::new(directory.path());
        // As the binary has it.
        meter.set("MALLOC_ARENA_MAX", "2");
        Repository {
            meter,
            directory,
            program: std::env::current_exe().expect("this program has a path"),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    fn step(&self, verb: &str, number: u64) -> Asked {
        let (program, directory) = (self.program.display(), self.directory.path().display());
        let line = format!("'{program}' --bench --growth-step '{verb} {directory} {number}'");
        let (cost, printed) = self.meter.run(&line);
        let document: Value = serde_json::from_str(&printed).expect("a step prints a document");
        let count = |kind: &str| document["asked"][kind].as_f64().unwrap_or(0.0);
        let kinds = ["list", "get", "head", "put", "delete"];
        Asked {
            cost,
            requests: kinds.map(count).iter().sum(),
            bytes: count("bytes_down") + count("bytes_up"),
            told: document["told"].clone(),
        }
    }

    /// Runs a step and notes all that it cost.
    fn noted(&self, verb: &str, number: u64, what: &str, series: &mut Series) -> Asked {
        let asked = self.step(verb, number);
        series.cost(what, &asked.cost);
        series.note(&format!("{what}: requests"), Unit::Count, asked.requests);
        series.note(&format!("{what}: moved"), Unit::Bytes, asked.bytes);
        asked
    }

    /// Whatever is asked of every repository.
    fn look(&self, series: &mut Series) {
        self.noted("backup", 0, "nothing changed", series);
        let what = format!("{FEW} rows changed");
        let changed = self.noted("backup", FEW, &what, series);
        let runs = changed.told["runs"].as_f64().unwrap_or(0.0);
        series.note("runs in the stack", Unit::Count, runs);
        let manifest = newest_manifest(&self.path());
        series.note("newest manifest", Unit::Bytes, manifest);
        self.noted("snapshots", 0, "list of snapshots", series);
        self.noted("find", 0, "find by key", series);
        self.noted("prune", 0, "prune", series);
        for (folder, what) in [("index", "index"), ("packs", "packs"), ("ledger", "ledger")] {
            let bytes = stored(&self.path().join(folder)) as f64;
            series.note(what, Unit::Bytes, bytes);
        }
        let state = stored(&self.directory.path().join("state"));
        series.note("kept on the host", Unit::Bytes, state as f64);
    }
}

fn sizes(options: &Options, reach: &Reach) {
    let mut series = Series::new();
    for gib in &reach.described {
        series.point(format!("{gib} GiB"), *gib);
        let repository = Repository::new(options);
        let full = repository.noted("make", rows(*gib), "full", &mut series);
        let chunks = full.told["new"].as_f64().unwrap_or(0.0);
        series.note("chunks", Unit::Count, chunks);
        repository.look(&mut series);
    }
    series.print("A described database, in GiB of text in chunks of 64 KiB");
}

fn hours(options: &Options, reach: &Reach) {
    let mut series = Series::new();
    let repository = Repository::new(options);
    repository.step("make", rows(HOURLY_GIB));
    let mut taken = 0;
    for hours in &reach.hours {
        series.point(format!("{hours} hours"), *hours as f64);
        let more = hours - taken;
        let all = repository.step("hours", more);
        taken = *hours;
        let each = all.cost.cpu / more as f64;
        series.note("a backup on the way: CPU", Unit::Seconds, each);
        repository.look(&mut series);
    }
    series.print(&format!(
        "Whole hourly backups of {HOURLY_GIB} GiB, {FEW} rows changed each hour, all kept"
    ));
}

fn years(options: &Options, reach: &Reach, verb: &str, what: &str) {
    let mut series = Series::new();
    let repository = Repository::new(options);
    repository.step("make", rows(HOURLY_GIB));
    let mut taken = 0;
    for snapshots in &reach.years {
        series.point(format!("{snapshots} hours"), *snapshots as f64);
        repository.step(verb, snapshots - taken);
        taken = *snapshots;
        // The first backup after described ones finds no shadow, and reads everything.
        repository.step("backup", 0);
        repository.look(&mut series);
    }
    series.print(&format!("Described hourly snapshots, {what}"));
}
