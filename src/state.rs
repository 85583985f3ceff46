//! The local state directory: heads, caches, shadows, job history; a cache, rebuilt when lost.
//!
//! Files are replaced by renaming, so that a reader sees the old or the new one and takes no
//! lock; a writer of a source holds that source's lock. Invariant: nothing here is needed to
//! restore, and what stands here is sealed by its owner before it comes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Class, Failure};
use crate::id::{RepositoryId, hex};
use crate::random::{Random, draw};

/// Why local state could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process of this host holds the lock.
    #[error("{what} is running already on this host")]
    Locked {
        /// What the lock stands for.
        what: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Locked { .. } => Class::Busy,
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Class::Denied
                }
                _ => Class::Transient,
            },
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Locked { .. } => Some("wait for it to end".into()),
            Error::Io { .. } => Some("--state-dir names another directory".into()),
        }
    }
}

/// The state of one repository on this host.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

/// A lock that is held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    // Closing the file is not enough: a child that is being started at this moment holds it too.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl State {
    /// The state of `repository` under `root`, which is made, readable for its owner only.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn open(root: &Path, repository: &RepositoryId) -> Result<State, Error> {
        State::at(root.join(repository.to_string()))
    }

    fn at(directory: PathBuf) -> Result<State, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| io_error("make", &directory, source))?;
        Ok(State { directory })
    }

    /// The daemon's own state under `root`, which belongs to no repository.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn of_daemon(root: &Path) -> Result<State, Error> {
        State::at(root.join("daemon"))
    }

    /// Where the file `name` (with `/` between its parts) stands.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The content of `name`; none where there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    /// The names of the files in `folder`, which need not exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn names(&self, folder: &str) -> Result<Vec<String>, Error> {
        let path = self.path(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names
            .collect::<io::Result<Vec<String>>>()
            .map_err(|source| io_error("read", &path, source))
    }

    /// Replaces `name`, durably and at once.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file then still stands.
    pub fn write(&self, name: &str, bytes: &[u8], random: &dyn Random) -> Result<(), Error> {
        self.replace(name, bytes, File::sync_all, random)?;
        let path = self.path(name);
        let parent = path.parent().unwrap_or(&self.directory);
        File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| io_error("write", parent, source))
    }

    /// Replaces `name` at once, but not durably: for what can be had again.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file then still stands.
    pub fn keep(&self, name: &str, bytes: &[u8], random: &dyn Random) -> Result<(), Error> {
        self.replace(name, bytes, |_| Ok(()), random)
    }

    fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        settle: fn(&File) -> io::Result<()>,
        random: &dyn Random,
    ) -> Result<(), Error> {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(&self.directory);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(|source| io_error("make", parent, source))?;
        let beside = parent.join(format!(".{}.part", hex(&draw::<8>(random))));
        let mut options = OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600);
        let written = file.open(&beside).and_then(|mut file| {
            file.write_all(bytes)?;
            settle(&file)?;
            fs::rename(&beside, &path)
        });
        written.map_err(|source| {
            let _ = fs::remove_file(&beside);
            io_error("write", &path, source)
        })
    }

    /// Removes the oldest files of `folder` until the others have at most `bytes_max` together.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn trim(&self, folder: &str, bytes_max: u64) -> Result<(), Error> {
        let mut files = Vec::new();
        for name in self.names(folder)? {
            let path = self.path(folder).join(&name);
            // Another process may trim too.
            let Ok(facts) = path.metadata() else { continue };
            files.push((facts.modified().ok(), facts.len(), path));
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, own, path) in files {
            if bytes <= bytes_max {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path, error));
                }
                _ => bytes -= own,
            }
        }
        Ok(())
    }

    /// Makes a new file `name`, which must not be there, to be written by and by. It is not
    /// durable until its writer syncs it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(&self, name: &str) -> Result<File, Error> {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(&self.directory).to_path_buf();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&parent)
            .map_err(|source| io_error("make", &parent, source))?;
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io_error("write", &path, source))
    }

    /// Opens the file `name` to be read by and by; none where there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_file(&self, name: &str) -> Result<Option<File>, Error> {
        let path = self.path(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    /// Removes `name`; that it is not there is fine.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// Puts the file `from` in the place of `to`, at once but not durably.
    ///
    /// # Errors
    /// [`Error::Io`]; both then still stand.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (self.path(from), self.path(to));
        fs::rename(&from, &to).map_err(|source| io_error("write", &to, source))
    }

    /// Takes the lock `name` without waiting; `what` says what it stands for.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process holds it.
    pub fn lock(&self, name: &str, what: &str) -> Result<Lock, Error> {
        let path = self.path(&format!("{name}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io_error("open", &path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { what: what.into() }),
            Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path, source)),
        }
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    #[test]
    fn trimming_drops_the_oldest_files() {
        let root = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(1);
        let state = State::open(root.path(), &RepositoryId([1; 16])).unwrap();
        for (name, age) in [("runs/new", 1), ("runs/old", 3), ("runs/middle", 2)] {
            state.keep(name, &[7; 100], &random).unwrap();
            let file = File::options().write(true).open(state.path(name)).unwrap();
            let epoch = std::time::SystemTime::UNIX_EPOCH;
            let time = epoch + std::time::Duration::from_secs(1_000_000 - age);
            file.set_modified(time).unwrap();
        }
        state.trim("runs", 250).unwrap();
        state.trim("nothing", 0).unwrap();
        let mut left = state.names("runs").unwrap();
        left.sort();
        assert_eq!(left, ["middle", "new"]);
    }

    #[test]
    fn state_reads_what_was_written_last_and_locks_once() {
        let root = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(1);
        let state = State::open(root.path(), &RepositoryId([1; 16])).unwrap();
        assert_eq!(state.read("a/b").unwrap(), None);
        state.write("a/b", b"one", &random).unwrap();
        state.write("a/b", b"two", &random).unwrap();
        assert_eq!(state.read("a/b").unwrap().as_deref(), Some(&b"two"[..]));
        let files = fs::read_dir(state.path("a")).unwrap().count();
        assert_eq!(files, 1, "a part file was left behind");
        let held = state.lock("source", "a backup").unwrap();
        assert!(matches!(
            state.lock("source", "a backup"),
            Err(Error::Locked { .. })
        ));
        drop(held);
        state.lock("source", "a backup").unwrap();
    }
}
