//! The one place where names and values become SQL text for MySQL and MariaDB.
//!
//! Invariant: whatever a name or a value holds, the result is one token of the server's grammar,
//! under any `sql_mode`.

/// `name` as an identifier.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// `database` and `name` as a qualified identifier.
pub fn qualified(database: &str, name: &str) -> String {
    format!("{}.{}", identifier(database), identifier(name))
}

/// `bytes` as a binary string literal. Hexadecimal, since escapes mean different things under
/// `NO_BACKSLASH_ESCAPES` and in character sets like gbk.
pub fn bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "''".into();
    }
    let mut out = String::with_capacity(bytes.len() * 2 + 3);
    out.push_str("x'");
    for byte in bytes {
        out.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        out.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    out.push('\'');
    out
}

/// `text` as a utf8mb4 string literal.
pub fn text(text: &str) -> String {
    if text.is_empty() {
        return "''".into();
    }
    format!("_utf8mb4 {}", bytes(text.as_bytes()))
}

/// Whether `word` can stand unquoted as a character set, a collation, a storage engine: what the
/// grammar wants as a bare word.
pub fn is_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 64
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A piece of an SQL text: what is copied as it is, and what may be a name.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A back-quoted name, with its quotes.
    Quoted(&'a [u8]),
    /// A bare word.
    Word(&'a [u8]),
    /// One dot.
    Dot,
    /// Space, comments, strings, numbers, operators.
    Other(&'a [u8]),
}

impl<'a> Token<'a> {
    fn raw(&self) -> &'a [u8] {
        match self {
            Token::Quoted(raw) | Token::Word(raw) | Token::Other(raw) => raw,
            Token::Dot => b".",
        }
    }

    fn names(&self, database: &str) -> bool {
        match self {
            Token::Quoted(raw) => *raw == identifier(database).as_bytes(),
            Token::Word(raw) => *raw == database.as_bytes(),
            _ => false,
        }
    }
}

/// The end of a quoted run that starts at 0; quotes may be doubled, and `\` escapes in strings.
fn quoted_length(input: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < input.len() {
        if input[at] == b'\\' && quote != b'`' {
            at += 2;
        } else if input[at] != quote {
            at += 1;
        } else if input.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    input.len()
}

fn until(input: &[u8], end: &[u8]) -> usize {
    let found = input.windows(end.len()).position(|window| window == end);
    found.map_or(input.len(), |at| at + end.len())
}

fn token<'a>(input: &mut &'a [u8]) -> Option<Token<'a>> {
    let word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || *b >= 0x80;
    let first = *input.first()?;
    let length = match first {
        b'`' | b'\'' | b'"' => quoted_length(input, first),
        b'#' => until(input, b"\n"),
        b'-' if input.starts_with(b"-- ") => until(input, b"\n"),
        b'/' if input.starts_with(b"/*") => until(input, b"*/"),
        _ if word(&first) => input.iter().take_while(|b| word(b)).count(),
        _ => 1,
    };
    let (raw, rest) = input.split_at(length);
    *input = rest;
    Some(match first {
        b'`' => Token::Quoted(raw),
        b'.' => Token::Dot,
        _ if word(&first) => Token::Word(raw),
        _ => Token::Other(raw),
    })
}

/// `sql` with every `from.name` in it turned into `to.name`, outside of strings and comments.
/// For definitions that the server printed with their database in front.
pub fn moved(sql: &[u8], from: &str, to: &str) -> Vec<u8> {
    if from == to {
        return sql.to_vec();
    }
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(token) = token(&mut rest) {
        tokens.push(token);
    }
    render(&tokens, from, to)
}

/// `moved` up to the words `end`, and the rest as it is: a body may use the name for something
/// of its own.
pub fn moved_head(sql: &[u8], from: &str, to: &str, end: &str) -> Vec<u8> {
    if from == to {
        return sql.to_vec();
    }
    let end: Vec<&str> = end.split(' ').collect();
    let mut met = 0;
    let mut tokens = Vec::new();
    let mut rest = sql;
    while met < end.len()
        && let Some(token) = token(&mut rest)
    {
        if let Token::Word(word) = token {
            met = match word.eq_ignore_ascii_case(end[met].as_bytes()) {
                true => met + 1,
                false => 0,
            };
        }
        tokens.push(token);
    }
    let mut out = render(&tokens, from, to);
    out.extend_from_slice(rest);
    out
}

