//! A SQLite file as a [`Target`]: built beside its place, moved there whole.
//!
//! Tables are made from their recorded definitions, then rows, then everything that could act
//! on rows. Virtual tables come back as entries over their shadow tables, so that no module runs.
//! Invariant: under the name that was asked for there is nothing, or the finished database.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::catalog::{self, Object, Schema};
use super::file::beside;
use super::patch::{self, Patch};
use super::sql::{Definition, definition};
use super::worker::Worker;
use super::{Error, load, rows, types};
use crate::failure::AnyFailure;
use crate::id::Ulid;
use crate::planted;
use crate::row::schema::{Structure, Table};
use crate::source::address::TargetOptions;
use crate::source::{Order, PieceReceiver, PieceSender, Published, Target};

/// Files that SQLite may put beside a database, and that would be taken for its own.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Tables that SQLite makes and names itself.
const INTERNAL: [&str; 5] = [
    "sqlite_sequence",
    "sqlite_stat1",
    "sqlite_stat2",
    "sqlite_stat3",
    "sqlite_stat4",
];

/// A database file to be made.
pub struct SqliteTarget {
    path: PathBuf,
    options: TargetOptions,
    made: Option<Made>,
}

/// What stands beside the place until it is published; taken away when dropped.
struct Made {
    worker: Option<Worker>,
    place: PathBuf,
    part: PathBuf,
    schema: Schema,
    patches: Mutex<Vec<Patch>>,
}

impl SqliteTarget {
    /// The target that a new file at `path` is. Nothing is made before `prepare`.
    pub fn new(path: &Path, options: &TargetOptions) -> Self {
        SqliteTarget {
            path: path.to_owned(),
            options: options.clone(),
            made: None,
        }
    }

    fn made(&self, what: &'static str) -> Result<(&Worker, &Made), Error> {
        let made = self.made.as_ref();
        let found = made.and_then(|made| Some((made.worker.as_ref()?, made)));
        found.ok_or(Error::NotOpen { what })
    }
}

#[async_trait]
impl Target for SqliteTarget {
    async fn prepare(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        let schema = Schema::from_structure(structure)?;
        let place = free_place(&self.path)?;
        let ulid = Ulid::draw(self.options.clock.now(), &*self.options.random);
        let part = beside(&place, &format!(".rowvault-{ulid}.part"));
        new_file(&part)?;
        let mut made = Made {
            worker: None,
            place,
            part: part.clone(),
            schema: schema.clone(),
            patches: Mutex::default(),
        };
        let start = Worker::start("target", move || {
            let connection = open_part(&part, &schema)?;
            for object in schema.objects.iter().filter(|object| object.has_rows()) {
                make_table(&connection, &part, object)?;
            }
            if planted::is("trigger fires on restore") {
                for object in schema.objects.iter().filter(|one| one.kind == "trigger") {
                    let _ = make(&connection, &part, object, &[Definition::Trigger]);
                }
            }
            Ok((connection, ()))
        });
        // Where this fails, dropping `made` takes the file away.
        let (worker, ()) = start.await?;
        made.worker = Some(worker);
        self.made = Some(made);
        Ok(())
    }

    async fn load(&self, table: &Table, rows: PieceReceiver) -> Result<u64, AnyFailure> {
        let (worker, made) = self.made("loading rows")?;
        let (part, table) = (made.part.clone(), table.clone());
        let (taken, patches) = worker
            .call(move |connection| load::take(connection, &part, &table, rows))
            .await?;
        made.patches().extend(patches);
        Ok(taken)
    }

    async fn finish(&mut self, structure: &Structure) -> Result<(), AnyFailure> {
        let _ = structure;
        let (worker, made) = self.made("finishing")?;
        let (part, schema) = (made.part.clone(), made.schema.clone());
        let patches = std::mem::take(&mut *made.patches());
        worker
            .call(move |connection| {
                let failed = |error| Error::from_sqlite(&part, "restoring counters", error);
                load::put_sequence(connection).map_err(failed)?;
                if !patches.is_empty() {
                    patch_rows(connection, &part, &schema, &patches)?;
                }
                finish(connection, &part, &schema)
            })
            .await?;
        Ok(())
    }

