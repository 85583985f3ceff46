//! The plain codec: any cells, as they are, like beside like.
//!
//! Content: class (the tag of every cell, or 0 and then a tag for each), the lengths of texts and
//! blobs (LEB128), the integers and reals (8 bytes LE each, in order), the large cells (25 bytes
//! each), the bytes of texts and blobs. Invariant: every column fits.

use super::bytes::{BLOB, CellRef, INTEGER, LARGE, LARGE_BYTES, REAL, Reader, TEXT, TakesCells};
use super::error::Error;
use crate::row::cell::push_varint;

/// Appends `cells`, none of them NULL; `tag` is theirs, if they have one in common.
pub(super) fn encode(bytes: &[u8], cells: &[CellRef], tag: Option<u8>, out: &mut Vec<u8>) {
    match tag {
        Some(tag) => out.push(tag),
        None => {
            out.push(0);
            out.extend(cells.iter().map(|cell| cell.tag));
        }
    }
    let of = |tags: &'static [u8]| cells.iter().filter(move |cell| tags.contains(&cell.tag));
    let has = |tags: &[u8]| tag.is_none_or(|tag| tags.contains(&tag));
    if has(&[TEXT, BLOB]) {
        for cell in of(&[TEXT, BLOB]) {
            push_varint(out, u64::from(cell.length));
        }
    }
    if has(&[INTEGER, REAL]) {
        for cell in of(&[INTEGER, REAL]) {
            out.extend_from_slice(cell.content(bytes));
        }
    }
    if has(&[LARGE]) {
        for cell in of(&[LARGE]) {
            out.extend_from_slice(cell.content(bytes));
        }
    }
    if has(&[TEXT, BLOB]) {
        for cell in of(&[TEXT, BLOB]) {
            out.extend_from_slice(cell.content(bytes));
        }
    }
}

/// How many bytes [`encode`] appends for cells of one class, within a few.
pub(super) fn estimate(cells: &[CellRef]) -> usize {
    cells.iter().map(|cell| cell.length as usize + 1).sum()
}

/// Reads `count` cells into `sink`.
pub(super) fn decode(
    input: &mut Reader<'_>,
    count: usize,
    lengths: &mut Vec<usize>,
    sink: &mut impl TakesCells,
) -> Result<(), Error> {
    let class = input.byte()?;
    let tags = match class {
        0 => input.take(count)?,
        _ => &[],
    };
    let tag = |index: usize| tags.get(index).copied().unwrap_or(class);
    let (mut texts, mut words, mut larges) = (0, 0, 0);
    for index in 0..count {
        match tag(index) {
            TEXT | BLOB => texts += 1,
            INTEGER | REAL => words += 1,
            LARGE => larges += 1,
            _ => return Err(input.damaged()),
        }
    }
    lengths.clear();
    for _ in 0..texts {
        lengths.push(input.length()?);
    }
    let mut words = input.take_items(words, 8)?.chunks_exact(8);
    let mut larges = input
        .take_items(larges, LARGE_BYTES)?
        .chunks_exact(LARGE_BYTES);
    let mut lengths = lengths.iter();
    for index in 0..count {
        let tag = tag(index);
        let content = match tag {
            TEXT | BLOB => input.take(*lengths.next().ok_or(input.damaged())?)?,
            LARGE => {
                let content = larges.next().ok_or(input.damaged())?;
                if !matches!(content[0], 1 | 2) {
                    return Err(input.damaged());
                }
                content
            }
            _ => words.next().ok_or(input.damaged())?,
        };
        sink.push(tag, content)?;
    }
    Ok(())
}
