//! Seeded histories of a PostgreSQL database: proof against full reading, equal after each step.
//!
//! Each history has a schema and a seed of its own, with tables of several kinds of keys; all
//! schemas of a database are taken in one snapshot. What happens to rows is drawn from all that a
//! server does to them.

use rowvault::format::manifest::Mode;
use rowvault::random::SeededRandom;

use crate::postgres_proof::{Rig, SETTINGS};
use crate::postgres_server::Server;

/// One history: a schema, what happens in it, and what is open there.
struct History {
    schema: String,
    tables: &'static [&'static str],
    dice: SeededRandom,
    /// Whether the first partition is attached.
    attached: bool,
    /// Whether a transaction is prepared and holds its locks.
    held: bool,
    labels: u64,
}

/// All kinds of tables.
const ALL: &[&str] = &["a", "b", "c", "d", "e"];
/// Some for each history, in turn.
const SOME: [&[&str]; 3] = [&["a", "d"], &["b", "e"], &["c", "a"]];

fn made(table: &str) -> &'static str {
    match table {
        "a" => "CREATE TABLE S.a (id int PRIMARY KEY, s S.stage, v text, w int);",
        "b" => "CREATE TABLE S.b (id uuid PRIMARY KEY, v text);",
        "c" => "CREATE TABLE S.c (k text, n numeric, v text, PRIMARY KEY (k, n));",
        "e" => "CREATE TABLE S.e (n numeric PRIMARY KEY, v text);",
        _ => {
            "CREATE TABLE S.d (id bigint, day int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
             CREATE TABLE S.d1 PARTITION OF S.d FOR VALUES FROM (0) TO (100);
             CREATE TABLE S.d2 PARTITION OF S.d FOR VALUES FROM (100) TO (200);"
        }
    }
}