    async fn read_back(&self, table: &Table, rows: PieceSender) -> Result<u64, AnyFailure> {
        let (worker, made) = self.made("reading back")?;
        let (part, table) = (made.part.clone(), table.clone());
        let count = worker
            .call(move |connection| rows::send(connection, &part, &table, Order::Physical, &rows))
            .await?;
        Ok(count)
    }

    async fn publish(&mut self) -> Result<Published, AnyFailure> {
        let Some(mut made) = self.made.take() else {
            return Err(Error::NotOpen { what: "publishing" }.into());
        };
        made.close().await?;
        if let Err(error) = made.move_into_place() {
            self.made = Some(made);
            return Err(error.into());
        }
        Ok(Published {
            place: format!("sqlite:{}", made.place.display()),
            warnings: Vec::new(),
        })
    }

    async fn discard(&mut self) -> Result<(), AnyFailure> {
        let Some(mut made) = self.made.take() else {
            return Ok(());
        };
        if let Some(worker) = made.worker.take() {
            worker.interrupt();
            // What SQLite says about closing a file that goes away does not matter.
            let _ = worker.close().await;
        }
        made.remove()
            .map_err(|error| Error::from_io(&made.part, "taking it away", error))?;
        Ok(())
    }
}

impl Made {
    fn patches(&self) -> MutexGuard<'_, Vec<Patch>> {
        self.patches.lock().expect("no holder of this lock panics")
    }

    /// Closes the database in the journal mode that it is to have.
    async fn close(&mut self) -> Result<(), Error> {
        let Some(worker) = self.worker.take() else {
            return Ok(());
        };
        let (part, wal) = (self.part.clone(), self.schema.settings.wal);
        let doing = "closing it";
        worker
            .call(move |connection| {
                let mode = if wal { "WAL" } else { "DELETE" };
                connection
                    .pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))
                    .map_err(|error| Error::from_sqlite(&part, doing, error))
            })
            .await?;
        let closed = worker.close().await;
        closed.map_err(|error| Error::from_sqlite(&self.part, doing, error))
    }

    fn move_into_place(&self) -> Result<(), Error> {
        let failed = |error| Error::from_io(&self.place, "moving it into place", error);
        let synced = File::open(&self.part).and_then(|file| file.sync_all());
        synced.map_err(|error| Error::from_io(&self.part, "writing it to disk", error))?;
        check_free(&self.place)?;
        match renameat_with(CWD, &self.part, CWD, &self.place, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A file system that cannot rename without replacing can still link.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(&self.part, &self.place).map_err(failed)?;
                fs::remove_file(&self.part).map_err(failed)?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        let directory = self.place.parent().unwrap_or(Path::new("/"));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed)
    }

    fn remove(&self) -> std::io::Result<()> {
        let files = BESIDE.map(|suffix| beside(&self.part, suffix));
        for file in std::iter::once(&self.part).chain(&files) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.worker = None;
        // Published or discarded before, there is nothing left; else this is the best that can
        // be done without anybody to tell.
        let _ = self.remove();
    }
}

/// The place for `path`, through links in its directory, where nothing stands yet.
fn free_place(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| Error::NotAFile {
        path: path.to_owned(),
    })?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = fs::canonicalize(directory)
        .map_err(|error| Error::from_io(directory, "looking for it", error))?;
    let place = directory.join(name);
    check_free(&place)?;
    Ok(place)
}

fn check_free(place: &Path) -> Result<(), Error> {
    for suffix in ["", BESIDE[0], BESIDE[1], BESIDE[2]] {
        let path = beside(place, suffix);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Err(Error::Taken { path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::from_io(&path, "looking at it", error)),
        }
    }
    Ok(())
}

