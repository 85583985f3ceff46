//! What finding and bringing back records costs in a large sample CRM, on an S3 server where there is
//! one; by hand, for it takes minutes.
//!
//! `ROWVAULT_REACH_SCALE` is the share of the 1 GB sample, `ROWVAULT_REACH_SNAPSHOTS` how many are taken.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowvault::clock::SystemClock;
use rowvault::demo::fill;
use rowvault::format::manifest::{Manifest, ManifestTable};
use rowvault::job::diff::{self, Wanted};
use rowvault::job::undelete::Mode;
use rowvault::job::{find, history};
use rowvault::random::SystemRandom;
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::table::StackReader;
use rowvault::row::closure::relation::Relations;
use rowvault::row::key::{self, KeyEncoder};
use rowvault::sample::Sample;
use rowvault::store::{Store, StoreOptions};
use rusqlite::Connection;

use crate::house::{self, House};
use crate::moto::Moto;
use crate::undelete_scene::{Place, asking, undelete};

/// Share of the 1 GB sample.
const SCALE: f64 = 0.25;
const SNAPSHOTS: f64 = 60.0;
/// How many rows hang on the customer that is deleted.
const DEPENDENTS: u64 = 200;
const CHUNK_TARGET_BYTES: u32 = 64 << 10;

/// Seconds of processor that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn churn(file: &Path, table: &str, day: u32) {
    let db = Connection::open(file).unwrap();
    let sql = format!(
        "PRAGMA synchronous = OFF; UPDATE {table} SET phone = 'day {day}' WHERE rowid % 211 = {day}"
    );
    db.execute_batch(&sql).unwrap();
}

fn setting(name: &str, usual: f64) -> f64 {
    let said = std::env::var(name).ok();
    said.map_or(usual, |said| said.parse().unwrap())
}

/// A house on an S3 server, which lives as long as what comes with it; else in a directory.
async fn house(place: &Path) -> (House, Option<Moto>) {
    let state = place.join("state");
    let Some(moto) = Moto::start() else {
        let url = format!("file://{}", place.join("repo").display());
        return (house::make(&url, &state, CHUNK_TARGET_BYTES).await, None);
    };
    moto.make_bucket("acme-backup").await;
    let options = StoreOptions {
        s3: moto.options(),
        ..StoreOptions::default()
    };
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let store = Store::open("s3://acme-backup/crm", &options, clock, random).unwrap();
    let house = house::make_in(store, &state, CHUNK_TARGET_BYTES).await;
    (house, Some(moto))
}

/// Gives the customer with the fewest contacts its dependents: deals.
fn customer(file: &Path) -> i64 {
    let db = Connection::open(file).unwrap();
    let sql = "SELECT account_id FROM contacts GROUP BY 1 ORDER BY count(*), 1 LIMIT 1";
    let id: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
    let names = "SELECT group_concat(name) FROM pragma_table_info('deals') WHERE name NOT IN ('id', 'account_id')";
    let names: String = db.query_row(names, [], |row| row.get(0)).unwrap();
    db.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {DEPENDENTS})
         INSERT INTO deals(id, account_id, {names})
         SELECT lower(hex(randomblob(16))), {id}, {names} FROM n, (SELECT * FROM deals LIMIT 1)"
    ))
    .unwrap();
    id
}

/// Reads a search to its end; gives the rows found.
async fn found(house: &House, snapshot: &Snapshot, request: &find::Request) -> u64 {
    let mut finder = find::start(&house.opened, snapshot, request).await.unwrap();
    let mut count = 0;
    while let Some(rows) = finder.next().await.unwrap() {
        count += rows.rows.len() as u64;
    }
    count
}

