//! How each type of MySQL and MariaDB is read, written and ordered.
//!
//! Most columns are read as the server prints them and loaded the same way. The few that would
//! lose something (FLOAT is printed with six digits, BIT as raw bytes, the error value of an ENUM
//! looks like its member '') have an expression of their own, here. Invariant: what
//! [`Form::select`] reads, [`Form::load`] writes back bit for bit.

use super::quote;
use crate::row::schema::{Column, KeyOrder, ValueKind};

/// Name of the column fact that holds the character set of a text column.
pub const CHARSET: &str = "charset";
/// Name of the column fact that marks the period of a system-versioned table.
pub const PERIOD: &str = "period";

/// How the values of a column go out of and into a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// As the double that holds every FLOAT exactly.
    Double,
    /// As a whole number: BIT, and a SET that has '' for a member.
    Number,
    /// An ENUM that has '' for a member: this text stands for its error value, index 0.
    EnumZero(String),
    /// Of a type that takes text, but not as binary: MySQL's own JSON, UUID, INET6.
    Text,
}

/// What a type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Integer,
    Year,
    Bit,
    Decimal,
    Float,
    Double,
    Text,
    Binary,
    Geometry,
    Enum,
    Set,
    Time,
    Json,
    Other,
}

/// The first word of a type as the server prints it, in lower case.
fn base(type_name: &str) -> String {
    let end = type_name.find(['(', ' ']).unwrap_or(type_name.len());
    type_name[..end].to_ascii_lowercase()
}

fn family(type_name: &str) -> Family {
    match base(type_name).as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" => Family::Integer,
        "year" => Family::Year,
        "bit" => Family::Bit,
        "decimal" | "numeric" => Family::Decimal,
        "float" => Family::Float,
        "double" | "real" => Family::Double,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Family::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "vector" => {
            Family::Binary
        }
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => Family::Geometry,
        "enum" => Family::Enum,
        "set" => Family::Set,
        "date" | "time" | "datetime" | "timestamp" => Family::Time,
        "json" => Family::Json,
        _ => Family::Other,
    }
}

/// The members of `enum('a','b''c')`, as the server prints them.
fn members(type_name: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = type_name.chars().skip_while(|c| *c != '\'').peekable();
    while rest.next_if_eq(&'\'').is_some() {
        let mut member = String::new();
        while let Some(c) = rest.next() {
            if c != '\'' {
                member.push(c);
            } else if rest.next_if_eq(&'\'').is_some() {
                member.push('\'');
            } else {
                break;
            }
        }
        out.push(member);
        rest.next_if_eq(&',');
    }
    out
}

/// How values of a type are read and compared.
pub fn kind(type_name: &str) -> ValueKind {
    match family(type_name) {
        Family::Integer | Family::Bit | Family::Year => ValueKind::Integer,
        Family::Decimal | Family::Float | Family::Double => ValueKind::Number,
        Family::Binary | Family::Geometry => ValueKind::Bytes,
        Family::Text | Family::Enum | Family::Set | Family::Time | Family::Json | Family::Other => {
            ValueKind::Text
        }
    }
}

/// How a key column of a type is ordered.
pub fn key_order(type_name: &str) -> KeyOrder {
    match family(type_name) {
        Family::Integer | Family::Bit => KeyOrder::Integer,
        _ => KeyOrder::Bytes,
    }
}

/// Whether a value of the type may be longer than 1 MiB; all others hold 64 KiB at most.
pub fn may_be_large(type_name: &str) -> bool {
    matches!(family(type_name), Family::Geometry | Family::Json)
        || matches!(
            base(type_name).as_str(),
            "mediumtext" | "longtext" | "mediumblob" | "longblob"
        )
}

/// The form of a column's values.
pub fn form(column: &Column) -> Form {
    let type_name = &column.type_name;
    match family(type_name) {
        Family::Float => Form::Double,
        Family::Double if type_name.contains('(') => Form::Double,
        Family::Bit => Form::Number,
        Family::Json | Family::Other => Form::Text,
        Family::Set if members(type_name).iter().any(String::is_empty) => Form::Number,
        Family::Enum => {
            let members = members(type_name);
            if !members.iter().any(String::is_empty) {
                return Form::Plain;
            }
            // The server reads a text of digits that is no member as an index.
            let mut zero = "0".to_owned();
            while members.contains(&zero) {
                zero.push('0');
            }
            Form::EnumZero(zero)
        }
        _ => Form::Plain,
    }
}

