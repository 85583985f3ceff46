//! Dictionaries through the real job: used, lost, out of reach, damaged, swept.
//!
//! Whatever becomes of a dictionary, what was stored comes back as it was, or is said to be damaged
//! with the tables that it hurts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rowvault::demo::fill;
use rowvault::failure::Class;
use rowvault::format::manifest::Mode;
use rowvault::id::ChunkId;
use rowvault::job::verify::{self, Data};
use rowvault::repo::table::read_run;
use rowvault::sample::Sample;
use rowvault::sample::churn::Churn;
use rowvault::store::ObjectPath;
use tempfile::TempDir;

use crate::cli_desk::Desk;
use crate::house::{self, House};
use crate::maintain_rig::{A_DAY, HOUR, World, rows};
use crate::tiny;

/// A repository, and a CRM that is large enough for dictionaries.
struct Rig {
    place: TempDir,
    house: House,
    churn: Churn,
    days: u64,
}

impl Rig {
    async fn new() -> Rig {
        let place = tiny::directory();
        let sample = Sample::new(11, 0.012);
        fill::sqlite(&place.path().join("crm.db"), &sample).unwrap();
        let url = place.path().join("repo").display().to_string();
        let house = house::make(&url, &place.path().join("state"), 64 << 10).await;
        Rig {
            churn: Churn::new(&sample),
            place,
            house,
            days: 0,
        }
    }

    fn crm(&self) -> PathBuf {
        self.place.path().join("crm.db")
    }

    /// A day's work.
    fn day(&mut self) {
        self.days += 1;
        let edits: Vec<_> = self.churn.crm_day(self.days).collect();
        fill::apply(&self.crm(), edits).unwrap();
    }

    /// The dictionaries that each table's runs name in the newest snapshot, run by run.
    async fn named(&self) -> BTreeMap<String, Vec<Vec<ChunkId>>> {
        let newest = house::newest(&self.house).await;
        let manifest = self.house.opened.manifest(&newest).await.unwrap();
        let reader = self.house.opened.reader().await.unwrap();
        let mut named = BTreeMap::new();
        for table in manifest.tables {
            let mut runs = Vec::new();
            for run in &table.stack {
                runs.push(read_run(&reader, run).await.unwrap().dictionaries);
            }
            named.insert(table.table.name.name, runs);
        }
        named
    }

    /// Restores the newest snapshot; a restore reads everything back and compares it.
    async fn restores(&self) {
        let file = self.place.path().join("restored.db");
        let newest = house::newest(&self.house).await;
        house::restore(&self.house, &newest, &file).await.unwrap();
        fs::remove_file(file).unwrap();
    }
}

/// The files of dictionaries below a state directory.
fn kept(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => found.extend(kept(&path)),
            false if name.starts_with("dictionary-") => found.push(path),
            false => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dictionary_serves_the_base_and_the_days_after_it_and_is_found_again_when_lost() {
    let mut rig = Rig::new().await;
    house::backup(&rig.house, &rig.crm()).await;
    let first = rig.named().await;
    for table in ["mails", "notes", "activities"] {
        assert_eq!(first[table][0].len(), 1, "{table}: {first:?}");
    }
    assert!(first["users"][0].is_empty(), "a table of a few rows");
    rig.restores().await;
    let state = rig.place.path().join("state");
    let files = kept(&state);
    let all: BTreeSet<_> = first.values().flatten().flatten().collect();
    assert_eq!(files.len(), all.len());
    // One is lost and one altered: the repository has them.
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], b"nonsense").unwrap();
    rig.day();
    let taken = house::backup(&rig.house, &rig.crm()).await;
    assert_eq!(taken.record.mode, Mode::Rows);
    for (table, runs) in rig.named().await {
        assert!(
            runs[1..].iter().all(|run| *run == first[&table][0]),
            "{table}"
        );
    }
    rig.restores().await;
    assert_eq!(kept(&state), files);
    assert!(fs::read(&files[1]).unwrap() != b"nonsense");
    // Everything is lost: all is found equal, and nothing new is trained.
    for repository in fs::read_dir(&state).unwrap() {
        fs::remove_dir_all(repository.unwrap().path().join("shadow")).unwrap();
    }
    house::backup(&rig.house, &rig.crm()).await;
    let again = rig.named().await;
    assert_eq!(again["mails"].len(), 1);
    assert!(again["mails"][0].contains(&first["mails"][0][0]));
    rig.restores().await;
}

