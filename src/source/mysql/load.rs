//! Rows into a table: as a stream of `LOAD DATA LOCAL`, or as inserts where that is forbidden.
//!
//! Text goes in as binary, so that the server converts nothing. A row with large cells gets a
//! statement of its own, in which the slices pass through as they come; so no more than a slice
//! is ever held. Invariant: the server says how many rows it took, and it must be all of them.

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use tokio::sync::mpsc;

use super::error::Error;
use super::quote;
use super::session::{Session, number};
use super::types::{self, Form};
use crate::row::cell::{Cell, RowBatch, cells};
use crate::row::schema::{Column, Table, ValueKind};
use crate::source::{Piece, PieceReceiver};

/// How many bytes of rows go into one write.
const WRITE_BYTES: usize = 128 << 10;
/// How many writes may wait.
const WRITES_WAITING_MAX: usize = 4;
/// How large an insert of several rows becomes, where the server takes that much.
const INSERT_BYTES: usize = 1 << 20;

/// How rows go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `LOAD DATA LOCAL INFILE`.
    LoadData,
    /// `INSERT` of many rows.
    Insert,
}

/// Takes all rows of `table` into `database`, and returns how many there were.
///
/// # Errors
/// [`Error`]: the table is to be thrown away.
pub async fn load(
    session: &mut Session,
    database: &str,
    table: &Table,
    way: Way,
    rows: PieceReceiver,
) -> Result<u64, Error> {
    let mut loader = Loader {
        target: quote::qualified(database, &table.name.name),
        forms: table.columns.iter().map(types::form).collect(),
        table,
        rows,
        waiting: None,
        sent: 0,
        taken: 0,
    };
    match way {
        Way::LoadData => loader.load_data(session).await?,
        Way::Insert => loader.insert(session).await?,
    }
    if loader.sent != loader.taken {
        return Err(Error::Count {
            table: table.name.to_string(),
            sent: loader.sent,
            taken: loader.taken,
        });
    }
    Ok(loader.taken)
}

struct Loader<'a> {
    target: String,
    table: &'a Table,
    forms: Vec<Form>,
    rows: PieceReceiver,
    /// A piece that was taken from the channel and not used yet; rows from this one on.
    waiting: Option<(Piece, usize)>,
    sent: u64,
    taken: u64,
}

