//! Rust source as the rules see it: no comments, no contents of literals, tests known.
//!
//! Not a parser: enough of the lexer that braces and words can be trusted. Invariant: masked text
//! has the length and the line breaks of the original, so that every place is found again.

use std::ops::Range;

use super::File;

/// A file's text, taken apart.
pub struct Scan {
    /// The text.
    pub text: String,
    /// The text with comments and the contents of literals as blanks.
    pub code: String,
    /// The bytes that are compiled for tests alone.
    pub tests: Vec<Range<usize>>,
}

/// A path that a file names, as `["row", "cell", "Cell"]`, absolute from the crate.
pub struct Mention {
    /// The line, from 1.
    pub line: usize,
    /// The segments.
    pub path: Vec<String>,
}

impl Scan {
    /// Takes `text` apart.
    pub fn new(text: &str) -> Self {
        let code = masked(text);
        let tests = test_ranges(&code);
        Scan {
            text: text.into(),
            code,
            tests,
        }
    }

    /// The line of the byte `at`, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.code.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1
    }

    /// Whether the byte `at` is compiled for tests alone.
    pub fn in_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Where `word` stands in code that is not only for tests, not as a part of a longer name.
    pub fn places(&self, word: &str) -> Vec<usize> {
        places(&self.code, word)
            .into_iter()
            .filter(|&at| !self.in_tests(at))
            .collect()
    }

    /// The modules that the file declares without a body: where, and their names.
    pub fn declared(&self) -> Vec<(usize, String)> {
        places(&self.code, "mod")
            .into_iter()
            .filter_map(|at| {
                let rest = &self.code[at + 3..];
                let name = rest.trim_start();
                let end = name.find(|letter| !is_name(letter))?;
                let ended = name[end..].trim_start().starts_with(';');
                ended.then(|| (at, name[..end].to_string()))
            })
            .collect()
    }

    /// The paths into this crate that code outside tests names; `module` is the file's own path.
    pub fn mentions(&self, module: &str) -> Vec<Mention> {
        let own: Vec<String> = module
            .split("::")
            .filter(|part| !part.is_empty())
            .map(String::from)
            .collect();
        let children: Vec<String> = self.declared().into_iter().map(|(_, name)| name).collect();
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        for position in 0..tokens.len() {
            let (at, token) = tokens[position];
            let follows = |back: usize| position.checked_sub(back).map(|before| tokens[before].1);
            let begins = tokens.get(position + 1).is_some_and(|next| next.1 == "::");
            let in_visibility = follows(1) == Some("in") && follows(2) == Some("(");
            if !begins || follows(1) == Some("::") || in_visibility || self.in_tests(at) {
                continue;
            }
            let (start, next) = match token {
                "crate" => (Vec::new(), position + 2),
                "self" => (own.clone(), position + 2),
                "super" => supers(&own, &tokens, position),
                name if children.iter().any(|child| child == name) => (own.clone(), position),
                _ => continue,
            };
            let mut paths = Vec::new();
            path_tree(&tokens, next, start, &mut paths);
            let line = self.line(at);
            found.extend(paths.into_iter().map(|path| Mention { line, path }));
        }
        found
    }
}

/// What one or several `super::` lead to, and where the path goes on.
fn supers(own: &[String], tokens: &[(usize, &str)], mut position: usize) -> (Vec<String>, usize) {
    let mut path = own.to_vec();
    while tokens.get(position).is_some_and(|token| token.1 == "super")
        && tokens
            .get(position + 1)
            .is_some_and(|token| token.1 == "::")
    {
        path.pop();
        position += 2;
    }
    (path, position)
}

/// Follows a path or a tree of paths from `position`, and returns where it ended.
fn path_tree(
    tokens: &[(usize, &str)],
    mut position: usize,
    mut path: Vec<String>,
    out: &mut Vec<Vec<String>>,
) -> usize {
    while let Some(&(_, token)) = tokens.get(position) {
        if token == "{" {
            position += 1;
            while tokens.get(position).is_some_and(|token| token.1 != "}") {
                let before = position;
                position = path_tree(tokens, position, path.clone(), out);
                while tokens
                    .get(position)
                    .is_some_and(|token| token.1 != "," && token.1 != "}")
                {
                    position += 1;
                }
                if tokens.get(position).is_some_and(|token| token.1 == ",") {
                    position += 1;
                }
                assert!(position > before, "a tree of paths does not end");
            }
            return position + 1;
        }
        if token.starts_with(is_name) && token != "self" {
            path.push(token.into());
        }
        if tokens.get(position + 1).is_some_and(|next| next.1 == "::") {
            position += 2;
        } else {
            break;
        }
    }
    out.push(path);
    position + 1
}

/// Marks as tests what a `#[cfg(test)] mod name;` declares.
pub fn mark_test_files(files: &mut [File]) {
    let mut modules = Vec::new();
    for file in files.iter() {
        for (at, name) in file.scan.declared() {
            if file.scan.in_tests(at) {
                let start = if file.module.is_empty() {
                    String::new()
                } else {
                    file.module.clone() + "::"
                };
                modules.push(start + &name);
            }
        }
    }
    for file in files {
        if modules.contains(&file.module) {
            let all = 0..file.scan.code.len();
            file.scan.tests.push(all);
        }
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where `word` stands in `code`, not as a part of a longer name.
pub fn places(code: &str, word: &str) -> Vec<usize> {
    let opens = word.starts_with(is_name);
    let closes = word.ends_with(is_name);
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| !opens || !code[..at].ends_with(is_name))
        .filter(|&at| !closes || !code[at + word.len()..].starts_with(is_name))
        .collect()
}

/// Names, `::`, and every other visible character by itself, with their places.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(letter) = code[at..].chars().next() {
        let length = if is_name(letter) {
            code[at..]
                .find(|letter| !is_name(letter))
                .unwrap_or(code.len() - at)
        } else if code[at..].starts_with("::") {
            2
        } else {
            letter.len_utf8()
        };
        if !letter.is_whitespace() {
            found.push((at, &code[at..at + length]));
        }
        at += length;
    }
    found
}

