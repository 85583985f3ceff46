//! Records: found by key and by conditions, their history, and what differs from a live database.
//!
//! The model is the database itself, asked in SQL; requests and bytes are those that the storage
//! counted.

use std::collections::BTreeMap;
use std::fs;

use rowvault::failure::Class;
use rowvault::job::backup::{self, Reading, Request};
use rowvault::job::diff::{self, Wanted};
use rowvault::job::{find, history};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::table::{KeyedStack, RunChunks, Shelf, read_run};
use rowvault::row::cell::{Cell, cells};
use rowvault::row::key;
use rowvault::source::open::{self, SourceOptions, SourceUrl};
use rusqlite::Connection;

use crate::cli_desk::{Desk, fields};
use crate::mysql_server;
use crate::postgres_server;
use crate::shadow_model::{Day, History, Rig, check_comparison};

async fn snapshots(rig: &Rig) -> Vec<Snapshot> {
    let catalog = rig.opened.catalog().await.unwrap();
    catalog.snapshots().into_iter().cloned().collect()
}

/// A table of `rows` rows in many chunks, and nothing else.
fn big_table(history: &History, rows: u32) {
    let db = Connection::open(&history.file).unwrap();
    db.execute_batch(&format!(
        "DROP TABLE people; DROP TABLE things; DROP TABLE log;
         CREATE TABLE big(id INTEGER PRIMARY KEY, stage TEXT, note TEXT);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO big SELECT i, 'open', hex(randomblob(20)) FROM n"
    ))
    .unwrap();
}

