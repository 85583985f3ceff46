//! Rollbacks that must not happen: each is refused for its reason, the live database is as it was
//! and nothing stands beside it.

use rowvault::failure::Class;
use rowvault::source::address::SourceOptions;
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
