//! What a file looks like: its beginning, its lengths, its words, its place in the tree.

use super::scan::{self, item_end};
use super::{Fault, File};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const BEGINNING_LINES_MAX: usize = 12;

/// Words that stand nowhere but in the files named, and why.
const WORDS: &[(&[&str], &[&str], &str)] = &[
    (
        &["SystemTime::now", "Utc::now", "Instant::now", "Local::now"],
        &["src/clock.rs"],
        "time comes as an argument (clock)",
    ),
    (
        &["thread_rng", "getrandom", "OsRng", "rand"],
        &["src/random.rs"],
        "randomness comes as an argument (random)",
    ),
    (
        &["todo!", "unimplemented!", "dbg!"],
        &[],
        "nothing unfinished is landed",
    ),
    (
        &[".unwrap()"],
        &[],
        "return the error, or say with expect why there is none",
    ),
    (
        &["to_ne_bytes", "from_ne_bytes"],
        &[],
        "bytes are little-endian",
    ),
];

/// Rooms that know nothing outside.
const PURE: &[&str] = &[
    "row",
    "sample",
    "cut",
    "crypto",
    "format",
    "retention",
    "schedule",
    "unusual",
];
/// What would be outside.
const OUTSIDE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "tokio",
    "async",
];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc", "shared",
];

/// The beginning of the file, its length, and those of its functions.
pub fn lengths(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !file.scan.text.starts_with("//! ") {
        faults.push(file.fault(1, "a file begins with //! and says what it is"));
    }
    let beginning = file
        .scan
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"));
    // A table of the beginning is a specification, and as long as it has to be.
    let beginning = beginning.filter(|line| !line.starts_with("//! |")).count();
    if beginning > BEGINNING_LINES_MAX && !file.module.is_empty() {
        let rule = format!("{beginning} lines of //!, where {BEGINNING_LINES_MAX} are the most");
        faults.push(file.fault(1, rule));
    }
    let starts = file.scan.text.split_inclusive('\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some(start)
    });
    let lines = starts.filter(|&at| !file.scan.in_tests(at)).count();
    if lines > FILE_LINES_MAX {
        let rule = format!("{lines} lines without tests, where {FILE_LINES_MAX} are the most");
        faults.push(file.fault(1, rule));
    }
    for at in file.scan.places("fn") {
        let (end, block) = item_end(&file.scan.code, at);
        let named = file.scan.code[at + 2..].starts_with(' ');
        let (first, last) = (file.scan.line(at), file.scan.line(end - 1));
        let length = last + 1 - first;
        if named && block.is_some() && length > FUNCTION_LINES_MAX {
            let rule =
                format!("a function of {length} lines, where {FUNCTION_LINES_MAX} are the most");
            faults.push(file.fault(first, rule));
        }
    }
    faults
}

/// Banned words, and doors in pure rooms.
pub fn words(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (words, allowed, why) in WORDS {
        if allowed.contains(&file.path.as_str()) {
            continue;
        }
        for word in *words {
            for at in file.scan.places(word) {
                let path = *word != "rand" || file.scan.code[at + 4..].starts_with("::");
                if path {
                    faults.push(file.fault(file.scan.line(at), format!("{word}: {why}")));
                }
            }
        }
    }
    let room = file.module.split("::").next().unwrap_or("");
    if PURE.contains(&room) {
        for word in OUTSIDE {
            for at in file.scan.places(word) {
                let rule = format!("{word}: {room} is pure and knows nothing outside");
                faults.push(file.fault(file.scan.line(at), rule));
            }
        }
    }
    faults
}

/// Lints that are switched off without a comment on the same line or the one before.
pub fn allowances(file: &File) -> Vec<Fault> {
    let lines: Vec<&str> = file.scan.text.lines().collect();
    let mut faults = Vec::new();
    for mark in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for at in scan::places(&file.scan.code, mark) {
            let line = file.scan.line(at);
            let above = line
                .checked_sub(2)
                .map_or("", |above| lines[above])
                .trim_start();
            let end = item_end(&file.scan.code, at).0;
            let attribute = file.scan.text[at..end].split(']').next().unwrap_or("");
            let said = lines[line - 1].contains("//")
                || above.starts_with("//") && !above.starts_with("///")
                || attribute.contains("reason");
            if !said {
                faults.push(file.fault(line, "a lint is switched off without saying why"));
            }
        }
    }
    faults
}

