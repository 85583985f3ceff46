//! `init` and `backup`: how a database comes under protection.
//!
//! Invariant: of several sources each is tried, each failure told, and the exit code is that of
//! the gravest; the command after a backup runs whatever became of it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::process::Command;

use crate::cli::database::{self, Chosen};
use crate::cli::output::{Style, failure_text};
use crate::cli::render;
use crate::cli::session::{Place, Session, ask_new};
use crate::config::plan::Alarm;
use crate::config::secret::Origin;
use crate::crypto::keyslot::PassphraseCost;
use crate::failure::{AnyFailure, Class};
use crate::format::repository::CHUNK_TARGET_BYTES;
use crate::id::SourceName;
use crate::job::{Opened, Progress, backup, freeze, init, maintain};
use crate::program;
use crate::repo::intent;
use crate::source::open;
use crate::store::Root;
use crate::store::probe::Verdict;

/// How long a command that follows a stopped backup may take.
const AFTER_STOP: Duration = Duration::from_secs(10);
/// Exit codes of failures, the gravest first: that of several sources is the first that is there.
pub const GRAVEST: [u8; 6] = [3, 1, 6, 5, 4, 2];

/// Arguments of `init`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "With --key-file FILE, FILE is made and opens the repository; else a \
    passphrase does, from --passphrase-file or the terminal."
)]
pub struct Init {
    /// Write the recovery sheet to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Let the holder of this age identity open it, instead of a passphrase
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Option<String>,
}

#[derive(Serialize)]
struct InitDocument<'a> {
    repository: String,
    url: &'a str,
    key_file: Option<&'a PathBuf>,
    recovery_file: Option<&'a PathBuf>,
    recovery_sheet: Option<&'a str>,
    storage: Option<&'a Verdict>,
}

