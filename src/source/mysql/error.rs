//! What can go wrong with a MySQL or MariaDB server, and what the caller must do about it.
//!
//! The server's numbers are sorted into classes here and nowhere else. Invariant: a message names
//! the server or the object and never repeats a password or a row.

use crate::failure::{Class, Failure};

/// The server's number for a disk without room.
const DISK_FULL: u16 = 1021;

/// Why a capture or a restore on MySQL or MariaDB failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about.
    #[error("cannot connect to {place}: {what}")]
    Connect {
        /// The address, without a password.
        place: String,
        /// What the caller must do.
        class: Class,
        /// What the server or the network said.
        what: String,
    },
    /// The connection ended in the middle.
    #[error("the connection to the server was lost while {doing}: {what}")]
    Lost {
        /// What was being done.
        doing: String,
        /// What the network said.
        what: String,
    },
    /// The server refused a statement.
    #[error("the server refused {doing}: {message} (error {code})")]
    Refused {
        /// What was being done.
        doing: String,
        /// The server's number.
        code: u16,
        /// The server's sentence.
        message: String,
    },
    /// Rights are missing; without them the backup would silently be smaller.
    #[error("the user {user} lacks rights on database {database}: {missing}")]
    Rights {
        /// The user, as the server knows it.
        user: String,
        /// The database.
        database: String,
        /// The rights, by name.
        missing: String,
        /// The statements that give them.
        grants: String,
    },
    /// The restoring user may not make programs that run as somebody else.
    #[error("the user {user} may not make what runs as {definers}")]
    Definers {
        /// The user, as the server knows it.
        user: String,
        /// The definers, as `user@host`.
        definers: String,
    },
    /// A definition is not shown to this user.
    #[error("the definition of {object} may not be read")]
    Unseen {
        /// What it is, and its name.
        object: String,
    },
    /// DDL ran while the database snapshot was being made or read.
    #[error("{object} was changed while the backup ran")]
    Changed {
        /// What it is, and its name.
        object: String,
    },
    /// There is something that is not understood or not supported.
    #[error("{what}")]
    Unsupported {
        /// The sentence.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The database to restore into has something in it.
    #[error("database {database} is not empty: it has {found}")]
    NotEmpty {
        /// The database.
        database: String,
        /// What was found.
        found: String,
    },
    /// The target server lacks what the snapshot needs; found before anything was written.
    #[error("the target server cannot take this snapshot: {what}")]
    Flavour {
        /// All that was found, separated by semicolons.
        what: String,
    },
    /// Fewer or other rows arrived than were sent.
    #[error("table {table}: {sent} rows were sent, and the server took {taken}")]
    Count {
        /// The table.
        table: String,
        /// Rows sent.
        sent: u64,
        /// Rows taken.
        taken: u64,
    },
    /// A row does not fit a packet of the server.
    #[error("a row of table {table} has {bytes} bytes, more than the server takes in one packet")]
    RowTooLarge {
        /// The table.
        table: String,
        /// Its size.
        bytes: u64,
    },
    /// Rows that came from the repository do not fit their table.
    #[error("rows of table {table} are not as they should be: {what}")]
    Rows {
        /// The table.
        table: String,
        /// What is wrong.
        what: String,
    },
    /// The receiver of the rows is gone: it failed, and knows why.
    #[error("nobody takes the rows of table {table} any more")]
    ReceiverGone {
        /// The table.
        table: String,
    },
    /// Something could not be taken away.
    #[error("could not be taken away: {what}")]
    Left {
        /// What is left, by name, and why.
        what: String,
    },
    /// The calls came in an order that has no meaning.
    #[error("mysql: {what}")]
    OutOfOrder {
        /// What was asked for too early.
        what: &'static str,
    },
}

impl Error {
    /// What the driver said, sorted.
    pub fn driver(error: mysql_async::Error, doing: impl Into<String>) -> Self {
        let doing = doing.into();
        match error {
            mysql_async::Error::Server(error) => Error::Refused {
                doing,
                // A full disk comes under the number of whatever met it.
                code: match error.message.contains("No space left on device") {
                    true => DISK_FULL,
                    false => error.code,
                },
                message: error.message,
            },
            other => Error::Lost {
                doing,
                what: other.to_string(),
            },
        }
    }

