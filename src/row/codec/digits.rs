//! The UUID and hex codecs: text of hex digits as the bytes that it stands for.
//!
//! UUID content: 16 bytes a cell, for the 36 characters in lower case. Hex content: form (0 bare,
//! 1 after `\x`), the lengths in bytes (LEB128), the bytes. Upper-case digits, an odd number of
//! them, or fewer than 8 bare ones do not fit.

use super::bytes::{CellRef, Reader, TakesCells};
use super::error::Error;
use crate::row::cell::push_varint;

const BARE: u8 = 0;
const BACKSLASH: u8 = 1;
/// Bare digits in a cell, at least: shorter ones gain nothing.
const BARE_DIGITS_MIN: usize = 8;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Where the groups of a UUID start, in characters, and how many bytes each has.
const GROUPS: [(usize, usize); 5] = [(0, 4), (9, 2), (14, 2), (19, 2), (24, 6)];
const NO_DIGIT: u8 = 0xff;

/// The value of each lower-case digit.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Appends the bytes of `digits`, whose number is even; false, with some appended, where one is
/// no lower-case digit.
fn push_bytes(digits: &[u8], out: &mut Vec<u8>) -> bool {
    let mut seen = 0;
    out.extend(digits.chunks_exact(2).map(|pair| {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        seen |= high | low;
        high << 4 | low & 15
    }));
    seen < 16
}

fn push_digits(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        let pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
        out.extend_from_slice(&pair);
    }
}

/// Appends `cells`, all text, as UUIDs if they fit; else leaves `out` as it was.
pub(super) fn encode_uuid(bytes: &[u8], cells: &[CellRef], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for cell in cells {
        let text = cell.content(bytes);
        let shape = text.len() == 36 && [8, 13, 18, 23].iter().all(|&dash| text[dash] == b'-');
        let group = |(at, count): (usize, usize), out: &mut Vec<u8>| {
            push_bytes(&text[at..at + 2 * count], out)
        };
        if !shape || !GROUPS.into_iter().all(|place| group(place, out)) {
            out.truncate(start);
            return false;
        }
    }
    true
}

/// Reads `count` UUIDs into `sink`.
pub(super) fn decode_uuid(
    input: &mut Reader<'_>,
    count: usize,
    sink: &mut impl TakesCells,
) -> Result<(), Error> {
    for bytes in input.take_items(count, 16)?.chunks_exact(16) {
        let mut text = [b'-'; 36];
        let mut next = 0;
        for (start, count) in GROUPS {
            for at in (start..start + 2 * count).step_by(2) {
                text[at] = DIGITS[usize::from(bytes[next] >> 4)];
                text[at + 1] = DIGITS[usize::from(bytes[next] & 15)];
                next += 1;
            }
        }
        sink.push(super::bytes::TEXT, &text)?;
    }
    Ok(())
}

/// Appends `cells`, all text, as hex if they fit; else leaves `out` as it was.
pub(super) fn encode_hex(bytes: &[u8], cells: &[CellRef], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let backslash = cells
        .first()
        .is_some_and(|cell| cell.content(bytes).starts_with(b"\\x"));
    let digits = |cell: &CellRef| {
        let text = cell.content(bytes);
        let digits = if backslash {
            text.strip_prefix(b"\\x")?
        } else {
            Some(text).filter(|text| text.len() >= BARE_DIGITS_MIN)?
        };
        digits.len().is_multiple_of(2).then_some(digits)
    };
    out.push(if backslash { BACKSLASH } else { BARE });
    let fits = cells.iter().all(|cell| {
        digits(cell).is_some_and(|digits| {
            push_varint(out, digits.len() as u64 / 2);
            digits
                .first()
                .is_none_or(|&first| VALUES[usize::from(first)] != NO_DIGIT)
        })
    });
    if !fits
        || !cells
            .iter()
            .all(|cell| push_bytes(digits(cell).unwrap_or_default(), out))
    {
        out.truncate(start);
        return false;
    }
    true
}

/// Reads `count` texts of hex digits into `sink`.
pub(super) fn decode_hex(
    input: &mut Reader<'_>,
    count: usize,
    lengths: &mut Vec<usize>,
    sink: &mut impl TakesCells,
) -> Result<(), Error> {
    let prefix: &[u8] = match input.byte()? {
        BARE => b"",
        BACKSLASH => b"\\x",
        _ => return Err(input.damaged()),
    };
    lengths.clear();
    for _ in 0..count {
        lengths.push(input.length()?);
    }
    for &length in lengths.iter() {
        let bytes = input.take(length)?;
        sink.push_text_with(prefix.len() + 2 * length, |out| {
            out.extend_from_slice(prefix);
            push_digits(bytes, out);
        })?;
    }
    Ok(())
}
