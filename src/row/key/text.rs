//! Keys as people write and read them: `42`, or `col=val,col=val`.
//!
//! `\` before `,`, `=` or `\` takes their meaning away. Where a plain value would be read as
//! something else, it is written as a literal: `x'00ff'` bytes, and for SQLite's columns, whose
//! cells have a class each, `'42'` text, `t'ff'` text that is not UTF-8, `i'42'` and `r'42.0'`.
//! Invariant: what [`text`] writes, [`parse`] reads as the same key.

use super::{Error, KeyEncoder, Part, push_part, wanted};
use crate::id::{hex, unhex};
use crate::row::schema::{Column, Key, KeyOrder, Table};

/// The canonical key that `text` names.
///
/// A key of one column may be written as its value alone, a comma included.
///
/// # Errors
/// Invalid, with the nearest names where a column is unknown.
pub fn parse(table: &Table, text: &str) -> Result<Vec<u8>, Error> {
    let key = table.key.as_ref().filter(|key| !key.columns.is_empty());
    let key = key.ok_or_else(|| Error::Keyless {
        table: table.name.to_string(),
    })?;
    let mut values: Vec<Option<String>> = vec![None; key.columns.len()];
    let wrong = || Error::Columns {
        table: table.name.to_string(),
        text: text.to_owned(),
        key: names(table, key),
    };
    if values.len() == 1 && find_bare(text, '=').is_none() {
        values[0] = Some(unescape(text));
    } else {
        let mut rest = Some(text);
        while let Some(now) = rest {
            let (part, after) = match find_bare(now, ',') {
                Some(comma) => (&now[..comma], Some(&now[comma + 1..])),
                None => (now, None),
            };
            rest = after;
            let equals = find_bare(part, '=').ok_or_else(wrong)?;
            let place = place(table, key, &unescape(part[..equals].trim()))?;
            if values[place]
                .replace(unescape(&part[equals + 1..]))
                .is_some()
            {
                return Err(wrong());
            }
        }
    }
    let mut out = Vec::new();
    for (&(position, order), value) in key.columns.iter().zip(values) {
        let (column, value) = (&table.columns[position], value.ok_or_else(wrong)?);
        let part = parse_value(column, order, &value).ok_or_else(|| Error::Value {
            column: column.name.clone(),
            value: value.clone(),
            wanted: wanted(order),
        })?;
        push_part(&mut out, order, &part);
    }
    Ok(out)
}

/// The key's columns by name, each with its value as [`parse`] reads it (but not escaped).
///
/// # Errors
/// Corrupt: the bytes are no key of this table.
pub fn show(table: &Table, key: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let damaged = || Error::Damaged {
        table: table.name.to_string(),
    };
    let encoder = KeyEncoder::new(table).ok_or_else(damaged)?;
    let parts = encoder.decode(key).ok_or_else(damaged)?;
    let value = |(column, part): (&super::KeyColumn, Part)| {
        let shown = show_value(&table.columns[column.position], column.order, &part);
        (column.name.clone(), shown)
    };
    Ok(encoder.columns.iter().zip(parts).map(value).collect())
}

/// The key as one text that [`parse`] reads: the value alone where there is one column.
///
/// # Errors
/// As [`show`].
pub fn text(table: &Table, key: &[u8]) -> Result<String, Error> {
    let columns = show(table, key)?;
    if let [(_, value)] = columns.as_slice() {
        return Ok(escape(value));
    }
    let named: Vec<String> = columns
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    Ok(named.join(","))
}

fn names(table: &Table, key: &Key) -> String {
    let names: Vec<&str> = key
        .columns
        .iter()
        .map(|&(position, _)| table.columns[position].name.as_str())
        .collect();
    names.join(", ")
}

