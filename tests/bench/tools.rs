//! The tools that are compared: rowvault by its command line, and its peers by theirs.
//!
//! Each keeps a repository of its own in the run's directory. Invariant: all see the same data in
//! turn, and what one stores is the growth of its repository.

pub mod mydumper;
pub mod pgbackrest;
pub mod streams;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use rowvault::sample::Sample;
use rowvault::sample::churn::Edit;
use serde_json::Value;

use crate::database::Copy;
use crate::measure::{Cost, Meter, stored};
use crate::s3::S3;

/// The peers' programs, and what makes them say their version.
pub const PEERS: [(&str, &str); 5] = [
    ("restic", "version"),
    ("rustic", "--version"),
    ("borg", "--version"),
    ("pgbackrest", "version"),
    ("mydumper", "--version"),
];

/// A tool that takes snapshots.
pub trait Tool {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Takes a snapshot of the database at `url`, or of what the line `dump` writes.
    fn backup(&mut self, url: &str, dump: &str) -> Taken;

    /// Makes the copy out of the newest snapshot.
    fn restore(&mut self, copy: &Copy) -> Taken;

    /// Whether it takes part in every step, and not only where all do.
    fn is_foremost(&self) -> bool {
        false
    }

    /// The first process of the server that it reads, where it needs one of its own: that has the
    /// same rows, and gets the same edits.
    fn server(&self) -> Option<u32> {
        None
    }

    /// Fills its own server.
    fn fill(&mut self, _sample: &Sample) {}

    /// Notes edits for its own server.
    fn note(&mut self, _edits: &[Edit]) {}

    /// Does, before its turn begins to count, what must not disturb another's: its own server gets
    /// its edits.
    fn prepare(&mut self) {}
}

/// What a tool did, and what it cost.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// What its own processes cost.
    pub cost: Cost,
    /// CPU seconds of the database's server meanwhile, where there is one.
    pub server: Option<f64>,
    /// How much the repository grew.
    pub bytes: u64,
    /// Requests to the storage, where that counts them.
    pub requests: Option<f64>,
    /// How the tool found what changed, where it says so.
    pub mode: String,
    /// Of a restore, the seconds that went into reading everything back, as no peer does.
    pub read_back: f64,
}

impl Taken {
    /// CPU seconds of client and server.
    pub fn cpu(&self) -> f64 {
        self.cost.cpu + self.server.unwrap_or_default()
    }
}

impl From<Cost> for Taken {
    fn from(cost: Cost) -> Taken {
        Taken {
            cost,
            ..Taken::default()
        }
    }
}

/// Where a tool's repository is.
#[derive(Clone)]
pub enum Place {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket of an S3 server.
    Bucket(Rc<S3>, &'static str),
}

impl Place {
    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        match self {
            Place::Directory(directory) => stored(directory),
            Place::Bucket(server, bucket) => server.bytes(bucket),
        }
    }

    fn requests(&self) -> Option<f64> {
        match self {
            Place::Directory(_) => None,
            Place::Bucket(server, _) => Some(server.requests()),
        }
    }

    /// Lets a tool work, and sees how the repository grew and what was asked of it.
    pub fn watch(&self, work: impl FnOnce() -> Taken) -> Taken {
        let bytes = self.bytes();
        let requests = self.requests();
        let mut taken = work();
        taken.requests = self.requests().zip(requests).map(|(now, then)| now - then);
        // Some tools rewrite files, so that a repository can shrink a little.
        taken.bytes = self.bytes().saturating_sub(bytes);
        taken
    }
}

/// The release binary, as a user runs it.
pub struct Rowvault {
    binary: PathBuf,
    meter: Meter,
    place: Place,
}

impl Rowvault {
    /// Makes a repository `called` under `directory` with `binary`, opened by a key file.
    pub fn new(binary: &Path, directory: &Path, called: &str) -> Rowvault {
        let base = directory.join(called);
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let mut meter = Meter::new(&base);
        let repository = base.join("repository");
        meter.set("ROWVAULT_REPO", &repository);
        Rowvault::init(binary, &base, meter, Place::Directory(repository))
    }

    /// The same in a bucket.
    pub fn in_bucket(binary: &Path, directory: &Path, server: &Rc<S3>) -> Rowvault {
        let base = directory.join("rowvault-s3");
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let mut meter = Meter::new(&base);
        let place = server.place("rowvault", &mut meter);
        meter.set("ROWVAULT_REPO", "s3://rowvault/crm");
        Rowvault::init(binary, &base, meter, place)
    }

    fn init(binary: &Path, base: &Path, mut meter: Meter, place: Place) -> Rowvault {
        meter.set("ROWVAULT_KEY_FILE", base.join("key"));
        meter.set("ROWVAULT_STATE_DIR", base.join("state"));
        let tool = Rowvault {
            binary: binary.into(),
            meter,
            place,
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
    pub fn restore_to(&self, snapshot: &str, url: &str) -> Taken {
        self.place.watch(|| {
            let (cost, document) = self.json(&format!("restore {snapshot} --to '{url}'"));
            let mut taken = Taken::from(cost);
            taken.read_back = document["read_back_ms"].as_f64().unwrap_or(0.0) / 1000.0;
            taken
        })
    }

    /// Where the repository is: its directory, or its bucket.
    pub fn repository(&self) -> &Path {
        match &self.place {
            Place::Directory(directory) => directory,
            Place::Bucket(_, bucket) => Path::new(bucket),
        }
    }

    /// How many bytes the repository has.
    pub fn bytes(&self) -> u64 {
        self.place.bytes()
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
        self.place.watch(|| {
            let (cost, document) = self.json(&format!("backup '{url}' --name crm"));
            let mut taken = Taken::from(cost);
            let mode = document["snapshots"][0]["mode"].as_str();
            taken.mode = mode.unwrap_or("?").into();
            taken
        })
    }

    fn restore(&mut self, copy: &Copy) -> Taken {
        self.restore_to("latest", &copy.url)
    }

    fn is_foremost(&self) -> bool {
        true
    }
}
