//! Conditions on the columns of a row, as a person writes them: `stage=won`, `amount > 100`.
//!
//! Numbers are compared as numbers, exactly, where the column's type says so; all else as the
//! bytes of the server's text. NULL fits no condition but `is null`, as in SQL. Invariant: what is
//! said of a row depends on its cells alone, never on a server's collation.

pub mod decimal;

use std::cmp::Ordering;

use crate::failure::{Class, Failure};
use crate::id::{hex, unhex};
use crate::row::cell::{Cell, LargeClass};
use crate::row::key::nearest;
use crate::row::schema::{Column, Table, ValueKind};
use decimal::Decimal;

/// Why a condition cannot be meant.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There is no comparison in it.
    #[error("{text:?} is no condition")]
    Form {
        /// What was given.
        text: String,
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
    /// A value that the column's values cannot be compared with.
    #[error("{value:?} cannot be compared with column {column:?}, which holds {wanted}")]
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
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Form { .. } => {
                Some("write COL=VAL, COL!=VAL, COL<VAL, COL>VAL, COL~PART or 'COL is null'".into())
            }
            Error::Unknown { nearest, .. } if nearest.is_empty() => None,
            Error::Unknown { nearest, .. } => Some(format!("there is {}", nearest.join(", "))),
            Error::Value { .. } => Some("write it as the server prints it".into()),
        }
    }
}

/// How a cell is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
    IsNull,
    IsNotNull,
}

/// The signs, longer ones first.
const SIGNS: [(&str, Comparison); 8] = [
    ("!=", Comparison::NotEqual),
    ("<>", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("~", Comparison::Contains),
];

/// What a value means to the cells of its column.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    /// As text.
    text: Vec<u8>,
    /// As bytes that were written as `x'…'`.
    bytes: Option<Vec<u8>>,
    /// As a number, where it may be one.
    number: Option<Decimal>,
}

#[derive(Clone, Debug)]
struct Condition {
    column: usize,
    kind: ValueKind,
    /// Whether a number has one form, so that equal numbers are equal bytes.
    one_form: bool,
    comparison: Comparison,
    value: Value,
}

/// What is known of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A condition does not hold.
    No,
    /// All conditions hold.
    Yes,
    /// It depends on the content of a large cell.
    Open,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    all: Vec<Condition>,
}

impl Conditions {
    /// The conditions that `texts` are, on rows of `table`.
    ///
    /// # Errors
    /// [`Error`], with the nearest names where a column is unknown.
    pub fn parse(table: &Table, texts: &[String]) -> Result<Conditions, Error> {
        let all = texts.iter().map(|text| Condition::parse(table, text));
        Ok(Conditions {
            all: all.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is none, so that every row fits.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The columns that must be known, ascending.
    pub fn columns(&self) -> Vec<usize> {
        let mut columns: Vec<usize> = self.all.iter().map(|one| one.column).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// What is known of the row whose cell in a column `cell` gives.
    pub fn judge<'a>(&self, cell: impl Fn(usize) -> Cell<'a>) -> Verdict {
        let mut verdict = Verdict::Yes;
        for condition in &self.all {
            match condition.judge(&cell(condition.column)) {
                Verdict::No => return Verdict::No,
                Verdict::Open => verdict = Verdict::Open,
                Verdict::Yes => {}
            }
        }
        verdict
    }

    /// For conditions of equality: the column, and the canonical bytes of every cell that is equal
    /// to the value. Where that cannot be listed, the condition is left out.
    pub fn equalities(&self) -> Vec<(usize, Vec<Vec<u8>>)> {
        let equal = self
            .all
            .iter()
            .filter(|one| one.comparison == Comparison::Equal);
        equal
            .filter_map(|one| Some((one.column, one.forms()?)))
            .collect()
    }
}

/// Where the first sign stands that no `\` takes the meaning from.
fn find_sign(text: &str) -> Option<(usize, &'static str, Comparison)> {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        if !escaped {
            let rest = &text[at..];
            let found = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign));
            if let Some((sign, comparison)) = found {
                return Some((at, sign, *comparison));
            }
        }
        escaped = !escaped && character == '\\';
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let next = characters.next_if(|next| character == '\\' && "=!<>~\\".contains(*next));
        out.push(next.unwrap_or(character));
    }
    out
}

/// `text` without a last part that is `ending` in any case.
fn without_ending<'a>(text: &'a str, ending: &str) -> Option<&'a str> {
    let start = text.len().checked_sub(ending.len())?;
    let tail = text.get(start..)?;
    tail.eq_ignore_ascii_case(ending).then(|| &text[..start])
}

