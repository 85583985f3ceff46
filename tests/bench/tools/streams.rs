//! Peers that read a dump from a pipe: restic, rustic, borg.
//!
//! The dump is uncompressed, as is their best case for finding equal data. Each keeps its cache
//! between snapshots; compression and encryption are what it does by itself, or what comes nearest
//! to the others.

use std::path::Path;
use std::rc::Rc;

use super::{Place, Taken, Tool};
use crate::database::Copy;
use crate::measure::{Meter, version};
use crate::s3::S3;

/// restic with its defaults: compression "auto".
pub struct Restic {
    meter: Meter,
    place: Place,
}

/// rustic with its defaults, which writes restic's format.
pub struct Rustic {
    meter: Meter,
    place: Place,
}

/// borg with encryption, and the compression that rowvault uses too.
pub struct Borg {
    meter: Meter,
    place: Place,
    count: u32,
}

/// A meter in a directory of the tool's own, and where its repository goes.
fn begin(directory: &Path, called: &str) -> (Meter, Place) {
    let base = directory.join(called);
    std::fs::create_dir(&base).expect("the run's directory is writable");
    let place = Place::Directory(base.join("repository"));
    (Meter::new(&base), place)
}

fn password(meter: &Meter) -> std::path::PathBuf {
    let password = meter.scratch().join("password");
    std::fs::write(&password, "benchmark\n").expect("the run's directory is writable");
    password
}

impl Restic {
    /// Makes a repository; nothing where restic is not installed.
    pub fn new(directory: &Path) -> Option<Restic> {
        version("restic", "version")?;
        let (mut meter, place) = begin(directory, "restic");
        meter.set("RESTIC_REPOSITORY", meter.scratch().join("repository"));
        Some(Restic::init(meter, place))
    }

    /// The same in a bucket.
    pub fn in_bucket(directory: &Path, server: &Rc<S3>) -> Option<Restic> {
        version("restic", "version")?;
        let (mut meter, _) = begin(directory, "restic-s3");
        let place = server.place("restic", &mut meter);
        meter.set(
            "RESTIC_REPOSITORY",
            format!("s3:{}/restic", server.endpoint()),
        );
        Some(Restic::init(meter, place))
    }

    fn init(mut meter: Meter, place: Place) -> Restic {
        meter.set("RESTIC_PASSWORD_FILE", password(&meter));
        meter.set("RESTIC_CACHE_DIR", meter.scratch().join("cache"));
        meter.run("restic init --quiet");
        Restic { meter, place }
    }
}

impl Tool for Restic {
    fn name(&self) -> &'static str {
        "dump → restic"
    }

    fn backup(&mut self, _url: &str, dump: &str) -> Taken {
        let line = format!("{dump} | restic backup --quiet --stdin --stdin-filename crm.sql");
        self.place.watch(|| self.meter.run(&line).0.into())
    }

    fn restore(&mut self, copy: &Copy) -> Taken {
        let line = format!("restic dump --quiet latest crm.sql | {}", copy.load);
        self.place.watch(|| self.meter.run(&line).0.into())
    }

    fn is_foremost(&self) -> bool {
        true
    }
}

impl Rustic {
    /// Makes a repository; nothing where rustic is not installed.
    pub fn new(directory: &Path) -> Option<Rustic> {
        version("rustic", "--version")?;
        let (mut meter, place) = begin(directory, "rustic");
        meter.set("RUSTIC_REPOSITORY", meter.scratch().join("repository"));
        meter.set("RUSTIC_PASSWORD_FILE", password(&meter));
        meter.set("RUSTIC_CACHE_DIR", meter.scratch().join("cache"));
        meter.set("RUSTIC_NO_PROGRESS", "true");
        meter.set("RUSTIC_LOG_LEVEL", "error");
        meter.run("rustic init");
        Some(Rustic { meter, place })
    }
}

impl Tool for Rustic {
    fn name(&self) -> &'static str {
        "dump → rustic"
    }

    fn backup(&mut self, _url: &str, dump: &str) -> Taken {
        let line = format!("{dump} | rustic backup --stdin-filename crm.sql -");
        self.place.watch(|| self.meter.run(&line).0.into())
    }

    fn restore(&mut self, copy: &Copy) -> Taken {
        let line = format!("rustic dump latest:crm.sql | {}", copy.load);
        self.place.watch(|| self.meter.run(&line).0.into())
    }
}

impl Borg {
    /// Makes a repository; nothing where borg is not installed.
    pub fn new(directory: &Path) -> Option<Borg> {
        version("borg", "--version")?;
        let (mut meter, place) = begin(directory, "borg");
        meter.set("BORG_REPO", meter.scratch().join("repository"));
        meter.set("BORG_PASSPHRASE", "benchmark");
        meter.set("BORG_BASE_DIR", meter.scratch().join("base"));
        meter.run("borg init --encryption repokey-blake2");
        Some(Borg {
            meter,
            place,
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
        let archive = self.count;
        let line = format!(
            "{dump} | borg create --compression zstd,3 --stdin-name crm.sql ::snapshot-{archive} -"
        );
        self.place.watch(|| self.meter.run(&line).0.into())
    }

    fn restore(&mut self, copy: &Copy) -> Taken {
        let archive = self.count;
        let line = format!(
            "borg extract --stdout ::snapshot-{archive} crm.sql | {}",
            copy.load
        );
        self.place.watch(|| self.meter.run(&line).0.into())
    }
}
