//! The configuration file: TOML in, plain requests out.
//!
//! Whatever stands here is a flag too or has a default, and nothing else is known: a key with a
//! typing mistake is refused with its line and the nearest name. `${NAME}` in a value stands for
//! that variable of the environment. Invariant: no secret of the file is ever printed, and a file
//! with a password in it that others may read is refused.

pub mod drill;
pub mod http;
pub mod keys;
pub mod notify;
pub mod plan;
mod reading;
pub mod relations;
pub mod repository;
pub mod secret;
pub mod token;
pub mod traffic;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use chrono_tz::Tz;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::failure::{AnyFailure, Failure};
use crate::id::SourceName;
use crate::retention::Policy;
use crate::source::address::{SourceOptions, SourceUrl, TablePattern};
pub use reading::{Environment, Error};

use http::{Http, HttpText};
use notify::{Notify, NotifyText};
use plan::{Daemon, DaemonText, SourcePlan};
use reading::{Reading, words};
use repository::{Repository, RepositoryText};
use secret::Origin;

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most tables that may be read at once.
const PARALLEL_MAX: usize = 64;

/// What a configuration file says.
#[derive(Debug, Default)]
pub struct Config {
    /// The repository.
    pub repository: Repository,
    /// The sources, in the file's order.
    pub sources: Vec<Source>,
    /// What the daemon does by itself.
    pub daemon: Daemon,
    /// Who hears of what.
    pub notify: Notify,
    /// How the daemon answers requests.
    pub http: Option<Http>,
    /// The only place to look for PostgreSQL's programs; none for the usual places.
    pub pg_bin_dir: Option<PathBuf>,
}

/// A database to protect.
#[derive(Debug)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// Its address, with its password where that stands in the URL.
    pub url: SourceUrl,
    /// Where its password is, where not in the URL.
    pub password: Option<Origin>,
    /// The zone of its days.
    pub timezone: Tz,
    /// Tables that are left out.
    pub exclude_tables: Vec<TablePattern>,
    /// Tables of which only the structure is captured.
    pub exclude_data: Vec<TablePattern>,
    /// How many tables are read at once.
    pub parallel: usize,
    /// A command before the backup, as words.
    pub before: Vec<String>,
    /// A command after it, as words; it runs after a failure too.
    pub after: Vec<String>,
    /// Tags of every snapshot.
    pub tags: Vec<String>,
    /// Which of its snapshots are kept; none where nothing is said.
    pub keep: Option<Policy>,
    /// Relations that the database does not declare.
    pub relations: relations::Own,
    /// When it is drilled, and what is expected then.
    pub drill: drill::Drill,
    /// When what is done to it.
    pub plan: SourcePlan,
}