impl Loader<'_> {
    fn doing(&self) -> String {
        format!("loading table {}", self.table.name)
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Rows {
            table: self.table.name.to_string(),
            what: what.into(),
        }
    }

    async fn next(&mut self) -> Option<(Piece, usize)> {
        match self.waiting.take() {
            Some(waiting) => Some(waiting),
            None => self.rows.recv().await.map(|piece| (piece, 0)),
        }
    }

    async fn load_data(&mut self, session: &mut Session) -> Result<(), Error> {
        while let Some((piece, start)) = self.next().await {
            let large = matches!(piece, Piece::Slice { .. });
            self.waiting = Some((piece, start));
            self.taken += self.one_statement(session, large).await?;
        }
        Ok(())
    }

    /// Runs one `LOAD DATA` and feeds it until it has all that one statement can take.
    async fn one_statement(&mut self, session: &mut Session, large: bool) -> Result<u64, Error> {
        let (write, read) = mpsc::channel::<Bytes>(WRITES_WAITING_MAX);
        let sql = match large {
            true => self.load_large_sql(),
            false => self.load_sql(),
        };
        let doing = self.doing();
        let failed = |error| Error::driver(error, doing.clone());
        let conn = session.conn();
        conn.set_infile_handler(async move { Ok(stream(read)) });
        let query = async {
            let answer = conn.query_iter(sql).await.map_err(failed)?;
            let taken = answer.affected_rows();
            answer.drop_result().await.map_err(failed)?;
            Ok::<u64, Error>(taken)
        };
        let feed = async {
            match large {
                true => self.feed_large(write).await,
                false => self.feed(write).await,
            }
        };
        tokio::pin!(query, feed);
        let mut fed = None;
        let taken = loop {
            tokio::select! {
                taken = &mut query => break taken?,
                end = &mut feed, if fed.is_none() => fed = Some(end),
            }
        };
        // A statement that failed may never have asked for what the feed still holds; one that
        // succeeded has seen its end.
        match fed {
            Some(end) => end?,
            None => feed.await?,
        }
        Ok(taken)
    }

    fn load_head(&self) -> String {
        format!(
            "LOAD DATA LOCAL INFILE 'rowvault' INTO TABLE {} CHARACTER SET binary \
             FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ",
            self.target
        )
    }

    fn load_sql(&self) -> String {
        let mut fields = Vec::new();
        let mut set = Vec::new();
        self.load_fields(|_| true, &mut fields, &mut set);
        self.load_whole(&fields, &set)
    }

    fn load_whole(&self, fields: &[String], set: &[String]) -> String {
        let set = match set {
            [] => String::new(),
            set => format!(" SET {}", set.join(", ")),
        };
        format!("{}({}){set}", self.load_head(), fields.join(", "))
    }

    /// The fields of the columns that `which` chooses, in their order.
    fn load_fields(
        &self,
        which: impl Fn(&Column) -> bool,
        fields: &mut Vec<String>,
        set: &mut Vec<String>,
    ) {
        for (at, column) in self.table.columns.iter().enumerate() {
            if !which(column) {
                continue;
            }
            let name = quote::identifier(&column.name);
            match self.forms[at].load(&format!("@v{at}")) {
                None => fields.push(name),
                Some(expression) => {
                    fields.push(format!("@v{at}"));
                    set.push(format!("{name} = {expression}"));
                }
            }
        }
    }

    /// The statement for one row that has large cells. First a field for the large bytes of each
    /// column that may have some, then for each whether it has and else its small value, then
    /// the other columns: that is the order in which they become known.
    fn load_large_sql(&self) -> String {
        let mut fields = Vec::new();
        let mut small = Vec::new();
        let mut set = Vec::new();
        for (at, column) in self.table.columns.iter().enumerate() {
            if !types::may_be_large(&column.type_name) {
                continue;
            }
            let name = quote::identifier(&column.name);
            // What checks its value on the way in gets it in a variable.
            let strict = column.kind == ValueKind::Bytes && !column.type_name.ends_with("blob")
                || self.forms[at] == Form::Text;
            let direct = if strict {
                format!("@d{at}")
            } else {
                name.clone()
            };
            let either = format!("IF(@f{at}, {direct}, @s{at})");
            let either = self.forms[at].load(&either).unwrap_or(either);
            set.push(format!("{name} = {either}"));
            fields.push(direct);
            small.push(format!("@f{at}, @s{at}"));
        }
        fields.extend(small);
        let narrow = |column: &Column| !types::may_be_large(&column.type_name);
        self.load_fields(narrow, &mut fields, &mut set);
        self.load_whole(&fields, &set)
    }

    /// Sends rows until they end or one with large cells comes.
    async fn feed(&mut self, write: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let mut out = Vec::with_capacity(WRITE_BYTES * 2);
        while let Some((piece, start)) = self.next().await {
            let Piece::Rows(batch) = piece else {
                self.waiting = Some((piece, start));
                break;
            };
            for index in start..batch.len() {
                self.line(batch.row(index), &mut out)?;
                if out.len() >= WRITE_BYTES && !flush(&write, &mut out).await {
                    return Ok(());
                }
            }
        }
        flush(&write, &mut out).await;
        Ok(())
    }

    fn cells<'b>(&self, row: &'b [u8]) -> Result<Vec<Cell<'b>>, Error> {
        cells(row, self.table.columns.len()).map_err(|error| self.wrong(error.to_string()))
    }

    fn line(&mut self, row: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        for (at, cell) in self.cells(row)?.into_iter().enumerate() {
            if at > 0 {
                out.push(b'\t');
            }
            self.field(cell, out)?;
        }
        out.push(b'\n');
        self.sent += 1;
        Ok(())
    }

    fn field(&self, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        match cell {
            Cell::Null => out.extend_from_slice(b"\\N"),
            Cell::Text(bytes) | Cell::Blob(bytes) => escape(bytes, out),
            Cell::Large(_) => return Err(self.wrong("a large cell came without its slices")),
            Cell::Integer(_) | Cell::Real(_) => {
                return Err(self.wrong("a cell is not in this engine's form"));
            }
        }
        Ok(())
    }

    /// Sends the slices that come, and the first row after them.
    async fn feed_large(&mut self, write: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let may: Vec<usize> = (0..self.forms.len())
            .filter(|&at| types::may_be_large(&self.table.columns[at].type_name))
            .collect();
        let mut out = Vec::with_capacity(WRITE_BYTES * 2);
        let mut received = vec![0u64; self.forms.len()];
        let mut field = 0;
        let (batch, start) = loop {
            match self.next().await {
                Some((Piece::Slice { column, bytes }, _)) => {
                    let Some(nth) = may.iter().position(|&at| at == column) else {
                        return Err(self.wrong("a slice came for a column that has none"));
                    };
                    if nth < field {
                        return Err(self.wrong("slices came out of order"));
                    }
                    out.extend(std::iter::repeat_n(b'\t', nth - field));
                    field = nth;
                    received[column] += bytes.len() as u64;
                    escape(&bytes, &mut out);
                    if !flush(&write, &mut out).await {
                        return Ok(());
                    }
                }
                Some((Piece::Rows(batch), start)) if start < batch.len() => break (batch, start),
                _ => return Err(self.wrong("slices came without their row")),
            }
        };
        out.extend(std::iter::repeat_n(b'\t', may.len() - field));
        self.large_rest(&batch, start, &received, &mut out)?;
        self.sent += 1;
        if start + 1 < batch.len() {
            self.waiting = Some((Piece::Rows(batch), start + 1));
        }
        flush(&write, &mut out).await;
        Ok(())
    }

    /// What follows the large bytes of a row.
    fn large_rest(
        &self,
        batch: &RowBatch,
        index: usize,
        received: &[u64],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let cells = self.cells(batch.row(index))?;
        let mut narrow = Vec::new();
        let mut first = true;
        for (at, cell) in cells.into_iter().enumerate() {
            if !types::may_be_large(&self.table.columns[at].type_name) {
                narrow.push(b'\t');
                self.field(cell, &mut narrow)?;
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b'\t');
            }
            match cell {
                Cell::Large(large) if large.length == received[at] => {
                    out.extend_from_slice(b"1\t\\N");
                }
                _ if received[at] > 0 => {
                    return Err(self.wrong("the slices of a cell are not as long as it is"));
                }
                cell => {
                    out.extend_from_slice(b"0\t");
                    self.field(cell, out)?;
                }
            }
        }
        out.extend_from_slice(&narrow);
        out.push(b'\n');
        Ok(())
    }

    async fn insert(&mut self, session: &mut Session) -> Result<(), Error> {
        let doing = self.doing();
        let packet = session.one("SELECT @@max_allowed_packet", &doing).await?;
        let packet = number(&packet, 0).unwrap_or(1 << 20) as usize;
        let names: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|column| quote::identifier(&column.name))
            .collect();
        let head = format!("INSERT INTO {} ({}) VALUES ", self.target, names.join(", "));
        let mut sql = head.clone().into_bytes();
        let mut large: Vec<Option<Vec<u8>>> = vec![None; names.len()];
        while let Some((piece, _)) = self.next().await {
            let batch = match piece {
                Piece::Rows(batch) => batch,
                Piece::Slice { column, bytes } => {
                    self.gather(&mut large, column, bytes, packet)?;
                    continue;
                }
            };
            for row in batch.iter() {
                let mut values = Vec::new();
                self.values(row, &mut large, &mut values)?;
                if head.len() + values.len() + 16 > packet {
                    return Err(self.too_large(values.len()));
                }
                let full = sql.len() + values.len() + 16 > INSERT_BYTES.min(packet);
                if full && sql.len() > head.len() {
                    self.run_insert(session, &sql).await?;
                    sql.truncate(head.len());
                }
                if sql.len() > head.len() {
                    sql.push(b',');
                }
                sql.extend_from_slice(&values);
                self.sent += 1;
            }
        }
        if sql.len() > head.len() {
            self.run_insert(session, &sql).await?;
        }
        Ok(())
    }

    fn too_large(&self, bytes: usize) -> Error {
        Error::RowTooLarge {
            table: self.table.name.to_string(),
            bytes: bytes as u64,
        }
    }

    fn gather(
        &self,
        large: &mut [Option<Vec<u8>>],
        column: usize,
        bytes: Vec<u8>,
        packet: usize,
    ) -> Result<(), Error> {
        let held: usize = large.iter().flatten().map(Vec::len).sum();
        if held + bytes.len() > packet {
            return Err(self.too_large(held + bytes.len()));
        }
        match large.get_mut(column) {
            Some(cell) => cell.get_or_insert_default().extend_from_slice(&bytes),
            None => return Err(self.wrong("a slice came for a column that is not there")),
        }
        Ok(())
    }

    async fn run_insert(&mut self, session: &mut Session, sql: &[u8]) -> Result<(), Error> {
        session.run_bytes(sql, &self.doing()).await?;
        self.taken += session.conn().affected_rows();
        Ok(())
    }

    fn values(
        &self,
        row: &[u8],
        large: &mut [Option<Vec<u8>>],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        out.push(b'(');
        for (at, cell) in self.cells(row)?.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            match (cell, large[at].take()) {
                (Cell::Null, None) => out.extend_from_slice(b"NULL"),
                (Cell::Text(bytes) | Cell::Blob(bytes), None) => self.literal(at, bytes, out)?,
                (Cell::Large(cell), Some(bytes)) if cell.length == bytes.len() as u64 => {
                    self.literal(at, &bytes, out)?;
                }
                _ => return Err(self.wrong("a cell and its slices do not fit together")),
            }
        }
        out.push(b')');
        Ok(())
    }

    fn literal(&self, at: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if self.forms[at] == Form::Number {
            if !types::is_number(bytes) {
                return Err(self.wrong("a number is none"));
            }
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let mut quoted = b"_binary'".to_vec();
        for &byte in bytes {
            match byte {
                0 => quoted.extend_from_slice(b"\\0"),
                b'\'' | b'\\' => quoted.extend_from_slice(&[b'\\', byte]),
                0x1a => quoted.extend_from_slice(b"\\Z"),
                _ => quoted.push(byte),
            }
        }
        quoted.push(b'\'');
        match self.forms[at] {
            Form::Text => {
                out.extend_from_slice(b"CONVERT(");
                out.extend_from_slice(&quoted);
                out.extend_from_slice(b" USING utf8mb4)");
            }
            _ => out.extend_from_slice(&quoted),
        }
        Ok(())
    }
}

/// Appends `bytes` as a field of `LOAD DATA`.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            0 => out.extend_from_slice(b"\\0"),
            b'\\' | b'\t' | b'\n' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
}

/// Hands the bytes on; false where the server takes no more, which its answer explains.
async fn flush(write: &mpsc::Sender<Bytes>, out: &mut Vec<u8>) -> bool {
    if out.is_empty() {
        return true;
    }
    let bytes = Bytes::from(std::mem::replace(out, Vec::with_capacity(WRITE_BYTES * 2)));
    write.send(bytes).await.is_ok()
}

fn stream(read: mpsc::Receiver<Bytes>) -> mysql_async::InfileData {
    Box::pin(futures::stream::unfold(read, |mut read| async move {
        let bytes = read.recv().await?;
        Some((Ok(bytes), read))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_leaves_no_separator_bare() {
        let mut out = Vec::new();
        escape(b"a\tb\nc\\d\x00\xff", &mut out);
        assert_eq!(out, b"a\\\tb\\\nc\\\\d\\0\xff");
    }
}