impl Condition {
    fn parse(table: &Table, text: &str) -> Result<Condition, Error> {
        let Some((at, sign, comparison)) = find_sign(text) else {
            let whole = text.trim_end();
            return match without_ending(whole, " is not null") {
                Some(column) => Condition::of(table, column, Comparison::IsNotNull, ""),
                None => match without_ending(whole, " is null") {
                    Some(column) => Condition::of(table, column, Comparison::IsNull, ""),
                    None => Err(Error::Form {
                        text: text.to_owned(),
                    }),
                },
            };
        };
        let (column, value) = (&text[..at], &text[at + sign.len()..]);
        // Who puts a space before the sign means none after it.
        let value = match column.ends_with(' ') {
            true => value.strip_prefix(' ').unwrap_or(value),
            false => value,
        };
        Condition::of(table, column, comparison, value)
    }

    fn of(
        table: &Table,
        column: &str,
        comparison: Comparison,
        value: &str,
    ) -> Result<Condition, Error> {
        let name = unescape(column.trim());
        let Some(position) = table.column(&name) else {
            return Err(Error::Unknown {
                table: table.name.to_string(),
                nearest: nearest(table, &name),
                column: name,
            });
        };
        let column = &table.columns[position];
        let null = matches!(comparison, Comparison::IsNull | Comparison::IsNotNull);
        let number = matches!(column.kind, ValueKind::Integer | ValueKind::Number);
        let value = Value::new(value);
        if number && !null && comparison != Comparison::Contains && value.number.is_none() {
            return Err(Error::Value {
                column: name,
                value: String::from_utf8_lossy(&value.text).into_owned(),
                wanted: "numbers",
            });
        }
        Ok(Condition {
            column: position,
            kind: column.kind,
            one_form: has_one_form(column),
            comparison,
            value,
        })
    }

    fn judge(&self, cell: &Cell<'_>) -> Verdict {
        let holds = match (self.comparison, cell) {
            (Comparison::IsNull, cell) => matches!(cell, Cell::Null),
            (Comparison::IsNotNull, cell) => !matches!(cell, Cell::Null),
            (_, Cell::Null) => false,
            // No value that a person writes is as long as a large cell.
            (Comparison::Equal, Cell::Large(_)) => false,
            (Comparison::NotEqual, Cell::Large(_)) => true,
            (_, Cell::Large(_)) => return Verdict::Open,
            (Comparison::Contains, cell) => self.contains(cell),
            (comparison, cell) => match (comparison, self.compare(cell)) {
                (Comparison::NotEqual, order) => order != Some(Ordering::Equal),
                (_, None) => false,
                (Comparison::Less, Some(order)) => order.is_lt(),
                (Comparison::LessOrEqual, Some(order)) => order.is_le(),
                (Comparison::Greater, Some(order)) => order.is_gt(),
                (Comparison::GreaterOrEqual, Some(order)) => order.is_ge(),
                (_, Some(order)) => order.is_eq(),
            },
        };
        if holds { Verdict::Yes } else { Verdict::No }
    }

    /// How the cell stands to the value; none where they cannot be compared.
    fn compare(&self, cell: &Cell<'_>) -> Option<Ordering> {
        let value = &self.value;
        match (self.kind, cell) {
            (_, Cell::Integer(number)) => {
                Some(Decimal::from(*number).compare(value.number.as_ref()?))
            }
            (_, Cell::Real(number)) => Some(Decimal::from(*number).compare(value.number.as_ref()?)),
            (ValueKind::Integer | ValueKind::Number, Cell::Text(text)) => {
                Some(Decimal::parse(text)?.compare(value.number.as_ref()?))
            }
            (_, Cell::Text(text)) => match &value.bytes {
                // PostgreSQL writes bytes as hex digits.
                Some(bytes) if text.starts_with(b"\\x") => {
                    Some((*text).cmp(format!("\\x{}", hex(bytes)).as_bytes()))
                }
                Some(bytes) => Some((*text).cmp(bytes)),
                None => Some((*text).cmp(&value.text)),
            },
            (_, Cell::Blob(bytes)) => {
                Some((*bytes).cmp(value.bytes.as_ref().unwrap_or(&value.text)))
            }
            (_, Cell::Null | Cell::Large(_)) => None,
        }
    }

    fn contains(&self, cell: &Cell<'_>) -> bool {
        let part = self.value.bytes.as_ref().unwrap_or(&self.value.text);
        let within = |whole: &[u8]| part.is_empty() || memchr::memmem::find(whole, part).is_some();
        match cell {
            Cell::Text(bytes) | Cell::Blob(bytes) => within(bytes),
            Cell::Integer(number) => within(number.to_string().as_bytes()),
            Cell::Real(number) => within(format!("{number:?}").as_bytes()),
            Cell::Null | Cell::Large(_) => false,
        }
    }