impl Source {
    /// The address with its password.
    ///
    /// # Errors
    /// Those of the password's file or command.
    pub fn address(&self) -> Result<SourceUrl, AnyFailure> {
        let mut url = self.url.clone();
        if let Some(origin) = &self.password {
            url.set_password(origin.read("password")?);
        }
        Ok(url)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    repository: RepositoryText,
    #[serde(default)]
    source: Vec<SourceText>,
    #[serde(default)]
    daemon: DaemonText,
    #[serde(default)]
    notify: NotifyText,
    #[serde(default)]
    http: HttpText,
    #[serde(default)]
    tools: ToolsText,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolsText {
    pg_bin_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceText {
    name: Option<String>,
    url: String,
    password_file: Option<String>,
    password_command: Option<Vec<String>>,
    timezone: Option<String>,
    #[serde(default)]
    exclude_tables: Vec<String>,
    #[serde(default)]
    exclude_data: Vec<String>,
    parallel: Option<usize>,
    #[serde(default)]
    before: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    keep: Option<KeepText>,
    drill: Option<drill::DrillText>,
    #[serde(default)]
    check: Vec<drill::CheckText>,
    #[serde(default, deserialize_with = "drill::one_or_many")]
    canary: Vec<drill::CanaryText>,
    schedule: Option<String>,
    jitter: Option<String>,
    deadline: Option<String>,
    verify: Option<plan::VerifyText>,
    alarm: Option<plan::AlarmText>,
    alarm_rows: Option<u64>,
    alarm_percent: Option<f64>,
    relations: Option<String>,
    #[serde(default)]
    relation: Vec<relations::RuleText>,
    #[serde(default)]
    soft_deletion: Vec<relations::RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepText {
    #[serde(default)]
    last: u32,
    #[serde(default)]
    hourly: u32,
    #[serde(default)]
    daily: u32,
    #[serde(default)]
    weekly: u32,
    #[serde(default)]
    monthly: u32,
    #[serde(default)]
    yearly: u32,
    within: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

/// Reads the configuration in `path`.
///
/// # Errors
/// [`Error`]: unreadable, a key that is not known, a value that cannot be meant, a password in a
/// file that others may read.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Config, Error> {
    let refused = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = File::open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(refused)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(std::io::ErrorKind::FileTooLarge.into()));
    }
    let config = parse(path, &text, environment)?;
    if config.sources.iter().any(|(_, secret)| *secret) {
        secret::check_mode("password", path, &metadata)?;
    }
    Ok(Config {
        repository: config.repository,
        sources: config.sources.into_iter().map(|(one, _)| one).collect(),
        daemon: config.daemon,
        notify: config.notify,
        http: config.http,
        pg_bin_dir: config.pg_bin_dir,
    })
}

/// Every key that a file may have.
pub fn keys() -> Vec<keys::Key> {
    keys::of::<FileText>()
}

struct Parsed {
    repository: Repository,
    /// Each source, and whether its password stands in the file itself.
    sources: Vec<(Source, bool)>,
    daemon: Daemon,
    notify: Notify,
    http: Option<Http>,
    pg_bin_dir: Option<PathBuf>,
}

fn parse(path: &Path, text: &str, environment: Environment<'_>) -> Result<Parsed, Error> {
    let file: FileText = toml::from_str(text).map_err(|error| refusal(path, text, &error))?;
    let reading = Reading { path, environment };
    let daemon = reading.daemon(file.daemon)?;
    let mut sources: Vec<(Source, bool)> = Vec::new();
    for (at, source) in file.source.into_iter().enumerate() {
        let place = format!("source {}", at + 1);
        let (source, secret) = reading.source(&place, source, &daemon)?;
        if sources.iter().any(|(other, _)| other.name == source.name) {
            let what = format!("there is another source {}", source.name);
            return Err(reading.wrong(&place, what, Some("name each once".into())));
        }
        sources.push((source, secret));
    }
    Ok(Parsed {
        repository: reading.repository(file.repository)?,
        sources,
        daemon,
        notify: reading.notify(file.notify)?,
        http: reading.http_face(file.http)?,
        pg_bin_dir: reading.tools(file.tools)?,
    })
}

/// What the parser says, with the line, and the nearest name for one that is not known. The line
/// itself is not shown: it may hold a password.
fn refusal(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.as_bytes().iter().take(start);
    let line = 1 + before.filter(|&&byte| byte == b'\n').count();
    let message = error.message();
    // Serde's words: unknown field `nmae`, expected one of `name`, `url`
    let mut names = message.split('`').skip(1).step_by(2);
    let (what, hint) = match names.next() {
        Some(unknown) if message.starts_with("unknown field") => {
            let known: Vec<&str> = names.collect();
            (
                format!("there is no key {unknown:?} here"),
                nearest(unknown, &known),
            )
        }
        _ => (message.replace('\n', "; "), None),
    };
    Error::Line {
        path: path.to_owned(),
        line,
        what,
        hint,
    }
}

fn nearest(unknown: &str, known: &[&str]) -> Option<String> {
    let best = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    let mut elsewhere = keys::tables_with(&keys(), unknown);
    elsewhere.sort_by_key(|table| table.matches('.').count());
    Some(match best {
        _ if !elsewhere.is_empty() => format!("it belongs under {}", elsewhere.join(" or ")),
        (alike, name) if alike >= 0.5 => format!("did you mean {name}?"),
        _ => format!("there is {}", known.join(", ")),
    })
}

impl Reading<'_> {
    fn source(
        &self,
        place: &str,
        text: SourceText,
        daemon: &Daemon,
    ) -> Result<(Source, bool), Error> {
        let secret = text.url.parse().is_ok_and(|url| has_own_password(&url));
        let url = self.source_url(&format!("{place}: url"), &text.url)?;
        let name = self.name(place, text.name, &url)?;
        let place = &format!("source {name}");
        let patterns = |what: &str, texts: Vec<String>| -> Result<Vec<TablePattern>, Error> {
            let texts = self.all(&format!("{place}: {what}"), texts)?;
            Ok(texts.into_iter().map(TablePattern::new).collect())
        };
        if text.parallel.is_some_and(|n| n == 0 || n > PARALLEL_MAX) {
            let what = format!("parallel must be 1 to {PARALLEL_MAX}");
            return Err(self.wrong(place, what, None));
        }
        let timezone = self.zone(place, text.timezone, daemon.timezone)?;
        let drill = drill::read(
            text.drill,
            text.check,
            text.canary,
            &|key, text| self.span(&format!("{place}: drill"), key, text),
            &|what, hint| self.wrong(place, what, Some(hint.into())),
        )?;
        let plan = self.plan(
            place,
            plan::SourceText {
                schedule: text.schedule,
                jitter: text.jitter,
                deadline: text.deadline,
                verify: text.verify,
                drill: drill.schedule.clone(),
                alarm: (text.alarm, text.alarm_rows, text.alarm_percent),
            },
            (daemon, timezone),
        )?;
        let source = Source {
            password: self.secret(
                place,
                "password",
                (text.password_file, text.password_command),
            )?,
            timezone,
            plan,
            exclude_tables: patterns("exclude_tables", text.exclude_tables)?,
            exclude_data: patterns("exclude_data", text.exclude_data)?,
            parallel: text
                .parallel
                .unwrap_or_else(|| SourceOptions::default().parallel),
            before: words(self.all(&format!("{place}: before"), text.before)?),
            after: words(self.all(&format!("{place}: after"), text.after)?),
            tags: self.all(&format!("{place}: tags"), text.tags)?,
            keep: text.keep.map(|keep| self.keep(place, keep)).transpose()?,
            drill,
            relations: relations::own(text.relations, text.relation, text.soft_deletion)
                .map_err(|what| self.wrong(place, what, Some(relations::RULE_HINT.into())))?,
            name,
            url,
        };
        Ok((source, secret))
    }

    fn source_url(&self, place: &str, text: &str) -> Result<SourceUrl, Error> {
        let url: SourceUrl =
            self.expand(place, text)?
                .parse()
                .map_err(|error: crate::source::address::Error| {
                    self.wrong(place, error.to_string(), error.hint())
                })?;
        Ok(match url {
            SourceUrl::Sqlite(path) => SourceUrl::Sqlite(self.beside(&path)),
            server => server,
        })
    }

    fn tools(&self, text: ToolsText) -> Result<Option<PathBuf>, Error> {
        let place = "tools: pg_bin_dir";
        let directory = text.pg_bin_dir.map(|text| self.expand(place, &text));
        Ok(directory
            .transpose()?
            .map(|path| self.beside(Path::new(&path))))
    }

    fn keep(&self, place: &str, text: KeepText) -> Result<Policy, Error> {
        let place = &format!("{place}: keep");
        let policy = Policy {
            last: text.last,
            hourly: text.hourly,
            daily: text.daily,
            weekly: text.weekly,
            monthly: text.monthly,
            yearly: text.yearly,
            within: text
                .within
                .map(|text| self.span(place, "within", &text))
                .transpose()?,
            tags: self.all(place, text.tags)?,
        };
        match policy.is_empty() {
            false => Ok(policy),
            true => Err(self.wrong(
                place,
                "it keeps nothing".into(),
                Some("say what to keep, such as keep = { daily = 14 }".into()),
            )),
        }
    }

    fn name(
        &self,
        place: &str,
        text: Option<String>,
        url: &SourceUrl,
    ) -> Result<SourceName, Error> {
        let Some(text) = self.text(place, text)? else {
            return url.default_name().ok_or_else(|| {
                let what = "the database's name cannot be the source's".to_owned();
                self.wrong(place, what, Some("give it a name".into()))
            });
        };
        text.parse().map_err(|error: crate::id::Error| {
            let hint = error.hint();
            self.wrong(place, error.to_string(), hint)
        })
    }
}

/// Whether a password stands in the text of the URL, not in a variable that it names.
fn has_own_password(url: &SourceUrl) -> bool {
    let own = |password: &SecretString| !password.expose_secret().starts_with("${");
    match url {
        SourceUrl::Sqlite(_) => false,
        SourceUrl::Postgres(server) | SourceUrl::Mysql(server) => {
            server.password().is_some_and(own)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Class;
    use crate::store::Addressing;

    fn read(text: &str) -> Result<Parsed, Error> {
        let variables = |name: &str| (name == "DB_PASSWORD").then(|| "hunter2".to_owned());
        parse(Path::new("/etc/rowvault/rowvault.toml"), text, &variables)
    }

    fn refused(text: &str) -> Error {
        read(text).err().expect("this text must be refused")
    }

    #[test]
    fn everything_is_read_and_paths_start_at_the_file() {
        let Ok(parsed) = read(
            r#"
            [repository]
            url = "../repo"
            key_file = "key.txt"
            [repository.s3]
            addressing = "virtual-host"
            [[source]]
            name = "crm"
            url = "postgres://backup:${DB_PASSWORD}@db.example/crm"
            timezone = "Europe/Warsaw"
            exclude_tables = ["public.sessions"]
            before = ["/usr/local/bin/crm-maintenance on"]
            after = ["/bin/echo", "all done"]
            parallel = 4
            keep = { daily = 14, weekly = 8, within = "36h", tags = ["audit"] }
            [[source]]
            url = "sqlite:shop.db"
            "#,
        ) else {
            panic!("the text is good");
        };
        let repository = &parsed.repository;
        assert_eq!(repository.url.as_deref(), Some("/etc/rowvault/../repo"));
        assert_eq!(
            repository.key,
            Some(Origin::File("/etc/rowvault/key.txt".into()))
        );
        assert_eq!(repository.s3.addressing, Addressing::VirtualHost);
        let (crm, secret) = &parsed.sources[0];
        assert!(!secret, "the password stands in the environment");
        assert!(crm.url.has_password());
        assert_eq!(crm.timezone, chrono_tz::Europe::Warsaw);
        assert_eq!(crm.before, ["/usr/local/bin/crm-maintenance", "on"]);
        assert_eq!(crm.after, ["/bin/echo", "all done"]);
        let keep = Policy {
            daily: 14,
            weekly: 8,
            within: Some(Duration::from_secs(36 * 3600)),
            tags: vec!["audit".into()],
            ..Policy::default()
        };
        assert_eq!(crm.keep, Some(keep));
        let (shop, _) = &parsed.sources[1];
        assert_eq!(shop.name.as_str(), "shop");
        assert_eq!(shop.url.display(), "sqlite:/etc/rowvault/shop.db");
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_name() {
        let error =
            refused("[repository]\nurl = \"x\"\n\n[[source]]\nurl = \"sqlite:a\"\nnmae = \"b\"\n");
        assert_eq!(
            error.to_string(),
            "/etc/rowvault/rowvault.toml, line 6: there is no key \"nmae\" here"
        );
        assert_eq!(error.hint().as_deref(), Some("did you mean name?"));
        let error = refused("[daemon]\nschedule = \"@daily\"\n");
        let hint = error.hint().expect("the table that has it is named");
        assert!(hint.starts_with("it belongs under [[source]] or"), "{hint}");
        let error = refused("[repositry]\nurl = \"x\"\n");
        assert_eq!(error.hint().as_deref(), Some("did you mean repository?"));
    }

    #[test]
    fn values_that_cannot_be_meant_are_refused() {
        for (text, word) in [
            ("[[source]]\nurl = \"oracle://x/y\"", "oracle"),
            ("[[source]]\nurl = \"sqlite:\"", "no file"),
            (
                "[[source]]\nurl = \"sqlite:a\"\nname = \"Big Name\"",
                "source name",
            ),
            (
                "[[source]]\nurl = \"sqlite:a\"\ntimezone = \"Mars\"",
                "time zone",
            ),
            ("[[source]]\nurl = \"sqlite:a\"\nparallel = 0", "parallel"),
            ("[[source]]\nurl = \"sqlite:${NOT_SET}\"", "NOT_SET"),
            ("[[source]]\nurl = \"sqlite:${NOT\"", "has no }"),
            (
                "[[source]]\nurl = \"sqlite:a\"\n[[source]]\nurl = \"sqlite:b/a\"",
                "another source a",
            ),
            (
                "[repository]\npassphrase_file = \"a\"\nkey_file = \"b\"",
                "both",
            ),
            (
                "[repository]\nkey_command = [\"a\"]\nkey_file = \"b\"",
                "key_file and key_command are both",
            ),
            (
                "[[source]]\nurl = \"sqlite:a\"\npassword_command = []",
                "has no words",
            ),
            ("[[source]]\nname = \"a\"", "url"),
            ("[[source]]\nurl = \"sqlite:a\"\nkeep = {}", "keeps nothing"),
            (
                "[[source]]\nurl = \"sqlite:a\"\nkeep = { dayly = 3 }",
                "dayly",
            ),
            (
                "[[source]]\nurl = \"sqlite:a\"\nkeep = { within = \"long\" }",
                "no span of time",
            ),
            ("[repository]\nlock = \"3000y\"", "10 years"),
            ("[repository]\nlock = \"1h\"", "1 day"),
            ("[repository\n", "line 1"),
            ("url = 3", "url"),
        ] {
            let error = refused(text);
            assert!(error.to_string().contains(word), "{text:?}: {error}");
            assert_eq!(error.class(), Class::Invalid);
        }
    }

    #[test]
    fn password_in_a_file_that_others_may_read_is_refused_and_never_shown() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let none = |_: &str| None;
        for (url, mode, good) in [
            ("postgres://u:hunter2@h/d", 0o644, false),
            ("postgres://u:hunter2@h/d", 0o600, true),
            ("postgres://u@h/d", 0o644, true),
        ] {
            std::fs::write(file.path(), format!("[[source]]\nurl = \"{url}\"\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), mode).unwrap();
            let loaded = load(file.path(), &none);
            assert_eq!(loaded.is_ok(), good, "{url}");
            if let Err(error) = loaded {
                assert!(!format!("{error} {error:?}").contains("hunter2"));
            }
        }
        let error = refused("[[source]]\nurl = \"postgres://u:hunter2@h\"\n");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = refused("[[source]]\nurl = \"postgres://u:hunter2@h/d\n");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
