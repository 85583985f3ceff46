//! Values as people and programs read them: JSON and CSV, cell by cell.
//!
//! A value is the server's text as a string, null, or base64 where it is bytes or no UTF-8; CSV
//! has bytes as `\x` and hex digits, and NULL as nothing, where an empty text is `""`. Cells that
//! were cut out are streamed. Invariant: a large cell is compared with its digest while it is
//! written, and its memory is that of one chunk.

use std::collections::HashMap;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::crypto::key;
use crate::failure::{Class, Failure};
use crate::format::run::LargeCell;
use crate::id::{Digest, hex};
use crate::repo::reader::{self, Reader};
use crate::row::cell::{self, Cell, Cells, Large, LargeClass};
use crate::row::filter::{Conditions, Verdict, whole};

/// Why rows could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A chunk of a large cell.
    #[error(transparent)]
    Reader(#[from] reader::Error),
    /// Bytes that are no row.
    #[error(transparent)]
    Row(#[from] cell::Error),
    /// The place that they were written to.
    #[error("the output could not be written")]
    Output(#[from] io::Error),
    /// A large cell is not what its row says.
    #[error("a large cell of {length} bytes {what}")]
    Large {
        /// Its length.
        length: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Reader(error) => error.class(),
            Error::Row(error) => error.class(),
            Error::Output(_) => Class::Transient,
            Error::Large { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Reader(error) => error.hint(),
            Error::Output(_) => Some("see that there is room and a right to write".into()),
            Error::Row(_) | Error::Large { .. } => {
                Some("run 'rowvault verify' to see which snapshots are hurt".into())
            }
        }
    }
}

/// How rows are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An object for each row, with the columns' names.
    Json,
    /// Fields with commas between them.
    Csv,
}

/// What becomes of cells that were cut out of their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeCells {
    /// They are fetched and written whole.
    Whole,
    /// In JSON their length and digest stand for them; CSV has them whole.
    Named,
}

/// Writes rows of one table.
pub struct RowWriter<'a> {
    reader: &'a Reader,
    form: Form,
    large: LargeCells,
    /// Position of each column that is written, and its name as the form quotes it.
    columns: Vec<(usize, Vec<u8>)>,
}

impl<'a> RowWriter<'a> {
    /// A writer of these columns, by position and name.
    pub fn new(
        reader: &'a Reader,
        form: Form,
        columns: impl Iterator<Item = (usize, &'a str)>,
    ) -> RowWriter<'a> {
        let quoted = |name: &str| {
            let mut out = Vec::new();
            match form {
                Form::Json => push_json_text(name, &mut out),
                Form::Csv => push_csv_text(name.as_bytes(), &mut out),
            }
            out
        };
        RowWriter {
            reader,
            form,
            large: LargeCells::Whole,
            columns: columns.map(|(at, name)| (at, quoted(name))).collect(),
        }
    }