/// Where in the key the column `name` stands.
fn place(table: &Table, key: &Key, name: &str) -> Result<usize, Error> {
    let place = |position| key.columns.iter().position(|&(at, _)| at == position);
    match table.column(name) {
        Some(position) => place(position).ok_or_else(|| Error::NotKey {
            table: table.name.to_string(),
            column: name.to_owned(),
            key: names(table, key),
        }),
        None => Err(Error::Unknown {
            table: table.name.to_string(),
            column: name.to_owned(),
            nearest: nearest(table, name),
        }),
    }
}

/// The position of the column `name`.
///
/// # Errors
/// [`Error::Unknown`], with the nearest names.
pub fn column(table: &Table, name: &str) -> Result<usize, Error> {
    table.column(name).ok_or_else(|| Error::Unknown {
        table: table.name.to_string(),
        column: name.to_owned(),
        nearest: nearest(table, name),
    })
}

/// Up to three names of columns that look like `name`, the most alike first.
pub(in crate::row) fn nearest(table: &Table, name: &str) -> Vec<String> {
    let alike = |column: &Column| {
        let (a, b) = (column.name.to_lowercase(), name.to_lowercase());
        strsim::normalized_damerau_levenshtein(&a, &b)
    };
    let mut found: Vec<(f64, &str)> = table
        .columns
        .iter()
        .map(|column| (alike(column), column.name.as_str()))
        .filter(|&(alike, _)| alike > 0.4)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    found
        .into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Where `wanted` first stands in `text` without a `\` that takes its meaning away.
fn find_bare(text: &str, wanted: char) -> Option<usize> {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character == wanted {
            return Some(at);
        }
        if character == '\\' {
            characters.next_if(|&(_, next)| is_special(next));
        }
    }
    None
}

fn is_special(character: char) -> bool {
    matches!(character, ',' | '=' | '\\')
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = (character == '\\')
            .then(|| characters.next_if(|&next| is_special(next)))
            .flatten();
        out.push(escaped.unwrap_or(character));
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_special(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn parse_value(column: &Column, order: KeyOrder, value: &str) -> Option<Part> {
    match order {
        KeyOrder::Integer => super::integer(value.trim().as_bytes()).map(Part::Integer),
        KeyOrder::Uuid => super::uuid(value.trim().as_bytes()).map(Part::Uuid),
        KeyOrder::Bytes => Some(Part::Bytes(match literal(value) {
            Some(('x', inside)) => unhex(inside)?,
            _ => value.as_bytes().to_vec(),
        })),
        KeyOrder::Class => parse_class(column, value),
    }
}

/// The letter and the inside of a literal such as `x'00ff'`; a bare `'…'` has the letter `'`.
fn literal(value: &str) -> Option<(char, &str)> {
    let inside = value.strip_suffix('\'')?;
    if let Some(inside) = inside.strip_prefix('\'') {
        return Some(('\'', inside));
    }
    let letter = inside
        .chars()
        .next()
        .filter(|letter| "xtir".contains(*letter))?;
    Some((letter, inside[1..].strip_prefix('\'')?))
}

fn parse_class(column: &Column, value: &str) -> Option<Part> {
    let number = |text: &str| {
        let value = super::integer(text.as_bytes())?;
        i64::try_from(value).ok().map(|_| Part::Integer(value))
    };
    match literal(value) {
        Some(('x', inside)) => return unhex(inside).map(Part::Blob),
        Some(('t', inside)) => return unhex(inside).map(Part::Text),
        Some(('i', inside)) => return number(inside),
        Some(('r', inside)) => return inside.parse().ok().map(Part::Real),
        Some((_, inside)) => return Some(Part::Text(inside.replace("''", "'").into_bytes())),
        None => {}
    }
    let real = || {
        let looks = value.bytes().any(|byte| byte.is_ascii_digit());
        looks.then(|| value.parse().ok().map(Part::Real)).flatten()
    };
    let text = || Some(Part::Text(value.as_bytes().to_vec()));
    match Affinity::of(&column.type_name) {
        Affinity::Text => text(),
        Affinity::Real => real().or_else(text),
        Affinity::Other => number(value).or_else(real).or_else(text),
    }
}

/// What a plain value in an SQLite column is taken for, after the rules of its declared type
/// (sqlite.org/datatype3.html, "Determination Of Column Affinity").
enum Affinity {
    Text,
    Real,
    Other,
}

impl Affinity {
    fn of(type_name: &str) -> Affinity {
        let name = type_name.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if has(&["INT"]) {
            Affinity::Other
        } else if has(&["CHAR", "CLOB", "TEXT"]) {
            Affinity::Text
        } else if has(&["REAL", "FLOA", "DOUB"]) && !has(&["BLOB"]) {
            Affinity::Real
        } else {
            Affinity::Other
        }
    }
}

fn show_value(column: &Column, order: KeyOrder, part: &Part) -> String {
    let plain = match part {
        Part::Integer(value) => Some(value.to_string()),
        Part::Uuid(bytes) => Some(show_uuid(bytes)),
        Part::Real(value) => Some(format!("{value:?}")),
        Part::Bytes(bytes) | Part::Text(bytes) => readable(bytes).map(str::to_owned),
        Part::Blob(_) => None,
    };
    let same = |text: &String| {
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        push_part(&mut wanted, order, part);
        parse_value(column, order, text).is_some_and(|read| {
            push_part(&mut found, order, &read);
            found == wanted
        })
    };
    plain.filter(same).unwrap_or_else(|| match part {
        Part::Integer(value) => format!("i'{value}'"),
        Part::Real(value) => format!("r'{value:?}'"),
        Part::Uuid(bytes) => show_uuid(bytes),
        Part::Bytes(bytes) | Part::Blob(bytes) => format!("x'{}'", hex(bytes)),
        Part::Text(bytes) => match readable(bytes) {
            Some(text) => format!("'{}'", text.replace('\'', "''")),
            None => format!("t'{}'", hex(bytes)),
        },
    })
}

/// The bytes as text, where a person can read it.
fn readable(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

fn show_uuid(bytes: &[u8; 16]) -> String {
    let digits = hex(bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
    parts.join("-")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::failure::Failure;
    use crate::row::schema::{KeyOrigin, TableName, ValueKind};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A table whose first columns, `k0` and so on, are its key; `email` follows.
    pub(crate) fn table(orders: &[KeyOrder]) -> Table {
        let column = |name: String| Column {
            name,
            type_name: String::new(),
            kind: ValueKind::Any,
            nullable: false,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        };
        let names = (0..orders.len()).map(|at| format!("k{at}"));
        Table {
            name: TableName {
                schema: None,
                name: "contacts".into(),
            },
            columns: names.chain(["email".into()]).map(column).collect(),
            generated: Vec::new(),
            key: Some(Key {
                origin: KeyOrigin::Primary,
                columns: orders.iter().copied().enumerate().collect(),
            }),
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        }
    }

    fn parts(orders: &[KeyOrder], text: &str) -> Vec<Part> {
        let table = table(orders);
        let key = parse(&table, text).unwrap();
        KeyEncoder::new(&table).unwrap().decode(&key).unwrap()
    }

    fn bytes(text: &str) -> Part {
        Part::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn keys_are_read_as_they_are_typed() {
        use KeyOrder::{Bytes, Class, Integer, Uuid};
        assert_eq!(parts(&[Integer], "42"), [Part::Integer(42)]);
        assert_eq!(parts(&[Integer], "k0=42"), [Part::Integer(42)]);
        assert_eq!(parts(&[Bytes], "Smith, John"), [bytes("Smith, John")]);
        assert_eq!(parts(&[Bytes], r"a\=b"), [bytes("a=b")]);
        assert_eq!(parts(&[Bytes], r"k0=a=b\,c"), [bytes("a=b,c")]);
        assert_eq!(parts(&[Bytes], r"\x4142"), [bytes(r"\x4142")]);
        assert_eq!(parts(&[Bytes], "x'00ff'"), [Part::Bytes(vec![0, 0xff])]);
        let both = [Part::Integer(1), bytes("a")];
        assert_eq!(parts(&[Integer, Bytes], "k1=a,k0=1"), both);
        let upper = parts(&[Uuid], "6BA7B810-9DAD-11D1-80B4-00C04FD430C8");
        assert_eq!(
            upper,
            parts(&[Uuid], "6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        );
        assert_eq!(parts(&[Class], "42"), [Part::Integer(42)]);
        assert_eq!(parts(&[Class], "4.5"), [Part::Real(4.5)]);
        assert_eq!(parts(&[Class], "'42'"), [Part::Text(b"42".to_vec())]);
        assert_eq!(parts(&[Class], "x'2a'"), [Part::Blob(vec![42])]);
        assert_eq!(parts(&[Class], "ab"), [Part::Text(b"ab".to_vec())]);
    }

    #[test]
    fn a_text_column_of_sqlite_takes_numbers_as_text() {
        let mut table = table(&[KeyOrder::Class]);
        table.columns[0].type_name = "VARCHAR(36)".into();
        let key = parse(&table, "42").unwrap();
        let parts = KeyEncoder::new(&table).unwrap().decode(&key);
        assert_eq!(parts, Some(vec![Part::Text(b"42".to_vec())]));
        assert_eq!(text(&table, &key).unwrap(), "42");
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_would_be() {
        let two = table(&[KeyOrder::Integer, KeyOrder::Bytes]);
        let unknown = parse(&two, "k0=1,emial=x").unwrap_err();
        assert_eq!(unknown.hint().unwrap(), "there is email");
        assert!(matches!(parse(&two, "email=x"), Err(Error::NotKey { .. })));
        for text in ["", "1", "k0=1", "k0=1,k0=2", "k0=1,k1=a,b", "1,2"] {
            let refused = parse(&two, text);
            assert!(
                matches!(refused, Err(Error::Columns { .. })),
                "{text:?}: {refused:?}"
            );
        }
        assert!(matches!(parse(&two, "k0=a,k1=b"), Err(Error::Value { .. })));
        let mut keyless = two.clone();
        keyless.key = None;
        assert!(matches!(parse(&keyless, "1"), Err(Error::Keyless { .. })));
        assert!(matches!(show(&two, b"\x01"), Err(Error::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same_key(
            number in any::<i64>(),
            raw in prop::collection::vec(any::<u8>(), 0..9),
            words in "[a-zA-Z0-9,=\\\\' żя日\n.]{0,9}",
            real in any::<f64>().prop_filter("SQLite stores NaN as NULL", |real| !real.is_nan()),
            digits in "-?[0-9]{1,4}(\\.[0-9]{1,3})?",
        ) {
            let words = words.into_bytes();
            let parts = [
                Part::Integer(i128::from(number)),
                Part::Real(real),
                Part::Real(real.trunc()),
                Part::Text(raw.clone()),
                Part::Text(words.clone()),
                Part::Text(digits.into_bytes()),
                Part::Blob(raw.clone()),
            ];
            for part in &parts {
                let mut key = Vec::new();
                push_part(&mut key, KeyOrder::Class, part);
                for type_name in ["", "INTEGER", "TEXT", "REAL", "NUMERIC"] {
                    let mut table = table(&[KeyOrder::Class]);
                    table.columns[0].type_name = type_name.into();
                    let shown = text(&table, &key).unwrap();
                    prop_assert_eq!(&parse(&table, &shown).unwrap(), &key, "{} in {}", shown, type_name);
                }
            }
            let orders = [KeyOrder::Bytes, KeyOrder::Integer, KeyOrder::Bytes];
            let parts = [Part::Bytes(words), Part::Integer(i128::from(number)), Part::Bytes(raw)];
            let mut key = Vec::new();
            for (order, part) in orders.iter().zip(&parts) {
                push_part(&mut key, *order, part);
            }
            let table = table(&orders);
            prop_assert_eq!(parse(&table, &text(&table, &key).unwrap()).unwrap(), key);
        }
    }
}