/// Files that no file declares, and names that say nothing.
pub fn undeclared(files: &[File]) -> Vec<Fault> {
    let mut declared = Vec::new();
    let mut faults = Vec::new();
    for file in files {
        for (at, name) in file.scan.declared() {
            let start = if file.module.is_empty() {
                String::new()
            } else {
                file.module.clone() + "::"
            };
            declared.push(start + &name);
            if EMPTY_NAMES.contains(&name.as_str()) {
                let rule = format!("the name {name} says nothing: which noun is missing?");
                faults.push(file.fault(file.scan.line(at), rule));
            }
        }
        for name in EMPTY_NAMES {
            for at in file.scan.places(&format!("mod {name} {{")) {
                let rule = format!("the name {name} says nothing: which noun is missing?");
                faults.push(file.fault(file.scan.line(at), rule));
            }
        }
    }
    for file in files.iter().filter(|file| !file.module.is_empty()) {
        if !declared.contains(&file.module) {
            faults.push(file.fault(1, "no file declares this one, so it is never compiled"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File::new("src/job.rs", text)
    }

    fn rules(faults: Vec<Fault>) -> Vec<(usize, String)> {
        faults
            .into_iter()
            .map(|fault| (fault.line, fault.rule))
            .collect()
    }

    #[test]
    fn file_without_a_beginning_is_a_fault() {
        assert_eq!(lengths(&file("//! A job.\n")).len(), 0);
        assert_eq!(lengths(&file("// A job.\n")).len(), 1);
        assert_eq!(lengths(&file("\n//! A job.\n")).len(), 1);
        assert_eq!(lengths(&file(&"//! A job.\n".repeat(13))).len(), 1);
        let table = "//! A job.\n".repeat(12) + &"//! | a | b |\n".repeat(9);
        assert_eq!(lengths(&file(&table)).len(), 0);
    }

    #[test]
    fn long_file_is_a_fault_and_tests_do_not_count() {
        let code = |lines: usize| format!("//! a\n{}", "struct A;\n".repeat(lines - 1));
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "struct A;\n".repeat(900)
        );
        assert_eq!(lengths(&file(&(code(600) + &tests))).len(), 0);
        assert_eq!(lengths(&file(&(code(601) + &tests))).len(), 1);
    }

    #[test]
    fn long_function_is_a_fault_whatever_its_braces() {
        let function = |lines: usize| {
            let body = "    g(\"}\", '}'); // }\n".repeat(lines - 2);
            format!("//! a\npub fn f<'a>(x: &'a [u8; 4]) -> u8 {{\n{body}}}\n")
        };
        assert_eq!(lengths(&file(&function(70))).len(), 0);
        let found = rules(lengths(&file(&function(71))));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        let pointer = format!("//! a\nstatic F: fn(u8) = {{\n{}}};\n", "\n".repeat(90));
        assert_eq!(lengths(&file(&pointer)).len(), 0);
    }

    #[test]
    fn banned_words_are_found_in_code_alone() {
        for text in [
            "let now = SystemTime::now();",
            "let now = chrono::Utc::now();",
            "let now = tokio::time::Instant::now();",
            "let now = Local::now();",
            "use rand::Rng;",
            "getrandom::fill(out);",
            "todo!()",
            "let x = y.unwrap();",
            "dbg!(x);",
            "x.to_ne_bytes()",
        ] {
            assert_eq!(words(&file(text)).len(), 1, "{text}");
            assert_eq!(words(&file(&format!("// {text}"))).len(), 0, "{text}");
            assert_eq!(
                words(&file(&format!("#[cfg(test)] mod tests {{ {text} }}"))).len(),
                0,
                "{text}"
            );
        }
        for text in [
            "x.unwrap_or(1)",
            "let operand = 1;",
            "\"todo!\"",
            "let rand = 1;",
        ] {
            assert_eq!(words(&file(text)).len(), 0, "{text}");
        }
        let clock = File::new("src/clock.rs", "SystemTime::now(); getrandom::fill(out);");
        assert_eq!(words(&clock).len(), 1);
    }

    #[test]
    fn pure_room_with_a_door_is_a_fault() {
        let text = "use std::fs::File;\nasync fn read() {}\n";
        assert_eq!(words(&File::new("src/row/cell.rs", text)).len(), 2);
        assert_eq!(words(&File::new("src/store.rs", text)).len(), 0);
    }

    #[test]
    fn lint_switched_off_needs_a_reason() {
        for (text, faults) in [
            ("#[allow(dead_code)]\nfn f() {}", 1),
            ("/// Documented.\n#[allow(dead_code)]\nfn f() {}", 1),
            (
                "// Used by the other engine.\n#[allow(dead_code)]\nfn f() {}",
                0,
            ),
            (
                "#[allow(dead_code)] // Used by the other engine.\nfn f() {}",
                0,
            ),
            (
                "#[expect(dead_code, reason = \"used later\")]\nfn f() {}",
                0,
            ),
            ("#![allow(dead_code)]\nfn f() {}", 1),
        ] {
            assert_eq!(allowances(&file(text)).len(), faults, "{text}");
        }
    }

    #[test]
    fn file_that_nobody_declares_is_a_fault() {
        let files = [
            File::new(
                "src/lib.rs",
                "pub mod row;\nmod helpers;\nmod inner { mod misc {} }",
            ),
            File::new("src/row.rs", "mod cell;"),
            File::new("src/row/cell.rs", ""),
            File::new("src/row/key.rs", ""),
            File::new("src/helpers.rs", ""),
        ];
        let faults = undeclared(&files);
        let found: Vec<(&str, usize)> = faults
            .iter()
            .map(|fault| (fault.path.as_str(), fault.line))
            .collect();
        assert_eq!(
            found,
            [("src/lib.rs", 2), ("src/lib.rs", 3), ("src/row/key.rs", 1)]
        );
    }
}
