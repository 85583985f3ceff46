//! A database server of our own: started from the programs of this host, ended with its directory.
//!
//! Where we are root it runs as the engine's own user, which the engines demand. Invariant: the
//! server listens on nothing but a socket in a directory that only its user may enter, and neither
//! outlives this value, however it goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::failure::{AnyFailure, Class};

/// How long a server may take to end before it is killed.
const ENDING_STEPS: u32 = 200;
const ENDING_STEP: Duration = Duration::from_millis(50);
/// How much of a server's log is told.
const LOG_LINES_TOLD: usize = 3;
/// Where programs are looked for besides `PATH`.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

/// A directory for a server, and the server in it.
pub struct Own {
    directory: TempDir,
    /// Who owns the directory and runs the programs, where that is not us.
    user: Option<(u32, u32)>,
    child: Option<Child>,
    ending: Signal,
}

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At once, nothing being kept: what PostgreSQL calls immediate.
    Quit,
    /// At once, without a word.
    Kill,
}

impl Own {
    /// A new directory that only `user` (where we are root) or we may enter.
    ///
    /// # Errors
    /// Missing: this host has no such user. Denied, Transient: no directory can be made.
    pub fn new(user: &str, ending: Ending) -> Result<Own, AnyFailure> {
        let user = match rustix::process::geteuid().is_root() {
            false => None,
            true => Some(ids_of(user)?),
        };
        let directory =
            super::room::make().map_err(|error| unmade(&std::env::temp_dir(), &error))?;
        let path = directory.path().to_owned();
        let own = Own {
            directory,
            user,
            child: None,
            ending: match ending {
                Ending::Quit => Signal::QUIT,
                Ending::Kill => Signal::KILL,
            },
        };
        let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        private
            .and_then(|()| own.give(&path))
            .map_err(|error| unmade(&path, &error))?;
        Ok(own)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some((user, group)) => chown(path, Some(user), Some(group)),
            None => Ok(()),
        }
    }

    /// Writes a file in the directory that only the server's user may read.
    ///
    /// # Errors
    /// Transient: it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, AnyFailure> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path().join(name);
        let mut options = fs::OpenOptions::new();
        options.create_new(true).write(true).mode(0o600);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| self.give(&path));
        written.map_err(|error| unmade(&path, &error))?;
        Ok(path)
    }

    /// A program that runs as the server's user, with an environment of its own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .env("TMPDIR", self.path())
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// Transient, with what it said last.
    pub async fn run(&self, command: Command, doing: &str) -> Result<(), AnyFailure> {
        let mut command = tokio::process::Command::from(command);
        let output = command.kill_on_drop(true).output().await;
        let failed = |what: String| {
            let what = format!("{doing} failed: {what}");
            let hint =
                "set TMPDIR to a directory that the server's user can reach, with room in it";
            AnyFailure::new(Class::Transient, what, Some(hint.into()))
        };
        let output = output.map_err(|error| failed(error.to_string()))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = [output.stdout, output.stderr].concat();
                Err(failed(last_lines(&String::from_utf8_lossy(&said))))
            }
        }
    }

    /// Starts the server; what it says goes to a log in the directory.
    ///
    /// # Errors
    /// Transient: it cannot be started.
    pub fn start(&mut self, mut command: Command) -> Result<(), AnyFailure> {
        let path = self.path().join("server.log");
        let log = || File::options().create(true).append(true).open(&path);
        let started = log().and_then(|out| {
            let child = command.stdout(out).stderr(log()?).spawn()?;
            Ok(child)
        });
        let child = started.map_err(|error| {
            let what = format!("the scratch server cannot be started: {error}");
            AnyFailure::new(Class::Transient, what, None)
        })?;
        self.child = Some(child);
        Ok(())
    }

    /// Why the server ended, if it did.
    ///
    /// # Errors
    /// Transient, with what it said last.
    pub fn check_running(&mut self) -> Result<(), AnyFailure> {
        let ended: Option<ExitStatus> = match &mut self.child {
            Some(child) => child.try_wait().ok().flatten(),
            None => None,
        };
        let Some(status) = ended else { return Ok(()) };
        Err(AnyFailure::new(
            Class::Transient,
            format!("the scratch server ended with {status}: {}", self.log()),
            Some("free memory and disk, or give --scratch the address of another server".into()),
        ))
    }

    /// What the server said last.
    pub fn log(&self) -> String {
        let log = fs::read(self.path().join("server.log")).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&log))
    }

    /// The bytes that the directory takes on the disk.
    pub fn bytes(&self) -> u64 {
        let mut sum = 0;
        let mut waiting = vec![self.path().to_owned()];
        while let Some(directory) = waiting.pop() {
            // Files come and go while a server runs.
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(about) if about.is_dir() => waiting.push(entry.path()),
                    Ok(about) => sum += about.blocks() * 512,
                    Err(_) => {}
                }
            }
        }
        sum
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // A process that ended is not waited for twice, so that its number is still its own here.
        let _ = kill_process(Pid::from_child(&child), self.ending);
        for _ in 0..ENDING_STEPS {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(ENDING_STEP),
                _ => return,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Ends the server and takes the directory away.
    ///
    /// # Errors
    /// Transient: something of the directory is left, by name.
    pub async fn end(mut self) -> Result<(), AnyFailure> {
        let path = self.path().to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            self.stop();
            remove(self.path())
        });
        let ended = ended.await.map_err(io::Error::other);
        ended.and_then(|removed| removed).map_err(|error| {
            let what = format!("{} could not be taken away: {error}", path.display());
            AnyFailure::new(Class::Transient, what, Some("remove it by hand".into()))
        })
    }
}

/// Children of a server that was ended may still be closing their files.
fn remove(path: &Path) -> io::Result<()> {
    for step in 0.. {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if step >= ENDING_STEPS => return Err(error),
            Err(_) => std::thread::sleep(ENDING_STEP),
        }
    }
    Ok(())
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
            // Nobody is left to be told; the directory is tried once more when it is dropped.
            let _ = remove(self.directory.path());
        }
    }
}

fn unmade(path: &Path, error: &io::Error) -> AnyFailure {
    let class = match error.kind() {
        io::ErrorKind::PermissionDenied => Class::Denied,
        _ => Class::Transient,
    };
    let what = format!(
        "{} cannot be made for a scratch server: {error}",
        path.display()
    );
    AnyFailure::new(class, what, Some("set TMPDIR to another directory".into()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(LOG_LINES_TOLD)..].join("; ")
}

/// The numbers of a user of this host and of its group.
fn ids_of(user: &str) -> Result<(u32, u32), AnyFailure> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line
            .strip_prefix(user)?
            .strip_prefix(':')?
            .split(':')
            .skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    found.ok_or_else(|| {
        AnyFailure::new(
            Class::Missing,
            format!("this host has no user {user}, as whom a scratch server would run"),
            Some("install the server's package, run as another user than root, or give --scratch URL".into()),
        )
    })
}

/// The first of `names` that is a program of this host.
pub fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(PLACES.map(PathBuf::from));
    names.iter().find_map(|name| {
        let mut files = places.iter().map(|place| place.join(name));
        files.find(|file| file.is_file())
    })
}