/// Where the block that opens at `open` ends: the byte after its brace.
pub fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Where the item at `start` ends, and where its block begins if it has one. Braces and
/// semicolons inside brackets (an array's length) do not count.
pub fn item_end(code: &str, start: usize) -> (usize, Option<usize>) {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return (block_end(code, at), Some(at)),
            b';' if depth == 0 => return (at + 1, None),
            _ => {}
        }
    }
    (code.len(), None)
}

fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for mark in ["#[cfg(test)]", "#[test]", "#[tokio::test]", "#![cfg(test)]"] {
        for (at, _) in code.match_indices(mark) {
            let end = if mark.starts_with("#!") {
                code.len()
            } else {
                item_end(code, at + mark.len()).0
            };
            ranges.push(at..end);
        }
    }
    ranges
}

/// How many bytes the literal or comment at the start of `rest` has, and how many of them at its
/// start and end stay visible; none where there is neither.
fn hidden(rest: &str, after_name: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(comment_length(rest));
    }
    if rest.starts_with('"') {
        return Some(string_length(rest));
    }
    if rest.starts_with('\'') {
        return character_length(rest);
    }
    let marks = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = rest.len() - marks.len();
    if after_name || prefix == 0 || prefix > 2 {
        return None;
    }
    let fence = marks.len() - marks.trim_start_matches('#').len();
    if rest[..prefix].contains('r') && marks[fence..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(fence));
        let body = &marks[fence + 1..];
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix + fence + 1 + length);
    }
    match marks.as_bytes().first() {
        Some(b'"') => Some(prefix + string_length(marks)),
        Some(b'\'') => character_length(marks).map(|length| prefix + length),
        _ => None,
    }
}

fn comment_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal; none for a lifetime.
fn character_length(rest: &str) -> Option<usize> {
    let mut letters = rest.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        letters.next()?;
        return letters
            .find(|letter| letter.1 == '\'')
            .map(|letter| letter.0 + 1);
    }
    letters
        .next()
        .filter(|letter| letter.1 == '\'')
        .map(|letter| letter.0 + 1)
}

/// `text` with comments and literals as blanks, byte for byte.
fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut after_name = false;
    while let Some(letter) = text[at..].chars().next() {
        if let Some(length) = hidden(&text[at..], after_name) {
            for byte in text[at..at + length].bytes() {
                out.push(if byte == b'\n' { '\n' } else { ' ' });
            }
            at += length;
            after_name = false;
        } else {
            // A letter that is not ASCII keeps its bytes and may be part of a name.
            out.push(letter);
            after_name = is_name(letter);
            at += letter.len_utf8();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mentions(module: &str, text: &str) -> Vec<String> {
        let found = Scan::new(text).mentions(module);
        found
            .into_iter()
            .map(|mention| mention.path.join("::"))
            .collect()
    }

    #[test]
    fn comments_and_literals_are_blank_and_places_stay() {
        let text = "let a = \"} // ż\\\" {\"; // {\nlet b = r#\"\"{\"#; /* { /* { */ */ let c = '{'; \
            fn d<'a>(x: &'a str) {} let e = b'\\'' ; let f = b\"{\"; let bread = br\"{\";";
        let code = masked(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('{').count(), 1, "{code}");
        assert!(code.contains("fn d<'a>(x: &'a str) {}"), "{code}");
        assert!(code.contains("let bread = "), "{code}");
        assert_eq!(Scan::new(text).line(text.find("let b").unwrap()), 2);
    }

    #[test]
    fn tests_are_found_by_their_attribute() {
        let text =
            "fn a() { x(); }\n#[cfg(test)]\nmod tests {\n  fn b() { x(); }\n}\nfn c() { x(); }";
        let scan = Scan::new(text);
        let lines: Vec<usize> = scan
            .places("x")
            .into_iter()
            .map(|at| scan.line(at))
            .collect();
        assert_eq!(lines, [1, 6]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(places("unmod mod modern", "mod"), [6]);
        assert_eq!(places("a.unwrap() b.unwrap_or()", ".unwrap()"), [1]);
    }

    #[test]
    fn every_way_to_name_a_module_is_seen() {
        let text = "use crate::{row::{cell::{self, Cell}, key}, id as names};\n\
            pub mod child;\n\
            use child::Thing;\n\
            fn f() -> super::Error { crate::cut::Edges::new(); self::inner(); super::super::top() }\n\
            pub(in crate::store) fn g() {}\n\
            // crate::demo::x\n\
            #[cfg(test)] mod tests { use crate::job::x; }";
        assert_eq!(
            mentions("format::pack", text),
            [
                "row::cell",
                "row::cell::Cell",
                "row::key",
                "id",
                "format::pack::child::Thing",
                "format::Error",
                "cut::Edges::new",
                "format::pack::inner",
                "top",
            ]
        );
    }

    #[test]
    fn file_declared_for_tests_is_tests() {
        let mut files = vec![
            File::new("src/row.rs", "#[cfg(test)]\nmod proofs;\nmod cell;"),
            File::new("src/row/proofs.rs", "fn a() {}"),
            File::new("src/row/cell.rs", "fn a() {}"),
        ];
        mark_test_files(&mut files);
        assert!(files[1].scan.in_tests(0));
        assert!(!files[2].scan.in_tests(0));
    }
}
