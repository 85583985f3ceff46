//! The rows of one table, as pieces.
//!
//! Rows are read plainly while SQLite holds cells to [`LARGE_CELL_BYTES`]; the first longer one
//! makes it say so, and from that row on large cells are read slice by slice. Invariant: memory
//! does not grow with a cell, where SQLite can give it in slices (a table with a rowid; blobs,
//! and text in UTF-8).

use std::io::Read;
use std::path::Path;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Row};

use super::sql::quoted;
use super::types::{Encoding, cell, push_wtf8};
use super::{Error, catalog};
use crate::id::Digest;
use crate::row::cell::{Cell, LARGE_CELL_BYTES, Large, LargeClass, RowBatch};
use crate::row::schema::{KeyOrder, Table};
use crate::source::{BATCH_BYTES, Order, Piece, PieceSender};

/// Slices are as long as the longest cell that stands in its row.
const SLICE_BYTES: usize = LARGE_CELL_BYTES;
/// What SQLite allows in one result.
const RESULT_COLUMNS_MAX: usize = 2000;
const UTF8_COLLATION: &str = "rowvault_utf8";
/// The mark beside a value that is the raw UTF-16 of a text.
const RAW_TEXT: i64 = -1;

/// Sends all rows of `table` and returns their number, as SQLite counts the table itself.
///
/// # Errors
/// Damaged and the like; Unwanted where the receiver has gone.
pub fn send(
    connection: &Connection,
    path: &Path,
    table: &Table,
    order: Order,
    sender: &PieceSender,
) -> Result<u64, Error> {
    let name = &table.name.name;
    let doing = format!("reading table {name}");
    let encoding = catalog::encoding(connection, path)?;
    let mut reading = Reading {
        connection,
        path,
        table,
        doing,
        order,
        encoding,
        sender,
        batch: RowBatch::with_capacity(BATCH_BYTES + 4096),
        taken: 0,
    };
    if encoding != Encoding::Utf8 {
        connection
            .create_collation(UTF8_COLLATION, |a: &str, b: &str| {
                a.as_bytes().cmp(b.as_bytes())
            })
            .map_err(|error| reading.failed(error))?;
    }
    if !table.columns.is_empty() && !reading.short()? {
        reading.long()?;
    }
    reading.flush()?;
    let count = format!("SELECT count(*) FROM main.{} NOT INDEXED", quoted(name));
    let count = connection.query_row(&count, [], |row| row.get::<_, i64>(0));
    let count = count.map_err(|error| reading.failed(error))?;
    Ok(count as u64)
}

/// How a column is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// The value alone.
    Plain,
    /// The value, and a mark: a raw text, or the length of what was left out.
    Marked {
        /// Whether large cells are left out.
        cut: bool,
    },
}

struct Reading<'a> {
    connection: &'a Connection,
    path: &'a Path,
    table: &'a Table,
    doing: String,
    order: Order,
    encoding: Encoding,
    sender: &'a PieceSender,
    batch: RowBatch,
    taken: u64,
}

