//! Writes tables of a snapshot as plain files, for people and other programs.
//!
//! Files are written beside their names and get them when all tables are done, so that a copy that
//! failed does not look whole. Invariant: a file that stands there is never overwritten, and what
//! is written is readable for its owner only.

pub mod record;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempPath;

use crate::failpoint;
use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::id::hex;
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::repo::reader::Reader;
use crate::repo::select;
use crate::repo::table::StackReader;
use crate::repo::value::{Form, RowWriter};
use crate::row::schema::TableName;

/// How long a file's name may be, its ending left out.
const NAME_BYTES_MAX: usize = 200;

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tables, as a person names them; none for all that have rows.
    pub tables: Vec<String>,
    /// How rows are written down.
    pub form: Form,
    /// A file, where one table is asked for; a directory otherwise, or where one stands there.
    pub out: PathBuf,
}

/// A table that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The table, as `show` prints it.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// The file.
    pub path: PathBuf,
    /// The file's length.
    pub bytes: u64,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The tables.
    pub tables: Vec<Written>,
    /// How long it took.
    pub duration: Duration,
}

/// Writes the tables.
///
/// # Errors
/// Denied with a writer's key; Missing for a table that is not there; Conflict where a file stands
/// in the way; the storage's; the file system's. No file has then got its name.
pub async fn run(
    opened: &Opened,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("export rows")?;
    let work = export(opened, snapshot, request);
    opened.reading(&snapshot.source, work).await
}

async fn export(
    opened: &Opened,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    let clock = opened.vault.clock.clone();
    let start = clock.elapsed();
    let manifest = opened.manifest(snapshot).await?;
    let tables = chosen(&manifest, &request.tables)?;
    let paths = paths(&tables, request)?;
    let reader = opened.reader().await?;
    let bytes = tables.iter().map(|table| table.bytes_raw).sum();
    opened.progress.stage("writing tables", Some(bytes));
    let mut waiting = Vec::new();
    for (table, path) in tables.iter().zip(paths) {
        waiting.push(write(opened, &reader, table, request.form, path).await?);
    }
    opened.progress.end();
    failpoint::reach("export: written");
    let mut written = Vec::new();
    for (file, done) in waiting {
        written.push(publish(file, done)?);
    }
    Ok(Outcome {
        snapshot: snapshot.clone(),
        tables: written,
        duration: clock.elapsed() - start,
    })
}

