//! Chunks of a run: rows and deleted keys ⇄ columnar bytes.
//!
//! Rows are turned into columns, and each column is written by the codec that needs the fewest
//! bytes and gives back the very cells. The bytes depend on the rows alone; a chunk's *name*
//! depends on its content only (see [`feed_content`]), so that codecs may get better later.
//! Bytes: docs/format.md, "Chunks of rows":
//!
//! > version (1) · columns · rows · deleted keys · raw bytes (of rows and keys) · if there are
//! > rows, each column: codec, length, content · the lengths of the deleted keys · their bytes
//!
//! with numbers as LEB128, and nothing behind. Invariant: decoding trusts no length it reads.

mod against;
mod bytes;
mod column;
mod dictionary;
mod digits;
mod error;
mod number;
mod plain;
mod series;
mod time;

pub use error::Error;

use std::cell::RefCell;

use crate::row::cell::{self, RowBatch, push_varint};
use crate::row::key::KeyBatch;
use against::{Against, Scratch};
use bytes::{BLOB, CellRef, INTEGER, LARGE, LARGE_BYTES, NULL, REAL, Reader, TEXT};
use column::{Column, ColumnDecoder, ColumnEncoder, take_column};

const VERSION: u8 = 1;

/// What a caller is ready to hold. Memory stays within a small multiple of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Canonical bytes of all rows and deleted keys together.
    pub raw_bytes_max: usize,
    /// Rows and deleted keys together.
    pub rows_max: usize,
}

impl Default for Limits {
    /// For a chunk of which nothing is known: a row alone may have 1,000 cells of 1 MiB.
    fn default() -> Self {
        Limits {
            raw_bytes_max: 1 << 30,
            rows_max: 1 << 24,
        }
    }
}

/// What a chunk holds: rows and keys of deleted rows, each in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedChunk {
    /// The rows.
    pub rows: RowBatch,
    /// The canonical keys of deleted rows; empty in a base run.
    pub deleted: KeyBatch,
}

/// Feeds what a chunk's name is made of to a hasher: counts, rows, and deleted keys, in a form
/// that no other content has, whatever the codecs.
pub fn feed_content(
    columns: usize,
    rows: &RowBatch,
    deleted: &KeyBatch,
    hasher: &mut dyn FnMut(&[u8]),
) {
    let mut counts = Vec::with_capacity(24);
    for count in [columns, rows.len(), deleted.len()] {
        counts.extend_from_slice(&(count as u64).to_le_bytes());
    }
    hasher(&counts);
    hasher(rows.bytes());
    let mut lengths = Vec::with_capacity(deleted.len());
    for key in deleted.iter() {
        push_varint(&mut lengths, key.len() as u64);
    }
    hasher(&lengths);
    hasher(deleted.bytes());
}

/// Writes chunks; its buffers are used again.
#[derive(Default)]
pub struct Encoder {
    cells: Vec<CellRef>,
    column: ColumnEncoder,
}

impl Encoder {
    /// An encoder.
    pub fn new() -> Self {
        Encoder::default()
    }

    /// Writes the chunk of `rows`, of `columns` cells each, and `deleted` keys to `out`, whose
    /// old content goes.
    ///
    /// # Errors
    /// `Row`: a row is not `columns` canonical cells. `TooLarge`: 4 GiB of rows or more.
    pub fn encode(
        &mut self,
        columns: usize,
        rows: &RowBatch,
        deleted: &KeyBatch,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        out.clear();
        self.split(columns, rows)?;
        out.push(VERSION);
        let raw = rows.bytes().len() + deleted.bytes().len();
        for number in [columns, rows.len(), deleted.len(), raw] {
            push_varint(out, number as u64);
        }
        if !rows.is_empty() {
            for cells in self.cells.chunks_exact(rows.len()) {
                self.column.encode(rows.bytes(), cells, out);
            }
        }
        for key in deleted.iter() {
            push_varint(out, key.len() as u64);
        }
        out.extend_from_slice(deleted.bytes());
        Ok(())
    }