impl Reading<'_> {
    fn failed(&self, error: rusqlite::Error) -> Error {
        Error::from_sqlite(self.path, &self.doing, error)
    }

    /// Reads rows without large cells; false where there is one, with all rows before it taken.
    fn short(&mut self) -> Result<bool, Error> {
        let limit = Limit::SQLITE_LIMIT_LENGTH;
        let usual = self
            .connection
            .set_limit(limit, LARGE_CELL_BYTES as i32)
            .map_err(|error| self.failed(error))?;
        let read = self.run(self.ask_without_cutting(), None);
        self.connection
            .set_limit(limit, usual)
            .map_err(|error| self.failed(error))?;
        match read {
            Ok(()) => Ok(true),
            Err(Stop::TooBig) => Ok(false),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Reads the rows that `short` has left.
    fn long(&mut self) -> Result<(), Error> {
        let rowid = rowid(self.table);
        let fits = self.table.columns.len() * 2 < RESULT_COLUMNS_MAX;
        let read = match rowid {
            Some(rowid) if fits => self.run(Ask::Marked { cut: true }, Some(rowid)),
            _ => self.run(self.ask_without_cutting(), None),
        };
        match read {
            Ok(()) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::TooBig) => Err(Error::Unkept {
                path: self.path.to_owned(),
                what: format!("a row of table {}", self.table.name),
                why: "it is longer than SQLite itself reads".into(),
            }),
        }
    }

    fn ask_without_cutting(&self) -> Ask {
        let fits = self.table.columns.len() * 2 <= RESULT_COLUMNS_MAX;
        match self.encoding {
            Encoding::Utf16Le | Encoding::Utf16Be if fits => Ask::Marked { cut: false },
            _ => Ask::Plain,
        }
    }

    fn run(&mut self, ask: Ask, rowid: Option<String>) -> Result<(), Stop> {
        let connection = self.connection;
        let text = self.statement(ask, rowid.as_deref());
        let mut statement = connection.prepare(&text).map_err(|e| self.stop(e))?;
        let mut rows = statement
            .query([self.taken as i64])
            .map_err(|e| self.stop(e))?;
        while let Some(row) = rows.next().map_err(|e| self.stop(e))? {
            match ask {
                Ask::Plain => self.plain(row)?,
                Ask::Marked { .. } => self.marked(row, rowid.is_some())?,
            }
            self.taken += 1;
            if self.batch.bytes().len() >= BATCH_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn stop(&self, error: rusqlite::Error) -> Stop {
        match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => Stop::TooBig,
            _ => Stop::Failed(self.failed(error)),
        }
    }

    fn statement(&self, ask: Ask, rowid: Option<&str>) -> String {
        let mut wanted: Vec<String> = Vec::new();
        for column in &self.table.columns {
            let name = quoted(&column.name);
            match ask {
                Ask::Plain => wanted.push(name),
                Ask::Marked { cut } => wanted.extend(self.marked_column(&name, cut)),
            }
        }
        wanted.extend(rowid.map(str::to_owned));
        let order = self.order_by();
        // Without an order, an index that holds all columns must not decide how rows lie.
        let (index, by) = match order.is_empty() {
            true => (" NOT INDEXED", String::new()),
            false => ("", format!(" ORDER BY {}", order.join(", "))),
        };
        let name = quoted(&self.table.name.name);
        format!(
            "SELECT {} FROM main.{name}{index}{by} LIMIT -1 OFFSET ?1",
            wanted.join(", ")
        )
    }

    fn marked_column(&self, name: &str, cut: bool) -> [String; 2] {
        let long = format!("octet_length({name}) > {LARGE_CELL_BYTES}");
        let is_text = format!("typeof({name}) = 'text'");
        let length = format!("octet_length({name}) * 2 + ({is_text})");
        match (self.encoding, cut) {
            (Encoding::Utf8, _) => [
                format!("CASE WHEN {long} THEN NULL ELSE {name} END"),
                format!("CASE WHEN {long} THEN {length} END"),
            ],
            (_, true) => [
                format!(
                    "CASE WHEN {is_text} THEN CAST({name} AS BLOB) WHEN {long} THEN NULL ELSE {name} END"
                ),
                format!("CASE WHEN {is_text} THEN {RAW_TEXT} WHEN {long} THEN {length} END"),
            ],
            (_, false) => [
                format!("CASE WHEN {is_text} THEN CAST({name} AS BLOB) ELSE {name} END"),
                format!("CASE WHEN {is_text} THEN {RAW_TEXT} END"),
            ],
        }
    }

    fn order_by(&self) -> Vec<String> {
        let Some(key) = self
            .table
            .key
            .as_ref()
            .filter(|_| self.order != Order::Physical)
        else {
            return Vec::new();
        };
        let mut terms = Vec::new();
        for (position, kind) in &key.columns {
            let Some(column) = self.table.columns.get(*position) else {
                continue;
            };
            let name = quoted(&column.name);
            match (kind, self.order) {
                (KeyOrder::Integer, _) => terms.push(name),
                // SQL cannot tell -0.0 from 0.0: a key that leads with both is in no order, which
                // the caller sees.
                (_, Order::Canonical) => {
                    terms.push(format!(
                        "CASE typeof({name}) WHEN 'integer' THEN 1 WHEN 'real' THEN 2 \
                         WHEN 'text' THEN 3 WHEN 'blob' THEN 4 ELSE 0 END"
                    ));
                    let collation = match self.encoding {
                        Encoding::Utf8 => "BINARY",
                        _ => UTF8_COLLATION,
                    };
                    terms.push(format!("{name} COLLATE {collation}"));
                }
                _ => terms.push(format!("{name} COLLATE BINARY")),
            }
        }
        terms
    }

    fn plain(&mut self, row: &Row<'_>) -> Result<(), Stop> {
        let mut cells = Vec::with_capacity(self.table.columns.len());
        for position in 0..self.table.columns.len() {
            let value = row.get_ref(position).map_err(|e| self.stop(e))?;
            cells.push(Taken::Value(cell(value)));
        }
        self.push(cells, None)
    }

    fn marked(&mut self, row: &Row<'_>, with_rowid: bool) -> Result<(), Stop> {
        let columns = self.table.columns.len();
        let mut cells = Vec::with_capacity(columns);
        for position in 0..columns {
            let value = row.get_ref(position * 2).map_err(|e| self.stop(e))?;
            let mark: Option<i64> = row.get(position * 2 + 1).map_err(|e| self.stop(e))?;
            cells.push(match (mark, value) {
                (None, value) => Taken::Value(cell(value)),
                (Some(RAW_TEXT), ValueRef::Blob(raw)) => Taken::Text(self.decoded(raw, position)?),
                (Some(length), _) => Taken::Left {
                    class: match length % 2 {
                        0 => LargeClass::Blob,
                        _ => LargeClass::Text,
                    },
                    length: length as u64 / 2,
                },
            });
        }
        let rowid = match with_rowid {
            true => Some(row.get(columns * 2).map_err(|e| self.stop(e))?),
            false => None,
        };
        self.push(cells, rowid)
    }

    fn decoded(&self, raw: &[u8], position: usize) -> Result<Vec<u8>, Error> {
        let mut text = Vec::with_capacity(raw.len());
        match push_wtf8(self.encoding, raw, &mut text) {
            Some(()) => Ok(text),
            None => Err(Error::Unkept {
                path: self.path.to_owned(),
                what: format!(
                    "a text in column {} of table {}",
                    self.table.columns[position].name, self.table.name
                ),
                why: "its UTF-16 ends inside a character".into(),
            }),
        }
    }

    fn push(&mut self, cells: Vec<Taken<'_>>, rowid: Option<i64>) -> Result<(), Stop> {
        if cells.iter().any(Taken::is_large) {
            self.flush()?;
            for (position, taken) in cells.iter().enumerate() {
                match taken {
                    Taken::Left { .. } => self.send_left(position, rowid)?,
                    taken if taken.is_large() => {
                        for slice in taken.bytes().chunks(SLICE_BYTES) {
                            self.slice(position, slice.to_vec())?;
                        }
                    }
                    _ => {}
                }
            }
        }
        self.batch.push_with(|row| {
            for taken in &cells {
                taken.cell().push(row);
            }
        });
        Ok(())
    }

    /// Sends a cell that was left out, slice by slice.
    fn send_left(&mut self, position: usize, rowid: Option<i64>) -> Result<(), Error> {
        let connection = self.connection;
        let column = self.table.columns[position].name.as_str();
        let table = self.table.name.name.as_str();
        let mut blob = connection
            .blob_open("main", table, column, rowid.unwrap_or_default(), true)
            .map_err(|error| self.failed(error))?;
        let mut left = blob.len();
        while left > 0 {
            let mut bytes = vec![0; left.min(SLICE_BYTES)];
            blob.read_exact(&mut bytes)
                .map_err(|error| Error::Damaged {
                    path: self.path.to_owned(),
                    doing: self.doing.clone(),
                    what: error.to_string(),
                })?;
            left -= bytes.len();
            self.slice(position, bytes)?;
        }
        Ok(())
    }

    fn slice(&self, column: usize, bytes: Vec<u8>) -> Result<(), Error> {
        self.give(Piece::Slice { column, bytes })
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let next = RowBatch::with_capacity(BATCH_BYTES + 4096);
        let batch = std::mem::replace(&mut self.batch, next);
        self.give(Piece::Rows(batch))
    }

    fn give(&self, piece: Piece) -> Result<(), Error> {
        self.sender
            .blocking_send(piece)
            .map_err(|_| Error::Unwanted {
                table: self.table.name.to_string(),
            })
    }
}

/// Why reading stopped.
enum Stop {
    TooBig,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// A cell as it was read.
enum Taken<'a> {
    Value(Cell<'a>),
    /// Text in another encoding.
    Text(Vec<u8>),
    /// Left out, to be read in slices.
    Left {
        class: LargeClass,
        length: u64,
    },
}

impl Taken<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Taken::Value(Cell::Text(bytes) | Cell::Blob(bytes)) => bytes,
            Taken::Text(bytes) => bytes,
            _ => &[],
        }
    }

    fn is_large(&self) -> bool {
        matches!(self, Taken::Left { .. }) || self.bytes().len() > LARGE_CELL_BYTES
    }

    fn cell(&self) -> Cell<'_> {
        let large = |class, length| {
            Cell::Large(Large {
                class,
                length,
                digest: Digest([0; 16]),
            })
        };
        match self {
            Taken::Left { class, length } => large(*class, *length),
            Taken::Value(Cell::Blob(bytes)) if self.is_large() => {
                large(LargeClass::Blob, bytes.len() as u64)
            }
            taken if taken.is_large() => large(LargeClass::Text, taken.bytes().len() as u64),
            Taken::Value(cell) => *cell,
            Taken::Text(bytes) => Cell::Text(bytes),
        }
    }
}

/// The SQL name of a table's rowid; none where cells cannot be opened by it: where it is absent
/// or hidden by a column, or where SQLite makes columns itself.
fn rowid(table: &Table) -> Option<String> {
    if table.facts.contains_key("without_rowid") || !table.generated.is_empty() {
        return None;
    }
    let hidden = table.columns.iter().find(|column| column.hidden);
    let integer_key = || {
        let key = table.key.as_ref()?;
        match key.columns[..] {
            [(position, KeyOrder::Integer)] => table.columns.get(position),
            _ => None,
        }
    };
    hidden
        .or_else(integer_key)
        .map(|column| quoted(&column.name))
}
