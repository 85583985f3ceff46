//! A SQLite file that is exchanged in place: other connections keep it open and stay right.
//!
//! The old database is copied, then SQLite itself writes the new pages over it in one transaction
//! of its own. Where something was committed since the copy, the copy is made again under the
//! lock of that transaction. Invariant: the copy that is kept has every commit that was ever
//! answered; a run that dies leaves the file to SQLite's own recovery.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Error;
use super::file::{LOCK_WAIT, beside};
use crate::clock::Clock;
use crate::failure::{AnyFailure, Class};
use crate::planted::reach;
use crate::source::address::{SourceOptions, SourceUrl};
use crate::source::{Exchange, Exchanged, Keep, Others, Settled, Swap};

/// How long to wait for the lock where transactions of others may end first.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The header of a file, which SQLite changes by itself.
const HEADER_BYTES: usize = 100;
/// Files that may stand beside a database.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];
/// How many broken references are counted at most.
const BROKEN_MAX: usize = 1000;

/// A live database file.
pub struct SqliteSwap {
    path: PathBuf,
    clock: Arc<dyn Clock>,
}

impl SqliteSwap {
    /// The file at `path`; nothing is opened yet.
    pub fn new(path: &Path, options: &SourceOptions) -> Self {
        // Through all links, so that what is made beside stands beside the file itself.
        let real = fs::canonicalize(path);
        SqliteSwap {
            path: real.unwrap_or_else(|_| path.to_owned()),
            clock: options.clock.clone(),
        }
    }

    fn side(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }
}

#[async_trait]
impl Swap for SqliteSwap {
    async fn place(&mut self) -> Result<String, AnyFailure> {
        let about = fs::metadata(&self.path);
        let about = about.map_err(|error| Error::from_io(&self.path, "looking at it", error))?;
        match about.is_file() {
            true => Ok(SourceUrl::Sqlite(self.path.clone()).display()),
            false => Err(Error::NotAFile {
                path: self.path.clone(),
            }
            .into()),
        }
    }

    fn beside(&self, mark: &str) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        match self.path.extension() {
            Some(extension) => format!("{stem}_{mark}.{}", extension.to_string_lossy()),
            None => format!("{stem}_{mark}"),
        }
    }

    async fn check(&mut self, names: &Exchange, _: Others) -> Result<(), AnyFailure> {
        let (live, names) = (self.path.clone(), names.clone());
        let kept = self.side(&names.kept);
        blocking(move || check(&live, &kept)).await
    }

    async fn broken_references(&mut self, name: &str) -> Result<Vec<String>, AnyFailure> {
        let path = self.side(name);
        blocking(move || broken_references(&path)).await
    }

    async fn exchange(
        &mut self,
        names: &Exchange,
        others: Others,
        _: Keep<'_>,
    ) -> Result<Exchanged, AnyFailure> {
        let work = Work {
            live: self.path.clone(),
            side: self.side(&names.side),
            kept: self.side(&names.kept),
            wait: match others {
                Others::Wait => PATIENCE,
                Others::Respect | Others::End => LOCK_WAIT,
            },
            clock: self.clock.clone(),
        };
        blocking(move || work.exchange()).await
    }

    async fn settle(&mut self, names: &Exchange) -> Result<Settled, AnyFailure> {
        let (live, side, kept) = (
            self.path.clone(),
            self.side(&names.side),
            self.side(&names.kept),
        );
        blocking(move || settle(&live, &side, &kept)).await
    }

    async fn remove(&mut self, name: &str) -> Result<(), AnyFailure> {
        let path = self.side(name);
        debug_assert_ne!(path, self.path);
        blocking(move || remove(&path)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, AnyFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| {
        let what = format!("exchanging a SQLite file ended early: {error}");
        AnyFailure::new(Class::Bug, what, None)
    })?;
    Ok(done?)
}

/// Opens a file of ours, or the live one, with no wish to checkpoint it.
fn open(path: &Path, flags: OpenFlags, wait: Duration) -> Result<Connection, Error> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.busy_timeout(wait)?;
        connection.execute_batch("PRAGMA mmap_size=0; PRAGMA wal_autocheckpoint=0")?;
        Ok(connection)
    };
    open().map_err(|error| Error::from_sqlite(path, "opening it", error))
}

const READ: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY;
const WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE;