impl History {
    fn new(seed: u64, tables: &'static [&'static str]) -> History {
        History {
            schema: format!("s{seed}"),
            tables,
            dice: SeededRandom::new(seed),
            attached: true,
            held: false,
            labels: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.dice.below(bound)
    }

    fn begin(&self) -> String {
        let schema = &self.schema;
        let mut script =
            format!("CREATE SCHEMA {schema}; CREATE TYPE {schema}.stage AS ENUM ('new', 'won');\n");
        for table in self.tables {
            script += &made(table).replace("S.", &format!("{schema}."));
            script += &self.insert(table, 0, self.below(900));
        }
        script
    }

    fn insert(&self, table: &str, from: u64, rows: u64) -> String {
        let schema = &self.schema;
        let values = match table {
            "a" => format!("g - 500, (enum_range(NULL::{schema}.stage))[1], md5(g::text), g"),
            "b" => "md5(g::text)::uuid, repeat('b', g % 30)".to_owned(),
            "c" => "(ARRAY['', 'it''s', 'żółw', 'Z', 'a\\b'])[1 + g % 5], g / 5, 'c' || g".into(),
            "e" => "g / 4.0, 'e' || g".into(),
            _ => "g, g % 200, 'd' || g".into(),
        };
        let to = from + rows;
        format!(
            "INSERT INTO {schema}.{table} SELECT {values} FROM generate_series({from}, {to}) g \
             ON CONFLICT DO NOTHING;\n"
        )
    }

    /// Some of the rows of a table, one of so many.
    fn some(&self, one_of: u64) -> String {
        let salt = self.below(1_000_000);
        format!("abs(hashtext(t::text || '{salt}')::bigint) % {one_of} = 0")
    }

    /// What happens next.
    fn step(&mut self) -> String {
        let schema = self.schema.clone();
        if self.held {
            self.held = false;
            let end = ["COMMIT", "ROLLBACK"][self.below(2) as usize];
            return format!("{end} PREPARED '{schema}';\n");
        }
        let drawn = self.below(self.tables.len() as u64) as usize;
        let table = match self.tables[drawn] {
            "d" if !self.attached => "d1",
            other => other,
        };
        match self.below(6) {
            0 => String::new(),
            1 => self.structure(table),
            2 => self.whole_table(table),
            _ => {
                let mut script = String::new();
                for _ in 0..=self.below(2) {
                    // What is held would be waited for.
                    if !self.held {
                        script += &self.rows(table);
                    }
                }
                script
            }
        }
    }

    /// What happens to rows.
    fn rows(&mut self, table: &str) -> String {
        let t = format!("{}.{table}", self.schema);
        let one_of = [4, 30, 100, 300][self.below(4) as usize];
        let some = self.some(one_of);
        let another = self.some(one_of);
        match self.below(11) {
            0 | 1 if table != "d1" => self.insert(table, self.below(2000), self.below(60)),
            2 | 3 => format!("UPDATE {t} t SET v = v || 'x' WHERE {some};\n"),
            4 | 5 => format!("DELETE FROM {t} t WHERE {some};\n"),
            6 => format!("UPDATE {t} t SET v = v WHERE {some};\n"),
            7 => format!(
                "BEGIN; CREATE TEMP TABLE again ON COMMIT DROP AS SELECT * FROM {t} t WHERE {some};
                 DELETE FROM {t} t WHERE {some}; INSERT INTO {t} SELECT * FROM again; COMMIT;\n"
            ),
            8 => format!(
                "BEGIN; UPDATE {t} t SET v = 'lost' WHERE {some}; ROLLBACK;
                 BEGIN; SAVEPOINT one; DELETE FROM {t} t WHERE {some}; ROLLBACK TO one;
                 SAVEPOINT two; UPDATE {t} t SET v = 'kept' WHERE {another}; RELEASE two; COMMIT;\n"
            ),
            9 => self.other_keys(table),
            _ => {
                self.held = true;
                format!(
                    "BEGIN; UPDATE {t} t SET v = 'held' WHERE {some}; SAVEPOINT one;
                     DELETE FROM {t} t WHERE {another}; RELEASE one;
                     PREPARE TRANSACTION '{}';\n",
                    self.schema
                )
            }
        }
    }

    /// Rows get other keys, and some another partition.
    fn other_keys(&self, table: &str) -> String {
        let t = format!("{}.{table}", self.schema);
        let some = self.some(20);
        let (set, same) = match table {
            "a" => ("id = 1000 - id", "o.id = 1000 - t.id"),
            "b" => (
                "id = md5(id::text)::uuid",
                "o.id = pg_catalog.md5(t.id::text)::uuid",
            ),
            "c" => ("n = n + 0.5", "o.k = t.k AND o.n = t.n + 0.5"),
            "e" => ("n = -n", "o.n = -t.n"),
            "d" => (
                "day = (day + 100) % 200",
                "o.id = t.id AND o.day = (t.day + 100) % 200",
            ),
            _ => return String::new(),
        };
        format!(
            "UPDATE {t} t SET {set} WHERE {some} AND NOT EXISTS (SELECT FROM {t} o WHERE {same});\n"
        )
    }

    /// What happens to a table as a whole.
    fn whole_table(&self, table: &str) -> String {
        let (schema, t) = (&self.schema, format!("{}.{table}", self.schema));
        let leaf = if table == "d" { "d2" } else { table };
        match self.below(8) {
            0 => format!("TRUNCATE {t};\n"),
            1 => format!("VACUUM FREEZE {t};\n"),
            2 => format!("VACUUM FULL {t};\n"),
            3 => format!("CLUSTER {schema}.{leaf} USING {leaf}_pkey;\n"),
            4 => format!("ALTER TABLE {t} ALTER v TYPE text USING v || '';\n"),
            5 => format!(
                "ALTER TABLE {schema}.{leaf} SET UNLOGGED; ALTER TABLE {schema}.{leaf} SET LOGGED;\n"
            ),
            6 if table == "e" => format!(
                "BEGIN; TRUNCATE {t}; COPY {t} FROM STDIN WITH (FREEZE);\n7\tfrozen\n8\tfrozen\n\\.\nCOMMIT;\n"
            ),
            _ => format!("DELETE FROM {t}; VACUUM {t};\n"),
        }
    }

    /// What happens to what rows read by.
    fn structure(&mut self, table: &str) -> String {
        let schema = self.schema.clone();
        let tables = self.tables;
        let has = |table: &str| tables.contains(&table);
        match self.below(4) {
            0 if !has("d") => String::new(),
            0 if self.attached => {
                self.attached = false;
                format!("ALTER TABLE {schema}.d DETACH PARTITION {schema}.d1;\n")
            }
            0 => {
                self.attached = true;
                format!(
                    "ALTER TABLE {schema}.d ATTACH PARTITION {schema}.d1 FOR VALUES FROM (0) TO (100);\n"
                )
            }
            1 => {
                self.labels += 1;
                let (old, new) = match self.labels {
                    1 => ("new".to_owned(), "label 1".to_owned()),
                    more => (format!("label {}", more - 1), format!("label {more}")),
                };
                format!("ALTER TYPE {schema}.stage RENAME VALUE '{old}' TO '{new}';\n")
            }
            2 if has("a") => {
                let default = self.below(9);
                format!(
                    "ALTER TABLE {schema}.a DROP COLUMN w; \
                     ALTER TABLE {schema}.a ADD COLUMN w int DEFAULT {default};\n"
                )
            }
            3 if has("e") => format!(
                "CREATE TABLE {schema}.other (LIKE {schema}.e INCLUDING ALL);
                 INSERT INTO {schema}.other SELECT n + 1, v FROM {schema}.e;
                 DROP TABLE {schema}.e; ALTER TABLE {schema}.other RENAME TO e;
                 ALTER INDEX {schema}.other_pkey RENAME TO e_pkey; ANALYZE {schema}.{table};\n"
            ),
            _ => format!("ANALYZE {schema}.{table};\n"),
        }
    }
}

