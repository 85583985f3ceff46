//! Accidents on generated schemas, undone, against a model.
//!
//! From a seed: tables with keys of one or two columns, references that cascade, empty or forbid, in
//! circles too; rows; a deletion; edits elsewhere. The oracle is the same database without the
//! deletion. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet};

use rowvault::job::undelete::Mode;
use rowvault::random::SeededRandom;
use rowvault::row::closure::relation::Relations;

use crate::undelete_scene::{Place, Stage, asking, backup, differences, undelete};
use crate::{mysql_server, postgres_server};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnDelete {
    Cascade,
    SetNull,
    Restrict,
}

struct Reference {
    /// The table that is referred to.
    parent: usize,
    on_delete: OnDelete,
}

struct Table {
    /// Whether the key has two columns, the second of them text.
    wide: bool,
    references: Vec<Reference>,
}

type RowId = (usize, u64);

/// A database as data: its schema, and which row refers to which.
struct World {
    tables: Vec<Table>,
    /// For each row, what each reference of its table names.
    rows: BTreeMap<RowId, Vec<Option<u64>>>,
}

fn side(id: u64) -> String {
    format!("k''{}", id % 3)
}

impl World {
    fn draw(random: &SeededRandom) -> World {
        let count = 3 + random.below(5) as usize;
        let mut tables = Vec::new();
        for table in 0..count {
            let mut references = Vec::new();
            for _ in 0..random.below(3) {
                let earlier = table > 0 && random.below(3) > 0;
                let (parent, on_delete) = match earlier {
                    true => {
                        let kinds = [OnDelete::Cascade, OnDelete::SetNull, OnDelete::Restrict];
                        let kind = kinds[random.below(3) as usize];
                        (random.below(table as u64) as usize, kind)
                    }
                    // Circles: whatever is not made yet is named later, and may be empty.
                    false => (random.below(count as u64) as usize, OnDelete::SetNull),
                };
                references.push(Reference { parent, on_delete });
            }
            tables.push(Table {
                wide: random.below(4) == 0,
                references,
            });
        }
        let mut world = World {
            tables,
            rows: BTreeMap::new(),
        };
        let per_table = 4 + random.below(12);
        for table in 0..count {
            for id in 1..=per_table {
                let references = world.tables[table].references.iter();
                let names = references.map(|one| {
                    let empty = random.below(4) == 0 && one.on_delete == OnDelete::SetNull;
                    (!empty).then(|| 1 + random.below(per_table))
                });
                let names = names.collect();
                world.rows.insert((table, id), names);
            }
        }
        world
    }

    fn ddl(&self, place: &Place) -> String {
        let inline = matches!(place, Place::Sqlite(_));
        let (mut make, mut later) = (String::new(), String::new());
        for (at, table) in self.tables.iter().enumerate() {
            let mut parts = vec![
                "id INTEGER NOT NULL".to_owned(),
                "side VARCHAR(9) NOT NULL".into(),
            ];
            for (nth, reference) in table.references.iter().enumerate() {
                let null = match reference.on_delete {
                    OnDelete::SetNull => "",
                    _ => " NOT NULL",
                };
                parts.push(format!("r{nth} INTEGER{null}"));
                if self.tables[reference.parent].wide {
                    parts.push(format!("s{nth} VARCHAR(9){null}"));
                }
            }
            parts.push("v VARCHAR(40)".into());
            parts.push("u VARCHAR(40) UNIQUE".into());
            parts.push(match table.wide {
                true => "PRIMARY KEY (id, side)".into(),
                false => "PRIMARY KEY (id)".to_owned(),
            });
            for (nth, reference) in table.references.iter().enumerate() {
                let wide = self.tables[reference.parent].wide;
                let own = if wide {
                    format!("r{nth}, s{nth}")
                } else {
                    format!("r{nth}")
                };
                let theirs = if wide { "id, side" } else { "id" };
                let on_delete = match reference.on_delete {
                    OnDelete::Cascade => " ON DELETE CASCADE",
                    OnDelete::SetNull => " ON DELETE SET NULL",
                    OnDelete::Restrict => "",
                };
                let key = format!(
                    "FOREIGN KEY ({own}) REFERENCES t{}({theirs}){on_delete}",
                    reference.parent
                );
                match inline {
                    true => parts.push(key),
                    false => later.push_str(&format!(
                        "ALTER TABLE t{at} ADD CONSTRAINT f{at}_{nth} {key};\n"
                    )),
                }
            }
            make.push_str(&format!("CREATE TABLE t{at}({});\n", parts.join(", ")));
        }
        let rows: Vec<String> = self.rows.keys().map(|&row| self.insert(row)).collect();
        let fill = rows.join(";\n");
        // Rows first: in the file, keys are looked at only when the transaction ends.
        match inline {
            true => format!("{make}BEGIN; PRAGMA defer_foreign_keys=ON;\n{fill};\nCOMMIT;"),
            false => format!("{make}{fill};\n{later}"),
        }
    }

    fn columns(&self, row: RowId) -> Vec<(String, String)> {
        let (table, id) = row;
        let mut columns = vec![
            ("id".to_owned(), id.to_string()),
            ("side".into(), format!("'{}'", side(id))),
        ];
        for (nth, name) in self.rows[&row].iter().enumerate() {
            let parent = &self.tables[self.tables[table].references[nth].parent];
            let value = name.map_or("NULL".into(), |id| id.to_string());
            columns.push((format!("r{nth}"), value));
            if parent.wide {
                let value = name.map_or("NULL".into(), |id| format!("'{}'", side(id)));
                columns.push((format!("s{nth}"), value));
            }
        }
        columns.push(("v".into(), format!("'v{table} {id} \"é\"'")));
        columns.push(("u".into(), format!("'u{table}-{id}'")));
        columns
    }

