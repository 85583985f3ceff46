//! Canonical keys: the bytes by which rows are sorted and found.
//!
//! A key is its columns one after the other, each in a form that no other value of that column
//! is a prefix of, so that memcmp over the whole gives the order of the tuple. A key orders and
//! finds; the row keeps the server's own bytes. Bytes: docs/format.md, "Keys of rows".
//!
//! | order | bytes |
//! |---|---|
//! | Integer | below 2^63-1: 8 bytes BE, sign bit flipped; from there on: eight 0xff, then value - (2^63-1) in 8 bytes BE |
//! | Uuid | its 16 bytes |
//! | Bytes | each 0x00 as 0x00 0xff, then the end, 0x00 0x00 |
//! | Class | 1 and an Integer; 2 and the real's bits, made ascending, BE; 3 (text) or 4 (blob) and Bytes |

mod text;

pub(in crate::row) use text::nearest;
pub use text::{column, parse, show, text};

use crate::failure::{Class, Failure};
use crate::row::cell::{self, Cell, Cells, RowBatch};
use crate::row::schema::{KeyOrder, Table};

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The row is not made of cells, or has too few.
    #[error("a row has no key, because its bytes are damaged")]
    Row(#[from] cell::Error),
    /// NULL has no place in the order.
    #[error("key column {column:?} of a row is NULL")]
    Null {
        /// The column.
        column: String,
    },
    /// A cell that was cut out cannot be compared.
    #[error("key column {column:?} of a row holds {bytes} bytes, too many for a key")]
    Large {
        /// The column.
        column: String,
        /// Length of the cell.
        bytes: u64,
    },
    /// A cell that the key's order does not know.
    #[error("key column {column:?} of a row holds something else than {wanted}")]
    Form {
        /// The column.
        column: String,
        /// What the order is made for.
        wanted: &'static str,
    },
    /// Bytes that are no key of the table.
    #[error("a stored key of table {table} is damaged")]
    Damaged {
        /// The table.
        table: String,
    },
    /// The table has no key.
    #[error("table {table} has no key by which a row could be named")]
    Keyless {
        /// The table.
        table: String,
    },
    /// A column that the table does not have.
    #[error("table {table} has no column {column:?}")]
    Unknown {
        /// The table.
        table: String,
        /// What was given.
        column: String,
        /// Names of columns that look like it, nearest first.
        nearest: Vec<String>,
    },
    /// A column that is no part of the key.
    #[error("column {column:?} is not in the key of table {table}, which is {key}")]
    NotKey {
        /// The table.
        table: String,
        /// What was given.
        column: String,
        /// The columns of the key.
        key: String,
    },
    /// Columns of the key that were not given, or given twice, or a value without its column.
    #[error(
        "{text:?} does not name each column of the key once; the key of table {table} is {key}"
    )]
    Columns {
        /// The table.
        table: String,
        /// What was given.
        text: String,
        /// The columns of the key.
        key: String,
    },
    /// A value that the column cannot have.
    #[error("{value:?} is no value of key column {column:?}, which holds {wanted}")]
    Value {
        /// The column.
        column: String,
        /// What was given.
        value: String,
        /// What the column holds.
        wanted: &'static str,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Row(_)
            | Error::Null { .. }
            | Error::Large { .. }
            | Error::Form { .. }
            | Error::Damaged { .. } => Class::Corrupt,
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Keyless { .. } => Some("look for the row by its values: --where COL=VAL".into()),
            Error::Unknown { nearest, .. } if !nearest.is_empty() => {
                Some(format!("there is {}", nearest.join(", ")))
            }
            Error::Unknown { .. } => Some("where '=' is part of the value, write '\\='".into()),
            Error::NotKey { .. } => Some("look for rows by other columns: --where COL=VAL".into()),
            Error::Columns { .. } => Some(
                "write COL=VAL,COL=VAL; where ',' or '=' is part of a value, put '\\' before it"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// One column of a key, as a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A whole number, `i64::MIN ..= u64::MAX`.
    Integer(i128),
    /// A UUID.
    Uuid([u8; 16]),
    /// The bytes of the server's text.
    Bytes(Vec<u8>),
    /// SQLite REAL.
    Real(f64),
    /// SQLite TEXT.
    Text(Vec<u8>),
    /// SQLite BLOB.
    Blob(Vec<u8>),
}

const INTEGER_MAX: i128 = i64::MAX as i128;
const CLASS_INTEGER: u8 = 1;
const CLASS_REAL: u8 = 2;
const CLASS_TEXT: u8 = 3;
const CLASS_BLOB: u8 = 4;

fn wanted(order: KeyOrder) -> &'static str {
    match order {
        KeyOrder::Integer => "a whole number of 64 bits",
        KeyOrder::Uuid => "a UUID",
        KeyOrder::Bytes => "text or bytes",
        KeyOrder::Class => "a value of SQLite",
    }
}

