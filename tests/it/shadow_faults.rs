//! Shadows that are lost, stale, altered or swapped, and snapshots that fail half-way: each time
//! the next backup says what it does in a line, and comes back as the source was.

use std::fs;
use std::path::{Path, PathBuf};

use rowvault::failure::Class;
use rowvault::format::ledger::{Event, Forgotten};
use rowvault::format::manifest::{Manifest, Mode};
use rowvault::job::backup::{Outcome, Reading};
use rowvault::repo::table::read_run;
use rowvault::store::fault::{Failing, Fault, Operation, Rule, When};
use rusqlite::Connection;

use crate::shadow_model::{History, Rig};

/// A rig with a history of two snapshots.
async fn begun(seed: u64) -> (Rig, History) {
    let rig = Rig::new(seed).await;
    let history = History::begin(rig.place.path(), seed);
    rig.backup(&history.file, Reading::Changes).await.unwrap();
    (rig, history)
}

/// Takes a snapshot after some changes, and checks that it comes back.
async fn next(rig: &Rig, history: &mut History) -> (Outcome, Manifest) {
    change(&history.file);
    let taken = rig.backup(&history.file, Reading::Changes).await.unwrap();
    let manifest = rig.manifest(&taken).await;
    let found = rig.restored(&manifest).await.unwrap();
    assert!(
        found == history.model(&manifest),
        "it came back as something else"
    );
    (taken, manifest)
}

fn change(file: &Path) {
    let db = Connection::open(file).unwrap();
    let sql = "UPDATE people SET age = age + 1 WHERE id % 37 = 0;
        DELETE FROM people WHERE id = (SELECT max(id) FROM people);
        INSERT INTO people(id, name, age, note) SELECT max(id) + 2, 'new', 1, 'x' FROM people";
    db.execute_batch(sql).unwrap();
}

/// The files of the shadow.
fn shadow_files(rig: &Rig) -> Vec<PathBuf> {
    let below = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let repositories = below(&rig.place.path().join("state"));
    let sources = repositories
        .iter()
        .flat_map(|path| below(&path.join("shadow")));
    sources.flat_map(|source| below(&source)).collect()
}

