//! Who may use whom: the staircase of the house, as one table.
//!
//! A file uses only what stands above it; a room's own items (`row.rs`) stand before its children
//! or after them, never both. Code that is compiled for tests alone is free.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fault, File};

/// How the files of a room stand to each other.
enum Children {
    /// There are none.
    None,
    /// In this order; each may use those before it.
    Ordered(&'static [&'static str]),
    /// None uses another, but all may use `first`, `last` may use all, and pairs may be excepted.
    Apart {
        /// May be used by every one.
        first: &'static [&'static str],
        /// The others; empty where any may come.
        others: &'static [&'static str],
        /// May use every one.
        last: &'static [&'static str],
        /// (user, used).
        exceptions: &'static [(&'static str, &'static str)],
    },
    /// In any order without a circle.
    Free,
}

/// The rooms, lowest first.
const HOUSE: &[(&str, Children)] = &[
    ("failure", Children::None),
    ("failpoint", Children::None),
    ("planted", Children::None),
    ("program", Children::None),
    ("clock", Children::None),
    ("random", Children::None),
    ("id", Children::None),
    (
        "row",
        Children::Ordered(&[
            "schema", "cell", "key", "codec", "merge", "diff", "closure", "filter",
        ]),
    ),
    ("sample", Children::Free),
    ("cut", Children::None),
    (
        "crypto",
        Children::Ordered(&["key", "seal", "envelope", "keyslot", "sign"]),
    ),
    (
        "format",
        Children::Apart {
            first: &["object"],
            others: &[
                "repository",
                "keyslot",
                "keyring",
                "pack",
                "index",
                "run",
                "manifest",
                "ledger",
                "intent",
                "lease",
                "filter",
                "shadow",
            ],
            last: &[],
            // A ledger entry repeats the totals of the manifest that it announces; a writer's name
            // has one form, in its key file and in the keyring.
            exceptions: &[("ledger", "manifest"), ("keyring", "keyslot")],
        },
    ),
    ("retention", Children::None),
    ("schedule", Children::None),
    ("unusual", Children::None),
    ("store", Children::Free),
    ("recipient", Children::None),
    (
        "source",
        Children::Apart {
            first: &["address", "beside", "scratch"],
            others: &["sqlite", "postgres", "mysql"],
            last: &["open"],
            // A scratch place is said by its address.
            exceptions: &[("scratch", "address")],
        },
    ),
    ("state", Children::Free),
    ("notify", Children::Free),
    ("repo", Children::Free),
    (
        "job",
        Children::Apart {
            first: &["staging"],
            others: &[],
            last: &[],
            exceptions: &[],
        },
    ),
    ("document", Children::None),
    ("config", Children::Free),
    ("daemon", Children::Free),
    ("cli", Children::Free),
    ("demo", Children::Free),
];

/// What the staircase alone would allow: (user, used, why not).
const NEVER: &[(&str, &str, &str)] = &[
    ("source", "store", "a source knows nothing of where rows go"),
    (
        "source",
        "format",
        "a source knows nothing of where rows go",
    ),
    ("repo", "source", "only jobs let source and repo meet"),
    (
        "store",
        "crypto",
        "a store moves sealed bytes and cannot open them",
    ),
    (
        "store",
        "format",
        "a store moves sealed bytes and cannot read them",
    ),
    (
        "format",
        "crypto",
        "the format says how bytes lie, not how they are sealed",
    ),
    (
        "job",
        "notify",
        "the daemon turns an outcome into messages, a verb does not",
    ),
];

fn split(module: &str) -> (&str, Option<&str>) {
    let mut parts = module.split("::");
    (parts.next().unwrap_or(""), parts.next())
}

fn rank(room: &str) -> Option<usize> {
    HOUSE.iter().position(|(name, _)| *name == room)
}