    /// The same writer with another way for large cells.
    pub fn with_large_cells(self, large: LargeCells) -> RowWriter<'a> {
        RowWriter { large, ..self }
    }

    /// Writes the names of the columns, which CSV has in its first line.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn header(&self, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        if self.form == Form::Csv {
            let names: Vec<&[u8]> = self.columns.iter().map(|(_, name)| &name[..]).collect();
            out.write_all(&names.join(&b','))?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Writes one row, without the end of its line. `cells` says where its large cells lie.
    ///
    /// # Errors
    /// [`Error`]; what was written before it is then worth nothing.
    pub async fn row(
        &self,
        row: &[u8],
        cells: &HashMap<Digest, LargeCell>,
        out: &mut (dyn Write + Send),
    ) -> Result<(), Error> {
        let values: Vec<Cell<'_>> = Cells::new(row).collect::<Result<_, _>>()?;
        let mut buffer = Vec::with_capacity(row.len() * 2);
        if self.form == Form::Json {
            buffer.push(b'{');
        }
        for (at, (position, name)) in self.columns.iter().enumerate() {
            let value = values.get(*position).ok_or(cell::Error::Count {
                found: values.len(),
                columns: position + 1,
            })?;
            if at > 0 {
                buffer.push(b',');
            }
            if self.form == Form::Json {
                buffer.extend_from_slice(name);
                buffer.push(b':');
            }
            if let Some(large) = self.push(value, &mut buffer) {
                out.write_all(&buffer)?;
                buffer.clear();
                self.stream(large, cells, out).await?;
            }
        }
        if self.form == Form::Json {
            buffer.push(b'}');
        }
        out.write_all(&buffer)?;
        Ok(())
    }

    /// Appends a value; a large one is given back, to be streamed.
    fn push(&self, value: &Cell<'_>, out: &mut Vec<u8>) -> Option<Large> {
        match (self.form, value) {
            (Form::Json, Cell::Large(large)) if self.large == LargeCells::Named => {
                let (bytes, digest) = (large.length, hex(&large.digest.0));
                let named = format!("{{\"bytes\":{bytes},\"digest\":\"{digest}\"}}");
                out.extend_from_slice(named.as_bytes());
            }
            (_, Cell::Large(large)) => return Some(*large),
            (Form::Json, value) => push_json(value, out),
            (Form::Csv, value) => push_csv(value, out),
        }
        None
    }

    async fn stream(
        &self,
        large: Large,
        cells: &HashMap<Digest, LargeCell>,
        out: &mut (dyn Write + Send),
    ) -> Result<(), Error> {
        let mut pieces = Pieces::new(self.reader, large, cells)?;
        match (self.form, large.class) {
            (Form::Csv, LargeClass::Blob) => {
                out.write_all(b"\\x")?;
                while let Some(piece) = pieces.next().await? {
                    out.write_all(hex(&piece).as_bytes())?;
                }
            }
            (Form::Csv, LargeClass::Text) => {
                out.write_all(b"\"")?;
                while let Some(piece) = pieces.next().await? {
                    out.write_all(&doubled_quotes(&piece))?;
                }
                out.write_all(b"\"")?;
            }
            (Form::Json, LargeClass::Text) if self.is_text(large, cells).await? => {
                out.write_all(b"\"")?;
                let mut rest = Vec::new();
                while let Some(piece) = pieces.next().await? {
                    rest.extend_from_slice(&piece);
                    let whole = whole_characters(&rest).unwrap_or(rest.len());
                    let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
                    let mut quoted = Vec::new();
                    push_json_text(&text, &mut quoted);
                    out.write_all(&quoted[1..quoted.len() - 1])?;
                    rest.drain(..whole);
                }
                out.write_all(b"\"")?;
            }
            (Form::Json, _) => {
                out.write_all(b"{\"base64\":\"")?;
                let mut rest = Vec::new();
                while let Some(piece) = pieces.next().await? {
                    rest.extend_from_slice(&piece);
                    let whole = rest.len() / 3 * 3;
                    out.write_all(STANDARD.encode(&rest[..whole]).as_bytes())?;
                    rest.drain(..whole);
                }
                out.write_all(STANDARD.encode(&rest).as_bytes())?;
                out.write_all(b"\"}")?;
            }
        }
        Ok(())
    }

    /// Whether a large cell is UTF-8, which only a first reading tells.
    async fn is_text(
        &self,
        large: Large,
        cells: &HashMap<Digest, LargeCell>,
    ) -> Result<bool, Error> {
        let mut pieces = Pieces::new(self.reader, large, cells)?;
        let mut rest = Vec::new();
        while let Some(piece) = pieces.next().await? {
            rest.extend_from_slice(&piece);
            match whole_characters(&rest) {
                Some(whole) => drop(rest.drain(..whole)),
                None => return Ok(false),
            }
        }
        Ok(rest.is_empty())
    }
}

/// Length of the whole characters that `bytes` starts with, where at most the last one is cut off;
/// none where the bytes are no UTF-8.
fn whole_characters(bytes: &[u8]) -> Option<usize> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Some(bytes.len()),
        Err(error) if error.error_len().is_none() => Some(error.valid_up_to()),
        Err(_) => None,
    }
}

