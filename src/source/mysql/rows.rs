//! Rows out of a table, in order, with their large cells in slices.
//!
//! Both the capture and the read-back of a restore read through here. A cell over 1 MiB is left
//! out of the row by its length and read in slices by a second session in the same database
//! snapshot; where there is none, the table is read in stretches between such rows. Invariant:
//! what was sent is counted again by the server, and a difference is an error.

use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use tokio::sync::Mutex;

use super::error::Error;
use super::quote;
use super::session::{Session, number};
use super::types::{self, Form};
use crate::id::Digest;
use crate::planted;
use crate::row::cell::{Cell, LARGE_CELL_BYTES, Large, LargeClass, RowBatch};
use crate::row::schema::{KeyOrder, Table, ValueKind};
use crate::source::{BATCH_BYTES, Order, Piece, PieceSender};

/// How much of a large cell one question asks for. The server fetches the whole cell for each, so
/// that few and large questions are cheaper; the client holds an answer about three times.
const SLICE_BYTES_MAX: u64 = 8 << 20;

/// What is to be read, and where it goes.
pub struct Reading<'a> {
    /// The database.
    pub database: &'a str,
    /// The table.
    pub table: &'a Table,
    /// The order.
    pub order: Order,
    /// Where the pieces go.
    pub rows: &'a PieceSender,
    /// Whether all sessions see one database snapshot of this table; else counts may differ.
    pub stands_still: bool,
    /// Whether the second session has a savepoint, by which it gives back its locks.
    pub savepoint: bool,
}

/// Which rows of a table a statement is about.
struct Stretch {
    condition: String,
    cut_large: bool,
    limit: String,
}

impl Stretch {
    fn all(cut_large: bool) -> Self {
        Stretch {
            condition: String::new(),
            cut_large,
            limit: String::new(),
        }
    }
}

/// Reads all rows, and returns their number by the server's count.
///
/// # Errors
/// [`Error`]: nothing that was sent counts.
pub async fn read(
    session: &mut Session,
    slicer: Option<&Mutex<Session>>,
    reading: &Reading<'_>,
) -> Result<u64, Error> {
    let mut reader = Reader::new(reading);
    reader.prepare(session).await?;
    if reader.large.is_empty() {
        reader.stream(session, None, &Stretch::all(false)).await?;
    } else if reader.key.is_empty() {
        reader.small_then_large(session).await?;
    } else if let Some(slicer) = slicer {
        reader
            .stream(session, Some(slicer), &Stretch::all(true))
            .await?;
    } else {
        reader.between_large(session).await?;
    }
    reader.flush().await?;
    reader.check_count(session).await
}

struct Reader<'a> {
    reading: &'a Reading<'a>,
    forms: Vec<Form>,
    /// Positions of the columns that may be large.
    large: Vec<usize>,
    /// The key, where the order goes by one.
    key: Vec<(usize, KeyOrder)>,
    batch: RowBatch,
    sent: u64,
    slice_bytes: u64,
}

impl<'a> Reader<'a> {
    fn new(reading: &'a Reading<'a>) -> Self {
        let columns = &reading.table.columns;
        let key = match (&reading.table.key, reading.order) {
            (Some(key), Order::Key | Order::Canonical) => key.columns.clone(),
            _ => Vec::new(),
        };
        Reader {
            reading,
            forms: columns.iter().map(types::form).collect(),
            large: (0..columns.len())
                .filter(|&at| types::may_be_large(&columns[at].type_name))
                .collect(),
            key,
            batch: RowBatch::with_capacity(BATCH_BYTES + BATCH_BYTES / 4),
            sent: 0,
            slice_bytes: SLICE_BYTES_MAX,
        }
    }

    fn doing(&self) -> String {
        format!("reading table {}", self.reading.table.name)
    }

    fn failed(&self, error: mysql_async::Error) -> Error {
        let error = Error::driver(error, self.doing());
        if error.is_changed() {
            return Error::Changed {
                object: format!("table {}", self.reading.table.name),
            };
        }
        error
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Rows {
            table: self.reading.table.name.to_string(),
            what: what.into(),
        }
    }

    /// Session settings that this table needs.
    async fn prepare(&mut self, session: &mut Session) -> Result<(), Error> {
        let doing = self.doing();
        let packet = session.one("SELECT @@max_allowed_packet", &doing).await?;
        let packet = number(&packet, 0).unwrap_or(1 << 20);
        self.slice_bytes = (packet / 2).clamp(1 << 14, SLICE_BYTES_MAX);
        // Keys longer than this would be sorted by their first bytes only.
        let length = if self.key.is_empty() { 1024 } else { 65_536 };
        session
            .run(&format!("SET SESSION max_sort_length = {length}"), &doing)
            .await
    }

