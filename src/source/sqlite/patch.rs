//! Giving the columns of a stored row the classes that they were to have.
//!
//! SQLite writes a row with a large cell in little memory only if nothing but zeros follows it.
//! So such a row is stored with blobs of zeros, their bytes are written in place, and at last the
//! classes in its header are set here, in the closed file of a database in the making.
//! Invariant: types are changed only where they are, byte for byte, those that were expected.
//! Bytes: <https://www.sqlite.org/fileformat2.html>, "B-tree Pages" and "Record Format".

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::row::cell::{Cell, LargeClass};

const DEPTH_MAX: usize = 20;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;

/// A stored row whose types are to be changed.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The table, by name.
    pub table: String,
    /// The row.
    pub rowid: i64,
    /// How many values of the row are right already.
    pub before: usize,
    /// The types of the others as SQLite wrote them, up to the end of the header.
    pub stored: Vec<u8>,
    /// The types that they are to have, as long as the others.
    pub wanted: Vec<u8>,
}

/// The type of a stored value and the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// The number in the header.
    pub kind: u64,
    /// Bytes in the body.
    pub length: u64,
}

/// How SQLite stores `cell`.
pub fn serial(cell: &Cell<'_>) -> Serial {
    let with = |kind, length| Serial { kind, length };
    let blob = |length: u64| with(12 + 2 * length, length);
    let text = |length: u64| with(13 + 2 * length, length);
    match *cell {
        Cell::Null => with(0, 0),
        Cell::Integer(0) => with(8, 0),
        Cell::Integer(1) => with(9, 0),
        Cell::Integer(value) => match 65
            - value
                .unsigned_abs()
                .wrapping_sub(u64::from(value < 0))
                .leading_zeros()
        {
            0..=8 => with(1, 1),
            9..=16 => with(2, 2),
            17..=24 => with(3, 3),
            25..=32 => with(4, 4),
            33..=48 => with(5, 6),
            _ => with(6, 8),
        },
        Cell::Real(_) => with(7, 8),
        Cell::Text(bytes) => text(bytes.len() as u64),
        Cell::Blob(bytes) => blob(bytes.len() as u64),
        Cell::Large(large) => match large.class {
            LargeClass::Text => text(large.length),
            LargeClass::Blob => blob(large.length),
        },
    }
}

/// The body of a small cell.
pub fn body(cell: &Cell<'_>) -> Vec<u8> {
    match *cell {
        Cell::Integer(value) => {
            let bytes = value.to_be_bytes();
            bytes[8 - serial(cell).length as usize..].to_vec()
        }
        Cell::Real(value) => value.to_bits().to_be_bytes().to_vec(),
        Cell::Text(bytes) | Cell::Blob(bytes) => bytes.to_vec(),
        Cell::Null | Cell::Large(_) => Vec::new(),
    }
}

/// Types as they stand in a header.
pub fn types(kinds: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut types = Vec::new();
    for kind in kinds {
        push_varint(&mut types, kind);
    }
    types
}

/// How many bytes of a long row surely stand in its first page.
pub fn first_page_bytes(page_size: u32) -> usize {
    (page_size as usize - 12) * 32 / 255 - 23
}

/// Changes the types in row `patch.rowid` of the table whose root is page `root`.
///
/// # Errors
/// Input and output; InvalidData where the row is not as it was expected to be.
pub fn apply(file: &File, page_size: u32, root: u32, patch: &Patch) -> std::io::Result<()> {
    let unexpected = || std::io::Error::new(std::io::ErrorKind::InvalidData, "row not as stored");
    let mut number = root;
    for _ in 0..DEPTH_MAX {
        let start = u64::from(number.checked_sub(1).ok_or_else(unexpected)?) * u64::from(page_size);
        let mut page = vec![0; page_size as usize];
        file.read_exact_at(&mut page, start)?;
        match step(&page, number, patch).ok_or_else(unexpected)? {
            Step::Down(child) => number = child,
            Step::Types(offset) => {
                return file.write_all_at(&patch.wanted, start + offset as u64);
            }
        }
    }
    Err(unexpected())
}

