//! Known sample databases come back with the same fingerprint, where they lie beside the checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sqlite_copy::{Place, copy};

fn samples() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root
        .ancestors()
        .map(|up| up.join("shared/samples"))
        .find(|p| p.is_dir());
    if found.is_none() {
        println!("skipped: no sample databases beside the checkout");
    }
    found
}

fn fingerprint(case: &Path, file: &Path) -> String {
    let output = Command::new(case.join("fingerprint.sh"))
        .envs([("FP_STRICT", "1"), ("FP_DB", "1")])
        .env("SQLITE_DB", file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn sample_databases_come_back_with_their_fingerprint() {
    let Some(samples) = samples() else { return };
    let variants: [&[(&str, &str)]; 5] = [
        &[],
        &[("HOT", "wal")],
        &[("HOT", "journal")],
        &[
            ("JOURNAL", "wal"),
            ("PAGE_SIZE", "512"),
            ("ENCODING", "UTF-16be"),
            ("AUTO_VACUUM", "1"),
        ],
        &[
            ("PAGE_SIZE", "65536"),
            ("ENCODING", "UTF-16le"),
            ("AUTO_VACUUM", "2"),
        ],
    ];
    for case in ["chinook-sqlite", "northwind-sqlite"] {
        let case = samples.join(case);
        for variant in variants {
            let place = Place::new();
            let load = Command::new(case.join("load.sh"))
                .envs(variant.iter().copied())
                .env("SQLITE_DB", place.source())
                .output()
                .unwrap();
            assert!(
                load.status.success(),
                "{}",
                String::from_utf8_lossy(&load.stderr)
            );
            let before = fingerprint(&case, &place.source());
            copy(&place.source(), &place.target()).await.unwrap();
            assert_eq!(
                fingerprint(&case, &place.source()),
                before,
                "the source was changed"
            );
            let after = fingerprint(&case, &place.target());
            let lost: Vec<_> = before
                .lines()
                .filter(|line| !after.contains(line))
                .collect();
            assert_eq!(after, before, "{} {variant:?}: {lost:?}", case.display());
        }
    }
}
