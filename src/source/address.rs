//! Where a database is, and what to leave out of it: URLs, table patterns, options.
//!
//! What every engine needs to know before it connects, parsed once at the door. Invariant: a
//! password lives only in its [`SecretString`]; nothing that prints an address can print it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::clock::{Clock, SystemClock};
use crate::failure::{Class, Failure};
use crate::id::SourceName;
use crate::planted;
use crate::random::{Random, SystemRandom};
use crate::row::schema::{Engine, TableName};

/// Why a text is not the address of a database.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No scheme that an engine has.
    #[error("{scheme:?} is not a kind of database that rowvault knows")]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// No scheme at all. The text is not repeated: it may hold a password.
    #[error("the database address has no kind (such as sqlite:) in front")]
    NoScheme,
    /// `sqlite:` with nothing after it.
    #[error("the sqlite address names no file")]
    NoPath,
    /// The URL does not parse. The text is not repeated: it may hold a password.
    #[error("the {engine} address does not parse: {what}")]
    Syntax {
        /// Which engine.
        engine: Engine,
        /// What the parser says; never the text.
        what: String,
    },
    /// A server's URL without a database.
    #[error("the {engine} address names no database")]
    NoDatabase {
        /// Which engine.
        engine: Engine,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        Class::Invalid
    }
    fn hint(&self) -> Option<String> {
        Some(
            "write sqlite:PATH, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE".into(),
        )
    }
}

/// The address of a database, as it is given in commands and in the configuration.
#[derive(Clone, Debug)]
pub enum SourceUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(ServerUrl),
    /// A MySQL or MariaDB database.
    Mysql(ServerUrl),
}

/// The address of a database on a server; its password apart.
#[derive(Clone)]
pub struct ServerUrl {
    url: url::Url,
    password: Option<SecretString>,
}

impl SourceUrl {
    /// The engine that the scheme stands for.
    pub fn engine(&self) -> Engine {
        match self {
            SourceUrl::Sqlite(_) => Engine::Sqlite,
            SourceUrl::Postgres(_) => Engine::Postgres,
            SourceUrl::Mysql(_) => Engine::Mysql,
        }
    }

    /// The address without a password: for messages, logs, the ledger.
    pub fn display(&self) -> String {
        match self {
            SourceUrl::Sqlite(path) => format!("sqlite:{}", path.display()),
            SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => server.url.to_string(),
        }
    }

    /// Whether a password stood in the text; commands warn of it.
    pub fn has_password(&self) -> bool {
        match self {
            SourceUrl::Sqlite(_) => false,
            SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => server.password.is_some(),
        }
    }

    /// Puts `password` in the place of the one that the text had, if any.
    pub fn set_password(&mut self, password: SecretString) {
        match self {
            SourceUrl::Sqlite(_) => {}
            SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => {
                server.password = Some(password);
            }
        }
    }

    /// The name that the source gets when it is given none: the file's stem, the database's
    /// name, in lower case; none where that is not a [`SourceName`].
    pub fn default_name(&self) -> Option<SourceName> {
        let name = match self {
            SourceUrl::Sqlite(path) => path.file_stem()?.to_str()?.to_owned(),
            SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => server.database(),
        };
        name.to_lowercase().parse().ok()
    }

    /// The file of a SQLite address.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match self {
            SourceUrl::Sqlite(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

impl FromStr for SourceUrl {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = text.split_once(':').ok_or(Error::NoScheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() {
                    return Err(Error::NoPath);
                }
                Ok(SourceUrl::Sqlite(path.into()))
            }
            "postgres" | "postgresql" => {
                ServerUrl::parse(Engine::Postgres, "postgres", rest).map(SourceUrl::Postgres)
            }
            "mysql" | "mariadb" => {
                ServerUrl::parse(Engine::Mysql, "mysql", rest).map(SourceUrl::Mysql)
            }
            _ if scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+') =>
            {
                Err(Error::Scheme {
                    scheme: scheme.to_owned(),
                })
            }
            _ => Err(Error::NoScheme),
        }
    }
}

