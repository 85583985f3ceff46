//! Opening a database file to read it, without changing a byte of it.
//!
//! The file is opened read-only, defensively, and never checkpointed. What cannot be read in
//! place — a hot rollback journal, a -wal in a directory that may not be written — is copied
//! into a private directory and recovered there. Invariant: nothing here writes to the file, its
//! -wal or its -journal; a copy is kept only if the original stood still meanwhile.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use rustix::fs::{Access, FlockOperation, access, fcntl_lock};
use tempfile::TempDir;

use super::Error;

/// How long another process may hold a lock before the file counts as locked.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What must live and be checked as long as a file is read.
pub struct Opened {
    /// The database file itself, through all links.
    pub path: PathBuf,
    copy: Option<TempDir>,
    still: Option<Stamp>,
}

impl Opened {
    /// Whether rows come from a private copy.
    pub fn is_copy(&self) -> bool {
        self.copy.is_some()
    }

    /// Checks that a file that is read without locks is still as it was.
    ///
    /// # Errors
    /// [`Error::Changed`]
    pub fn check_still(&self) -> Result<(), Error> {
        match &self.still {
            Some(stamp) if *stamp != Stamp::of(&self.path) => Err(Error::Changed {
                path: self.path.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Opens the database at `path` for reading, with a read transaction begun on it.
///
/// # Errors
/// Missing, NotAFile, NotADatabase, Damaged, Locked, Denied, Full, Changed.
pub fn open(path: &Path) -> Result<(Connection, Opened), Error> {
    let real = fs::canonicalize(path).map_err(|error| Error::from_io(path, "opening", error))?;
    let about = fs::metadata(&real).map_err(|error| Error::from_io(path, "opening", error))?;
    if !about.is_file() {
        return Err(Error::NotAFile { path: real });
    }
    if access(&real, Access::READ_OK).is_err() {
        return Err(Error::Denied {
            path: real,
            what: "it may not be read".into(),
        });
    }
    let opened = |copy, still| Opened {
        path: real.clone(),
        copy,
        still,
    };
    if would_leave_foreign_files(&real, &about) {
        let (connection, copy) = open_copy(&real)?;
        return Ok((connection, opened(Some(copy), None)));
    }
    match begin(&real, Place::Shared) {
        Ok(connection) => Ok((connection, opened(None, None))),
        Err(error) if !must_not_be_read_in_place(&error) => {
            Err(Error::from_sqlite(&real, "opening it", error))
        }
        Err(_) if is_quiet_and_unwritable(&real) => {
            let stamp = Stamp::of(&real);
            let connection = begin(&real, Place::Immutable)
                .map_err(|error| Error::from_sqlite(&real, "opening it", error))?;
            Ok((connection, opened(None, Some(stamp))))
        }
        Err(_) => {
            let (connection, copy) = open_copy(&real)?;
            Ok((connection, opened(Some(copy), None)))
        }
    }
}

/// Opens the database at `path` for writing, with a transaction begun that nobody else can write
/// beside. Triggers and foreign key actions are off, and nothing is checkpointed.
///
/// # Errors
/// As [`open`]; Denied where the file may not be written.
pub fn open_to_write(path: &Path) -> Result<(Connection, PathBuf), Error> {
    let real = fs::canonicalize(path).map_err(|error| Error::from_io(path, "opening", error))?;
    let about = fs::metadata(&real).map_err(|error| Error::from_io(path, "opening", error))?;
    if !about.is_file() {
        return Err(Error::NotAFile { path: real });
    }
    if access(&real, Access::WRITE_OK).is_err() {
        return Err(Error::Denied {
            path: real,
            what: "it may not be written".into(),
        });
    }
    let begin = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&real, flags)?;
        harden(&connection)?;
        connection.execute_batch("PRAGMA foreign_keys=OFF; BEGIN IMMEDIATE")?;
        Ok(connection)
    };
    let connection = begin().map_err(|error| Error::from_sqlite(&real, "opening it", error))?;
    Ok((connection, real))
}

/// `path` with `suffix` at its end, as SQLite names the files beside a database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[derive(Clone, Copy)]
enum Place {
    /// Other processes may write to it; locks hold.
    Shared,
    /// Nobody writes to it; no locks are taken.
    Immutable,
}

fn begin(path: &Path, place: Place) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match place {
        Place::Shared => Connection::open_with_flags(path, flags)?,
        Place::Immutable => {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(path), flags)?
        }
    };
    harden(&connection)?;
    connection.execute_batch("PRAGMA query_only=ON; BEGIN")?;
    // A deferred transaction begins with its first read.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Settings under which a file from anywhere may be read.
fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    connection.busy_timeout(LOCK_WAIT)?;
    connection
        .execute_batch("PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA cache_size=-4096;")
}

fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                uri.push(char::from(*byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Whether `error` says that reading needs a recovery or files beside that cannot be had here.
fn must_not_be_read_in_place(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(error, _) = error else {
        return false;
    };
    matches!(
        error.extended_code,
        ffi::SQLITE_READONLY_ROLLBACK
            | ffi::SQLITE_READONLY_RECOVERY
            | ffi::SQLITE_READONLY_CANTINIT
            | ffi::SQLITE_READONLY_CANTLOCK
            | ffi::SQLITE_READONLY_DIRECTORY
            | ffi::SQLITE_CANTOPEN
    )
}

fn is_quiet_and_unwritable(path: &Path) -> bool {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let holds = |suffix| fs::metadata(beside(path, suffix)).is_ok_and(|m| m.len() > 0);
    access(directory, Access::WRITE_OK).is_err() && !holds("-wal") && !holds("-journal")
}

/// A reader of a database in WAL mode makes a -wal and -shm where there are none. Made by
/// another user than the owner they could shut the owner out.
fn would_leave_foreign_files(path: &Path, about: &fs::Metadata) -> bool {
    let user = rustix::process::geteuid();
    if user.is_root() || user.as_raw() == about.uid() || beside(path, "-shm").exists() {
        return false;
    }
    let mut header = [0; 20];
    let read =
        fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut header));
    read.is_ok() && header[18] == 2
}

fn open_copy(path: &Path) -> Result<(Connection, TempDir), Error> {
    let failed = |error| Error::from_io(path, "copying it", error);
    let directory = private_directory().map_err(failed)?;
    let copy = directory.path().join("copy.db");
    let before = Stamp::of(path);
    copy_locked(path, &copy)?;
    if Stamp::of(path) != before {
        return Err(Error::Changed {
            path: path.to_owned(),
        });
    }
    recover(&copy).map_err(|error| Error::from_sqlite(path, "recovering a copy", error))?;
    let connection = begin(&copy, Place::Shared)
        .map_err(|error| Error::from_sqlite(path, "opening a copy", error))?;
    Ok((connection, directory))
}

/// A directory of our own; the usual mode would let everybody look in.
fn private_directory() -> std::io::Result<TempDir> {
    let only_us = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .prefix("rowvault-")
        .permissions(only_us)
        .tempdir()
}

/// Copies the database and what lies beside it, while a shared lock keeps others from
/// recovering or committing.
fn copy_locked(path: &Path, copy: &Path) -> Result<(), Error> {
    let failed = |error| Error::from_io(path, "copying it", error);
    let mut database = fs::File::open(path).map_err(failed)?;
    fcntl_lock(&database, FlockOperation::NonBlockingLockShared).map_err(|_| Error::Locked {
        path: path.to_owned(),
    })?;
    let make = |path: &Path| {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(path)
    };
    let mut target = make(copy).map_err(failed)?;
    std::io::copy(&mut database, &mut target).map_err(failed)?;
    for suffix in ["-wal", "-journal"] {
        match fs::File::open(beside(path, suffix)) {
            Ok(mut file) => {
                let mut target = make(&beside(copy, suffix)).map_err(failed)?;
                std::io::copy(&mut file, &mut target).map_err(failed)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Lets SQLite roll a hot journal back, in the copy.
fn recover(copy: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)?;
    harden(&connection)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// What tells that a file and those beside it were changed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([Option<FileStamp>; 3]);

#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds of the last change of the bytes, and of the file.
    changed: [i64; 4],
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let of = |path: PathBuf| {
            let about = fs::metadata(path).ok()?;
            Some(FileStamp {
                inode: about.ino(),
                length: about.len(),
                changed: [
                    about.mtime(),
                    about.mtime_nsec(),
                    about.ctime(),
                    about.ctime_nsec(),
                ],
            })
        };
        Stamp(["", "-wal", "-journal"].map(|suffix| of(beside(path, suffix))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_private() {
        let place = TempDir::new().unwrap();
        let path = place.path().join("a?b #%41.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t(x)").unwrap();
        drop(db);
        let (connection, copy) = open_copy(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(copy.path()), 0o700);
        assert_eq!(mode(&copy.path().join("copy.db")), 0o600);
        drop(connection);
        let directory = copy.path().to_owned();
        drop(copy);
        assert!(!directory.exists());
    }

    #[test]
    fn file_of_any_name_is_read_without_locks() {
        let place = TempDir::new().unwrap();
        let path = place.path().join("a?b #%41ż.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)")
            .unwrap();
        drop(db);
        let connection = begin(&path, Place::Immutable).unwrap();
        let count = "SELECT count(*) FROM sqlite_schema";
        let count: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        assert_eq!(
            fs::read_dir(place.path()).unwrap().count(),
            1,
            "a file was made"
        );
        let opened = Opened {
            path: path.clone(),
            copy: None,
            still: Some(Stamp::of(&path)),
        };
        opened.check_still().unwrap();
        fs::write(beside(&path, "-wal"), "somebody began to write").unwrap();
        assert!(matches!(opened.check_still(), Err(Error::Changed { .. })));
    }
}