/// Runs `init`.
///
/// # Errors
/// Conflict: something stands there; the storage's.
pub async fn init(session: &Session, arguments: &Init) -> Result<u8, AnyFailure> {
    let opening = session.opening(Root::Create)?;
    let cost = PassphraseCost::default();
    let first = match (&arguments.recipient, session.key_place()?) {
        (Some(recipient), _) => init::First::Recipient(recipient.clone()),
        (None, Place::Key(Origin::File(path))) => init::First::KeyFile(path),
        (None, Place::Key(Origin::Command(_))) => {
            return Err(AnyFailure::new(
                Class::Invalid,
                "init makes a key file, and a command cannot take it",
                Some("give --key-file FILE, and hand that to your keeper of secrets".into()),
            ));
        }
        (None, Place::PassphraseIn(origin)) => {
            init::First::Passphrase(origin.read("passphrase")?, cost)
        }
        (None, Place::Passphrase(text)) => init::First::Passphrase(text, cost),
        (None, Place::Nowhere) => init::First::Passphrase(ask_new()?, cost),
    };
    let request = init::Request {
        first,
        chunk_target_bytes: CHUNK_TARGET_BYTES,
        recovery_out: arguments.recovery_out.clone(),
    };
    let state_root = session.state_root();
    let made = init::init(opening, &state_root, request);
    let made = session.stop.or(made).await?;
    let sheet = made.recovery_sheet.as_ref().map(|sheet| sheet.as_str());
    if session.output.is_json() {
        session.output.document(&InitDocument {
            repository: made.repository.to_string(),
            url: &made.url,
            key_file: made.key_file.as_ref(),
            recovery_file: made.recovery_file.as_ref(),
            recovery_sheet: sheet,
            storage: made.verdict.as_ref(),
        })?;
        return Ok(0);
    }
    let mut text = format!("made repository {} at {}\n", made.repository, made.url);
    if let Some(path) = &made.key_file {
        text.push_str(&format!(
            "its key file is {}: keep a copy elsewhere\n",
            path.display()
        ));
    }
    if let Some(path) = &made.recovery_file {
        let path = path.display();
        text.push_str(&format!(
            "its recovery sheet is {path}: print it and remove it here\n"
        ));
    }
    if let Some(verdict) = &made.verdict {
        let lines = verdict.to_string();
        text.push_str("the storage:\n");
        lines
            .lines()
            .for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    session.output.done(&text)?;
    if let Some(sheet) = sheet {
        session.output.text(&format!("\n{sheet}"))?;
    }
    Ok(0)
}

/// Arguments of `backup`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["sources", "all"])))]
pub struct Backup {
    /// Names of the configuration, or URLs: sqlite:PATH, postgres://…, mysql://…
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Every source of the configuration
    #[arg(long)]
    pub all: bool,
    /// Call the source so in the repository [default: the file's stem, the database's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<SourceName>,
    /// Leave out tables that fit this pattern, such as public.log_*; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude_table: Vec<String>,
    /// Store every row anew, and audit what was stored before
    #[arg(long)]
    pub full: bool,
    /// Give the snapshot this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
}

#[derive(Serialize)]
struct BackupDocument {
    snapshots: Vec<TakenDocument>,
}

#[derive(Serialize)]
struct TakenDocument {
    id: String,
    source: String,
    time: String,
    mode: &'static str,
    tables: u64,
    rows: u64,
    rows_put: u64,
    rows_deleted: u64,
    bytes_read: u64,
    bytes_stored: u64,
    chunks_new: u64,
    chunks_reused: u64,
    duration_ms: u64,
}

impl TakenDocument {
    fn new(taken: &backup::Outcome) -> TakenDocument {
        let (record, totals) = (&taken.record, &taken.record.totals);
        TakenDocument {
            id: record.id.to_string(),
            source: taken.source.to_string(),
            time: record.taken_at.rfc3339(),
            mode: record.mode.name(),
            tables: totals.tables,
            rows: totals.rows,
            rows_put: totals.rows_put,
            rows_deleted: totals.rows_deleted,
            bytes_read: totals.bytes_read,
            bytes_stored: totals.bytes_stored,
            chunks_new: totals.chunks_new,
            chunks_reused: totals.chunks_reused,
            duration_ms: taken.duration.as_millis() as u64,
        }
    }
}

/// Runs `backup`. Of several sources each is tried, and each failure told.
///
/// # Errors
/// What speaks against any backup: the arguments, the repository, the key.
pub async fn backup(session: &Session, arguments: &Backup) -> Result<u8, AnyFailure> {
    let chosen = chosen(session, arguments)?;
    let opened = session.stop.or(session.open()).await?;
    let mut document = BackupDocument {
        snapshots: Vec::new(),
    };
    let mut codes = Vec::new();
    let several = chosen.len() > 1;
    for one in &chosen {
        match backup_one(session, &opened, one, arguments).await {
            Ok(taken) => {
                if let Some(config) = one.config {
                    watch_change(session, &opened, config).await;
                }
                if !session.output.is_json() {
                    session.output.done(&taken_text(&taken))?;
                }
                document.snapshots.push(TakenDocument::new(&taken));
            }
            Err(error) if !several => return Err(error),
            Err(error) => {
                let what = format!("source {}: {error}", one.name);
                let error = AnyFailure::new(error.class(), what, error.hint());
                let style = match session.output.is_json() {
                    true => Style::Json,
                    false => Style::Text,
                };
                session.screen.print(&failure_text(&error, style));
                codes.push(error.class().exit_code());
            }
        }
    }
    if session.output.is_json() {
        session.output.document(&document)?;
    }
    Ok(gravest(&codes))
}

/// The exit code of several outcomes.
fn gravest(codes: &[u8]) -> u8 {
    let first = GRAVEST.iter().find(|code| codes.contains(code));
    first.copied().unwrap_or(0)
}

fn chosen<'a>(session: &'a Session, arguments: &Backup) -> Result<Vec<Chosen<'a>>, AnyFailure> {
    let texts: Vec<&str> = match arguments.all {
        true => session
            .config
            .sources
            .iter()
            .map(|one| one.name.as_str())
            .collect(),
        false => arguments.sources.iter().map(String::as_str).collect(),
    };
    let invalid =
        |what: &str, hint: &str| Err(AnyFailure::new(Class::Invalid, what, Some(hint.into())));
    if texts.is_empty() {
        return invalid(
            "the configuration has no source",
            "write a [[source]] into it, or name a database by its URL",
        );
    }
    if arguments.name.is_some() && texts.len() > 1 {
        return invalid(
            "--name names one source, and several are given",
            "name one database",
        );
    }
    let mut chosen: Vec<Chosen<'a>> = Vec::new();
    for text in texts {
        let one = database::source(session, text, arguments.name.as_ref())?;
        if chosen.iter().any(|other| other.name == one.name) {
            let what = format!("two of the sources would be called {}", one.name);
            return invalid(&what, "back one of them up by itself, with --name");
        }
        chosen.push(one);
    }
    Ok(chosen)
}

/// Compares the newest snapshot of a source with those before it. What is unusual is told, pins the
/// snapshot before, and freezes the source, as far as the configuration wants it.
pub async fn watch_change(
    session: &Session,
    opened: &Opened,
    config: &crate::config::Source,
) -> Option<freeze::Alarm> {
    if config.plan.alarm == Alarm::Off {
        return None;
    }
    let looked = look(opened, config).await;
    let alarm = looked.unwrap_or_else(|error| {
        tracing::warn!(
            "{}: whether it is as usual is not known: {error}",
            config.name
        );
        None
    })?;
    session.screen.warn(&format!(
        "unusual change of {}: {}",
        config.name,
        alarm.reason()
    ));
    for command in alarm.remedies() {
        session
            .screen
            .warn(&format!("what it would bring back: {command}"));
    }
    Some(alarm)
}

async fn look(
    opened: &Opened,
    config: &crate::config::Source,
) -> Result<Option<freeze::Alarm>, AnyFailure> {
    let request = freeze::Request {
        name: config.name.clone(),
        zone: config.timezone,
        floor: config.plan.floor,
    };
    let Some(alarm) = freeze::look(opened, &request).await? else {
        return Ok(None);
    };
    if config.plan.alarm == Alarm::Freeze {
        let reason = alarm.reason();
        maintain::pin(opened, &alarm.quiet, &format!("before {reason}"), None).await?;
        freeze::freeze(opened, &config.name, reason).await?;
    }
    Ok(Some(alarm))
}