#[test]
fn host_that_only_writes_keeps_its_dictionaries_and_does_without_lost_ones() {
    let desk = Desk::with_repository();
    let sample = Sample::new(12, 0.012);
    let mut churn = Churn::new(&sample);
    fill::sqlite(&desk.path("big.db"), &sample).unwrap();
    let made = desk.run(&["key", "writer", "--name", "web", "--out", "web.key"]);
    assert_eq!(made.code, 0, "{made:?}");
    let backup = ["backup", "sqlite:big.db", "--state-dir", "web", "--json"];
    let mut mode = |day: u64| {
        if day > 0 {
            let edits: Vec<_> = churn.crm_day(day).collect();
            fill::apply(&desk.path("big.db"), edits).unwrap();
        }
        let taken = desk.run_as("web.key", &backup).json();
        let mode = taken["snapshots"][0]["mode"].as_str().unwrap().to_owned();
        let out = format!("sqlite:day{day}.db");
        let restored = desk.run(&["restore", "big@latest", "--to", &out, "-q"]);
        assert_eq!(restored.code, 0, "{restored:?}");
        mode
    };
    assert_eq!(mode(0), "full");
    assert!(kept(&desk.path("web")).len() >= 3);
    assert_eq!(mode(1), "rows");
    for file in kept(&desk.path("web")) {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(mode(2), "rows");
    fs::remove_dir_all(desk.path("web")).unwrap();
    assert_eq!(mode(3), "full");
    assert_eq!(mode(4), "rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_dictionary_is_an_integrity_error_that_names_its_table() {
    let rig = Rig::new().await;
    house::backup(&rig.house, &rig.crm()).await;
    let name = rig.named().await["mails"][0][0];
    let index = rig.house.opened.index().await.unwrap();
    let place = index.places(&name).unwrap().next().unwrap();
    let pack = ObjectPath::Pack(place.pack.id).to_string();
    let pack = rig.place.path().join("repo").join(pack);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[place.offset as usize + 100] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let newest = house::newest(&rig.house).await;
    let found = verify::run(&rig.house.opened, &[&newest], Data::All).await;
    let found = found.unwrap().findings;
    let named = found.iter().any(|finding| finding.tables == ["mails"]);
    assert!(named, "{found:?}");
    let file = rig.place.path().join("restored.db");
    let refused = house::restore(&rig.house, &newest, &file)
        .await
        .unwrap_err();
    assert_eq!(refused.class(), Class::Corrupt, "{refused}");
    assert!(!file.exists());
}

#[tokio::test(start_paused = true)]
async fn dictionary_stays_while_a_snapshot_needs_it() {
    let world = World::new(5).await;
    let client = world.client("a").await;
    let first = rows(
        0,
        12_000,
        "the very same sentence as in all other rows, but for",
    );
    world.backup(&client, "crm", &first).await.unwrap();
    world.clock.advance(HOUR);
    // Most chunks are others: the pack of the first snapshot is half dead and is written anew.
    let mut second = first.clone();
    second.extend(rows(
        0,
        9_000,
        "another sentence that is in many rows, but for",
    ));
    world.backup(&client, "crm", &second).await.unwrap();
    let catalog = client.opened.catalog().await.unwrap();
    let mut dictionaries = 0;
    for snapshot in catalog.snapshots() {
        let manifest = client.opened.manifest(snapshot).await.unwrap();
        let reader = client.opened.reader().await.unwrap();
        for run in manifest.tables.iter().flat_map(|table| &table.stack) {
            dictionaries += read_run(&reader, run).await.unwrap().dictionaries.len();
        }
    }
    assert!(dictionaries > 0, "nothing is tried");
    world.clock.advance(HOUR);
    world.forget(&client, "crm", 1).await.unwrap();
    for told in ["marked", "swept", "swept again"] {
        world.clock.advance(A_DAY);
        world.prune(&client).await.unwrap();
        assert_eq!(world.check(told).await, 1);
    }
    world.check_clean("at the end").await;
}