impl ServerUrl {
    fn parse(engine: Engine, scheme: &str, rest: &str) -> Result<Self, Error> {
        let syntax = |what: String| Error::Syntax { engine, what };
        if !rest.starts_with("//") {
            return Err(syntax("// is missing after the colon".into()));
        }
        let mut url = url::Url::parse(&format!("{scheme}:{rest}"))
            .map_err(|error| syntax(error.to_string()))?;
        let mut password = url.password().map(|text| decoded(text).into());
        if password.is_some() {
            url.set_password(None)
                .map_err(|()| syntax("it has a password but no host".into()))?;
        }
        let (secret, open): (Vec<_>, Vec<_>) = url
            .query_pairs()
            .into_owned()
            .partition(|(name, _)| name == "password");
        if let Some((_, text)) = secret.into_iter().last() {
            password = Some(text.into());
            url.set_query(None);
            if !open.is_empty() {
                url.query_pairs_mut().extend_pairs(open);
            }
        }
        let server = ServerUrl { url, password };
        if server.database().is_empty() {
            return Err(Error::NoDatabase { engine });
        }
        Ok(server)
    }

    /// The URL without a password.
    pub fn url(&self) -> &url::Url {
        &self.url
    }

    /// The password that the text had, or that was put in its place.
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// The user, decoded; none where the URL names none.
    pub fn user(&self) -> Option<String> {
        let user = self.url.username();
        (!user.is_empty()).then(|| decoded(user))
    }

    /// The host, decoded; none where the URL leaves it to a default or to a parameter.
    pub fn host(&self) -> Option<String> {
        let host = self.url.host_str()?;
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        (!host.is_empty()).then(|| decoded(host))
    }

    /// The port; none where the URL leaves it to the default.
    pub fn port(&self) -> Option<u16> {
        self.url.port()
    }

    /// The database, decoded.
    pub fn database(&self) -> String {
        decoded(self.url.path().trim_start_matches('/'))
    }

    /// The last value of the parameter `name`, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.url.query_pairs().filter(|(key, _)| key == name);
        pairs.last().map(|(_, value)| value.into_owned())
    }

    /// The same server with another database, for scratch and staged databases.
    pub fn with_database(&self, name: &str) -> ServerUrl {
        let mut url = self.url.clone();
        url.set_path("/");
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().push(name);
        }
        ServerUrl {
            url,
            password: self.password.clone(),
        }
    }
}

