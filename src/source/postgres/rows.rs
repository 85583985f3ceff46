//! Rows of a table, from `COPY … TO STDOUT` into pieces.
//!
//! Cells whose text is longer than 1 MiB are left out of the COPY by their length and read in
//! slices through a second connection with the same view of the database; a table without
//! out-of-line values pays nothing for that. Invariant: the number of rows sent equals the
//! server's own count under the same snapshot ([`check`]), or the read fails.

use tokio::sync::{Mutex, watch};

use super::catalog::CONDITION;
use super::client::{Age, Client, text_format};
use super::error::Error;
use super::slices::{self, Cut};
use super::structure::LARGE_OBJECTS;
use super::text::{self, End};
use super::{quote, types};
use crate::failure::Class;
use crate::id::Digest;
use crate::row::cell::{Cell, LARGE_CELL_BYTES, Large, LargeClass, RowBatch};
use crate::row::schema::Table;
use crate::source::{BATCH_BYTES, Order, Piece, PieceSender};

/// What one read needs to know.
pub struct Read<'r> {
    /// The table.
    pub table: &'r Table,
    /// The order of the rows.
    pub order: Order,
    /// The encoding in which text is read: that of the captured database.
    pub encoding: &'r str,
    /// A second connection with the same view, for slices of large cells.
    pub side: &'r Mutex<Client>,
    /// Columns that may hold a large cell, as [`candidates`] found them.
    pub candidates: &'r [usize],
    /// Which rows are read, and when their pieces go on; all and at once without it.
    pub range: Option<(&'r str, Turn)>,
    /// What is read in the place of the table, with the columns that are asked for.
    pub instead: Option<&'r str>,
}

/// When a range's pieces begin to go on, instead of waiting behind those of other ranges.
#[derive(Clone)]
pub struct Turn {
    range: usize,
    now: watch::Receiver<usize>,
}

impl Turn {
    /// The turn of the range with this number, where `now` says whose turn it is.
    pub fn new(range: usize, now: watch::Receiver<usize>) -> Turn {
        Turn { range, now }
    }

    async fn come(&self) {
        // Without a sender nobody waits for anything any more.
        let _ = self.now.clone().wait_for(|now| *now >= self.range).await;
    }
}

/// Sends rows of a table, and returns how many there were.
///
/// # Errors
/// As the server says. The client must be closed then.
pub async fn read(client: &mut Client, read: &Read<'_>, out: &PieceSender) -> Result<u64, Error> {
    let doing = doing(read.table);
    let sql = select(read, read.candidates);
    let mut sender = Sender {
        read,
        marked: !read.candidates.is_empty(),
        batch: RowBatch::with_capacity(BATCH_BYTES + BATCH_BYTES / 8),
        row: Vec::new(),
        escaped: Vec::new(),
        sent: 0,
        out,
    };
    let copy = format!(
        "COPY ({sql}) TO STDOUT {}",
        text_format(read.encoding, Age::Usual)
    );
    let mut stream = client.copy_out(&copy, &doing).await?;
    let mut carry: Vec<u8> = Vec::new();
    while let Some(bytes) = stream.next().await? {
        // The server sends one row a message; the protocol does not promise it.
        if carry.is_empty() && bytes.last() == Some(&b'\n') {
            sender.rows(&bytes).await?;
        } else {
            carry.extend_from_slice(&bytes);
            if carry.last() == Some(&b'\n') {
                sender.rows(&carry).await?;
                carry.clear();
            }
        }
    }
    drop(stream);
    sender.flush().await?;
    match carry.is_empty() {
        true => Ok(sender.sent),
        false => Err(malformed(read.table)),
    }
}

/// Sends every row of a table as it lies, and returns how many there were by the server's count.
///
/// # Errors
/// As [`read`] and [`check`].
pub async fn read_all(
    client: &mut Client,
    table: &Table,
    encoding: &str,
    side: &Mutex<Client>,
    out: &PieceSender,
) -> Result<u64, Error> {
    let candidates = candidates(client, table).await?;
    let all = Read {
        table,
        order: Order::Physical,
        encoding,
        side,
        candidates: &candidates,
        range: None,
        instead: None,
    };
    let came = read(client, &all, out).await?;
    check(client, table, came).await
}