    /// Canonical bytes of all cells that are equal to the value; none where there are too many.
    fn forms(&self) -> Option<Vec<Vec<u8>>> {
        let value = &self.value;
        let bytes = |cell: Cell<'_>| {
            let mut bytes = Vec::new();
            cell.push(&mut bytes);
            bytes
        };
        match self.kind {
            ValueKind::Number => None,
            ValueKind::Integer => {
                let whole = value.number.as_ref()?.integer()?;
                let text = whole.to_string();
                self.one_form
                    .then(|| vec![bytes(Cell::Text(text.as_bytes()))])
            }
            ValueKind::Text if value.bytes.is_none() => Some(vec![
                bytes(Cell::Text(&value.text)),
                bytes(Cell::Blob(&value.text)),
            ]),
            ValueKind::Text | ValueKind::Bytes => {
                let raw = value.bytes.as_ref().unwrap_or(&value.text);
                let digits = format!("\\x{}", hex(raw));
                let texts = [raw, digits.as_bytes()].map(|text| bytes(Cell::Text(text)));
                Some(texts.into_iter().chain([bytes(Cell::Blob(raw))]).collect())
            }
            ValueKind::Any => {
                let raw = value.bytes.as_ref().unwrap_or(&value.text);
                let digits = format!("\\x{}", hex(raw));
                let mut all = vec![bytes(Cell::Text(raw)), bytes(Cell::Blob(raw))];
                all.push(bytes(Cell::Text(digits.as_bytes())));
                if let Some(number) = &value.number {
                    let real = number.real();
                    let whole = number.integer().and_then(|whole| i64::try_from(whole).ok());
                    all.extend(whole.map(|whole| bytes(Cell::Integer(whole))));
                    all.extend([real, -real].map(|real| bytes(Cell::Real(real))));
                }
                Some(all)
            }
        }
    }
}

/// Whether equal numbers of a column are written with equal bytes.
fn has_one_form(column: &Column) -> bool {
    !column.type_name.to_ascii_lowercase().contains("zerofill")
}

impl Value {
    /// `'…'` is text and nothing else, `x'…'` bytes; all else is text, and a number if it can be.
    fn new(text: &str) -> Value {
        let inside = text.strip_suffix('\'');
        let plain = |text: &str| Value {
            text: text.as_bytes().to_vec(),
            bytes: None,
            number: None,
        };
        if let Some(inside) = inside.and_then(|text| text.strip_prefix('\''))
            && text.len() > 1
        {
            return plain(&inside.replace("''", "'"));
        }
        let digits = inside.and_then(|text| text.strip_prefix("x'"));
        if let Some(bytes) = digits.and_then(unhex) {
            return Value {
                bytes: Some(bytes),
                ..plain(text)
            };
        }
        Value {
            number: Decimal::parse(text.trim().as_bytes()),
            ..plain(text)
        }
    }
}

