//! One column of a chunk: which codec, and the cells back.
//!
//! A column is its codec, the length of its content, and the content, so that a reader can pass
//! over it. The content of every codec but the constant one starts with presence: 0 where no
//! cell is NULL, else 1 and a bit for each row, lowest first, set where there is a value; the
//! codec then sees the values alone. The choice depends on the cells only.

use super::bytes::{CellRef, NULL, Reader, Sink, TEXT, TakesCells, push_cell};
use super::error::Error;
use super::{dictionary, digits, number, plain, time};
use crate::row::cell::{Cells, push_varint};

pub(super) const PLAIN: u8 = 0;
pub(super) const CONSTANT: u8 = 1;
pub(super) const NUMBER: u8 = 2;
pub(super) const UUID: u8 = 3;
pub(super) const TIME: u8 = 4;
pub(super) const HEX: u8 = 5;
pub(super) const DICTIONARY: u8 = 6;

/// Writes columns; its buffers are used again.
#[derive(Default)]
pub(super) struct ColumnEncoder {
    present: Vec<CellRef>,
    content: Vec<u8>,
    values: Vec<i64>,
    typed: Vec<u8>,
    finder: dictionary::Finder,
}

impl ColumnEncoder {
    /// Appends the column whose `cells`, one at least, lie in `bytes`.
    pub(super) fn encode(&mut self, bytes: &[u8], cells: &[CellRef], out: &mut Vec<u8>) {
        let mut content = std::mem::take(&mut self.content);
        content.clear();
        let codec = self.encode_content(bytes, cells, &mut content);
        out.push(codec);
        push_varint(out, content.len() as u64);
        out.extend_from_slice(&content);
        self.content = content;
    }

    fn encode_content(&mut self, bytes: &[u8], cells: &[CellRef], out: &mut Vec<u8>) -> u8 {
        let first = cells[0];
        let same =
            |cell: &CellRef| cell.tag == first.tag && cell.content(bytes) == first.content(bytes);
        if cells[1..].iter().all(same) {
            push_cell(out, first.tag, first.content(bytes));
            return CONSTANT;
        }
        if cells.iter().all(|cell| cell.tag != NULL) {
            out.push(0);
            return self.encode_values(bytes, cells, out);
        }
        out.push(1);
        for eight in cells.chunks(8) {
            let bit = |(at, cell): (usize, &CellRef)| u8::from(cell.tag != NULL) << at;
            out.push(eight.iter().enumerate().map(bit).sum());
        }
        let mut present = std::mem::take(&mut self.present);
        present.clear();
        present.extend(cells.iter().filter(|cell| cell.tag != NULL));
        let codec = self.encode_values(bytes, &present, out);
        self.present = present;
        codec
    }

    /// Appends `cells`, none of them NULL, by the codec that needs the fewest bytes.
    fn encode_values(&mut self, bytes: &[u8], cells: &[CellRef], out: &mut Vec<u8>) -> u8 {
        let mut typed = std::mem::take(&mut self.typed);
        typed.clear();
        let tag = common_tag(cells);
        let found = tag.and_then(|tag| self.encode_typed(bytes, cells, tag, &mut typed));
        let size = match found {
            Some(_) => typed.len(),
            None => plain::estimate(cells),
        };
        let small = size > cells.len() && self.finder.find(bytes, cells) && {
            let values = plain::estimate(&self.finder.values);
            cells.len() + values < size
        };
        let codec = if small {
            self.encode_dictionary(bytes, &mut typed, out);
            DICTIONARY
        } else if let Some(codec) = found {
            out.extend_from_slice(&typed);
            codec
        } else {
            plain::encode(bytes, cells, tag, out);
            PLAIN
        };
        self.typed = typed;
        codec
    }

    fn encode_dictionary(&mut self, bytes: &[u8], typed: &mut Vec<u8>, out: &mut Vec<u8>) {
        let values = std::mem::take(&mut self.finder.values);
        out.push(values.len() as u8);
        out.extend_from_slice(&self.finder.indexes);
        typed.clear();
        let tag = common_tag(&values);
        match tag.and_then(|tag| self.encode_typed(bytes, &values, tag, typed)) {
            Some(codec) => {
                out.push(codec);
                out.extend_from_slice(typed);
            }
            None => {
                out.push(PLAIN);
                plain::encode(bytes, &values, tag, out);
            }
        }
        self.finder.values = values;
    }

