//! Rows into a table of a database in the making.
//!
//! Each cell is bound with its exact class and bytes. Slices of large cells wait in a nameless
//! file until their row comes; a blob is then written in place, slice by slice. Invariant: every
//! row that is taken is whole, or the load fails by name.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::blob::ZeroBlob;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};

use super::patch::{self, Patch};
use super::sql::quoted;
use super::types::{Bound, Encoding, utf16_units};
use super::{Error, catalog};
use crate::row::cell::{self, Cell, Large, LargeClass};
use crate::row::schema::{KeyOrder, Table};
use crate::source::{Piece, PieceReceiver};

/// The table that keeps AUTOINCREMENT counters; loading other tables changes it.
pub const SEQUENCE: &str = "sqlite_sequence";
/// Where its rows wait until all other tables are loaded.
pub const SEQUENCE_WAITING: &str = "rowvault_sequence";
const COPY_BYTES: usize = 1 << 20;

/// Takes all rows of `table` from `rows`, and returns their number and what is to be patched in
/// the file when all rows are stored.
///
/// # Errors
/// [`Error::Rows`] for what is no row of the table; Full and the like.
pub fn take(
    connection: &Connection,
    path: &Path,
    table: &Table,
    mut rows: PieceReceiver,
) -> Result<(u64, Vec<Patch>), Error> {
    let encoding = catalog::encoding(connection, path)?;
    let staged = table.name.name == SEQUENCE;
    if staged {
        stage_sequence(connection, path)?;
    }
    let place = if staged {
        format!("temp.{}", quoted(SEQUENCE_WAITING))
    } else {
        format!("main.{}", quoted(&table.name.name))
    };
    let in_place = if staged { None } else { rowid_position(table) };
    let mut loading = Loading {
        connection,
        path,
        table,
        encoding,
        in_place,
        header_bytes_max: header_bytes_max(connection, path)?,
        patches: Vec::new(),
        spool: Spool::default(),
        taken: 0,
    };
    let mut statement = connection
        .prepare(&insert(&place, table, encoding))
        .map_err(|error| loading.failed(error))?;
    while let Some(piece) = rows.blocking_recv() {
        match piece {
            Piece::Slice { column, bytes } => loading.keep_slice(column, &bytes)?,
            Piece::Rows(batch) => {
                for row in batch.iter() {
                    loading.row(&mut statement, row)?;
                }
            }
        }
    }
    match loading.spool.is_empty() {
        true => Ok((loading.taken, loading.patches)),
        false => Err(loading.refused("slices of a large cell came without their row")),
    }
}

/// Puts the counters that waited into their table.
///
/// # Errors
/// What SQLite says.
pub fn put_sequence(connection: &Connection) -> rusqlite::Result<()> {
    let waiting = connection.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_temp_schema WHERE name = ?1)",
        [SEQUENCE_WAITING],
        |row| row.get::<_, bool>(0),
    )?;
    if waiting {
        connection.execute_batch(&format!(
            "DELETE FROM main.{SEQUENCE};
             INSERT INTO main.{SEQUENCE}(rowid, name, seq)
               SELECT rowid, name, seq FROM temp.{SEQUENCE_WAITING} ORDER BY rowid;
             DROP TABLE temp.{SEQUENCE_WAITING};"
        ))?;
    }
    Ok(())
}

fn stage_sequence(connection: &Connection, path: &Path) -> Result<(), Error> {
    connection
        .execute_batch(&format!("CREATE TEMP TABLE {SEQUENCE_WAITING}(name, seq)"))
        .map_err(|error| Error::from_sqlite(path, "restoring counters", error))
}

fn insert(place: &str, table: &Table, encoding: Encoding) -> String {
    let names: Vec<String> = table.columns.iter().map(|c| quoted(&c.name)).collect();
    let values: Vec<String> = (1..=names.len())
        .map(|position| match encoding {
            Encoding::Utf8 => format!("?{position}"),
            // Raw UTF-16 becomes text without any conversion that could change it.
            _ => {
                let mark = names.len() + position;
                format!("CASE WHEN ?{mark} THEN CAST(?{position} AS TEXT) ELSE ?{position} END")
            }
        })
        .collect();
    let (names, values) = (names.join(", "), values.join(", "));
    format!("INSERT INTO {place}({names}) VALUES ({values})")
}

