//! Users with too few rights, wrong passwords, definers that are gone: named, never passed over.

use rowvault::failure::{AnyFailure, Class};
use rowvault::source::address::{SourceOptions, SourceUrl, TablePattern, TargetOptions};
use rowvault::source::open;

use crate::mysql_server::{copy, copy_with, shared};

async fn begin(url: &SourceUrl) -> Result<rowvault::row::schema::Structure, AnyFailure> {
    let mut source = open::source(url, &SourceOptions::default())?;
    let structure = source.begin().await?;
    source.end().await?;
    Ok(structure)
}

#[tokio::test]
async fn each_missing_right_is_named_with_its_grant() {
    let server = shared();
    server.fresh("rights", "CREATE TABLE t (id INT PRIMARY KEY); CREATE PROCEDURE p () SELECT 1; CREATE VIEW v AS SELECT 1; CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1");
    let user = "weak@localhost";
    server.sql(
        "",
        &format!("CREATE OR REPLACE USER {user}; GRANT SELECT ON rights.t TO {user}"),
    );
    let url = server.url_as("weak", "rights");
    let error = begin(&url)
        .await
        .expect_err("one table is not the database");
    assert_eq!(error.class(), Class::Denied);
    for right in ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "mysql.proc"] {
        assert!(error.to_string().contains(right), "{error}");
    }
    let hint = error.hint().unwrap();
    let grants = hint.strip_prefix("run as an administrator: ").unwrap();
    server.sql("", grants);
    let structure = begin(&url).await.unwrap();
    let root = begin(&server.url("rights")).await.unwrap();
    assert_eq!(structure.parts, root.parts);
    assert_eq!(structure.tables, root.tables);
}

#[tokio::test]
async fn routine_of_another_that_may_not_be_read_is_an_error() {
    let server = shared();
    server.fresh("unseen", "CREATE PROCEDURE p () SELECT 1");
    server.sql("", "CREATE OR REPLACE USER half@localhost; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, EXECUTE ON unseen.* TO half@localhost");
    let error = begin(&server.url_as("half", "unseen"))
        .await
        .expect_err("it has no body");
    assert_eq!(error.class(), Class::Denied);
    assert!(error.to_string().contains("procedure p"), "{error}");
}

#[tokio::test]
async fn wrong_password_missing_database_and_dead_server_are_told_apart() {
    crate::install_tls();
    let server = shared();
    server.sql("", "CREATE OR REPLACE USER locked@localhost IDENTIFIED BY 'right'; GRANT ALL ON *.* TO locked@localhost");
    let url: SourceUrl = format!(
        "mysql://locked:wr0ng-canary@localhost/mysql?socket={}",
        server.socket()
    )
    .parse()
    .unwrap();
    let error = begin(&url).await.err().unwrap();
    assert_eq!(error.class(), Class::Denied);
    assert!(!format!("{error:?} {:?}", error.hint()).contains("canary"));
    let error = begin(&server.url("no_such_database")).await.err().unwrap();
    assert_eq!(error.class(), Class::Missing, "{error}");
    let error = begin(&"mysql://root@127.0.0.1:1/x".parse().unwrap())
        .await
        .err()
        .unwrap();
    assert_eq!(error.class(), Class::Transient, "{error}");
    // Over TCP; the server has no certificate, so that TLS is used only where it is asked for.
    server.fresh("over_tcp", "CREATE TABLE t (id INT PRIMARY KEY)");
    let tcp = format!("mysql://locked:right@127.0.0.1:{}/over_tcp", server.port());
    assert_eq!(begin(&tcp.parse().unwrap()).await.unwrap().tables.len(), 1);
    let error = begin(&format!("{tcp}?ssl-mode=required").parse().unwrap())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().to_lowercase().contains("ssl"), "{error}");
    let error = begin(&format!("{tcp}?ssl-mode=sometimes").parse().unwrap())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("verify_identity"), "{error}");
}