fn check(live: &Path, kept: &Path) -> Result<(), Error> {
    for suffix in [""].iter().chain(&BESIDE) {
        let path = beside(kept, suffix);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Error::Taken { path });
        }
    }
    let directory = live.parent().unwrap_or(Path::new("/"));
    for path in [live, directory] {
        let may = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
        may.map_err(|_| Error::Denied {
            path: path.to_owned(),
            what: "it may not be written".into(),
        })?;
    }
    // Both the copy and SQLite's own journal may grow to the size of the file.
    let size = fs::metadata(live).map_err(|error| Error::from_io(live, "looking at it", error))?;
    let room = rustix::fs::statvfs(directory);
    let room = room.map_err(|error| Error::from_io(directory, "looking for room", error.into()))?;
    if room.f_bavail.saturating_mul(room.f_frsize) < size.len().saturating_mul(2) {
        return Err(Error::Full {
            path: kept.to_owned(),
        });
    }
    Ok(())
}

fn broken_references(path: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| Error::from_sqlite(path, "checking foreign keys", error);
    let connection = open(path, READ, LOCK_WAIT)?;
    let mut statement = connection
        .prepare("SELECT \"table\", parent FROM pragma_foreign_key_check")
        .map_err(failed)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut counts = std::collections::BTreeMap::<(String, String), u64>::new();
    for row in rows.map_err(failed)?.take(BROKEN_MAX) {
        *counts.entry(row.map_err(failed)?).or_default() += 1;
    }
    let sentence = |((table, parent), count): (&(String, String), &u64)| {
        format!("{count} rows of {table} refer to rows of {parent} that the snapshot has not")
    };
    Ok(counts.iter().map(sentence).collect())
}

fn remove(path: &Path) -> Result<(), Error> {
    let failed = |path: &Path, error| Error::from_io(path, "removing it", error);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = path.parent().unwrap_or(Path::new("/"));
    let entries = fs::read_dir(directory).map_err(|error| failed(directory, error))?;
    let making = format!("{name}.rowvault-");
    for entry in entries {
        let entry = entry.map_err(|error| failed(directory, error))?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let ours = found.strip_prefix(name.as_ref());
        let ours = ours.is_some_and(|rest| rest.is_empty() || BESIDE.contains(&rest));
        if ours || found.starts_with(&making) {
            fs::remove_file(entry.path()).map_err(|error| failed(&entry.path(), error))?;
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::from_io(directory, "writing it to disk", error))
}

/// Takes a file that only we use out of WAL mode, so that it is one file, whole in itself.
fn one_file(path: &Path) -> Result<(), Error> {
    let connection = open(path, WRITE, LOCK_WAIT)?;
    let failed = |error| Error::from_sqlite(path, "leaving WAL mode", error);
    let changed = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()));
    changed.map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// What a copy was made of: SQLite's counters of commits, one for each kind of journal.
#[derive(Debug, PartialEq, Eq)]
struct State {
    data_version: i64,
    header: [u8; HEADER_BYTES],
}

struct Work {
    live: PathBuf,
    side: PathBuf,
    kept: PathBuf,
    wait: Duration,
    clock: Arc<dyn Clock>,
}

impl Work {
    fn failed(&self, doing: &str, error: rusqlite::Error) -> Error {
        Error::from_sqlite(&self.live, doing, error)
    }

    fn exchange(&self) -> Result<Exchanged, Error> {
        let mut writing = false;
        let exchanged = self.copy_and_write(&mut writing);
        if exchanged.is_err() && !writing {
            // That there is no copy says that nothing was written; the error tells more.
            let _ = remove(&self.kept);
        }
        exchanged
    }