/// Where in a row its rowid stands, if blobs of the table may be written after the row.
fn rowid_position(table: &Table) -> Option<usize> {
    // A stored generated column would be computed from the zeros that stand in for a blob.
    if table.facts.contains_key("without_rowid") || !table.generated.is_empty() {
        return None;
    }
    let hidden = table.columns.iter().position(|column| column.hidden);
    let integer_key = || match table.key.as_ref()?.columns[..] {
        [(position, KeyOrder::Integer)] => Some(position),
        _ => None,
    };
    hidden.or_else(integer_key)
}

fn header_bytes_max(connection: &Connection, path: &Path) -> Result<usize, Error> {
    let size = connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0));
    let size = size.map_err(|error| Error::from_sqlite(path, "reading its settings", error))?;
    Ok(patch::first_page_bytes(size))
}

/// What is to change in a row that is stored with zeros from column `first` on.
fn patch_of(table: &Table, cells: &[Cell<'_>], first: usize) -> Patch {
    let key = rowid_position(table);
    // The rowid stands outside the row, with a NULL in its place if it is a declared column.
    let columns = table.columns[..first]
        .iter()
        .filter(|column| !column.hidden);
    let later = || cells.iter().enumerate().skip(first);
    let wanted = |(position, cell): (usize, &Cell<'_>)| match Some(position) == key {
        true => 0,
        false => patch::serial(cell).kind,
    };
    let stored = |(position, cell): (usize, &Cell<'_>)| match cell {
        Cell::Null | Cell::Integer(0 | 1) => wanted((position, cell)),
        _ => 12 + 2 * patch::serial(cell).length,
    };
    Patch {
        table: table.name.name.clone(),
        rowid: match key.and_then(|position| cells.get(position)) {
            Some(Cell::Integer(rowid)) => *rowid,
            _ => 0,
        },
        before: columns.count(),
        stored: patch::types(later().map(stored)),
        wanted: patch::types(later().map(wanted)),
    }
}

/// The longest header that the values of `cells` can have, with its own length.
fn header_bytes(cells: &[Cell<'_>]) -> usize {
    3 + patch::types(cells.iter().map(|cell| patch::serial(cell).kind)).len()
}

/// A cell without bytes as a value.
fn small<'a>(cell: &Cell<'a>) -> ValueRef<'a> {
    match cell {
        Cell::Integer(value) => ValueRef::Integer(*value),
        _ => ValueRef::Null,
    }
}

struct Loading<'a> {
    connection: &'a Connection,
    path: &'a Path,
    table: &'a Table,
    encoding: Encoding,
    /// Position of the rowid, where blobs can be written in place.
    in_place: Option<usize>,
    /// How long a row's header may be to be patched.
    header_bytes_max: usize,
    patches: Vec<Patch>,
    spool: Spool,
    taken: u64,
}

