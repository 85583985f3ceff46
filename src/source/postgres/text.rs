//! COPY's text form: rows out of it, rows into it.
//!
//! One pass over the bytes, eight at a time, since every byte of a backup goes through here. The
//! form: cells end at a tab, rows at a newline, `\N` is NULL, and a backslash hides the special
//! bytes. Invariant: decode and encode give back the same cells, whatever bytes they hold.
//! Form: PostgreSQL manual, COPY, "Text Format".

use crate::row::cell::Cell;

const fn repeated(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Bit 7 of each byte of `word` that equals `byte`; false hits only above a true one.
fn hits(word: u64, byte: u8) -> u64 {
    let x = word ^ repeated(byte);
    x.wrapping_sub(repeated(1)) & !x & repeated(0x80)
}

/// The position of the first tab, newline or backslash.
fn special(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = hits(word, b'\t') | hits(word, b'\n') | hits(word, b'\\');
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|b| matches!(b, b'\t' | b'\n' | b'\\'));
    at.map(|at| words.len() * 8 + at)
}

/// What ended a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A tab: another cell follows.
    Cell,
    /// A newline: the row is whole.
    Row,
}

/// Bytes that are not COPY text: no end of row, or a backslash before nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes one cell off `input`, which must hold its end; `escaped` is only working space.
pub fn take_cell<'c, 'i: 'c>(
    input: &mut &'i [u8],
    escaped: &'c mut Vec<u8>,
) -> Result<(Option<&'c [u8]>, End), Malformed> {
    let all = *input;
    let at = special(all).ok_or(Malformed)?;
    let end = |byte| if byte == b'\t' { End::Cell } else { End::Row };
    if all[at] != b'\\' {
        *input = &all[at + 1..];
        return Ok((Some(&all[..at]), end(all[at])));
    }
    if at == 0 && all.get(1) == Some(&b'N') && matches!(all.get(2), Some(b'\t' | b'\n')) {
        *input = &all[3..];
        return Ok((None, end(all[2])));
    }
    escaped.clear();
    let mut rest = all;
    loop {
        let at = special(rest).ok_or(Malformed)?;
        escaped.extend_from_slice(&rest[..at]);
        if rest[at] != b'\\' {
            *input = &rest[at + 1..];
            return Ok((Some(escaped), end(rest[at])));
        }
        escaped.push(unescaped(*rest.get(at + 1).ok_or(Malformed)?)?);
        rest = &rest[at + 2..];
    }
}

/// What a backslash and `byte` stand for. The server writes no octal or hex forms.
fn unescaped(byte: u8) -> Result<u8, Malformed> {
    Ok(match byte {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\n' | b'0'..=b'9' | b'x' | b'N' | b'.' => return Err(Malformed),
        other => other,
    })
}

/// Takes one row of `columns` cells off `input` and appends its canonical bytes to `row`.
pub fn take_row(
    input: &mut &[u8],
    columns: usize,
    row: &mut Vec<u8>,
    escaped: &mut Vec<u8>,
) -> Result<(), Malformed> {
    if columns == 0 {
        let (&first, rest) = input.split_first().ok_or(Malformed)?;
        *input = rest;
        return if first == b'\n' {
            Ok(())
        } else {
            Err(Malformed)
        };
    }
    for column in 1..=columns {
        let (cell, end) = take_cell(input, escaped)?;
        match cell {
            Some(bytes) => Cell::Text(bytes).push(row),
            None => Cell::Null.push(row),
        }
        if (end == End::Row) != (column == columns) {
            return Err(Malformed);
        }
    }
    Ok(())
}

/// Appends `bytes` with special bytes escaped.
pub fn push_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(at) = needs_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// The position of the first byte that is written escaped. Most cells have none, and most are
/// short: their last bytes are looked at together, with some before them once more.
fn needs_escape(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        if let Some(at) = first_escaped(*word) {
            return Some(index * 8 + at);
        }
    }
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk::<8>()) {
        return first_escaped(*last).map(|at| bytes.len() - 8 + at);
    }
    let at = rest
        .iter()
        .position(|b| matches!(b, b'\t' | b'\n' | b'\\' | b'\r'));
    at.map(|at| words.len() * 8 + at)
}

fn first_escaped(word: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    let found = hits(word, b'\t') | hits(word, b'\n') | hits(word, b'\\') | hits(word, b'\r');
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::cell::cells;
    use proptest::prelude::*;

    fn encoded(row: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, cell) in row.iter().enumerate() {
            if index > 0 {
                out.push(b'\t');
            }
            match cell {
                Some(bytes) => push_escaped(&mut out, bytes),
                None => out.extend_from_slice(b"\\N"),
            }
        }
        out.push(b'\n');
        out
    }

    fn any_cell() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![
            proptest::sample::select(b"\\\t\n\rNxa.0\x08\xff".to_vec()),
            any::<u8>()
        ];
        proptest::option::of(proptest::collection::vec(byte, 0..40))
    }

    proptest! {
        #[test]
        fn encoded_rows_decode_to_the_same_cells(
            row in proptest::collection::vec(any_cell(), 0..6)
        ) {
            let bytes = encoded(&row);
            let mut input = &bytes[..];
            let (mut out, mut escaped) = (Vec::new(), Vec::new());
            take_row(&mut input, row.len(), &mut out, &mut escaped).unwrap();
            prop_assert!(input.is_empty());
            let found = cells(&out, row.len()).unwrap();
            for (cell, expected) in found.iter().zip(&row) {
                match expected {
                    Some(bytes) => prop_assert_eq!(*cell, Cell::Text(bytes)),
                    None => prop_assert_eq!(*cell, Cell::Null),
                }
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (mut out, mut escaped) = (Vec::new(), Vec::new());
            let _ = take_row(&mut &bytes[..], 3, &mut out, &mut escaped);
        }
    }

    #[test]
    fn server_escapes_are_read() {
        let mut input = &b"a\\bb\\f\\n\\r\\t\\v\\\\\t\\N\t\n"[..];
        let (mut out, mut escaped) = (Vec::new(), Vec::new());
        take_row(&mut input, 3, &mut out, &mut escaped).unwrap();
        let found = cells(&out, 3).unwrap();
        assert_eq!(found[0], Cell::Text(b"a\x08b\x0c\n\r\t\x0b\\"));
        assert_eq!(found[1], Cell::Null);
        assert_eq!(found[2], Cell::Text(b""));
    }

    #[test]
    fn row_of_another_width_is_refused() {
        let (mut out, mut escaped) = (Vec::new(), Vec::new());
        for (bytes, columns) in [(&b"a\tb\n"[..], 1), (b"a\n", 2), (b"a", 1), (b"a\n", 0)] {
            assert_eq!(
                take_row(&mut &bytes[..], columns, &mut out, &mut escaped),
                Err(Malformed)
            );
        }
        assert_eq!(take_row(&mut &b"\n"[..], 0, &mut out, &mut escaped), Ok(()));
    }
}
