//! A whole repository that was written once and is read for ever.
//!
//! `write_golden_repository` makes one anew; it stands under a name of its own, so that those of
//! earlier programs stay and are read too.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rowvault::id::hex;
use rowvault::job::{Opened, verify};
use rowvault::store::fault::FaultStore;

use crate::tiny::{Holding, Machine, Tiny, directory, tell};

/// The repositories, by the name of their directory.
const WRITTEN: &[&str] = &["base-runs", "delta-runs"];

fn place(name: &str) -> PathBuf {
    let root = env!("CARGO_MANIFEST_DIR");
    [root, "tests", "golden", "v1", "repository", name]
        .iter()
        .collect()
}

/// All that comes back, for people and for comparing: short text as it is, the rest as its hash.
async fn told(opened: &Opened) -> String {
    let catalog = opened.catalog().await.unwrap();
    let reader = opened.reader().await.unwrap();
    let mut out = String::new();
    for snapshot in catalog.snapshots() {
        let record = &snapshot.record;
        let tags = record.tags.join(" ");
        writeln!(out, "snapshot {} {} {tags}", record.id, snapshot.source).unwrap();
        let mut line = |pieces: &[&[u8]]| {
            let words: Vec<String> = pieces.iter().map(|piece| word(piece)).collect();
            writeln!(out, "  {}", words.join(" ")).unwrap();
        };
        tell(opened, &reader, snapshot, &mut line).await.unwrap();
    }
    out
}

fn word(piece: &[u8]) -> String {
    let plain = piece.iter().all(u8::is_ascii_graphic);
    match piece.len() {
        0..=60 if plain => String::from_utf8_lossy(piece).into_owned(),
        0..=200 => hex(piece),
        length => format!("({length} bytes, {})", blake3::hash(piece)),
    }
}

fn plant(storage: &FaultStore, root: &Path, below: &str) {
    for file in fs::read_dir(root.join(below)).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        let path = match below {
            "" => name,
            below => format!("{below}/{name}"),
        };
        match file.file_type().unwrap().is_dir() {
            true => plant(storage, root, &path),
            false => storage.plant(&path, fs::read(file.path()).unwrap()),
        }
    }
}

#[tokio::test]
async fn golden_repositories_restore_what_was_put_in() {
    for name in WRITTEN {
        let place = place(name);
        let machine = Machine::new(5);
        let storage = FaultStore::new(machine.clock.clone());
        plant(&storage, &place.join("objects"), "");
        let key = fs::read_to_string(place.join("key.txt")).unwrap();
        let state = directory();
        let opened = machine.open(&storage, &key, state.path()).await.unwrap();
        let expected = fs::read_to_string(place.join("told.txt")).unwrap();
        assert!(expected.lines().count() > 100, "{name} holds too little");
        assert_eq!(told(&opened).await, expected, "{name}");
        let catalog = opened.catalog().await.unwrap();
        let found = verify::run(&opened, &catalog.snapshots(), verify::Data::All).await;
        assert!(found.unwrap().findings.is_empty(), "{name}");
        let newest = opened.manifest(catalog.latest().unwrap()).await.unwrap();
        let highest = newest.tables.iter().map(|table| table.stack.len()).max();
        assert_eq!(highest > Some(1), *name == "delta-runs");
    }
}

#[tokio::test]
#[ignore = "writes a repository anew: for a new format version only"]
async fn write_golden_repository() {
    let place = place("new");
    let tiny = Tiny::make(8, Holding::TwoDays).await;
    for (path, bytes) in tiny.storage.objects() {
        let file = place.join("objects").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    fs::write(place.join("key.txt"), &tiny.key).unwrap();
    let told = told(&tiny.open().await).await;
    fs::write(place.join("told.txt"), told).unwrap();
}