/// Why `user` may not use `used`, both modules of the crate; none where it may.
fn objection(user: &str, used: &str) -> Option<String> {
    let (user_room, user_child) = split(user);
    let (used_room, used_child) = split(used);
    let (from, to) = (rank(user_room)?, rank(used_room)?);
    if from < to {
        return Some(format!("{user} may not use {used}, which stands above it"));
    }
    let banned = NEVER
        .iter()
        .find(|(a, b, _)| *a == user_room && *b == used_room);
    if let Some((_, _, why)) = banned {
        return Some(format!("{user} may never use {used}: {why}"));
    }
    if from != to || user_child == used_child {
        return None;
    }
    within(&HOUSE[from].1, user_child, used_child)
        .map(|why| format!("{user} may not use {used}: {why}"))
}

/// Why one child of a room may not use another; the room's own items are `None`.
fn within(children: &Children, user: Option<&str>, used: Option<&str>) -> Option<&'static str> {
    match (children, user, used) {
        (Children::None | Children::Free, _, _) | (_, _, None) => None,
        (_, None, Some(_)) => Some("a room's own items stand before its children"),
        (Children::Ordered(order), Some(user), Some(used)) => {
            let place = |name| order.iter().position(|known| *known == name);
            (place(user) < place(used)).then_some("it comes later in the room")
        }
        (
            Children::Apart {
                first,
                last,
                exceptions,
                ..
            },
            Some(user),
            Some(used),
        ) => {
            let may = first.contains(&used) && !first.contains(&user)
                || last.contains(&user) && !last.contains(&used)
                || exceptions.contains(&(user, used));
            (!may).then_some("files of this room do not use each other")
        }
    }
}

/// The longest module of `known` that `path` leads into.
fn module_of(path: &[String], known: &BTreeSet<&str>) -> Option<String> {
    (1..=path.len())
        .rev()
        .map(|length| path[..length].join("::"))
        .find(|module| known.contains(module.as_str()))
}

/// Every use of one file by another: who, whom, at which line.
fn uses(files: &[File]) -> Vec<(&File, String, usize)> {
    let known: BTreeSet<&str> = files.iter().map(|file| file.module.as_str()).collect();
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.module.is_empty()) {
        for mention in file.scan.mentions(&file.module) {
            let Some(used) = module_of(&mention.path, &known) else {
                continue;
            };
            if used != file.module {
                found.push((file, used, mention.line));
            }
        }
    }
    found
}

/// Every use that the staircase forbids.
pub fn check(files: &[File]) -> Vec<Fault> {
    let faults = uses(files).into_iter().filter_map(|(file, used, line)| {
        objection(&file.module, &used).map(|why| file.fault(line, why))
    });
    faults.collect()
}

/// Whether one of the modules is a piece that was split off the other, below a room's children.
/// The two are one module in two files, and may use each other.
fn one_module(a: &str, b: &str) -> bool {
    let (long, short) = if a.len() > b.len() { (a, b) } else { (b, a) };
    short.contains("::")
        && long
            .strip_prefix(short)
            .is_some_and(|rest| rest.starts_with("::"))
}

/// Every use by which a file comes back to itself.
pub fn circles(files: &[File]) -> Vec<Fault> {
    let mut uses = uses(files);
    uses.retain(|(file, used, _)| !one_module(&file.module, used));
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, used, _) in &uses {
        graph.entry(&file.module).or_default().insert(used);
    }
    let mut faults = Vec::new();
    let mut told = BTreeSet::new();
    for (file, used, line) in &uses {
        if let Some(way) = way(&graph, used, &file.module)
            && told.insert((file.module.as_str(), used.as_str()))
        {
            let rule = format!("{} uses itself by way of {}", file.module, way.join(" → "));
            faults.push(file.fault(*line, rule));
        }
    }
    faults
}

/// A way through `graph` from `from` to `to`, `from` first.
fn way<'a>(
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    from: &'a str,
    to: &str,
) -> Option<Vec<&'a str>> {
    let mut waiting = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    while let Some(path) = waiting.pop() {
        let last = path[path.len() - 1];
        if last == to {
            return Some(path);
        }
        for &next in graph.get(last).into_iter().flatten() {
            if seen.insert(next) {
                waiting.push([path.as_slice(), &[next]].concat());
            }
        }
    }
    None
}