    fn insert(&self, row: RowId) -> String {
        let columns = self.columns(row);
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<&str> = columns.iter().map(|(_, value)| value.as_str()).collect();
        format!(
            "INSERT INTO t{}({}) VALUES ({})",
            row.0,
            names.join(", "),
            values.join(", ")
        )
    }

    /// What deleting `row` takes away and what it empties; none where it is forbidden.
    fn lost(&self, row: RowId) -> Option<(BTreeSet<RowId>, BTreeSet<RowId>)> {
        let (mut gone, mut emptied) = (BTreeSet::from([row]), BTreeSet::new());
        loop {
            let before = gone.len();
            for (&other, names) in &self.rows {
                for (reference, name) in self.tables[other.0].references.iter().zip(names) {
                    let Some(id) = name else { continue };
                    if !gone.contains(&(reference.parent, *id)) || gone.contains(&other) {
                        continue;
                    }
                    match reference.on_delete {
                        OnDelete::Cascade => drop(gone.insert(other)),
                        OnDelete::SetNull => drop(emptied.insert(other)),
                        OnDelete::Restrict => return None,
                    }
                }
            }
            if gone.len() == before {
                // A row that restricts what cascades later forbids it too.
                let forbids = self.rows.iter().any(|(other, names)| {
                    let references = self.tables[other.0].references.iter().zip(names);
                    references.into_iter().any(|(reference, name)| {
                        let named = name.map(|id| (reference.parent, id));
                        reference.on_delete == OnDelete::Restrict
                            && named.is_some_and(|named| gone.contains(&named))
                    })
                });
                let emptied = emptied.difference(&gone).copied().collect();
                return (!forbids).then_some((gone, emptied));
            }
        }
    }

    /// Edits by others: new rows, and new values in rows that the accident left alone.
    fn edits(&self, random: &SeededRandom, hurt: &BTreeSet<RowId>) -> String {
        let well: Vec<RowId> = self
            .rows
            .keys()
            .filter(|row| !hurt.contains(row))
            .copied()
            .collect();
        let mut sql = String::new();
        for nth in 0..10 {
            if well.is_empty() {
                break;
            }
            let (table, id) = well[random.below(well.len() as u64) as usize];
            match random.below(2) {
                0 => sql.push_str(&format!(
                    "UPDATE t{table} SET v = 'edit {nth}' WHERE id = {id};\n"
                )),
                _ if self.tables[table].references.is_empty() => {
                    let new = 1000 + nth;
                    sql.push_str(&format!(
                        "INSERT INTO t{table}(id, side, v, u) VALUES ({new}, '{}', NULL, 'n{nth}');\n",
                        side(new)
                    ));
                }
                _ => sql.push_str(&format!(
                    "UPDATE t{table} SET u = 'w{nth}' WHERE id = {id};\n"
                )),
            }
        }
        sql
    }
}

async fn accident(seed: u64, live: &Place, spared: &Place) {
    let random = SeededRandom::new(seed);
    let (world, row, hurt) = loop {
        let world = World::draw(&random);
        let rows: Vec<RowId> = world.rows.keys().copied().collect();
        let row = rows[random.below(rows.len() as u64) as usize];
        if let Some((gone, emptied)) = world.lost(row) {
            break (world, row, &gone | &emptied);
        }
    };
    live.sql(&world.ddl(live));
    spared.sql(&world.ddl(spared));
    let stage = Stage::new().await;
    let snapshot = backup(&stage.house, live).await;
    live.sql(&format!("DELETE FROM t{} WHERE id = {}", row.0, row.1));
    let edits = world.edits(&SeededRandom::new(seed), &hurt);
    live.sql(&edits);
    spared.sql(&edits);
    let key = match world.tables[row.0].wide {
        true => format!("id={},side=k'{}", row.1, row.1 % 3),
        false => row.1.to_string(),
    };
    let mut request = asking(live, &format!("t{}", row.0), &[&key]);
    request.relations = Relations::default();
    let done = undelete(&stage.house, &snapshot, live, &request, Mode::Apply).await;
    let done = done.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
    assert!(done.applied, "seed {seed}: {:#?}", done.plan);
    let wrong = differences(&spared.dump(), &live.dump());
    assert!(
        wrong.is_empty(),
        "seed {seed}: {wrong:#?}\n{:#?}",
        done.plan
    );
}

async fn accidents(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let directory = crate::tiny::directory();
        let place = |name: &str| Place::Sqlite(directory.path().join(name));
        accident(seed, &place("live.db"), &place("spared.db")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accidents_on_generated_schemas_are_undone() {
    accidents(0..60).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "1,000 accidents"]
async fn long_undelete_accidents() {
    accidents(0..1000).await;
    println!("1000 accidents undone, 0 rows wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn accidents_in_servers_are_undone() {
    let postgres = postgres_server::Server::shared();
    let mysql = mysql_server::shared();
    for seed in 100..104 {
        if let Some(server) = &postgres {
            let place = |name: &str| {
                let name = format!("seed_{seed}_{name}");
                server.create(&name);
                Place::Postgres(server.clone(), name)
            };
            accident(seed, &place("live"), &place("spared")).await;
        }
        let place = |name: &str| {
            let name = format!("seed_{seed}_{name}");
            mysql.fresh(&name, "");
            Place::Mysql(mysql.clone(), name)
        };
        accident(seed, &place("live"), &place("spared")).await;
    }
}
