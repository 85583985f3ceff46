//! Seeded histories of databases, each snapshot of which must come back as it was on its day.
//!
//! The model is the rows that SQLite itself gives on that day; the proof goes through shadows,
//! delta runs, folds and rewritten ranges, and asserts that these happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rowvault::clock::{ManualClock, Timestamp};
use rowvault::failure::AnyFailure;
use rowvault::format::keyslot::text::KeyFile;
use rowvault::format::manifest::{Manifest, ManifestTable, Mode, StoredOrder};
use rowvault::job::Opened;
use rowvault::job::backup::{self, Outcome, Reading, Request};
use rowvault::job::diff::{self, Counts, Pairing, SideTable, Wanted};
use rowvault::random::{Random, SeededRandom};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::slot::Keeping;
use rowvault::repo::keys::{Opening, Unlock};
use rowvault::repo::reader::Reader;
use rowvault::repo::table::{StackReader, read_run};
use rowvault::row::cell::{Cell, cells};
use rowvault::row::key::KeyEncoder;
use rowvault::row::schema::{KeyOrder, Table};
use rowvault::source::open::{self, SourceOptions, SourceUrl};
use rowvault::store::fault::FaultStore;
use rowvault::store::{Budget, StoreOptions};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::house;
use crate::tiny::directory;

/// How many histories are gone through side by side.
const HISTORIES_AT_ONCE: usize = 3;

/// How many pairs of days of each history are compared.
const PAIRS_COMPARED: usize = 20;

/// Rows of each table, in the order of its stack.
pub type Model = BTreeMap<String, Vec<Vec<u8>>>;

/// A database that changes from day to day.
pub struct History {
    pub file: PathBuf,
    random: SeededRandom,
    db: Connection,
    next: i64,
    columns: u64,
}

