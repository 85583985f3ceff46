//! The cells of a chunk, compared with those of the rows that it was made of as they are decoded.
//!
//! Nothing is put together: of each row it is known how far it has been compared. Invariant:
//! [`Against::whole`] says yes only where every cell of every row was given, and no other.

use super::bytes::{BLOB, NULL, TEXT, TakesCells, push_cell};
use super::column::TakesColumn;
use super::error::Error;
use crate::row::cell::RowBatch;

/// Memory of a comparison; used again.
#[derive(Default)]
pub(super) struct Scratch {
    places: Vec<usize>,
    presence: Vec<u8>,
    cell: Vec<u8>,
}

/// Rows that decoded columns are compared with.
pub(super) struct Against<'a> {
    rows: &'a RowBatch,
    /// For each row, where in the bytes of all rows its next cell begins.
    places: &'a mut Vec<usize>,
    /// A bit for each row whose cell in this column is not NULL; empty where none is.
    presence: &'a mut Vec<u8>,
    cell: &'a mut Vec<u8>,
    /// The row whose cell comes next.
    row: usize,
}

impl<'a> Against<'a> {
    /// Of no row anything was compared.
    pub(super) fn new(rows: &'a RowBatch, scratch: &'a mut Scratch) -> Self {
        let Scratch {
            places,
            presence,
            cell,
        } = scratch;
        places.clear();
        places.extend((0..rows.len()).map(|row| rows.range(row).start));
        Against {
            rows,
            places,
            presence,
            cell,
            row: 0,
        }
    }

    /// Whether all rows were compared to their ends.
    pub(super) fn whole(&self) -> bool {
        let mut rows = self.places.iter().enumerate();
        rows.all(|(row, place)| *place == self.rows.range(row).end)
    }

    /// What is left of the next row whose cell is not NULL, and of the rows after it.
    fn next(&mut self) -> Result<&'a [u8], Error> {
        while !self.presence.is_empty() && !self.is_present(self.row) {
            self.pass_null()?;
        }
        let place = self.places.get(self.row).ok_or(differs())?;
        Ok(self.rows.bytes().get(*place..).unwrap_or_default())
    }

    fn is_present(&self, row: usize) -> bool {
        let byte = self.presence.get(row / 8);
        byte.is_none_or(|byte| byte >> (row % 8) & 1 == 1)
    }

    fn pass_null(&mut self) -> Result<(), Error> {
        let place = self.places.get_mut(self.row).ok_or(differs())?;
        if self.rows.bytes().get(*place) != Some(&NULL) {
            return Err(differs());
        }
        *place += 1;
        self.row += 1;
        Ok(())
    }

    fn passed(&mut self, bytes: usize, same: bool) -> Result<(), Error> {
        self.places[self.row] += bytes;
        self.row += 1;
        if same { Ok(()) } else { Err(differs()) }
    }
}

fn differs() -> Error {
    Error::Damaged { what: "comparison" }
}

impl TakesCells for Against<'_> {
    fn push_canonical(&mut self, cell: &[u8]) -> Result<(), Error> {
        let same = self.next()?.starts_with(cell);
        self.passed(cell.len(), same)
    }

    fn push(&mut self, tag: u8, content: &[u8]) -> Result<(), Error> {
        let rest = self.next()?;
        let prefix = match tag {
            TEXT | BLOB if content.len() < 0x80 => &[tag, content.len() as u8][..],
            TEXT | BLOB => {
                self.cell.clear();
                push_cell(self.cell, tag, content);
                let same = rest.starts_with(self.cell);
                return self.passed(self.cell.len(), same);
            }
            _ => &[tag],
        };
        let same = rest.starts_with(prefix) && rest[prefix.len()..].starts_with(content);
        self.passed(prefix.len() + content.len(), same)
    }

    fn push_text_with(&mut self, _: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let mut text = std::mem::take(self.cell);
        text.clear();
        write(&mut text);
        let pushed = self.push(TEXT, &text);
        *self.cell = text;
        pushed
    }

    fn bytes_left(&self) -> usize {
        self.rows.bytes().len()
    }
}

impl TakesColumn for Against<'_> {
    fn constant(&mut self, cell: &[u8], _: usize) -> Result<(), Error> {
        self.begin(None, 0, 0);
        while self.row < self.places.len() {
            self.push_canonical(cell)?;
        }
        Ok(())
    }

    fn begin(&mut self, presence: Option<&[u8]>, _: usize, _: usize) {
        self.row = 0;
        self.presence.clear();
        self.presence
            .extend_from_slice(presence.unwrap_or_default());
    }

    fn end(&mut self) -> Result<(), Error> {
        while self.row < self.places.len() {
            self.pass_null()?;
        }
        Ok(())
    }
}