#[derive(Clone, Debug)]
struct KeyColumn {
    position: usize,
    order: KeyOrder,
    name: String,
}

/// Makes the canonical keys of one table's rows.
#[derive(Clone, Debug)]
pub struct KeyEncoder {
    columns: Vec<KeyColumn>,
}

impl KeyEncoder {
    /// The encoder for `table`; none where the table has no key.
    pub fn new(table: &Table) -> Option<KeyEncoder> {
        let key = table.key.as_ref()?;
        let column = |&(position, order): &(usize, KeyOrder)| {
            Some(KeyColumn {
                position,
                order,
                name: table.columns.get(position)?.name.clone(),
            })
        };
        let columns: Vec<_> = key.columns.iter().map(column).collect::<Option<_>>()?;
        (!columns.is_empty()).then_some(KeyEncoder { columns })
    }

    /// Writes the key of `row` to `out`, whose old content goes.
    ///
    /// # Errors
    /// [`Error`], naming the column that has no place in the order.
    pub fn encode(&self, row: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.clear();
        self.append(row, out)
    }

    /// Writes the key of `row` behind what `out` has; a failure leaves half a key there.
    fn append(&self, row: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut cells = Cells::new(row);
        let mut next = 0;
        for column in &self.columns {
            if column.position < next {
                cells = Cells::new(row);
                next = 0;
            }
            // The iterator counts up to the key's cell; a row that ends before it is damaged.
            cells.pass(column.position - next);
            let cell = cells.next().ok_or(cell::Error::Count {
                found: Cells::new(row).count(),
                columns: column.position + 1,
            })?;
            column.push(&cell?, out)?;
            next = column.position + 1;
        }
        Ok(())
    }

    /// How many columns a key has.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The position of the key's first column.
    pub fn leading(&self) -> usize {
        self.columns[0].position
    }

    /// How every key begins whose first column has the cell of these canonical bytes; none where the
    /// key's order has no place for it.
    pub fn beginning(&self, cell: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let cell = Cells::new(cell).next()?.ok()?;
        self.columns[0].push(&cell, &mut out).ok()?;
        Some(out)
    }

    /// Writes the key that these cells make, in the key's order, to `out`.
    ///
    /// # Errors
    /// As [`KeyEncoder::encode`].
    pub fn encode_cells(&self, cells: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        out.clear();
        if cells.len() != self.columns.len() {
            return Err(Error::Row(cell::Error::Count {
                found: cells.len(),
                columns: self.columns.len(),
            }));
        }
        for (column, cell) in self.columns.iter().zip(cells) {
            column.push(cell, out)?;
        }
        Ok(())
    }

    /// Adds the key of each of `rows` to `keys`.
    ///
    /// # Errors
    /// As [`KeyEncoder::encode`].
    pub fn encode_all(&self, rows: &RowBatch, keys: &mut KeyBatch) -> Result<(), Error> {
        let mut result = Ok(());
        for row in rows.iter() {
            keys.0.push_with(|out| result = self.append(row, out));
            if result.is_err() {
                break;
            }
        }
        result
    }

    /// The values that `key` is made of; none where it is no key of this table.
    pub fn decode(&self, key: &[u8]) -> Option<Vec<Part>> {
        let mut rest = key;
        let parts: Vec<Part> = self
            .columns
            .iter()
            .map(|column| take_part(column.order, &mut rest))
            .collect::<Option<_>>()?;
        rest.is_empty().then_some(parts)
    }
}