impl History {
    pub fn begin(directory: &Path, seed: u64) -> History {
        let file = directory.join("source.db");
        let db = Connection::open(&file).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;
             CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, age, note TEXT);
             CREATE TABLE things(code TEXT PRIMARY KEY, worth, note TEXT) WITHOUT ROWID;
             CREATE TABLE log(at INTEGER, what TEXT);",
        )
        .unwrap();
        let mut history = History {
            file,
            random: SeededRandom::new(seed),
            db,
            next: 1,
            columns: 0,
        };
        let rows = 60 + history.below(150);
        history.insert(rows);
        history
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn text(&self, most: u64) -> String {
        let words = ["deal", "won", "lost", "Łódź", "call", "東京", "mail", "سلام"];
        let count = 1 + self.below(most);
        let word = |_| words[self.below(words.len() as u64) as usize];
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    }

    fn insert(&mut self, rows: u64) {
        self.db.execute_batch("BEGIN").unwrap();
        for _ in 0..rows {
            // Mostly behind the last row, at times between others.
            let id = match self.below(4) {
                0 => self.below(1 << 20) as i64 * 1000 + self.next,
                _ => (1 << 40) + self.next,
            };
            self.next += 1;
            let (name, note) = (self.text(2), self.text(12));
            let sql = "INSERT OR IGNORE INTO people(id, name, age, note) VALUES (?, ?, ?, ?)";
            let age = self.below(100) as i64;
            self.db
                .prepare(sql)
                .unwrap()
                .execute((id, &name, age, &note))
                .unwrap();
            let code = format!("{:06x}-{}", self.below(1 << 24), self.next);
            let sql = "INSERT INTO things(code, worth, note) VALUES (?, ?, ?)";
            self.db
                .prepare(sql)
                .unwrap()
                .execute((code, age, &note))
                .unwrap();
            if self.below(3) == 0 {
                let sql = "INSERT INTO log VALUES (?, ?)";
                self.db.prepare(sql).unwrap().execute((id, &name)).unwrap();
            }
        }
        self.db.execute_batch("COMMIT").unwrap();
    }

    /// A day of edits.
    pub fn day(&mut self) {
        let edits = self.below(4);
        for _ in 0..edits {
            self.edit();
        }
    }

    fn edit(&mut self) {
        let (shift, share) = (self.below(1000), [3, 20, 60, 200][self.below(4) as usize]);
        let chosen = format!("(id + {shift}) * 7919 % {share} = 0");
        let chosen_code =
            format!("(unicode(substr(code, 5, 1)) * 31 + length(note) + {shift}) % {share} = 0");
        let from = self.below(1 << 20) * 1000;
        let note = self.text(12);
        let run = |sql: String| self.db.execute_batch(&sql).unwrap();
        match self.below(16) {
            0..4 => {
                let rows = [1, 5, 15, 50][self.below(4) as usize];
                self.insert(rows);
            }
            4..8 => {
                run(format!("UPDATE people SET note = '{note}', age = age + 1 WHERE {chosen}"));
                run(format!("UPDATE things SET worth = {shift} WHERE {chosen_code}"));
            }
            8..10 => {
                run(format!("DELETE FROM people WHERE {chosen}"));
                run(format!("DELETE FROM things WHERE {chosen_code}"));
                run(format!("DELETE FROM log WHERE rowid % 17 = {}", shift % 17));
            }
            10 => run(format!("DELETE FROM people WHERE id BETWEEN {from} AND {from} + 100000000")),
            11 => run(format!("UPDATE people SET note = '{note}' WHERE id BETWEEN {from} AND {from} + 50000000")),
            12 => run(format!("UPDATE OR IGNORE people SET id = id + {shift} WHERE {chosen}")),
            13 => run("UPDATE OR IGNORE things SET code = code || 'x' WHERE length(code) < 12 AND code > 'c' AND code < 'd'".into()),
            14 => self.schema_change(),
            _ => run("UPDATE log SET what = what || '.' WHERE rowid % 5 = 0".into()),
        }
    }

    fn schema_change(&mut self) {
        self.columns += 1;
        let column = self.columns;
        let sql = match self.below(4) {
            0 => format!("ALTER TABLE people ADD COLUMN extra{column} DEFAULT 'none'"),
            1 => format!("DROP TABLE IF EXISTS side; CREATE TABLE side(a INTEGER PRIMARY KEY, b); INSERT INTO side VALUES ({column}, 'x')"),
            2 => "DROP TABLE IF EXISTS side; CREATE TABLE side(a, b TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID; INSERT OR IGNORE INTO side SELECT id, name || id FROM people LIMIT 50".into(),
            _ => "DELETE FROM log".into(),
        };
        self.db.execute_batch(&sql).unwrap();
    }

    /// The rows of every table of `manifest` as SQLite has them now.
    pub fn model(&self, manifest: &Manifest) -> Model {
        let mut model = Model::new();
        for table in &manifest.tables {
            let name = &table.table.name.name;
            let columns = table
                .table
                .columns
                .iter()
                .map(|column| format!("\"{}\"", column.name));
            let columns: Vec<String> = columns.collect();
            let sql = format!("SELECT {} FROM \"{name}\"", columns.join(", "));
            let mut statement = self.db.prepare(&sql).unwrap();
            let mut found = statement.query([]).unwrap();
            let mut rows = Vec::new();
            while let Some(row) = found.next().unwrap() {
                let mut bytes = Vec::new();
                for column in 0..columns.len() {
                    let cell = match row.get_ref(column).unwrap() {
                        ValueRef::Null => Cell::Null,
                        ValueRef::Integer(value) => Cell::Integer(value),
                        ValueRef::Real(value) => Cell::Real(value),
                        ValueRef::Text(text) => Cell::Text(text),
                        ValueRef::Blob(blob) => Cell::Blob(blob),
                    };
                    cell.push(&mut bytes);
                }
                rows.push(bytes);
            }
            rows.sort();
            model.insert(name.clone(), rows);
        }
        model
    }
}

/// What a snapshot's stacks give.
pub async fn restored(reader: &Arc<Reader>, manifest: &Manifest) -> Result<Model, String> {
    let mut model = Model::new();
    for table in &manifest.tables {
        let name = table.table.name.name.clone();
        let failed = |error| format!("table {name}: {error}");
        let mut stack = StackReader::open(reader.clone(), table)
            .await
            .map_err(failed)?;
        let mut rows = Vec::new();
        while let Some(found) = stack.next().await.map_err(failed)? {
            rows.extend(found.rows.iter().map(<[u8]>::to_vec));
        }
        rows.sort();
        model.insert(name, rows);
    }
    Ok(model)
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    snapshots: u32,
    rows_mode: u32,
    deltas: u32,
    folds: u32,
    rewrites: u32,
    highest: usize,
}

