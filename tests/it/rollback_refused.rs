//! Rollbacks that must not happen: each is refused for its reason, the live database is as it was
//! and nothing stands beside it.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use rowvault::failure::Class;
use rowvault::source::address::{SourceOptions, SourceUrl};
use rowvault::source::{Exchange, Others, open};

use crate::cli_desk::Desk;
use crate::rollback_servers::Scene;
use crate::small_disk::SmallDisk;
use crate::undelete_scene::Place;
use crate::{mysql_server, postgres_server};

#[test]
fn mariadb_without_rights_or_of_another_engine_is_refused() {
    let server = mysql_server::shared();
    let scene = Scene::mariadb(&server, "rollnomy");
    server.sql(
        "",
        "CREATE USER roll_a; GRANT ALL ON rollnomy.* TO roll_a;
         CREATE USER roll_b; GRANT ALL ON `rollnomy%`.* TO roll_b; GRANT RELOAD ON *.* TO roll_a;
         GRANT PROCESS ON *.* TO roll_a, roll_b; GRANT SELECT ON mysql.* TO roll_a, roll_b",
    );
    let run = |user: &str| {
        let url = server.url_as(user, "rollnomy").display();
        let words = [
            "restore",
            "latest",
            "--rollback",
            &url,
            "--confirm",
            "rollnomy",
        ];
        scene.desk.run(&words)
    };
    // One may not make the database beside, the other may not keep tables shut.
    for (user, word) in [("roll_a", "denied"), ("roll_b", "RELOAD")] {
        let ran = run(user);
        assert_eq!(ran.code, 6, "{user}: {ran:?}");
        assert!(ran.err.contains(word), "{user}: {ran:?}");
        assert_eq!(scene.beside(), Vec::<String>::new());
    }
    // A snapshot of a file.
    let desk = Desk::with_snapshot();
    let words = [
        "restore",
        "latest",
        "--rollback",
        &scene.url,
        "--confirm",
        "crm",
    ];
    let ran = desk.run(&words);
    assert_eq!(ran.code, 2, "{ran:?}");
    scene.assert_is(&scene.now, "after all that was refused");
    assert_eq!(scene.beside(), Vec::<String>::new());
    server.sql("", "DROP USER roll_a, roll_b");
}