impl ServerUrl {
    /// The same place for another user.
    pub fn with_user(&self, name: &str, password: SecretString) -> ServerUrl {
        let mut url = self.url.clone();
        let other: Vec<(String, String)> = url
            .query_pairs()
            .into_owned()
            .filter(|(key, _)| key != "user")
            .collect();
        url.set_query(None);
        if !other.is_empty() {
            url.query_pairs_mut().extend_pairs(other);
        }
        // A URL without a host has no room for a user but in its parameters.
        if url.set_username(name).is_err() {
            url.query_pairs_mut().append_pair("user", name);
        }
        ServerUrl {
            url,
            password: Some(password),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(password) = self.password().filter(|_| planted::is("secret in Debug")) {
            return write!(f, "ServerUrl({}, {})", self.url, password.expose_secret());
        }
        write!(f, "ServerUrl({})", self.url)
    }
}

/// `text` with its `%XX` read; bytes that are no UTF-8 become replacement characters.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| crate::id::unhex(std::str::from_utf8(digits).ok()?));
        match escaped {
            Some(bytes) => {
                out.extend(bytes);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What the name of a database ends in while it is being made for a rollback.
pub const MAKING: &str = "_part";

/// From this size on it pays to read a table over several connections.
const RANGED_BYTES: u64 = 64 << 20;

/// How long the answer to a question may take while a snapshot is taken.
pub const QUESTION_TIME_MAX: Duration = Duration::from_secs(60);
/// What stands for NULL among the facts.
pub const NULL_ANSWER: &str = "NULL";

/// Something that the source is asked at the snapshot's instant, to be asked again in drills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The fact that the answer becomes.
    pub fact: String,
    /// One SELECT that gives one value.
    pub sql: String,
}

impl Question {
    /// Adds `answer` to the facts of a capture; one that failed is told, and no more.
    pub fn note<E: Display>(
        &self,
        answer: Result<Option<String>, E>,
        facts: &mut BTreeMap<String, String>,
        warnings: &mut Vec<String>,
    ) {
        match answer {
            Ok(answer) => {
                let answer = answer.unwrap_or_else(|| NULL_ANSWER.to_owned());
                facts.insert(self.fact.clone(), answer);
            }
            Err(error) => warnings.push(format!("{} has no answer: {error}", self.fact)),
        }
    }
}

/// What a question has to be.
pub const ONE_VALUE: &str = "a check is one SELECT that gives one row of one column";

/// What is wrong with an answer of `rows` rows of `columns` columns; none where it is one value.
pub fn not_one_value(rows: usize, columns: usize) -> Option<String> {
    match (rows, columns) {
        (0, _) => Some("it gives no row".into()),
        (1, 1) => None,
        (1, columns) => Some(format!("it gives {columns} columns")),
        _ => Some("it gives more than one row".into()),
    }
}

/// What a capture leaves out and how hard it works; one set for all engines.
#[derive(Clone)]
pub struct SourceOptions {
    /// Tables that are not captured at all; patterns as in [`TablePattern`].
    pub exclude_tables: Vec<TablePattern>,
    /// Tables of which only the structure is captured.
    pub exclude_data: Vec<TablePattern>,
    /// How many tables may be read at once, where the engine can (1 or more).
    pub parallel: usize,
    /// Tables of at least so many bytes are read in key ranges, several at once, where the engine
    /// can and `parallel` allows.
    pub ranged_bytes: u64,
    /// The only place to look for PostgreSQL's client tools; none for the usual places.
    pub pg_bin_dir: Option<PathBuf>,
    /// What is asked at the snapshot's instant; what has no answer is told.
    pub questions: Vec<Question>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub random: Arc<dyn Random>,
}

impl Default for SourceOptions {
    /// Everything, two tables at a time, with the machine's clock and randomness.
    fn default() -> Self {
        SourceOptions {
            exclude_tables: Vec::new(),
            exclude_data: Vec::new(),
            parallel: 2,
            ranged_bytes: RANGED_BYTES,
            pg_bin_dir: None,
            questions: Vec::new(),
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
        }
    }
}

impl SourceOptions {
    /// Whether `table` is left out altogether.
    pub fn excludes(&self, table: &TableName) -> bool {
        self.exclude_tables.iter().any(|p| p.matches(table))
    }

    /// Whether the rows of `table` are left out.
    pub fn excludes_data(&self, table: &TableName) -> bool {
        self.exclude_data.iter().any(|p| p.matches(table))
    }
}

/// Owners and rights in a restored database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Leaves every object, and every definer, to the role that restores.
    pub no_owner: bool,
    /// Leaves out every grant.
    pub no_privileges: bool,
    /// Roles that stand for others: (old, new).
    pub role_map: Vec<(String, String)>,
}

/// How much of a database is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    #[default]
    Whole,
    /// What a role without superuser rights may make: no event triggers, publications, comments on
    /// extensions.
    WithoutSuperuser,
}

/// What a target is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aim {
    /// To be used as it is.
    #[default]
    Use,
    /// To take a live database's place: on a server it is made under its name and [`MAKING`], so
    /// that it can be found again, and what would act by itself is made when it has that place.
    Exchange,
}

/// How a target is made; one set for all engines.
#[derive(Clone)]
pub struct TargetOptions {
    /// How many tables may be loaded at once, where the engine can (1 or more).
    pub parallel: usize,
    /// The only place to look for PostgreSQL's client tools; none for the usual places.
    pub pg_bin_dir: Option<PathBuf>,
    /// Whose the restored objects are (PostgreSQL; definers on MySQL).
    pub ownership: Ownership,
    /// How much is made.
    pub extent: Extent,
    /// What it is made for.
    pub aim: Aim,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub random: Arc<dyn Random>,
}

impl Default for TargetOptions {
    /// Two tables at a time, with the machine's clock and randomness.
    fn default() -> Self {
        TargetOptions {
            parallel: 2,
            pg_bin_dir: None,
            ownership: Ownership::default(),
            extent: Extent::default(),
            aim: Aim::Use,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
        }
    }
}

/// A choice of tables: `schema.table` or `table` (in any schema), where `*` stands for any
/// characters and `?` for one. Letters are compared exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern(String);

