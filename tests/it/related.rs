//! Rows by the value of a column, and the filters that find them: against a reading of everything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use rowvault::demo::fill;
use rowvault::format::filter::Filter;
use rowvault::format::manifest::{Manifest, ManifestTable};
use rowvault::format::run::RunKind;
use rowvault::repo::reader::Reader;
use rowvault::repo::table::{RelatedRows, RunChunks, Sought, StackReader, read_run};
use rowvault::row::cell::{Cell, Cells};
use rowvault::row::key::KeyEncoder;
use rowvault::sample::Sample;
use rowvault::sample::churn::Churn;
use tempfile::TempDir;

use crate::house::{self, House};
use crate::tiny;

struct Rig {
    house: House,
    _place: TempDir,
}

impl Rig {
    /// A CRM in chunks of about 4 KiB, after days of work.
    async fn after(days: u64) -> Rig {
        let place = tiny::directory();
        let crm = place.path().join("crm.db");
        let sample = Sample::new(21, 0.003);
        fill::sqlite(&crm, &sample).unwrap();
        let url = place.path().join("repo").display().to_string();
        let house = house::make(&url, &place.path().join("state"), 4 << 10).await;
        house::backup(&house, &crm).await;
        let mut churn = Churn::new(&sample);
        for day in 0..days {
            let edits = churn.crm_day(day).chain(churn.delete_contacts(day, 3));
            fill::apply(&crm, edits.collect::<Vec<_>>()).unwrap();
            house::backup(&house, &crm).await;
        }
        Rig {
            house,
            _place: place,
        }
    }

    async fn newest(&self) -> (Arc<Reader>, Manifest) {
        let newest = house::newest(&self.house).await;
        let manifest = self.house.opened.manifest(&newest).await.unwrap();
        (self.house.opened.reader().await.unwrap(), manifest)
    }
}

fn cell(row: &[u8], column: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Cells::new(row)
        .nth(column)
        .unwrap()
        .unwrap()
        .push(&mut bytes);
    bytes
}

fn null() -> Vec<u8> {
    let mut bytes = Vec::new();
    Cell::Null.push(&mut bytes);
    bytes
}

async fn all_rows(reader: &Arc<Reader>, table: &ManifestTable) -> Vec<Vec<u8>> {
    let mut stack = StackReader::open(reader.clone(), table).await.unwrap();
    let mut all = Vec::new();
    while let Some(rows) = stack.next().await.unwrap() {
        all.extend(rows.rows.iter().map(<[u8]>::to_vec));
    }
    all
}

async fn related(
    reader: &Arc<Reader>,
    table: &ManifestTable,
    column: usize,
    cells: HashSet<Vec<u8>>,
) -> (Vec<Vec<u8>>, usize) {
    let sought = Sought { column, cells };
    let found = RelatedRows::open(reader.clone(), table, sought).await;
    let mut found = found.unwrap();
    let mut rows = Vec::new();
    while let Some(next) = found.next().await.unwrap() {
        rows.extend(next.rows.iter().map(<[u8]>::to_vec));
    }
    (rows, found.chunks)
}

async fn count_chunks(reader: &Arc<Reader>, table: &ManifestTable) -> usize {
    let mut count = 0;
    for run in &table.stack {
        let mut chunks = RunChunks::new(read_run(reader, run).await.unwrap());
        while chunks.next(reader).await.unwrap().is_some() {
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_value_are_those_of_a_whole_reading_and_few_chunks_are_read() {
    let rig = Rig::after(5).await;
    let (reader, manifest) = rig.newest().await;
    let (mut asked, mut read, mut whole, mut stacked) = (0, 0, 0, 0);
    for table in &manifest.tables {
        let rows = all_rows(&reader, table).await;
        let chunks = count_chunks(&reader, table).await;
        stacked += usize::from(table.stack.len() > 2);
        for key in &table.table.foreign_keys {
            let column = table.table.column(&key.columns[0]).unwrap();
            let mut by_value: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
            for row in &rows {
                by_value
                    .entry(cell(row, column))
                    .or_default()
                    .push(row.clone());
            }
            by_value.remove(&null());
            let every = (by_value.len() / 6).max(1);
            for (value, expected) in by_value.iter().step_by(every) {
                let cells = HashSet::from([value.clone()]);
                let (found, opened) = related(&reader, table, column, cells).await;
                assert!(
                    found == *expected,
                    "{}.{}",
                    table.table.name,
                    key.columns[0]
                );
                asked += 1;
                if by_value.len() > 100 {
                    read += opened;
                    whole += chunks;
                }
            }
            let several: HashSet<Vec<u8>> = by_value.keys().take(3).cloned().collect();
            let expected = rows
                .iter()
                .filter(|row| several.contains(&cell(row, column)));
            let expected: Vec<_> = expected.cloned().collect();
            assert!(related(&reader, table, column, several).await.0 == expected);
        }
    }
    println!("{asked} values, {read} of {whole} chunks read");
    assert!(asked > 30 && stacked > 3);
    assert!(read * 5 < whole, "{read} of {whole} chunks were read");
    // What nobody refers to costs next to nothing.
    let mails = manifest
        .tables
        .iter()
        .find(|table| table.table.name.name == "mails")
        .unwrap();
    let column = mails
        .table
        .column(&mails.table.foreign_keys[0].columns[0])
        .unwrap();
    // One value may be unlucky in all filters of one length, and keys are drawn anew each time.
    let mut chunks = 0;
    for number in 0..16 {
        let mut nobody = Vec::new();
        Cell::Text(format!("nobody {number}").as_bytes()).push(&mut nobody);
        let (found, opened) = related(&reader, mails, column, HashSet::from([nobody])).await;
        assert!(found.is_empty());
        chunks += opened;
    }
    let all = 16 * count_chunks(&reader, mails).await;
    assert!(chunks * 10 <= all, "{chunks} of {all} chunks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_filter_of_a_delta_run_never_denies_a_key_of_it() {
    let rig = Rig::after(3).await;
    let (reader, manifest) = rig.newest().await;
    let shared = &reader.vault().access.shared;
    let (mut inside, mut outside, mut claimed) = (0, 0, 0);
    for table in &manifest.tables {
        let Some(keys) = KeyEncoder::new(&table.table) else {
            continue;
        };
        let mut own = BTreeSet::new();
        let mut key = Vec::new();
        for row in all_rows(&reader, table).await {
            keys.encode(&row, &mut key).unwrap();
            own.insert(key.clone());
        }
        for run in &table.stack {
            let run = read_run(&reader, run).await.unwrap();
            if run.kind == RunKind::Base {
                assert!(run.key_filter.is_none());
                continue;
            }
            let bits = run.key_filter.clone().expect("a delta run has a filter");
            let filter = Filter::read(&bits).unwrap();
            let mut chunks = RunChunks::new(run.clone());
            while let Some(chunk) = chunks.next(&reader).await.unwrap() {
                for key in [&chunk.first, &chunk.last] {
                    assert!(filter.may_contain(&shared.key_filter_hash(key)));
                    inside += 1;
                }
            }
            let known = own.iter().filter(|key| {
                let hash = shared.key_filter_hash(key);
                filter.may_contain(&hash)
            });
            // Keys of the table that are in the run, and false claims.
            claimed += known.count() as u64;
            outside += run.puts + own.len() as u64 / 60;
        }
    }
    assert!(inside > 20, "{inside} keys");
    assert!(
        claimed <= outside,
        "{claimed} of about {outside} keys claimed"
    );
}