/// A large cell's bytes, all of them, compared with its digest.
///
/// # Errors
/// [`Error::Reader`], [`Error::Large`].
pub async fn fetch_large(
    reader: &Reader,
    large: Large,
    cells: &HashMap<Digest, LargeCell>,
) -> Result<Vec<u8>, Error> {
    let mut pieces = Pieces::new(reader, large, cells)?;
    let mut out = Vec::new();
    while let Some(piece) = pieces.next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Whether all of `conditions` hold for a row of `count` cells; large cells that they depend on are
/// fetched, by what is `known` of where they lie.
///
/// # Errors
/// [`Error::Reader`], [`Error::Large`], [`Error::Row`]: bytes that are no such row.
pub async fn fits(
    reader: &Reader,
    conditions: &Conditions,
    (row, count): (&[u8], usize),
    known: &HashMap<Digest, LargeCell>,
) -> Result<bool, Error> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let own = cell::cells(row, count)?;
    match conditions.judge(|column| own[column]) {
        Verdict::Yes => return Ok(true),
        Verdict::No => return Ok(false),
        Verdict::Open => {}
    }
    let mut fetched = HashMap::new();
    for column in conditions.columns() {
        if let Cell::Large(large) = own[column] {
            let bytes = fetch_large(reader, large, known).await?;
            fetched.insert(column, (large.class, bytes));
        }
    }
    let cell = |column: usize| match fetched.get(&column) {
        Some((class, bytes)) => whole(*class, bytes),
        None => own[column],
    };
    Ok(conditions.judge(cell) == Verdict::Yes)
}

/// A large cell, chunk by chunk, compared with its digest at the end.
struct Pieces<'a> {
    reader: &'a Reader,
    large: Large,
    chunks: std::vec::IntoIter<crate::id::ChunkId>,
    hasher: blake3::Hasher,
    length: u64,
}

impl<'a> Pieces<'a> {
    fn new(
        reader: &'a Reader,
        large: Large,
        cells: &HashMap<Digest, LargeCell>,
    ) -> Result<Pieces<'a>, Error> {
        let cell = cells.get(&large.digest).ok_or(Error::Large {
            length: large.length,
            what: "is named by no chunk of its run",
        })?;
        Ok(Pieces {
            reader,
            large,
            chunks: cell.chunks.clone().into_iter(),
            hasher: reader.vault().access.shared.cell_hasher(),
            length: 0,
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(name) = self.chunks.next() else {
            let whole =
                self.length == self.large.length && key::digest(&self.hasher) == self.large.digest;
            return match whole {
                true => Ok(None),
                false => Err(Error::Large {
                    length: self.large.length,
                    what: "does not have the bytes that its row says",
                }),
            };
        };
        let bytes = self.reader.chunk(&name).await?;
        self.hasher.update(&bytes);
        self.length += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

/// A SQLite REAL as text that reads back as the same number.
fn real(value: f64) -> String {
    match value {
        _ if value == f64::INFINITY => "Inf".into(),
        _ if value == f64::NEG_INFINITY => "-Inf".into(),
        _ => format!("{value:?}"),
    }
}

fn push_json(value: &Cell<'_>, out: &mut Vec<u8>) {
    match value {
        Cell::Null | Cell::Large(_) => out.extend_from_slice(b"null"),
        Cell::Integer(value) => push_json_text(&value.to_string(), out),
        Cell::Real(value) => push_json_text(&real(*value), out),
        Cell::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => push_json_text(text, out),
            Err(_) => push_base64(bytes, out),
        },
        Cell::Blob(bytes) => push_base64(bytes, out),
    }
}

fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"base64\":\"");
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.extend_from_slice(b"\"}");
}

fn push_json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a vector takes every byte, and text is JSON");
}

fn push_csv(value: &Cell<'_>, out: &mut Vec<u8>) {
    match value {
        Cell::Null | Cell::Large(_) => {}
        Cell::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Cell::Real(value) => out.extend_from_slice(real(*value).as_bytes()),
        Cell::Text(bytes) => push_csv_text(bytes, out),
        Cell::Blob(bytes) => {
            out.extend_from_slice(b"\\x");
            out.extend_from_slice(hex(bytes).as_bytes());
        }
    }
}

