//! What PostgreSQL's types mean to rows: how a column is compared, ordered and cut.
//!
//! Known by the name that the server prints for the base type (a domain's innermost type), with
//! an empty `search_path`. Invariant: a type that is not known here is text, ordered by the bytes
//! of its text form, which is right for every type.

use crate::row::schema::{Column, KeyOrder, ValueKind};

/// The name of the fact that holds a domain's innermost type.
pub const BASE_TYPE: &str = "base_type";

/// The innermost type of `column`, without length or precision.
pub fn base(column: &Column) -> &str {
    let name = column.facts.get(BASE_TYPE).unwrap_or(&column.type_name);
    if name.ends_with("[]") {
        return name;
    }
    name.split('(').next().unwrap_or(name).trim_end()
}

/// How values of the type `base` are read by people and compared.
pub fn kind(base: &str) -> ValueKind {
    match base {
        "smallint" | "integer" | "bigint" | "oid" => ValueKind::Integer,
        "numeric" | "real" | "double precision" => ValueKind::Number,
        _ => ValueKind::Text,
    }
}

/// How a key column of the type `base` is ordered.
pub fn key_order(base: &str) -> KeyOrder {
    match base {
        "smallint" | "integer" | "bigint" | "oid" => KeyOrder::Integer,
        "uuid" => KeyOrder::Uuid,
        _ => KeyOrder::Bytes,
    }
}

/// The expression that sorts `column` (quoted already) by the canonical bytes of its text.
pub fn sort_expression(base: &str, column: &str) -> String {
    match base {
        "smallint" | "integer" | "bigint" | "oid" | "uuid" => column.to_owned(),
        "text" | "character varying" | "name" => {
            format!("({column}::pg_catalog.text) COLLATE pg_catalog.\"C\"")
        }
        _ => format!("pg_catalog.concat({column}) COLLATE pg_catalog.\"C\""),
    }
}

/// The expression for the length in bytes of the text form of `column`, cheap for short values.
pub fn length_expression(base: &str, column: &str) -> String {
    match base {
        "text" | "character varying" => {
            format!("pg_catalog.octet_length({column}::pg_catalog.text)")
        }
        "bytea" => format!("(2 + 2 * pg_catalog.octet_length({column})::pg_catalog.int8)"),
        _ => format!(
            "(CASE WHEN pg_catalog.pg_column_size({column}) > {COMPRESSED_SMALL} \
             THEN pg_catalog.octet_length(pg_catalog.concat({column})) END)"
        ),
    }
}

/// Stored sizes up to this are not looked into: their text is at most a few MiB.
const COMPRESSED_SMALL: u32 = 8000;

/// The expression for the whole value as bytes, flat in the server's memory.
pub fn bytes_expression(base: &str, column: &str, encoding: &str) -> String {
    match base {
        "bytea" => format!("({column} || ''::pg_catalog.bytea)"),
        "text" | "character varying" => {
            format!("pg_catalog.convert_to({column}::pg_catalog.text, {encoding})")
        }
        _ => format!("pg_catalog.convert_to(pg_catalog.concat({column}), {encoding})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_type_is_without_length_but_arrays_stay_arrays() {
        let mut column = Column {
            name: "c".into(),
            type_name: "character varying(20)".into(),
            kind: ValueKind::Text,
            nullable: true,
            default: None,
            collation: None,
            hidden: false,
            facts: Default::default(),
        };
        assert_eq!(base(&column), "character varying");
        column.type_name = "numeric(10,2)[]".into();
        assert_eq!(base(&column), "numeric(10,2)[]");
        column.facts.insert(BASE_TYPE.into(), "integer".into());
        assert_eq!(base(&column), "integer");
        assert_eq!(key_order(base(&column)), KeyOrder::Integer);
    }
}