fn current(rig: &Rig) -> PathBuf {
    let mut files = shadow_files(rig).into_iter();
    files.find(|file| file.ends_with("current")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_that_is_lost_or_stale_is_said_and_all_is_stored_anew() {
    let (rig, mut history) = begun(1).await;
    let stale = fs::read(current(&rig)).unwrap();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(taken.record.mode, Mode::Rows);
    assert_eq!(
        (manifest.warnings.len(), manifest.parent.is_some()),
        (0, true)
    );
    assert!(manifest.totals.rows_put < 20 && manifest.totals.rows_deleted == 1);
    // As after a crash between the ledger's entry and the swap.
    fs::write(current(&rig), stale).unwrap();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(taken.record.mode, Mode::Full);
    assert_eq!(manifest.warnings.len(), 1);
    assert!(
        manifest.warnings[0].contains("of another snapshot"),
        "{:?}",
        manifest.warnings
    );
    assert!(manifest.totals.chunks_reused > manifest.totals.chunks_new);
    fs::remove_file(current(&rig)).unwrap();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(
        (taken.record.mode, manifest.warnings.len()),
        (Mode::Full, 1)
    );
    assert_eq!(next(&rig, &mut history).await.0.record.mode, Mode::Rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shadow_altered_cut_or_swapped_is_found_and_stored_anew() {
    let (rig, mut history) = begun(2).await;
    let db = Connection::open(&history.file).unwrap();
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
        INSERT INTO people SELECT i * 1000, 'name', i, 'x' FROM n";
    db.execute_batch(many).unwrap();
    next(&rig, &mut history).await;
    let files = shadow_files(&rig);
    assert!(files.len() >= 3, "{files:?}");
    let mut found = 0;
    for at in 0..files.len() * 4 {
        let files = shadow_files(&rig);
        let file = &files[at % files.len()];
        let mut bytes = fs::read(file).unwrap();
        match at / files.len() {
            0 => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            1 => bytes.truncate(bytes.len() - 1),
            2 => bytes.push(0),
            _ => bytes = fs::read(&files[(at + 1) % files.len()]).unwrap(),
        }
        fs::write(file, bytes).unwrap();
        let (_, manifest) = next(&rig, &mut history).await;
        found += u32::from(manifest.warnings.iter().any(|line| line.contains("anew")));
    }
    assert_eq!(found as usize, files.len() * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_that_fails_before_its_entry_leaves_the_shadow_as_it_was() {
    let (rig, mut history) = begun(3).await;
    change(&history.file);
    let refused = Rule::on(
        Operation::Create,
        When::Always,
        Fault::Fail(Failing::Status(403)),
    )
    .under("ledger");
    rig.storage.add(refused);
    rig.backup(&history.file, Reading::Changes)
        .await
        .unwrap_err();
    rig.storage.heal();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(taken.record.mode, Mode::Rows, "{:?}", manifest.warnings);
    // Of the backup that failed nothing is left.
    assert!(shadow_files(&rig).len() <= 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_that_was_forgotten_is_not_built_on() {
    let (rig, mut history) = begun(4).await;
    next(&rig, &mut history).await;
    let catalog = rig.opened.catalog().await.unwrap();
    let name = "crm".parse().unwrap();
    let newest = catalog.at(&name, None).unwrap().record.id;
    let forgotten = Event::Forgotten(Forgotten {
        snapshots: vec![newest],
        reason: "by hand".into(),
    });
    rig.opened.record(&name, forgotten).await.unwrap();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(
        (taken.record.mode, manifest.warnings.len()),
        (Mode::Full, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_whose_structure_changed_gets_a_new_base_and_the_others_do_not() {
    let (rig, mut history) = begun(5).await;
    next(&rig, &mut history).await;
    let db = Connection::open(&history.file).unwrap();
    db.execute_batch("ALTER TABLE people ADD COLUMN more DEFAULT 7")
        .unwrap();
    let (taken, manifest) = next(&rig, &mut history).await;
    assert_eq!(taken.record.mode, Mode::Rows);
    assert_eq!(manifest.warnings.len(), 1);
    assert!(manifest.warnings[0].contains("table people is stored anew"));
    let of = |name: &str| {
        manifest
            .tables
            .iter()
            .find(|table| table.table.name.name == name)
    };
    let people = of("people").unwrap();
    assert_eq!(
        (people.stack.len() as u64, people.rows_put),
        (1, people.rows)
    );
    assert_eq!(of("things").unwrap().rows_put, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_source_costs_only_names() {
    let (rig, mut history) = begun(6).await;
    let (_, before) = next(&rig, &mut history).await;
    let taken = rig.backup(&history.file, Reading::Changes).await.unwrap();
    let after = rig.manifest(&taken).await;
    assert_eq!((after.totals.chunks_new, after.totals.bytes_stored), (0, 0));
    assert_eq!((after.totals.rows_put, after.totals.rows_deleted), (0, 0));
    for (before, after) in before.tables.iter().zip(&after.tables) {
        assert_eq!(before.stack, after.stack);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_snapshot_comes_after_thirty_days_and_when_asked_for() {
    let (rig, mut history) = begun(7).await;
    let mut modes = Vec::new();
    for _ in 0..32 {
        modes.push(next(&rig, &mut history).await.0.record.mode);
    }
    let full: Vec<usize> = (0..32).filter(|day| modes[*day] == Mode::Full).collect();
    assert_eq!(full, [29], "the thirtieth day after the first");
    let asked = rig.backup(&history.file, Reading::All).await.unwrap();
    assert_eq!(asked.record.mode, Mode::Full);
    let manifest = rig.manifest(&asked).await;
    assert!(manifest.tables.iter().all(|table| table.stack.len() == 1));
    assert_eq!(next(&rig, &mut history).await.0.record.mode, Mode::Rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_that_finds_a_difference_fails_and_keeps_the_snapshot() {
    let (rig, mut history) = begun(8).await;
    next(&rig, &mut history).await;
    let packs = rig.storage.objects();
    let packs: Vec<_> = packs
        .iter()
        .filter(|(path, _)| path.starts_with("packs/"))
        .collect();
    for (path, bytes) in packs {
        let mut altered = bytes.to_vec();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        rig.storage.plant(path, altered);
    }
    let found = rig.backup(&history.file, Reading::All).await.unwrap_err();
    assert_eq!(found.class(), Class::Corrupt, "{found}");
    assert!(found.to_string().contains("is kept"), "{found}");
    let catalog = rig.opened.catalog().await.unwrap();
    assert_eq!(catalog.snapshots().len(), 3);
}

/// What the base covers is not brought back by an older delta, though no newer one speaks of it
/// any more: v1 of a row lies in a run of tier 2, v2 in one of tier 1; the base is rewritten with
/// v2; the fold of tier 1 leaves the row out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_delta_does_not_hide_a_rewritten_range() {
    let rig = Rig::new(9).await;
    let history = History::begin(rig.place.path(), 9);
    let file = history.file.clone();
    let run = |sql: &str| Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    run("DELETE FROM people; DELETE FROM things; DELETE FROM log;
        WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 400)
        INSERT INTO people SELECT i, 'name', 0, hex(zeroblob(30)) FROM n");
    rig.backup(&file, Reading::Changes).await.unwrap();
    let mut exercised = false;
    for day in 1..20 {
        match day {
            1 => run("UPDATE people SET name = 'v1' WHERE id = 5"),
            2 => run("UPDATE people SET name = 'stays' WHERE id = 200"),
            9 => run("UPDATE people SET name = 'v2' WHERE id = 5; DELETE FROM people WHERE id = 1"),
            10 => run("UPDATE people SET name = 'worn' WHERE id < 60 AND id <> 5"),
            _ => {}
        }
        run("UPDATE people SET age = age + 1 WHERE id = 300");
        let taken = rig.backup(&file, Reading::Changes).await.unwrap();
        let manifest = rig.manifest(&taken).await;
        let found = rig.restored(&manifest).await.unwrap();
        assert!(
            found == history.model(&manifest),
            "day {day} came back as something else"
        );
        let people = manifest
            .tables
            .iter()
            .find(|table| table.table.name.name == "people");
        let stack = &people.unwrap().stack;
        let reader = rig.opened.reader().await.unwrap();
        let base = read_run(&reader, &stack[0]).await.unwrap();
        if day > 16 && stack.len() > 2 {
            let oldest = read_run(&reader, &stack[1]).await.unwrap();
            assert_eq!(oldest.tier, 2);
            exercised |= oldest.sequence <= base.covers_max;
        }
    }
    assert!(exercised, "no older delta lay under a rewritten range");
}
