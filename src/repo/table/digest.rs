//! A table's digest from rows that stream by, wherever they come from.
//!
//! What a restore must reproduce: each row's keyed digest, added up without order. Invariant: a
//! large cell counts by the digest of its bytes, whether it came whole or in slices.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::crypto::key;
use crate::format::run::LargeCell;
use crate::id::Digest;
use crate::repo::table::Error;
use crate::repo::vault::Vault;
use crate::row::cell::{Cell, Cells, Large, RowBatch};
use crate::row::schema::Table;

/// Large cells that came before their row, waiting for it.
pub(super) struct CellJoiner {
    table: String,
    cells: VecDeque<(usize, LargeCell)>,
}

impl CellJoiner {
    pub(super) fn new(table: &Table) -> CellJoiner {
        CellJoiner {
            table: table.name.to_string(),
            cells: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, column: usize, cell: LargeCell) {
        self.cells.push_back((column, cell));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Writes `row` to `out` with the digests of the cells that came before it, and gives these.
    pub(super) fn fill(&mut self, row: &[u8], out: &mut Vec<u8>) -> Result<Vec<LargeCell>, Error> {
        out.clear();
        let mut cells = Vec::new();
        for (column, cell) in Cells::new(row).enumerate() {
            let cell = cell.map_err(|source| Error::Cell {
                table: self.table.clone(),
                source,
            })?;
            let Cell::Large(large) = cell else {
                cell.push(out);
                continue;
            };
            let came = match self.cells.front() {
                Some((at, _)) if *at == column => self.cells.pop_front(),
                _ => None,
            };
            let found = came.as_ref().map_or(0, |(_, cell)| cell.length);
            let (Some((_, came)), true) = (came, found == large.length) else {
                return Err(self.wrong(found, large.length));
            };
            let digest = came.digest;
            Cell::Large(Large { digest, ..large }).push(out);
            cells.push(came);
        }
        self.end().map(|()| cells)
    }

    /// Refuses cells that no row asked for.
    pub(super) fn end(&self) -> Result<(), Error> {
        match self.cells.front() {
            None => Ok(()),
            Some((_, stray)) => Err(self.wrong(stray.length, 0)),
        }
    }

    fn wrong(&self, found: u64, length: u64) -> Error {
        Error::LargeCell {
            table: self.table.clone(),
            found,
            length,
        }
    }
}

/// Adds up the digests of a table's rows.
pub struct TableDigest {
    vault: Arc<Vault>,
    open: Option<(usize, blake3::Hasher, u64)>,
    joiner: CellJoiner,
    row: Vec<u8>,
    rows: u64,
    sum: Digest,
}

impl TableDigest {
    /// The digest of nothing, of `table`.
    pub fn new(vault: Arc<Vault>, table: &Table) -> TableDigest {
        TableDigest {
            vault,
            open: None,
            joiner: CellJoiner::new(table),
            row: Vec::new(),
            rows: 0,
            sum: Digest::ZERO,
        }
    }

    /// Takes the next slice of a large cell of the row that comes next.
    pub fn slice(&mut self, column: usize, bytes: &[u8]) {
        if self.open.as_ref().is_none_or(|(at, ..)| *at != column) {
            self.close();
            self.open = Some((column, self.vault.access.shared.cell_hasher(), 0));
        }
        if let Some((_, hasher, length)) = &mut self.open {
            hasher.update(bytes);
            *length += bytes.len() as u64;
        }
    }

    fn close(&mut self) {
        if let Some((column, hasher, length)) = self.open.take() {
            let digest = key::digest(&hasher);
            let chunks = Vec::new();
            self.joiner.push(
                column,
                LargeCell {
                    digest,
                    length,
                    chunks,
                },
            );
        }
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// A row that is none, or slices that do not fit it.
    pub fn rows(&mut self, rows: &RowBatch) -> Result<(), Error> {
        self.close();
        for row in rows.iter() {
            let digest = if self.joiner.is_empty() {
                self.vault.access.shared.row_digest(row)
            } else {
                self.joiner.fill(row, &mut self.row)?;
                self.vault.access.shared.row_digest(&self.row)
            };
            self.sum.add(digest);
            self.rows += 1;
        }
        Ok(())
    }

    /// Takes the next rows as [`TableDigest::rows`], and gives them back with the digests of their
    /// large cells.
    ///
    /// # Errors
    /// As [`TableDigest::rows`].
    pub fn take(&mut self, rows: RowBatch) -> Result<RowBatch, Error> {
        self.close();
        let digested = match self.joiner.is_empty() {
            true => rows,
            false => {
                let mut filled = RowBatch::with_capacity(rows.bytes().len());
                for row in rows.iter() {
                    // Only the first row of a batch has large cells.
                    match self.joiner.is_empty() {
                        true => filled.push(row),
                        false => {
                            self.joiner.fill(row, &mut self.row)?;
                            filled.push(&self.row);
                        }
                    }
                }
                filled
            }
        };
        self.rows(&digested)?;
        Ok(digested)
    }

    /// How many rows there were, and the sum of their digests.
    ///
    /// # Errors
    /// Slices without a row.
    pub fn finish(mut self) -> Result<(u64, Digest), Error> {
        self.close();
        self.joiner.end()?;
        Ok((self.rows, self.sum))
    }
}
