//! config/rowvault.toml against the types that read it, and docs/config.md, which is made of both.
//!
//! The long configuration is the one text about keys. Here it is held against the program: it has
//! every key and no other, each default that it tells is the program's, and each key that is
//! switched on is heard. `ROWVAULT_WRITE_DOCS=1 cargo test --test it config_reference` writes
//! docs/config.md anew.

use std::path::{Path, PathBuf};

use rowvault::config::keys::{Form, Key};
use rowvault::config::{self, Config};
use toml::Value;

/// Keys that only permit what would be refused: nothing else is told of them.
const PERMITS: [&str; 1] = ["http.plain_http"];

fn file() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/rowvault.toml");
    std::fs::read_to_string(path).unwrap()
}

/// What the file says of one key.
#[derive(Clone, Debug)]
struct Said {
    path: Vec<String>,
    prose: String,
    takes: String,
    default: String,
    cost: String,
    example: Value,
}

/// What the file says of one table.
#[derive(Debug)]
struct Section {
    heading: String,
    prose: String,
    keys: Vec<Said>,
}

/// The words at the head of the file, and its tables.
fn sections() -> (String, Vec<Section>) {
    let file = file();
    let mut paragraphs = file.split("\n\n");
    let words = |text: &str| prose(text.lines().collect::<Vec<_>>().as_slice());
    let head = words(paragraphs.next().unwrap());
    (head, paragraphs.map(section).collect())
}

fn prose(lines: &[&str]) -> String {
    let lines = lines.iter().map(|line| line.trim_start_matches("# "));
    lines.collect::<Vec<_>>().join(" ")
}

fn section(text: &str) -> Section {
    let mut waiting: Vec<&str> = Vec::new();
    let mut section: Option<Section> = None;
    for line in text.lines() {
        let live = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with("# ") {
            waiting.push(line);
        } else if live.starts_with('[') {
            let (heading, prose) = (live.to_owned(), prose(&waiting));
            let keys = Vec::new();
            let new = Section {
                heading,
                prose,
                keys,
            };
            assert!(section.replace(new).is_none(), "two tables in {text:?}");
            waiting.clear();
        } else {
            let section = section
                .as_mut()
                .unwrap_or_else(|| panic!("no table: {line}"));
            let said = said(&section.heading, &waiting, live);
            section.keys.push(said);
            waiting.clear();
        }
    }
    assert!(waiting.is_empty(), "{waiting:?} says nothing of a key");
    section.unwrap_or_else(|| panic!("no table in {text:?}"))
}

fn said(heading: &str, comment: &[&str], line: &str) -> Said {
    let (name, example) = line.split_once(" = ").expect("a key and a value");
    let mut path = table(heading);
    path.push(name.to_owned());
    let (facts, words) = comment
        .split_last()
        .unwrap_or_else(|| panic!("nothing on {path:?}"));
    let facts: Vec<&str> = facts.trim_start_matches("# ").split(" | ").collect();
    let [takes, default, cost] = facts[..] else {
        panic!("{path:?}: the last line must be: takes | default | cost: …, not {facts:?}");
    };
    assert!(!words.is_empty(), "{path:?} has no words");
    Said {
        prose: prose(words),
        takes: takes.to_owned(),
        default: default.to_owned(),
        cost: cost.strip_prefix("cost: ").expect("it says so").to_owned(),
        example: value(example).unwrap_or_else(|| panic!("{path:?}: {example:?}")),
        path,
    }
}

fn table(heading: &str) -> Vec<String> {
    let name = heading.trim_matches(['[', ']']);
    name.split('.').map(str::to_owned).collect()
}

fn value(text: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {text}").parse().ok()?;
    table.get("value").cloned()
}

/// The table of a path: of several of a name the first.
fn descend<'a>(root: &'a mut toml::Table, path: &[String]) -> &'a mut toml::Table {
    let Some((first, rest)) = path.split_first() else {
        return root;
    };
    let below = match root.get_mut(first) {
        Some(Value::Table(table)) => table,
        Some(Value::Array(tables)) => tables[0].as_table_mut().unwrap(),
        _ => panic!("no table {first}"),
    };
    descend(below, rest)
}

/// Whether the two cannot be given at once.
fn exclude(one: &[String], other: &[String]) -> bool {
    let (Some((one, above)), Some((other, also))) = (one.split_last(), other.split_last()) else {
        return false;
    };
    let stem = |name: &str| {
        let stem = name.strip_suffix("_file").or(name.strip_suffix("_command"));
        match above {
            // What opens the repository is one thing.
            [table] if table == "repository" => stem.map(|_| "key".to_owned()),
            _ => stem.map(str::to_owned),
        }
    };
    let both = stem(one).is_some() && stem(one) == stem(other);
    above == also && one != other && one != "ca_file" && other != "ca_file" && both
}

/// The file with every key switched on that can be together with `chosen`.
fn whole(chosen: &[String]) -> toml::Table {
    let on: String = file()
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line)))
        .collect();
    let mut root: toml::Table = on.parse().expect("the file is TOML with every key on");
    let mut kept: Vec<Vec<String>> = vec![chosen.to_vec()];
    let (_, sections) = sections();
    for path in sections
        .iter()
        .flat_map(|one| &one.keys)
        .map(|key| &key.path)
    {
        if path == chosen {
            continue;
        }
        match kept.iter().any(|other| exclude(path, other)) {
            true => drop(descend(&mut root, &path[..path.len() - 1]).remove(path.last().unwrap())),
            false => kept.push(path.clone()),
        }
    }
    root
}

