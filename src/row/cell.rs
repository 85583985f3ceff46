//! Cells and rows as canonical bytes.
//!
//! A row is one run of bytes: its cells in column order, each a tag and its content. Digests,
//! chunk names and comparisons all work on these bytes, so there is exactly one way to write a
//! row down. Bytes: docs/format.md, "Rows".
//!
//! | tag | cell | content |
//! |---|---|---|
//! | 0 | NULL | |
//! | 1 | text: the server's text form, or SQLite TEXT | LEB128 length, bytes |
//! | 2 | blob: SQLite BLOB | LEB128 length, bytes |
//! | 3 | integer: SQLite INTEGER | 8 bytes LE |
//! | 4 | real: SQLite REAL | 8 bytes LE, IEEE 754 |
//! | 5 | a large cell, cut out | class (1 text, 2 blob), length u64 LE, digest of 16 bytes |

use std::ops::{Range, RangeInclusive};
use std::sync::Mutex;

use crate::failure::{Class, Failure};
use crate::id::Digest;

/// Cells longer than this are cut out of their row and stored in chunks of their own.
pub const LARGE_CELL_BYTES: usize = 1 << 20;

/// Why bytes are not a row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes end inside a cell.
    #[error("a row ends inside cell {cell}")]
    Short {
        /// Position of the cell.
        cell: usize,
    },
    /// A tag or class that has no meaning, or a length not in its shortest form.
    #[error("cell {cell} of a row starts with byte {tag}, which no cell has")]
    Tag {
        /// Position of the cell.
        cell: usize,
        /// The byte.
        tag: u8,
    },
    /// More or fewer cells than the table has columns.
    #[error("a row has {found} cells where its table has {columns} columns")]
    Count {
        /// Cells found.
        found: usize,
        /// Columns expected.
        columns: usize,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        Class::Corrupt
    }
}

/// What kind of bytes a large cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LargeClass {
    /// Text.
    Text,
    /// Blob.
    Blob,
}

/// A cell that was cut out of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Large {
    /// What kind of bytes it holds.
    pub class: LargeClass,
    /// Length in bytes.
    pub length: u64,
    /// Keyed digest of the bytes; zero until they have been read.
    pub digest: Digest,
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// The server's text, or SQLite TEXT; any bytes.
    Text(&'a [u8]),
    /// SQLite BLOB.
    Blob(&'a [u8]),
    /// SQLite INTEGER.
    Integer(i64),
    /// SQLite REAL, compared by its bits.
    Real(f64),
    /// A cell that was cut out.
    Large(Large),
}

impl PartialEq for Cell<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Cell::Null, Cell::Null) => true,
            (Cell::Text(a), Cell::Text(b)) | (Cell::Blob(a), Cell::Blob(b)) => a == b,
            (Cell::Integer(a), Cell::Integer(b)) => a == b,
            (Cell::Real(a), Cell::Real(b)) => a.to_bits() == b.to_bits(),
            (Cell::Large(a), Cell::Large(b)) => a == b,
            _ => false,
        }
    }
}

/// Appends `value` as LEB128: seven bits a byte, lowest first.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a LEB128 number of at most 64 bits in its shortest form, and moves `input` past it.
pub fn take_varint(input: &mut &[u8]) -> Option<u64> {
    // Most numbers are below 128.
    if let Some((&byte, rest)) = input.split_first()
        && byte < 0x80
    {
        *input = rest;
        return Some(u64::from(byte));
    }
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return (byte != 0 || shift == 0).then_some(value);
        }
    }
    None
}

impl Cell<'_> {
    /// Appends the cell's canonical bytes to a row.
    pub fn push(&self, row: &mut Vec<u8>) {
        match *self {
            Cell::Null => row.push(0),
            Cell::Text(bytes) | Cell::Blob(bytes) => {
                row.push(if matches!(self, Cell::Text(_)) { 1 } else { 2 });
                push_varint(row, bytes.len() as u64);
                row.extend_from_slice(bytes);
            }
            Cell::Integer(value) => {
                row.push(3);
                row.extend_from_slice(&value.to_le_bytes());
            }
            Cell::Real(value) => {
                row.push(4);
                row.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            Cell::Large(large) => {
                row.push(5);
                row.push(match large.class {
                    LargeClass::Text => 1,
                    LargeClass::Blob => 2,
                });
                row.extend_from_slice(&large.length.to_le_bytes());
                row.extend_from_slice(&large.digest.0);
            }
        }
    }
}

/// The cells of a row, in column order, checked as they are read.
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    rest: &'a [u8],
    next: usize,
}