/// A large cell whose bytes were fetched, as the cell that it stands for.
pub fn whole(class: LargeClass, bytes: &[u8]) -> Cell<'_> {
    match class {
        LargeClass::Text => Cell::Text(bytes),
        LargeClass::Blob => Cell::Blob(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::cell::Large;
    use crate::row::schema::TableName;
    use std::collections::BTreeMap;

    fn table() -> Table {
        let column = |(name, type_name, kind): (&str, &str, ValueKind)| Column {
            name: name.into(),
            type_name: type_name.into(),
            kind,
            nullable: true,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        };
        let columns = [
            ("id", "bigint", ValueKind::Integer),
            ("amount", "numeric", ValueKind::Number),
            ("stage", "text", ValueKind::Text),
            ("raw", "bytea", ValueKind::Bytes),
            ("any", "", ValueKind::Any),
            ("a=b", "text", ValueKind::Text),
            ("code", "int(5) unsigned zerofill", ValueKind::Integer),
        ];
        Table {
            name: TableName {
                schema: None,
                name: "deals".into(),
            },
            columns: columns.into_iter().map(column).collect(),
            generated: Vec::new(),
            key: None,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        }
    }

    fn judge(condition: &str, cell: Cell<'_>) -> Verdict {
        let parsed = Conditions::parse(&table(), &[condition.to_owned()]);
        parsed
            .unwrap_or_else(|error| panic!("{condition}: {error}"))
            .judge(|_| cell)
    }

    fn fits(condition: &str, cell: Cell<'_>) -> bool {
        judge(condition, cell) == Verdict::Yes
    }

    #[test]
    fn numbers_are_compared_as_numbers_and_text_as_bytes() {
        assert!(fits("id<10", Cell::Text(b"9")) && !fits("id<10", Cell::Text(b"100")));
        assert!(fits("code=7", Cell::Text(b"00007")) && fits("amount=1.5", Cell::Text(b"1.5000")));
        assert!(fits(
            "amount > 0.30000000000000000001",
            Cell::Text(b"0.30000000000000000002")
        ));
        assert!(fits("stage<10", Cell::Text(b"1")) && fits("stage>10", Cell::Text(b"9")));
        assert!(!fits("stage=open", Cell::Text(b"Open")) && fits("stage~pe", Cell::Text(b"open")));
        assert!(fits("raw=x'00ff'", Cell::Text(b"\\x00ff")));
        assert!(fits("raw=x'00ff'", Cell::Blob(&[0, 255])));
        assert!(fits("any=42", Cell::Integer(42)) && fits("any=42", Cell::Real(42.0)));
        assert!(fits("any=42", Cell::Text(b"42")) && !fits("any='42'", Cell::Integer(42)));
        assert!(!fits("any>5", Cell::Text(b"")) && fits("any!=5", Cell::Text(b"x")));
    }

    #[test]
    fn null_fits_nothing_but_is_null() {
        for condition in [
            "stage=x",
            "stage!=x",
            "stage<x",
            "stage>x",
            "stage~x",
            "stage is not null",
        ] {
            assert!(!fits(condition, Cell::Null), "{condition}");
        }
        assert!(fits("stage IS NULL", Cell::Null) && !fits("stage is null", Cell::Text(b"")));
    }

    #[test]
    fn spaces_and_escapes_mean_what_a_person_means() {
        assert!(
            fits("stage = open", Cell::Text(b"open")) && fits("stage= open", Cell::Text(b" open"))
        );
        assert!(fits("a\\=b=c=d", Cell::Text(b"c=d")) && fits("stage=", Cell::Text(b"")));
        assert!(fits("stage='it''s'", Cell::Text(b"it's")) && fits("stage='", Cell::Text(b"'")));
        assert!(fits("stage=is null", Cell::Text(b"is null")));
    }

    #[test]
    fn large_cells_are_open_where_their_content_decides() {
        let large = Cell::Large(Large {
            class: LargeClass::Text,
            length: 2 << 20,
            digest: crate::id::Digest([1; 16]),
        });
        assert_eq!(judge("stage~x", large), Verdict::Open);
        assert_eq!(judge("stage<x", large), Verdict::Open);
        assert_eq!(judge("stage=x", large), Verdict::No);
        assert_eq!(judge("stage is not null", large), Verdict::Yes);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let refused = |text: &str| Conditions::parse(&table(), &[text.to_owned()]).unwrap_err();
        assert!(matches!(refused("stage"), Error::Form { .. }));
        assert!(matches!(refused("id=abc"), Error::Value { .. }));
        let Error::Unknown { nearest, .. } = refused("stgae=x") else {
            panic!("a column that is not there was taken");
        };
        assert_eq!(nearest, ["stage"]);
    }

    /// A filter over cells must not deny a cell that fits.
    #[test]
    fn forms_of_an_equality_hold_every_cell_that_fits() {
        let cells = [
            Cell::Text(b"42"),
            Cell::Integer(42),
            Cell::Real(42.0),
            Cell::Blob(b"42"),
            Cell::Text(b"0"),
            Cell::Integer(0),
            Cell::Real(-0.0),
            Cell::Text(b"\\x00ff"),
            Cell::Blob(&[0, 255]),
            Cell::Text(&[0, 255]),
            Cell::Text(b"00042"),
        ];
        for column in ["id", "amount", "stage", "raw", "any", "code"] {
            for value in ["42", "0", "042", "x'00ff'", "'42'", "4.2e1"] {
                let text = format!("{column}={value}");
                let Ok(conditions) = Conditions::parse(&table(), std::slice::from_ref(&text))
                else {
                    continue;
                };
                for (_, forms) in conditions.equalities() {
                    // A server has text alone, or bytes, and whole numbers in one form.
                    let may_be = cells.iter().filter(|cell| match (column, cell) {
                        ("any", _) => true,
                        ("id", Cell::Text(text)) => *text != b"00042",
                        ("raw", Cell::Blob(_)) | (_, Cell::Text(_)) => true,
                        _ => false,
                    });
                    for cell in may_be {
                        let mut bytes = Vec::new();
                        cell.push(&mut bytes);
                        let fits = conditions.judge(|_| *cell) == Verdict::Yes;
                        assert!(
                            !fits || forms.contains(&bytes),
                            "{text} leaves {cell:?} out"
                        );
                    }
                }
            }
        }
        let zerofill = Conditions::parse(&table(), &["code=7".to_owned()]).unwrap();
        assert!(zerofill.equalities().is_empty());
    }
}