/// How long it takes to restore a table of the sample with its rows, index and all: as the only one
/// of a snapshot, for a table alone cannot be restored.
async fn restored_alone(house: &House, place: &Path, table: &str) -> Duration {
    let (alone, back) = (place.join("alone.db"), place.join("alone-back.db"));
    let db = Connection::open(&alone).unwrap();
    let crm = place.join("crm.db");
    db.execute("ATTACH ? AS crm", [crm.to_str().unwrap()])
        .unwrap();
    let sql =
        "SELECT sql FROM crm.sqlite_schema WHERE tbl_name = ? AND sql NOT NULL ORDER BY rootpage";
    let mut statement = db.prepare(sql).unwrap();
    let made: Vec<String> = statement
        .query_map([table], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF")
        .unwrap();
    db.execute_batch(&made.join(";\n")).unwrap();
    db.execute_batch(&format!(
        "INSERT INTO main.{table} SELECT * FROM crm.{table}"
    ))
    .unwrap();
    drop(statement);
    drop(db);
    house::backup_as(house, &alone, "alone").await;
    let snapshot = house::newest_of(house, "alone").await;
    let begun = Instant::now();
    house::restore(house, &snapshot, &back).await.unwrap();
    begun.elapsed()
}

async fn keys(house: &House, place: &Path, snapshot: &Snapshot) -> String {
    let restored = restored_alone(house, place, "contacts").await;
    let manifest = house.opened.manifest(snapshot).await.unwrap();
    let contacts = table(&manifest, "contacts");
    let reader = house.opened.reader().await.unwrap();
    let begun = Instant::now();
    let mut stack = StackReader::open(reader, contacts).await.unwrap();
    let mut some = Vec::new();
    while let Some(rows) = stack.next().await.unwrap() {
        some.push(rows.rows.row(rows.rows.len() / 2).to_vec());
    }
    let whole = begun.elapsed();
    let encoder = KeyEncoder::new(&contacts.table).unwrap();
    let text = |row: &Vec<u8>| {
        let mut key = Vec::new();
        encoder.encode(row, &mut key).unwrap();
        key::text(&contacts.table, &key).unwrap()
    };
    // The first finds nothing kept on this host, the second does.
    let sought = [text(&some[some.len() / 2]), text(&some[some.len() / 3])];
    for (key, how) in sought.iter().zip(["cold", "warm"]) {
        let request = find::Request {
            table: "contacts".into(),
            key: Some(key.clone()),
            conditions: Vec::new(),
            limit: 1,
        };
        let store = &house.opened.vault.store;
        let (begun, asked) = (Instant::now(), store.requests());
        assert_eq!(found(house, snapshot, &request).await, 1);
        let (took, asked) = (begun.elapsed(), store.requests().since(&asked));
        println!(
            "find by key ({how}) in {} runs of {} rows: {} requests, {} bytes, {took:?}; restoring the table took {restored:?}, 1/{:.0} of it; reading it took {whole:?}",
            contacts.stack.len(),
            contacts.rows,
            asked.get,
            asked.bytes_down,
            restored.as_secs_f64() / took.as_secs_f64()
        );
    }
    sought[0].clone()
}

fn table<'a>(manifest: &'a Manifest, name: &str) -> &'a ManifestTable {
    let mut tables = manifest.tables.iter();
    tables.find(|one| one.table.name.name == name).unwrap()
}

async fn conditions(house: &House, snapshot: &Snapshot) {
    let manifest = house.opened.manifest(snapshot).await.unwrap();
    let tables = manifest.tables.iter();
    let largest = tables.max_by_key(|table| table.bytes_raw).unwrap();
    let columns = largest.table.columns.iter();
    let column = columns.last().unwrap().name.clone();
    for condition in [
        format!("{column}=no such value"),
        format!("{column}~no such value"),
    ] {
        let request = find::Request {
            table: largest.table.name.to_string(),
            key: None,
            conditions: vec![condition.clone()],
            limit: 1,
        };
        let (begun, cpu) = (Instant::now(), cpu_seconds());
        assert_eq!(found(house, snapshot, &request).await, 0);
        let cpu = cpu_seconds() - cpu;
        let megabytes = largest.bytes_raw as f64 / 1e6;
        println!(
            "find --where {condition} in {}: {megabytes:.0} MB of rows, {cpu:.2} CPU s, {:.0} MB per CPU s, {:?}",
            largest.table.name,
            megabytes / cpu,
            begun.elapsed()
        );
    }
}