fn run(history: &History, sql: &str) {
    Connection::open(&history.file)
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

/// How many chunks of rows the base of the one table has.
async fn base_chunks(rig: &Rig, snapshot: &Snapshot) -> u64 {
    let manifest = rig.opened.manifest(snapshot).await.unwrap();
    let reader = rig.opened.reader().await.unwrap();
    let base = read_run(&reader, &manifest.tables[0].stack[0])
        .await
        .unwrap();
    let mut chunks = RunChunks::new(base);
    let mut count = 0;
    while chunks.next(&reader).await.unwrap().is_some() {
        count += 1;
    }
    count
}

/// The counts of the one table, and how many chunks of rows were read for them.
async fn counted(rig: &Rig, pair: [&Snapshot; 2], wanted: Wanted) -> ((u64, u64, u64), u64) {
    let comparison = diff::start(&rig.opened, pair[0], pair[1], &[])
        .await
        .unwrap();
    let pairing = &comparison.pairings[0];
    let mut differences = comparison.table(pairing, wanted).await.unwrap();
    while differences.next().await.unwrap().is_some() {}
    let chunks = differences.chunks_read().unwrap();
    let counts = differences.finish().await.unwrap();
    ((counts.added, counts.removed, counts.changed), chunks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn difference_reads_the_deltas_and_the_chunks_under_changed_keys_alone() {
    let rig = Rig::new(31).await;
    let history = History::begin(rig.place.path(), 31);
    big_table(&history, 6000);
    rig.backup(&history.file, Reading::Changes).await.unwrap();
    for day in 1..4 {
        run(
            &history,
            &format!("UPDATE big SET stage = 'won{day}' WHERE id = {day}00"),
        );
        run(
            &history,
            &format!(
                "DELETE FROM big WHERE id = {day}50; INSERT INTO big VALUES ({day}0000, 'new', '')"
            ),
        );
        rig.backup(&history.file, Reading::Changes).await.unwrap();
    }
    run(&history, "UPDATE big SET stage = 'all'");
    rig.backup(&history.file, Reading::Changes).await.unwrap();
    let all = snapshots(&rig).await;
    let whole = base_chunks(&rig, &all[0]).await;
    assert!(whole > 200, "{whole} chunks");
    // A snapshot and the next: the manifest says it, and no row is read.
    let (counts, chunks) = counted(&rig, [&all[1], &all[2]], Wanted::Counts).await;
    assert_eq!((counts, chunks), ((1, 1, 1), 0));
    // The rows of it: the delta, and of the base the chunks of three keys, the one beyond none.
    let (counts, chunks) = counted(&rig, [&all[1], &all[2]], Wanted::Rows).await;
    assert_eq!(counts, (1, 1, 1));
    assert!(chunks <= 6, "{chunks} of {whole} chunks were read");
    // Three days, and backwards.
    let (counts, chunks) = counted(&rig, [&all[0], &all[3]], Wanted::Counts).await;
    assert_eq!(counts, (3, 3, 3));
    assert!(chunks <= 12, "{chunks} of {whole} chunks were read");
    let (counts, chunks) = counted(&rig, [&all[3], &all[1]], Wanted::Rows).await;
    assert_eq!(counts, (2, 2, 2));
    assert!(chunks <= 12, "{chunks} of {whole} chunks were read");
    // Every row is another: all is read.
    let (counts, chunks) = counted(&rig, [&all[0], &all[4]], Wanted::Rows).await;
    assert_eq!(counts, (3, 3, 5997));
    assert!(chunks > whole, "{chunks}");
    // The same snapshot twice: nothing is read.
    let (counts, chunks) = counted(&rig, [&all[2], &all[2]], Wanted::Rows).await;
    assert_eq!((counts, chunks), ((0, 0, 0), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_history_cost_one_small_read_for_each_run() {
    let rig = Rig::new(32).await;
    let history = History::begin(rig.place.path(), 32);
    big_table(&history, 4000);
    let mut model: Vec<(usize, &str, Option<String>)> = Vec::new();
    let mut before = None;
    for day in 0..60 {
        if day > 0 {
            run(
                &history,
                &format!(
                    "UPDATE big SET note = note || '.' WHERE id % 97 = {}",
                    day % 97
                ),
            );
        }
        match day {
            9 | 40 => run(
                &history,
                &format!("UPDATE big SET stage = 'day{day}' WHERE id = 1234"),
            ),
            20 => run(&history, "DELETE FROM big WHERE id = 1234"),
            30 => run(&history, "INSERT INTO big VALUES (1234, 'back', 'x')"),
            _ => {}
        }
        rig.backup(&history.file, Reading::Changes).await.unwrap();
        let db = Connection::open(&history.file).unwrap();
        let sql = "SELECT stage || '|' || note FROM big WHERE id = 1234";
        let now: Option<String> = db.query_row(sql, [], |row| row.get(0)).ok();
        match (&before, &now) {
            (None, Some(_)) => model.push((day, "added", now.clone())),
            (Some(_), None) => model.push((day, "removed", None)),
            (Some(old), Some(new)) if old != new => model.push((day, "changed", now.clone())),
            _ => {}
        }
        before = now;
    }
    let all = snapshots(&rig).await;
    let catalog = rig.opened.catalog().await.unwrap();
    let source = catalog.source(&"crm".parse().unwrap()).unwrap();
    let asked = rig.opened.vault.store.requests();
    let outcome = history::run(&rig.opened, source, "big", "1234")
        .await
        .unwrap();
    let asked = rig.opened.vault.store.requests().since(&asked);
    let told: Vec<(usize, &str, Option<String>)> = outcome
        .versions
        .iter()
        .map(|version| {
            let day = all
                .iter()
                .position(|one| one.record.id == version.snapshot)
                .unwrap();
            let before = version.previous.map(|(id, _)| id);
            assert_eq!(before, day.checked_sub(1).map(|day| all[day].record.id));
            let row = version.record.as_ref().map(|record| {
                let cells = cells(&record.row, 3).unwrap();
                let text = |cell: &Cell<'_>| match cell {
                    Cell::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                    other => panic!("{other:?}"),
                };
                format!("{}|{}", text(&cells[1]), text(&cells[2]))
            });
            (day, version.operation.name(), row)
        })
        .collect();
    assert_eq!(told, model);
    assert!(model.len() >= 5, "{model:?}");
    println!("history over 60 snapshots: {asked:?}");
    assert!(asked.bytes_down <= 5 << 20, "{asked:?}");
    // Any record of the last day, a key that is gone, and one that never was.
    let reader = rig.opened.reader().await.unwrap();
    let manifest = rig.opened.manifest(&all[59]).await.unwrap();
    let table = &manifest.tables[0];
    for (id, there) in [
        (1, true),
        (1234, true),
        (4000, true),
        (97, true),
        (5000, false),
    ] {
        let asked = rig.opened.vault.store.requests();
        let mut shelf = Shelf::new(reader.clone());
        let stack = KeyedStack::open(&mut shelf, table).await.unwrap().unwrap();
        let wanted = key::parse(&table.table, &id.to_string()).unwrap();
        let rows = stack.rows(&mut shelf, &[&wanted]).await.unwrap();
        let asked = rig.opened.vault.store.requests().since(&asked);
        assert_eq!(rows[0].is_some(), there, "{id}");
        let runs = table.stack.len() as u64;
        println!(
            "key {id}: {} requests, {} bytes, {runs} runs",
            asked.get, asked.bytes_down
        );
        // Each run's description and one chunk of it, and a page of the base.
        assert!(asked.get <= 2 * runs + 1, "{asked:?}");
        assert!(asked.bytes_down <= 1 << 20, "{asked:?}");
    }
}

/// How many requests and bytes it costs to find a key, once the index is known.
async fn find_cost(rig: &Rig, snapshot: &Snapshot, key: &str) -> (Option<String>, u64, u64) {
    let request = find::Request {
        table: "big".into(),
        key: Some(key.into()),
        conditions: Vec::new(),
        limit: 1,
    };
    let asked = rig.opened.vault.store.requests();
    let mut finder = find::start(&rig.opened, snapshot, &request).await.unwrap();
    let found = finder.next().await.unwrap();
    let asked = rig.opened.vault.store.requests().since(&asked);
    let note = found.map(|rows| match cells(rows.rows.row(0), 3).unwrap()[2] {
        Cell::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        ref other => panic!("{other:?}"),
    });
    println!(
        "find {key}: {} requests, {} bytes",
        asked.get, asked.bytes_down
    );
    (note, asked.get, asked.bytes_down)
}

/// Descriptions of seven runs lay in seven packs, and each find fetched all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finding_a_key_again_asks_for_rows_alone_whatever_became_of_what_is_kept() {
    let rig = Rig::new(33).await;
    let history = History::begin(rig.place.path(), 33);
    big_table(&history, 4000);
    for day in 0..8 {
        run(
            &history,
            &format!("UPDATE big SET note = note || '.' WHERE id % 97 = {day}"),
        );
        rig.backup(&history.file, Reading::Changes).await.unwrap();
    }
    let snapshot = snapshots(&rig).await.pop().unwrap();
    let manifest = rig.opened.manifest(&snapshot).await.unwrap();
    let runs = manifest.tables[0].stack.len();
    assert!(runs >= 7, "{runs} runs");
    let note = |id: u32| {
        let db = Connection::open(&history.file).unwrap();
        let sql = format!("SELECT note FROM big WHERE id = {id}");
        db.query_row(&sql, [], |row| row.get::<_, String>(0)).ok()
    };
    // Where the backups were made, all descriptions are here.
    let state = &rig.opened.state;
    let whole = |name: &String| state.read(&format!("runs/{name}")).unwrap().unwrap();
    let written: BTreeMap<String, Vec<u8>> = state
        .names("runs")
        .unwrap()
        .into_iter()
        .map(|name| (name.clone(), whole(&name)))
        .collect();
    let (found, here, _) = find_cost(&rig, &snapshot, "97").await;
    assert_eq!(found, note(97));
    // Another host has none.
    for name in written.keys() {
        state.remove(&format!("runs/{name}")).unwrap();
    }
    let (found, cold, _) = find_cost(&rig, &snapshot, "97").await;
    assert_eq!(found, note(97));
    assert!(
        here <= 8 && here < cold,
        "{here} requests, {cold} elsewhere"
    );
    for name in state.names("runs").unwrap() {
        assert!(written[&name] == whole(&name), "{name} lies otherwise");
    }
    for id in [1, 97, 291, 1234, 4000, 5000] {
        let (found, requests, bytes) = find_cost(&rig, &snapshot, &id.to_string()).await;
        assert_eq!(found, note(id), "{id}");
        assert!(requests <= 8 && requests < cold, "{requests} requests");
        assert!(bytes <= 1 << 20, "{bytes} bytes");
    }
    // Damaged, cut, exchanged and lost descriptions are fetched again.
    let mut names = state.names("runs").unwrap();
    names.sort();
    assert!(names.len() >= runs);
    let before: Vec<Vec<u8>> = names.iter().map(whole).collect();
    let spoil = |at: usize, bytes: &[u8]| {
        std::fs::write(state.path(&format!("runs/{}", names[at])), bytes).unwrap();
    };
    let mut flipped = before[0].clone();
    flipped[20] ^= 1;
    spoil(0, &flipped);
    spoil(1, &before[1][..before[1].len() / 2]);
    spoil(2, &before[3]);
    spoil(3, b"");
    state.remove(&format!("runs/{}", names[4])).unwrap();
    for id in [1234, 1, 97, 291, 4000, 5000] {
        let (found, ..) = find_cost(&rig, &snapshot, &id.to_string()).await;
        assert_eq!(found, note(id), "{id}");
    }
    let after: Vec<Vec<u8>> = names.iter().map(whole).collect();
    assert!(after == before, "they are kept as the storage has them");
}

/// Ids of what is found, ascending.
async fn ids(rig: &Rig, snapshot: &Snapshot, conditions: &[&str]) -> Vec<i64> {
    let request = find::Request {
        table: "people".into(),
        key: None,
        conditions: conditions.iter().map(|text| (*text).to_owned()).collect(),
        limit: u64::MAX,
    };
    let mut finder = find::start(&rig.opened, snapshot, &request).await.unwrap();
    let mut out = Vec::new();
    while let Some(rows) = finder.next().await.unwrap() {
        for row in rows.rows.iter() {
            match cells(row, finder.table().columns.len()).unwrap()[0] {
                Cell::Integer(id) => out.push(id),
                other => panic!("{other:?}"),
            }
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_find_what_sql_finds() {
    for seed in [41, 42, 43] {
        let rig = Rig::new(seed).await;
        let mut history = History::begin(rig.place.path(), seed);
        for _ in 0..12 {
            rig.backup(&history.file, Reading::Changes).await.unwrap();
            history.day();
        }
        run(
            &history,
            "UPDATE people SET note = NULL WHERE id % 5 = 0;
             UPDATE people SET age = age / 3.0 WHERE id % 7 = 0;
             UPDATE people SET age = 'old' WHERE id % 11 = 0;
             UPDATE people SET note = x'00776f6e' WHERE id % 13 = 0;
             UPDATE people SET name = '42' WHERE id % 17 = 0",
        );
        rig.backup(&history.file, Reading::Changes).await.unwrap();
        let newest = snapshots(&rig).await.pop().unwrap();
        // Numbers with numbers, text with text.
        let number = "typeof(age) IN ('integer', 'real')";
        let over_fifty = "typeof(age) IN ('integer', 'real') AND age > 50
             OR typeof(age) = 'text' AND age > '50'";
        let cases: Vec<(Vec<&str>, String)> = vec![
            (vec!["age>50"], over_fifty.into()),
            (
                vec!["age <= 7.5"],
                format!("{number} AND age <= 7.5 OR typeof(age) = 'text' AND age <= '7.5'"),
            ),
            (vec!["age=12"], "age = 12".into()),
            (vec!["age != 12"], "age IS NOT NULL AND age <> 12".into()),
            (vec!["age=old"], "age = 'old'".into()),
            (
                vec!["note~won"],
                "instr(CAST(note AS BLOB), CAST('won' AS BLOB)) > 0".into(),
            ),
            (vec!["note is null"], "note IS NULL".into()),
            (
                vec!["note IS NOT NULL", "age>50"],
                format!("note IS NOT NULL AND ({over_fifty})"),
            ),
            (vec!["note=x'00776f6e'"], "note = x'00776f6e'".into()),
            (vec!["name='42'"], "name = '42'".into()),
            (
                vec!["name=deal", "id<1099511627800"],
                "name = 'deal' AND id < 1099511627800".into(),
            ),
            (
                vec!["name>lost"],
                "typeof(name) = 'text' AND name > 'lost'".into(),
            ),
            (vec!["name=nobody"], "0".into()),
        ];
        let db = Connection::open(&history.file).unwrap();
        for (conditions, sql) in cases {
            let sql = format!("SELECT id FROM people WHERE {sql} ORDER BY id");
            let mut statement = db.prepare(&sql).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            let expected: Vec<i64> = rows.map(Result::unwrap).collect();
            let mut found = ids(&rig, &newest, &conditions).await;
            found.sort_unstable();
            assert_eq!(found, expected, "seed {seed}: {conditions:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_database_is_compared_as_the_model_says_and_not_written() {
    for seed in 51..57 {
        let rig = Rig::new(seed).await;
        let mut history = History::begin(rig.place.path(), seed);
        let mut days: Vec<Day> = Vec::new();
        for day in 0..4 {
            let taken = rig.backup(&history.file, Reading::Changes).await.unwrap();
            let manifest = rig.manifest(&taken).await;
            days.push((history.model(&manifest), manifest));
            if day < 3 {
                (0..3).for_each(|_| history.day());
            }
        }
        let all = snapshots(&rig).await;
        let bytes = fs::read(&history.file).unwrap();
        for day in 0..4 {
            let url: SourceUrl = format!("sqlite:{}", history.file.display())
                .parse()
                .unwrap();
            let mut source = open::source(&url, &SourceOptions::default()).unwrap();
            let structure = source.begin().await.unwrap();
            let opened = &rig.opened;
            let comparison = diff::start_live(opened, &all[day], source.as_ref(), &structure, &[]);
            let comparison = comparison.await.unwrap();
            let checked = check_comparison(&comparison, [&days[day], &days[3]]).await;
            checked.unwrap_or_else(|error| panic!("seed {seed}, day {day}: {error}"));
            drop(comparison);
            source.end().await.unwrap();
        }
        assert!(
            bytes == fs::read(&history.file).unwrap(),
            "the source was written"
        );
    }
}

type Told = BTreeMap<String, Vec<(String, String)>>;

/// Backs `url` up, changes it, and tells for each table operation and key of what differs.
async fn changed_live(url: &SourceUrl, change: impl FnOnce()) -> Told {
    let rig = Rig::new(61).await;
    let options = SourceOptions::default();
    let mut source = open::source(url, &options).unwrap();
    let request = Request::new("crm".parse().unwrap());
    backup::run(&rig.opened, source.as_mut(), &request)
        .await
        .unwrap();
    let snapshot = snapshots(&rig).await.pop().unwrap();
    let mut told = Told::new();
    change();
    let mut source = open::source(url, &options).unwrap();
    let structure = source.begin().await.unwrap();
    let live = source.as_ref();
    let comparison = diff::start_live(&rig.opened, &snapshot, live, &structure, &[]);
    let comparison = comparison.await.unwrap();
    for pairing in &comparison.pairings {
        let mut differences = comparison.table(pairing, Wanted::Rows).await.unwrap();
        let table = pairing.after.as_ref().unwrap().table().clone();
        let mut rows = Vec::new();
        while let Some(some) = differences.next().await.unwrap() {
            for one in some {
                let key = one.key.map(|key| key::text(&table, &key).unwrap());
                rows.push((one.operation.name().to_owned(), key.unwrap_or_default()));
            }
        }
        let counts = differences.finish().await.unwrap();
        let counted = counts.added + counts.removed + counts.changed;
        assert_eq!(counted, rows.len() as u64, "{}", pairing.name);
        told.insert(pairing.name.clone(), rows);
    }
    drop(comparison);
    source.end().await.unwrap();
    told
}

fn told(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    let row = |(operation, key): &(&str, &str)| ((*operation).to_owned(), (*key).to_owned());
    rows.iter().map(row).collect()
}

/// What both servers are asked: the same tables, the same changes.
const CHANGES: &str = "UPDATE deal SET stage = 'won' WHERE id IN (7, 4000);
    DELETE FROM deal WHERE id = 1500; INSERT INTO deal VALUES (5001, 'new');
    UPDATE person SET note = NULL WHERE code = 'Ändern'; DELETE FROM person WHERE code = 'zeta';
    INSERT INTO person VALUES ('alpha2', 'y');
    UPDATE pair SET v = 'z' WHERE a = 3 AND b = 'x';
    INSERT INTO bag VALUES (1); DELETE FROM bag WHERE x = 2;";

fn expected_changes() -> [(&'static str, Vec<(String, String)>); 4] {
    [
        (
            "deal",
            told(&[
                ("changed", "7"),
                ("removed", "1500"),
                ("changed", "4000"),
                ("added", "5001"),
            ]),
        ),
        (
            "person",
            told(&[
                ("added", "alpha2"),
                ("removed", "zeta"),
                ("changed", "Ändern"),
            ]),
        ),
        ("pair", told(&[("changed", "a=3,b=x")])),
        (
            "bag",
            told(&[("removed", ""), ("removed", ""), ("added", "")]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn live_postgres_is_compared_by_key() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("live_diff");
    server.sql(
        "live_diff",
        "CREATE TABLE deal (id int PRIMARY KEY, stage text);
         INSERT INTO deal SELECT i, 'open' FROM generate_series(1, 5000) i;
         CREATE TABLE person (code text PRIMARY KEY, note text);
         INSERT INTO person VALUES ('alpha', 'x'), ('Beta', 'x'), ('Ändern', 'x'), ('zeta', 'x'), ('_', 'x');
         CREATE TABLE pair (a int, b text, v text, PRIMARY KEY (a, b));
         INSERT INTO pair VALUES (1, 'x', 'v'), (3, 'x', 'v'), (3, 'y', 'v');
         CREATE TABLE bag (x int); INSERT INTO bag VALUES (1), (2), (2), (3);",
    );
    let told = changed_live(&server.url("live_diff"), || {
        server.sql("live_diff", CHANGES)
    })
    .await;
    for (table, expected) in expected_changes() {
        assert_eq!(told[&format!("public.{table}")], expected, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_mariadb_is_compared_by_key() {
    let server = mysql_server::shared();
    server.fresh(
        "live_diff",
        "CREATE TABLE deal (id INT PRIMARY KEY, stage TEXT);
         INSERT INTO deal SELECT seq, 'open' FROM seq_1_to_5000;
         CREATE TABLE person (code VARCHAR(40) PRIMARY KEY, note TEXT)
             CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;
         INSERT INTO person VALUES ('alpha', 'x'), ('Beta', 'x'), ('Ändern', 'x'), ('zeta', 'x'), ('_', 'x');
         CREATE TABLE pair (a INT, b VARCHAR(9), v TEXT, PRIMARY KEY (a, b));
         INSERT INTO pair VALUES (1, 'x', 'v'), (3, 'x', 'v'), (3, 'y', 'v');
         CREATE TABLE bag (x INT); INSERT INTO bag VALUES (1), (2), (2), (3);",
    );
    let change = || {
        server.sql("live_diff", CHANGES);
    };
    let told = changed_live(&server.url("live_diff"), change).await;
    for (table, expected) in expected_changes() {
        assert_eq!(told[table], expected, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_meant_are_refused_with_what_there_is() {
    let rig = Rig::new(71).await;
    let history = History::begin(rig.place.path(), 71);
    rig.backup(&history.file, Reading::Changes).await.unwrap();
    let newest = snapshots(&rig).await.pop().unwrap();
    let refused = async |table: &str, key: Option<&str>, condition: Option<&str>| {
        let request = find::Request {
            table: table.into(),
            key: key.map(str::to_owned),
            conditions: condition.into_iter().map(str::to_owned).collect(),
            limit: 1,
        };
        match find::start(&rig.opened, &newest, &request).await {
            Err(error) => (
                error.class(),
                error.to_string(),
                error.hint().unwrap_or_default(),
            ),
            Ok(_) => panic!("{table} {key:?} {condition:?} was taken"),
        }
    };
    let (class, text, hint) = refused("poeple", None, None).await;
    assert_eq!(class, Class::Missing);
    assert!(
        text.contains("poeple") && hint.contains("people"),
        "{text}: {hint}"
    );
    let (class, text, hint) = refused("people", None, Some("nmae=x")).await;
    assert_eq!(class, Class::Invalid);
    assert!(
        text.contains("nmae") && hint.contains("name"),
        "{text}: {hint}"
    );
    let (class, ..) = refused("people", Some("abc"), None).await;
    assert_eq!(class, Class::Invalid);
    let (class, _, hint) = refused("people", None, Some("1; DROP TABLE people")).await;
    assert_eq!(class, Class::Invalid);
    assert!(hint.contains("COL=VAL"), "{hint}");
    let (class, ..) = refused("log", Some("at=1"), None).await;
    assert_eq!(class, Class::Invalid);
    let catalog = rig.opened.catalog().await.unwrap();
    let source = catalog.source(&"crm".parse().unwrap()).unwrap();
    let Err(error) = history::run(&rig.opened, source, "poeple", "1").await else {
        panic!("a table that is not there has no history");
    };
    assert_eq!(error.class(), Class::Missing);
    let tables = ["poeple".to_owned()];
    let Err(error) = diff::start(&rig.opened, &newest, &newest, &tables).await else {
        panic!("a table that is not there has no differences");
    };
    assert_eq!(error.class(), Class::Missing);
}

#[test]
fn verbs_on_records_print_the_documents_of_the_design() {
    let desk = Desk::with_repository();
    let file = Connection::open(desk.path("own.db")).unwrap();
    file.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
         INSERT INTO item VALUES (1, 'a', 1.5), (2, 'b', 2), (3, 'c', NULL);
         CREATE TABLE gone (x);",
    )
    .unwrap();
    assert_eq!(desk.run(&["backup", "sqlite:own.db", "-q"]).code, 0);
    let first = desk.run(&["snapshots", "--json"]).json()["snapshots"][0]["id"].clone();
    let first = first.as_str().unwrap();
    file.execute_batch(
        "UPDATE item SET name = 'x', price = 9 WHERE id = 2; DELETE FROM item WHERE id = 3;
         INSERT INTO item VALUES (4, 'd', 4); DROP TABLE gone; CREATE TABLE fresh (y); INSERT INTO fresh VALUES (1);",
    )
    .unwrap();
    let live = desk
        .run(&["diff", "own@latest", "--live", "sqlite:own.db", "--json"])
        .json();
    assert_eq!(desk.run(&["backup", "sqlite:own.db", "-q"]).code, 0);
    let counts = desk.run(&["diff", first, "own@latest", "--json"]).json();
    assert_eq!(counts, live);
    let tables = counts["tables"].as_array().unwrap();
    let item = &tables[2];
    assert_eq!(
        (
            &item["table"],
            &item["added"],
            &item["removed"],
            &item["changed"]
        ),
        (&"item".into(), &1.into(), &1.into(), &1.into())
    );
    assert_eq!(
        (&tables[0]["only"], &tables[1]["only"]),
        (&"after".into(), &"before".into())
    );
    let rows = desk
        .run(&[
            "diff",
            first,
            "own@latest",
            "--rows",
            "--table",
            "item",
            "--json",
        ])
        .json();
    let rows = rows["tables"][0]["rows"].as_array().unwrap();
    assert_eq!(fields(&rows[0]), ["op", "key", "before", "after"]);
    assert_eq!(rows[0]["before"]["name"], "b");
    assert_eq!(rows[0]["after"]["price"], "9.0");
    assert_eq!(
        (&rows[1]["op"], &rows[1]["after"]),
        (&"removed".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (&rows[2]["op"], &rows[2]["key"]),
        (&"added".into(), &"4".into())
    );
    let few = desk
        .run(&[
            "diff",
            first,
            "own@latest",
            "--rows",
            "--limit",
            "1",
            "--table",
            "item",
            "--json",
        ])
        .json();
    assert_eq!(few["tables"][0]["rows"].as_array().unwrap().len(), 1);
    assert_eq!(few["tables"][0]["rows_left_out"], 2);
    let words = desk.run(&["diff", first, "own@latest", "--rows"]);
    assert!(
        words
            .out
            .contains("~ item 2  name: b → x, price: 2.0 → 9.0"),
        "{}",
        words.out
    );
    assert!(words.out.contains("the table is gone"), "{}", words.out);
    let versions = desk.run(&["history", "own", "item", "2", "--json"]).json();
    let versions = versions["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!(
        fields(&versions[1]),
        ["snapshot", "time", "op", "previous", "previous_time", "row"]
    );
    assert_eq!(
        (&versions[0]["op"], &versions[0]["previous"]),
        (&"added".into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (&versions[1]["previous"], &versions[1]["row"]["name"]),
        (&first.into(), &"x".into())
    );
    let words = desk.run(&["history", "own", "item", "3"]);
    assert!(words.out.contains("removed since"), "{}", words.out);
    let found = desk.run(&[
        "find",
        "own@latest",
        "item",
        "--where",
        "price>3",
        "--where",
        "name~d",
        "--json",
    ]);
    assert_eq!(
        found.json().to_string(),
        r#"{"rows":[{"id":"4","name":"d","price":"4.0"}]}"#
    );
    desk.run(&["find", "own@latest", "item", "--where", "prise=3"])
        .refused(2, "prise");
    desk.run(&["diff", "own@latest"]).refused(2, "");
    desk.run(&["history", "other", "item", "1"])
        .refused(1, "other");
}