impl<'a> Cells<'a> {
    /// The cells of the row that `row` starts with.
    pub fn new(row: &'a [u8]) -> Self {
        Cells { rest: row, next: 0 }
    }

    /// The bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        if self.rest.len() < length {
            return Err(Error::Short { cell: self.next });
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self
            .take(N)?
            .try_into()
            .expect("take gives what it was asked for"))
    }

    fn bytes(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        let cell = self.next;
        let length = take_varint(&mut self.rest).ok_or(Error::Tag { cell, tag })?;
        let length = usize::try_from(length).map_err(|_| Error::Short { cell })?;
        self.take(length)
    }

    fn large(&mut self) -> Result<Large, Error> {
        let class = match self.array::<1>()?[0] {
            1 => LargeClass::Text,
            2 => LargeClass::Blob,
            tag => {
                return Err(Error::Tag {
                    cell: self.next,
                    tag,
                });
            }
        };
        Ok(Large {
            class,
            length: u64::from_le_bytes(self.array()?),
            digest: Digest(self.array()?),
        })
    }

    /// Passes over the next `count` cells; whether they were there and whole.
    pub fn pass(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((&tag, rest)) = self.rest.split_first() else {
                return false;
            };
            self.rest = rest;
            let passed = match tag {
                0 => Ok(()),
                1 | 2 => self.bytes(tag).map(|_| ()),
                3 | 4 => self.take(8).map(|_| ()),
                5 => self.large().map(|_| ()),
                tag => Err(Error::Tag {
                    cell: self.next,
                    tag,
                }),
            };
            if passed.is_err() {
                self.rest = &[];
                return false;
            }
            self.next += 1;
        }
        true
    }

    fn read(&mut self) -> Result<Cell<'a>, Error> {
        let tag = self.array::<1>()?[0];
        let cell = match tag {
            0 => Cell::Null,
            1 => Cell::Text(self.bytes(tag)?),
            2 => Cell::Blob(self.bytes(tag)?),
            3 => Cell::Integer(i64::from_le_bytes(self.array()?)),
            4 => Cell::Real(f64::from_bits(u64::from_le_bytes(self.array()?))),
            5 => Cell::Large(self.large()?),
            tag => {
                return Err(Error::Tag {
                    cell: self.next,
                    tag,
                });
            }
        };
        self.next += 1;
        Ok(cell)
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Result<Cell<'a>, Error>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let cell = self.read();
        if cell.is_err() {
            self.rest = &[];
        }
        Some(cell)
    }
}

/// All cells of `row`, which must have exactly `columns` of them.
///
/// # Errors
/// [`Error`]: the bytes are not a row of that many cells.
pub fn cells(row: &[u8], columns: usize) -> Result<Vec<Cell<'_>>, Error> {
    let found: Vec<Cell<'_>> = Cells::new(row).collect::<Result<_, _>>()?;
    if found.len() == columns {
        Ok(found)
    } else {
        Err(Error::Count {
            found: found.len(),
            columns,
        })
    }
}

/// Some rows one after the other, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Buffers of batches that are gone, for the next ones: a backup goes through thousands, and from
/// the allocator each would come as fresh pages.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// How many buffers are kept.
const SPARE_MAX: usize = 36;
/// What a source fills and what becomes a chunk, and little else: smaller buffers would only take
/// their places, and larger ones hold too much memory.
const SPARE_BYTES: RangeInclusive<usize> = 128 << 10..=512 << 10;

/// An empty buffer with room for `bytes` bytes.
fn buffer(bytes: usize) -> Vec<u8> {
    if SPARE_BYTES.contains(&bytes)
        && let Ok(mut spare) = SPARE.lock()
        && let Some(at) = spare.iter().position(|buffer| buffer.capacity() >= bytes)
    {
        return spare.swap_remove(at);
    }
    Vec::with_capacity(bytes)
}