impl KeyColumn {
    fn push(&self, cell: &Cell<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let form = || Error::Form {
            column: self.name.clone(),
            wanted: wanted(self.order),
        };
        match (self.order, cell) {
            (_, Cell::Null) => {
                return Err(Error::Null {
                    column: self.name.clone(),
                });
            }
            (_, Cell::Large(large)) => {
                return Err(Error::Large {
                    column: self.name.clone(),
                    bytes: large.length,
                });
            }
            (KeyOrder::Integer, Cell::Integer(value)) => push_integer(out, i128::from(*value)),
            (KeyOrder::Integer, Cell::Text(text)) => {
                push_integer(out, integer(text).ok_or_else(form)?);
            }
            (KeyOrder::Uuid, Cell::Text(text)) => {
                out.extend_from_slice(&uuid(text).ok_or_else(form)?);
            }
            (KeyOrder::Bytes, Cell::Text(bytes) | Cell::Blob(bytes)) => push_bytes(out, bytes),
            (KeyOrder::Class, cell) => push_class(out, cell),
            _ => return Err(form()),
        }
        Ok(())
    }
}

/// The whole number in decimal `text`, leading zeros allowed (MySQL's ZEROFILL), in the range
/// of 64 bits, signed or not.
fn integer(text: &[u8]) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 38 {
        return None;
    }
    let mut value = 0i128;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i128::from(digit - b'0');
    }
    let value = if negative { -value } else { value };
    (i128::from(i64::MIN)..=i128::from(u64::MAX))
        .contains(&value)
        .then_some(value)
}

/// The 16 bytes of a UUID of 36 characters, upper or lower case.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|&dash| text[dash] != b'-') {
        return None;
    }
    let mut digits = text.iter().filter(|&&byte| byte != b'-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let high = char::from(*digits.next()?).to_digit(16)?;
        let low = char::from(*digits.next()?).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    digits.next().is_none().then_some(bytes)
}

fn push_integer(out: &mut Vec<u8>, value: i128) {
    if value < INTEGER_MAX {
        out.extend_from_slice(&((value as i64 as u64) ^ (1 << 63)).to_be_bytes());
    } else {
        out.extend_from_slice(&[0xff; 8]);
        out.extend_from_slice(&((value - INTEGER_MAX) as u64).to_be_bytes());
    }
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.contains(&0) {
        for &byte in bytes {
            out.push(byte);
            if byte == 0 {
                out.push(0xff);
            }
        }
    } else {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&[0, 0]);
}

fn push_class(out: &mut Vec<u8>, cell: &Cell<'_>) {
    match *cell {
        Cell::Integer(value) => {
            out.push(CLASS_INTEGER);
            push_integer(out, i128::from(value));
        }
        Cell::Real(value) => {
            out.push(CLASS_REAL);
            let bits = value.to_bits();
            let ascending = if bits >> 63 == 0 {
                bits | 1 << 63
            } else {
                !bits
            };
            out.extend_from_slice(&ascending.to_be_bytes());
        }
        Cell::Text(bytes) => {
            out.push(CLASS_TEXT);
            push_bytes(out, bytes);
        }
        Cell::Blob(bytes) => {
            out.push(CLASS_BLOB);
            push_bytes(out, bytes);
        }
        Cell::Null | Cell::Large(_) => unreachable!("refused before the order is looked at"),
    }
}

fn push_part(out: &mut Vec<u8>, order: KeyOrder, part: &Part) {
    match (order, part) {
        (KeyOrder::Class, Part::Integer(value)) => push_class(out, &Cell::Integer(*value as i64)),
        (_, Part::Integer(value)) => push_integer(out, *value),
        (_, Part::Uuid(bytes)) => out.extend_from_slice(bytes),
        (_, Part::Bytes(bytes)) => push_bytes(out, bytes),
        (_, Part::Real(value)) => push_class(out, &Cell::Real(*value)),
        (_, Part::Text(bytes)) => push_class(out, &Cell::Text(bytes)),
        (_, Part::Blob(bytes)) => push_class(out, &Cell::Blob(bytes)),
    }
}