/// The customer is deleted and comes back, beside a restore of everything.
async fn brought_back(house: &House, place: &Path, snapshot: &Snapshot, id: i64) {
    let file = place.join("crm.db");
    let db = Connection::open(&file).unwrap();
    db.execute_batch(&format!(
        "PRAGMA foreign_keys = ON; DELETE FROM deals WHERE account_id = {id};
         DELETE FROM contacts WHERE account_id = {id}; DELETE FROM accounts WHERE id = {id}"
    ))
    .unwrap();
    let live = Place::Sqlite(file);
    let mut request = asking(&live, "accounts", &[&id.to_string()]);
    request.relations = Relations::default();
    let (begun, asked) = (Instant::now(), house.opened.vault.store.requests());
    let done = undelete(house, snapshot, &live, &request, Mode::Apply).await;
    let (took, done) = (begun.elapsed(), done.unwrap());
    let asked = house.opened.vault.store.requests().since(&asked);
    assert!(done.applied, "{:?}", done.plan.conflicts);
    assert!(done.plan.insert.len() as u64 > DEPENDENTS);
    let begun = Instant::now();
    let back = place.join("back.db");
    house::restore(house, snapshot, &back).await.unwrap();
    let whole = begun.elapsed();
    println!(
        "undelete of a customer with {} dependents: {took:?}, {} requests, {} bytes; a full restore took {whole:?}, 1/{:.0} of it",
        done.plan.insert.len() - 1,
        asked.get,
        asked.bytes_down,
        whole.as_secs_f64() / took.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a large sample takes minutes"]
async fn long_records_reach() {
    let place = tempfile::tempdir().unwrap();
    let scale = setting("ROWVAULT_REACH_SCALE", SCALE);
    let snapshots = setting("ROWVAULT_REACH_SNAPSHOTS", SNAPSHOTS) as u32;
    let file = place.path().join("crm.db");
    fill::sqlite(&file, &Sample::new(7, scale)).unwrap();
    let id = customer(&file);
    let (house, _moto) = house(place.path()).await;
    house::backup(&house, &file).await;
    for day in 1..snapshots {
        churn(&file, "contacts", day);
        house::backup(&house, &file).await;
    }
    let snapshot = house::newest(&house).await;
    let key = keys(&house, place.path(), &snapshot).await;
    conditions(&house, &snapshot).await;

    let catalog = house.opened.catalog().await.unwrap();
    let source = catalog.source(&"crm".parse().unwrap()).unwrap();
    for how in ["as after a find", "again"] {
        let (begun, asked) = (Instant::now(), house.opened.vault.store.requests());
        let outcome = history::run(&house.opened, source, "contacts", &key).await;
        let (took, outcome) = (begun.elapsed(), outcome.unwrap());
        let asked = house.opened.vault.store.requests().since(&asked);
        println!(
            "history over {} snapshots ({how}): {} versions, {} requests, {} bytes, {took:?}",
            outcome.snapshots,
            outcome.versions.len(),
            asked.get,
            asked.bytes_down,
        );
    }
    brought_back(&house, place.path(), &snapshot, id).await;
    differences(&house, &source.snapshots[0], &snapshot).await;
}

async fn differences(house: &House, first: &Snapshot, last: &Snapshot) {
    let store = house.opened.vault.store.clone();
    for wanted in [Wanted::Counts, Wanted::Rows] {
        let (begun, asked, cpu) = (Instant::now(), store.requests(), cpu_seconds());
        let comparison = diff::start(&house.opened, first, last, &[]).await.unwrap();
        let mut changed = 0;
        for pairing in &comparison.pairings {
            let differences = comparison.table(pairing, wanted).await.unwrap();
            changed += differences.finish().await.unwrap().changed;
        }
        let asked = store.requests().since(&asked);
        println!(
            "diff of the first and the last ({wanted:?}): {changed} changed, {} requests, {} bytes, {:.2} CPU s, {:?}",
            asked.get,
            asked.bytes_down,
            cpu_seconds() - cpu,
            begun.elapsed()
        );
    }
}