impl Happened {
    async fn note(&mut self, reader: &Reader, manifest: &Manifest) {
        self.snapshots += 1;
        self.rows_mode += u32::from(manifest.mode == Mode::Rows);
        for table in &manifest.tables {
            self.highest = self.highest.max(table.stack.len());
            for (at, run) in table.stack.iter().enumerate() {
                let run = read_run(reader, run).await.unwrap();
                self.deltas += u32::from(at > 0);
                self.folds += u32::from(run.tier > 1);
                self.rewrites += u32::from(run.covers_max > 0);
            }
        }
    }

    fn add(&mut self, other: Happened) {
        self.snapshots += other.snapshots;
        self.rows_mode += other.rows_mode;
        self.deltas += other.deltas;
        self.folds += other.folds;
        self.rewrites += other.rewrites;
        self.highest = self.highest.max(other.highest);
    }
}

/// A repository in memory with chunks of 1 KiB, smaller than a real one may have, and everything
/// drawn from a seed.
pub struct Rig {
    pub opened: Opened,
    pub storage: FaultStore,
    pub clock: Arc<ManualClock>,
    pub place: tempfile::TempDir,
}

impl Rig {
    pub async fn new(seed: u64) -> Rig {
        let clock = Arc::new(ManualClock::new(Timestamp(1_790_000_000_000_000)));
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let storage = FaultStore::new(clock.clone());
        let budget = Budget {
            pause_first: Duration::ZERO,
            pause_max: Duration::ZERO,
            ..Budget::default()
        };
        let options = StoreOptions {
            budget,
            ..StoreOptions::default()
        };
        let opening = Opening {
            store: storage.open(&options, random.clone()),
            clock: clock.clone(),
            random,
        };
        let mut draft = Draft::draw(&opening);
        let key = draft.add_key(Keeping::KeyFile, "test");
        create(opening.clone(), draft, 64 << 10).await.unwrap();
        let unlock = Unlock::KeyFile(KeyFile::Slot(key));
        let place = directory();
        let mut opened = house::open(opening, &unlock, &place.path().join("state")).await;
        let vault = Arc::get_mut(&mut opened.vault).expect("nobody else has it yet");
        vault.chunk_target_bytes = 1 << 10;
        Rig {
            opened,
            storage,
            clock,
            place,
        }
    }

    /// Takes a snapshot of `file` a day after the one before.
    pub async fn backup(&self, file: &Path, reading: Reading) -> Result<Outcome, AnyFailure> {
        self.clock.advance(Duration::from_secs(24 * 3600));
        let url: SourceUrl = format!("sqlite:{}", file.display()).parse().unwrap();
        let mut source = open::source(&url, &SourceOptions::default()).unwrap();
        let request = Request {
            reading,
            ..Request::new("crm".parse().unwrap())
        };
        backup::run(&self.opened, source.as_mut(), &request).await
    }

    pub async fn manifest(&self, outcome: &Outcome) -> Manifest {
        let vault = &self.opened.vault;
        let hash = vault.source_hash(&outcome.source);
        let fetched = vault.fetch_manifest(hash, outcome.record.manifest).await;
        fetched.unwrap().1
    }

    /// What comes back of a snapshot.
    pub async fn restored(&self, manifest: &Manifest) -> Result<Model, String> {
        let reader = self.opened.reader().await.unwrap();
        restored(&reader, manifest).await
    }
}

