//! SQL text for SQLite: quoted names, and what a recorded definition may be.
//!
//! Every name goes through [`quoted`], and every definition that a restore runs through
//! [`definition`]. Invariant: text from a snapshot is run only if it makes one object.

/// `name` as an identifier that SQLite reads back as exactly these characters.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a recorded definition makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// An ordinary table.
    Table,
    /// A virtual table.
    VirtualTable,
    /// An index.
    Index,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

/// What `sql` makes, judged by its first words as SQLite itself records them; none for any
/// other statement, temporary objects and attached databases among them.
pub fn definition(sql: &str) -> Option<Definition> {
    let mut words = sql.split_ascii_whitespace().map(str::to_ascii_uppercase);
    if words.next()? != "CREATE" {
        return None;
    }
    // A name may follow its keyword without a space: CREATE TABLE"a".
    let word = words.next()?;
    let starts = |keyword: &str| {
        word.strip_prefix(keyword).is_some_and(|rest| {
            !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
        })
    };
    match word.as_str() {
        "VIRTUAL" => (words.next()? == "TABLE").then_some(Definition::VirtualTable),
        "UNIQUE" => (words.next()?.starts_with("INDEX")).then_some(Definition::Index),
        _ if starts("TABLE") => Some(Definition::Table),
        _ if starts("INDEX") => Some(Definition::Index),
        _ if starts("VIEW") => Some(Definition::View),
        _ if starts("TRIGGER") => Some(Definition::Trigger),
        _ => None,
    }
}

/// The module of a virtual table's definition; empty where it cannot be told.
pub fn module(sql: &str) -> String {
    let upper = sql.to_ascii_uppercase();
    let Some(at) = upper.find(" USING ").or_else(|| upper.find("\nUSING ")) else {
        return String::new();
    };
    sql[at + 7..]
        .trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Whether the options after a table's last parenthesis hold `word`.
pub fn has_option(sql: &str, word: &str) -> bool {
    let tail = sql.rsplit(')').next().unwrap_or_default();
    tail.split(|c: char| !c.is_alphanumeric())
        .any(|option| option.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_names_come_back_from_sqlite() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for name in [
            "a",
            "select",
            "a\"b",
            "'; DROP TABLE x;--",
            "\n",
            "😀",
            "../x",
            " ",
            "[a]",
            "`",
        ] {
            db.execute_batch(&format!("CREATE TABLE {0}({0} INTEGER)", quoted(name)))
                .unwrap();
            let found: String = db
                .query_row(
                    "SELECT name FROM sqlite_schema WHERE name = ?1",
                    [name],
                    |r| r.get(0),
                )
                .unwrap();
            assert_eq!(found, name);
            db.query_row(
                &format!("SELECT count(*) FROM {0} WHERE {0} = 1", quoted(name)),
                [],
                |_| Ok(()),
            )
            .unwrap();
        }
    }

    #[test]
    fn only_definitions_of_one_object_are_definitions() {
        for (sql, what) in [
            ("CREATE TABLE \"a\"(x)", Some(Definition::Table)),
            ("CREATE TABLE\"a\"(x)", Some(Definition::Table)),
            ("create\ttable a(x)", Some(Definition::Table)),
            (
                "CREATE VIRTUAL TABLE a USING fts5(x)",
                Some(Definition::VirtualTable),
            ),
            ("CREATE UNIQUE INDEX a ON b(c)", Some(Definition::Index)),
            ("CREATE INDEX a ON b(c)", Some(Definition::Index)),
            ("CREATE VIEW a AS SELECT 1", Some(Definition::View)),
            (
                "CREATE TRIGGER a AFTER INSERT ON b BEGIN SELECT 1; END",
                Some(Definition::Trigger),
            ),
            ("CREATE TEMP TABLE a(x)", None),
            ("CREATE TABLES a(x)", None),
            ("ATTACH 'x' AS y", None),
            ("DROP TABLE a", None),
            ("PRAGMA writable_schema=ON", None),
            ("", None),
            ("-- x\nDROP TABLE a", None),
        ] {
            assert_eq!(definition(sql), what, "{sql}");
        }
    }

    #[test]
    fn module_and_options_are_found() {
        assert_eq!(module("CREATE VIRTUAL TABLE a USING fts5(x)"), "fts5");
        assert_eq!(module("CREATE VIRTUAL TABLE a\nUSING rtree (x)"), "rtree");
        assert!(has_option(
            "CREATE TABLE a(x TEXT) STRICT, WITHOUT ROWID",
            "strict"
        ));
        assert!(!has_option("CREATE TABLE a(strict TEXT)", "strict"));
    }
}
