//! Live databases of PostgreSQL and MariaDB are rolled back and forth, by the real binary, while
//! others write into them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::task::JoinHandle;

use crate::cli_desk::{Desk, Ran};
use crate::undelete_scene::{self as scene, Place};
use crate::{mysql_server, postgres_server};

type Dump = BTreeMap<String, Vec<String>>;

/// Where a rollback can die, and whether the tables are then the new ones.
const STEPS: [(&str, bool); 10] = [
    ("rollback begun", false),
    ("rollback staged", false),
    ("rollback saved", false),
    ("rollback exchanging", false),
    ("exchange copied", false),
    ("exchange locked", false),
    ("exchange half written", true),
    ("exchange written", true),
    ("rollback exchanged", true),
    ("rollback done", true),
];

/// A desk with a repository, a live database on a server, and its snapshot before an accident.
pub struct Scene {
    pub desk: Desk,
    pub live: Place,
    database: String,
    pub url: String,
    pub then: Dump,
    pub now: Dump,
}

impl Scene {
    pub fn postgres(server: &Arc<postgres_server::Server>, database: &str) -> Scene {
        server.create(database);
        Scene::play(Place::Postgres(server.clone(), database.into()), database)
    }

    pub fn mariadb(server: &Arc<mysql_server::Server>, database: &str) -> Scene {
        server.fresh(database, "");
        Scene::play(Place::Mysql(server.clone(), database.into()), database)
    }

    fn play(live: Place, database: &str) -> Scene {
        scene::make(&live);
        live.sql(match &live {
            Place::Postgres(..) => {
                "CREATE TABLE beats(id bigserial PRIMARY KEY, writer int, beat int);
                 CREATE TABLE fired(id bigserial PRIMARY KEY, beat int);
                 CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN INSERT INTO fired(beat) VALUES (NEW.beat); RETURN NEW; END $$;
                 CREATE TRIGGER on_beat AFTER INSERT ON beats FOR EACH ROW EXECUTE FUNCTION fire();
                 CREATE VIEW shown AS SELECT id, name FROM accounts"
            }
            _ => {
                "CREATE TABLE beats(id BIGINT AUTO_INCREMENT PRIMARY KEY, writer INT, beat INT);
                 CREATE TABLE fired(id BIGINT AUTO_INCREMENT PRIMARY KEY, beat INT);
                 CREATE TABLE echoes(id BIGINT PRIMARY KEY, FOREIGN KEY (id) REFERENCES beats(id) ON DELETE CASCADE);
                 CREATE FUNCTION same(x INT) RETURNS INT DETERMINISTIC RETURN x;
                 CREATE TRIGGER on_beat AFTER INSERT ON beats FOR EACH ROW INSERT INTO fired(beat) VALUES (same(NEW.beat));
                 CREATE TRIGGER on_beat_too AFTER INSERT ON beats FOR EACH ROW INSERT INTO echoes(id) VALUES (NEW.id);
                 CREATE TRIGGER `on echo` BEFORE INSERT ON `echoes` FOR EACH ROW SET @echoed = NEW.id;
                 CREATE TRIGGER on_fired BEFORE INSERT ON fired FOR EACH ROW SET NEW.beat = NEW.beat + 0;
                 CREATE VIEW shown AS SELECT id, name FROM accounts;
                 CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN x * 2;
                 CREATE EVENT later ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM fired"
            }
        });
        let desk = Desk::with_repository();
        let url = live.url().display();
        let taken = desk.run(&["backup", &url, "-q"]);
        assert_eq!(taken.code, 0, "{taken:?}");
        let then = live.dump();
        live.sql(
            "DELETE FROM accounts WHERE id < 9; UPDATE users SET name = 'somebody';
             CREATE TABLE later(x INTEGER); INSERT INTO later VALUES (1), (2);
             DROP VIEW shown; CREATE VIEW other AS SELECT id FROM users",
        );
        let now = live.dump();
        Scene {
            desk,
            live,
            database: database.into(),
            url,
            then,
            now,
        }
    }

