//! What a command costs: CPU of all its processes, wall time, peak memory.
//!
//! Each command is a line of shell run under GNU time, which waits for the whole tree of processes,
//! so that a pipe is charged with both its ends. Invariant: a command that fails ends the run; a
//! figure of a failed command is never printed.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// GNU time, from the Debian package of that name; the shell's own knows no memory.
const TIME: &str = "/usr/bin/time";

/// Whether commands can be measured on this machine; says what is missing.
pub fn can_run() -> bool {
    let found = Path::new(TIME).is_file();
    if !found {
        println!("{TIME} is missing (apt-get install time): the benchmark was not tried");
    }
    found
}

/// What a command cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// User and system seconds of all processes that were started.
    pub cpu: f64,
    /// Seconds from start to end.
    pub wall: f64,
    /// The largest resident set of any one of the processes, in MiB.
    pub peak: f64,
}

/// Runs commands with one environment.
pub struct Meter {
    scratch: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Meter {
    /// A meter that keeps its notes in `scratch`.
    pub fn new(scratch: &Path) -> Meter {
        assert!(
            Path::new(TIME).is_file(),
            "{TIME} is missing: apt-get install time"
        );
        Meter {
            scratch: scratch.into(),
            environment: Vec::new(),
        }
    }

    /// Where it keeps its notes; large files may lie there for a while.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Gives every command the variable `name`.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Runs `line` in bash and returns its cost and what it printed.
    pub fn run(&self, line: &str) -> (Cost, String) {
        let notes = self.scratch.join("time");
        let output = Command::new(TIME)
            .args(["-q", "-f", "%e %U %S %M", "-o"])
            .arg(&notes)
            .args(["bash", "-o", "pipefail", "-ec", line])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("GNU time runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}\nfailed: {said}");
        let noted = fs::read_to_string(&notes).expect("GNU time has written its notes");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (cost(&noted), printed)
    }
}

fn cost(noted: &str) -> Cost {
    let figures: Vec<f64> = noted
        .split_whitespace()
        .map(|figure| figure.parse().expect("GNU time writes numbers"))
        .collect();
    let &[wall, user, system, kilobytes] = figures.as_slice() else {
        panic!("GNU time wrote {noted:?}");
    };
    Cost {
        cpu: user + system,
        wall,
        peak: kilobytes / 1024.0,
    }
}

/// The bytes of all files below `directory`; 0 where there is none.
pub fn stored(directory: &Path) -> u64 {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return 0,
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    let sizes = entries.map(|entry| {
        let entry = entry.expect("the directory can be read");
        let metadata = entry.metadata().expect("nothing else writes there");
        match metadata.is_dir() {
            true => stored(&entry.path()),
            false => metadata.len(),
        }
    });
    sizes.sum()
}

/// What a server uses while something is done, whatever ends meanwhile.
pub struct Watch {
    pid: u32,
    before: f64,
    children: usize,
}

impl Watch {
    /// Begins to look at the server whose first process is `pid`.
    pub fn start(pid: u32) -> Watch {
        Watch {
            pid,
            before: server_cpu(pid),
            children: children(pid).len(),
        }
    }

    /// CPU seconds since. A backend lives on for a moment after its client: it is waited for.
    pub fn end(self) -> f64 {
        for _ in 0..100 {
            if children(self.pid).len() <= self.children {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server_cpu(self.pid) - self.before
    }
}

/// What a server's processes have used so far: CPU seconds of `pid`, of the children it has waited
/// for, and of those that live. One that ends while this reads would count twice or not at all;
/// then all is read again.
pub fn server_cpu(pid: u32) -> f64 {
    loop {
        let waited_for = ticks(pid, WAITED_FOR);
        let living: f64 = children(pid).iter().map(|&child| ticks(child, ALL)).sum();
        if ticks(pid, WAITED_FOR) == waited_for {
            return (living + waited_for + ticks(pid, OWN)) / TICKS_PER_SECOND;
        }
    }
}

/// What one process has used so far, without its children: CPU seconds.
pub fn process_cpu(pid: u32) -> f64 {
    ticks(pid, OWN) / TICKS_PER_SECOND
}

fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// Linux shows times to programs in hundredths, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;
/// Of utime, stime, cutime and cstime: what a process has used itself,
const OWN: Range<usize> = 0..2;
/// what the children had used that it has waited for,
const WAITED_FOR: Range<usize> = 2..4;
/// and both.
const ALL: Range<usize> = 0..4;

/// The sum of utime, stime, cutime and cstime of `pid`, as far as `which` takes them.
fn ticks(pid: u32, which: Range<usize>) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name stands in brackets and may hold anything; after it, utime is the 12th field.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let times = after.split_whitespace().skip(11 + which.start);
    let times = times.take(which.len());
    times.filter_map(|time| time.parse::<f64>().ok()).sum()
}

/// The first line that `program` prints of its version; nothing where it is not installed.
pub fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}