enum Step {
    Down(u32),
    Types(usize),
}

/// Where to go from a page; none where the row is not where it should be.
fn step(page: &[u8], number: u32, patch: &Patch) -> Option<Step> {
    let base = if number == 1 { 100 } else { 0 };
    let kind = *page.get(base)?;
    let cells = usize::from(u16::from_be_bytes(array(page, base + 3)?));
    let pointers = base + if kind == INTERIOR { 12 } else { 8 };
    for index in 0..cells {
        let at = usize::from(u16::from_be_bytes(array(page, pointers + 2 * index)?));
        match kind {
            INTERIOR => {
                let (key, _) = take_varint(page, at + 4)?;
                if patch.rowid <= key as i64 {
                    return Some(Step::Down(u32::from_be_bytes(array(page, at)?)));
                }
            }
            LEAF => {
                let (_, at) = take_varint(page, at)?;
                let (key, at) = take_varint(page, at)?;
                if patch.rowid == key as i64 {
                    return types_to_change(page, at, patch).map(Step::Types);
                }
            }
            _ => return None,
        }
    }
    let right = (kind == INTERIOR)
        .then(|| array(page, base + 8))
        .flatten()?;
    Some(Step::Down(u32::from_be_bytes(right)))
}

/// Where the types to change begin in the header at `at`; none where they are not as expected.
fn types_to_change(page: &[u8], at: usize, patch: &Patch) -> Option<usize> {
    let (length, mut next) = take_varint(page, at)?;
    for _ in 0..patch.before {
        (_, next) = take_varint(page, next)?;
    }
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    let fits = page.get(next..end)? == patch.stored && patch.wanted.len() == patch.stored.len();
    fits.then_some(next)
}

fn array<const N: usize>(page: &[u8], at: usize) -> Option<[u8; N]> {
    page.get(at..at + N)?.try_into().ok()
}

fn varint_length(value: u64) -> usize {
    match value {
        0..=0x7f => 1,
        _ if value >> 56 != 0 => 9,
        _ => (64 - value.leading_zeros() as usize).div_ceil(7),
    }
}

/// SQLite's varint: seven bits a byte, highest first, the ninth byte whole. Types and lengths
/// never need the ninth.
fn push_varint(out: &mut Vec<u8>, value: u64) {
    for part in (0..varint_length(value)).rev() {
        let more = if part > 0 { 0x80 } else { 0 };
        out.push((value >> (7 * part)) as u8 & 0x7f | more);
    }
}

fn take_varint(page: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for part in 0..9 {
        let byte = *page.get(at + part)?;
        if part == 8 {
            return Some((value << 8 | u64::from(byte), at + 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + part + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_the_shortest_type() {
        for (value, kind) in [
            (0, 8),
            (1, 9),
            (2, 1),
            (-1, 1),
            (127, 1),
            (-128, 1),
            (128, 2),
            (-129, 2),
            (32767, 2),
            (32768, 3),
            (-8388608, 3),
            (8388608, 4),
            (i64::from(i32::MAX), 4),
            (1 << 31, 5),
            ((1 << 47) - 1, 5),
            (-(1 << 47), 5),
            (1 << 47, 6),
            (i64::MIN, 6),
            (i64::MAX, 6),
        ] {
            assert_eq!(serial(&Cell::Integer(value)).kind, kind, "{value}");
        }
        assert_eq!(body(&Cell::Integer(-2)), [0xfe]);
        assert_eq!(body(&Cell::Integer(300)), [1, 44]);
    }

    #[test]
    fn varints_come_back() {
        for value in [0, 127, 128, 300, 16383, 16384, 1 << 31, (1 << 56) - 1] {
            let bytes = types([value].into_iter());
            assert_eq!(take_varint(&bytes, 0), Some((value, bytes.len())));
            assert_eq!(take_varint(&bytes, bytes.len()), None);
        }
        assert_eq!(types([300].into_iter()), [0x82, 0x2c]);
        let negative = [0xff; 9];
        assert_eq!(take_varint(&negative, 0), Some((u64::MAX, 9)));
    }
}
