//! The dictionary codec: few values, each written once.
//!
//! Content: number of values (1 to 255), for each cell which value it is (a byte), the codec of
//! the values, and the values in the order of their first appearance as a column of that codec.
//! Invariant: a dictionary never holds a dictionary.

use super::bytes::CellRef;

/// Most values of a dictionary.
pub(super) const VALUES_MAX: usize = 255;
/// After so many cells a column must have repeated itself.
const TRIAL_CELLS: usize = 64;
const TRIAL_VALUES_MAX: usize = 48;

const SLOTS: usize = 1024;
const FREE: u8 = u8::MAX;

/// Finds the distinct cells of a column.
pub(super) struct Finder {
    slots: Box<[u8; SLOTS]>,
    /// The first cell of each value.
    pub(super) values: Vec<CellRef>,
    /// For each cell, its value.
    pub(super) indexes: Vec<u8>,
}

impl Default for Finder {
    fn default() -> Self {
        Finder {
            slots: Box::new([FREE; SLOTS]),
            values: Vec::new(),
            indexes: Vec::new(),
        }
    }
}

impl Finder {
    /// Fills `values` and `indexes`; false where there are too many values to be worth it.
    pub(super) fn find(&mut self, bytes: &[u8], cells: &[CellRef]) -> bool {
        self.slots.fill(FREE);
        self.values.clear();
        self.indexes.clear();
        for (at, cell) in cells.iter().enumerate() {
            let Some(index) = self.index(bytes, cell) else {
                return false;
            };
            self.indexes.push(index);
            if at == TRIAL_CELLS && self.values.len() > TRIAL_VALUES_MAX {
                return false;
            }
        }
        true
    }

    /// The value of `cell`, a new one where there is room.
    fn index(&mut self, bytes: &[u8], cell: &CellRef) -> Option<u8> {
        let content = cell.content(bytes);
        let mut slot = hash(cell.tag, content) % SLOTS;
        loop {
            let index = self.slots[slot];
            if index == FREE {
                if self.values.len() == VALUES_MAX {
                    return None;
                }
                self.slots[slot] = self.values.len() as u8;
                self.values.push(*cell);
                return Some(self.slots[slot]);
            }
            let value = self.values[usize::from(index)];
            if value.tag == cell.tag && value.content(bytes) == content {
                return Some(index);
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// A quick hash; it only has to be spread, and the same on all machines.
fn hash(tag: u8, content: &[u8]) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (content.len() as u64) << 8 | u64::from(tag);
    let mut chunks = content.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(*chunk.first_chunk().expect("a chunk has 8 bytes"));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(ODD);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    hash = (hash.rotate_left(5) ^ u64::from_le_bytes(last)).wrapping_mul(ODD);
    (hash >> 40) as usize
}
