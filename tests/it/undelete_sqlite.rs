//! Records brought back into a SQLite file in use.

use rowvault::config::relations::{Own, choose, lists};
use rowvault::job::undelete::{Choice, Mode, OnConflict};
use rowvault::row::closure::{Closure, Dependents};
use rowvault::row::schema::Engine;

use crate::undelete_scene::{self as scene, Stage, asking, backup, delete_account, undelete};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_and_nothing_else_changes() {
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &stage.place("live.db"),
        &stage.place("spared.db"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_conflicts_take_along_only_what_cannot_be_without_them() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    scene::make(&live);
    let snapshot = backup(&stage.house, &live).await;
    live.sql(&delete_account(7));
    live.sql("INSERT INTO contacts VALUES (9999, 3, 'c700@example.org', 'Thief', NULL, NULL)");
    let mut request = asking(&live, "accounts", &["7"]);
    request.on_conflict = OnConflict::Skip;
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    // The account names that contact as its main one: neither it nor what hangs on it comes back.
    let keys: Vec<String> = done
        .plan
        .conflicts
        .iter()
        .map(|one| format!("{} {}", one.table, one.key))
        .collect();
    assert!(keys.contains(&"contacts 700".to_owned()), "{keys:?}");
    assert!(keys.contains(&"accounts 7".to_owned()), "{keys:?}");
    let orphans = live.orphans();
    assert_eq!(orphans, 0, "no reference leads nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rows_come_back_and_columns_that_changed_are_fitted() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(
        "CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, town TEXT, old TEXT, up TEXT AS (upper(name)));
         CREATE TRIGGER shout AFTER INSERT ON people BEGIN UPDATE people SET name = 'shouted'; END;
         INSERT INTO people(id, name, town, old) VALUES (1,'a','x','o'), (2,'b','y','o'), (3,'c','x','o'), (4,'d','x','o');",
    );
    live.sql("UPDATE people SET name = char(96 + id)");
    let snapshot = backup(&stage.house, &live).await;
    live.sql(
        "DELETE FROM people WHERE id > 1; ALTER TABLE people DROP COLUMN old;
         ALTER TABLE people ADD COLUMN fresh INTEGER DEFAULT 5;",
    );
    let mut request = asking(&live, "people", &[]);
    request.choices = vec![Choice {
        table: "people".into(),
        conditions: vec!["town=x".into()],
        missing: true,
        ..Choice::default()
    }];
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan);
    let notes = done.plan.notes.join("\n");
    for part in [
        "column old of people is gone",
        "column fresh of people came",
        "shout",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let rows = live.rows("SELECT id, name, town, up, fresh FROM people ORDER BY id");
    assert_eq!(rows, ["1|a|x|A|5", "3|c|x|C|5", "4|d|x|D|5"]);
}

/// A condition on a cell that lies in chunks of its own could not be judged while rows were chosen,
/// and the row was passed over without a word.
#[tokio::test(flavor = "multi_thread")]
async fn row_is_chosen_by_what_its_large_cell_holds() {
    let stage = Stage::new().await;
    let live = stage.place("live.db");
    live.sql(
        "CREATE TABLE mails(id INTEGER PRIMARY KEY, body TEXT);
         INSERT INTO mails VALUES (1, 'short'), (2, hex(zeroblob(1100000)) || 'needle'), (3, hex(zeroblob(1100000)));",
    );
    let before = live.rows("SELECT id, length(body), substr(body, -6) FROM mails");
    let snapshot = backup(&stage.house, &live).await;
    live.sql("DELETE FROM mails WHERE id = 2");
    for missing in [true, false] {
        let mut request = asking(&live, "mails", &[]);
        request.choices = vec![Choice {
            table: "mails".into(),
            conditions: vec!["body~needle".into()],
            missing,
            ..Choice::default()
        }];
        let mode = if missing { Mode::Plan } else { Mode::Apply };
        let done = undelete(&stage.house, &snapshot, &live, &request, mode);
        let plan = done.await.unwrap().plan;
        let keys: Vec<&str> = plan.insert.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(keys, ["2"], "missing: {missing}");
    }
    let after = live.rows("SELECT id, length(body), substr(body, -6) FROM mails");
    assert_eq!(after, before);
}

#[test]
fn every_list_is_chosen_by_its_tables_and_its_relations_are_followed() {
    for list in lists() {
        // Every table and column that a rule names, and nothing else.
        let mut columns: std::collections::BTreeMap<String, std::collections::BTreeSet<String>> =
            list.needs
                .iter()
                .map(|name| (name.clone(), ["id".to_owned()].into()))
                .collect();
        let mut ends = Vec::new();
        for rule in &list.relations {
            let rule = rule.replace(" one record", "");
            let (rule, when) = match rule.split_once(" where ") {
                Some((rule, when)) => (
                    rule.to_owned(),
                    when.split([' ', '=']).next().map(str::to_owned),
                ),
                None => (rule, None),
            };
            let (child, parent) = rule.split_once(" -> ").unwrap();
            ends.push((child.to_owned(), when));
            ends.push((parent.to_owned(), None));
        }
        for (end, when) in ends {
            let (table, names) = end.split_once('.').unwrap();
            let table = table.replacen('*', &list.needs[0], 1);
            let of = columns.entry(table).or_default();
            of.extend(names.split(',').map(|name| name.trim().to_owned()));
            of.extend(when);
        }
        let tables: Vec<_> = columns
            .iter()
            .map(|(name, columns)| {
                let columns: Vec<String> = columns.iter().cloned().collect();
                scene::plain_table(name, &columns)
            })
            .collect();
        let known = choose(&tables, &Own::default());
        assert!(
            known.lists.contains(&list.name),
            "{}: {:?}",
            list.name,
            known.lists
        );
        let wanted = list.relations.len();
        assert!(
            known.conventions.len() >= wanted,
            "{}: {}",
            list.name,
            known.conventions.len()
        );
        let all = known.among(&tables);
        let closure = Closure::new(Engine::Sqlite, tables, &all, Dependents::Follow);
        assert_eq!(closure.edges().len(), all.len(), "{}", list.name);
    }
}