    fn name(&self, column: usize) -> &str {
        &self.reading.table.columns[column].name
    }

    fn is_large(&self, column: usize) -> String {
        let name = quote::identifier(self.name(column));
        format!("OCTET_LENGTH({name}) > {LARGE_CELL_BYTES}")
    }

    fn any_large(&self) -> String {
        let each: Vec<String> = self.large.iter().map(|&at| self.is_large(at)).collect();
        format!("COALESCE({}, FALSE)", each.join(", FALSE) OR COALESCE("))
    }

    fn from(&self) -> String {
        let table = self.reading.table;
        let name = quote::qualified(self.reading.database, &table.name.name);
        if table.facts.contains_key("history") {
            format!("{name} FOR SYSTEM_TIME ALL")
        } else {
            name
        }
    }

    fn order_by(&self) -> String {
        if self.key.is_empty() {
            return String::new();
        }
        let keys: Vec<String> = self.key.iter().map(|&key| self.sort_key(key)).collect();
        format!(" ORDER BY {}", keys.join(", "))
    }

    /// What a key column is ordered by.
    fn sort_key(&self, (at, order): (usize, KeyOrder)) -> String {
        if self.reading.order == Order::Key || order == KeyOrder::Integer {
            return quote::identifier(self.name(at));
        }
        let select = self.forms[at].select(self.name(at));
        let column = &self.reading.table.columns[at];
        if column.kind == ValueKind::Bytes {
            select
        } else if column.facts.contains_key(types::CHARSET) {
            // Text keeps the bytes of its own character set.
            format!("CAST({select} AS BINARY)")
        } else {
            format!("CAST(CAST({select} AS CHAR) AS BINARY)")
        }
    }

    fn select(&self, stretch: &Stretch) -> String {
        let mut parts = Vec::with_capacity(self.forms.len() + self.large.len());
        for (at, form) in self.forms.iter().enumerate() {
            let plain = form.select(self.name(at));
            if stretch.cut_large && self.large.contains(&at) {
                parts.push(format!("IF({}, NULL, {plain})", self.is_large(at)));
            } else {
                parts.push(plain);
            }
        }
        if stretch.cut_large {
            for &at in &self.large {
                let name = quote::identifier(self.name(at));
                let large = self.is_large(at);
                parts.push(format!("IF({large}, OCTET_LENGTH({name}), NULL)"));
            }
        }
        if parts.is_empty() {
            parts.push("1".into());
        }
        let condition = match stretch.condition.as_str() {
            "" => String::new(),
            condition => format!(" WHERE {condition}"),
        };
        format!(
            "SELECT {} FROM {}{condition}{}{}",
            parts.join(", "),
            self.from(),
            self.order_by(),
            stretch.limit
        )
    }