    /// Finds the cells of all rows, column after column.
    fn split(&mut self, columns: usize, rows: &RowBatch) -> Result<(), Error> {
        let bytes = rows.bytes();
        if u32::try_from(bytes.len()).is_err() {
            return Err(Error::TooLarge {
                what: "bytes",
                found: bytes.len() as u64,
                max: u64::from(u32::MAX),
            });
        }
        let none = CellRef {
            start: 0,
            length: 0,
            tag: NULL,
        };
        let count = rows.len();
        self.cells.clear();
        if rows.iter().map(<[u8]>::len).min().unwrap_or(0) < columns {
            let short = rows.iter().find(|row| row.len() < columns);
            return short.map_or(Ok(()), |row| {
                let found = cell::Cells::new(row).count();
                Err(Error::Row(cell::Error::Count { found, columns }))
            });
        }
        self.cells.resize(columns * count, none);
        let mut at = 0;
        for (index, row) in rows.iter().enumerate() {
            let end = at + row.len();
            for column in 0..columns {
                let cell = take_cell(&bytes[..end], &mut at, column)?;
                self.cells[column * count + index] = cell;
            }
            if at != end {
                let found = cell::Cells::new(row).count();
                return Err(Error::Row(cell::Error::Count { found, columns }));
            }
        }
        Ok(())
    }
}

/// The cell at `at`, which moves past it.
fn take_cell(bytes: &[u8], at: &mut usize, cell: usize) -> Result<CellRef, Error> {
    let short = Error::Row(cell::Error::Short { cell });
    let Some(&tag) = bytes.get(*at) else {
        return Err(short);
    };
    let mut start = *at + 1;
    let length = match tag {
        NULL => 0,
        TEXT | BLOB => {
            let mut rest = &bytes[start..];
            let before = rest.len();
            let length = match rest.first() {
                Some(&byte) if byte < 0x80 => {
                    rest = &rest[1..];
                    u64::from(byte)
                }
                _ => cell::take_varint(&mut rest)
                    .ok_or(Error::Row(cell::Error::Tag { cell, tag }))?,
            };
            start += before - rest.len();
            usize::try_from(length).map_err(|_| Error::Row(cell::Error::Short { cell }))?
        }
        INTEGER | REAL => 8,
        LARGE => LARGE_BYTES,
        _ => return Err(Error::Row(cell::Error::Tag { cell, tag })),
    };
    if bytes.len() - start < length {
        return Err(short);
    }
    if tag == LARGE && !matches!(bytes[start], 1 | 2) {
        let tag = bytes[start];
        return Err(Error::Row(cell::Error::Tag { cell, tag }));
    }
    *at = start + length;
    Ok(CellRef {
        start: start as u32,
        length: length as u32,
        tag,
    })
}

struct Header {
    rows: usize,
    deleted: usize,
    raw: usize,
}

fn take_header(input: &mut Reader<'_>, columns: usize, limits: Limits) -> Result<Header, Error> {
    let version = input.byte()?;
    if version != VERSION {
        return Err(Error::Version { version });
    }
    let found = input.varint()?;
    if found != columns as u64 {
        return Err(Error::Columns { found, columns });
    }
    let (rows, deleted, raw) = (input.varint()?, input.varint()?, input.varint()?);
    let check = |what, found: u64, max: usize| {
        let max = max as u64;
        let too_large = Error::TooLarge { what, found, max };
        if found > max { Err(too_large) } else { Ok(()) }
    };
    check("rows", rows.saturating_add(deleted), limits.rows_max)?;
    check("bytes", raw, limits.raw_bytes_max)?;
    // Every row of a table with columns has a byte, and so has every key.
    let least = deleted + if columns == 0 { 0 } else { rows };
    if least > raw {
        return Err(input.damaged());
    }
    Ok(Header {
        rows: rows as usize,
        deleted: deleted as usize,
        raw: raw as usize,
    })
}

/// Reads chunks; its buffers are used again.
#[derive(Default)]
pub struct Decoder {
    columns: Vec<Column>,
    column: ColumnDecoder,
    deleted: KeyBatch,
    scratch: Scratch,
}