/// Runs the histories, and gives the bytes that were read, and all there were.
async fn run(server: Server, mut histories: Vec<History>, steps: usize) -> (u64, u64) {
    let rig = Rig::on(server).await;
    let begin: String = histories.iter().map(History::begin).collect();
    rig.sql(&begin);
    assert_eq!(rig.step().await.mode, Mode::Full);
    let (mut read, mut all) = (0, 0);
    for step in 0..steps {
        if step % 2 == 0 {
            // An index then tells of most rows alone.
            rig.sql("VACUUM");
        }
        let script: String = histories.iter_mut().map(History::step).collect();
        rig.sql(&script);
        let step = rig.step().await;
        assert_eq!(step.mode, Mode::Proof);
        read += step.read;
        all += step.all;
    }
    rig.read_back().await;
    (read, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn seeded_histories_are_proven_equal_to_full_readings() {
    let Some(server) = Server::debian(SETTINGS) else {
        return;
    };
    let histories = (0..50).map(|seed| History::new(seed, SOME[seed as usize % 3]));
    let (read, all) = run(server, histories.collect(), 4).await;
    assert!(read * 2 < all, "{read} of {all} bytes were read");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes an hour of CPU"]
async fn long_proof_of_a_thousand_histories() {
    let (mut read, mut all) = (0, 0);
    for round in 0..20 {
        let server = match round % 4 {
            3 => Server::eighteen(SETTINGS),
            _ => Server::debian(SETTINGS),
        };
        let server =
            server.expect("the proof takes a PostgreSQL 18 too: ROWVAULT_PG18_BIN names its bin");
        let seeds = 1000 + round * 50..1050 + round * 50;
        let histories = seeds.map(|seed| History::new(seed, ALL));
        let (some, of) = run(server, histories.collect(), 12).await;
        read += some;
        all += of;
        println!(
            "{} histories equal; {read} of {all} bytes read",
            (round + 1) * 50
        );
    }
}