/// Every file that has no place in the table.
pub fn unplanned(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| !file.module.is_empty()) {
        let (room, child) = split(&file.module);
        let Some(rank) = rank(room) else {
            faults.push(file.fault(1, format!("the plan of the house has no room {room}")));
            continue;
        };
        let Some(child) = child else { continue };
        let planned = file.scan.in_tests(0)
            || match &HOUSE[rank].1 {
                Children::Ordered(order) => order.contains(&child),
                Children::Apart {
                    first,
                    others,
                    last,
                    ..
                } => {
                    others.is_empty()
                        || [first, others, last]
                            .iter()
                            .any(|names| names.contains(&child))
                }
                Children::None | Children::Free => true,
            };
        if !planned {
            faults.push(file.fault(
                1,
                format!("the plan of {room} has no {child}; add it in order.rs"),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staircase_goes_up_only() {
        for (user, used) in [
            ("failure", "id"),
            ("row::cell", "row::key"),
            ("row::codec::column", "row::merge"),
            ("row", "row::cell"),
            ("crypto::seal", "format::pack"),
            ("format::pack", "crypto::key"),
            ("format::pack", "format::index"),
            ("format::object", "format::pack"),
            ("store::retry", "format"),
            ("source::sqlite::capture", "source::mysql"),
            ("source::sqlite", "source::open"),
            ("source::open", "store"),
            ("repo::writer", "source"),
            ("job::backup", "job::restore"),
            ("job::backup", "notify"),
            ("job::backup", "config"),
            ("repo", "job"),
        ] {
            assert!(objection(user, used).is_some(), "{user} → {used}");
        }
        for (user, used) in [
            ("id", "failure"),
            ("row::key", "row::cell"),
            ("row::cell", "row"),
            ("row::codec::column", "row::codec"),
            ("format::pack", "format::object"),
            ("format::pack", "format"),
            ("source::open", "source::mysql::capture"),
            ("source::sqlite::capture", "source::sqlite::types"),
            ("store", "store::layout"),
            ("job::backup", "job"),
            ("job::backup", "repo::writer"),
            ("cli", "job::backup"),
            ("demo::fill", "sample::churn"),
        ] {
            assert_eq!(objection(user, used), None, "{user} → {used}");
        }
    }

    #[test]
    fn use_and_inline_path_are_both_held() {
        let files = [
            File::new("src/row.rs", "//! a\n"),
            File::new("src/job.rs", "//! a\n"),
            File::new(
                "src/id.rs",
                "//! a\nuse crate::row::Row;\nfn f() { crate::job::run() }\n",
            ),
        ];
        let lines: Vec<usize> = check(&files).iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn circle_over_three_files_is_found() {
        let mut files = vec![
            File::new("src/repo/writer.rs", "use super::blob::Blob;"),
            File::new("src/repo/blob.rs", "use crate::repo::keys::Keys;"),
            File::new("src/repo/keys.rs", "use crate::id::Name;"),
        ];
        assert!(circles(&files).is_empty());
        files[2] = File::new("src/repo/keys.rs", "use crate::repo::writer::Writer;");
        assert_eq!(circles(&files).len(), 3);
    }

    #[test]
    fn pieces_of_one_module_may_use_each_other() {
        let both = |a, b| {
            circles(&[
                File::new(a, "use super::text; mod text; fn f() { text::g() }"),
                File::new(b, "use super::Error; use super::super::key::E;"),
            ])
            .len()
        };
        assert_eq!(both("src/row/key.rs", "src/row/key/text.rs"), 0);
        assert!(both("src/repo.rs", "src/repo/text.rs") > 0);
    }

    #[test]
    fn unknown_rooms_and_children_are_named() {
        let files = [
            File::new("src/backup.rs", ""),
            File::new("src/crypto/cipher.rs", ""),
            File::new("src/store/disk.rs", ""),
            File::new("src/lib.rs", ""),
        ];
        let paths: Vec<String> = unplanned(&files)
            .into_iter()
            .map(|fault| fault.path)
            .collect();
        assert_eq!(paths, ["src/backup.rs", "src/crypto/cipher.rs"]);
    }
}