    /// While somebody is in a transaction a rollback is refused, which says `why`; one with `--wait`
    /// waits longer than that one did, until `commit` is through, and the undo brings that back too.
    pub async fn assert_waits(
        &self,
        run: impl Fn(&'static [&'static str]) -> JoinHandle<Ran>,
        why: &str,
        commit: impl Future<Output = ()>,
    ) {
        let begun = Instant::now();
        let refused = run(&[]).await.unwrap();
        let courtesy = begun.elapsed();
        assert_eq!(refused.code, 5, "{refused:?}");
        assert!(refused.err.contains(why), "{refused:?}");
        assert_eq!(self.beside(), Vec::<String>::new());
        let waiting = run(&["--wait"]);
        tokio::time::sleep(courtesy + Duration::from_secs(1)).await;
        assert!(!waiting.is_finished(), "it did not wait");
        commit.await;
        let waited = waiting.await.unwrap();
        assert_eq!(waited.code, 0, "{waited:?}");
        assert_eq!(self.live.dump(), self.then);
        self.undo().json();
        let tags = &self.live.dump()["tags"];
        assert_ne!(tags, &self.now["tags"], "its commit came too");
    }

    pub fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let snapshot = self.snapshot();
        let first = ["restore", snapshot, "--rollback", &self.url];
        let yes = ["--confirm", self.database.as_str()];
        [&first[..], &yes, more].concat()
    }

    fn snapshot(&self) -> &'static str {
        "latest"
    }

    pub fn undo(&self) -> Ran {
        let name = ["--name", self.database.as_str(), "--json"];
        self.desk
            .run(&[&["restore", "--undo", self.url.as_str()][..], &name].concat())
    }

    fn place(&self, name: &str) -> Place {
        match &self.live {
            Place::Postgres(server, _) => Place::Postgres(server.clone(), name.into()),
            Place::Mysql(server, _) => Place::Mysql(server.clone(), name.into()),
            other => other.clone(),
        }
    }

    /// Databases that stand beside.
    pub fn beside(&self) -> Vec<String> {
        let all: Vec<String> = match &self.live {
            Place::Postgres(server, _) => {
                let sql = "SELECT datname FROM pg_database ORDER BY 1";
                server
                    .ask("postgres", sql)
                    .lines()
                    .map(str::to_owned)
                    .collect()
            }
            Place::Mysql(server, _) => server.databases(),
            Place::Sqlite(_) => Vec::new(),
        };
        // Other scenes on this server may have names that begin alike.
        let ours = |name: &String| {
            let rest = name.strip_prefix(&self.database);
            rest.is_some_and(|rest| rest.starts_with('_'))
        };
        all.into_iter().filter(ours).collect()
    }

    /// That the live database is one of the two, with its programs.
    pub fn assert_is(&self, expected: &Dump, when: &str) {
        assert_eq!(self.live.dump(), *expected, "{when}");
        let (there, gone) = match std::ptr::eq(expected, &self.then) {
            true => ("shown", "other"),
            false => ("other", "shown"),
        };
        let views = match &self.live {
            Place::Postgres(server, name) => {
                server.ask(name, "SELECT viewname FROM pg_views WHERE schemaname = 'public'")
            }
            Place::Mysql(server, name) => server.sql(
                name,
                "SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE();
                 SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE();
                 SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE();
                 SELECT event_name FROM information_schema.events WHERE event_schema = DATABASE()",
            ),
            Place::Sqlite(_) => String::new(),
        };
        assert!(
            views.contains(there) && !views.contains(gone),
            "{when}: {views}"
        );
        if let Place::Mysql(..) = &self.live {
            for name in ["on_beat", "twice", "later"] {
                assert!(views.contains(name), "{when}: no {name} in {views}");
            }
        }
        // The trigger fires, once.
        self.live
            .sql("INSERT INTO beats(writer, beat) VALUES (9, 9)");
        assert_eq!(
            self.live.dump()["fired"].len(),
            expected["fired"].len() + 1,
            "{when}"
        );
        self.live
            .sql("DELETE FROM beats WHERE writer = 9; DELETE FROM fired WHERE beat = 9");
    }
}