fn take_part(order: KeyOrder, rest: &mut &[u8]) -> Option<Part> {
    match order {
        KeyOrder::Integer => take_integer(rest).map(Part::Integer),
        KeyOrder::Uuid => take_array(rest).map(Part::Uuid),
        KeyOrder::Bytes => take_bytes(rest).map(Part::Bytes),
        KeyOrder::Class => match take_array::<1>(rest)?[0] {
            CLASS_INTEGER => {
                let value = take_integer(rest)?;
                i64::try_from(value).ok().map(|_| Part::Integer(value))
            }
            CLASS_REAL => {
                let ascending = u64::from_be_bytes(take_array(rest)?);
                let bits = if ascending >> 63 == 1 {
                    ascending & !(1 << 63)
                } else {
                    !ascending
                };
                Some(Part::Real(f64::from_bits(bits)))
            }
            CLASS_TEXT => take_bytes(rest).map(Part::Text),
            CLASS_BLOB => take_bytes(rest).map(Part::Blob),
            _ => None,
        },
    }
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

fn take_integer(rest: &mut &[u8]) -> Option<i128> {
    let biased = u64::from_be_bytes(take_array(rest)?);
    if biased != u64::MAX {
        return Some(i128::from((biased ^ (1 << 63)) as i64));
    }
    let value = INTEGER_MAX + i128::from(u64::from_be_bytes(take_array(rest)?));
    (value <= i128::from(u64::MAX)).then_some(value)
}

fn take_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let zero = rest.iter().position(|&byte| byte == 0)?;
        bytes.extend_from_slice(&rest[..zero]);
        let after = *rest.get(zero + 1)?;
        *rest = &rest[zero + 2..];
        match after {
            0 => return Some(bytes),
            0xff => bytes.push(0),
            _ => return None,
        }
    }
}

/// Some keys one after the other, in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBatch(RowBatch);

impl KeyBatch {
    /// A batch with room for `keys` keys of `bytes` bytes together.
    pub fn with_capacity(bytes: usize, keys: usize) -> Self {
        KeyBatch(RowBatch::with_room(bytes, keys))
    }

    /// Adds a key.
    pub fn push(&mut self, key: &[u8]) {
        self.0.push(key);
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all keys together.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// How many bytes of memory it holds.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }

    /// The key at `index`, which must be below `len`.
    pub fn key(&self, index: usize) -> &[u8] {
        self.0.row(index)
    }

    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter()
    }

    /// Takes all keys away and keeps the allocation.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether each key is greater than the one before it.
    pub fn ascends(&self) -> bool {
        (1..self.len()).all(|index| self.key(index - 1) < self.key(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::row::cell::{Large, LargeClass};
    use crate::row::key::text::tests::table;
    use proptest::prelude::*;

    fn row(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut row = Vec::new();
        cells.iter().for_each(|cell| cell.push(&mut row));
        row
    }

    fn encoded(orders: &[KeyOrder], cells: &[Cell<'_>]) -> Result<Vec<u8>, Error> {
        let encoder = KeyEncoder::new(&table(orders)).unwrap();
        let mut key = Vec::new();
        encoder.encode(&row(cells), &mut key)?;
        let mut other = vec![1, 2, 3];
        encoder.encode_cells(cells, &mut other)?;
        assert_eq!(key, other);
        Ok(key)
    }

    /// The order of SQLite's classes, and of values within each.
    fn class_order(a: &Cell<'_>, b: &Cell<'_>) -> std::cmp::Ordering {
        let class = |cell: &Cell<'_>| match cell {
            Cell::Integer(_) => 1,
            Cell::Real(_) => 2,
            Cell::Text(_) => 3,
            _ => 4,
        };
        class(a).cmp(&class(b)).then_with(|| match (a, b) {
            (Cell::Integer(a), Cell::Integer(b)) => a.cmp(b),
            (Cell::Real(a), Cell::Real(b)) => a.total_cmp(b),
            (Cell::Text(a), Cell::Text(b)) | (Cell::Blob(a), Cell::Blob(b)) => a.cmp(b),
            _ => std::cmp::Ordering::Equal,
        })
    }

    #[derive(Clone, Debug)]
    enum Any {
        Integer(i64),
        Real(f64),
        Text(Vec<u8>),
        Blob(Vec<u8>),
    }

    impl Any {
        fn cell(&self) -> Cell<'_> {
            match self {
                Any::Integer(value) => Cell::Integer(*value),
                Any::Real(value) => Cell::Real(*value),
                Any::Text(bytes) => Cell::Text(bytes),
                Any::Blob(bytes) => Cell::Blob(bytes),
            }
        }
    }

    /// Bytes in which zeros and prefixes are frequent.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop::sample::select(vec![0u8, 1, 2, 0x61, 0xfe, 0xff]),
            0..5,
        )
    }

