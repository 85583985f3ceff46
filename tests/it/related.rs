//! Rows by the value of a column, and the filters that find them: against a reading of everything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use rowvault::demo::fill;
use rowvault::format::filter::Filter;
use rowvault::format::manifest::{Manifest, ManifestTable};
use rowvault::format::run::RunKind;
use rowvault::repo::reader::Reader;
use rowvault::repo::table::{
    RelatedRows, RunChunks, Shelf, Sought, SoughtColumn, StackReader, read_run,
};
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

/// Columns with the values that are looked for in each.
type Way = Vec<(usize, HashSet<Vec<u8>>)>;

/// The rows that are sought, and how many chunks may hold them.
async fn sought(
    reader: &Arc<Reader>,
    table: &ManifestTable,
    sought: Vec<Way>,
) -> (Vec<Vec<u8>>, usize) {
    let ways = sought.into_iter().map(|way| {
        let columns = way.into_iter();
        let columns = columns.map(|(column, cells)| SoughtColumn { column, cells });
        columns.collect()
    });
    let mut shelf = Shelf::new(reader.clone());
    let found = RelatedRows::open(&mut shelf, table, Sought(ways.collect())).await;
    let mut found = found.unwrap();
    let mut rows = Vec::new();
    while let Some(next) = found.next(&mut shelf).await.unwrap() {
        rows.extend(next.rows.iter().map(<[u8]>::to_vec));
    }
    (rows, found.chunks)
}

async fn related(
    reader: &Arc<Reader>,
    table: &ManifestTable,
    column: usize,
    cells: HashSet<Vec<u8>>,
) -> (Vec<Vec<u8>>, usize) {
    sought(reader, table, vec![vec![(column, cells)]]).await
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
    let mut chunks = 0;
    for number in 0..16 {
        let mut nobody = Vec::new();
        Cell::Text(format!("nobody {number}").as_bytes()).push(&mut nobody);
        let (found, opened) = related(&reader, mails, column, HashSet::from([nobody])).await;
        assert!(found.is_empty());
        chunks += opened;
    }
    let all = 16 * count_chunks(&reader, mails).await;
    assert!(chunks * 1000 <= all, "{chunks} of {all} chunks");
}

/// Every table, by each column and by pairs of them, first columns of keys among them: whatever is
/// asked for together, in one walk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_sought_in_several_ways_are_those_of_a_whole_reading() {
    let rig = Rig::after(3).await;
    let (reader, manifest) = rig.newest().await;
    let (mut asked, mut of_keys, mut found) = (0, 0, 0);
    for table in &manifest.tables {
        let rows = all_rows(&reader, table).await;
        let columns = table.table.columns.len();
        let picked = |at: usize, column: usize| cell(&rows[at * 37 % rows.len()], column);
        let leading = table.table.key.as_ref().map(|key| key.columns[0].0);
        for first in 0..columns {
            let second = (first + 1) % columns;
            let some = |column: usize, many: usize| {
                let cells = (0..many).map(|at| picked(at, column));
                (column, cells.filter(|cell| *cell != null()).collect())
            };
            let ways: Vec<Way> = vec![
                vec![some(first, 5)],
                vec![some(first, 40), some(second, 40)],
                vec![some(second, 2)],
            ];
            let fits = |row: &&Vec<u8>| {
                let has = |(column, cells): &(usize, HashSet<Vec<u8>>)| {
                    cells.contains(&cell(row, *column))
                };
                ways.iter().any(|way| way.iter().all(has))
            };
            let expected: Vec<Vec<u8>> = rows.iter().filter(fits).cloned().collect();
            of_keys += usize::from(Some(first) == leading);
            asked += 1;
            found += expected.len();
            let (rows, _) = sought(&reader, table, ways.clone()).await;
            assert!(rows == expected, "{} column {first}", table.table.name);
        }
        let Some(leading) = leading else { continue };
        // What has no place in the order of keys is in no row.
        let mut odd = Vec::new();
        Cell::Real(0.5).push(&mut odd);
        let cells = HashSet::from([odd, picked(1, leading)]);
        let expected = rows
            .iter()
            .filter(|row| cells.contains(&cell(row, leading)));
        let expected: Vec<_> = expected.cloned().collect();
        let (rows, _) = related(&reader, table, leading, cells).await;
        assert!(rows == expected && !rows.is_empty());
    }
    println!("{asked} questions, {of_keys} by the first column of a key, {found} rows");
    assert!(asked > 80 && of_keys > 8 && found > 1000);
}

/// Hundreds of values at once, none of which is there, and as many that are: the filters still tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_values_at_once_do_not_make_every_chunk_read() {
    let rig = Rig::after(0).await;
    let (reader, manifest) = rig.newest().await;
    let tables = manifest.tables.iter();
    let activities = tables
        .clone()
        .find(|one| one.table.name.name == "activities");
    let activities = activities.unwrap();
    let column = activities.table.column("deal_id").unwrap();
    let strangers = (0..400).map(|number| {
        let mut cell = Vec::new();
        Cell::Text(format!("00000000-0000-4000-8000-{number:012}").as_bytes()).push(&mut cell);
        cell
    });
    let (rows, chunks) = related(&reader, activities, column, strangers.collect()).await;
    let all = count_chunks(&reader, activities).await;
    println!("400 strangers: {chunks} of {all} chunks");
    assert!(rows.is_empty());
    // About 400 in 65,536 of the chunks claim one of them.
    assert!(chunks <= 2 + all / 40, "{chunks} of {all} chunks");
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