impl Decoder {
    /// A decoder.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Reads the chunk `bytes` of a table of `columns` columns into `chunk`, whose old content
    /// goes.
    ///
    /// # Errors
    /// Corrupt: not a chunk of that table, or of a newer version, or larger than `limits`.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        columns: usize,
        limits: Limits,
        chunk: &mut DecodedChunk,
    ) -> Result<(), Error> {
        chunk.rows.clear();
        let mut input = Reader::new(bytes, "layout");
        let header = self.read(&mut input, columns, limits, &mut chunk.deleted)?;
        input.finish()?;
        self.interleave(&header, &mut chunk.rows);
        if chunk.rows.bytes().len() + chunk.deleted.bytes().len() != header.raw {
            return Err(Error::Damaged { what: "raw length" });
        }
        Ok(())
    }

    /// Whether the chunk `bytes` of a table of `columns` columns holds exactly `rows` and
    /// `deleted`: everything is decoded, and compared with them cell by cell.
    pub fn holds(
        &mut self,
        bytes: &[u8],
        columns: usize,
        rows: &RowBatch,
        deleted: &KeyBatch,
    ) -> bool {
        let mut input = Reader::new(bytes, "layout");
        self.compare(&mut input, columns, rows, deleted)
            .is_ok_and(|same| same && input.left() == 0)
    }

    fn compare(
        &mut self,
        input: &mut Reader<'_>,
        columns: usize,
        rows: &RowBatch,
        deleted: &KeyBatch,
    ) -> Result<bool, Error> {
        let header = take_header(input, columns, Limits::default())?;
        let raw = rows.bytes().len() + deleted.bytes().len();
        if header.rows != rows.len() || header.raw != raw {
            return Ok(false);
        }
        let mut against = Against::new(rows, &mut self.scratch);
        if header.rows > 0 {
            for position in 0..columns {
                self.column
                    .decode(input, position, header.rows, raw, &mut against)?;
            }
        }
        self.deleted.clear();
        take_keys(input, header.deleted, &mut self.deleted)?;
        Ok(against.whole() && self.deleted == *deleted)
    }

    /// Reads all columns, if there are rows, and the deleted keys.
    fn read(
        &mut self,
        input: &mut Reader<'_>,
        columns: usize,
        limits: Limits,
        deleted: &mut KeyBatch,
    ) -> Result<Header, Error> {
        deleted.clear();
        let header = take_header(input, columns, limits)?;
        if header.rows > 0 {
            self.columns.resize_with(columns, Column::default);
            let mut left = header.raw;
            for (position, column) in self.columns.iter_mut().enumerate() {
                self.column
                    .decode(input, position, header.rows, left, column)?;
                let damaged = Error::Damaged { what: "raw length" };
                left = left
                    .checked_sub(column.raw_bytes(header.rows))
                    .ok_or(damaged)?;
            }
        }
        take_keys(input, header.deleted, deleted)?;
        Ok(header)
    }

    /// Puts the cells of all columns together, row after row.
    fn interleave(&self, header: &Header, rows: &mut RowBatch) {
        if header.rows == 0 {
            return;
        }
        let columns = self.columns.iter();
        let bytes = columns.map(|column| column.raw_bytes(header.rows)).sum();
        rows.push_many(header.rows, bytes, |row, out| {
            let mut length = 0;
            for column in &self.columns {
                length += column.copy_cell(row, &mut out[length..]);
            }
            length
        });
    }
}

fn take_keys(input: &mut Reader<'_>, count: usize, keys: &mut KeyBatch) -> Result<(), Error> {
    if count > input.left() {
        return Err(input.damaged());
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push(input.length()?);
    }
    for length in lengths {
        keys.push(input.take(length)?);
    }
    Ok(())
}

/// Buffers that a larger chunk went through are not kept.
const DECODER_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::default();
}