/// What a comparison of two days must say of a table: of each key, or of each row where there is
/// none to compare by, what became of it and how often.
type Expected = BTreeMap<(&'static str, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>), u64>;

/// The cells of `row` in the columns `names`.
fn projected(row: &[u8], table: &Table, names: &[&str]) -> Vec<u8> {
    let cells = cells(row, table.columns.len()).unwrap();
    let mut out = Vec::new();
    for name in names {
        cells[table.column(name).unwrap()].push(&mut out);
    }
    out
}

fn key_form(table: &ManifestTable) -> Option<Vec<(&str, KeyOrder)>> {
    let key = table.table.key.as_ref();
    let key = key.filter(|_| table.order == StoredOrder::Key)?;
    let columns = key.columns.iter();
    let form = columns.map(|(at, order)| (table.table.columns[*at].name.as_str(), *order));
    Some(form.collect())
}

/// The difference of two states of a table, by maps.
fn expected(before: (&ManifestTable, &[Vec<u8>]), after: (&ManifestTable, &[Vec<u8>])) -> Expected {
    let names = before
        .0
        .table
        .columns
        .iter()
        .map(|column| column.name.as_str());
    let names: Vec<&str> = names
        .filter(|name| after.0.table.column(name).is_some())
        .collect();
    let by_key = key_form(before.0).is_some() && key_form(before.0) == key_form(after.0);
    let mut out = Expected::new();
    if by_key {
        let keyed = |(table, rows): (&ManifestTable, &[Vec<u8>])| {
            let encoder = KeyEncoder::new(&table.table).unwrap();
            let rows = rows.iter().map(|row| {
                let mut key = Vec::new();
                encoder.encode(row, &mut key).unwrap();
                (key, (projected(row, &table.table, &names), row.clone()))
            });
            rows.collect::<BTreeMap<_, _>>()
        };
        let (old, new) = (keyed(before), keyed(after));
        for (key, (value, row)) in &old {
            match new.get(key) {
                None => {
                    *out.entry(("removed", key.clone(), Some(row.clone()), None))
                        .or_default() += 1
                }
                Some((other, later)) if other != value => {
                    let rows = (Some(row.clone()), Some(later.clone()));
                    *out.entry(("changed", key.clone(), rows.0, rows.1))
                        .or_default() += 1;
                }
                Some(_) => {}
            }
        }
        for (key, (_, row)) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
            *out.entry(("added", key.clone(), None, Some(row.clone())))
                .or_default() += 1;
        }
        return out;
    }
    let mut counts: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for ((table, rows), times) in [(before, -1), (after, 1)] {
        for row in rows {
            *counts
                .entry(projected(row, &table.table, &names))
                .or_default() += times;
        }
    }
    for (value, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
        let operation = if count > 0 { "added" } else { "removed" };
        out.insert((operation, value, None, None), count.unsigned_abs());
    }
    out
}

/// What a comparison gives, in the form of [`expected`].
async fn compared(
    comparison: &diff::Comparison<'_>,
    pairing: &Pairing,
    names: &[&str],
) -> Result<(Expected, Counts), AnyFailure> {
    let mut differences = comparison.table(pairing, Wanted::Rows).await?;
    let mut out = Expected::new();
    while let Some(some) = differences.next().await? {
        for one in some {
            let table = |side: &Option<SideTable>| side.as_ref().unwrap().table().clone();
            let row = |version: &Option<diff::Version>| version.as_ref().map(|one| one.row.clone());
            let (before, after) = (row(&one.before), row(&one.after));
            let name = one.operation.name();
            let entry = match (one.key, &before, &after) {
                (Some(key), ..) => (name, key, before, after),
                (None, Some(row), _) => {
                    let value = projected(row, &table(&pairing.before), names);
                    (name, value, None, None)
                }
                (None, None, row) => {
                    let row = row.as_ref().unwrap();
                    let value = projected(row, &table(&pairing.after), names);
                    (name, value, None, None)
                }
            };
            *out.entry(entry).or_default() += 1;
        }
    }
    Ok((out, differences.finish().await?))
}

/// A day: what the database held, and what was stored of it.
pub type Day = (Model, Manifest);

/// Compares two days, and that with the model's comparison.
async fn compare_days(rig: &Rig, snapshots: [&Snapshot; 2], days: [&Day; 2]) -> Result<(), String> {
    let comparison = diff::start(&rig.opened, snapshots[0], snapshots[1], &[]);
    let comparison = comparison.await.map_err(|error| error.to_string())?;
    check_comparison(&comparison, days).await
}