    fn copy_and_write(&self, writing: &mut bool) -> Result<Exchanged, Error> {
        // Closing any handle of a file drops all locks that this process has on it: this one is
        // opened first, to be closed last.
        let raw = File::open(&self.live);
        let raw = raw.map_err(|error| Error::from_io(&self.live, "opening it", error))?;
        one_file(&self.side)?;
        // It only reads; but what a writer that died left must be put back first.
        let reader = open(&self.live, WRITE, self.wait)?;
        let wal = self.is_wal(&reader)?;
        self.check_pages(&reader, wal)?;
        let copied = self.copy(&reader, &raw)?;
        reach("exchange copied");
        let source = open(&self.side, READ, self.wait)?;
        let mut destination = open(&self.live, WRITE, self.wait)?;
        let doing = "writing the new pages";
        let start;
        {
            let backup = Backup::new(&source, &mut destination);
            let backup = backup.map_err(|error| self.failed(doing, error))?;
            // No page yet, but the lock: from here on nobody else commits.
            start = self.clock.elapsed();
            self.step(&backup, 0, StepResult::More)?;
            let now = match wal {
                true => self.state(&reader, &raw)?,
                false => State {
                    data_version: copied.data_version,
                    header: self.header(&raw)?,
                },
            };
            if now != copied {
                match wal {
                    true => self.copy(&reader, &raw).map(|_| ())?,
                    false => self.copy_bytes(&raw)?,
                }
            }
            reach("exchange locked");
            *writing = true;
            if backup.progress().remaining > 1 {
                self.step(&backup, 1, StepResult::More)?;
                reach("exchange half written");
            }
            self.step(&backup, -1, StepResult::Done)?;
        }
        let downtime = self.clock.elapsed() - start;
        reach("exchange written");
        drop((reader, source, destination));
        remove(&self.side)?;
        drop(raw);
        Ok(Exchanged {
            downtime,
            warnings: Vec::new(),
        })
    }

    fn step(&self, backup: &Backup<'_, '_>, pages: i32, wanted: StepResult) -> Result<(), Error> {
        let doing = "writing the new pages";
        match backup
            .step(pages)
            .map_err(|error| self.failed(doing, error))?
        {
            found if found == wanted => Ok(()),
            // A snapshot of no table has no page.
            StepResult::Done => Ok(()),
            _ => Err(Error::Locked {
                path: self.live.clone(),
            }),
        }
    }

    fn is_wal(&self, reader: &Connection) -> Result<bool, Error> {
        let mode = reader.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        let mode = mode.map_err(|error| self.failed("reading its settings", error))?;
        Ok(mode.eq_ignore_ascii_case("wal"))
    }

    /// SQLite cannot change the size of pages in WAL mode.
    fn check_pages(&self, reader: &Connection, wal: bool) -> Result<(), Error> {
        let side = open(&self.side, READ, self.wait)?;
        let size = |connection: &Connection| {
            let size = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0));
            size.map_err(|error| self.failed("reading its settings", error))
        };
        let (old, new) = (size(reader)?, size(&side)?);
        if !wal || old == new {
            return Ok(());
        }
        Err(Error::Refused {
            path: self.live.clone(),
            doing: "changing the size of pages".into(),
            what: format!("it has {old} bytes in WAL mode, and the snapshot has {new}"),
        })
    }

    fn header(&self, raw: &File) -> Result<[u8; HEADER_BYTES], Error> {
        let mut header = [0; HEADER_BYTES];
        match raw.read_exact_at(&mut header, 0) {
            // An empty file is an empty database.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok([0; HEADER_BYTES]),
            read => read
                .map(|()| header)
                .map_err(|error| Error::from_io(&self.live, "reading it", error)),
        }
    }

    fn state(&self, reader: &Connection, raw: &File) -> Result<State, Error> {
        let version = reader.pragma_query_value(None, "data_version", |row| row.get(0));
        Ok(State {
            data_version: version.map_err(|error| self.failed("reading its version", error))?,
            // The header on disk changes when another process checkpoints; a copy too many.
            header: self.header(raw)?,
        })
    }

    /// Copies the database as it is now to the kept name, and says which state that was.
    fn copy(&self, reader: &Connection, raw: &File) -> Result<State, Error> {
        let doing = "copying it";
        let failed = |error| self.failed(doing, error);
        let part = self.new_part()?;
        reader.execute_batch("BEGIN").map_err(failed)?;
        let copied = self.copy_to(reader, raw, &part);
        let ended = reader.execute_batch("COMMIT").map_err(failed);
        let state = copied.and_then(|state| ended.map(|()| state));
        match state {
            Ok(state) => {
                self.rename(&part)?;
                Ok(state)
            }
            Err(error) => {
                // What is left of a copy that failed is of no use; the error tells more.
                let _ = remove(&part);
                Err(error)
            }
        }
    }

    fn copy_to(&self, reader: &Connection, raw: &File, part: &Path) -> Result<State, Error> {
        let counted = reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        counted.map_err(|error| self.failed("copying it", error))?;
        let state = self.state(reader, raw)?;
        let failed = |error| Error::from_sqlite(part, "writing the copy", error);
        let mut copy = open(part, WRITE, LOCK_WAIT)?;
        {
            let backup = Backup::new(reader, &mut copy).map_err(failed)?;
            self.step(&backup, -1, StepResult::Done)?;
        }
        copy.close().map_err(|(_, error)| failed(error))?;
        Ok(state)
    }

    /// Copies the file byte for byte: under an exclusive lock nobody reads through SQLite.
    fn copy_bytes(&self, raw: &File) -> Result<(), Error> {
        let part = self.new_part()?;
        let copy = || -> io::Result<()> {
            let mut from = raw;
            from.seek(SeekFrom::Start(0))?;
            let mut to = fs::OpenOptions::new().write(true).open(&part)?;
            io::copy(&mut from.take(u64::MAX), &mut to)?;
            to.sync_all()
        };
        copy().map_err(|error| Error::from_io(&part, "writing the copy", error))?;
        self.rename(&part)
    }

    /// A new file for a copy, which only we may read.
    fn new_part(&self) -> Result<PathBuf, Error> {
        let part = beside(&self.kept, ".rowvault-part");
        remove(&part)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let made = options.open(&part);
        made.map_err(|error| Error::from_io(&part, "making it", error))?;
        Ok(part)
    }

    fn rename(&self, part: &Path) -> Result<(), Error> {
        let renamed = fs::rename(part, &self.kept);
        renamed.map_err(|error| Error::from_io(&self.kept, "keeping a copy", error))?;
        sync_directory(&self.kept)
    }
}