/// Takes a snapshot of a source of the configuration, with its commands before and after.
///
/// # Errors
/// As [`backup`].
pub async fn backup_configured(
    session: &Session,
    opened: &Opened,
    name: &SourceName,
) -> Result<backup::Outcome, AnyFailure> {
    let chosen = database::source(session, name.as_str(), None)?;
    let arguments = Backup {
        sources: vec![name.to_string()],
        all: false,
        name: None,
        exclude_table: Vec::new(),
        full: false,
        tag: Vec::new(),
    };
    backup_one(session, opened, &chosen, &arguments).await
}

async fn backup_one(
    session: &Session,
    opened: &Opened,
    chosen: &Chosen<'_>,
    arguments: &Backup,
) -> Result<backup::Outcome, AnyFailure> {
    let (before, after) = match chosen.config {
        Some(config) => (&config.before[..], &config.after[..]),
        None => (&[][..], &[][..]),
    };
    let started = session.stop.or(run_command("before", before, chosen)).await;
    let taken = match started {
        Ok(()) => take(session, opened, chosen, arguments).await,
        Err(error) => Err(error),
    };
    let ended = tokio::select! {
        ended = run_command("after", after, chosen) => ended,
        stopped = patience(session) => Err(stopped),
    };
    match (taken, ended) {
        (Ok(taken), Err(error)) => Err(AnyFailure::new(
            error.class(),
            format!(
                "snapshot {} was taken, but {error}",
                taken.record.id.short()
            ),
            error.hint(),
        )),
        (taken, _) => taken,
    }
}

/// The wish to stop, with some time for a command that puts things back.
async fn patience(session: &Session) -> AnyFailure {
    let stopped = session.stop.wait().await;
    tokio::time::sleep(AFTER_STOP).await;
    stopped
}

async fn take(
    session: &Session,
    opened: &Opened,
    chosen: &Chosen<'_>,
    arguments: &Backup,
) -> Result<backup::Outcome, AnyFailure> {
    let options = chosen.options(session, &arguments.exclude_table);
    let mut source = open::source(&chosen.url, &options)?;
    let mut tags = arguments.tag.clone();
    tags.extend(chosen.config.iter().flat_map(|config| config.tags.clone()));
    tags.sort();
    tags.dedup();
    let request = backup::Request {
        name: chosen.name.clone(),
        tags,
        lasting: backup::LASTING,
        reading: match arguments.full {
            true => backup::Reading::All,
            false => backup::Reading::Changes,
        },
    };
    let work = backup::run(opened, source.as_mut(), &request);
    let taken = tokio::select! {
        taken = work => taken,
        stopped = session.stop.wait() => Err(stopped),
    };
    session.screen.end();
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            // A backup that was dropped could not take its intent away itself.
            let _ = intent::withdraw_ours(&opened.vault, &opened.whoami).await;
            return Err(error);
        }
    };
    for warning in &taken.warnings {
        tracing::warn!("{}: {warning}", chosen.name);
    }
    tracing::info!(
        "ledger of {} is at entry {}, {}",
        taken.source,
        taken.head.number,
        taken.head.hash
    );
    Ok(taken)
}

/// Runs a command of the configuration; its output goes to stderr.
async fn run_command(when: &str, words: &[String], chosen: &Chosen<'_>) -> Result<(), AnyFailure> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    let failed = |why: String| {
        AnyFailure::new(
            Class::Transient,
            format!(
                "the command {when} the backup of {} failed: {program} {why}",
                chosen.name
            ),
            Some(format!(
                "see what it says, or change {when} in the configuration"
            )),
        )
    };
    let status = Command::from(program::named(program))
        .args(arguments)
        .env("ROWVAULT_SOURCE", chosen.name.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| failed(error.to_string()))?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("ended with {status}"))),
    }
}

fn taken_text(taken: &backup::Outcome) -> String {
    let (record, totals) = (&taken.record, &taken.record.totals);
    format!(
        "{}: snapshot {} of {} UTC ({})\n  {}, {}; read {}, stored {}; {} new, {} reused; {}\n  \
         ledger entry {}, {}\n",
        taken.source,
        record.id.short(),
        render::time(record.taken_at),
        record.mode.name(),
        render::counted(totals.tables, "table"),
        render::counted(totals.rows, "row"),
        render::size(totals.bytes_read),
        render::size(totals.bytes_stored),
        render::counted(totals.chunks_new, "chunk"),
        render::count(totals.chunks_reused),
        render::duration(taken.duration),
        taken.head.number,
        taken.head.hash,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_of_several_sources_is_the_gravest() {
        for (codes, code) in [
            (&[][..], 0),
            (&[4, 5, 3, 1], 3),
            (&[5, 6, 1], 1),
            (&[4, 5, 6], 6),
            (&[2, 4], 4),
            (&[2], 2),
        ] {
            assert_eq!(gravest(codes), code);
        }
    }
}