fn chosen<'a>(
    manifest: &'a Manifest,
    names: &[String],
) -> Result<Vec<&'a ManifestTable>, AnyFailure> {
    if names.is_empty() {
        let with_rows = manifest.tables.iter().filter(|table| table.table.with_rows);
        return Ok(with_rows.collect());
    }
    let mut tables: Vec<&ManifestTable> = Vec::new();
    for name in names {
        let table = select::table(manifest, name)?;
        if !tables
            .iter()
            .any(|other| other.table.name == table.table.name)
        {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// Where each table goes; a missing directory is made.
fn paths(tables: &[&ManifestTable], request: &Request) -> Result<Vec<PathBuf>, AnyFailure> {
    let out = &request.out;
    let as_directory = out.as_os_str().to_string_lossy().ends_with('/');
    let paths: Vec<PathBuf> = match request.tables.len() {
        1 if !out.is_dir() && !as_directory => vec![out.clone()],
        _ => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(out)
                .map_err(|error| refused("make", out, &error))?;
            let ending = match request.form {
                Form::Json => "jsonl",
                Form::Csv => "csv",
            };
            let file = |table: &&ManifestTable| {
                out.join(format!("{}.{ending}", file_name(&table.table.name)))
            };
            tables.iter().map(file).collect()
        }
    };
    for path in &paths {
        refuse_standing(path)?;
    }
    Ok(paths)
}

/// A table's name as a file's: letters, digits, `.`, `_` and `-` as they are, other bytes as `%XX`.
fn file_name(table: &TableName) -> String {
    let mut out = String::new();
    for byte in table.to_string().bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        match byte {
            _ if plain || (byte == b'.' && !out.is_empty()) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    if out.len() > NAME_BYTES_MAX {
        let whole = blake3::hash(out.as_bytes());
        out.truncate(NAME_BYTES_MAX - 17);
        out = format!("{out}-{}", hex(&whole.as_bytes()[..8]));
    }
    out
}

/// A new file under a name of its own, until it is whole.
struct Beside {
    out: BufWriter<File>,
    place: TempPath,
    path: PathBuf,
}

impl Beside {
    fn create(path: &Path) -> Result<Beside, AnyFailure> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beside = tempfile::Builder::new()
            .prefix(".rowvault-")
            .suffix(".part")
            .tempfile_in(directory)
            .map_err(|error| refused("write", path, &error))?;
        let (file, place) = beside.into_parts();
        Ok(Beside {
            out: BufWriter::new(file),
            place,
            path: path.to_owned(),
        })
    }

    /// Makes it durable; it has its name not yet.
    fn end(self, table: String, rows: u64) -> Result<(TempPath, Written), AnyFailure> {
        let path = self.path;
        let failed = |error: &std::io::Error| refused("write", &path, error);
        let file: File = (self.out.into_inner()).map_err(|error| failed(error.error()))?;
        file.sync_all().map_err(|error| failed(&error))?;
        let bytes = file.metadata().map_err(|error| failed(&error))?.len();
        let written = Written {
            table,
            rows,
            path,
            bytes,
        };
        Ok((self.place, written))
    }

    /// Makes it durable and gives it its name.
    fn finish(self, table: String, rows: u64) -> Result<Written, AnyFailure> {
        let (place, written) = self.end(table, rows)?;
        publish(place, written)
    }
}

fn publish(place: TempPath, written: Written) -> Result<Written, AnyFailure> {
    let named = place.persist_noclobber(&written.path);
    named.map_err(|error| refused("write", &written.path, &error.error))?;
    Ok(written)
}

/// Refuses to write where something stands.
fn refuse_standing(path: &Path) -> Result<(), AnyFailure> {
    match path.symlink_metadata() {
        Ok(_) => {
            let stands = std::io::ErrorKind::AlreadyExists.into();
            Err(refused("write", path, &stands))
        }
        Err(_) => Ok(()),
    }
}

async fn write(
    opened: &Opened,
    reader: &Arc<Reader>,
    table: &ManifestTable,
    form: Form,
    path: PathBuf,
) -> Result<(TempPath, Written), AnyFailure> {
    let mut beside = Beside::create(&path)?;
    let rows = write_rows(opened, reader, table, form, &mut beside.out).await?;
    beside.end(table.table.name.to_string(), rows)
}

async fn write_rows(
    opened: &Opened,
    reader: &Arc<Reader>,
    table: &ManifestTable,
    form: Form,
    out: &mut BufWriter<File>,
) -> Result<u64, AnyFailure> {
    let columns = table.table.columns.iter().enumerate();
    let shown = columns.filter(|(_, column)| !column.hidden);
    let writer = RowWriter::new(reader, form, shown.map(|(at, one)| (at, one.name.as_str())));
    writer.header(out)?;
    let mut stack = StackReader::open(reader.clone(), table).await?;
    let mut count = 0;
    while let Some(rows) = stack.next().await? {
        for row in rows.rows.iter() {
            writer.row(row, &rows.cells, out).await?;
            out.write_all(b"\n")
                .map_err(crate::repo::value::Error::from)?;
        }
        count += rows.rows.len() as u64;
        let (bytes, rows) = (rows.rows.bytes().len() as u64, rows.rows.len() as u64);
        opened.progress.advance(bytes, rows);
    }
    Ok(count)
}

fn refused(what: &str, path: &Path, error: &std::io::Error) -> AnyFailure {
    use std::io::ErrorKind;
    let (class, hint) = match error.kind() {
        ErrorKind::AlreadyExists => (Class::Conflict, "name a place where nothing stands"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (Class::Denied, "name a place where you may write")
        }
        ErrorKind::NotFound => (Class::Missing, "make the directory first"),
        _ => (Class::Transient, "see that there is room"),
    };
    let what = format!("cannot {what} {}: {error}", path.display());
    AnyFailure::new(class, what, Some(hint.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> String {
        file_name(&TableName {
            schema: None,
            name: name.into(),
        })
    }

    #[test]
    fn names_of_tables_never_leave_their_directory() {
        assert_eq!(named("contacts"), "contacts");
        assert_eq!(named("public.contacts"), "public.contacts");
        assert_eq!(named("../x"), "%2E.%2Fx");
        assert_eq!(named("a/b\0"), "a%2Fb%00");
        let long = named(&"ł".repeat(100));
        assert_eq!(long.len(), NAME_BYTES_MAX);
        assert_ne!(long, named(&"ł".repeat(101)));
    }
}
