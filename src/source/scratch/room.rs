//! Temporary directories of drills, and what drills that were killed have left of theirs.
//!
//! A directory's name says which process made it, so that the next drill can tell what nobody will
//! take away any more. Invariant: only directories of processes that are gone are swept, with the
//! processes that still stand in them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

const PREFIX: &str = "rowvault-drill-";
/// How long what is left of a server may take to end before it is killed.
const ENDING_STEPS: u32 = 60;
const ENDING_STEP: Duration = Duration::from_millis(50);

/// A new directory that only we may enter; what killed drills have left is swept first.
///
/// # Errors
/// The file system's.
pub fn make() -> io::Result<TempDir> {
    let root = std::env::temp_dir();
    let own = std::process::id();
    let prefix = match started(own) {
        Some(start) => {
            sweep(&root);
            format!("{PREFIX}{own}-{start}-")
        }
        // Without /proc nobody can be told apart from the dead.
        None => PREFIX.to_owned(),
    };
    tempfile::Builder::new().prefix(&prefix).tempdir_in(root)
}

/// When a process began, in the system's own count; none where there is no such process.
fn started(process: u32) -> Option<u64> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before the bracket may hold anything.
    let (_, rest) = line.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The process that made a directory of this name, and when that began.
fn maker(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((process, start)) = name.to_str().and_then(maker) else {
            continue;
        };
        let Ok(about) = entry.path().symlink_metadata() else {
            continue;
        };
        let ours = geteuid().is_root() || about.uid() == geteuid().as_raw();
        if about.is_dir() && ours && started(process) != Some(start) {
            end_all_in(&entry.path());
            // What cannot be removed now is tried by the next drill.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The processes whose working directory lies in `place`.
fn all_in(place: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    processes
        .filter(|entry| {
            fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(place))
        })
        .filter_map(|entry| Pid::from_raw(number(&entry)?))
        .collect()
}

fn end_all_in(place: &Path) {
    for step in 0..=ENDING_STEPS {
        let left = all_in(place);
        let signal = match step {
            0 => Signal::QUIT,
            ENDING_STEPS => Signal::KILL,
            _ => {
                if left.is_empty() {
                    return;
                }
                std::thread::sleep(ENDING_STEP);
                continue;
            }
        };
        for process in left {
            // One that has just ended needs no signal.
            let _ = kill_process(process, signal);
        }
    }
    std::thread::sleep(ENDING_STEP);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_dead_drills_left_is_swept_with_what_runs_in_it() {
        let root = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let start = started(own).unwrap();
        let place = |name: String| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let dead = place(format!("{PREFIX}{own}-{}-x", start + 1));
        let gone = place(format!("{PREFIX}4194999-7-x"));
        let living = place(format!("{PREFIX}{own}-{start}-x"));
        let other = place(format!("{PREFIX}abc"));
        let mut left = Command::new("sleep")
            .arg("600")
            .current_dir(fs::canonicalize(&dead).unwrap())
            .spawn()
            .unwrap();
        sweep(&fs::canonicalize(root.path()).unwrap());
        assert!(!dead.exists() && !gone.exists());
        assert!(living.exists() && other.exists());
        assert!(!left.wait().unwrap().success(), "it was ended by a signal");
    }
}
