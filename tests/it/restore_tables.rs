//! Some tables of a snapshot come back beside those of a database in use, on every engine.

use std::sync::Arc;

use rowvault::clock::Timestamp;
use rowvault::failure::Class;
use rowvault::source::address::{SourceOptions, TargetOptions};
use rowvault::source::beside::Beside;
use rowvault::source::open;

use crate::cli_desk::Desk;
use crate::undelete_scene::{self as scene, Place};
use crate::{mysql_server, postgres_server};

/// A desk with a snapshot of the CRM at `live`, in which contacts and deals were lost since.
fn after_an_accident(live: &Place) -> Desk {
    scene::make(live);
    let more = match live {
        Place::Sqlite(_) => {
            "CREATE TRIGGER watch AFTER INSERT ON contacts BEGIN SELECT RAISE(ABORT, 'fired'); END;
             CREATE INDEX by_phone ON contacts(phone, lower(name)) WHERE phone IS NOT NULL"
        }
        Place::Postgres(..) => {
            "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
             CREATE TRIGGER watch AFTER INSERT ON contacts FOR EACH ROW EXECUTE FUNCTION watch();
             CREATE INDEX by_phone ON contacts(phone, lower(name)) WHERE phone IS NOT NULL"
        }
        Place::Mysql(..) => {
            "CREATE TRIGGER watch AFTER INSERT ON contacts FOR EACH ROW SIGNAL SQLSTATE '45000';
             CREATE INDEX by_phone ON contacts(phone, name)"
        }
    };
    live.sql(more);
    let desk = Desk::with_repository();
    let taken = desk.run(&["backup", &live.url().display(), "-q"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    desk
}

/// How many indexes a table has.
fn indexes(live: &Place, table: &str) -> String {
    match live {
        Place::Sqlite(_) => live
            .rows(&format!(
                "SELECT count(*) FROM pragma_index_list('{table}')"
            ))
            .concat(),
        Place::Postgres(server, name) => {
            let sql = format!("SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass");
            server.ask(name, &sql)
        }
        Place::Mysql(server, name) => {
            let sql = format!(
                "SELECT COUNT(DISTINCT index_name) FROM information_schema.statistics \
                 WHERE table_schema = DATABASE() AND table_name = '{table}' \
                 AND index_name NOT IN ('account', 'boss')"
            );
            server.sql(name, &sql).trim().into()
        }
    }
}

fn tables_come_back_beside(live: &Place) {
    let desk = after_an_accident(live);
    let then = live.dump();
    let before = indexes(live, "contacts");
    live.sql("DELETE FROM deals; DELETE FROM contacts; UPDATE users SET name = 'somebody'");
    let now = live.dump();
    let url = live.url().display();
    let words = [
        "restore", "latest", "--to", &url, "--table", "contacts", "--table", "deals",
    ];
    let done = desk.run(&[&words[..], &["--json"]].concat()).json();
    assert_eq!(
        (&done["tables"], &done["verified"]),
        (&2.into(), &true.into())
    );
    let names: Vec<String> = ["contacts", "deals"]
        .map(|table| {
            let made = done["made"].as_array().unwrap().iter();
            let full = live.table(table).to_string();
            let found = made.clone().find(|one| one["table"] == full.as_str());
            let name = found.unwrap()["as"].as_str().unwrap();
            name.rsplit('.').next().unwrap().to_owned()
        })
        .into();
    let warnings = done["warnings"].to_string();
    assert!(
        warnings.contains("foreign key") && warnings.contains("1 trigger"),
        "{warnings}"
    );
    let mut after = live.dump();
    for (name, table) in names.iter().zip(["contacts", "deals"]) {
        assert!(name.starts_with(&format!("{table}__rowvault_")), "{name}");
        assert_eq!(after.remove(name).as_ref(), Some(&then[table]), "{table}");
    }
    assert_eq!(after, now, "what was there was touched");
    if !matches!(live, Place::Mysql(..)) {
        assert_eq!(indexes(live, &names[0]), before);
    }
    // Its keys hold, and nothing refers anywhere.
    let name = &names[0];
    let refused = match live {
        Place::Sqlite(path) => {
            let db = rusqlite::Connection::open(path).unwrap();
            let twice = format!("INSERT INTO {name} SELECT * FROM {name} LIMIT 1");
            db.execute(&twice, []).is_err()
        }
        Place::Postgres(server, database) => {
            let sql = format!(
                "SELECT count(*) FROM pg_constraint WHERE conrelid = '{name}'::regclass AND contype IN ('p', 'u')"
            );
            server.ask(database, &sql) == "2"
        }
        Place::Mysql(server, database) => {
            let twice = format!("INSERT INTO {name} SELECT * FROM {name} LIMIT 1");
            server.try_sql(database, &twice).is_err()
        }
    };
    assert!(refused, "the same row went in twice");
    live.sql(&format!("UPDATE {name} SET account = -5"));
    // What cannot be meant is refused, and nothing is made.
    let there = live.dump();
    desk.run(&["restore", "latest", "--to", &url, "--table", "contcats"])
        .refused(1, "there is ");
    let other = match live {
        Place::Sqlite(_) => "postgres:///nowhere",
        _ => "sqlite:crm.db",
    };
    desk.run(&["restore", "latest", "--to", other, "--table", "contacts"])
        .refused(2, "cannot be put into");
    assert_eq!(live.dump(), there);
}

/// A name that is taken is left alone.
async fn a_taken_name_is_refused(live: &Place) {
    let mut source = open::source(&live.url(), &SourceOptions::default()).unwrap();
    let mut structure = source.begin().await.unwrap();
    source.end().await.unwrap();
    structure
        .tables
        .retain(|table| ["deals", "tags"].contains(&table.name.name.as_str()));
    let now = Timestamp::from_seconds(1_800_000_000);
    let beside = Beside::new(structure.engine, &structure.tables, now).unwrap();
    let taken = beside.names().last().unwrap().1.name.clone();
    live.sql(&format!(
        "CREATE TABLE {taken}(x INTEGER); INSERT INTO {taken} VALUES (7)"
    ));
    let before = live.dump();
    let mut target = open::tables_beside(&live.url(), &TargetOptions::default(), beside);
    let refused = target.prepare(&structure).await.unwrap_err();
    assert_eq!(refused.class(), Class::Conflict, "{refused}");
    assert!(refused.to_string().contains(&taken), "{refused}");
    target.discard().await.unwrap();
    assert_eq!(live.dump(), before);
    live.sql(&format!("DROP TABLE {taken}"));
    // And what was made goes again.
    let before = live.dump();
    target.prepare(&structure).await.unwrap();
    target.discard().await.unwrap();
    assert_eq!(live.dump(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_tables_come_back_beside() {
    let directory = crate::tiny::directory();
    let live = Place::Sqlite(directory.path().join("live.db"));
    tables_come_back_beside(&live);
    a_taken_name_is_refused(&live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_tables_come_back_beside() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("besides");
    let live = Place::Postgres(server.clone(), "besides".into());
    tables_come_back_beside(&live);
    a_taken_name_is_refused(&live).await;
    // Who may not make tables makes none.
    server.sql(
        "besides",
        "CREATE ROLE looker LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    );
    let desk = Desk::with_repository();
    assert_eq!(desk.run(&["backup", &live.url().display(), "-q"]).code, 0);
    let before = live.dump();
    let url = server.url_as("besides", "looker").display();
    desk.run(&["restore", "latest", "--to", &url, "--table", "tags"])
        .refused(6, "permission denied");
    assert_eq!(live.dump(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_tables_come_back_beside() {
    let server: Arc<mysql_server::Server> = mysql_server::shared();
    server.fresh("besides", "");
    let live = Place::Mysql(server.clone(), "besides".into());
    tables_come_back_beside(&live);
    a_taken_name_is_refused(&live).await;
    server.sql(
        "",
        "CREATE USER looker; GRANT SELECT ON besides.* TO looker",
    );
    let desk = Desk::with_repository();
    assert_eq!(desk.run(&["backup", &live.url().display(), "-q"]).code, 0);
    let before = live.dump();
    let url = server.url_as("looker", "besides").display();
    desk.run(&["restore", "latest", "--to", &url, "--table", "tags"])
        .refused(6, "denied");
    assert_eq!(live.dump(), before);
}