    /// The server's number, where it was the server that refused.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the server said that a right is missing.
    pub fn is_denied(&self) -> bool {
        self.code()
            .is_some_and(|code| class_of(code) == Class::Denied)
    }

    /// Whether it says that tables changed under the reader.
    pub fn is_changed(&self) -> bool {
        matches!(self.code(), Some(1412 | 1146 | 1054 | 1051 | 4162))
    }
}

/// What the server's error numbers ask of the caller.
pub fn class_of(code: u16) -> Class {
    match code {
        1044 | 1045 | 1095 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419 | 1698 | 3118 | 4031 => {
            Class::Denied
        }
        1049 => Class::Missing,
        1007 | 1050 => Class::Conflict,
        1040 | 1203 | 1205 | 1226 => Class::Busy,
        DISK_FULL
        | 1053
        | 1114
        | 1129
        | 1158..=1161
        | 1180
        | 1213
        | 1290
        | 1317
        | 1412
        | 1836
        | 1927
        | 1969
        | 3024
        | 3159 => Class::Transient,
        _ => Class::Invalid,
    }
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Connect { class, .. } => *class,
            Error::Lost { .. } | Error::Changed { .. } | Error::ReceiverGone { .. } => {
                Class::Transient
            }
            Error::Refused { code, .. } => class_of(*code),
            Error::Rights { .. } | Error::Definers { .. } | Error::Unseen { .. } => Class::Denied,
            Error::Unsupported { .. } | Error::RowTooLarge { .. } => Class::Invalid,
            Error::NotEmpty { .. } | Error::Flavour { .. } | Error::Left { .. } => Class::Conflict,
            Error::Count { .. } | Error::Rows { .. } => Class::Corrupt,
            Error::OutOfOrder { .. } => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Connect { class, .. } => match class {
                Class::Denied => "check user, password and the host the server sees".into(),
                Class::Missing => "check the name of the database".into(),
                Class::Invalid => "check ssl-mode, and whether the server offers TLS".into(),
                _ => "check that the server runs and that host, port or socket are right".into(),
            },
            Error::Lost { .. } => "look into the server's log, then run it again".into(),
            Error::Refused { code, .. } => return refused_hint(*code),
            Error::Rights { grants, .. } => format!("run as an administrator: {grants}"),
            Error::Definers { .. } => {
                "grant SUPER or SET USER, or restore with --skip-definer".into()
            }
            Error::Unseen { object } => format!(
                "grant SELECT on mysql.proc (MySQL 8: SHOW_ROUTINE), or see that {object} is the user's own"
            ),
            Error::Changed { .. } => "run it again when the change is done".into(),
            Error::Unsupported { hint, .. } => hint.clone(),
            Error::NotEmpty { .. } => "name a new or an empty database".into(),
            Error::Flavour { .. } => {
                "restore to a server of the same kind and of at least the same version".into()
            }
            Error::Count { .. } => {
                "look for unique keys or values that this server takes differently".into()
            }
            Error::RowTooLarge { .. } => {
                "raise max_allowed_packet on the target, or allow local_infile there".into()
            }
            Error::Rows { .. } => "run verify on the snapshot".into(),
            Error::Left { .. } => "drop what is named by hand".into(),
            Error::ReceiverGone { .. } | Error::OutOfOrder { .. } => return None,
        })
    }
}

fn refused_hint(code: u16) -> Option<String> {
    let hint = match code {
        1040 | 1203 | 1226 => "raise the limit of connections, or run it later",
        1205 => "another session holds a lock: run it later",
        DISK_FULL | 1114 => "make room on the server's disk",
        1153 | 1301 => "raise max_allowed_packet on the server",
        1227 | 1044 | 1142 | 1143 | 1370 => "grant the right that the server names",
        1419 => "grant SUPER, or set log_bin_trust_function_creators on the server",
        1412 | 1146 | 1054 => "run it again when the change of the tables is done",
        1290 | 1836 => "the server is read-only: restore to one that may be written",
        1534..=1541 => "the event scheduler of the server is damaged: run mariadb-upgrade",
        _ => return None,
    };
    Some(hint.into())
}
