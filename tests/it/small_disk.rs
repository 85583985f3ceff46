//! A disk that is soon full: a file system in memory, and what happens on one.
//!
//! Mounting needs the right to; where that is missing the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use crate::cli_desk::Desk;
use crate::sqlite_copy::compare;

/// A mounted file system of a few MiB; taken away when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Makes the directory `at` a disk of `mib` MiB; none where nobody may mount.
    pub fn mount(at: &Path, mib: u32) -> Option<SmallDisk> {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={mib}M,mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(at)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: no file system can be mounted here");
            return None;
        }
        Some(SmallDisk { at: at.into() })
    }

    /// Makes it larger.
    pub fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}M");
        let grown = Command::new("mount")
            .args(["-o", &size])
            .arg(&self.at)
            .status();
        assert!(grown.unwrap().success());
    }

    /// Leaves so many bytes free on it.
    pub fn fill_up(&self, free: u64) {
        let disk = rustix::fs::statvfs(&self.at).unwrap();
        let there = disk.f_bavail * disk.f_frsize;
        let filler = vec![1; (there - free) as usize];
        std::fs::write(self.at.join("filler"), filler).unwrap();
    }

    /// Gives back what `fill_up` took.
    pub fn clear(&self) {
        std::fs::remove_file(self.at.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Adds a table whose cells no compression makes smaller.
fn add_noise(file: &Path, mib: usize) {
    let connection = Connection::open(file).unwrap();
    connection
        .execute_batch("BEGIN; CREATE TABLE recordings (id INTEGER PRIMARY KEY, body BLOB)")
        .unwrap();
    let mut noise = blake3::Hasher::new().update(b"noise").finalize_xof();
    let mut body = vec![0; 64 << 10];
    for _ in 0..mib * 16 {
        noise.fill(&mut body);
        let sql = "INSERT INTO recordings (body) VALUES (?)";
        connection.execute(sql, [&body]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

#[test]
fn backup_that_fills_the_disk_fails_whole_and_the_next_one_goes_on() {
    let desk = Desk::bare();
    let Some(disk) = SmallDisk::mount(&desk.path("disk"), 12) else {
        return;
    };
    let run = |arguments: &[&str]| {
        let mut command = desk.command(arguments);
        command.env("ROWVAULT_REPO", "disk/repo");
        crate::cli_desk::ran(command)
    };
    let done = |arguments: &[&str]| {
        let ran = run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    done(&["init", "--recovery-out", "sheet.txt", "-q"]);
    done(&["backup", "sqlite:crm.db", "-q"]);
    add_noise(&desk.path("crm.db"), 22);
    run(&["backup", "sqlite:crm.db", "-q"]).refused(1, "space");
    let listed = done(&["snapshots", "--json"]).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1);
    let verified = done(&["verify", "--data", "all", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
    disk.grow(128);
    done(&["backup", "sqlite:crm.db", "-q"]);
    done(&["restore", "crm@latest", "--to", "sqlite:again.db", "-q"]);
    compare(&desk.path("crm.db"), &desk.path("again.db"));
}