fn new_file(path: &Path) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::from_io(path, "making it", error)),
    }
}

/// Opens the new file with the settings that it keeps, and begins the one transaction.
fn open_part(part: &Path, schema: &Schema) -> Result<Connection, Error> {
    let settings = &schema.settings;
    let refuse = |what: String| Error::Structure { what };
    if !settings.page_size.is_power_of_two() || !(512..=65536).contains(&settings.page_size) {
        return Err(refuse(format!("pages of {} bytes", settings.page_size)));
    }
    if settings.auto_vacuum > 2 {
        return Err(refuse(format!("auto_vacuum {}", settings.auto_vacuum)));
    }
    let encoding = types::Encoding::from_name(&settings.encoding)
        .ok_or_else(|| refuse(format!("encoding {:?}", settings.encoding)))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(part, flags)?;
        for (setting, on) in [
            (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
            (
                DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
                planted::is("trigger fires on restore"),
            ),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
            (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
            // Old applications wrote strings in double quotes; their definitions still count.
            (DbConfig::SQLITE_DBCONFIG_DQS_DDL, true),
            (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
        ] {
            connection.set_db_config(setting, on)?;
        }
        // Nobody sees this file before it is whole, so that it needs no journal.
        connection.execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA encoding='{}'; PRAGMA auto_vacuum={};
             PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
             PRAGMA ignore_check_constraints=ON; PRAGMA cache_size=-32768; BEGIN IMMEDIATE",
            settings.page_size,
            encoding.name(),
            settings.auto_vacuum
        ))?;
        Ok(connection)
    };
    open().map_err(|error| Error::from_sqlite(part, "making it", error))
}

fn make_table(connection: &Connection, part: &Path, object: &Object) -> Result<(), Error> {
    let internal = object
        .name
        .get(..7)
        .is_some_and(|p| p.eq_ignore_ascii_case("sqlite_"));
    if !internal {
        return make(connection, part, object, &[Definition::Table]);
    }
    if !INTERNAL.contains(&object.name.as_str()) {
        return Err(Error::Structure {
            what: format!("table {:?} has a name that belongs to SQLite", object.name),
        });
    }
    let doing = format!("making table {}", object.name);
    let failed = |error| Error::from_sqlite(part, &doing, error);
    let query = "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE name = ?1)";
    let exists = connection.query_row(query, [&object.name], |row| row.get(0));
    if exists.map_err(failed)? {
        return Ok(());
    }
    connection
        .pragma_update(None, "writable_schema", "ON")
        .map_err(failed)?;
    let made = make(connection, part, object, &[Definition::Table]);
    connection
        .pragma_update(None, "writable_schema", "OFF")
        .map_err(failed)?;
    made
}

/// Runs a recorded definition, if it is one of those that may be meant here.
fn make(
    connection: &Connection,
    part: &Path,
    object: &Object,
    allowed: &[Definition],
) -> Result<(), Error> {
    let sql = object.sql.as_deref().unwrap_or_default();
    if !definition(sql).is_some_and(|found| allowed.contains(&found)) {
        return Err(Error::Structure {
            what: format!(
                "the definition of {} {:?} defines something else",
                object.kind, object.name
            ),
        });
    }
    let made = connection.execute(sql, []);
    made.map_err(|error| {
        Error::from_sqlite(
            part,
            &format!("making {} {}", object.kind, object.name),
            error,
        )
    })?;
    Ok(())
}