/// Reads a chunk: [`Decoder::decode`] with the buffers of this thread.
///
/// # Errors
/// As [`Decoder::decode`].
pub fn decode(bytes: &[u8], columns: usize, limits: Limits) -> Result<DecodedChunk, Error> {
    let mut chunk = DecodedChunk::default();
    DECODER.with_borrow_mut(|decoder| {
        decoder.decode(bytes, columns, limits, &mut chunk)?;
        if chunk.rows.bytes().len() > DECODER_BYTES_MAX {
            *decoder = Decoder::default();
        }
        Ok(chunk)
    })
}

/// [`Decoder::holds`] with the buffers of this thread.
pub fn holds(bytes: &[u8], columns: usize, rows: &RowBatch, deleted: &KeyBatch) -> bool {
    DECODER.with_borrow_mut(|decoder| decoder.holds(bytes, columns, rows, deleted))
}

/// Reads the columns at the positions `wanted`, and passes over the others unread: a batch for
/// each, in the order of `wanted`, with one canonical cell for each row of the chunk.
///
/// # Errors
/// As [`Decoder::decode`], as far as what was read is concerned.
pub fn decode_columns(
    bytes: &[u8],
    columns: usize,
    wanted: &[usize],
    limits: Limits,
) -> Result<Vec<RowBatch>, Error> {
    if let Some(&column) = wanted.iter().find(|&&column| column >= columns) {
        return Err(Error::Wanted { column, columns });
    }
    let mut input = Reader::new(bytes, "layout");
    let header = take_header(&mut input, columns, limits)?;
    let mut batches = vec![RowBatch::default(); wanted.len()];
    if header.rows == 0 {
        return Ok(batches);
    }
    let (mut decoder, mut column) = (ColumnDecoder::default(), Column::default());
    for position in 0..columns {
        if !wanted.contains(&position) {
            take_column(&mut input)?;
            continue;
        }
        decoder.decode(&mut input, position, header.rows, header.raw, &mut column)?;
        let places = wanted.iter().zip(&mut batches);
        for (_, batch) in places.filter(|(column, _)| **column == position) {
            for row in 0..header.rows {
                batch.push(column.cell(row));
            }
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::row::cell::{Cell, Large, LargeClass};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Value {
        Null,
        Text(Vec<u8>),
        Blob(Vec<u8>),
        Integer(i64),
        Real(u64),
        Large(u64),
    }

    fn push(value: &Value, row: &mut Vec<u8>) {
        let cell = match value {
            Value::Null => Cell::Null,
            Value::Text(bytes) => Cell::Text(bytes),
            Value::Blob(bytes) => Cell::Blob(bytes),
            Value::Integer(value) => Cell::Integer(*value),
            Value::Real(bits) => Cell::Real(f64::from_bits(*bits)),
            Value::Large(length) => Cell::Large(Large {
                class: if length % 2 == 0 {
                    LargeClass::Text
                } else {
                    LargeClass::Blob
                },
                length: *length,
                digest: Digest([*length as u8; 16]),
            }),
        };
        cell.push(row);
    }

    fn batch(rows: &[Vec<Value>]) -> RowBatch {
        let mut batch = RowBatch::default();
        for row in rows {
            batch.push_with(|out| row.iter().for_each(|value| push(value, out)));
        }
        batch
    }

    fn encoded(columns: usize, rows: &RowBatch, deleted: &KeyBatch) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new()
            .encode(columns, rows, deleted, &mut out)
            .unwrap();
        out
    }

    fn texts(values: &[&str]) -> RowBatch {
        let rows: Vec<_> = values
            .iter()
            .map(|text| vec![Value::Text(text.as_bytes().to_vec())])
            .collect();
        batch(&rows)
    }

    /// The codec that a column of one text each is written with.
    fn codec_of(values: &[&str]) -> u8 {
        let rows = texts(values);
        let bytes = encoded(1, &rows, &KeyBatch::default());
        let chunk = decode(&bytes, 1, Limits::default()).unwrap();
        assert_eq!(chunk.rows, rows, "{values:?}");
        let mut input = Reader::new(&bytes, "test");
        take_header(&mut input, 1, Limits::default()).unwrap();
        take_column(&mut input).unwrap().0
    }

    /// Values of one look.
    fn look(index: usize) -> BoxedStrategy<Value> {
        let text = |regex: &str| {
            proptest::string::string_regex(regex)
                .unwrap()
                .prop_map(|text| Value::Text(text.into_bytes()))
                .boxed()
        };
        match index {
            0 => text("[a-z]{0,12}"),
            1 => text("-?[1-9][0-9]{0,18}"),
            2 => text(r"[0-9]{1,6}\.[0-9]{2}"),
            3 => text("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
            4 => text("[0-9]{4}-0[1-9]-[0-3][0-9]"),
            5 => text(r"20[0-9]{2}-0[1-9]-1[0-9] 1[0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?\+00"),
            6 => text("20[0-9]{2}-0[1-9]-1[0-9]T1[0-9]:[0-5][0-9]:[0-5][0-9]Z"),
            7 => text(r"\\x([0-9a-f]{2}){0,8}"),
            8 => text("([0-9a-f]{2}){4,8}"),
            9 => text("open|won|lost"),
            10 => any::<i64>().prop_map(Value::Integer).boxed(),
            11 => (0i64..1000).prop_map(Value::Integer).boxed(),
            12 => any::<u64>().prop_map(Value::Real).boxed(),
            13 => (-100_000i32..100_000)
                .prop_map(|cents| Value::Real((f64::from(cents) / 100.0).to_bits()))
                .boxed(),
            14 => prop::collection::vec(any::<u8>(), 0..200)
                .prop_map(Value::Text)
                .boxed(),
            15 => prop::collection::vec(any::<u8>(), 0..40)
                .prop_map(Value::Blob)
                .boxed(),
            16 => any::<u64>().prop_map(Value::Large).boxed(),
            17 => Just(Value::Null).boxed(),
            _ => prop::sample::select(ODD)
                .prop_map(|text| Value::Text(text.as_bytes().to_vec()))
                .boxed(),
        }
    }

    /// What nearly looks like something.
    const ODD: &[&str] = &[
        "0000-00-00",
        "0000-00-00 00:00:00",
        "2024-02-30",
        "-0",
        "007",
        "+5",
        "",
        r"\x",
        r"\xABCD",
        r"\xabc",
        "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
        "6ba7b810-9dad-11d1-80b4-00c04fd430cg",
        "12345678901234567890",
        "-9223372036854775808",
        "1.50",
        "-0.00",
        "abcdef012",
        "infinity",
        "2024-01-01 10:00:00.120",
    ];

    /// A column: one look, with NULLs or odd values among them or not.
    fn column(rows: usize) -> impl Strategy<Value = Vec<Value>> {
        (0..19usize, 0..4u8).prop_flat_map(move |(index, mixed)| {
            let value = match mixed {
                0 => look(index),
                1 => prop_oneof![3 => look(index), 1 => look(17)].boxed(),
                2 => prop_oneof![9 => look(index), 1 => look(18)].boxed(),
                _ => prop_oneof![6 => look(index), 2 => look(17), 1 => look(18), 1 => look(10)]
                    .boxed(),
            };
            prop::collection::vec(value, rows)
        })
    }

    fn table() -> impl Strategy<Value = (usize, Vec<Vec<Value>>)> {
        (0..5usize, 0..90usize).prop_flat_map(|(columns, rows)| {
            prop::collection::vec(column(rows), columns).prop_map(move |columns| {
                let row = |row: usize| columns.iter().map(|cells| cells[row].clone()).collect();
                (columns.len(), (0..rows).map(row).collect())
            })
        })
    }

    fn keys() -> impl Strategy<Value = KeyBatch> {
        let key = prop::collection::vec(any::<u8>(), 1..20);
        prop::collection::btree_set(key, 0..5).prop_map(|keys| {
            let mut batch = KeyBatch::default();
            keys.iter().for_each(|key| batch.push(key));
            batch
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn any_rows_come_back((columns, rows) in table(), deleted in keys()) {
            let rows = batch(&rows);
            let bytes = encoded(columns, &rows, &deleted);
            let chunk = decode(&bytes, columns, Limits::default()).unwrap();
            prop_assert_eq!(&chunk.rows, &rows);
            prop_assert_eq!(&chunk.deleted, &deleted);
            let mut decoder = Decoder::new();
            prop_assert!(decoder.holds(&bytes, columns, &rows, &deleted));
            if let Some(last) = rows.len().checked_sub(1) {
                let mut fewer = RowBatch::default();
                rows.iter().take(last).for_each(|row| fewer.push(row));
                prop_assert!(!decoder.holds(&bytes, columns, &fewer, &deleted));
            }
            let other = KeyBatch::default();
            prop_assert_eq!(decoder.holds(&bytes, columns, &rows, &other), deleted.is_empty());

            let wanted: Vec<usize> = (0..columns).rev().step_by(2).collect();
            let found = decode_columns(&bytes, columns, &wanted, Limits::default()).unwrap();
            for (batch, &column) in found.iter().zip(&wanted) {
                prop_assert_eq!(batch.len(), rows.len());
                for (cell, row) in batch.iter().zip(rows.iter()) {
                    let cells = cell::cells(row, columns).unwrap();
                    prop_assert_eq!(cell::cells(cell, 1).unwrap()[0], cells[column]);
                }
            }
            let exact = Limits {
                raw_bytes_max: rows.bytes().len() + deleted.bytes().len(),
                rows_max: rows.len() + deleted.len(),
            };
            prop_assert!(decode(&bytes, columns, exact).is_ok());
            if exact.raw_bytes_max > 0 {
                let less = Limits { raw_bytes_max: exact.raw_bytes_max - 1, ..exact };
                let refused = matches!(decode(&bytes, columns, less), Err(Error::TooLarge { .. }));
                prop_assert!(refused);
            }
        }

        #[test]
        fn altered_bytes_never_panic_and_stay_in_bounds(
            (columns, rows) in table(),
            deleted in keys(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let rows = batch(&rows);
            let good = encoded(columns, &rows, &deleted);
            let limits = Limits { raw_bytes_max: 1 << 16, rows_max: 1 << 12 };
            let end = cut.index(good.len());
            prop_assert!(decode(&good[..end], columns, limits).is_err());
            let mut longer = good.clone();
            longer.push(0);
            prop_assert!(decode(&longer, columns, limits).is_err());
            let mut bytes = good;
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let decoded = decode(&bytes, columns, Limits::default());
            let same = decoded.is_ok_and(|chunk| chunk.rows == rows && chunk.deleted == deleted);
            prop_assert_eq!(Decoder::new().holds(&bytes, columns, &rows, &deleted), same);
            if let Ok(chunk) = decode(&bytes, columns, limits) {
                prop_assert!(chunk.rows.bytes().len() + chunk.deleted.bytes().len() <= 1 << 16);
                for row in chunk.rows.iter() {
                    prop_assert!(cell::cells(row, columns).is_ok());
                }
            }
            let wanted: Vec<usize> = (0..columns).collect();
            let _ = decode_columns(&bytes, columns, &wanted, limits);
        }

        #[test]
        fn noise_is_refused_or_is_rows(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut chunk = vec![VERSION, 2, 3, 0, 40];
            chunk.extend_from_slice(&bytes);
            let _ = decode(&chunk, 2, Limits::default());
            let refused = decode(&bytes, 2, Limits::default()).is_err();
            prop_assert!(refused || bytes[0] == VERSION);
        }
    }

    #[test]
    fn each_look_gets_its_codec() {
        let repeat =
            |values: &[&'static str]| values.iter().copied().cycle().take(90).collect::<Vec<_>>();
        let many = |from: fn(usize) -> String| (0..90).map(from).collect::<Vec<_>>();
        let of =
            |values: &[String]| codec_of(&values.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(codec_of(&["same"; 5]), column::CONSTANT);
        assert_eq!(
            codec_of(&repeat(&["open", "won", "lost"])),
            column::DICTIONARY
        );
        assert_eq!(of(&many(|n| format!("{}", n * 977))), column::NUMBER);
        assert_eq!(of(&many(|n| format!("{n}.{:02}", n % 100))), column::NUMBER);
        assert_eq!(
            of(&many(|n| format!(
                "2024-01-{:02} 10:{:02}:00+00",
                n % 28 + 1,
                n % 60
            ))),
            column::TIME
        );
        assert_eq!(
            of(&many(|n| format!(
                "2024-01-01 10:00:00.{:03}",
                n * 7 % 1000
            ))),
            column::TIME
        );
        assert_eq!(
            of(&many(|n| format!(
                "{:08x}-0000-4000-8000-{:012x}",
                n * 7919,
                n
            ))),
            column::UUID
        );
        assert_eq!(of(&many(|n| format!(r"\x{:08x}ff", n * 7919))), column::HEX);
        assert_eq!(
            of(&many(|n| format!("{:06x}aa{:06x}", n * 7919, n))),
            column::HEX
        );
        assert_eq!(of(&many(|n| format!("name {}", n * 31))), column::PLAIN);
        assert_eq!(
            of(&many(|n| format!(
                "{:08X}-0000-4000-8000-{:012X}",
                n * 7919,
                n * 11
            ))),
            column::PLAIN
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        let rows = texts(&["a", "b"]);
        let good = encoded(1, &rows, &KeyBatch::default());
        let refusal =
            |bytes: &[u8], columns| decode(bytes, columns, Limits::default()).unwrap_err();
        assert_eq!(
            refusal(&good, 2),
            Error::Columns {
                found: 1,
                columns: 2
            }
        );
        let mut newer = good.clone();
        newer[0] = 9;
        assert_eq!(refusal(&newer, 1), Error::Version { version: 9 });
        let mut other = good.clone();
        other[5] = 77;
        assert_eq!(
            refusal(&other, 1),
            Error::Codec {
                column: 0,
                codec: 77
            }
        );
        let bomb = [
            VERSION, 1, 0xff, 0xff, 0xff, 0x7f, 0, 0xff, 0xff, 0xff, 0x7f,
        ];
        assert!(matches!(
            refusal(&bomb, 1),
            Error::TooLarge { what: "rows", .. }
        ));
        let wanted = decode_columns(&good, 1, &[1], Limits::default());
        assert_eq!(
            wanted.unwrap_err(),
            Error::Wanted {
                column: 1,
                columns: 1
            }
        );
    }

    #[test]
    fn rows_of_another_table_are_not_encoded() {
        let mut out = Vec::new();
        let rows = texts(&["a", "b"]);
        for columns in [0, 2, 3, 9] {
            let result = Encoder::new().encode(columns, &rows, &KeyBatch::default(), &mut out);
            assert!(matches!(result, Err(Error::Row(_))), "{columns} columns");
        }
        for row in [
            &[9][..],
            &[1, 0x80, 0, 0],
            &[3, 0],
            &[5, 3, 0],
            &[1, 5, 0],
            &[],
        ] {
            let mut rows = RowBatch::default();
            rows.push(row);
            let result = Encoder::new().encode(1, &rows, &KeyBatch::default(), &mut out);
            assert!(matches!(result, Err(Error::Row(_))), "{row:?}");
        }
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let rows = batch(&vec![Vec::new(); 1000]);
        let bytes = encoded(0, &rows, &KeyBatch::default());
        assert_eq!(
            decode(&bytes, 0, Limits::default()).unwrap().rows.len(),
            1000
        );
    }

    #[test]
    fn content_of_different_chunks_differs() {
        let content = |columns, rows: &RowBatch, deleted: &KeyBatch| {
            let mut bytes = Vec::new();
            feed_content(columns, rows, deleted, &mut |piece| {
                bytes.extend_from_slice(piece)
            });
            bytes
        };
        let (mut one, mut two) = (KeyBatch::default(), KeyBatch::default());
        one.push(b"ab");
        two.push(b"a");
        two.push(b"b");
        let rows = RowBatch::default();
        let all = [
            content(1, &rows, &one),
            content(1, &rows, &two),
            content(2, &rows, &one),
            content(0, &batch(&[vec![]]), &one),
            content(0, &batch(&[vec![], vec![]]), &one),
        ];
        for (at, bytes) in all.iter().enumerate() {
            assert!(!all[..at].contains(bytes));
        }
    }

    /// Rows that need every codec, and two deleted keys.
    fn golden() -> (usize, RowBatch, KeyBatch) {
        let text = |text: String| Value::Text(text.into_bytes());
        let row = |n: i64| {
            vec![
                text(format!("{}", n * 3 - 20)),
                text(format!("{:08x}-0000-4000-8000-{:012x}", n * 7919, n * n)),
                match n % 5 {
                    0 => Value::Null,
                    _ => text(format!("2026-11-{:02} 10:00:00.{:02}1+00", n % 30 + 1, n)),
                },
                text(format!("2024-02-{:02}", n % 29 + 1)),
                text(format!(r"\x{:04x}", n * 641)),
                text(["open", "won", "lost"][n as usize % 3].into()),
                text("Europe/Warsaw".into()),
                text(format!("name {n}, with a zażółć")),
                text(format!("{}.{:02}", n * 17, n)),
                match n % 6 {
                    0 => Value::Null,
                    1 => Value::Integer(n << 40),
                    2 => Value::Real((n as f64).sqrt().to_bits()),
                    3 => Value::Blob(vec![0, 0xff, n as u8]),
                    4 => Value::Large((2 << 20) + n as u64),
                    _ => Value::Text(vec![0xfe, n as u8]),
                },
                Value::Real((n as f64 / 4.0).to_bits()),
            ]
        };
        let rows: Vec<_> = (0..40).map(row).collect();
        let mut deleted = KeyBatch::default();
        deleted.push(&[0x80, 0, 0, 0, 0, 0, 0, 7]);
        deleted.push(&[0x80, 0, 0, 0, 0, 0, 1, 0]);
        (rows[0].len(), batch(&rows), deleted)
    }

    #[test]
    fn the_chunk_written_in_version_1_is_read_for_ever() {
        let stored = include_bytes!("../../tests/golden/v1/rows.chunk");
        let (columns, rows, deleted) = golden();
        let chunk = decode(stored, columns, Limits::default()).unwrap();
        assert_eq!(chunk, DecodedChunk { rows, deleted });
        let mut input = Reader::new(stored, "test");
        take_header(&mut input, columns, Limits::default()).unwrap();
        let codec = |_| take_column(&mut input).unwrap().0;
        let mut codecs: Vec<u8> = (0..columns).map(codec).collect();
        codecs.sort_unstable();
        codecs.dedup();
        assert_eq!(
            codecs,
            [0, 1, 2, 3, 4, 5, 6],
            "a codec is not in the stored chunk"
        );
    }

    #[test]
    fn every_byte_altered_in_a_chunk_is_refused_or_is_rows() {
        let stored = include_bytes!("../../tests/golden/v1/rows.chunk");
        let (columns, ..) = golden();
        let limits = Limits {
            raw_bytes_max: 1 << 16,
            rows_max: 1 << 10,
        };
        let mut refused = 0;
        for at in 0..stored.len() {
            assert!(
                decode(&stored[..at], columns, limits).is_err(),
                "cut at {at}"
            );
            for bit in 0..8 {
                let mut bytes = stored.to_vec();
                bytes[at] ^= 1 << bit;
                match decode(&bytes, columns, limits) {
                    Err(_) => refused += 1,
                    Ok(chunk) => {
                        let whole = |row: &[u8]| cell::cells(row, columns).is_ok();
                        assert!(chunk.rows.iter().all(whole), "byte {at}, bit {bit}");
                    }
                }
            }
        }
        println!(
            "{refused} of {} altered chunks are refused",
            stored.len() * 8
        );
    }
}