    fn any_class() -> impl Strategy<Value = Any> {
        prop_oneof![
            any::<i64>().prop_map(Any::Integer),
            (-3i64..3).prop_map(Any::Integer),
            any::<f64>().prop_map(Any::Real),
            (-3i32..3).prop_map(|value| Any::Real(f64::from(value) / 2.0)),
            bytes().prop_map(Any::Text),
            bytes().prop_map(Any::Blob),
        ]
    }

    fn whole_number() -> impl Strategy<Value = i128> {
        let edges = vec![
            i128::from(i64::MIN),
            -1,
            0,
            INTEGER_MAX - 1,
            INTEGER_MAX,
            INTEGER_MAX + 1,
            i128::from(u64::MAX),
        ];
        prop_oneof![
            any::<i64>().prop_map(i128::from),
            any::<u64>().prop_map(i128::from),
            prop::sample::select(edges),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn keys_of_bytes_sort_as_tuples(a in (bytes(), bytes()), b in (bytes(), bytes())) {
            let orders = [KeyOrder::Bytes, KeyOrder::Bytes];
            let key = |pair: &(Vec<u8>, Vec<u8>)| {
                encoded(&orders, &[Cell::Text(&pair.0), Cell::Blob(&pair.1)]).unwrap()
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            let decoded = KeyEncoder::new(&table(&orders)).unwrap().decode(&key(&a));
            prop_assert_eq!(decoded, Some(vec![Part::Bytes(a.0), Part::Bytes(a.1)]));
        }

        #[test]
        fn keys_of_numbers_sort_as_numbers(a in (whole_number(), bytes()), b in (whole_number(), bytes())) {
            let orders = [KeyOrder::Integer, KeyOrder::Bytes];
            let key = |pair: &(i128, Vec<u8>)| {
                let number = pair.0.to_string();
                encoded(&orders, &[Cell::Text(number.as_bytes()), Cell::Text(&pair.1)]).unwrap()
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            if let Ok(same) = i64::try_from(a.0) {
                let classed = encoded(&orders, &[Cell::Integer(same), Cell::Text(&a.1)]);
                prop_assert_eq!(classed.unwrap(), key(&a));
            }
        }

        #[test]
        fn keys_of_classes_sort_by_class_then_value(
            a in (any_class(), any_class()),
            b in (any_class(), any_class()),
        ) {
            let orders = [KeyOrder::Class, KeyOrder::Class];
            let key = |pair: &(Any, Any)| encoded(&orders, &[pair.0.cell(), pair.1.cell()]).unwrap();
            let order = class_order(&a.0.cell(), &b.0.cell())
                .then_with(|| class_order(&a.1.cell(), &b.1.cell()));
            prop_assert_eq!(key(&a).cmp(&key(&b)), order);
        }

        #[test]
        fn keys_of_uuids_sort_as_their_text(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
            let text = |bytes: &[u8; 16]| {
                let digits = crate::id::hex(bytes);
                [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]).join("-")
            };
            let key = |text: &str| encoded(&[KeyOrder::Uuid], &[Cell::Text(text.as_bytes())]).unwrap();
            prop_assert_eq!(key(&text(&a)).cmp(&key(&text(&b))), text(&a).cmp(&text(&b)));
            prop_assert_eq!(key(&text(&a).to_uppercase()), key(&text(&a)));
        }

        #[test]
        fn noise_is_no_key_or_comes_back(
            noise in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 4, 0x80, 0xff]), 0..30),
        ) {
            let orders = [KeyOrder::Class, KeyOrder::Integer, KeyOrder::Bytes];
            let table = table(&orders);
            if let Some(parts) = KeyEncoder::new(&table).unwrap().decode(&noise) {
                let mut back = Vec::new();
                for (order, part) in orders.iter().zip(&parts) {
                    push_part(&mut back, *order, part);
                }
                prop_assert_eq!(back, noise);
            }
        }
    }

    #[test]
    fn key_columns_stand_in_key_order_wherever_they_are() {
        let mut table = table(&[KeyOrder::Integer, KeyOrder::Bytes]);
        table.key.as_mut().unwrap().columns.reverse();
        let encoder = KeyEncoder::new(&table).unwrap();
        let mut key = Vec::new();
        encoder
            .encode(
                &row(&[Cell::Integer(7), Cell::Text(b"z"), Cell::Null]),
                &mut key,
            )
            .unwrap();
        let parts = encoder.decode(&key);
        assert_eq!(
            parts,
            Some(vec![Part::Bytes(b"z".to_vec()), Part::Integer(7)])
        );
    }

    #[test]
    fn what_has_no_place_in_the_order_is_named() {
        let large = Cell::Large(Large {
            class: LargeClass::Text,
            length: 9,
            digest: Digest::ZERO,
        });
        let column = || "k1".to_owned();
        let second = |order, cell: Cell<'_>| {
            encoded(&[KeyOrder::Integer, order], &[Cell::Integer(1), cell]).unwrap_err()
        };
        assert_eq!(
            second(KeyOrder::Bytes, Cell::Null),
            Error::Null { column: column() }
        );
        assert_eq!(
            second(KeyOrder::Bytes, large),
            Error::Large {
                column: column(),
                bytes: 9
            }
        );
        for (order, text) in [
            (KeyOrder::Integer, "1.0"),
            (KeyOrder::Integer, ""),
            (KeyOrder::Integer, "18446744073709551616"),
            (KeyOrder::Integer, "-9223372036854775809"),
            (KeyOrder::Uuid, "6ba7b8109dad11d180b400c04fd430c8"),
            (KeyOrder::Uuid, "6ba7b810-9dad-11d1-80b4-00c04fd430cg"),
        ] {
            let error = second(order, Cell::Text(text.as_bytes()));
            assert_eq!(
                error,
                Error::Form {
                    column: column(),
                    wanted: wanted(order)
                }
            );
        }
        let short = KeyEncoder::new(&table(&[KeyOrder::Integer, KeyOrder::Bytes])).unwrap();
        let mut key = Vec::new();
        let refused = short.encode(&row(&[Cell::Integer(1)]), &mut key);
        assert!(matches!(refused, Err(Error::Row(_))));
        assert!(matches!(
            short.encode(&[3, 1], &mut key),
            Err(Error::Row(_))
        ));
    }

    #[test]
    fn bytes_of_keys_are_those_of_version_1() {
        let hex = |orders: &[KeyOrder], cells: &[Cell<'_>]| {
            crate::id::hex(&encoded(orders, cells).unwrap())
        };
        assert_eq!(
            hex(&[KeyOrder::Integer], &[Cell::Integer(42)]),
            "800000000000002a"
        );
        assert_eq!(
            hex(&[KeyOrder::Integer], &[Cell::Text(b"-1")]),
            "7fffffffffffffff"
        );
        assert_eq!(
            hex(&[KeyOrder::Integer], &[Cell::Text(b"9223372036854775808")]),
            "ffffffffffffffff0000000000000001"
        );
        assert_eq!(
            hex(
                &[KeyOrder::Bytes, KeyOrder::Bytes],
                &[Cell::Text(b"a\0b"), Cell::Blob(b"")]
            ),
            "6100ff6200000000"
        );
        let classes = [
            Cell::Integer(1),
            Cell::Real(-1.5),
            Cell::Text(b"t"),
            Cell::Blob(b"b"),
        ];
        assert_eq!(
            hex(&[KeyOrder::Class; 4], &classes),
            "018000000000000001024007ffffffffffff0374000004620000"
        );
    }

    #[test]
    fn zerofilled_numbers_are_the_number() {
        let key = |text: &str| encoded(&[KeyOrder::Integer], &[Cell::Text(text.as_bytes())]);
        assert_eq!(key("00042").unwrap(), key("42").unwrap());
    }
}