impl Drop for RowBatch {
    fn drop(&mut self) {
        if SPARE_BYTES.contains(&self.bytes.capacity())
            && let Ok(mut spare) = SPARE.lock()
            && spare.len() < SPARE_MAX
        {
            self.bytes.clear();
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl RowBatch {
    /// A batch with room for `bytes` bytes of rows.
    pub fn with_capacity(bytes: usize) -> Self {
        RowBatch {
            bytes: buffer(bytes),
            ends: Vec::new(),
        }
    }

    /// A batch with room for `rows` rows of `bytes` bytes together.
    pub fn with_room(bytes: usize, rows: usize) -> Self {
        RowBatch {
            bytes: buffer(bytes),
            ends: Vec::with_capacity(rows),
        }
    }

    /// An empty batch with a little more room than this one has used, for rows that are alike.
    pub fn alike(&self) -> Self {
        let (bytes, rows) = (self.bytes.len(), self.ends.len());
        RowBatch::with_room(bytes + bytes / 8, rows + rows / 8)
    }

    /// Adds a row that `write` appends to the buffer, cell by cell.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Adds `rows` rows of `bytes` bytes together. `write` writes each to the beginning of what it
    /// is given, in which it may use what lies behind, and gives its length.
    pub fn push_many(
        &mut self,
        rows: usize,
        bytes: usize,
        mut write: impl FnMut(usize, &mut [u8]) -> usize,
    ) {
        if self.bytes.capacity() == 0 {
            self.bytes = buffer(bytes);
        }
        let mut at = self.bytes.len();
        self.bytes.resize(at + bytes, 0);
        self.ends.reserve(rows);
        for row in 0..rows {
            at += write(row, &mut self.bytes[at..]);
            self.ends.push(at);
        }
        self.bytes.truncate(at);
    }

    /// Adds the rows of `other` that are in `range`.
    pub fn push_range(&mut self, other: &RowBatch, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (other.range(range.start), other.range(range.end - 1));
        let at = self.bytes.len();
        self.bytes
            .extend_from_slice(&other.bytes[first.start..last.end]);
        let ends = other.ends[range].iter();
        self.ends.extend(ends.map(|end| end - first.start + at));
    }

    /// Adds a row of canonical bytes.
    pub fn push(&mut self, row: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(row));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The canonical bytes of all rows together.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes of memory it holds.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// The row at `index`, which must be below `len`.
    pub fn row(&self, index: usize) -> &[u8] {
        &self.bytes[self.range(index)]
    }

    /// Where in [`RowBatch::bytes`] the row at `index`, which must be below `len`, lies.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.row(index))
    }

    /// Takes all rows away and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_pushed_together_are_those_pushed_one_by_one() {
        let rows: [&[u8]; 4] = [b"one", b"", b"a longer one", b"4"];
        let mut single = RowBatch::default();
        rows.iter().for_each(|row| single.push(row));
        let bytes = single.bytes().len();
        let mut many = RowBatch::default();
        many.push_many(rows.len(), bytes, |row, out| {
            // What lies behind a row is anybody's until the next one is written.
            out.fill(b'x');
            out[..rows[row].len()].copy_from_slice(rows[row]);
            rows[row].len()
        });
        assert_eq!(many, single);
        let mut parts = RowBatch::default();
        for range in [0..1, 1..1, 1..4] {
            parts.push_range(&single, range);
        }
        assert_eq!(parts, single);
        parts.push_range(&single, 2..3);
        assert_eq!(parts.row(4), b"a longer one");
    }

    #[test]
    fn cells_pushed_are_the_cells_read() {
        let large = Large {
            class: LargeClass::Blob,
            length: 1 << 40,
            digest: Digest([7; 16]),
        };
        let all = [
            Cell::Null,
            Cell::Text(b""),
            Cell::Text(b"\xff\x00"),
            Cell::Blob(&[9; 200]),
            Cell::Integer(i64::MIN),
            Cell::Real(-0.0),
            Cell::Large(large),
        ];
        let mut row = Vec::new();
        for cell in &all {
            cell.push(&mut row);
        }
        assert_eq!(cells(&row, all.len()).unwrap(), all);
        assert_eq!(
            cells(&row, 3),
            Err(Error::Count {
                found: 7,
                columns: 3
            })
        );
        for (count, cell) in all.iter().enumerate() {
            let mut rest = Cells::new(&row);
            assert!(rest.pass(count));
            assert_eq!(rest.next().unwrap().as_ref(), Ok(cell));
        }
        assert!(!Cells::new(&row).pass(all.len() + 1));
        for end in 0..row.len() {
            assert!(!Cells::new(&row[..end]).pass(all.len()));
            assert!(
                cells(&row[..end], all.len()).is_err(),
                "cut at {end} was read"
            );
        }
    }

    #[test]
    fn varint_in_a_longer_form_is_refused() {
        assert_eq!(take_varint(&mut &[0x80, 0x00][..]), None);
        assert_eq!(take_varint(&mut &[0xff; 11][..]), None);
        for value in [0, 1, 127, 128, u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, value);
            assert_eq!(take_varint(&mut &bytes[..]), Some(value));
        }
    }
}
