//! The one place where names and values become SQL text.
//!
//! Everything that this engine asks is built as text, since COPY takes no parameters. Invariant:
//! whatever bytes a name or value has, what comes out is one token that means exactly it (with
//! `standard_conforming_strings` on, which every connection sets).

use crate::row::schema::TableName;

/// `name` as a quoted identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `value` as a string literal.
pub fn literal(value: &str) -> String {
    if value.contains('\\') {
        format!(" E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

/// `table` with its schema, quoted.
pub fn table(name: &TableName) -> String {
    match &name.schema {
        Some(schema) => format!("{}.{}", identifier(schema), identifier(&name.name)),
        None => identifier(&name.name),
    }
}

/// `value` inside a libpq connection string.
pub fn conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_a_name_or_value_are_doubled() {
        assert_eq!(identifier("a\"; DROP"), "\"a\"\"; DROP\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), " E'a\\\\''b'");
        assert_eq!(conninfo("a'b\\"), "'a\\'b\\\\'");
    }
}
