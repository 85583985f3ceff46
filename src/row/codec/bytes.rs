//! Reading a chunk's bytes, and writing the cells that they stand for.
//!
//! A reader never runs past its end, a sink never grows past its limit; both say so with the
//! name of the part that is damaged. Invariant: nothing here allocates by a length that was
//! only claimed.

use super::error::Error;
use crate::row::cell::{push_varint, take_varint};

/// The tags of canonical cells (see `row::cell`).
pub(super) const NULL: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BLOB: u8 = 2;
pub(super) const INTEGER: u8 = 3;
pub(super) const REAL: u8 = 4;
pub(super) const LARGE: u8 = 5;

/// Cells of up to so many bytes are copied as a block of this size.
const BLOCK_BYTES: usize = 32;

/// Bytes of a large cell's content: class, length, digest.
pub(super) const LARGE_BYTES: usize = 25;

/// Where a cell lies: its tag, and its content (without tag and length) in the rows' bytes.
#[derive(Clone, Copy)]
pub(super) struct CellRef {
    pub(super) start: u32,
    pub(super) length: u32,
    pub(super) tag: u8,
}

impl CellRef {
    /// The content of the cell in the rows' `bytes`.
    pub(super) fn content<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..self.start as usize + self.length as usize]
    }
}

/// Appends the canonical cell of `tag` and `content`.
pub(super) fn push_cell(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    if tag == TEXT || tag == BLOB {
        push_varint(out, content.len() as u64);
    }
    out.extend_from_slice(content);
}

/// Reads a part of a chunk from front to back.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which errors call `what`.
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Reader { rest: bytes, what }
    }

    /// The error that this part is damaged.
    pub(super) fn damaged(&self) -> Error {
        Error::Damaged { what: self.what }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(self.damaged())?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `count` items of `size` bytes each.
    pub(super) fn take_items(&mut self, count: usize, size: usize) -> Result<&'a [u8], Error> {
        self.take(count.checked_mul(size).ok_or(self.damaged())?)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    /// The next number.
    pub(super) fn varint(&mut self) -> Result<u64, Error> {
        if let Some((&first, rest)) = self.rest.split_first()
            && first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        take_varint(&mut self.rest).ok_or(self.damaged())
    }

    /// The next number, as a length.
    pub(super) fn length(&mut self) -> Result<usize, Error> {
        usize::try_from(self.varint()?).map_err(|_| self.damaged())
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The end, which must have been reached.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }
}

/// What the cells of a column are given to, in the order of their rows.
pub(super) trait TakesCells {
    /// Takes a cell of canonical bytes.
    fn push_canonical(&mut self, cell: &[u8]) -> Result<(), Error>;

    /// Takes a cell of a tag and its content.
    fn push(&mut self, tag: u8, content: &[u8]) -> Result<(), Error>;

    /// Takes a text of `length` bytes that `write` appends.
    fn push_text_with(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Error>;

    /// Bytes that may still come.
    fn bytes_left(&self) -> usize;
}

/// A column in the making: canonical cells one after the other.
///
/// An empty cell stands for NULL once presence has been applied.
#[derive(Default)]
pub(super) struct Sink {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    bytes_max: usize,
}

impl Sink {
    /// Takes everything away and allows `bytes_max` bytes.
    pub(super) fn reset(&mut self, bytes_max: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes_max = bytes_max;
    }

    fn check(&self, more: usize) -> Result<(), Error> {
        if self.bytes_max.saturating_sub(self.bytes.len()) < more {
            return Err(Error::Damaged { what: "raw length" });
        }
        Ok(())
    }

    /// Number of cells.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The canonical bytes of the cell at `index`.
    pub(super) fn cell(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// Copies the cell at `index` to the beginning of `out`, and gives its length. Short ones go
    /// as a whole block, which is cheaper than so many bytes as they have: what lies behind a cell
    /// in `out` may be written too.
    pub(super) fn copy(&self, index: usize, out: &mut [u8]) -> usize {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let length = self.ends[index] - start;
        let block = self.bytes[start..].first_chunk::<BLOCK_BYTES>();
        match (block, out.first_chunk_mut::<BLOCK_BYTES>()) {
            (Some(from), Some(to)) if length <= BLOCK_BYTES => *to = *from,
            _ => out[..length].copy_from_slice(&self.bytes[start..start + length]),
        }
        length
    }

    /// Bytes of all cells.
    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Puts an empty cell wherever a bit of `presence` is not set; the cells so far are those
    /// whose bit is set. `ends` is scratch.
    pub(super) fn spread(&mut self, presence: &[u8], rows: usize, ends: &mut Vec<usize>) {
        ends.clear();
        let (mut next, mut end) = (0, 0);
        for row in 0..rows {
            if presence[row / 8] >> (row % 8) & 1 == 1 {
                end = self.ends[next];
                next += 1;
            }
            ends.push(end);
        }
        std::mem::swap(&mut self.ends, ends);
    }
}

impl TakesCells for Sink {
    fn push_canonical(&mut self, cell: &[u8]) -> Result<(), Error> {
        self.check(cell.len())?;
        self.bytes.extend_from_slice(cell);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn push(&mut self, tag: u8, content: &[u8]) -> Result<(), Error> {
        let prefix = if tag == TEXT || tag == BLOB { 2 } else { 1 };
        self.check(content.len().saturating_add(prefix))?;
        push_cell(&mut self.bytes, tag, content);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn push_text_with(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Error> {
        self.check(length.saturating_add(2))?;
        self.bytes.push(TEXT);
        push_varint(&mut self.bytes, length as u64);
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn bytes_left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.len())
    }
}
