//! Tables of a snapshot that are put into a database in use, beside those that are there.
//!
//! Each gets its own name with `__rowvault_TIME` at its end, cut to what the engine takes.
//! Invariant: no two of them get the same name, and none gets one that does not end so.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class};
use crate::row::schema::{Engine, Table, TableName};

/// PostgreSQL's longest name.
const POSTGRES_BYTES_MAX: usize = 63;
/// The longest name of MySQL and MariaDB.
const MYSQL_CHARACTERS_MAX: usize = 64;

/// Which tables go beside, and under which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    names: BTreeMap<TableName, TableName>,
}

/// `name` with `mark` at its end, as long as `engine` takes.
fn marked(engine: Engine, name: &str, mark: &str) -> String {
    let end = match engine {
        Engine::Sqlite => name.len(),
        Engine::Postgres => name.floor_char_boundary(POSTGRES_BYTES_MAX - mark.len()),
        Engine::Mysql => {
            let room = MYSQL_CHARACTERS_MAX - mark.len();
            let cut = name.char_indices().nth(room);
            cut.map_or(name.len(), |(at, _)| at)
        }
    };
    format!("{}{mark}", &name[..end])
}

impl Beside {
    /// Names for `tables`, with the time `now` in them.
    ///
    /// # Errors
    /// Conflict where two names are alike when they are cut; Invalid for a table that has no rows
    /// of its own.
    pub fn new(engine: Engine, tables: &[Table], now: Timestamp) -> Result<Beside, AnyFailure> {
        let time = now
            .utc()
            .map(|time| time.format("%Y%m%d%H%M%S").to_string());
        let mark = format!(
            "__rowvault_{}",
            time.unwrap_or_else(|| now.seconds().to_string())
        );
        let mut names = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for table in tables {
            let old = &table.name;
            if !table.with_rows || old.schema.as_deref() == Some("pg_catalog") {
                return Err(AnyFailure::new(
                    Class::Invalid,
                    format!("{old} cannot be put beside: it is no table with rows of its own"),
                    Some("name its partitions, or restore the whole snapshot with --to".into()),
                ));
            }
            let name = TableName {
                schema: old.schema.clone(),
                name: marked(engine, &old.name, &mark),
            };
            // Engines differ in which case they tell apart.
            if !taken.insert(name.to_string().to_lowercase()) {
                return Err(AnyFailure::new(
                    Class::Conflict,
                    format!("two of the tables would both be called {name}"),
                    Some("restore them one after the other".into()),
                ));
            }
            names.insert(old.clone(), name);
        }
        Ok(Beside { names })
    }

    /// The old names and the new ones, by the old.
    pub fn names(&self) -> impl Iterator<Item = (&TableName, &TableName)> {
        self.names.iter()
    }

    /// `table` under its new name.
    ///
    /// # Errors
    /// Bug: it is none of those that go beside.
    pub fn renamed(&self, table: &Table) -> Result<Table, AnyFailure> {
        let name = self.names.get(&table.name).ok_or_else(|| {
            let what = format!("table {} was not to be put beside", table.name);
            AnyFailure::new(Class::Bug, what, None)
        })?;
        Ok(Table {
            name: name.clone(),
            ..table.clone()
        })
    }
}

/// That the name is taken.
pub fn taken(name: &TableName) -> AnyFailure {
    AnyFailure::new(
        Class::Conflict,
        format!("there is something called {name} already"),
        Some("drop it, or wait a second: the name has the time in it".into()),
    )
}

/// That tables are put into a database of another engine.
pub fn other_engine(snapshot: Engine, target: Engine) -> AnyFailure {
    AnyFailure::new(
        Class::Invalid,
        format!("tables of a snapshot of {snapshot} cannot be put into {target}"),
        Some("name a database of the snapshot's own engine".into()),
    )
}