/// Sets the classes of values in rows that were stored with zeros, while the file is closed.
fn patch_rows(
    connection: &mut Connection,
    part: &Path,
    schema: &Schema,
    patches: &[Patch],
) -> Result<(), Error> {
    let doing = "completing large rows";
    let failed = |error| Error::from_sqlite(part, doing, error);
    let mut roots: HashMap<&str, u32> = HashMap::new();
    for patch in patches {
        if !roots.contains_key(patch.table.as_str()) {
            let query = "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = ?1";
            let root = connection.query_row(query, [&patch.table], |row| row.get(0));
            roots.insert(&patch.table, root.map_err(failed)?);
        }
    }
    connection.execute_batch("COMMIT").map_err(failed)?;
    let stand_in = Connection::open_in_memory().map_err(failed)?;
    let open = std::mem::replace(connection, stand_in);
    open.close().map_err(|(_, error)| failed(error))?;
    let file = OpenOptions::new().read(true).write(true).open(part);
    let file = file.map_err(|error| Error::from_io(part, doing, error))?;
    for patch in patches {
        let root = roots.get(patch.table.as_str()).copied().unwrap_or_default();
        patch::apply(&file, schema.settings.page_size, root, patch)
            .map_err(|error| Error::from_io(part, doing, error))?;
    }
    *connection = open_part(part, schema)?;
    Ok(())
}

/// Everything that comes after rows, up to the commit.
fn finish(connection: &Connection, part: &Path, schema: &Schema) -> Result<(), Error> {
    let failed = |error| Error::from_sqlite(part, "finishing it", error);
    let (tables, rest): (Vec<&Object>, Vec<&Object>) = schema
        .objects
        .iter()
        .partition(|object| object.kind == "table");
    add_virtual_tables(connection, &tables).map_err(failed)?;
    for object in rest.into_iter().filter(|object| object.sql.is_some()) {
        let allowed = [Definition::Index, Definition::View, Definition::Trigger];
        let made = make(connection, part, object, &allowed);
        if !planted::is("trigger fires on restore") {
            made?;
        }
    }
    settle_definitions(connection, part, schema)?;
    let settings = &schema.settings;
    connection
        .execute_batch(&format!(
            "PRAGMA user_version={}; PRAGMA application_id={}; COMMIT",
            settings.user_version, settings.application_id
        ))
        .map_err(failed)
}

/// Writes the entries of virtual tables; their shadow tables stand already.
fn add_virtual_tables(connection: &Connection, tables: &[&Object]) -> rusqlite::Result<()> {
    let mut virtuals = tables
        .iter()
        .filter(|object| object.is_virtual())
        .peekable();
    if virtuals.peek().is_none() {
        return Ok(());
    }
    connection.pragma_update(None, "writable_schema", "ON")?;
    for object in virtuals {
        connection.execute(
            "INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql)
             VALUES ('table', ?1, ?2, 0, ?3)",
            params![object.name, object.table, object.sql],
        )?;
    }
    connection.pragma_update(None, "writable_schema", "RESET")
}

/// Gives every object the very text that was recorded, and checks that none is missing.
fn settle_definitions(connection: &Connection, part: &Path, schema: &Schema) -> Result<(), Error> {
    let failed = |error| Error::from_sqlite(part, "checking its definitions", error);
    let made = catalog::objects(connection, part)?;
    let made: HashMap<(&str, &str), &Object> = made
        .iter()
        .map(|o| ((o.kind.as_str(), o.name.as_str()), o))
        .collect();
    let mut changed = false;
    for object in schema.objects.iter().filter(|object| object.sql.is_some()) {
        let Some(found) = made.get(&(object.kind.as_str(), object.name.as_str())) else {
            return Err(Error::Structure {
                what: format!("{} {:?} did not come back", object.kind, object.name),
            });
        };
        if found.sql != object.sql {
            connection
                .pragma_update(None, "writable_schema", "ON")
                .map_err(failed)?;
            let sql = "UPDATE sqlite_schema SET sql = ?1 WHERE type = ?2 AND name = ?3";
            let written = connection.execute(sql, params![object.sql, object.kind, object.name]);
            written.map_err(failed)?;
            changed = true;
        }
    }
    if changed {
        connection
            .pragma_update(None, "writable_schema", "RESET")
            .map_err(failed)?;
        let read = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        read.map_err(failed)?;
    }
    Ok(())
}
