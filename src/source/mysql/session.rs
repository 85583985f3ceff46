//! One connection to a server, under fixed settings.
//!
//! Dates, numbers and bytes come out of a server as its session settings say, so that every
//! session here is set alike before its first statement. Rows and definitions both go through
//! `mysql_async`: sqlx 0.9 loses rows of 16 MiB and zero dates (tests/it/mysql_driver.rs keeps
//! watch over that). Invariant: a session that failed is never used again.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, OptsBuilder, Row, SslOpts, Value};
use secrecy::ExposeSecret;

use super::error::{Error, class_of};
use crate::failure::Class;
use crate::source::address::ServerUrl;

/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);
/// The largest packet that the client takes; the protocol's limit.
const PACKET_BYTES_MAX: usize = 1 << 30;

/// Which of the two families a server belongs to, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether it is MariaDB.
    pub mariadb: bool,
    /// Major, minor, patch.
    pub version: (u32, u32, u32),
    /// The version as the server prints it.
    pub text: String,
}

impl Server {
    /// What `SELECT VERSION()` and `@@version_comment` say.
    pub fn parse(version: &str, comment: &str) -> Self {
        let mariadb = format!("{version} {comment}")
            .to_ascii_lowercase()
            .contains("mariadb");
        // Old MariaDB servers put 5.5.5- in front for the sake of old replicas.
        let plain = version.strip_prefix("5.5.5-").unwrap_or(version);
        let mut numbers = plain.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Server {
            mariadb,
            version: (next(), next(), next()),
            text: version.to_owned(),
        }
    }

    /// Whether it is MariaDB of at least this version.
    pub fn is_mariadb_since(&self, version: (u32, u32, u32)) -> bool {
        self.mariadb && self.version >= version
    }

    /// Whether it is MySQL of at least this version.
    pub fn is_mysql_since(&self, version: (u32, u32, u32)) -> bool {
        !self.mariadb && self.version >= version
    }

    /// The family's name.
    pub fn flavour(&self) -> &'static str {
        if self.mariadb { "mariadb" } else { "mysql" }
    }
}

/// What sessions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading rows and definitions; nothing is ever written.
    Reading,
    /// Filling a database that is being made.
    Filling,
}

/// One row of an answer to a question about the database: text, or NULL.
pub type Answer = Vec<Option<Vec<u8>>>;

/// A connection.
pub struct Session {
    conn: Conn,
    server: Server,
}

impl Session {
    /// Connects to the server of `url`; to its database, where `database` is given.
    ///
    /// # Errors
    /// [`Error::Connect`], with the class of what stands against it.
    pub async fn connect(
        url: &ServerUrl,
        database: Option<&str>,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let place = url.url().to_string();
        let failed = |class, what: String| Error::Connect {
            place: place.clone(),
            class,
            what,
        };
        let attempt = tokio::time::timeout(CONNECT_TIME_MAX, open(url, database)).await;
        let conn = match attempt {
            Err(_) => return Err(failed(Class::Transient, "no answer in 20 s".into())),
            Ok(Err(mysql_async::Error::Server(error))) => {
                return Err(failed(class_of(error.code), error.message));
            }
            Ok(Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer))) => {
                let what = "ssl-mode asks for TLS, and the server has none";
                return Err(failed(Class::Invalid, what.into()));
            }
            Ok(Err(error)) => return Err(failed(Class::Transient, error.to_string())),
            Ok(Ok(conn)) => conn,
        };
        let server = Server::parse("", "");
        let mut session = Session { conn, server };
        session.settle(purpose).await?;
        Ok(session)
    }

    async fn settle(&mut self, purpose: Purpose) -> Result<(), Error> {
        let answer = self
            .one("SELECT VERSION(), @@version_comment", "its version")
            .await?;
        self.server = Server::parse(&text(&answer, 0), &text(&answer, 1));
        let modes = match purpose {
            Purpose::Reading => "",
            Purpose::Filling => "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION",
        };
        self.run("SET NAMES utf8mb4", "its settings").await?;
        let settings = format!(
            "SET SESSION sql_mode = '{modes}', time_zone = '+00:00', sql_quote_show_create = 1, \
             wait_timeout = 86400, net_read_timeout = 3600, net_write_timeout = 3600, \
             innodb_lock_wait_timeout = 50, lock_wait_timeout = 60, autocommit = 1"
        );
        self.run(&settings, "its settings").await?;
        let ours = if self.server.mariadb {
            "SET SESSION max_statement_time = 0"
        } else {
            "SET SESSION max_execution_time = 0"
        };
        self.run(ours, "its settings").await?;
        if purpose == Purpose::Filling {
            self.run(
                "SET SESSION foreign_key_checks = 0, unique_checks = 0",
                "its settings",
            )
            .await?;
            if self.server.is_mariadb_since((10, 2, 1)) {
                self.run("SET SESSION check_constraint_checks = 0", "its settings")
                    .await?;
            }
        }
        Ok(())
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The connection's number, by which another session may end it.
    pub fn id(&self) -> u32 {
        self.conn.id()
    }

    /// The driver's connection, for streams.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Runs a statement whose answer is of no interest.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn run(&mut self, sql: &str, doing: &str) -> Result<(), Error> {
        self.run_bytes(sql.as_bytes(), doing).await
    }

    /// Runs a statement that need not be UTF-8.
    ///
    /// # Errors
    /// As `run`.
    pub async fn run_bytes(&mut self, sql: &[u8], doing: &str) -> Result<(), Error> {
        self.conn
            .query_drop(sql)
            .await
            .map_err(|error| Error::driver(error, doing))
    }

    /// All rows that a question has for an answer.
    ///
    /// # Errors
    /// As `run`.
    pub async fn ask(&mut self, sql: &str, doing: &str) -> Result<Vec<Answer>, Error> {
        let rows: Vec<Row> = self
            .conn
            .query(sql)
            .await
            .map_err(|error| Error::driver(error, doing))?;
        Ok(rows.into_iter().map(answer).collect())
    }

    /// The first row of an answer; empty where there is none.
    ///
    /// # Errors
    /// As `run`.
    pub async fn one(&mut self, sql: &str, doing: &str) -> Result<Answer, Error> {
        Ok(self
            .ask(sql, doing)
            .await?
            .into_iter()
            .next()
            .unwrap_or_default())
    }

    /// Says good-bye.
    pub async fn close(self) {
        // A server that is gone has nothing left to be told.
        let _ = self.conn.disconnect().await;
    }
}

