//! A desk for the real binary: a directory with a sample CRM, a repository and its key file.
//!
//! The commands of a desk see nothing of this machine but PATH, so that no configuration or key
//! of whoever runs the tests gets in.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rowvault::demo::fill;
use rowvault::sample::Sample;
use serde_json::Value;
use tempfile::TempDir;

/// A directory that commands run in.
pub struct Desk {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it told on stderr.
    pub err: String,
}

impl Ran {
    /// The one document that it printed.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// That it was refused so, in three lines at most, with nothing on stdout.
    pub fn refused(&self, code: i32, word: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(word), "{word:?} is not in {self:?}");
        assert!((1..=3).contains(&self.err.lines().count()), "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }
}

impl Desk {
    /// A desk with a sample CRM of about 1,500 rows in `crm.db` and nothing else.
    pub fn bare() -> Desk {
        let directory = crate::tiny::directory();
        let sample = Sample::new(7, 0.0004);
        fill::sqlite(&directory.path().join("crm.db"), &sample).unwrap();
        Desk {
            directory,
            environment: Vec::new(),
        }
    }

    /// A desk with a repository in `repo`, opened by `owner.key`.
    pub fn with_repository() -> Desk {
        let desk = Desk::bare();
        let made = desk.run(&["init", "--recovery-out", "sheet.txt", "-q"]);
        assert_eq!((made.code, &*made.out), (0, ""), "{made:?}");
        desk
    }

    /// A desk with a repository and a first snapshot of `crm.db`.
    pub fn with_snapshot() -> Desk {
        let desk = Desk::with_repository();
        let taken = desk.run(&["backup", "sqlite:crm.db", "-q"]);
        assert_eq!(taken.code, 0, "{taken:?}");
        desk
    }

    /// Lets every command see this variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A file of the desk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that nobody else may read.
    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A command that opens `repo` with `owner.key`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rowvault"));
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("ROWVAULT_REPO", "repo")
            .env("ROWVAULT_KEY_FILE", "owner.key")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    /// Runs a command with another key file.
    pub fn run_as(&self, key: &str, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        command.env("ROWVAULT_KEY_FILE", key);
        ran(command)
    }

    /// Turns one bit over in every pack.
    pub fn damage_packs(&self) {
        for folder in self.names("repo/packs") {
            for name in self.names(&format!("repo/packs/{folder}")) {
                let path = self.path(&format!("repo/packs/{folder}/{name}"));
                let mut bytes = std::fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                // Packs may only be read.
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }

    /// Everything that stands at the desk, below `name`.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Runs a command to its end.
pub fn ran(mut command: Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ran {
        code: status.code().expect("no signal ends it"),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// The names of an object's fields, in order.
pub fn fields(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// Copies a directory with all that is in it.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}
