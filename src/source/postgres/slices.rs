//! Large cells, read in slices from where they lie.
//!
//! A cell is found by its row's place in the file (`ctid`), which cannot move while the snapshot
//! and the table's lock are held. The server makes the value flat once and hands out raw slices
//! through a binary COPY. Invariant: the slices together are the cell's COPY text; a bytea's raw
//! bytes become hex here.

use super::client::Client;
use super::error::Error;
use super::{quote, types};
use crate::failure::Class;
use crate::row::cell::LARGE_CELL_BYTES;
use crate::row::schema::Table;
use crate::source::{Piece, PieceSender};

/// What was left out of a row.
pub struct Cut {
    /// The row's place, `(page,item)`.
    pub row: String,
    /// The columns, by position.
    pub columns: Vec<usize>,
}

/// The marker that ends a row with something left out: `(page,item)|column|column`.
pub fn cut(marker: &[u8]) -> Result<Cut, Error> {
    let parsed = std::str::from_utf8(marker).ok().and_then(|text| {
        let (row, columns) = text.split_once('|')?;
        let inner = row.strip_prefix('(')?.strip_suffix(')')?;
        let digits = |c: char| c.is_ascii_digit() || c == ',';
        if !inner.chars().all(digits) {
            return None;
        }
        let columns = columns.split('|').map(|c| c.parse().ok());
        Some(Cut {
            row: row.to_owned(),
            columns: columns.collect::<Option<Vec<usize>>>()?,
        })
    });
    parsed.ok_or_else(|| {
        Error::stated(
            Class::Corrupt,
            "the server named a large cell in a form that cannot be",
            "",
        )
    })
}

/// Where a large cell is.
pub struct Place<'p> {
    /// The table.
    pub table: &'p Table,
    /// The column, by position.
    pub column: usize,
    /// The row's `ctid`.
    pub row: &'p str,
    /// The encoding of text.
    pub encoding: &'p str,
}

/// Sends the cell at `place` in slices, and returns its length.
///
/// # Errors
/// As the server says. The client may be out of step then, and its snapshot is lost with it.
pub async fn read(client: &mut Client, place: &Place<'_>, out: &PieceSender) -> Result<u64, Error> {
    let column = &place.table.columns[place.column];
    let base = types::base(column);
    let hex = base == "bytea";
    // Two digits a byte: half a MiB of raw bytes fills a slice.
    let raw_slice = if hex {
        LARGE_CELL_BYTES / 2 - 1
    } else {
        LARGE_CELL_BYTES
    };
    let sql = format!(
        "COPY (SELECT pg_catalog.substring(v, i, {raw_slice}) FROM \
         (SELECT {} AS v FROM ONLY {} WHERE ctid = {} OFFSET 0) AS x, \
         LATERAL pg_catalog.generate_series(1, pg_catalog.octet_length(v), {raw_slice}) AS i) \
         TO STDOUT (FORMAT binary)",
        types::bytes_expression(
            base,
            &quote::identifier(&column.name),
            &quote::literal(place.encoding)
        ),
        quote::table(&place.table.name),
        quote::literal(place.row),
    );
    let doing = format!("reading a large cell of table {}", place.table.name);
    let mut stream = client.copy_out(&sql, &doing).await?;
    let mut fields = BinaryFields::default();
    let mut length = 0u64;
    let mut stopped = false;
    // Read to the end even where nobody listens: this connection holds the snapshot.
    while let Some(bytes) = stream.next().await? {
        if stopped {
            continue;
        }
        fields.push(&bytes);
        while let Some(raw) = fields.take()? {
            let mut slice = Vec::new();
            if hex {
                push_hex(&mut slice, &raw, length == 0);
            } else {
                slice = raw;
            }
            length += slice.len() as u64;
            for part in slice.chunks(LARGE_CELL_BYTES) {
                let piece = Piece::Slice {
                    column: place.column,
                    bytes: part.to_vec(),
                };
                stopped |= out.send(piece).await.is_err();
            }
        }
    }
    match stopped {
        false => Ok(length),
        true => Err(Error::Stopped {
            table: place.table.name.to_string(),
        }),
    }
}

/// Appends `raw` as hex digits, after `\x` where it is the first slice.
fn push_hex(out: &mut Vec<u8>, raw: &[u8], first: bool) {
    out.reserve(raw.len() * 2 + 2);
    if first {
        out.extend_from_slice(b"\\x");
    }
    for byte in raw {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// The fields of a binary COPY of one column that is never NULL.
#[derive(Default)]
pub struct BinaryFields {
    bytes: Vec<u8>,
    started: bool,
    ended: bool,
}

impl BinaryFields {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole field, if it is all there.
    ///
    /// # Errors
    /// The bytes are not such a COPY.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if !self.started {
            if self.bytes.len() < 19 {
                return Ok(None);
            }
            let extension = number(&self.bytes[15..19]);
            if &self.bytes[..11] != SIGNATURE || extension != 0 {
                return Err(not_binary());
            }
            self.bytes.drain(..19);
            self.started = true;
        }
        if self.bytes.len() < 2 {
            return Ok(None);
        }
        if self.bytes[..2] == [0xff, 0xff] {
            self.ended = true;
            return Ok(None);
        }
        if self.bytes.len() < 6 {
            return Ok(None);
        }
        let length = number(&self.bytes[2..6]) as usize;
        if self.ended || self.bytes[..2] != [0, 1] || length > FIELD_BYTES_MAX {
            return Err(not_binary());
        }
        if self.bytes.len() < 6 + length {
            return Ok(None);
        }
        let field = self.bytes[6..6 + length].to_vec();
        self.bytes.drain(..6 + length);
        Ok(Some(field))
    }
}

/// No slice is asked for that is longer.
const FIELD_BYTES_MAX: usize = 4 * LARGE_CELL_BYTES;

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn not_binary() -> Error {
    Error::stated(Class::Corrupt, "a slice of a large cell came malformed", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_fields_come_whole_however_they_are_cut() {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0; 8]);
        for field in [&b"abc"[..], b"", b"xy"] {
            bytes.extend_from_slice(&[0, 1, 0, 0, 0, field.len() as u8]);
            bytes.extend_from_slice(field);
        }
        bytes.extend_from_slice(&[0xff, 0xff]);
        for step in 1..bytes.len() {
            let (mut fields, mut found) = (BinaryFields::default(), Vec::new());
            for part in bytes.chunks(step) {
                fields.push(part);
                while let Some(field) = fields.take().unwrap() {
                    found.push(field);
                }
            }
            assert_eq!(found, [&b"abc"[..], b"", b"xy"]);
        }
        let mut fields = BinaryFields::default();
        fields.push(&[0; 40]);
        assert!(fields.take().is_err());
    }

    #[test]
    fn marker_of_another_form_is_refused() {
        let found = cut(b"(12,3)|4|7").unwrap();
        assert_eq!((found.row.as_str(), found.columns), ("(12,3)", vec![4, 7]));
        for bad in [&b""[..], b"(1,2)", b"(1,2)|x", b"('1,2)|1", b"1,2|1"] {
            assert!(cut(bad).is_err());
        }
    }
}