fn load(root: &toml::Table) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), root.to_string()).unwrap();
    config::load(file.path(), &|_| None).map_err(|error| error.to_string())
}

/// All that was understood; paths start at a file that has another name each time.
fn understood(root: &toml::Table) -> String {
    let config = load(root).unwrap_or_else(|error| panic!("{error} in {root}"));
    format!("{config:?}")
}

fn name(path: &[String]) -> String {
    path.join(".")
}

#[test]
fn configuration_has_exactly_the_keys_that_the_program_has() {
    let (_, sections) = sections();
    let mut written: Vec<String> = Vec::new();
    for section in &sections {
        written.push(name(&table(&section.heading)));
        written.extend(section.keys.iter().map(|key| name(&key.path)));
    }
    let mut known: Vec<String> = config::keys()
        .iter()
        .map(|key| key.path.join("."))
        .collect();
    written.sort();
    known.sort();
    assert!(known.len() > 90, "{}", known.len());
    for key in &known {
        assert!(
            written.contains(key),
            "{key} is not in config/rowvault.toml: write it there, with its line of facts"
        );
    }
    for key in &written {
        assert!(known.contains(key), "the program has no key {key}");
    }
    assert_eq!(written, known, "a key stands there twice");
}

#[test]
fn each_key_is_heard_and_each_default_is_the_one_that_is_told() {
    let (mut defaults, mut needed, mut heard) = (0, 0, 0);
    let (_, sections) = sections();
    for key in sections.iter().flat_map(|section| &section.keys) {
        let (last, above) = key.path.split_last().unwrap();
        let with = whole(&key.path);
        let mut without = with.clone();
        let removed = descend(&mut without, above).remove(last);
        assert_eq!(removed.as_ref(), Some(&key.example), "{}", name(&key.path));
        if key.default == "needed in this table" {
            needed += 1;
            assert!(load(&without).is_err(), "{} is not needed", name(&key.path));
            continue;
        }
        let quiet = understood(&without);
        if PERMITS.contains(&&*name(&key.path)) {
            continue;
        }
        assert!(
            understood(&with) != quiet,
            "{} is not heard",
            name(&key.path)
        );
        heard += 1;
        let Some(default) = value(&key.default) else {
            continue;
        };
        let mut told = without.clone();
        descend(&mut told, above).insert(last.clone(), default);
        assert!(understood(&told) == quiet, "default of {}", name(&key.path));
        defaults += 1;
    }
    assert!(
        heard > 60 && defaults > 25 && needed > 10,
        "{heard} {defaults} {needed}"
    );
}

fn form(key: &Key) -> String {
    let one = match key.form {
        Form::Text => "text".to_owned(),
        Form::Whole => "whole number".to_owned(),
        Form::Real => "number".to_owned(),
        Form::Bool => "true or false".to_owned(),
        Form::Any => "number or text".to_owned(),
        Form::Table => "table".to_owned(),
        Form::Choice(texts) => format!("`{}`", texts.join("`, `")),
    };
    match key.lists {
        0 => one,
        1 => format!("list of {one}s"),
        _ => format!("list of lists of {one}s"),
    }
}

/// docs/config.md, as it should be.
fn page() -> String {
    let (head, sections) = sections();
    let known = config::keys();
    let mut page = format!(
        "# The configuration\n\nMade from [config/rowvault.toml](../config/rowvault.toml) and from \
         the types that read it; a test holds all three together.\nShort ones to begin with: \
         [SQLite](../config/sqlite-local.toml), [PostgreSQL and S3](../config/postgres-s3.toml), \
         [SuiteCRM](../config/suitecrm.toml), [several sources](../config/several.toml), \
         [a host that only writes](../config/write-only.toml).\n\n{head}\n"
    );
    for section in sections {
        page.push_str(&format!("\n## `{}`\n", section.heading));
        if !section.prose.is_empty() {
            page.push_str(&format!("\n{}\n", section.prose));
        }
        page.push_str(
            "\n| key | type | does | takes | without it | cost |\n|---|---|---|---|---|---|\n",
        );
        for key in &section.keys {
            let of = known.iter().find(|one| one.path == key.path);
            let cells = [
                format!("`{}`", key.path.last().unwrap()),
                form(of.unwrap()),
                key.prose.clone(),
                key.takes.clone(),
                match value(&key.default) {
                    Some(_) => format!("`{}`", key.default),
                    None => key.default.clone(),
                },
                key.cost.clone(),
            ];
            let cells = cells.map(|cell| cell.replace('|', "\\|").replace('<', "&lt;"));
            page.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    page
}

#[test]
fn page_about_the_configuration_is_as_the_types_and_the_file_make_it() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let page = page();
    if std::env::var_os("ROWVAULT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/config.md is not up to date; make it anew with:\n\
         ROWVAULT_WRITE_DOCS=1 cargo test --test it config_reference"
    );
}