/// What is told of foreign keys and triggers that were left out; nothing where there were none.
pub fn left_out(table: &TableName, keys: usize, triggers: usize) -> Option<String> {
    let some = |count: usize, one: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        many => Some(format!("{many} {one}s")),
    };
    let parts = [some(keys, "foreign key"), some(triggers, "trigger")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("table {table}: left out {}", parts.join(" and ")))
}

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, where names may stand in square brackets.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB, where `\` escapes in strings.
    Mysql,
}

/// `sql` in pieces: quoted ones, words, comments, and every other character by itself.
pub fn pieces(sql: &str, dialect: Dialect) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii();
        let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
        let length = match first {
            '\'' | '"' | '`' => quoted_length(rest, first, dialect),
            '[' if dialect == Dialect::Sqlite => until("]"),
            '-' if rest.starts_with("--") => until("\n"),
            '/' if rest.starts_with("/*") => until("*/"),
            _ if word(first) => rest.find(|c: char| !word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (piece, after) = rest.split_at(length);
        found.push(piece);
        rest = after;
    }
    found
}

fn quoted_length(input: &str, quote: char, dialect: Dialect) -> usize {
    let mut chars = input.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote != '`' && dialect == Dialect::Mysql {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    input.len()
}

/// Whether a piece says nothing: space or a comment.
pub fn is_blank(piece: &str) -> bool {
    piece.trim().is_empty() || piece.starts_with("--") || piece.starts_with("/*")
}

fn is(piece: Option<&&str>, word: &str) -> bool {
    piece.is_some_and(|piece| piece.eq_ignore_ascii_case(word))
}

/// The position after the bracket that is opened at `open`.
fn closed(pieces: &[&str], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, piece) in pieces.iter().enumerate().skip(open) {
        match *piece {
            "(" => depth += 1,
            ")" if depth == 1 => return Some(at + 1),
            ")" => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// A recorded `CREATE TABLE` with the name `quoted` in the place of its own, and without foreign
/// keys; none where it is not understood.
pub fn create_table(sql: &str, dialect: Dialect, quoted: &str) -> Option<String> {
    let all = pieces(sql, dialect);
    let table = all
        .iter()
        .position(|piece| piece.eq_ignore_ascii_case("table"))?;
    let open = table + all[table..].iter().position(|piece| *piece == "(")?;
    let end = closed(&all, open)?;
    let mut kept: Vec<String> = Vec::new();
    let (mut depth, mut from) = (0usize, open + 1);
    for (at, piece) in all.iter().enumerate().take(end).skip(open + 1) {
        let ends = (depth == 0 && *piece == ",") || at + 1 == end;
        if ends {
            kept.extend(without_keys(&all[from..at], dialect));
            from = at + 1;
        }
        match *piece {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    let (body, options) = (kept.join(","), all[end..].concat());
    Some(format!("CREATE TABLE {quoted} ({body}){options}"))
}

/// A column or constraint of a table without what refers to other tables; none where nothing
/// is left.
fn without_keys(part: &[&str], dialect: Dialect) -> Option<String> {
    let mut kept = part.to_vec();
    let said = |pieces: &[&str]| -> Vec<usize> {
        let at = 0..pieces.len();
        at.filter(|at| !is_blank(pieces[*at])).collect()
    };
    loop {
        let places = said(&kept);
        let words: Vec<&str> = places.iter().map(|at| kept[*at]).collect();
        // A check's name may be one for the whole database.
        let named_check = dialect == Dialect::Mysql
            && is(words.first(), "constraint")
            && is(words.get(2), "check");
        if let Some((from, to)) = reference(&words) {
            kept.drain(places[from]..=places[to - 1]);
        } else if named_check {
            kept.drain(..places[2]);
        } else {
            break;
        }
    }
    (!said(&kept).is_empty()).then(|| kept.concat())
}

/// Where a foreign key begins and ends in `words`.
fn reference(words: &[&str]) -> Option<(usize, usize)> {
    let mut depth = 0i32;
    let at = words.iter().position(|word| {
        depth += i32::from(*word == "(") - i32::from(*word == ")");
        depth == 0
            && (word.eq_ignore_ascii_case("foreign") || word.eq_ignore_ascii_case("references"))
    })?;
    let mut end = at;
    if is(words.get(at), "foreign") {
        let open = at + words[at..].iter().position(|word| *word == "(")?;
        end = closed(words, open)?;
    }
    // REFERENCES, and the table's name.
    end += 2;
    while words.get(end) == Some(&".") {
        end += 2;
    }
    if words.get(end) == Some(&"(") {
        end = closed(words, end)?;
    }
    loop {
        let next = words.get(end);
        let two_words = ["set", "no"]
            .iter()
            .any(|word| is(words.get(end + 2), word));
        if is(next, "on") {
            end += if two_words { 4 } else { 3 };
        } else if is(next, "match")
            || is(next, "initially")
            || (is(next, "not") && is(words.get(end + 1), "deferrable"))
        {
            end += 2;
        } else if is(next, "deferrable") {
            end += 1;
        } else {
            break;
        }
    }
    let named = at >= 2 && is(words.get(at - 2), "constraint");
    Some((if named { at - 2 } else { at }, end.min(words.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        Table {
            name: TableName {
                schema: None,
                name: name.into(),
            },
            columns: Vec::new(),
            generated: Vec::new(),
            key: None,
            foreign_keys: Vec::new(),
            unique: Vec::new(),
            with_rows: true,
            facts: BTreeMap::new(),
        }
    }

    #[test]
    fn names_are_cut_where_characters_end() {
        let mark = "__rowvault_20261122093000";
        let long = "é".repeat(60);
        let cut = marked(Engine::Postgres, &long, mark);
        assert!(cut.len() <= 63 && cut.ends_with(mark), "{cut}");
        let cut = marked(Engine::Mysql, &long, mark);
        assert_eq!(cut.chars().count(), 64);
        assert_eq!(marked(Engine::Sqlite, &long, mark), format!("{long}{mark}"));
        assert_eq!(marked(Engine::Mysql, "a", mark), format!("a{mark}"));
    }

    #[test]
    fn names_that_are_alike_when_cut_are_refused() {
        let long = "x".repeat(50);
        let tables = [table(&format!("{long}1")), table(&format!("{long}2"))];
        let now = Timestamp::from_seconds(1_700_000_000);
        assert!(Beside::new(Engine::Sqlite, &tables, now).is_ok());
        let refused = Beside::new(Engine::Postgres, &tables, now).unwrap_err();
        assert_eq!(refused.class(), Class::Conflict);
    }

    #[test]
    fn tables_are_made_again_without_what_refers_to_others() {
        for (sql, dialect, expected) in [
            (
                "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT NOT NULL DEFAULT 'x, (y' REFERENCES p(id) \
                 ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED CHECK (b <> x''), \
                 [c d] NUMERIC CONSTRAINT k REFERENCES q NOT NULL, FOREIGN KEY (a) REFERENCES q) STRICT",
                Dialect::Sqlite,
                "CREATE TABLE \"n\" (a INTEGER PRIMARY KEY, b TEXT NOT NULL DEFAULT 'x, (y' \
                 CHECK (b <> x''), [c d] NUMERIC NOT NULL) STRICT",
            ),
            (
                "CREATE TABLE `t` (\n  `a` bit(1) DEFAULT b'0' COMMENT 'it\\'s, (',\n  PRIMARY KEY (`a`),\n  \
                 KEY `k` (`a`),\n  CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `d`.`p` (`i`) ON DELETE NO ACTION,\n  \
                 CONSTRAINT `c` CHECK (`a` > - -1)\n) ENGINE=InnoDB",
                Dialect::Mysql,
                "CREATE TABLE \"n\" ( `a` bit(1) DEFAULT b'0' COMMENT 'it\\'s, (', PRIMARY KEY (`a`), \
                 KEY `k` (`a`),CHECK (`a` > - -1) ) ENGINE=InnoDB",
            ),
        ] {
            let made = create_table(sql, dialect, "\"n\"").unwrap();
            let words: Vec<&str> = made.split_whitespace().collect();
            assert_eq!(words.join(" "), expected);
        }
        assert_eq!(
            create_table("CREATE TABLE t AS SELECT 1", Dialect::Sqlite, "n"),
            None
        );
        assert_eq!(
            create_table("CREATE TABLE t (a (", Dialect::Sqlite, "n"),
            None
        );
    }
}
