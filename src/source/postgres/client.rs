//! One connection to a server, with the settings that make its text forms repeatable.
//!
//! The simple query protocol throughout: every answer is text, nothing is prepared, so a pooler
//! in between does no harm. Invariant: a client whose COPY was left half-way refuses every further
//! statement, since the library would read the COPY's rest as the answer.

use std::str::FromStr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgCopyIn, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

use super::error::Error;
use super::quote;
use crate::planted;
use crate::source::address::ServerUrl;

/// How long the server may be silent inside one answer.
const SILENCE_MAX: Duration = Duration::from_secs(60 * 60);
/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long a table lock is waited for.
pub const LOCK_WAIT_MS: u32 = 60_000;

/// Settings under which text forms are the same on every server (DESIGN §5), and no timeout of
/// the role or the database cuts a long read.
const SETTINGS: &str = "\
SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET DateStyle = 'ISO, MDY'; \
SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 3; \
SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = ''; SET row_security = off; \
SET synchronize_seqscans = off; SET xmloption = 'content'; SET array_nulls = on; SET jit = off; \
SET default_transaction_read_only = off; SET default_transaction_deferrable = off; \
SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 60000; \
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// One row of an answer, as text.
pub type TextRow = Vec<Option<String>>;

/// How `server` is reached; environment and password file fill what the URL leaves out.
pub fn connect_options(server: &ServerUrl) -> Result<PgConnectOptions, Error> {
    let database = server.database();
    let mut options = PgConnectOptions::from_str(server.url().as_str())
        .map_err(|error| Error::from_client(error, &database, "reading its address"))?
        .database(&database)
        .application_name("rowvault")
        .disable_statement_logging();
    if let Some(password) = server.password() {
        options = options.password(password.expose_secret());
    }
    Ok(options)
}

/// A connection to one database.
pub struct Client {
    connection: PgConnection,
    database: String,
    backend: i32,
    /// True from the start of a COPY until its end was seen.
    out_of_step: bool,
}

impl Client {
    /// Connects to the database of `server` and sets the session up.
    pub async fn connect(server: &ServerUrl) -> Result<Self, Error> {
        let database = server.database();
        let options = connect_options(server)?;
        let doing = "connecting";
        let connection = tokio::time::timeout(CONNECT_MAX, options.connect())
            .await
            .map_err(|_| Error::Connection {
                database: database.clone(),
                doing: doing.into(),
                cause: format!("no answer for {} s", CONNECT_MAX.as_secs()),
            })?
            .map_err(|error| Error::from_client(error, &database, doing))?;
        let mut client = Client {
            connection,
            database,
            backend: 0,
            out_of_step: false,
        };
        client.run(SETTINGS, "setting up the session").await?;
        if planted::is("row-level security on") {
            client.run("SET row_security = on", doing).await?;
        }
        let backend = client
            .value("SELECT pg_catalog.pg_backend_pid()", doing)
            .await?;
        client.backend = backend.parse().unwrap_or_default();
        Ok(client)
    }

    /// The server's process that serves this connection.
    pub fn backend(&self) -> i32 {
        self.backend
    }

    /// The database's name, for messages.
    pub fn database(&self) -> &str {
        &self.database
    }

    fn failed(&self, doing: &str) -> impl Fn(sqlx::Error) -> Error + use<> {
        let (database, doing) = (self.database.clone(), doing.to_owned());
        move |error| Error::from_client(error, &database, &doing)
    }

    /// Runs statements whose answers do not matter.
    pub async fn run(&mut self, sql: &str, doing: &str) -> Result<(), Error> {
        self.rows(sql, doing).await.map(|_| ())
    }

    /// Runs a statement and returns its rows; every column must be text or cast to it.
    pub async fn rows(&mut self, sql: &str, doing: &str) -> Result<Vec<TextRow>, Error> {
        self.in_step(doing)?;
        let failed = self.failed(doing);
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let answer = self.connection.fetch_all(statement);
        let rows = tokio::time::timeout(SILENCE_MAX, answer)
            .await
            .map_err(|_| self.silent(doing))?
            .map_err(&failed)?;
        rows.iter()
            .map(|row| text_row(row).map_err(&failed))
            .collect()
    }

    /// An error where a COPY was left half-way: what comes next would be its rest.
    fn in_step(&self, doing: &str) -> Result<(), Error> {
        match self.out_of_step {
            false => Ok(()),
            true => Err(Error::Connection {
                database: self.database.clone(),
                doing: doing.to_owned(),
                cause: "an earlier COPY was not read to its end".into(),
            }),
        }
    }

    /// The first column of the first row; an error where there is none.
    pub async fn value(&mut self, sql: &str, doing: &str) -> Result<String, Error> {
        let rows = self.rows(sql, doing).await?;
        let first = rows.into_iter().next().and_then(|mut row| row.remove(0));
        first.ok_or_else(|| Error::Protocol {
            database: self.database.clone(),
            doing: doing.to_owned(),
            what: "an empty answer".into(),
        })
    }

    fn silent(&self, doing: &str) -> Error {
        Error::Silent {
            database: self.database.clone(),
            doing: doing.to_owned(),
            minutes: SILENCE_MAX.as_secs() / 60,
        }
    }