    /// Appends `cells`, all of class `tag`, by the codec of the type that they look like.
    fn encode_typed(
        &mut self,
        bytes: &[u8],
        cells: &[CellRef],
        tag: u8,
        out: &mut Vec<u8>,
    ) -> Option<u8> {
        if number::encode(bytes, cells, tag, &mut self.values, out) {
            return Some(NUMBER);
        }
        if tag != TEXT {
            return None;
        }
        if digits::encode_uuid(bytes, cells, out) {
            Some(UUID)
        } else if time::encode(bytes, cells, &mut self.values, out) {
            Some(TIME)
        } else if digits::encode_hex(bytes, cells, out) {
            Some(HEX)
        } else {
            None
        }
    }
}

fn common_tag(cells: &[CellRef]) -> Option<u8> {
    let tag = cells.first()?.tag;
    cells.iter().all(|cell| cell.tag == tag).then_some(tag)
}

/// What whole columns are given to. After `begin` come the cells that are not NULL.
pub(super) trait TakesColumn: TakesCells {
    /// Takes a column of `rows` rows whose cells are all `cell`, in canonical bytes.
    fn constant(&mut self, cell: &[u8], rows: usize) -> Result<(), Error>;

    /// Begins a column of `rows` rows, with a bit for each in `presence` where some are NULL; its
    /// cells may have `bytes_max` bytes, NULLs apart.
    fn begin(&mut self, presence: Option<&[u8]>, rows: usize, bytes_max: usize);

    /// Ends the column.
    fn end(&mut self) -> Result<(), Error>;
}

/// A column that was read.
#[derive(Default)]
pub(super) struct Column {
    /// One cell, where all are the same; else one for each row, empty for NULL.
    sink: Sink,
    constant: bool,
    nulls: usize,
    rows: usize,
    presence: Vec<u8>,
    ends: Vec<usize>,
}

impl Column {
    /// The canonical bytes of the cell in `row`.
    pub(super) fn cell(&self, row: usize) -> &[u8] {
        let cell = self.sink.cell(if self.constant { 0 } else { row });
        if cell.is_empty() { &[NULL] } else { cell }
    }

    /// Copies the cell in `row` to the beginning of `out`, and gives its length; what lies behind
    /// it in `out` may be written too.
    pub(super) fn copy_cell(&self, row: usize, out: &mut [u8]) -> usize {
        let length = self.sink.copy(if self.constant { 0 } else { row }, out);
        if length == 0 {
            out[0] = NULL;
            return 1;
        }
        length
    }

    /// Canonical bytes of the cells of all `rows` rows.
    pub(super) fn raw_bytes(&self, rows: usize) -> usize {
        if self.constant {
            self.sink.bytes_len() * rows
        } else {
            self.sink.bytes_len() + self.nulls
        }
    }
}

impl TakesCells for Column {
    fn push_canonical(&mut self, cell: &[u8]) -> Result<(), Error> {
        self.sink.push_canonical(cell)
    }

    fn push(&mut self, tag: u8, content: &[u8]) -> Result<(), Error> {
        self.sink.push(tag, content)
    }

    fn push_text_with(
        &mut self,
        length: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Error> {
        self.sink.push_text_with(length, write)
    }

    fn bytes_left(&self) -> usize {
        self.sink.bytes_left()
    }
}

impl TakesColumn for Column {
    fn constant(&mut self, cell: &[u8], rows: usize) -> Result<(), Error> {
        self.begin(None, rows, cell.len());
        self.constant = true;
        self.sink.push_canonical(cell)
    }

    fn begin(&mut self, presence: Option<&[u8]>, rows: usize, bytes_max: usize) {
        self.sink.reset(bytes_max);
        self.constant = false;
        self.rows = rows;
        self.presence.clear();
        self.presence
            .extend_from_slice(presence.unwrap_or_default());
        self.nulls = presence.map_or(0, |bits| rows - values(bits));
    }

