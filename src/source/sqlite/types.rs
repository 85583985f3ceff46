//! Values between SQLite and cells: storage class and exact bytes.
//!
//! Text is UTF-8 in a cell, whatever the database's encoding; UTF-16 that is not well formed
//! becomes WTF-8, so that it comes back unit by unit. Invariant: [`utf16_units`] undoes
//! [`push_wtf8`], or refuses.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use crate::row::cell::Cell;

/// How a database file stores text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8.
    Utf8,
    /// UTF-16, low byte first.
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
}

impl Encoding {
    /// The encoding that `PRAGMA encoding` calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "UTF-8" => Some(Encoding::Utf8),
            "UTF-16le" => Some(Encoding::Utf16Le),
            "UTF-16be" => Some(Encoding::Utf16Be),
            _ => None,
        }
    }

    /// The name that `PRAGMA encoding` prints and takes.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "UTF-8",
            Encoding::Utf16Le => "UTF-16le",
            Encoding::Utf16Be => "UTF-16be",
        }
    }

    fn unit(self, bytes: [u8; 2]) -> u16 {
        match self {
            Encoding::Utf16Be => u16::from_be_bytes(bytes),
            Encoding::Utf8 | Encoding::Utf16Le => u16::from_le_bytes(bytes),
        }
    }

    fn unit_bytes(self, unit: u16) -> [u8; 2] {
        match self {
            Encoding::Utf16Be => unit.to_be_bytes(),
            Encoding::Utf8 | Encoding::Utf16Le => unit.to_le_bytes(),
        }
    }
}

/// A value of SQLite as a cell.
pub fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Integer(value),
        ValueRef::Real(value) => Cell::Real(value),
        ValueRef::Text(bytes) => Cell::Text(bytes),
        ValueRef::Blob(bytes) => Cell::Blob(bytes),
    }
}

/// A value that is bound to a statement with its exact class and bytes.
pub struct Bound<'a>(pub ValueRef<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// Appends UTF-16 `raw` as UTF-8, a surrogate without its other half as three bytes of its own.
/// None where a byte is left over, which no encoding can bring back.
pub fn push_wtf8(encoding: Encoding, raw: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (pairs, rest) = raw.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units = pairs.iter().map(|bytes| encoding.unit(*bytes));
    for decoded in char::decode_utf16(units) {
        match decoded {
            Ok(character) => {
                let mut room = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut room).as_bytes());
            }
            Err(lone) => {
                let unit = lone.unpaired_surrogate();
                out.extend_from_slice(&[
                    0xe0 | (unit >> 12) as u8,
                    0x80 | (unit >> 6 & 0x3f) as u8,
                    0x80 | (unit & 0x3f) as u8,
                ]);
            }
        }
    }
    Some(())
}

/// The UTF-16 bytes that [`push_wtf8`] made `text` from; none where it makes no such text.
pub fn utf16_units(encoding: Encoding, text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut rest = text;
    while !rest.is_empty() {
        if let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] = *rest {
            let unit = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
            out.extend_from_slice(&encoding.unit_bytes(unit));
            rest = &rest[3..];
            continue;
        }
        let length = match rest[0] {
            0..=0x7f => 1,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return None,
        };
        let character = std::str::from_utf8(rest.get(..length)?).ok()?;
        for unit in character.encode_utf16() {
            out.extend_from_slice(&encoding.unit_bytes(unit));
        }
        rest = &rest[length..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_of_any_units_comes_back() {
        let texts: [&[u16]; 6] = [
            &[],
            &[0x61, 0x00, 0xe9, 0x65e5],
            &[0xd83d, 0xde00],
            &[0xd83d],
            &[0xde00, 0xd83d, 0x61],
            &[0xd83d, 0xd83d, 0xde00, 0xffff],
        ];
        for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
            for units in texts {
                let raw: Vec<u8> = units.iter().flat_map(|u| encoding.unit_bytes(*u)).collect();
                let mut text = Vec::new();
                push_wtf8(encoding, &raw, &mut text).unwrap();
                assert_eq!(utf16_units(encoding, &text), Some(raw), "{units:x?}");
            }
            assert_eq!(push_wtf8(encoding, b"abc", &mut Vec::new()), None);
            assert_eq!(utf16_units(encoding, b"a\xff"), None);
        }
    }

    #[test]
    fn encoding_names_are_those_of_the_pragma() {
        for name in ["UTF-8", "UTF-16le", "UTF-16be"] {
            assert_eq!(Encoding::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Encoding::from_name("utf8"), None);
    }
}