/// Quotes where anything in the text asks for it, and the empty text, which NULL is not.
fn push_csv_text(bytes: &[u8], out: &mut Vec<u8>) {
    let plain = !bytes.is_empty()
        && !bytes.iter().any(|byte| b",\"\r\n".contains(byte))
        && !bytes.starts_with(b" ")
        && !bytes.ends_with(b" ");
    if plain {
        return out.extend_from_slice(bytes);
    }
    out.push(b'"');
    out.extend_from_slice(&doubled_quotes(bytes));
    out.push(b'"');
}

fn doubled_quotes(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        if byte == b'"' {
            out.push(byte);
        }
        out.push(byte);
    }
    out
}

/// The text of a value, as JSON has it; none for NULL, for bytes that are no text, and for a cell
/// that was cut out.
pub fn plain_text(value: &Cell<'_>) -> Option<String> {
    match value {
        Cell::Integer(value) => Some(value.to_string()),
        Cell::Real(value) => Some(real(*value)),
        Cell::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        Cell::Null | Cell::Blob(_) | Cell::Large(_) => None,
    }
}

/// A value on one line of at most `width` characters, for tables on a terminal.
pub fn preview(value: &Cell<'_>, width: usize) -> String {
    let text = match value {
        Cell::Null => return "NULL".into(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) => real(*value),
        Cell::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Cell::Blob(bytes) => return format!("({} bytes)", bytes.len()),
        Cell::Large(large) => return format!("({} bytes)", large.length),
    };
    let mut out = String::new();
    for (count, letter) in text.chars().enumerate() {
        if count + 1 >= width && count + 1 < text.chars().count() {
            out.push('…');
            break;
        }
        out.push(if letter.is_control() { ' ' } else { letter });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Cell<'_>) -> String {
        let mut out = Vec::new();
        push_json(&value, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn csv(value: Cell<'_>) -> String {
        let mut out = Vec::new();
        push_csv(&value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_values_are_text_null_or_base64() {
        for (value, expected) in [
            (Cell::Null, "null"),
            (Cell::Integer(i64::MIN), "\"-9223372036854775808\""),
            (Cell::Real(1.0), "\"1.0\""),
            (Cell::Real(f64::NEG_INFINITY), "\"-Inf\""),
            (Cell::Text(b"a\"\n\xd8\xb3"), "\"a\\\"\\nس\""),
            (Cell::Text(&[0xff, 0]), "{\"base64\":\"/wA=\"}"),
            (Cell::Blob(b"abc"), "{\"base64\":\"YWJj\"}"),
        ] {
            assert_eq!(json(value), expected);
        }
    }

    #[test]
    fn csv_tells_null_from_empty_text_and_quotes_what_needs_it() {
        for (value, expected) in [
            (Cell::Null, ""),
            (Cell::Text(b""), "\"\""),
            (Cell::Text(b"plain"), "plain"),
            (Cell::Text(b"a,b"), "\"a,b\""),
            (Cell::Text(b"say \"hi\"\n"), "\"say \"\"hi\"\"\n\""),
            (Cell::Blob(&[0, 255]), "\\x00ff"),
        ] {
            assert_eq!(csv(value), expected);
        }
    }

    #[test]
    fn preview_is_one_short_line() {
        assert_eq!(preview(&Cell::Text(b"a\nb"), 10), "a b");
        assert_eq!(
            preview(&Cell::Text("łąka łąka łąka".as_bytes()), 6),
            "łąka …"
        );
        assert_eq!(preview(&Cell::Text(b"exact"), 5), "exact");
        assert_eq!(preview(&Cell::Null, 3), "NULL");
    }

    #[test]
    fn characters_cut_at_an_end_of_a_piece_wait_for_the_next() {
        assert_eq!(whole_characters("ł".as_bytes()), Some(2));
        assert_eq!(whole_characters(&"ł".as_bytes()[..1]), Some(0));
        assert_eq!(whole_characters(&[b'a', 0xff]), None);
    }
}
