//! Records brought back into PostgreSQL and MariaDB in use.

use std::sync::Arc;

use rowvault::job::undelete::Mode;

use crate::undelete_scene::{self as scene, Place, Stage, asking, backup, differences, undelete};
use crate::{mysql_server, postgres_server};

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_in_postgres() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("undelete_live");
    server.create("undelete_spared");
    let place = |name: &str| Place::Postgres(server.clone(), name.into());
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &place("undelete_live"),
        &place("undelete_spared"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_account_comes_back_whole_in_mariadb() {
    let server: Arc<mysql_server::Server> = mysql_server::shared();
    server.fresh("undelete_live", "");
    server.fresh("undelete_spared", "");
    let place = |name: &str| Place::Mysql(server.clone(), name.into());
    let stage = Stage::new().await;
    scene::play(
        &stage.house,
        &place("undelete_live"),
        &place("undelete_spared"),
    )
    .await;
}

/// Types that have more than one form, a key that the server makes, a circle that cannot wait, and
/// triggers in three modes, one of which would spoil every row.
const POSTGRES: &str = "
    CREATE TYPE mood AS ENUM ('low', 'high');
    CREATE TABLE people(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code char(5) UNIQUE, n numeric(12,3),
      f double precision, at timestamptz, tags text[], doc jsonb, raw bytea, m mood, flags bit(5),
      up text GENERATED ALWAYS AS (upper(code)) STORED, best bigint NOT NULL);
    CREATE TABLE pets(id bigint PRIMARY KEY, owner bigint REFERENCES people ON DELETE CASCADE);
    ALTER TABLE people ADD CONSTRAINT best_of FOREIGN KEY (best) REFERENCES pets DEFERRABLE;
    CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := -1; RETURN NEW; END $$;
    BEGIN; SET CONSTRAINTS ALL DEFERRED;
    INSERT INTO people(code, n, f, at, tags, doc, raw, m, flags, best) VALUES
      ('ab', 1.500, 'NaN', '2026-11-22 10:00:00.123456+05', ARRAY['x', NULL, 'y,\"z'], '{\"a\": [1, 2.50]}', '\\x00ff', 'high', B'10101', 1),
      ('cd', -0.001, '-Infinity', 'infinity', '{}', 'null', '', NULL, NULL, 2);
    INSERT INTO pets VALUES (1, 1), (2, 2), (3, 1);
    COMMIT;
    CREATE TRIGGER a_usual BEFORE INSERT OR UPDATE ON people FOR EACH ROW EXECUTE FUNCTION spoil();
    CREATE TRIGGER b_always BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION spoil();
    ALTER TABLE people ENABLE ALWAYS TRIGGER b_always;
    CREATE TRIGGER c_off BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION spoil();
    ALTER TABLE people DISABLE TRIGGER c_off;";

#[tokio::test(flavor = "multi_thread")]
async fn postgres_holds_triggers_and_takes_every_value_back() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("undelete_types");
    let live = Place::Postgres(server.clone(), "undelete_types".into());
    live.sql(POSTGRES);
    let whole = live.dump();
    let stage = Stage::new().await;
    let snapshot = backup(&stage.house, &live).await;
    let modes = "SELECT string_agg(tgname::text || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal";
    let before = server.ask("undelete_types", modes);
    let counter = "SELECT last_value || ' ' || is_called FROM people_id_seq";
    let count = server.ask("undelete_types", counter);
    live.sql("BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM people WHERE id = 1; COMMIT;");
    assert_eq!(live.dump()["people"].len(), 1);
    let request = asking(&live, "people", &["1"]);
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan);
    assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
    assert_eq!(
        server.ask("undelete_types", modes),
        before,
        "triggers are as they were"
    );
    assert_eq!(
        server.ask("undelete_types", counter),
        count,
        "the counter did not move"
    );
    assert!(
        done.plan
            .notes
            .iter()
            .any(|note| note.contains("do not fire: a_usual, b_always"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_triggers_and_plain_engines_are_conflicts() {
    let server = mysql_server::shared();
    server.fresh("undelete_types", "");
    let live = Place::Mysql(server.clone(), "undelete_types".into());
    live.sql(
        "CREATE TABLE people(id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40), f FLOAT, b BIT(9), d DATETIME,
           e ENUM('a','b'), raw VARBINARY(20), l VARCHAR(20) CHARACTER SET latin1, boss INT,
           changed TIMESTAMP(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6),
           up VARCHAR(40) AS (UPPER(name)) STORED, FOREIGN KEY (boss) REFERENCES people(id) ON DELETE SET NULL);
         SET sql_mode = 'ALLOW_INVALID_DATES';
         INSERT INTO people(id, name, f, b, d, e, raw, l, boss) VALUES
           (1, 'it''s \\\\ ł', 0.1, b'101010101', '0000-00-00 00:00:00', 'b', x'00ff27', 'é', NULL),
           (2, 'b', 16777217, b'0', NULL, NULL, '', '', 1);
         CREATE TABLE plain(id INT PRIMARY KEY, x INT) ENGINE=MyISAM; INSERT INTO plain VALUES (1, 1);",
    );
    let whole = live.dump();
    let stage = Stage::new().await;
    let snapshot = backup(&stage.house, &live).await;
    live.sql("SET foreign_key_checks = 1; UPDATE people SET boss = NULL, changed = changed WHERE id = 2; DELETE FROM people WHERE id = 1");
    live.sql("CREATE TRIGGER spoil BEFORE INSERT ON people FOR EACH ROW SET NEW.name = 'spoiled'");
    let mut request = asking(&live, "people", &["1"]);
    let stopped = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(!stopped.applied);
    assert!(
        stopped.plan.conflicts[0]
            .what
            .contains("triggers that would fire: spoil")
    );
    live.sql("DROP TRIGGER spoil");
    let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(done.applied, "{:?}", done.plan);
    assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
    live.sql("DELETE FROM plain");
    request = asking(&live, "plain", &["1"]);
    let barred = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
        .await
        .unwrap();
    assert!(
        !barred.applied
            && barred.plan.conflicts[0]
                .what
                .contains("MyISAM has no transactions")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn row_of_a_partition_comes_back_with_what_referred_to_the_whole_table() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    server.create("undelete_parts");
    let live = Place::Postgres(server.clone(), "undelete_parts".into());
    live.sql(
        "CREATE TABLE orders(id bigint, year int, what text, PRIMARY KEY (id, year)) PARTITION BY LIST (year);
         CREATE TABLE \"Orders 25\" PARTITION OF orders FOR VALUES IN (2025);
         CREATE TABLE orders_26(what text, year int NOT NULL, id bigint NOT NULL);
         ALTER TABLE orders ATTACH PARTITION orders_26 FOR VALUES IN (2026);
         CREATE TABLE items(id bigint PRIMARY KEY, of bigint, year int,
           FOREIGN KEY (of, year) REFERENCES orders ON DELETE CASCADE);
         INSERT INTO orders VALUES (1, 2025, 'a'), (1, 2026, 'b'), (2, 2026, 'c');
         INSERT INTO items VALUES (1, 1, 2025), (2, 1, 2026), (3, 1, 2026), (4, 2, 2026);",
    );
    let whole = live.dump();
    let stage = Stage::new().await;
    let snapshot = backup(&stage.house, &live).await;
    live.sql("DELETE FROM orders WHERE id = 1");
    for (table, key) in [
        ("orders_26", "year=2026,id=1"),
        ("Orders 25", "id=1,year=2025"),
    ] {
        let request = asking(&live, table, &[key]);
        let done = undelete(&stage.house, &snapshot, &live, &request, Mode::Apply)
            .await
            .unwrap();
        assert!(done.applied, "{:?}", done.plan);
    }
    assert_eq!(differences(&whole, &live.dump()), Vec::<String>::new());
}