impl TablePattern {
    /// The pattern that `text` writes down.
    pub fn new(text: impl Into<String>) -> Self {
        TablePattern(text.into())
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `table` is chosen.
    pub fn matches(&self, table: &TableName) -> bool {
        glob(&self.0, &table.to_string()) || glob(&self.0, &table.name)
    }
}

/// Whether all of `text` fits `pattern`; time is at most the product of the lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, seen));
                at += 1;
            }
            Some(&c) if c == '?' || c == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    at = after;
                    seen = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {

    use super::*;

    fn server(text: &str) -> ServerUrl {
        match text.parse().unwrap() {
            SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => server,
            SourceUrl::Sqlite(_) => panic!("{text} became a file"),
        }
    }

    #[test]
    fn password_is_taken_out_of_everything_printed() {
        for text in [
            "postgres://ann:ca%20nary@db.example:5433/Crm?sslmode=require",
            "mysql://ann@db.example/Crm?password=ca%20nary",
            "mariadb://ann:ca%20nary@db.example/Crm",
        ] {
            let url: SourceUrl = text.parse().unwrap();
            assert!(url.has_password());
            let printed = format!("{url} {url:?} {}", url.display());
            assert!(!printed.contains("nary"), "{printed}");
            let server = server(text);
            assert_eq!(server.password().unwrap().expose_secret(), "ca nary");
            assert_eq!(server.user().as_deref(), Some("ann"));
            assert_eq!(server.host().as_deref(), Some("db.example"));
            assert_eq!(server.database(), "Crm");
            assert_eq!(url.default_name().unwrap().as_str(), "crm");
        }
    }

    #[test]
    fn bad_address_is_refused_without_repeating_a_password() {
        for text in [
            "postgres:ann:canary",
            "postgres://ann:canary@/x",
            "ann@canary/x",
            "mysql://ann:canary@h",
        ] {
            let error = text.parse::<SourceUrl>().unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        assert_eq!("sqlite:".parse::<SourceUrl>().unwrap_err(), Error::NoPath);
        assert!(matches!(
            "oracle://x/y".parse::<SourceUrl>(),
            Err(Error::Scheme { .. })
        ));
    }

    #[test]
    fn sqlite_address_is_a_path() {
        for (text, path) in [
            ("sqlite:a b.db", "a b.db"),
            ("sqlite:///x/Y.db", "/x/Y.db"),
            ("sqlite:/x?y#z%20", "/x?y#z%20"),
        ] {
            let url: SourceUrl = text.parse().unwrap();
            assert_eq!(url.sqlite_path(), Some(Path::new(path)));
        }
        let url: SourceUrl = "sqlite:/x/Crm.db".parse().unwrap();
        assert_eq!(url.default_name().unwrap().as_str(), "crm");
        let url: SourceUrl = "sqlite:/x/a b.db".parse().unwrap();
        assert_eq!(url.default_name(), None);
    }

    #[test]
    fn server_url_gives_its_parts_and_another_database() {
        let url = server("postgres://[::1]:5433/a?host=/run/pg&application_name=x");
        assert_eq!(url.host().as_deref(), Some("::1"));
        assert_eq!(url.port(), Some(5433));
        assert_eq!(url.parameter("host").as_deref(), Some("/run/pg"));
        assert_eq!(url.with_database("b/c d").database(), "b/c d");
        assert_eq!(server("postgres:///a?host=/run/pg").host(), None);
    }

    #[test]
    fn pattern_chooses_tables() {
        let table = |schema: Option<&str>, name: &str| TableName {
            schema: schema.map(str::to_owned),
            name: name.into(),
        };
        let sessions = table(Some("public"), "sessions");
        for (pattern, fits) in [
            ("public.sessions", true),
            ("sessions", true),
            ("*.sess*ns", true),
            ("publi?.*", true),
            ("session", false),
            ("other.sessions", false),
            ("Sessions", false),
        ] {
            assert_eq!(
                TablePattern::new(pattern).matches(&sessions),
                fits,
                "{pattern}"
            );
        }
        assert!(TablePattern::new("a*b*c").matches(&table(None, "aXbYbZc")));
        assert!(!TablePattern::new("a*b*c").matches(&table(None, "aXbYbZ")));
    }
}