async fn connect_postgres(url: &str) -> Option<sqlx::PgConnection> {
    sqlx::PgConnection::connect(url).await.ok()
}

/// Writes beats until told to stop, connecting again as often as needed; gives the answered ones.
async fn write_beats(place: Place, writer: u64, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut answered = Vec::new();
    let url = place.url();
    let (mut postgres, mut mysql) = (None, None);
    for beat in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let sql = format!("INSERT INTO beats(writer, beat) VALUES ({writer}, {beat})");
        let done = match (&place, &url) {
            (Place::Mysql(..), rowvault::source::address::SourceUrl::Mysql(server)) => {
                if mysql.is_none() {
                    let options = mysql_async::OptsBuilder::default()
                        .socket(server.parameter("socket"))
                        .user(server.user())
                        .db_name(Some(server.database()));
                    mysql = mysql_async::Conn::new(options).await.ok();
                }
                match &mut mysql {
                    Some(conn) => conn.query_drop(&sql).await.is_ok(),
                    None => false,
                }
            }
            _ => {
                if postgres.is_none() {
                    postgres = connect_postgres(&url.display()).await;
                }
                match &mut postgres {
                    Some(connection) => {
                        let statement = sqlx::raw_sql(AssertSqlSafe(sql));
                        connection.execute(statement).await.is_ok()
                    }
                    None => false,
                }
            }
        };
        match done {
            true => answered.push(beat),
            false => (postgres, mysql) = (None, None),
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    answered
}

/// The beats of a writer, in order.
fn beats(place: &Place, writer: u64) -> Vec<u64> {
    let sql = format!("SELECT beat FROM beats WHERE writer = {writer} ORDER BY beat");
    let answer = match place {
        Place::Postgres(server, name) => server.ask(name, &sql),
        Place::Mysql(server, name) => server.sql(name, &sql),
        Place::Sqlite(_) => String::new(),
    };
    answer.lines().map(|line| line.parse().unwrap()).collect()
}

/// Writers go on through a rollback; every statement meets tables with their triggers.
async fn under_writers(scene: Scene) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..=3)
        .map(|writer| tokio::spawn(write_beats(scene.live.clone(), writer, stop.clone())))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let scene = Arc::new(scene);
    let there = scene.clone();
    let back = tokio::task::spawn_blocking(move || there.desk.run(&there.words(&["--json"])))
        .await
        .unwrap()
        .json();
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if (1..=3).all(|writer| !beats(&scene.live, writer).is_empty()) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let kept = scene.place(back["kept"].as_str().unwrap());
    let mut before = 0;
    for (writer, task) in (1..).zip(writers) {
        let answered = task.await.unwrap();
        let (old, new) = (beats(&kept, writer), beats(&scene.live, writer));
        assert!(
            !old.is_empty() && !new.is_empty(),
            "the writers met no rollback"
        );
        before += old.len();
        let both = [old, new].concat();
        let lost: Vec<&u64> = answered
            .iter()
            .filter(|beat| !both.contains(beat))
            .collect();
        assert_eq!(lost, Vec::<&u64>::new(), "an answered commit is nowhere");
        let mut once = both.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), both.len(), "a commit is there twice");
    }
    for (place, which) in [(&kept, "old"), (&scene.live, "new")] {
        let dump = place.dump();
        let beats = dump["beats"].len();
        assert_eq!(
            dump["fired"].len(),
            beats,
            "a trigger of the {which} tables was missed"
        );
        let echoes = dump.get("echoes").map_or(beats, Vec::len);
        assert_eq!(echoes, beats, "a trigger of the {which} tables was missed");
    }
    let downtime = back["downtime_ms"].as_u64().unwrap();
    println!(
        "{}: {before} commits before; downtime {downtime} ms",
        scene.database
    );
    assert!(downtime <= 2000, "{back}");
    scene.live.sql("DELETE FROM beats; DELETE FROM fired");
    scene.assert_is(&scene.then, "after the rollback");
    let undone = scene.undo().json();
    let again: usize = (1..=3).map(|writer| beats(&scene.live, writer).len()).sum();
    assert_eq!(again, before, "{undone}");
    scene.live.sql("DELETE FROM beats; DELETE FROM fired");
    scene.assert_is(&scene.now, "after the undo");
    assert_eq!(scene.beside(), [undone["kept"].as_str().unwrap()]);
    let drop_kept = [
        "restore",
        "--drop-kept",
        &scene.url,
        "--name",
        &scene.database,
        "-q",
    ];
    assert_eq!(scene.desk.run(&drop_kept).code, 0);
    assert_eq!(scene.beside(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_rolled_back_under_writers() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    let scene = Scene::postgres(&server, "rollpg");
    server.sql(
        "postgres",
        "CREATE ROLE rollpg_owner; ALTER DATABASE rollpg OWNER TO rollpg_owner;
         ALTER DATABASE rollpg SET work_mem = '7MB'; ALTER ROLE rollpg_owner IN DATABASE rollpg SET jit = off;
         GRANT CREATE ON DATABASE rollpg TO rollpg_owner; COMMENT ON DATABASE rollpg IS 'ours'",
    );
    let facts = "SELECT pg_get_userbyid(datdba) || ' ' || coalesce(datacl::text, '') || shobj_description(oid, 'pg_database') \
         || (SELECT string_agg(setrole::regrole || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
         FROM pg_database d WHERE datname = 'rollpg'";
    let sorted = |text: String| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let before = server.ask("postgres", facts);
    let probe = scene.desk.run(&scene.words(&["--json"])).json();
    let after = server.ask("postgres", facts);
    assert!(
        after.contains("7MB") && after.contains("ours") && after.contains("jit"),
        "{after}"
    );
    assert_eq!(
        sorted(after.clone()),
        sorted(before.clone()),
        "{before} became {after}"
    );
    assert!(probe["downtime_ms"].as_u64().unwrap() <= 2000, "{probe}");
    scene.undo().json();
    let drop_kept = [
        "restore",
        "--drop-kept",
        &scene.url,
        "--name",
        "rollpg",
        "-q",
    ];
    assert_eq!(scene.desk.run(&drop_kept).code, 0);
    // The newest snapshot is the safety one: the accident is put back by the first.
    let listed = scene.desk.run(&["snapshots", "--json"]).json();
    let safety = probe["safety_snapshot"].as_str().unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
    assert_eq!(scene.desk.run(&["unpin", safety, "-q"]).code, 0);
    under_writers(Scene::postgres(&server, "rollpg_busy")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_rolled_back_under_writers() {
    let server = mysql_server::shared();
    under_writers(Scene::mariadb(&server, "rollmy")).await;
}

fn killed_at_each_step(make: &dyn Fn(&str) -> Scene, steps: &[(&str, bool)]) {
    for (nth, (step, new)) in steps.iter().enumerate() {
        let scene = make(&format!("rollkill{nth}"));
        let mut command = scene.desk.command(&scene.words(&[]));
        let died = command.env("ROWVAULT_DIES_AT", step).output().unwrap();
        assert_eq!(
            died.status.code(),
            None,
            "it did not come to {step}: {died:?}"
        );
        let expected = match new {
            true => &scene.then,
            false => &scene.now,
        };
        assert_eq!(scene.live.dump(), *expected, "{step}, before the next run");
        let told = scene.desk.run(&["doctor"]);
        let named = told.out.contains("rollback: a rollback of");
        assert_eq!(named, *step != "rollback done", "{step}: {told:?}");
        // The next run ends it; then the snapshots are the first one, and perhaps a safety one.
        let next = scene
            .desk
            .run(&["restore", "latest", "--rollback", &scene.url, "--dry-run"]);
        assert_eq!(next.code, 0, "{step}: {next:?}");
        scene.assert_is(expected, step);
        assert_eq!(
            scene.beside().len(),
            usize::from(*new),
            "{step}: {:?}",
            scene.beside()
        );
        if *new {
            scene.undo().json();
            scene.assert_is(&scene.now, &format!("{step}, undone"));
        }
    }
}

/// An undo that dies is the one or the other too.
fn undo_killed_at_each_step(make: &dyn Fn(&str) -> Scene, steps: &[(&str, bool)]) {
    for (nth, (step, new)) in steps.iter().enumerate() {
        let scene = make(&format!("undokill{nth}"));
        scene.desk.run(&scene.words(&["--json"])).json();
        let undo = ["restore", "--undo", &scene.url, "--name", &scene.database];
        let mut command = scene.desk.command(&undo);
        let died = command.env("ROWVAULT_DIES_AT", step).output().unwrap();
        assert_eq!(
            died.status.code(),
            None,
            "it did not come to {step}: {died:?}"
        );
        let (is, other) = match new {
            true => (&scene.now, &scene.then),
            false => (&scene.then, &scene.now),
        };
        assert_eq!(scene.live.dump(), *is, "{step}, before the next run");
        // The next one ends it, and goes on from there.
        scene.undo().json();
        scene.assert_is(other, step);
        assert_eq!(scene.beside().len(), 1, "{step}: {:?}", scene.beside());
    }
}

/// Both names change in one transaction, which is not committed when it is half done.
fn postgres_steps() -> Vec<(&'static str, bool)> {
    let steps = STEPS.into_iter();
    let steps = steps.filter(|(step, _)| *step != "exchange locked");
    steps
        .map(|(step, new)| (step, new && step != "exchange half written"))
        .collect()
}

/// Those in which most can go wrong.
fn gravest(steps: &[(&'static str, bool)]) -> Vec<(&'static str, bool)> {
    let gravest = [
        "rollback staged",
        "exchange locked",
        "exchange half written",
        "exchange written",
    ];
    let steps = steps.iter().copied();
    steps.filter(|(step, _)| gravest.contains(step)).collect()
}

#[test]
fn postgres_killed_at_the_gravest_steps_is_old_or_new() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    let make = |name: &str| Scene::postgres(&server, name);
    killed_at_each_step(&make, &gravest(&postgres_steps()));
    undo_killed_at_each_step(&make, &[("exchange half written", false)]);
}

#[test]
fn mariadb_killed_at_the_gravest_steps_is_old_or_new() {
    let server = mysql_server::shared();
    let make = |name: &str| Scene::mariadb(&server, name);
    killed_at_each_step(&make, &gravest(&STEPS));
    undo_killed_at_each_step(&make, &[("exchange half written", true)]);
}

#[test]
#[ignore = "some minutes: every step of a rollback and of its undoing, on two servers"]
fn long_rollback_killed_at_every_step_of_servers() {
    let server = mysql_server::shared();
    let make = |name: &str| Scene::mariadb(&server, name);
    killed_at_each_step(&make, &STEPS);
    undo_killed_at_each_step(&make, &STEPS[3..]);
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    let make = |name: &str| Scene::postgres(&server, name);
    killed_at_each_step(&make, &postgres_steps());
    undo_killed_at_each_step(&make, &postgres_steps()[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_with_somebody_in_a_transaction_is_waited_for_or_refused() {
    let Some(server) = postgres_server::Server::shared() else {
        return;
    };
    let scene = Arc::new(Scene::postgres(&server, "rollwait"));
    let mut busy = connect_postgres(&scene.url).await.unwrap();
    busy.execute("BEGIN; DELETE FROM tags WHERE id = 1")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let run = |more: &'static [&'static str]| {
        let scene = scene.clone();
        tokio::task::spawn_blocking(move || scene.desk.run(&scene.words(more)))
    };
    let commit = async { busy.execute("COMMIT").await.map(drop).unwrap() };
    scene
        .assert_waits(&run, "idle in transaction", commit)
        .await;
    // And one that is ended.
    let mut busy = connect_postgres(&scene.url).await.unwrap();
    busy.execute("BEGIN; DELETE FROM calls").await.unwrap();
    let forced = run(&["--force"]).await.unwrap();
    assert_eq!(forced.code, 0, "{forced:?}");
    assert!(busy.execute("COMMIT").await.is_err());
}