    fn end(&mut self) -> Result<(), Error> {
        if !self.presence.is_empty() {
            self.sink.spread(&self.presence, self.rows, &mut self.ends);
        }
        Ok(())
    }
}

/// How many rows have a value.
fn values(presence: &[u8]) -> usize {
    let ones = presence.iter().map(|byte| byte.count_ones() as usize);
    ones.sum()
}

/// Reads columns; its buffers are used again.
#[derive(Default)]
pub(super) struct ColumnDecoder {
    values: Vec<i64>,
    lengths: Vec<usize>,
    dictionary: Sink,
}

impl ColumnDecoder {
    /// Reads the next column of `rows` rows (one at least), whose cells may have `bytes_max`
    /// bytes, into `column`. `position` is for errors.
    pub(super) fn decode(
        &mut self,
        input: &mut Reader<'_>,
        position: usize,
        rows: usize,
        bytes_max: usize,
        column: &mut impl TakesColumn,
    ) -> Result<(), Error> {
        let (codec, content) = take_column(input)?;
        if codec == CONSTANT {
            let damaged = Error::Damaged { what: "constant" };
            let mut cells = Cells::new(content);
            let one = matches!(cells.next(), Some(Ok(_))) && cells.rest().is_empty();
            let all = content.len().checked_mul(rows);
            if !one || all.is_none_or(|all| all > bytes_max) {
                return Err(damaged);
            }
            return column.constant(content, rows);
        }
        let mut content = Reader::new(content, name(codec));
        let presence = match content.byte()? {
            0 => None,
            1 => Some(content.take(rows.div_ceil(8))?),
            _ => return Err(content.damaged()),
        };
        let count = presence.map_or(rows, values);
        let beyond = presence
            .is_some_and(|bits| !rows.is_multiple_of(8) && bits[rows / 8] >> (rows % 8) != 0);
        if count == 0 || beyond || rows - count > bytes_max {
            return Err(content.damaged());
        }
        column.begin(presence, rows, bytes_max - (rows - count));
        match codec {
            DICTIONARY => self.decode_dictionary(&mut content, position, count, column)?,
            _ => self.decode_values(&mut content, codec, position, count, column)?,
        }
        content.finish()?;
        column.end()
    }

    fn decode_values(
        &mut self,
        input: &mut Reader<'_>,
        codec: u8,
        position: usize,
        count: usize,
        sink: &mut impl TakesCells,
    ) -> Result<(), Error> {
        match codec {
            PLAIN => plain::decode(input, count, &mut self.lengths, sink),
            NUMBER => number::decode(input, count, &mut self.values, sink),
            UUID => digits::decode_uuid(input, count, sink),
            TIME => time::decode(input, count, &mut self.values, sink),
            HEX => digits::decode_hex(input, count, &mut self.lengths, sink),
            _ => Err(Error::Codec {
                column: position,
                codec,
            }),
        }
    }

    fn decode_dictionary(
        &mut self,
        input: &mut Reader<'_>,
        position: usize,
        count: usize,
        sink: &mut impl TakesCells,
    ) -> Result<(), Error> {
        let values = usize::from(input.byte()?);
        let indexes = input.take(count)?;
        let codec = input.byte()?;
        if values == 0 || codec == DICTIONARY || codec == CONSTANT {
            return Err(input.damaged());
        }
        let mut dictionary = std::mem::take(&mut self.dictionary);
        dictionary.reset(sink.bytes_left());
        let read = self.decode_values(input, codec, position, values, &mut dictionary);
        let result = read.and_then(|()| {
            for &index in indexes {
                let index = usize::from(index);
                if index >= dictionary.len() {
                    return Err(input.damaged());
                }
                sink.push_canonical(dictionary.cell(index))?;
            }
            Ok(())
        });
        self.dictionary = dictionary;
        result
    }
}

/// The codec and the content of the next column.
pub(super) fn take_column<'a>(input: &mut Reader<'a>) -> Result<(u8, &'a [u8]), Error> {
    let codec = input.byte()?;
    let length = input.length()?;
    Ok((codec, input.take(length)?))
}

fn name(codec: u8) -> &'static str {
    match codec {
        PLAIN => "plain column",
        NUMBER => "number column",
        UUID => "UUID column",
        TIME => "time column",
        HEX => "hex column",
        DICTIONARY => "dictionary column",
        _ => "column",
    }
}