fn answer(mut row: Row) -> Answer {
    (0..row.len())
        .map(|at| match row.take::<Value, _>(at) {
            None | Some(Value::NULL) => None,
            Some(Value::Bytes(bytes)) => Some(bytes),
            Some(other) => Some(other.as_sql(true).into_bytes()),
        })
        .collect()
}

/// The text of a cell of an answer; empty for NULL.
pub fn text(answer: &Answer, index: usize) -> String {
    maybe(answer, index).unwrap_or_default()
}

/// The text of a cell of an answer; none for NULL.
pub fn maybe(answer: &Answer, index: usize) -> Option<String> {
    let bytes = answer.get(index)?.as_ref()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The whole number in a cell of an answer.
pub fn number(answer: &Answer, index: usize) -> Option<u64> {
    maybe(answer, index)?.parse().ok()
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Never,
    WherePossible,
    Unverified,
    VerifiedCertificate,
    VerifiedName,
}

fn tls(url: &ServerUrl) -> Result<Tls, mysql_async::Error> {
    let mode = url
        .parameter("ssl-mode")
        .or_else(|| url.parameter("sslmode"));
    let Some(mode) = mode else {
        let ca = url.parameter("ssl-ca").is_some();
        return Ok(if ca {
            Tls::VerifiedName
        } else {
            Tls::WherePossible
        });
    };
    match mode.to_ascii_lowercase().replace('-', "_").as_str() {
        "disabled" | "disable" => Ok(Tls::Never),
        "preferred" | "prefer" => Ok(Tls::WherePossible),
        "required" | "require" => Ok(Tls::Unverified),
        "verify_ca" => Ok(Tls::VerifiedCertificate),
        "verify_identity" | "verify_full" => Ok(Tls::VerifiedName),
        _ => Err(mysql_async::Error::Other(
            format!("ssl-mode={mode} is none of disabled, preferred, required, verify_ca, verify_identity").into(),
        )),
    }
}

fn ssl_options(url: &ServerUrl, tls: Tls) -> Option<SslOpts> {
    let unverified = matches!(tls, Tls::WherePossible | Tls::Unverified);
    let mut options = SslOpts::default()
        .with_danger_accept_invalid_certs(unverified)
        .with_danger_skip_domain_validation(tls != Tls::VerifiedName);
    if let Some(ca) = url.parameter("ssl-ca") {
        options = options
            .with_root_certs(vec![PathBuf::from(ca).into()])
            .with_disable_built_in_roots(true);
    }
    if let (Some(cert), Some(key)) = (url.parameter("ssl-cert"), url.parameter("ssl-key")) {
        let identity =
            mysql_async::ClientIdentity::new(PathBuf::from(cert).into(), PathBuf::from(key).into());
        options = options.with_client_identity(Some(identity));
    }
    (tls != Tls::Never).then_some(options)
}

async fn open(url: &ServerUrl, database: Option<&str>) -> mysql_async::Result<Conn> {
    let password = match url.password() {
        Some(password) => Some(password.expose_secret().to_owned()),
        None => std::env::var("MYSQL_PWD").ok(),
    };
    let user = url.user().or_else(|| std::env::var("USER").ok());
    let socket = url.parameter("socket");
    let options = OptsBuilder::default()
        .ip_or_hostname(url.host().unwrap_or_else(|| "localhost".into()))
        .tcp_port(url.port().unwrap_or(3306))
        .socket(socket.clone())
        .user(user)
        .pass(password)
        .db_name(database)
        .prefer_socket(false)
        .stmt_cache_size(0)
        .tcp_keepalive(Some(Duration::from_secs(60)))
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(86_400));
    let tls = if socket.is_some() {
        Tls::Never
    } else {
        tls(url)?
    };
    let attempt = Conn::new(options.clone().ssl_opts(ssl_options(url, tls))).await;
    match attempt {
        Err(mysql_async::Error::Driver(mysql_async::DriverError::NoClientSslFlagFromServer))
            if tls == Tls::WherePossible =>
        {
            Conn::new(options).await
        }
        attempt => attempt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_known_by_its_version() {
        let debian = Server::parse("10.11.14-MariaDB-0+deb12u2", "Debian 12");
        assert!(debian.is_mariadb_since((10, 11, 0)));
        assert!(!debian.is_mysql_since((5, 7, 0)));
        let old = Server::parse("5.5.5-10.3.39-MariaDB", "");
        assert_eq!(old.version, (10, 3, 39));
        let oracle = Server::parse("8.0.36", "MySQL Community Server - GPL");
        assert!(oracle.is_mysql_since((8, 0, 0)));
        assert_eq!(oracle.flavour(), "mysql");
    }
}