impl Form {
    /// The expression that reads the column `name`.
    pub fn select(&self, name: &str) -> String {
        let name = quote::identifier(name);
        match self {
            Form::Plain | Form::Text => name,
            // Not `+ 0e0`, which turns -0 into 0.
            Form::Double => format!("{name} * 1e0"),
            Form::Number => format!("{name} + 0"),
            Form::EnumZero(zero) => format!("IF({name} + 0 = 0, '{zero}', {name})"),
        }
    }

    /// The expression that makes the column's value of `variable`; none where the text goes in
    /// as it is.
    pub fn load(&self, variable: &str) -> Option<String> {
        match self {
            Form::Plain | Form::Double | Form::EnumZero(_) => None,
            Form::Number => Some(format!("CAST({variable} AS UNSIGNED)")),
            Form::Text => Some(format!("CONVERT({variable} USING utf8mb4)")),
        }
    }
}

/// Whether `text` is a number in digits, safe to stand in SQL without quotes.
pub fn is_number(text: &[u8]) -> bool {
    text.first()
        .is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && text.len() <= 400
        && text
            .iter()
            .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'))
        && !text.windows(2).any(|pair| pair == b"--")
}

/// A condition that holds for the rows whose `column` has the value that was read as `cell`.
/// None where `cell` is no value of that column.
pub fn equals(column: &Column, cell: &[u8], operator: &str) -> Option<String> {
    let form = form(column);
    let left = form.select(&column.name);
    let right = literal(column, &form, cell)?;
    Some(format!("{left} {operator} {right}"))
}

/// The literal for a value that was read as `cell`; none where it is no value of that column.
pub fn literal(column: &Column, form: &Form, cell: &[u8]) -> Option<String> {
    let plain = || std::str::from_utf8(cell).ok().map(str::to_owned);
    match (column.kind, form) {
        (ValueKind::Integer | ValueKind::Number, _) | (_, Form::Number) => {
            is_number(cell).then(plain).flatten()
        }
        (ValueKind::Bytes, _) => Some(quote::bytes(cell)),
        _ => match column.facts.get(CHARSET) {
            Some(charset) if quote::is_word(charset) && !cell.is_empty() => {
                Some(format!("_{charset} {}", quote::bytes(cell)))
            }
            _ => Some(quote::text(&plain()?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn column(type_name: &str) -> Column {
        Column {
            name: "c".into(),
            type_name: type_name.into(),
            kind: kind(type_name),
            nullable: true,
            default: None,
            collation: None,
            hidden: false,
            facts: BTreeMap::new(),
        }
    }

    #[test]
    fn members_are_read_with_their_quotes() {
        assert_eq!(
            members("enum('a','','it''s','x,y')"),
            ["a", "", "it's", "x,y"]
        );
        assert_eq!(members("enum("), [""; 0]);
    }

    #[test]
    fn error_value_of_an_enum_gets_a_text_that_is_no_member() {
        assert_eq!(form(&column("enum('a','b')")), Form::Plain);
        assert_eq!(
            form(&column("enum('a','','0')")),
            Form::EnumZero("00".into())
        );
    }

    #[test]
    fn lossy_types_are_read_by_an_expression() {
        assert_eq!(form(&column("float")).select("f"), "`f` * 1e0");
        assert_eq!(form(&column("double(8,2)")), Form::Double);
        assert_eq!(form(&column("double")), Form::Plain);
        assert_eq!(form(&column("bit(64)")).select("b"), "`b` + 0");
        assert_eq!(form(&column("set('','a')")), Form::Number);
    }

    #[test]
    fn only_wide_types_may_be_large() {
        for wide in ["longtext", "mediumblob", "json", "point"] {
            assert!(may_be_large(wide), "{wide}");
        }
        for narrow in ["text", "varchar(20000)", "blob", "int(11) unsigned"] {
            assert!(!may_be_large(narrow), "{narrow}");
        }
    }

    #[test]
    fn a_key_that_is_no_number_never_stands_without_quotes() {
        let id = column("bigint(20) unsigned");
        assert_eq!(
            equals(&id, b"18446744073709551615", "=").unwrap(),
            "`c` = 18446744073709551615"
        );
        for hostile in [&b"1 OR 1=1"[..], b"", b"1--x", b"0x20", b"1/**/"] {
            assert_eq!(equals(&id, hostile, "="), None);
        }
        let mut name = column("varchar(20)");
        name.facts.insert(CHARSET.into(), "latin1".into());
        assert_eq!(
            equals(&name, b"\xe9'", ">").unwrap(),
            "`c` > _latin1 x'e927'"
        );
    }
}