    /// Starts `COPY … TO STDOUT`. Read it to its end, or close the client.
    pub async fn copy_out(&mut self, sql: &str, doing: &str) -> Result<CopyOut<'_>, Error> {
        self.in_step(doing)?;
        let failed = self.failed(doing);
        let silent = self.silent(doing);
        self.out_of_step = true;
        let stream = tokio::time::timeout(SILENCE_MAX, self.connection.copy_out_raw(sql))
            .await
            .map_err(|_| silent)?
            .map_err(failed)?;
        Ok(CopyOut {
            stream,
            out_of_step: &mut self.out_of_step,
            database: self.database.clone(),
            doing: doing.to_owned(),
        })
    }

    /// Starts `COPY … FROM STDIN`. Finish it, or close the client.
    pub async fn copy_in(&mut self, sql: &str, doing: &str) -> Result<CopyIn<'_>, Error> {
        self.in_step(doing)?;
        let failed = self.failed(doing);
        self.out_of_step = true;
        let stream = self.connection.copy_in_raw(sql).await.map_err(failed)?;
        Ok(CopyIn {
            stream,
            out_of_step: &mut self.out_of_step,
            database: self.database.clone(),
            doing: doing.to_owned(),
        })
    }

    /// Cancels what another session of the same role is running; a session that is gone is fine.
    pub async fn cancel(&mut self, backend: i32) -> Result<(), Error> {
        let sql = format!("SELECT pg_catalog.pg_cancel_backend({backend})::pg_catalog.text");
        self.run(&sql, "cancelling a statement").await
    }

    /// Says goodbye.
    pub async fn close(self) {
        let goodbye = self.connection.close();
        // Whether the goodbye arrives is no matter: the socket is closed either way.
        let _ = tokio::time::timeout(Duration::from_secs(5), goodbye).await;
    }

    /// Cuts the connection without a word, for one that may be out of step.
    pub async fn close_hard(self) {
        let cut = self.connection.close_hard();
        let _ = tokio::time::timeout(Duration::from_secs(5), cut).await;
    }
}

fn text_row(row: &PgRow) -> Result<TextRow, sqlx::Error> {
    (0..row.len())
        .map(|index| row.try_get_unchecked::<Option<String>, _>(index))
        .collect()
}

/// A running `COPY … TO STDOUT`.
pub struct CopyOut<'c> {
    stream: BoxStream<'c, Result<bytes::Bytes, sqlx::Error>>,
    out_of_step: &'c mut bool,
    database: String,
    doing: String,
}

impl CopyOut<'_> {
    /// The next bytes; none when the server has sent all and said so.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        let next = match futures::FutureExt::now_or_never(self.stream.next()) {
            Some(next) => next,
            // A timer only for a wait: rows that are there already need none.
            None => tokio::time::timeout(SILENCE_MAX, self.stream.next())
                .await
                .map_err(|_| Error::Silent {
                    database: self.database.clone(),
                    doing: self.doing.clone(),
                    minutes: SILENCE_MAX.as_secs() / 60,
                })?,
        };
        if next.is_none() {
            *self.out_of_step = false;
        }
        next.transpose()
            .map_err(|error| Error::from_client(error, &self.database, &self.doing))
    }
}

/// A running `COPY … FROM STDIN`.
pub struct CopyIn<'c> {
    stream: PgCopyIn<&'c mut PgConnection>,
    out_of_step: &'c mut bool,
    database: String,
    doing: String,
}

impl CopyIn<'_> {
    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let sent = tokio::time::timeout(SILENCE_MAX, self.stream.send(bytes)).await;
        match sent {
            Ok(sent) => sent
                .map(|_| ())
                .map_err(|error| Error::from_client(error, &self.database, &self.doing)),
            Err(_) => Err(Error::Silent {
                database: self.database.clone(),
                doing: self.doing.clone(),
                minutes: SILENCE_MAX.as_secs() / 60,
            }),
        }
    }

    /// Ends the data; the number of rows that the server took.
    pub async fn finish(self) -> Result<u64, Error> {
        let (database, doing) = (self.database, self.doing);
        let taken = self.stream.finish().await;
        *self.out_of_step = taken.is_err();
        taken.map_err(|error| Error::from_client(error, &database, &doing))
    }
}

/// How old the rows of a COPY are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// As they are read, or as old as the transaction that writes them.
    Usual,
    /// Older than any transaction. Only for a table that was emptied in the same one.
    Frozen,
}

/// `COPY` options for text in `encoding`: the server's own, so that no byte is converted.
pub fn text_format(encoding: &str, age: Age) -> String {
    let freeze = match age {
        Age::Usual => "",
        Age::Frozen => ", FREEZE",
    };
    format!(
        "(FORMAT text, ENCODING {}{freeze})",
        quote::literal(encoding)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_options_are_whole_whatever_the_encoding_is_called() {
        assert_eq!(
            text_format("UTF8", Age::Usual),
            "(FORMAT text, ENCODING 'UTF8')"
        );
        assert_eq!(
            text_format("a'(b", Age::Frozen),
            "(FORMAT text, ENCODING 'a''(b', FREEZE)"
        );
    }
}