/// What the live file is, when nobody knows whether SQLite committed the new pages.
fn settle(live: &Path, side: &Path, kept: &Path) -> Result<Settled, Error> {
    // The copy is kept before anything is written; the side goes after all is.
    let settled = match (kept.exists(), side.exists()) {
        (false, _) => Settled::Old,
        (true, false) => Settled::New,
        (true, true) => compare(live, side, kept)?,
    };
    remove(&beside(kept, ".rowvault-part"))?;
    match settled {
        Settled::Old => remove(kept)?,
        Settled::New => remove(side)?,
    }
    Ok(settled)
}

/// Which of two files the live one is, by the pages in which these two differ. Others may have
/// changed some pages of it since.
fn compare(live: &Path, side: &Path, kept: &Path) -> Result<Settled, Error> {
    let part = beside(kept, ".rowvault-now");
    let work = Work {
        live: live.to_owned(),
        side: side.to_owned(),
        kept: part.clone(),
        wait: LOCK_WAIT,
        clock: Arc::new(crate::clock::SystemClock::new()),
    };
    {
        // As in an exchange: opened first, closed last.
        let raw = File::open(live).map_err(|error| Error::from_io(live, "opening it", error))?;
        let reader = open(live, WRITE, LOCK_WAIT)?;
        work.copy(&reader, &raw)?;
    }
    let votes = vote(&part, side, kept);
    remove(&part)?;
    let (new, old) = votes.map_err(|error| Error::from_io(live, "comparing it", error))?;
    // Where the two hardly differ and others wrote since, no page tells: then the copy is kept.
    Ok(match old > new {
        true => Settled::Old,
        false => Settled::New,
    })
}

/// How many pages are those of `side` and not of `kept`, and how many the other way round.
fn vote(now: &Path, side: &Path, kept: &Path) -> io::Result<(u64, u64)> {
    let mut files = [File::open(now)?, File::open(side)?, File::open(kept)?];
    let mut header = [0; HEADER_BYTES];
    let _ = files[0].read_exact_at(&mut header, 0);
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        bytes => usize::from(bytes).max(512),
    };
    let (mut new, mut old) = (0, 0);
    for at in 0u64.. {
        let mut pages = Vec::new();
        for file in &mut files {
            let mut bytes = Vec::with_capacity(page);
            file.take(page as u64).read_to_end(&mut bytes)?;
            if at == 0 {
                let end = bytes.len().min(HEADER_BYTES);
                bytes[..end].fill(0);
            }
            pages.push(bytes);
        }
        if pages.iter().all(Vec::is_empty) {
            break;
        }
        if pages[1] != pages[2] {
            new += u64::from(pages[0] == pages[1]);
            old += u64::from(pages[0] == pages[2]);
        }
    }
    Ok((new, old))
}