impl Loading<'_> {
    fn failed(&self, error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode as Code;
        match error.sqlite_error_code() {
            Some(Code::ConstraintViolation | Code::TypeMismatch | Code::TooBig) => {
                self.refused(&format!("row {}: {error}", self.taken + 1))
            }
            _ => {
                let doing = format!("loading table {}", self.table.name);
                Error::from_sqlite(self.path, &doing, error)
            }
        }
    }

    fn refused(&self, what: &str) -> Error {
        Error::Rows {
            table: self.table.name.to_string(),
            what: what.to_owned(),
        }
    }

    fn spool_failed(&self, error: std::io::Error) -> Error {
        Error::from_io(self.path, "keeping a large cell", error)
    }

    fn keep_slice(&mut self, column: usize, bytes: &[u8]) -> Result<(), Error> {
        if column >= self.table.columns.len() || !self.spool.accepts(column) {
            return Err(self.refused("slices of large cells are out of order"));
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let kept = self.spool.push(directory, column, bytes);
        kept.map_err(|error| self.spool_failed(error))
    }

    fn row(&mut self, statement: &mut Statement<'_>, row: &[u8]) -> Result<(), Error> {
        let columns = self.table.columns.len();
        let cells = cell::cells(row, columns).map_err(|error| self.refused(&error.to_string()))?;
        let mut later = Vec::new();
        let zeros_from = self.zeros_from(&cells);
        for (position, cell) in cells.iter().enumerate() {
            let written_later = match zeros_from {
                Some(first) if first <= position => self.bind_zeros(statement, position, cell)?,
                _ => self.bind(statement, position, cell)?,
            };
            later.extend(written_later.then_some(position));
        }
        if !self.spool.is_empty() && !cells.iter().any(|c| matches!(c, Cell::Large(_))) {
            return Err(self.refused("slices came before a row without large cells"));
        }
        statement
            .raw_execute()
            .map_err(|error| self.failed(error))?;
        // Bound bytes of a large cell are not kept until the next row.
        if !self.spool.is_empty() {
            statement.clear_bindings();
        }
        if let Some(position) = self.in_place
            && let Some(Cell::Integer(rowid)) = cells.get(position)
        {
            for column in later {
                self.write_in_place(column, &cells[column], *rowid)?;
            }
            if let Some(first) = zeros_from {
                let patch = patch_of(self.table, &cells, first);
                self.patches
                    .extend((patch.stored != patch.wanted).then_some(patch));
            }
        }
        self.spool
            .clear()
            .map_err(|error| self.spool_failed(error))?;
        self.taken += 1;
        Ok(())
    }

    /// Binds a cell, and says whether its bytes must be written after the row.
    fn bind(
        &mut self,
        statement: &mut Statement<'_>,
        position: usize,
        cell: &Cell<'_>,
    ) -> Result<bool, Error> {
        match *cell {
            Cell::Null => self.bind_value(statement, position, ValueRef::Null)?,
            Cell::Integer(value) => {
                self.bind_value(statement, position, ValueRef::Integer(value))?;
            }
            Cell::Real(value) => self.bind_value(statement, position, ValueRef::Real(value))?,
            Cell::Blob(bytes) => self.bind_value(statement, position, ValueRef::Blob(bytes))?,
            Cell::Text(bytes) => self.bind_text(statement, position, bytes)?,
            Cell::Large(large) => return self.bind_large(statement, position, large),
        }
        Ok(false)
    }

    fn bind_value(
        &self,
        statement: &mut Statement<'_>,
        position: usize,
        value: ValueRef<'_>,
    ) -> Result<(), Error> {
        let bound = statement.raw_bind_parameter(position + 1, Bound(value));
        bound.map_err(|error| self.failed(error))?;
        self.mark(statement, position, false)
    }

    fn mark(&self, statement: &mut Statement<'_>, position: usize, raw: bool) -> Result<(), Error> {
        if self.encoding == Encoding::Utf8 {
            return Ok(());
        }
        let mark = self.table.columns.len() + position + 1;
        let bound = statement.raw_bind_parameter(mark, raw);
        bound.map_err(|error| self.failed(error))
    }

    fn bind_text(
        &self,
        statement: &mut Statement<'_>,
        position: usize,
        text: &[u8],
    ) -> Result<(), Error> {
        if self.encoding == Encoding::Utf8 {
            return self.bind_value(statement, position, ValueRef::Text(text));
        }
        let raw = utf16_units(self.encoding, text)
            .ok_or_else(|| self.refused("a text is none that UTF-16 can hold"))?;
        let bound = statement.raw_bind_parameter(position + 1, Bound(ValueRef::Blob(&raw)));
        bound.map_err(|error| self.failed(error))?;
        self.mark(statement, position, true)
    }

    fn bind_large(
        &mut self,
        statement: &mut Statement<'_>,
        position: usize,
        large: Large,
    ) -> Result<bool, Error> {
        if self.spool.length(position) != Some(large.length) {
            return Err(self.refused("a large cell and its slices differ in length"));
        }
        let length = i32::try_from(large.length)
            .map_err(|_| self.refused("a cell is longer than SQLite can hold"))?;
        let name = &self.table.columns[position].name;
        let indexed = self
            .table
            .unique
            .iter()
            .flatten()
            .any(|column| column == name);
        if large.class == LargeClass::Blob && self.in_place.is_some() && !indexed {
            let bound = statement.raw_bind_parameter(position + 1, ZeroBlob(length));
            bound.map_err(|error| self.failed(error))?;
            self.mark(statement, position, false)?;
            return Ok(true);
        }
        let bytes = self.spool.read(position);
        let bytes = bytes.map_err(|error| self.spool_failed(error))?;
        match large.class {
            LargeClass::Blob => self.bind_value(statement, position, ValueRef::Blob(&bytes))?,
            LargeClass::Text => self.bind_text(statement, position, &bytes)?,
        }
        Ok(false)
    }

    /// From which column on a row is stored as zeros first, so that its large cells need not be
    /// in memory; none where that cannot be.
    fn zeros_from(&self, cells: &[Cell<'_>]) -> Option<usize> {
        let first = cells
            .iter()
            .position(|cell| matches!(cell, Cell::Large(_)))?;
        let table = self.table;
        // A strict table takes no zeros for numbers, and an index would keep them.
        let indexed = |name: &String| table.unique.iter().flatten().any(|column| column == name);
        let fits = self.in_place.is_some_and(|rowid| rowid < first)
            && self.encoding == Encoding::Utf8
            && !table.facts.contains_key("strict")
            && !table.columns[first..]
                .iter()
                .any(|column| indexed(&column.name))
            && header_bytes(cells) <= self.header_bytes_max;
        fits.then_some(first)
    }

    fn bind_zeros(
        &self,
        statement: &mut Statement<'_>,
        position: usize,
        cell: &Cell<'_>,
    ) -> Result<bool, Error> {
        if let Cell::Large(large) = cell
            && self.spool.length(position) != Some(large.length)
        {
            return Err(self.refused("a large cell and its slices differ in length"));
        }
        if let Cell::Null | Cell::Integer(0 | 1) = cell {
            let bound = statement.raw_bind_parameter(position + 1, Bound(small(cell)));
            return bound.map(|()| false).map_err(|error| self.failed(error));
        }
        let length = i32::try_from(patch::serial(cell).length)
            .map_err(|_| self.refused("a cell is longer than SQLite can hold"))?;
        let bound = statement.raw_bind_parameter(position + 1, ZeroBlob(length));
        bound.map(|()| true).map_err(|error| self.failed(error))
    }

    fn write_in_place(&mut self, column: usize, cell: &Cell<'_>, rowid: i64) -> Result<(), Error> {
        let connection = self.connection;
        let (table, name) = (&self.table.name.name, &self.table.columns[column].name);
        let mut blob = connection
            .blob_open("main", table.as_str(), name.as_str(), rowid, false)
            .map_err(|error| self.failed(error))?;
        let copied = match cell {
            Cell::Large(_) => self.spool.copy(column, &mut blob),
            small => blob.write_all(&patch::body(small)),
        };
        copied.map_err(|error| self.spool_failed(error))
    }
}

/// The slices of one row's large cells, in a file that has no name.
#[derive(Default)]
struct Spool {
    file: Option<File>,
    /// Column, start and length of each cell, in order.
    cells: Vec<(usize, u64, u64)>,
}

impl Spool {
    fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn accepts(&self, column: usize) -> bool {
        self.cells.last().is_none_or(|(last, ..)| *last <= column)
    }

    fn length(&self, column: usize) -> Option<u64> {
        let cell = self.cells.iter().find(|(position, ..)| *position == column);
        cell.map(|(_, _, length)| *length)
    }

    fn push(&mut self, directory: &Path, column: usize, bytes: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(directory)?),
        };
        file.write_all(bytes)?;
        let length = bytes.len() as u64;
        match self.cells.last_mut() {
            Some((last, _, so_far)) if *last == column => *so_far += length,
            last => {
                let start = last.map_or(0, |(_, start, length)| *start + *length);
                self.cells.push((column, start, length));
            }
        }
        Ok(())
    }

    fn reader(&mut self, column: usize) -> std::io::Result<impl Read> {
        let cell = self.cells.iter().find(|(position, ..)| *position == column);
        let (Some((_, start, length)), Some(file)) = (cell, &mut self.file) else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        file.seek(SeekFrom::Start(*start))?;
        Ok(file.take(*length))
    }

    fn read(&mut self, column: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.length(column).unwrap_or_default() as usize);
        self.reader(column)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn copy(&mut self, column: usize, out: &mut impl Write) -> std::io::Result<()> {
        let mut left = self.length(column).unwrap_or_default() as usize;
        let mut from = self.reader(column)?;
        let mut room = vec![0; left.min(COPY_BYTES)];
        while left > 0 {
            let part = left.min(COPY_BYTES);
            from.read_exact(&mut room[..part])?;
            out.write_all(&room[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn clear(&mut self) -> std::io::Result<()> {
        if self.cells.is_empty() {
            return Ok(());
        }
        self.cells.clear();
        match &mut self.file {
            Some(file) => {
                file.set_len(0)?;
                file.rewind()
            }
            None => Ok(()),
        }
    }
}