/// The name of the table in the head of a `CREATE TRIGGER`; none where it is not UTF-8. `ansi`
/// says whether double quotes enclose names.
pub fn table_of_trigger(sql: &[u8], ansi: bool) -> Option<String> {
    let mut before: Option<&[u8]> = None;
    let mut found: Option<(u8, &[u8])> = None;
    let mut named = false;
    let mut rest = sql;
    while let Some(token) = token(&mut rest) {
        let piece = match &token {
            Token::Quoted(raw) => (b'`', *raw),
            Token::Other(raw) if ansi && raw.starts_with(b"\"") => (b'"', *raw),
            Token::Word(raw) => (b' ', *raw),
            Token::Dot => {
                found = None;
                continue;
            }
            Token::Other(_) => continue,
        };
        let is = |word: &str| piece.0 == b' ' && piece.1.eq_ignore_ascii_case(word.as_bytes());
        let event = before.is_some_and(|word| {
            let events = ["insert", "update", "delete"];
            events
                .iter()
                .any(|event| word.eq_ignore_ascii_case(event.as_bytes()))
        });
        if named && found.is_some() {
            // What follows the name is FOR EACH ROW.
            break;
        } else if named {
            found = Some(piece);
        } else if event && is("on") {
            named = true;
        }
        before = (piece.0 == b' ').then_some(piece.1);
    }
    let (quoted, raw) = found?;
    let name = String::from_utf8(raw.to_vec()).ok()?;
    let Some(quoted) = (quoted != b' ').then_some(char::from(quoted)) else {
        return Some(name);
    };
    let inside = name.strip_prefix(quoted)?.strip_suffix(quoted)?;
    Some(inside.replace(&format!("{quoted}{quoted}"), &quoted.to_string()))
}

/// Whether a view was printed with `database` in front of its tables: as the first of three
/// names, or right after FROM or JOIN.
pub fn is_qualified(sql: &[u8], database: &str) -> bool {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(token) = token(&mut rest) {
        if !matches!(token, Token::Other(b" " | b"(" | b"\n")) {
            tokens.push(token);
        }
    }
    (0..tokens.len()).any(|at| {
        let dot = |at: usize| tokens.get(at) == Some(&Token::Dot);
        let after = at.checked_sub(1).and_then(|at| tokens.get(at));
        let table = matches!(after, Some(Token::Word(word))
            if word.eq_ignore_ascii_case(b"from") || word.eq_ignore_ascii_case(b"join"));
        tokens[at].names(database)
            && after != Some(&Token::Dot)
            && dot(at + 1)
            && (dot(at + 3) || table)
    })
}

fn render(tokens: &[Token<'_>], from: &str, to: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let after_dot = at > 0 && tokens[at - 1] == Token::Dot;
        let before_dot = tokens.get(at + 1) == Some(&Token::Dot);
        if before_dot && !after_dot && token.names(from) {
            out.extend_from_slice(identifier(to).as_bytes());
        } else {
            out.extend_from_slice(token.raw());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_doubles_its_quote() {
        assert_eq!(identifier("a`b; DROP"), "`a``b; DROP`");
        assert_eq!(qualified("d", "t"), "`d`.`t`");
    }

    #[test]
    fn bytes_are_hexadecimal_whatever_they_hold() {
        assert_eq!(bytes(b"'\\\x00\xff"), "x'275c00ff'");
        assert_eq!(bytes(b""), "''");
        assert_eq!(text("é"), "_utf8mb4 x'c3a9'");
    }

    #[test]
    fn moved_changes_names_and_leaves_strings() {
        let sql = b"select `a`.`t`.`id`, '`a`.`x`', `b`.`a`.`c` /* `a`.`t` */ from `a`.`t`, a.u";
        let expected =
            b"select `n w`.`t`.`id`, '`a`.`x`', `b`.`a`.`c` /* `a`.`t` */ from `n w`.`t`, `n w`.u";
        assert_eq!(moved(sql, "a", "n w"), expected);
        assert_eq!(moved(b"x ``` 'open", "x", "y"), b"x ``` 'open");
    }

    #[test]
    fn head_of_a_trigger_is_moved_and_its_body_is_not() {
        let sql = b"CREATE trigger a.t before insert on `a`.d for each  row set @x = a.y";
        let expected: &[u8] =
            b"CREATE trigger `b`.t before insert on `b`.d for each  row set @x = a.y";
        assert_eq!(moved_head(sql, "a", "b", "FOR EACH ROW"), expected);
    }

    #[test]
    fn table_of_a_trigger_is_read_from_its_head() {
        let table = |sql: &str, ansi| table_of_trigger(sql.as_bytes(), ansi);
        let head = "CREATE DEFINER=`on`@`%` TRIGGER `on` BEFORE UPDATE";
        for (name, ansi, expected) in [
            ("t", false, "t"),
            ("`a`.`t``t`", false, "t`t"),
            ("a . /* c.d */ t", false, "t"),
            ("\"t \"\"q\"", true, "t \"q"),
            ("`für`", false, "für"),
        ] {
            let sql = format!("{head} ON {name} FOR EACH ROW SET @x = a.y");
            assert_eq!(table(&sql, ansi).as_deref(), Some(expected), "{sql}");
        }
        assert_eq!(
            table_of_trigger(b"CREATE TRIGGER t AFTER INSERT ON \xe9 FOR", false),
            None
        );
        assert_eq!(table("CREATE TRIGGER t AFTER INSERT ON", false), None);
    }

    #[test]
    fn view_over_a_table_called_like_the_database_is_not_qualified() {
        assert!(!is_qualified(b"select `a`.`id` AS `id` from `a`", "a"));
        assert!(is_qualified(b"select `a`.`t`.`id` AS `id` from `x`", "a"));
        assert!(is_qualified(
            b"select 1 AS `1` from (`a`.`t` join `b`.`c`)",
            "a"
        ));
    }

    #[test]
    fn only_plain_words_are_words() {
        assert!(is_word("utf8mb4_unicode_ci"));
        assert!(!is_word("latin1; drop"));
        assert!(!is_word(""));
    }
}
