//! Files that hold a key: key files and recovery sheets.
//!
//! Read only where nobody else can read them, written readable for their owner alone. A new one is
//! staged beside its place before the repository knows its key, and published after. Invariant: no
//! file is overwritten, and no key that the repository knows exists in memory only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Error;
use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::keyslot::text::{KeyFile, SlotKey, TEXT_BYTES_MAX};
use crate::store::Store;

const OTHERS: u32 = 0o077;

/// Reads a key file.
///
/// # Errors
/// Invalid: others can read it, it is no text, or holds no key; the file system's.
pub fn read_key_file(path: &Path) -> Result<KeyFile, Error> {
    Ok(KeyFile::parse(&read(path, TEXT_BYTES_MAX)?)?)
}

fn read(path: &Path, most: usize) -> Result<Zeroizing<String>, Error> {
    let refused = |source| error("read", path, source);
    let file = File::open(path).map_err(refused)?;
    let facts = file.metadata().map_err(refused)?;
    // A pipe or a descriptor handed over by a shell has no mode that means anything.
    if facts.is_file() && facts.mode() & OTHERS != 0 {
        return Err(Error::FileOpen {
            path: path.to_owned(),
            mode: facts.mode() & 0o777,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(refused)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() <= most => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(Error::FileContent {
            path: path.to_owned(),
            most,
        }),
    }
}

/// A new file that is durable under another name, and waits for its own.
pub struct Staged {
    path: PathBuf,
    beside: PathBuf,
}

impl Staged {
    /// Writes `text` beside `path`, in place of what an earlier run staged there.
    ///
    /// # Errors
    /// Conflict: a file stands at `path`; the file system's.
    pub fn write(path: &Path, text: &str) -> Result<Staged, Error> {
        if path.symlink_metadata().is_ok() {
            let path = path.to_owned();
            return Err(Error::FileExists { path });
        }
        let beside = beside(path);
        let refused = |source| error("write", &beside, source);
        match fs::remove_file(&beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(refused(source));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .map_err(refused)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_directory(path))
            .map_err(refused)?;
        Ok(Staged {
            path: path.to_owned(),
            beside,
        })
    }

    /// What an earlier run staged for `path` and did not publish, and the key in it. None where
    /// there is nothing, or nothing that could be published.
    pub fn find(path: &Path) -> Option<(Staged, KeyFile)> {
        let beside = beside(path);
        let key = read_key_file(&beside).ok()?;
        let path = path.to_owned();
        path.symlink_metadata().is_err().then_some(())?;
        Some((Staged { path, beside }, key))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Conflict: a file came to stand there; the file system's. The staged file then stays.
    pub fn publish(self) -> Result<PathBuf, Error> {
        // A link is refused where a file stands; a rename would take its place.
        match fs::hard_link(&self.beside, &self.path) {
            Ok(()) => fs::remove_file(&self.beside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::FileExists { path: self.path });
            }
            // Some file systems know no second name.
            Err(_) => fs::rename(&self.beside, &self.path),
        }
        .and_then(|()| sync_directory(&self.path))
        .map_err(|source| error("write", &self.path, source))?;
        Ok(self.path)
    }

    /// Hands on what the repository answered, and takes the file away where it certainly does not
    /// know the key.
    ///
    /// # Errors
    /// Those of `answer`.
    pub fn keep_if<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        answer.inspect_err(|error| {
            if !matches!(error.class(), Class::Unsettled | Class::Corrupt) {
                // What stays is overwritten by the next run, and opens nothing.
                let _ = fs::remove_file(&self.beside);
            }
        })
    }
}

/// The recovery sheet for `key`, which names the storage so that it is found from anywhere.
pub fn recovery_sheet(key: &SlotKey, store: &Store, printed: Timestamp) -> Zeroizing<String> {
    let url = store.url();
    let whole = match url.contains("://") || url == "memory:" {
        true => None,
        false => std::path::absolute(url).ok(),
    };
    let url = whole.map_or_else(|| url.to_owned(), |path| path.display().to_string());
    key.recovery_sheet(&url, printed)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}