    /// Reads the rows of `stretch`; `slicer` fetches what is large.
    async fn stream(
        &mut self,
        session: &mut Session,
        slicer: Option<&Mutex<Session>>,
        stretch: &Stretch,
    ) -> Result<(), Error> {
        let sql = self.select(stretch);
        let mut result = session
            .conn()
            .query_iter(sql)
            .await
            .map_err(|error| self.failed(error))?;
        while let Some(row) = result.next().await.map_err(|error| self.failed(error))? {
            match slicer {
                Some(slicer) if self.has_large(&row) => {
                    let condition = self.key_condition(&row, "=")?;
                    let mut slicer = slicer.lock().await;
                    self.slices(&mut slicer, &row, &condition).await?;
                    if self.reading.savepoint {
                        let give_back = "ROLLBACK TO SAVEPOINT rowvault";
                        slicer.run(give_back, "reading a large cell").await?;
                    }
                    self.push(&row, stretch.cut_large)?;
                }
                _ => self.push(&row, stretch.cut_large)?,
            }
            if self.batch.bytes().len() >= BATCH_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn has_large(&self, row: &Row) -> bool {
        let first = self.forms.len();
        (0..self.large.len()).any(|at| !matches!(row.as_ref(first + at), None | Some(Value::NULL)))
    }

    /// Appends a row to the batch.
    fn push(&mut self, row: &Row, cut_large: bool) -> Result<(), Error> {
        let columns = &self.reading.table.columns;
        let mut cells = Vec::with_capacity(columns.len());
        for (at, column) in columns.iter().enumerate() {
            let cell = match row.as_ref(at) {
                Some(Value::NULL) => Cell::Null,
                Some(Value::Bytes(bytes))
                    if bytes.starts_with(b"0000-00-00") && planted::is("zero date as NULL") =>
                {
                    Cell::Null
                }
                Some(Value::Bytes(bytes)) if bytes.len() <= LARGE_CELL_BYTES => Cell::Text(bytes),
                Some(Value::Bytes(_)) => {
                    return Err(Error::Changed {
                        object: format!("table {}", self.reading.table.name),
                    });
                }
                _ => return Err(self.wrong("a cell is missing, or is not text")),
            };
            let large = cut_large
                .then(|| self.large.iter().position(|&large| large == at))
                .flatten()
                .and_then(|nth| length(row, columns.len() + nth));
            cells.push(match large {
                Some(length) => Cell::Large(Large {
                    class: match column.kind {
                        ValueKind::Bytes => LargeClass::Blob,
                        _ => LargeClass::Text,
                    },
                    length,
                    digest: Digest([0; 16]),
                }),
                None => cell,
            });
        }
        self.batch.push_with(|bytes| {
            for cell in &cells {
                cell.push(bytes);
            }
        });
        self.sent += 1;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let empty = RowBatch::with_capacity(BATCH_BYTES + BATCH_BYTES / 4);
        let batch = std::mem::replace(&mut self.batch, empty);
        self.send(Piece::Rows(batch)).await
    }

    async fn send(&self, piece: Piece) -> Result<(), Error> {
        self.reading
            .rows
            .send(piece)
            .await
            .map_err(|_| Error::ReceiverGone {
                table: self.reading.table.name.to_string(),
            })
    }

    /// A condition on the key of `row`: equal, or further on.
    fn key_condition(&self, row: &Row, operator: &str) -> Result<String, Error> {
        let cells: Vec<&[u8]> = self
            .key
            .iter()
            .map(|&(at, _)| match row.as_ref(at) {
                Some(Value::Bytes(bytes)) => Ok(bytes.as_slice()),
                _ => Err(self.wrong("a key has a NULL in it")),
            })
            .collect::<Result<_, _>>()?;
        self.condition(&cells, operator)
    }

    fn condition(&self, cells: &[&[u8]], operator: &str) -> Result<String, Error> {
        let compare = |nth: usize, operator: &str| {
            let (at, order) = self.key[nth];
            let column = &self.reading.table.columns[at];
            let canonical = self.reading.order == Order::Canonical && order != KeyOrder::Integer;
            if canonical && operator != "=" {
                let left = self.sort_key((at, order));
                return Ok(format!("{left} {operator} {}", quote::bytes(cells[nth])));
            }
            types::equals(column, cells[nth], operator)
                .ok_or_else(|| self.wrong(format!("a key in column {} is no value", column.name)))
        };
        let mut ways = Vec::new();
        let first = if operator == "=" {
            self.key.len() - 1
        } else {
            0
        };
        for last in first..self.key.len() {
            let mut all = Vec::new();
            for nth in 0..last {
                all.push(compare(nth, "=")?);
            }
            all.push(compare(last, operator)?);
            ways.push(format!("({})", all.join(" AND ")));
        }
        Ok(format!("({})", ways.join(" OR ")))
    }

    /// Sends the slices of all large cells of `row`, which `condition` finds.
    async fn slices(
        &mut self,
        session: &mut Session,
        row: &Row,
        condition: &str,
    ) -> Result<(), Error> {
        self.flush().await?;
        for (nth, &column) in self.large.iter().enumerate() {
            let Some(length) = length(row, self.forms.len() + nth) else {
                continue;
            };
            let mut offset = 0;
            while offset < length {
                let wanted = self.slice_bytes.min(length - offset);
                let bytes = self
                    .slice(session, column, offset, wanted, condition)
                    .await?;
                for piece in bytes.chunks(LARGE_CELL_BYTES) {
                    let bytes = piece.to_vec();
                    self.send(Piece::Slice { column, bytes }).await?;
                }
                offset += wanted;
            }
        }
        Ok(())
    }

    async fn slice(
        &self,
        session: &mut Session,
        column: usize,
        offset: u64,
        wanted: u64,
        condition: &str,
    ) -> Result<Vec<u8>, Error> {
        let name = quote::identifier(self.name(column));
        let sql = format!(
            "SELECT SUBSTRING(CAST({name} AS BINARY), {}, {wanted}) FROM {} WHERE {condition}",
            offset + 1,
            self.from(),
        );
        let mut rows: Vec<Row> = session
            .conn()
            .query(sql)
            .await
            .map_err(|error| self.failed(error))?;
        match (rows.pop(), rows.is_empty()) {
            (Some(mut row), true) => match row.take::<Value, _>(0) {
                Some(Value::Bytes(bytes)) if bytes.len() as u64 == wanted => Ok(bytes),
                _ => Err(Error::Unsupported {
                    what: format!(
                        "the server does not give out column {} of table {} in slices",
                        self.name(column),
                        self.reading.table.name
                    ),
                    hint: "raise max_allowed_packet on the server".into(),
                }),
            },
            _ => Err(self.wrong("a row with a large cell was not found by its key")),
        }
    }

    /// Without a key: the rows that have no large cell, then the others, one by one.
    async fn small_then_large(&mut self, session: &mut Session) -> Result<(), Error> {
        let large = self.any_large();
        let small = Stretch {
            condition: format!("NOT ({large})"),
            ..Stretch::all(false)
        };
        self.stream(session, None, &small).await?;
        for nth in 0u64.. {
            let one = Stretch {
                condition: large.clone(),
                cut_large: true,
                limit: format!(" LIMIT {nth}, 1"),
            };
            let found = format!("{large} LIMIT {nth}, 1");
            if !self.one_large(session, &one, &found).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads one row that has large cells; false where there is none.
    async fn one_large(
        &mut self,
        session: &mut Session,
        stretch: &Stretch,
        found: &str,
    ) -> Result<bool, Error> {
        let rows: Vec<Row> = session
            .conn()
            .query(self.select(stretch))
            .await
            .map_err(|error| self.failed(error))?;
        let Some(row) = rows.first() else {
            return Ok(false);
        };
        self.slices(session, row, found).await?;
        self.push(row, true)?;
        Ok(true)
    }

    /// Without a second session: first the keys of rows with large cells, then what lies between.
    async fn between_large(&mut self, session: &mut Session) -> Result<(), Error> {
        let keys: Vec<String> = self
            .key
            .iter()
            .map(|&(at, _)| self.forms[at].select(self.name(at)))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {}{}",
            keys.join(", "),
            self.from(),
            self.any_large(),
            self.order_by()
        );
        let large: Vec<Row> = session
            .conn()
            .query(sql)
            .await
            .map_err(|error| self.failed(error))?;
        let mut after = String::new();
        for row in large {
            let cells: Vec<&[u8]> = (0..row.len())
                .map(|at| match row.as_ref(at) {
                    Some(Value::Bytes(bytes)) => Ok(bytes.as_slice()),
                    _ => Err(self.wrong("a key has a NULL in it")),
                })
                .collect::<Result<_, _>>()?;
            let before = Stretch {
                condition: format!("{after}{}", self.condition(&cells, "<")?),
                ..Stretch::all(false)
            };
            self.stream(session, None, &before).await?;
            let here = self.condition(&cells, "=")?;
            let one = Stretch {
                condition: here.clone(),
                ..Stretch::all(true)
            };
            if !self.one_large(session, &one, &here).await? {
                return Err(self.wrong("a row with a large cell was not found by its key"));
            }
            after = format!("{} AND ", self.condition(&cells, ">")?);
        }
        let rest = Stretch {
            condition: after.trim_end_matches(" AND ").to_owned(),
            ..Stretch::all(false)
        };
        self.stream(session, None, &rest).await
    }

    /// Has the server count again.
    async fn check_count(&self, session: &mut Session) -> Result<u64, Error> {
        let sql = format!("SELECT COUNT(*) FROM {}", self.from());
        let answer = session.one(&sql, &self.doing()).await?;
        let counted = number(&answer, 0).ok_or_else(|| self.wrong("they cannot be counted"))?;
        if counted != self.sent && self.reading.stands_still {
            return Err(self.wrong(format!(
                "{} were read where the server counts {counted}",
                self.sent
            )));
        }
        Ok(self.sent)
    }
}

/// The length of a large cell, from the column of lengths at `at`.
fn length(row: &Row, at: usize) -> Option<u64> {
    match row.as_ref(at) {
        Some(Value::Bytes(bytes)) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}
