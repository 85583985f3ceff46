//! A place for rehearsed restores on MariaDB: a server of our own, or a database on another.
//!
//! What is restored may be hostile, so that it is made by a user who may do everything in the
//! databases of the drill and nothing elsewhere; whatever runs as somebody runs as that user, and
//! events never run. Invariant: databases, user and our own server are gone in the end.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::answers;
use super::error::Error;
use super::quote::{identifier, qualified, text as literal};
use super::session::{Purpose, Session, number, text};
use crate::failure::{AnyFailure, Class};
use crate::id::hex;
use crate::random::draw;
use crate::row::schema::{ForeignKey, Structure, Table};
use crate::source::address::{Extent, ServerUrl, SourceUrl, TargetOptions};
use crate::source::scratch::server::{self, Ending, Own};
use crate::source::scratch::{Broken, Ready, Scratch};

/// How often a server that starts is asked whether it answers.
const START_STEPS: u32 = 600;
const START_STEP: Duration = Duration::from_millis(100);

/// Options of a server that keeps nothing.
const OPTIONS: [&str; 13] = [
    "--skip-networking",
    "--skip-log-bin",
    "--event-scheduler=OFF",
    "--local-infile=1",
    "--max-allowed-packet=1G",
    "--innodb-buffer-pool-size=256M",
    "--innodb-log-file-size=48M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    // Native AIO is a resource of the whole machine.
    "--innodb-use-native-aio=0",
    "--performance-schema=0",
    "--character-set-server=utf8mb4",
    "--log-warnings=1",
];

/// A scratch place for a MySQL or MariaDB database.
pub struct MysqlScratch {
    asked: Option<ServerUrl>,
    options: TargetOptions,
    own: Option<Own>,
    made: Option<Made>,
}

/// What was made, and must go.
struct Made {
    /// Whoever made it.
    admin: ServerUrl,
    /// The database, as whoever fills and asks it.
    database: ServerUrl,
    /// The user, where one was made.
    user: Option<String>,
}

impl MysqlScratch {
    /// A place on the server of `asked`, or on one of our own.
    pub fn new(asked: Option<&ServerUrl>, options: &TargetOptions) -> Self {
        MysqlScratch {
            asked: asked.cloned(),
            options: options.clone(),
            own: None,
            made: None,
        }
    }

    fn made(&self) -> Result<&Made, Error> {
        self.made.as_ref().ok_or(Error::OutOfOrder {
            what: "the scratch place was used before it was started",
        })
    }

    async fn start_server(&mut self) -> Result<ServerUrl, AnyFailure> {
        let missing = |name: &str| {
            AnyFailure::new(
                Class::Missing,
                format!("no {name} was found on this host"),
                Some("install the package mariadb-server, or give --scratch URL".into()),
            )
        };
        let daemon = server::program(&["mariadbd"]).ok_or_else(|| missing("mariadbd"))?;
        let install = server::program(&["mariadb-install-db"]);
        let install = install.ok_or_else(|| missing("mariadb-install-db"))?;
        let mut own = Own::new("mysql", Ending::Kill)?;
        let data = format!("--datadir={}", own.path().join("data").display());
        let mut command = own.command(&install);
        command.args(["--no-defaults", "--skip-test-db", &data]);
        command.arg("--auth-root-authentication-method=normal");
        own.run(command, "making a scratch server with mariadb-install-db")
            .await?;
        let socket = own.path().join("s.sock").display().to_string();
        let mut command = own.command(&daemon);
        command.args(["--no-defaults", &data]).args(OPTIONS);
        command.arg(format!("--socket={socket}"));
        command.arg(format!("--pid-file={}", own.path().join("pid").display()));
        command.arg(format!("--tmpdir={}", own.path().display()));
        command.arg(format!("--secure-file-priv={}", own.path().display()));
        own.start(command)?;
        self.own = Some(own);
        let mut url = url::Url::parse("mysql://root@localhost/mysql").expect("this is a URL");
        url.query_pairs_mut().append_pair("socket", &socket);
        let url: SourceUrl = url.as_str().parse()?;
        let SourceUrl::Mysql(server) = url else {
            return Err(Error::OutOfOrder {
                what: "an address is of another engine",
            }
            .into());
        };
        // The directory keeps others out; the environment's password is not this server's.
        let server = server.with_user("root", SecretString::from(String::new()));
        self.wait(&server).await?;
        Ok(server)
    }

    async fn wait(&mut self, server: &ServerUrl) -> Result<(), AnyFailure> {
        for step in 0..START_STEPS {
            if let Some(own) = &mut self.own {
                own.check_running()?;
            }
            match Session::connect(server, None, Purpose::Reading).await {
                Ok(session) => {
                    session.close().await;
                    return Ok(());
                }
                Err(error) if step + 1 == START_STEPS => return Err(error.into()),
                Err(_) => tokio::time::sleep(START_STEP).await,
            }
        }
        Ok(())
    }

    /// Makes a user who may do everything in the databases of the drill; none where we may not.
    async fn make_user(
        &self,
        session: &mut Session,
        name: &str,
        host: &str,
    ) -> Result<Option<(String, SecretString)>, Error> {
        let doing = "making the user of a drill";
        let random = self.options.random.as_ref();
        let user = format!("rowvault_{}", hex(&draw::<6>(random)));
        let password: SecretString = hex(&draw::<24>(random)).into();
        let who = format!("'{user}'@'{host}'");
        let sql = format!(
            "CREATE USER {who} IDENTIFIED BY '{}'",
            password.expose_secret()
        );
        match session.run(&sql, doing).await {
            Ok(()) => {}
            Err(error) if error.is_denied() => return Ok(None),
            Err(error) => return Err(error),
        }
        let pattern = format!("{}%", name.replace('_', "\\_"));
        let sql = format!(
            "GRANT ALL PRIVILEGES ON {}.* TO {who}",
            identifier(&pattern)
        );
        match session.run(&sql, doing).await {
            Ok(()) => Ok(Some((user, password))),
            Err(error) => {
                session.run(&format!("DROP USER {who}"), doing).await?;
                if error.is_denied() {
                    return Ok(None);
                }
                Err(error)
            }
        }
    }

