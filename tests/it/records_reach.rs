//! What finding records costs in a large sample CRM; by hand, for it takes minutes.

use std::path::Path;
use std::time::Instant;

use rowvault::demo::fill;
use rowvault::job::diff::{self, Wanted};
use rowvault::job::{find, history};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::table::StackReader;
use rowvault::sample::Sample;
use rusqlite::Connection;

use crate::house::{self, House};

/// Share of the 1 GB sample; `ROWVAULT_REACH_SCALE` says otherwise.
const SCALE: f64 = 0.25;
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

/// Reads a search to its end; gives the rows found.
async fn found(house: &House, snapshot: &Snapshot, request: &find::Request) -> u64 {
    let mut finder = find::start(&house.opened, snapshot, request).await.unwrap();
    let mut count = 0;
    while let Some(rows) = finder.next().await.unwrap() {
        count += rows.rows.len() as u64;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a large sample takes minutes"]
async fn long_records_reach() {
    let place = tempfile::tempdir().unwrap();
    let scale = std::env::var("ROWVAULT_REACH_SCALE").ok();
    let scale = scale.map_or(SCALE, |scale| scale.parse().unwrap());
    let file = place.path().join("crm.db");
    fill::sqlite(&file, &Sample::new(7, scale)).unwrap();
    let url = format!("file://{}", place.path().join("repo").display());
    let house = house::make(&url, &place.path().join("state"), CHUNK_TARGET_BYTES).await;
    house::backup(&house, &file).await;
    for day in 1..7 {
        churn(&file, "contacts", day);
        house::backup(&house, &file).await;
    }
    let snapshot = house::newest(&house).await;
    let manifest = house.opened.manifest(&snapshot).await.unwrap();
    let largest = manifest
        .tables
        .iter()
        .max_by_key(|table| table.bytes_raw)
        .unwrap();
    let contacts = manifest
        .tables
        .iter()
        .find(|table| table.table.name.name == "contacts");
    let contacts = contacts.unwrap();
    let reader = house.opened.reader().await.unwrap();
    let store = house.opened.vault.store.clone();

    let begun = Instant::now();
    let mut stack = StackReader::open(reader.clone(), contacts).await.unwrap();
    let mut some = None;
    while let Some(rows) = stack.next().await.unwrap() {
        some.get_or_insert_with(|| rows.rows.row(rows.rows.len() / 2).to_vec());
    }
    let whole = begun.elapsed();
    let encoder = rowvault::row::key::KeyEncoder::new(&contacts.table).unwrap();
    let mut key = Vec::new();
    encoder.encode(&some.unwrap(), &mut key).unwrap();
    let key = rowvault::row::key::text(&contacts.table, &key).unwrap();
    let request = find::Request {
        table: "contacts".into(),
        key: Some(key.clone()),
        conditions: Vec::new(),
        limit: 1,
    };
    let (begun, asked) = (Instant::now(), store.requests());
    assert_eq!(found(&house, &snapshot, &request).await, 1);
    let asked = store.requests().since(&asked);
    println!(
        "find by key of {} rows in {} runs: {} requests, {} bytes, {:?}; the table read whole {whole:?}",
        contacts.rows,
        contacts.stack.len(),
        asked.get,
        asked.bytes_down,
        begun.elapsed()
    );

    let column = &largest.table.columns[1].name;
    let request = find::Request {
        table: largest.table.name.to_string(),
        key: None,
        conditions: vec![format!("{column}=no such value")],
        limit: 1,
    };
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    assert_eq!(found(&house, &snapshot, &request).await, 0);
    let cpu = cpu_seconds() - cpu;
    let megabytes = largest.bytes_raw as f64 / 1e6;
    println!(
        "find --where {column} in {}: {megabytes:.0} MB of rows, {cpu:.2} CPU s, {:.0} MB per CPU s, {:?}",
        largest.table.name,
        megabytes / cpu,
        begun.elapsed()
    );

    let catalog = house.opened.catalog().await.unwrap();
    let source = catalog.source(&"crm".parse().unwrap()).unwrap();
    let (begun, asked) = (Instant::now(), store.requests());
    let outcome = history::run(&house.opened, source, "contacts", &key)
        .await
        .unwrap();
    let asked = store.requests().since(&asked);
    println!(
        "history over {} snapshots: {} versions, {} requests, {} bytes, {:?}",
        outcome.snapshots,
        outcome.versions.len(),
        asked.get,
        asked.bytes_down,
        begun.elapsed()
    );

    let first = &source.snapshots[0];
    for wanted in [Wanted::Counts, Wanted::Rows] {
        let (begun, asked, cpu) = (Instant::now(), store.requests(), cpu_seconds());
        let comparison = diff::start(&house.opened, first, &snapshot, &[])
            .await
            .unwrap();
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
