//! Rows into a table, through `COPY … FROM STDIN`.
//!
//! Large cells come in slices before their row, when the row's other cells are not yet known.
//! They wait in a temporary table at the server, so that neither memory nor a file here holds
//! them, and are streamed back into their place in the COPY. Invariant: the server took exactly
//! the rows that came, each with the cells that it had.

use std::collections::BTreeMap;

use tokio::sync::Mutex;

use super::catalog::EXTENSION;
use super::client::{Age, Client, CopyIn, text_format};
use super::error::Error;
use super::slices::BinaryFields;
use super::structure::LARGE_OBJECTS;
use super::{quote, text};
use crate::failure::Class;
use crate::row::cell::{Cell, Cells, RowBatch};
use crate::row::schema::Table;
use crate::source::{Piece, PieceReceiver};

/// About how many bytes one message to the server holds.
const MESSAGE_BYTES: usize = 64 << 10;

/// What one load needs to know.
pub struct Load<'l> {
    /// The table.
    pub table: &'l Table,
    /// The encoding of the rows' text.
    pub encoding: &'l str,
    /// A second connection, where slices of large cells wait.
    pub side: &'l Mutex<Client>,
    /// Whether the table is emptied in the transaction that fills it: its rows are then written as
    /// old ones, which nobody has to touch again, and with `wal_level = minimal` they are not
    /// logged. Only for a table that nobody else has; one that its filler may not empty is filled
    /// as it is.
    pub emptied: bool,
}

/// Takes all rows, and returns how many the server took. The client must be closed on an error.
///
/// # Errors
/// Corrupt: pieces that do not fit the table. Else as the server says.
pub async fn load(
    client: &mut Client,
    load: &Load<'_>,
    rows: &mut PieceReceiver,
) -> Result<u64, Error> {
    let pages = load.table.name.schema.as_deref() == Some(LARGE_OBJECTS.0);
    let doing = format!("filling table {}", load.table.name);
    // Of an extension's configuration, rows may be there that the extension itself brings.
    let emptied = load.emptied
        && !pages
        && !load.table.facts.contains_key(EXTENSION)
        && may_empty(client, load.table, &doing).await?;
    let age = match emptied {
        true => Age::Frozen,
        false => Age::Usual,
    };
    let format = text_format(load.encoding, age);
    let sql = if pages {
        client.run(PAGES_TABLE, &doing).await?;
        format!("COPY pg_temp.rowvault_pages FROM STDIN {format}")
    } else {
        copy_statement(load.table, &format)
    };
    if emptied {
        let empty = format!(
            "BEGIN; TRUNCATE TABLE ONLY {}",
            quote::table(&load.table.name)
        );
        client.run(&empty, &doing).await?;
    }
    let copy = client.copy_in(&sql, &doing).await?;
    let taken = fill(copy, load, rows).await?;
    if emptied {
        client.run("COMMIT", &doing).await?;
    }
    if pages {
        client.run(WRITE_PAGES, &doing).await?;
    }
    Ok(taken)
}

/// Whether who may fill a table may empty it too, which are two rights, even for its owner.
async fn may_empty(client: &mut Client, table: &Table, doing: &str) -> Result<bool, Error> {
    let sql = format!(
        "SELECT pg_catalog.has_table_privilege({}, 'TRUNCATE')::text",
        quote::literal(&quote::table(&table.name))
    );
    Ok(client.value(&sql, doing).await? == "true")
}

async fn fill(copy: CopyIn<'_>, load: &Load<'_>, rows: &mut PieceReceiver) -> Result<u64, Error> {
    let mut filler = Filler {
        load,
        copy,
        buffer: Vec::with_capacity(MESSAGE_BYTES + MESSAGE_BYTES / 4),
        sent: 0,
    };
    while let Some(piece) = rows.recv().await {
        match piece {
            Piece::Rows(batch) => filler.batch(&batch, None).await?,
            Piece::Slice { column, bytes } => filler.large(column, bytes, rows).await?,
        }
    }
    filler.flush().await?;
    let (copy, sent) = (filler.copy, filler.sent);
    let taken = copy.finish().await?;
    match taken == sent {
        true => Ok(taken),
        false => Err(Error::stated(
            Class::Corrupt,
            format!(
                "the server took {taken} of {sent} rows of table {}",
                load.table.name
            ),
            "",
        )),
    }
}

const PAGES_TABLE: &str = "DROP TABLE IF EXISTS pg_temp.rowvault_pages; \
 CREATE TEMPORARY TABLE rowvault_pages (loid oid, pageno int4, data bytea)";

const WRITE_PAGES: &str = "SELECT pg_catalog.count(*)::text FROM (SELECT pg_catalog.lo_put(loid, \
 pageno::int8 * (pg_catalog.current_setting('block_size')::int8 / 4), data) \
 FROM pg_temp.rowvault_pages ORDER BY loid, pageno OFFSET 0) AS x; \
 DROP TABLE pg_temp.rowvault_pages";

fn copy_statement(table: &Table, options: &str) -> String {
    let names: Vec<String> = table
        .columns
        .iter()
        .map(|column| quote::identifier(&column.name))
        .collect();
    let list = match names.is_empty() {
        // An empty list is no syntax; without one all columns that are not generated are meant.
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    };
    format!(
        "COPY {}{list} FROM STDIN {options}",
        quote::table(&table.name)
    )
}

struct Filler<'f> {
    load: &'f Load<'f>,
    copy: CopyIn<'f>,
    buffer: Vec<u8>,
    sent: u64,
}

/// Where the large cells of the first row of a batch wait, and how long each is.
type Waiting = BTreeMap<usize, u64>;

