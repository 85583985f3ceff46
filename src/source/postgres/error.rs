//! What can go wrong with a PostgreSQL server, and what the caller must do.
//!
//! The server's five-letter code decides the class, so that a wrong password, a full disk and a
//! cut connection are told apart. Invariant: no message holds a password or a cell.

use crate::failure::{Class, Failure};

/// Why something with a PostgreSQL database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or the connection was cut.
    #[error("the connection to database {database} failed while {doing}: {cause}")]
    Connection {
        /// The database.
        database: String,
        /// What was being done.
        doing: String,
        /// What the network said.
        cause: String,
    },
    /// The server answered with an error.
    #[error("database {database} refused {doing}: {message} (SQLSTATE {code})")]
    Server {
        /// The database.
        database: String,
        /// What was being done.
        doing: String,
        /// The server's message.
        message: String,
        /// The five-letter code.
        code: String,
    },
    /// The server sent something that it never should.
    #[error("database {database} sent {what} while {doing}")]
    Protocol {
        /// The database.
        database: String,
        /// What was being done.
        doing: String,
        /// What came.
        what: String,
    },
    /// Nothing came for too long.
    #[error("database {database} was silent for {minutes} minutes while {doing}")]
    Silent {
        /// The database.
        database: String,
        /// What was being done.
        doing: String,
        /// How long.
        minutes: u64,
    },
    /// Something about the request or the database that a person must decide or change.
    #[error("{what}")]
    Stated {
        /// What the caller must do.
        class: Class,
        /// The sentence.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A client tool is missing, too old, or failed.
    #[error("{tool}: {what}")]
    Tool {
        /// What the caller must do.
        class: Class,
        /// Which tool.
        tool: String,
        /// What it said.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The database snapshot ended before the capture did.
    #[error("the database snapshot of {database} was lost: {what}")]
    SnapshotLost {
        /// The database.
        database: String,
        /// How it showed.
        what: String,
    },
    /// Tables came, went or changed while they were listed and locked.
    #[error("the tables of database {database} changed each time that they were listed")]
    Contested {
        /// The database.
        database: String,
    },
    /// The receiver of rows has gone away.
    #[error("reading {table} was stopped")]
    Stopped {
        /// The table.
        table: String,
    },
}

impl Error {
    /// A sentence made on the spot.
    pub fn stated(class: Class, what: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        Error::Stated {
            class,
            what: what.into(),
            hint: (!hint.is_empty()).then_some(hint),
        }
    }

    /// What `error` of the client library means, while `doing` something with `database`.
    pub fn from_client(error: sqlx::Error, database: &str, doing: &str) -> Self {
        let (database, doing) = (database.to_owned(), doing.to_owned());
        match error {
            sqlx::Error::Database(error) => Error::Server {
                database,
                doing,
                message: server_message(error.as_ref()),
                code: error.code().unwrap_or_default().into_owned(),
            },
            sqlx::Error::Io(error) => Error::Connection {
                database,
                doing,
                cause: error.to_string(),
            },
            sqlx::Error::Tls(error) => Error::Stated {
                class: Class::Invalid,
                what: format!("no secure connection to database {database}: {error}"),
                hint: Some("check sslmode and sslrootcert, and that the server offers TLS".into()),
            },
            sqlx::Error::Configuration(error) => Error::Stated {
                class: Class::Invalid,
                what: format!("the address of database {database} cannot be used: {error}"),
                hint: None,
            },
            other => Error::Protocol {
                database,
                doing,
                what: format!("something unexpected ({other})"),
            },
        }
    }

    /// The server's code, where there is one.
    pub fn code(&self) -> &str {
        match self {
            Error::Server { code, .. } => code,
            _ => "",
        }
    }
}

/// The message alone; the detail may hold a row's values, so it is left out.
fn server_message(error: &dyn sqlx::error::DatabaseError) -> String {
    let mut message = error.message().to_owned();
    if let Some(end) = message.char_indices().nth(400) {
        message.truncate(end.0);
        message.push('…');
    }
    message
}

fn class_of_code(code: &str) -> Class {
    match code {
        "28000" | "28P01" | "42501" | "0LP01" => Class::Denied,
        "3D000" => Class::Missing,
        "53300" | "55P03" | "55006" => Class::Busy,
        "53100" | "57014" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "40001" | "40P01" => {
            Class::Transient
        }
        "XX001" | "XX002" => Class::Corrupt,
        _ if code.starts_with("08") || code.starts_with("58") => Class::Transient,
        _ => Class::Conflict,
    }
}

fn hint_of_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "28P01" => "check the user and the password (password_file, PGPASSWORD, PGPASSFILE)",
        "28000" => "check pg_hba.conf of the server: user, database, address and TLS",
        "42501" => "grant the role what is named; for a backup, pg_read_all_data is enough",
        "3D000" => "check the database's name, or create it",
        "53300" => "raise max_connections of the server or lower parallel",
        "53100" => "free space on the server's disk",
        "53200" => "raise max_locks_per_transaction (or memory) of the server",
        "55P03" => "another session holds a strong lock; try again when it has ended",
        "57014" => "somebody cancelled the statement; try again",
        "57P01" | "57P02" | "57P03" => {
            "the server is stopping or starting; try again when it is up"
        }
        "40001" => {
            "a standby cancels long reads: raise max_standby_streaming_delay or set hot_standby_feedback"
        }
        "XX001" | "XX002" => "the server's own files are damaged; check its disk and its log",
        _ => return None,
    })
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Connection { .. } | Error::Silent { .. } | Error::SnapshotLost { .. } => {
                Class::Transient
            }
            Error::Server { code, .. } => class_of_code(code),
            Error::Protocol { .. } => Class::Bug,
            Error::Stated { class, .. } | Error::Tool { class, .. } => *class,
            Error::Contested { .. } => Class::Busy,
            Error::Stopped { .. } => Class::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Connection { .. } | Error::Silent { .. } => {
                Some("check that the server is up and reachable, then try again".into())
            }
            Error::Server { code, .. } => hint_of_code(code).map(str::to_owned),
            Error::SnapshotLost { .. } => Some("run the backup again".into()),
            Error::Contested { .. } => Some("try again when nothing makes or drops tables".into()),
            Error::Stated { hint, .. } | Error::Tool { hint, .. } => hint.clone(),
            Error::Protocol { .. } | Error::Stopped { .. } => None,
        }
    }
}