#[tokio::test]
async fn excluded_tables_are_left_out_by_name_only() {
    let server = shared();
    server.fresh("left_out", "CREATE TABLE keep (id INT); CREATE TABLE sessions (id INT); INSERT INTO sessions VALUES (1); CREATE TABLE logs_1 (id INT); INSERT INTO logs_1 VALUES (1)");
    let options = SourceOptions {
        exclude_tables: vec![TablePattern::new("sessions")],
        exclude_data: vec![TablePattern::new("logs_*")],
        ..SourceOptions::default()
    };
    let to = server.url("left_out_back");
    server.sql("", "DROP DATABASE IF EXISTS left_out_back");
    copy_with(
        &server.url("left_out"),
        &to,
        &options,
        &TargetOptions::default(),
    )
    .await
    .unwrap();
    let rows = server.rows("left_out_back");
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["keep", "logs_1"]);
    assert!(rows["logs_1"].is_empty());
}

const DEFINED: &str = "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1);
 CREATE DEFINER = gone@nowhere TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.id = NEW.id + 1;
 CREATE DEFINER = gone@nowhere VIEW v AS SELECT id FROM t;
 CREATE DEFINER = gone@nowhere PROCEDURE p () SELECT 1;
 CREATE DEFINER = gone@nowhere EVENT e ON SCHEDULE EVERY 1 YEAR STARTS '2036-01-01' DO SELECT 1";

#[tokio::test]
async fn missing_definer_is_kept_and_named() {
    let server = shared();
    server.fresh("defined", DEFINED);
    server.sql("", "DROP DATABASE IF EXISTS defined_back");
    let copied = copy(&server.url("defined"), &server.url("defined_back"))
        .await
        .unwrap();
    assert!(
        copied
            .published
            .warnings
            .iter()
            .any(|w| w.contains("gone@nowhere")),
        "{:?}",
        copied.published.warnings
    );
    let definers = |database: &str| {
        server.sql("", &format!("SELECT definer FROM information_schema.triggers WHERE trigger_schema = '{database}' UNION ALL SELECT definer FROM information_schema.views WHERE table_schema = '{database}' UNION ALL SELECT definer FROM information_schema.routines WHERE routine_schema = '{database}' UNION ALL SELECT definer FROM information_schema.events WHERE event_schema = '{database}'"))
    };
    assert_eq!(definers("defined_back"), "gone@nowhere\n".repeat(4));
}

#[tokio::test]
async fn definers_that_may_not_be_set_stop_the_restore_before_it_begins() {
    let server = shared();
    server.fresh("definers", DEFINED);
    server.sql("", "DROP DATABASE IF EXISTS definers_back; CREATE OR REPLACE USER plain@localhost; GRANT ALL ON `definers\\_back%`.* TO plain@localhost");
    let to = server.url_as("plain", "definers_back");
    let error = copy(&server.url("definers"), &to)
        .await
        .err()
        .expect("it lacks SET USER");
    assert_eq!(error.class(), Class::Denied);
    assert!(
        error.hint().unwrap().contains("--skip-definer"),
        "{error:?}"
    );
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("definers_"))
    );
    let mut options = TargetOptions::default();
    options.ownership.no_owner = true;
    copy_with(
        &server.url("definers"),
        &to,
        &SourceOptions::default(),
        &options,
    )
    .await
    .unwrap();
    let trigger = server.sql("definers_back", "SHOW CREATE TRIGGER tr");
    assert!(trigger.contains("`plain`@`localhost`"), "{trigger}");
}

#[tokio::test]
async fn user_of_one_database_fills_it_in_place() {
    let server = shared();
    server.fresh("in_place_from", "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE VIEW v AS SELECT id FROM t");
    server.fresh("in_place", "");
    server.sql(
        "",
        "CREATE OR REPLACE USER only@localhost; GRANT ALL ON `in\\_place`.* TO only@localhost",
    );
    let to = server.url_as("only", "in_place");
    let mut options = TargetOptions::default();
    options.ownership.no_owner = true;
    let copied = copy_with(
        &server.url("in_place_from"),
        &to,
        &SourceOptions::default(),
        &options,
    )
    .await
    .unwrap();
    assert!(
        copied
            .published
            .warnings
            .iter()
            .any(|w| w.contains("in place"))
    );
    assert_eq!(server.rows("in_place"), server.rows("in_place_from"));
    // What is full is refused, and stays as it is.
    let error = copy(&server.url("in_place_from"), &to).await.err().unwrap();
    assert_eq!(error.class(), Class::Conflict);
    assert_eq!(server.rows("in_place")["t"].len(), 2);
}