/// Compares the rows that came with the server's own count, and returns it.
///
/// # Errors
/// Corrupt where they differ; as the server says.
pub async fn check(client: &mut Client, table: &Table, came: u64) -> Result<u64, Error> {
    let count = format!("SELECT pg_catalog.count(*)::text FROM {}", from(table));
    let counted = client.value(&count, &doing(table)).await?;
    if counted != came.to_string() {
        return Err(Error::stated(
            Class::Corrupt,
            format!(
                "table {} has {counted} rows by the server's count, and {came} came",
                table.name
            ),
            "check the table's indexes (amcheck) and run it again",
        ));
    }
    Ok(came)
}

fn doing(table: &Table) -> String {
    format!("reading table {}", table.name)
}

/// `ONLY table`, with the condition of an extension's configuration table.
fn from(table: &Table) -> String {
    let name = quote::table(&table.name);
    match table.facts.get(CONDITION) {
        Some(condition) => format!("ONLY {name} {condition}"),
        None => format!("ONLY {name}"),
    }
}

/// Positions of columns that may hold a large cell: none where nothing is stored out of line.
///
/// # Errors
/// As the server says.
pub async fn candidates(client: &mut Client, table: &Table) -> Result<Vec<usize>, Error> {
    if table.name.schema.as_deref() == Some(LARGE_OBJECTS.0) {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT a.attname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = c.oid WHERE c.oid = {}::pg_catalog.regclass AND a.attnum > 0 \
         AND NOT a.attisdropped AND a.attlen = -1 AND a.attstorage <> 'p' \
         AND c.reltoastrelid <> 0 AND pg_catalog.pg_relation_size(c.reltoastrelid) > 0",
        quote::literal(&quote::table(&table.name))
    );
    let rows = client.rows(&sql, &doing(table)).await?;
    let names = rows.iter().filter_map(|row| row.first()?.as_deref());
    let mut found: Vec<usize> = names.filter_map(|name| table.column(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The query for all rows; with candidates, large cells are NULL and a last column names them.
fn select(read: &Read<'_>, candidates: &[usize]) -> String {
    let table = read.table;
    let length = |&index: &usize| {
        let column = &table.columns[index];
        types::length_expression(types::base(column), &quote::identifier(&column.name))
    };
    let mut list: Vec<String> = Vec::with_capacity(table.columns.len() + 1);
    for (index, column) in table.columns.iter().enumerate() {
        let name = quote::identifier(&column.name);
        list.push(match candidates.contains(&index) {
            true => format!(
                "CASE WHEN {} > {LARGE_CELL_BYTES} THEN NULL ELSE {name} END",
                length(&index)
            ),
            false => name,
        });
    }
    if !candidates.is_empty() {
        let lengths: Vec<String> = candidates.iter().map(length).collect();
        let mut parts = vec!["ctid::pg_catalog.text".to_owned()];
        for (index, length) in candidates.iter().zip(&lengths) {
            parts.push(format!(
                "CASE WHEN {length} > {LARGE_CELL_BYTES} THEN '{index}' END"
            ));
        }
        // GREATEST would be shorter, but needs one type for all.
        let any: Vec<String> = lengths
            .iter()
            .map(|length| format!("{length} > {LARGE_CELL_BYTES}"))
            .collect();
        list.push(format!(
            "CASE WHEN {} THEN pg_catalog.concat_ws('|', VARIADIC ARRAY[{}]) END",
            any.join(" OR "),
            parts.join(", ")
        ));
    }
    let from = read.instead.map_or_else(|| from(table), str::to_owned);
    format!(
        "SELECT {} FROM {from}{}{}",
        list.join(", "),
        condition(read),
        order_by(read)
    )
}

/// Only a table without a condition of its own is read in ranges.
fn condition(read: &Read<'_>) -> String {
    match &read.range {
        Some((range, _)) => format!(" WHERE {range}"),
        None => String::new(),
    }
}

fn order_by(read: &Read<'_>) -> String {
    let (Some(key), true) = (&read.table.key, read.order != Order::Physical) else {
        return String::new();
    };
    let parts: Vec<String> = key
        .columns
        .iter()
        .map(|&(index, _)| {
            let column = &read.table.columns[index];
            types::sort_expression(types::base(column), &quote::identifier(&column.name))
        })
        .collect();
    format!(" ORDER BY {}", parts.join(", "))
}

struct Sender<'s> {
    read: &'s Read<'s>,
    /// Whether the last cell names what was left out.
    marked: bool,
    batch: RowBatch,
    row: Vec<u8>,
    escaped: Vec<u8>,
    sent: u64,
    out: &'s PieceSender,
}

/// A cell apart from its row.
type LooseCell = Option<Vec<u8>>;

fn malformed(table: &Table) -> Error {
    Error::stated(
        Class::Corrupt,
        format!(
            "a row of table {} came in another form than its columns have",
            table.name
        ),
        "run it again; if it stays, report it with the table's definition",
    )
}

impl Sender<'_> {
    /// Takes whole rows: `bytes` ends at a row's end.
    async fn rows(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let columns = self.read.table.columns.len();
        // Only where all rows together are short can no cell be long.
        if !self.marked && bytes.len() <= LARGE_CELL_BYTES {
            while !bytes.is_empty() {
                let (batch, escaped) = (&mut self.batch, &mut self.escaped);
                let mut taken = Ok(());
                batch.push_with(|row| taken = text::take_row(&mut bytes, columns, row, escaped));
                taken.map_err(|_| malformed(self.read.table))?;
                self.sent += 1;
            }
        } else {
            while !bytes.is_empty() {
                self.careful_row(&mut bytes).await?;
                self.sent += 1;
            }
        }
        if self.batch.bytes().len() >= BATCH_BYTES || self.batch.len() >= ROWS_A_BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    /// Takes one row's cells off `bytes`, and what the server cut out of it.
    fn loose_row(&mut self, bytes: &mut &[u8]) -> Result<(Vec<LooseCell>, Option<Cut>), Error> {
        let columns = self.read.table.columns.len();
        let total = columns + usize::from(self.marked);
        let (mut cells, mut cut) = (Vec::with_capacity(columns), None);
        for column in 0..total {
            let taken = text::take_cell(bytes, &mut self.escaped);
            let (cell, end) = taken.map_err(|_| malformed(self.read.table))?;
            if (end == End::Row) != (column + 1 == total) {
                return Err(malformed(self.read.table));
            }
            if column == columns {
                cut = cell.map(slices::cut).transpose()?;
            } else {
                cells.push(cell.map(<[u8]>::to_vec));
            }
        }
        Ok((cells, cut))
    }

    /// Takes one row that may hold large cells, cut out by the server or found here.
    async fn careful_row(&mut self, bytes: &mut &[u8]) -> Result<(), Error> {
        let (cells, cut) = self.loose_row(bytes)?;
        let at_server = |column: usize| cut.as_ref().is_some_and(|c| c.columns.contains(&column));
        let is_large = |(column, cell): (usize, &LooseCell)| {
            at_server(column) || cell.as_ref().is_some_and(|c| c.len() > LARGE_CELL_BYTES)
        };
        if cells.iter().enumerate().any(is_large) {
            self.flush().await?;
        }
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        for (column, cell) in cells.iter().enumerate() {
            let length = match (cell, &cut) {
                _ if !is_large((column, cell)) => {
                    match cell {
                        Some(bytes) => Cell::Text(bytes).push(&mut row),
                        None => Cell::Null.push(&mut row),
                    }
                    continue;
                }
                (Some(bytes), _) => self.slices_of(column, bytes).await?,
                (None, Some(cut)) => self.slices_at_server(column, cut).await?,
                (None, None) => return Err(malformed(self.read.table)),
            };
            let large = Large {
                class: LargeClass::Text,
                length,
                digest: Digest::ZERO,
            };
            Cell::Large(large).push(&mut row);
        }
        self.batch.push(&row);
        self.row = row;
        Ok(())
    }

    async fn slices_of(&self, column: usize, bytes: &[u8]) -> Result<u64, Error> {
        for slice in bytes.chunks(LARGE_CELL_BYTES) {
            let bytes = slice.to_vec();
            self.send(Piece::Slice { column, bytes }).await?;
        }
        Ok(bytes.len() as u64)
    }

    async fn slices_at_server(&self, column: usize, cut: &Cut) -> Result<u64, Error> {
        let place = slices::Place {
            table: self.read.table,
            column,
            row: &cut.row,
            encoding: self.read.encoding,
        };
        // Who waits behind other ranges must not keep them from the one connection for slices.
        if let Some((_, turn)) = &self.read.range {
            turn.come().await;
        }
        let mut side = self.read.side.lock().await;
        slices::read(&mut side, &place, self.out).await
    }

    async fn send(&self, piece: Piece) -> Result<(), Error> {
        let sent = self.out.send(piece).await;
        sent.map_err(|_| Error::Stopped {
            table: self.read.table.name.to_string(),
        })
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let fresh = self.batch.alike();
        let full = std::mem::replace(&mut self.batch, fresh);
        self.send(Piece::Rows(full)).await
    }
}

/// Rows without columns have no bytes, so bytes alone do not bound a batch.
const ROWS_A_BATCH: usize = 16 << 10;
