//! mydumper and myloader: a parallel dump of a MariaDB database into a directory.
//!
//! Every snapshot is a full one, compressed and not encrypted; the last one is kept.

use std::path::Path;

use super::{Place, Taken, Tool};
use crate::database::Copy;
use crate::measure::{Meter, version};

/// mydumper with two threads.
pub struct Mydumper {
    meter: Meter,
    socket: String,
}

impl Mydumper {
    /// Dumps of the server at `socket`, quoted for the shell; nothing where it is not installed.
    pub fn new(directory: &Path, socket: String) -> Option<Mydumper> {
        version("mydumper", "--version")?;
        version("myloader", "--version")?;
        let base = directory.join("mydumper");
        std::fs::create_dir(&base).expect("the run's directory is writable");
        Some(Mydumper {
            meter: Meter::new(&base),
            socket,
        })
    }

    fn dump(&self) -> std::path::PathBuf {
        self.meter.scratch().join("dump")
    }
}

impl Tool for Mydumper {
    fn name(&self) -> &'static str {
        "mydumper"
    }

    fn backup(&mut self, _url: &str, _dump: &str) -> Taken {
        let dump = self.dump();
        let line = format!(
            "mydumper -S {} -u root -B crm -o '{}' -t 2 --compress -G -E -R",
            self.socket,
            dump.display()
        );
        Place::Directory(dump).watch(|| self.meter.run(&line).0.into())
    }

    fn prepare(&mut self) {
        let dump = self.dump();
        if dump.is_dir() {
            std::fs::remove_dir_all(&dump).expect("the run's directory is ours");
        }
    }

    fn restore(&mut self, copy: &Copy) -> Taken {
        let line = format!(
            "myloader -S {} -u root -B {} -d '{}' -t 2",
            self.socket,
            copy.name,
            self.dump().display()
        );
        self.meter.run(&line).0.into()
    }
}