impl Filler<'_> {
    async fn flush(&mut self) -> Result<(), Error> {
        if !self.buffer.is_empty() {
            self.copy.send(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn batch(
        &mut self,
        batch: &RowBatch,
        mut waiting: Option<(&mut Client, Waiting)>,
    ) -> Result<(), Error> {
        for row in batch.iter() {
            match waiting.take() {
                None => self.row(row)?,
                Some((side, cells)) => self.large_row(row, side, &cells).await?,
            }
            self.sent += 1;
            if self.buffer.len() >= MESSAGE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Error> {
        let mut count = 0;
        for cell in Cells::new(row) {
            if count > 0 {
                self.buffer.push(b'\t');
            }
            match cell {
                Ok(Cell::Text(bytes)) => text::push_escaped(&mut self.buffer, bytes),
                Ok(Cell::Null) => self.buffer.extend_from_slice(b"\\N"),
                _ => return Err(unfit(self.load.table)),
            }
            count += 1;
        }
        self.buffer.push(b'\n');
        match count == self.load.table.columns.len() {
            true => Ok(()),
            false => Err(unfit(self.load.table)),
        }
    }

    /// Lets the slices wait at the server until their row is there, then takes both.
    async fn large(
        &mut self,
        column: usize,
        bytes: Vec<u8>,
        rows: &mut PieceReceiver,
    ) -> Result<(), Error> {
        let load = self.load;
        let mut side = load.side.lock().await;
        let (waiting, batch) = keep(&mut side, self.load.table, (column, bytes), rows).await?;
        self.batch(&batch, Some((&mut side, waiting))).await?;
        let doing = format!("filling table {}", self.load.table.name);
        side.run("TRUNCATE pg_temp.rowvault_slices", &doing).await
    }

    async fn large_row(
        &mut self,
        row: &[u8],
        side: &mut Client,
        waiting: &Waiting,
    ) -> Result<(), Error> {
        let mut used = 0;
        let mut count = 0;
        for (index, cell) in Cells::new(row).enumerate() {
            if index > 0 {
                self.buffer.push(b'\t');
            }
            match cell {
                Ok(Cell::Text(bytes)) => text::push_escaped(&mut self.buffer, bytes),
                Ok(Cell::Null) => self.buffer.extend_from_slice(b"\\N"),
                Ok(Cell::Large(large)) if waiting.get(&index) == Some(&large.length) => {
                    used += 1;
                    self.waiting_cell(index, side).await?;
                }
                _ => return Err(unfit(self.load.table)),
            }
            count += 1;
        }
        self.buffer.push(b'\n');
        match count == self.load.table.columns.len() && used == waiting.len() {
            true => Ok(()),
            false => Err(unfit(self.load.table)),
        }
    }

    /// Streams a cell from where it waits into its place in the COPY.
    async fn waiting_cell(&mut self, index: usize, side: &mut Client) -> Result<(), Error> {
        let doing = format!("filling a large cell of table {}", self.load.table.name);
        let sql = format!(
            "COPY (SELECT data FROM pg_temp.rowvault_slices WHERE cell = {index} ORDER BY n) \
             TO STDOUT (FORMAT binary)"
        );
        let mut stream = side.copy_out(&sql, &doing).await?;
        let mut fields = BinaryFields::default();
        while let Some(bytes) = stream.next().await? {
            fields.push(&bytes);
            while let Some(slice) = fields.take()? {
                text::push_escaped(&mut self.buffer, &slice);
                self.flush().await?;
            }
        }
        Ok(())
    }
}

fn unfit(table: &Table) -> Error {
    Error::stated(
        Class::Corrupt,
        format!("a row does not fit the columns of table {}", table.name),
        "restore another snapshot",
    )
}

const SLICES_TABLE: &str = "\
 CREATE TEMPORARY TABLE IF NOT EXISTS rowvault_slices (cell int4, n int4, data bytea); \
 ALTER TABLE pg_temp.rowvault_slices ALTER COLUMN data SET STORAGE EXTERNAL; \
 TRUNCATE pg_temp.rowvault_slices";

/// Puts slices into a temporary table until rows come; gives their lengths and those rows.
async fn keep(
    side: &mut Client,
    table: &Table,
    first: (usize, Vec<u8>),
    rows: &mut PieceReceiver,
) -> Result<(Waiting, RowBatch), Error> {
    let doing = format!("keeping a large cell of table {}", table.name);
    side.run(SLICES_TABLE, &doing).await?;
    let sql = "COPY pg_temp.rowvault_slices FROM STDIN (FORMAT binary)";
    let mut copy = side.copy_in(sql, &doing).await?;
    let mut waiting = Waiting::new();
    let mut message = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let mut number = 0u32;
    let mut slice = Some(first);
    let batch = loop {
        if let Some((column, bytes)) = slice.take() {
            if column >= table.columns.len() {
                return Err(unfit(table));
            }
            push_tuple(&mut message, column as u32, number, &bytes);
            number += 1;
            *waiting.entry(column).or_default() += bytes.len() as u64;
            copy.send(&message).await?;
            message.clear();
        }
        match rows.recv().await {
            Some(Piece::Slice { column, bytes }) => slice = Some((column, bytes)),
            Some(Piece::Rows(batch)) => break batch,
            None => return Err(unfit(table)),
        }
    };
    copy.send(&[0xff, 0xff]).await?;
    copy.finish().await?;
    match batch.is_empty() {
        false => Ok((waiting, batch)),
        true => Err(unfit(table)),
    }
}

fn push_tuple(out: &mut Vec<u8>, column: u32, number: u32, bytes: &[u8]) {
    out.extend_from_slice(&3u16.to_be_bytes());
    for value in [column, number] {
        out.extend_from_slice(&4u32.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}