/// Compares a comparison with the model's.
pub async fn check_comparison(
    comparison: &diff::Comparison<'_>,
    days: [&Day; 2],
) -> Result<(), String> {
    let failed = |error: AnyFailure| error.to_string();
    for pairing in &comparison.pairings {
        let side = |day: &Day| {
            let mut tables = day.1.tables.clone().into_iter();
            let table = tables.find(|table| table.table.name.name == pairing.name)?;
            Some((table, day.0[&pairing.name].clone()))
        };
        let (before, after) = (side(days[0]), side(days[1]));
        let counts = comparison.table(pairing, Wanted::Counts).await;
        let counts = counts.map_err(failed)?.finish().await.map_err(failed)?;
        let (Some(before), Some(after)) = (&before, &after) else {
            let rows = |side: Option<(ManifestTable, Vec<Vec<u8>>)>| {
                side.map_or(0, |(_, rows)| rows.len() as u64)
            };
            let sizes = (rows(after), rows(before), 0);
            if (counts.added, counts.removed, counts.changed) != sizes {
                return Err(format!("table {} on one side: {counts:?}", pairing.name));
            }
            continue;
        };
        let model = expected((&before.0, &before.1), (&after.0, &after.1));
        let count = |operation| {
            let of = model.iter().filter(|((one, ..), _)| *one == operation);
            of.map(|(_, times)| times).sum::<u64>()
        };
        let sizes = Counts {
            added: count("added"),
            removed: count("removed"),
            changed: count("changed"),
        };
        let names = before
            .0
            .table
            .columns
            .iter()
            .map(|column| column.name.as_str());
        let shared = names.filter(|name| after.0.table.column(name).is_some());
        let shared: Vec<&str> = shared.collect();
        let found = compared(comparison, pairing, &shared)
            .await
            .map_err(failed)?;
        if counts != sizes || found.1 != sizes || found.0 != model {
            return Err(format!(
                "table {}: {counts:?} and {:?} where the model has {sizes:?}",
                pairing.name, found.1
            ));
        }
    }
    Ok(())
}

/// Takes `days` snapshots of the history `seed`, and compares each with its day, and random pairs
/// of days with each other.
async fn history(seed: u64, days: usize) -> Result<Happened, String> {
    let rig = Rig::new(seed).await;
    let mut history = History::begin(rig.place.path(), seed);
    let mut models = Vec::new();
    for day in 0..days {
        if day > 0 {
            history.day();
        }
        let taken = rig.backup(&history.file, Reading::Changes).await;
        let taken = taken.map_err(|error| format!("seed {seed}, day {day}: {error}"))?;
        let manifest = rig.manifest(&taken).await;
        models.push((history.model(&manifest), manifest));
    }
    let reader = rig.opened.reader().await.unwrap();
    let mut happened = Happened::default();
    for (day, (model, manifest)) in models.iter().enumerate() {
        let found = restored(&reader, manifest).await;
        let found = found.map_err(|error| format!("seed {seed}, day {day}: {error}"))?;
        if found != *model {
            return Err(format!(
                "seed {seed}: day {day} came back as something else"
            ));
        }
        happened.note(&reader, manifest).await;
    }
    let catalog = rig.opened.catalog().await.unwrap();
    let snapshots = catalog.snapshots();
    for _ in 0..PAIRS_COMPARED {
        let draw = || history.below(days as u64) as usize;
        let (before, after) = (draw(), draw());
        let pair = [snapshots[before], snapshots[after]];
        let compared = compare_days(&rig, pair, [&models[before], &models[after]]).await;
        compared.map_err(|error| format!("seed {seed}, days {before} and {after}: {error}"))?;
    }
    Ok(happened)
}

fn histories(seeds: std::ops::Range<u64>, days: usize) {
    let begun = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let happened = Mutex::new(Happened::default());
    let work = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return;
            }
            let one = runtime.block_on(history(seed, days)).unwrap();
            happened.lock().unwrap().add(one);
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..HISTORIES_AT_ONCE {
            threads.spawn(work);
        }
    });
    let happened = happened.into_inner().unwrap();
    println!("{happened:?} in {:?}", begun.elapsed());
    assert!(happened.rows_mode * 10 > happened.snapshots * 9);
    assert!(happened.deltas > 0 && happened.folds > 0 && happened.rewrites > 0);
}

#[test]
fn few_histories_come_back() {
    histories(100..104, 30);
}

#[test]
fn every_snapshot_of_a_history_comes_back() {
    histories(0..100, 30);
}

#[test]
#[ignore = "2,000 histories take many minutes"]
fn long_shadow_model() {
    histories(1_000..3_000, 30);
}