    async fn settle(&mut self, admin: ServerUrl, own: bool) -> Result<Ready, AnyFailure> {
        let random = self.options.random.as_ref();
        let name = format!("rowvault_drill_{}", hex(&draw::<4>(random)));
        let mut session = Session::connect(&admin, None, Purpose::Filling).await?;
        let version = session.server().text.clone();
        let host = if own { "localhost" } else { "%" };
        let user = self.make_user(&mut session, &name, host).await?;
        session.close().await;
        let mut warnings = Vec::new();
        let mut database = admin.with_database(&name);
        match &user {
            Some((user, password)) => database = database.with_user(user, password.clone()),
            None => warnings.push(
                "no user could be made for the drill: it restores as the one that was given".into(),
            ),
        }
        let place = match own {
            true => format!("a temporary server of its own, {version}"),
            false => format!(
                "{}, a database for the while",
                SourceUrl::Mysql(admin.clone())
            ),
        };
        self.made = Some(Made {
            admin,
            database: database.clone(),
            user: user.map(|(user, _)| user),
        });
        let mut options = self.options.clone();
        options.ownership.no_owner = true;
        options.extent = Extent::WithoutSuperuser;
        Ok(Ready {
            url: SourceUrl::Mysql(database),
            options,
            place,
            warnings,
        })
    }

    async fn session(&self) -> Result<Session, Error> {
        let database = &self.made()?.database;
        Session::connect(database, Some(&database.database()), Purpose::Reading).await
    }

    async fn answer(&self, sql: &str, limit: Duration) -> Result<Option<String>, Error> {
        let mut session = self.session().await?;
        session
            .run("START TRANSACTION READ ONLY", "a check")
            .await?;
        let answer = answers::value(&mut session, sql, limit).await;
        session.close().await;
        answer
    }

    async fn broken(&self, structure: &Structure) -> Result<Vec<Broken>, Error> {
        let mut session = self.session().await?;
        let database = self.made()?.database.database();
        let mut found = Vec::new();
        for table in &structure.tables {
            for key in &table.foreign_keys {
                let sql = orphans(&database, table, key);
                let doing = format!("checking a foreign key of table {}", table.name);
                let rows = number(&session.one(&sql, &doing).await?, 0).unwrap_or(0);
                if rows > 0 {
                    found.push(Broken {
                        table: table.name.to_string(),
                        parent: key.parent.to_string(),
                        rows,
                    });
                }
            }
        }
        session.close().await;
        Ok(found)
    }
}

/// Counts rows of `table` whose reference finds no row.
fn orphans(database: &str, table: &Table, key: &ForeignKey) -> String {
    let set: Vec<String> = key
        .columns
        .iter()
        .map(|column| format!("child.{} IS NOT NULL", identifier(column)))
        .collect();
    let equal: Vec<String> = key
        .columns
        .iter()
        .zip(&key.parent_columns)
        .map(|(own, other)| format!("parent.{} = child.{}", identifier(other), identifier(own)))
        .collect();
    format!(
        "SELECT COUNT(*) FROM {} AS child WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS parent WHERE {})",
        qualified(database, &table.name.name),
        set.join(" AND "),
        qualified(database, &key.parent.name),
        equal.join(" AND ")
    )
}

/// Drops what was made on a server that stays.
async fn take_away(made: &Made) -> Result<(), Error> {
    let doing = "taking away what a drill made";
    let mut session = Session::connect(&made.admin, None, Purpose::Filling).await?;
    let name = made.database.database();
    let sql = format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name = {0} \
         OR LEFT(schema_name, {1}) = {2}",
        literal(&name),
        name.len() + 2,
        literal(&format!("{name}__"))
    );
    for row in session.ask(&sql, doing).await? {
        let sql = format!("DROP DATABASE IF EXISTS {}", identifier(&text(&row, 0)));
        session.run(&sql, doing).await?;
    }
    if let Some(user) = &made.user {
        let sql = format!("DROP USER '{user}'@'%'");
        session.run(&sql, doing).await?;
    }
    session.close().await;
    Ok(())
}

#[async_trait]
impl Scratch for MysqlScratch {
    async fn start(&mut self, _: &Structure) -> Result<Ready, AnyFailure> {
        match self.asked.clone() {
            Some(asked) => self.settle(asked, false).await,
            None => {
                let server = self.start_server().await?;
                self.settle(server, true).await
            }
        }
    }

    async fn ask(&mut self, sql: &str, limit: Duration) -> Result<Option<String>, AnyFailure> {
        Ok(self.answer(sql, limit).await?)
    }

    async fn broken_references(
        &mut self,
        structure: &Structure,
    ) -> Result<Vec<Broken>, AnyFailure> {
        Ok(self.broken(structure).await?)
    }

    fn bytes(&self) -> Option<u64> {
        self.own.as_ref().map(Own::bytes)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        let made = self.made.take();
        if let Some(own) = self.own.take() {
            return own.end().await;
        }
        match made {
            Some(made) => Ok(take_away(&made).await?),
            None => Ok(()),
        }
    }
}
