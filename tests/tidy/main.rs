//! The house rules, held over the text of `src/`.
//!
//! Reviewers tire, tests do not: who may use whom, what every file begins with, how long things
//! get, which words are banned. Each rule is a function over text, tried on small strings beside
//! it; here they meet the real files. A failure names file, line and rule.

mod order;
mod scan;
mod shape;

use std::fs;
use std::path::{Path, PathBuf};

use scan::Scan;

/// A file of the crate.
pub struct File {
    /// Its path from the root of the crate, with `/`.
    pub path: String,
    /// Its module path, as `row::codec`; empty for `lib.rs` and `main.rs`.
    pub module: String,
    /// Its text and what was found in it.
    pub scan: Scan,
}

/// What a rule found wrong.
pub struct Fault {
    /// The file's path.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The rule, as a sentence.
    pub rule: String,
}

impl File {
    /// The file `path`, whose text is `text`.
    pub fn new(path: &str, text: &str) -> Self {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inner.trim_end_matches("/mod").replace('/', "::");
        let module = if module == "lib" || module == "main" {
            String::new()
        } else {
            module
        };
        File {
            path: path.into(),
            module,
            scan: Scan::new(text),
        }
    }

    /// A fault in this file.
    pub fn fault(&self, line: usize, rule: impl Into<String>) -> Fault {
        Fault {
            path: self.path.clone(),
            line,
            rule: rule.into(),
        }
    }
}

fn walk(directory: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the crate's sources can be read") {
        let path = entry.expect("the crate's sources can be read").path();
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            out.push(path);
        }
    }
}

/// Every file of `src/`, those that are only tests marked as such.
fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&root.join("src"), &mut paths);
    paths.sort();
    let mut files: Vec<File> = paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).expect("the crate's sources are UTF-8");
            let inside = path
                .strip_prefix(root)
                .expect("it was found below the root");
            File::new(&inside.to_string_lossy(), &text)
        })
        .collect();
    scan::mark_test_files(&mut files);
    assert!(files.len() > 30, "only {} files were found", files.len());
    files
}

fn expect_none(mut faults: Vec<Fault>) {
    faults.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    let all: Vec<String> = faults
        .iter()
        .map(|fault| format!("{}:{}: {}", fault.path, fault.line, fault.rule))
        .collect();
    assert!(all.is_empty(), "{} faults\n{}\n", all.len(), all.join("\n"));
}

#[test]
fn files_use_only_what_stands_above_them() {
    expect_none(order::check(&files()));
}

#[test]
fn files_depend_on_each_other_in_no_circle() {
    expect_none(order::circles(&files()));
}

#[test]
fn house_has_only_the_rooms_of_the_plan() {
    expect_none(order::unplanned(&files()));
}

#[test]
fn every_file_is_declared() {
    expect_none(shape::undeclared(&files()));
}

#[test]
fn files_and_functions_keep_their_shape() {
    expect_none(files().iter().flat_map(shape::lengths).collect());
}

#[test]
fn banned_words_stand_nowhere() {
    expect_none(files().iter().flat_map(shape::words).collect());
}

#[test]
fn lints_are_switched_off_with_a_reason() {
    expect_none(files().iter().flat_map(shape::allowances).collect());
}