#[test]
fn postgres_with_more_than_rows_in_it_is_refused() {
    let settings = "max_prepared_transactions = 4\nwal_level = logical";
    let Some(server) = postgres_server::Server::debian(settings) else {
        return;
    };
    let server = Arc::new(server);
    let scene = Scene::postgres(&server, "rollno");
    let refused = |code: i32, word: &str, more: &[&str]| {
        let ran = scene.desk.run(&scene.words(more));
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(word), "{word:?} is not in {ran:?}");
        assert_eq!(scene.beside(), Vec::<String>::new());
    };
    server.sql(
        "rollno",
        "BEGIN; DELETE FROM tags WHERE id = 1; PREPARE TRANSACTION 'half-way'",
    );
    refused(4, "half-way", &["--force"]);
    server.sql("rollno", "ROLLBACK PREPARED 'half-way'");
    server.sql(
        "rollno",
        "SELECT pg_create_logical_replication_slot('feed', 'test_decoding')",
    );
    refused(4, "feed", &[]);
    // With force it stays with the old database, and comes back with it.
    let forced = scene.desk.run(&scene.words(&["--force"]));
    assert_eq!(forced.code, 0, "{forced:?}");
    assert_eq!(scene.live.dump(), scene.then);
    for what in ["--undo", "--drop-kept"] {
        let words = ["restore", what, &scene.url, "--name", "rollno"];
        let ran = scene.desk.run(&words);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(scene.live.dump(), scene.now);
    server.sql("rollno", "SELECT pg_drop_replication_slot('feed')");
    server.sql(
        "rollno",
        "CREATE SUBSCRIPTION news CONNECTION 'host=/nowhere' PUBLICATION p \
         WITH (connect = false, slot_name = NONE)",
    );
    refused(4, "news", &[]);
    server.sql("rollno", "DROP SUBSCRIPTION news");
    server.sql(
        "rollno",
        "CREATE ROLE clerk LOGIN; GRANT pg_read_all_data TO clerk",
    );
    let url = server.url_as("rollno", "clerk").display();
    let ran = scene.desk.run(&[
        "restore",
        "latest",
        "--rollback",
        &url,
        "--confirm",
        "rollno",
    ]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert_eq!(scene.beside(), Vec::<String>::new());
    // Another engine's database.
    std::fs::copy(scene.desk.path("crm.db"), scene.desk.path("rollno.db")).unwrap();
    let ran = scene.desk.run(&[
        "restore",
        "latest",
        "--rollback",
        "sqlite:rollno.db",
        "--confirm",
        "rollno",
    ]);
    assert_eq!(ran.code, 2, "{ran:?}");
    scene.assert_is(&scene.now, "after all that was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_that_is_taken_stops_a_rollback_before_it_begins() {
    let mysql = mysql_server::shared();
    mysql.fresh("rolltaken", "CREATE TABLE t(x INT)");
    mysql.fresh("rolltaken_kept", "CREATE TABLE u(x INT)");
    let mut places = vec![Place::Mysql(mysql, "rolltaken".into())];
    if let Some(server) = postgres_server::Server::shared() {
        server.create("rolltaken");
        server.create("rolltaken_kept");
        places.push(Place::Postgres(server, "rolltaken".into()));
    }
    for place in places {
        let mut swap = open::swap(&place.url(), &SourceOptions::default()).unwrap();
        let names = |kept: &str, side: &str| Exchange {
            kept: kept.into(),
            side: side.into(),
            note: String::new(),
        };
        let free = names("rolltaken_before", "rolltaken_side");
        swap.check(&free, Others::Respect).await.unwrap();
        let taken = names("rolltaken_kept", "rolltaken_side");
        let refused = swap.check(&taken, Others::Respect).await.unwrap_err();
        assert_eq!(refused.class(), Class::Conflict, "{refused}");
        assert!(refused.to_string().contains("rolltaken_kept"), "{refused}");
    }
}

async fn connect(url: &SourceUrl) -> mysql_async::Conn {
    let SourceUrl::Mysql(server) = url else {
        panic!("not MySQL")
    };
    let options = mysql_async::OptsBuilder::default()
        .socket(server.parameter("socket"))
        .user(server.user())
        .db_name(Some(server.database()));
    mysql_async::Conn::new(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_with_somebody_in_a_transaction_is_waited_for_or_refused() {
    let server = mysql_server::shared();
    let scene = Arc::new(Scene::mariadb(&server, "rollmywait"));
    let mut busy = connect(&scene.live.url()).await;
    busy.query_drop("START TRANSACTION").await.unwrap();
    busy.query_drop("DELETE FROM tags WHERE id = 1")
        .await
        .unwrap();
    // The newest is the safety snapshot as soon as one try has failed.
    let listed = scene.desk.run(&["snapshots", "--json"]).json();
    let id = listed["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let run = |more: &'static [&'static str]| {
        let (scene, id) = (scene.clone(), id.clone());
        let words = move || {
            let mut words = scene.words(more);
            words[1] = &id;
            scene.desk.run(&words)
        };
        tokio::task::spawn_blocking(words)
    };
    let commit = async { busy.query_drop("COMMIT").await.unwrap() };
    scene
        .assert_waits(&run, "transactions of others", commit)
        .await;
    // And one that is ended.
    busy.query_drop("START TRANSACTION").await.unwrap();
    busy.query_drop("DELETE FROM calls").await.unwrap();
    let forced = run(&["--force"]).await.unwrap();
    assert_eq!(forced.code, 0, "{forced:?}");
    assert!(busy.query_drop("COMMIT").await.is_err());
}

#[test]
fn damage_in_a_needed_pack_leaves_databases_of_servers_alone() {
    let mut scenes = vec![Scene::mariadb(&mysql_server::shared(), "rolldamaged")];
    if let Some(server) = postgres_server::Server::shared() {
        scenes.push(Scene::postgres(&server, "rolldamaged"));
    }
    for scene in scenes {
        scene.desk.damage_packs();
        let ran = scene.desk.run(&scene.words(&[]));
        assert_eq!(ran.code, 3, "{ran:?}");
        scene.assert_is(&scene.now, "after a look at damaged packs");
        assert_eq!(scene.beside(), Vec::<String>::new());
    }
}

/// A rollback of `scene` to a snapshot with a large table that the live database no longer has:
/// refused where `disk` has too little room for the database beside, done where it has enough.
fn refused_until_there_is_room(scene: &Scene, disk: &SmallDisk, large: &str, room: &[u64]) {
    scene.live.sql(large);
    let taken = scene.desk.run(&["backup", &scene.url, "-q"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    let with_large = scene.live.dump();
    scene.live.sql("DROP TABLE large");
    let before = scene.live.dump();
    for free in room {
        disk.fill_up(*free);
        let ran = scene.desk.run(&scene.words(&[]));
        assert_eq!(ran.code, 1, "{free}: {ran:?}");
        let said = ran.err.contains("No space left") || ran.err.contains("is full");
        assert!(said && ran.err.contains("disk"), "{free}: {ran:?}");
        assert_eq!(scene.live.dump(), before, "{free}");
        assert_eq!(scene.beside(), Vec::<String>::new(), "{free}");
        disk.clear();
    }
    let told = scene.desk.run(&["doctor"]);
    assert!(!told.out.contains("rollback: a rollback of"), "{told:?}");
    let done = scene.desk.run(&scene.words(&[]));
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(scene.live.dump(), with_large);
}

#[test]
fn postgres_without_room_for_the_database_beside_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), everybody).unwrap();
    let at = place.path().join("disk");
    let Some(disk) = SmallDisk::mount(&at, 256) else {
        return;
    };
    postgres_server::give_to_server(&at);
    let Some(server) = postgres_server::Server::debian("") else {
        return;
    };
    let server = Arc::new(server);
    let scene = Scene::postgres(&server, "rollroom");
    // Where databases are made from now on; the log of the server has room enough.
    let place = format!("CREATE TABLESPACE small LOCATION '{}'", at.display());
    server.sql("postgres", &place);
    server.sql("postgres", "ALTER DATABASE template0 SET TABLESPACE small");
    let large = "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 40) AS v \
                 FROM generate_series(1, 30000) n; ALTER TABLE large ADD PRIMARY KEY (id)";
    // The first is not enough for a database, the second not for this one.
    refused_until_there_is_room(&scene, &disk, large, &[1 << 20, 14 << 20]);
}

#[test]
fn mariadb_without_room_for_the_database_beside_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path().join("disk");
    let Some(disk) = SmallDisk::mount(&at, 400) else {
        return;
    };
    let server = mysql_server::Server::start_in(&at, &["--innodb-log-file-size=8M"]);
    let server = Arc::new(server);
    let scene = Scene::mariadb(&server, "rollroom");
    let large = "CREATE TABLE large (id INT PRIMARY KEY, v LONGTEXT);
                 INSERT INTO large SELECT seq, REPEAT(MD5(seq), 400) FROM seq_1_to_3000";
    refused_until_there_is_room(&scene, &disk, large, &[12 << 20]);
}

#[test]
fn file_without_room_beside_it_is_left_alone() {
    let desk = Desk::with_snapshot();
    let Some(disk) = SmallDisk::mount(&desk.path("small"), 1) else {
        return;
    };
    let live = desk.path("small/crm.db");
    std::fs::copy(desk.path("crm.db"), &live).unwrap();
    let filler = vec![7; 16 << 20];
    // Whatever is left of the disk.
    let _ = std::fs::write(desk.path("small/filler"), filler);
    let before = std::fs::read(&live).unwrap();
    let words = [
        "restore",
        "latest",
        "--rollback",
        "sqlite:small/crm.db",
        "--confirm",
        "crm",
    ];
    let ran = desk.run(&words);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("no space"), "{ran:?}");
    assert_eq!(desk.names("small"), ["crm.db", "filler"]);
    assert_eq!(std::fs::read(&live).unwrap(), before);
    drop(disk);
}
