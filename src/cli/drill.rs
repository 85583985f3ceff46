//! `drill`: a rehearsed restore, told in words, as JSON and as a page to print.
//!
//! Invariant: the exit code is 0 only where everything that was expected was found; the report is
//! written for a drill that failed too.

mod chart;
mod page;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::{NamedTempFile, TempDir};

use crate::cli::database;
use crate::cli::render::{self, Side};
use crate::cli::session::{Session, read_key_file};
use crate::document::PastDocument;
use crate::failure::{AnyFailure, Class};
use crate::format::keyslot::text::KeyFile;
use crate::id::SourceName;
use crate::job::drill::{self, Choice, Expected, Outcome, Past, Request};
use crate::job::{Context, Opened, Progress};
use crate::random::draw;
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::intent;
use crate::repo::keys::Unlock;
use crate::source::address::Ownership;
use crate::source::scratch::room;
use crate::store::{Root, StoreOptions};

/// How many drills of the past the page and the list for people show.
const PAST_SHOWN: usize = 20;

/// Arguments of `drill`.
#[derive(Args, Clone, Debug)]
pub struct Drill {
    /// The source, by its name in the repository
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// Which snapshot: an id, SOURCE@2026-11-20, or random [default: the newest]
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// Where to: a new file, or a server on which a database may be made for the while [default: a
    /// temporary file, or a temporary server of this host's programs]
    #[arg(long, value_name = "URL")]
    pub scratch: Option<String>,
    /// Begin with nothing but this recovery sheet and the repository's address
    #[arg(long, value_name = "FILE")]
    pub from_recovery: Option<PathBuf>,
    /// Write a page to print, and its figures as JSON beside it
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// How many tables are loaded at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// Only list the drills of the past
    #[arg(long, conflicts_with_all = ["snapshot", "scratch", "report", "jobs"])]
    pub history: bool,
}

#[derive(Serialize)]
struct DrillDocument {
    ok: bool,
    source: String,
    snapshot: String,
    time: String,
    snapshot_time: String,
    place: String,
    from_recovery: bool,
    rto_ms: u64,
    rpo_ms: u64,
    phases: Map<String, Value>,
    tables: u64,
    rows: u64,
    bytes: u64,
    bytes_fetched: u64,
    bytes_scratch: Option<u64>,
    checks: Vec<CheckDocument>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct CheckDocument {
    name: String,
    ok: bool,
    detail: String,
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn document(outcome: &Outcome) -> DrillDocument {
    let phase = |(name, spent): (&str, Duration)| (format!("{name}_ms"), millis(spent).into());
    let check = |check: &drill::Checked| CheckDocument {
        name: check.name.clone(),
        ok: check.ok,
        detail: check.detail.clone(),
    };
    DrillDocument {
        ok: outcome.is_ok(),
        source: outcome.snapshot.source.to_string(),
        snapshot: outcome.snapshot.record.id.to_string(),
        time: outcome.began_at.rfc3339(),
        snapshot_time: outcome.snapshot.record.taken_at.rfc3339(),
        place: outcome.place.clone(),
        from_recovery: outcome.from_recovery,
        rto_ms: millis(outcome.rto()),
        rpo_ms: millis(outcome.rpo),
        phases: outcome.phases().into_iter().map(phase).collect(),
        tables: outcome.tables,
        rows: outcome.rows,
        bytes: outcome.bytes,
        bytes_fetched: outcome.bytes_fetched,
        bytes_scratch: outcome.bytes_scratch,
        checks: outcome.checks.iter().map(check).collect(),
        warnings: outcome.warnings.clone(),
    }
}

/// Runs `drill`.
///
/// # Errors
/// Denied with a writer's key; Missing: no such source or snapshot, no scratch server; what keeps
/// the report from being written. A drill that finds less than was expected is told, and is no
/// error: the exit code says it.
pub async fn drill(session: &Session, arguments: &Drill) -> Result<u8, AnyFailure> {
    let (began, began_at) = (session.clock.elapsed(), session.clock.now());
    let report = arguments.report.as_deref().map(Report::begin).transpose()?;
    let (opened, _state) = session.stop.or(open(session, arguments)).await?;
    let catalog = session.stop.or(opened.catalog()).await?;
    if arguments.history {
        return history(session, &drill::past(catalog.source(&arguments.source)?));
    }
    let (snapshot, choice) = choose(session, &catalog, arguments)?;
    let scratch = arguments.scratch.as_deref();
    let scratch = scratch.map(|text| database::target(session, text));
    let scratch = scratch.transpose()?;
    let mut sources = session.config.sources.iter();
    let config = sources.find(|source| source.name == arguments.source);
    let expected = config.map(|source| source.drill.expected.clone());
    let expected: Expected = expected.unwrap_or_default();
    let parallel = arguments.jobs.map(usize::from);
    let request = Request {
        snapshot,
        choice,
        scratch: scratch.as_ref(),
        options: database::target_options(session, parallel, Ownership::default()),
        expected: &expected,
        began,
        began_at,
        from_recovery: arguments.from_recovery.is_some(),
    };
    let drilled = drill::run(&opened, &request, session.stop.wait()).await;
    session.screen.end();
    if drilled.is_err() {
        // A drill that was stopped early could not take its intent away itself.
        let _ = intent::withdraw_ours(&opened.vault, &opened.whoami).await;
    }
    let outcome = drilled?;
    let document = document(&outcome);
    if let Some(report) = report {
        let mut past = drill::past(opened.catalog().await?.source(&arguments.source)?);
        past.drain(..past.len().saturating_sub(PAST_SHOWN));
        report.write(&page::page(&outcome, &expected, &past), &document)?;
    }
    for warning in &outcome.warnings {
        tracing::warn!("{warning}");
    }
    match session.output.is_json() {
        true => session.output.document(&document)?,
        false => tell(session, arguments, &outcome)?,
    }
    Ok(outcome.class().map_or(0, Class::exit_code))
}

/// The repository, and what must live as long: with a recovery sheet, an empty state directory.
async fn open(
    session: &Session,
    arguments: &Drill,
) -> Result<(Opened, Option<TempDir>), AnyFailure> {
    let Some(sheet) = &arguments.from_recovery else {
        return Ok((session.open().await?, None));
    };
    let key = read_key_file(sheet)?;
    if !matches!(key, KeyFile::Slot(_)) {
        return Err(AnyFailure::new(
            Class::Invalid,
            format!("{} is no recovery sheet", sheet.display()),
            Some("'rowvault key recovery --out FILE' makes one".into()),
        ));
    }
    let state = room::make().map_err(crate::repo::value::Error::from)?;
    let context = Context {
        repository: session.repository()?,
        // Whoever recovers has no configuration either: only what every storage needs.
        store: StoreOptions {
            root: Root::MustExist,
            ..StoreOptions::default()
        },
        unlock: Unlock::KeyFile(key),
        state_root: state.path().to_owned(),
        clock: session.clock.clone(),
        random: session.random.clone(),
        progress: Arc::new(session.screen.clone()),
    };
    Ok((context.open().await?, Some(state)))
}

fn choose<'a>(
    session: &Session,
    catalog: &'a Catalog,
    arguments: &Drill,
) -> Result<(&'a Snapshot, Choice), AnyFailure> {
    let source = &arguments.source;
    let snapshot = match arguments.snapshot.as_deref() {
        None => return Ok((catalog.at(source, None)?, Choice::Newest)),
        Some("random") => {
            let newest = catalog.at(source, None)?;
            let all = &catalog.source(source)?.snapshots;
            let drawn = u64::from_le_bytes(draw(session.random.as_ref()));
            let at = drawn % (all.len() as u64).max(1);
            all.get(at as usize).unwrap_or(newest)
        }
        Some("latest") => return Ok((catalog.at(source, None)?, Choice::Newest)),
        Some(text) => session.snapshot(catalog, text)?,
    };
    if snapshot.source != *source {
        return Err(AnyFailure::new(
            Class::Invalid,
            format!(
                "snapshot {} is of {}, not of {source}",
                snapshot.record.id.short(),
                snapshot.source
            ),
            Some(format!("'rowvault snapshots {source}' lists its own")),
        ));
    }
    Ok((snapshot, Choice::Given))
}

fn tell(session: &Session, arguments: &Drill, outcome: &Outcome) -> Result<(), AnyFailure> {
    let snapshot = &outcome.snapshot;
    let verdict = match outcome.is_ok() {
        true => "everything that was expected was found",
        false => "NOT as expected",
    };
    let mut text = format!(
        "drilled snapshot {} of {}: {verdict}\n  {}, {} into {}\n",
        snapshot.record.id.short(),
        snapshot.source,
        render::counted(outcome.tables, "table"),
        render::counted(outcome.rows, "row"),
        render::plain(&outcome.place),
    );
    let phases: Vec<String> = outcome
        .phases()
        .iter()
        .map(|(name, spent)| format!("{} {}", name.replace('_', " "), render::duration(*spent)))
        .collect();
    text.push_str(&format!(
        "  RTO {} ({})\n  RPO {}: the snapshot is of {} UTC\n",
        render::duration(outcome.rto()),
        phases.join(", "),
        render::duration(outcome.rpo),
        render::time(snapshot.record.taken_at),
    ));
    for check in &outcome.checks {
        let word = if check.ok { "ok" } else { "FAILED" };
        let (name, detail) = (render::plain(&check.name), render::plain(&check.detail));
        text.push_str(&format!("{word:<6} {name}: {detail}\n"));
    }
    if let Some(path) = &arguments.report {
        text.push_str(&format!("report: {}\n", path.display()));
    }
    match outcome.is_ok() {
        true => session.output.done(&text),
        false => session.output.text(&text),
    }
}

/// The two files of a report, begun before the drill, so that a place that cannot be written is
/// known before the work is done.
struct Report {
    page: (PathBuf, NamedTempFile),
    figures: (PathBuf, NamedTempFile),
}

impl Report {
    fn begin(path: &Path) -> Result<Report, AnyFailure> {
        let begin = |path: PathBuf| {
            let directory = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let file = NamedTempFile::new_in(directory).map_err(|error| unwritable(&path, &error));
            file.map(|file| (path, file))
        };
        if path.extension().is_none_or(|ending| ending == "json") {
            return Err(AnyFailure::new(
                Class::Invalid,
                format!("{} is no name for a page", path.display()),
                Some("name it FILE.html; FILE.json is written beside it".into()),
            ));
        }
        Ok(Report {
            page: begin(path.to_owned())?,
            figures: begin(path.with_extension("json"))?,
        })
    }

    fn write(self, page: &str, document: &DrillDocument) -> Result<(), AnyFailure> {
        let figures = serde_json::to_string_pretty(document).expect("outcomes are plain data");
        let files = [(self.page, page), (self.figures, figures.as_str())];
        for ((path, mut file), text) in files {
            let written = file.write_all(text.as_bytes());
            let kept = written.and_then(|()| file.persist(&path).map_err(|e| e.error));
            kept.map_err(|error| unwritable(&path, &error))?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> AnyFailure {
    AnyFailure::new(
        Class::Denied,
        format!("the report {} cannot be written: {error}", path.display()),
        Some("name another place with --report".into()),
    )
}

#[derive(Serialize)]
struct HistoryDocument {
    drills: Vec<PastDocument>,
}

fn history(session: &Session, past: &[Past]) -> Result<u8, AnyFailure> {
    if session.output.is_json() {
        let drills = past.iter().map(PastDocument::new).collect();
        session.output.document(&HistoryDocument { drills })?;
        return Ok(0);
    }
    if past.is_empty() {
        session.output.text("no drill yet\n")?;
        return Ok(0);
    }
    let columns = [
        ("time (UTC)", Side::Left),
        ("snapshot", Side::Left),
        ("outcome", Side::Left),
        ("rto", Side::Right),
        ("rpo", Side::Right),
        ("rows", Side::Right),
    ];
    let shown = |duration: Option<Duration>| duration.map(render::duration).unwrap_or_default();
    let row = |past: &Past| {
        let outcome = match past.ok {
            true => "ok".to_owned(),
            false => format!("FAILED: {}", past.failed.join(", ")),
        };
        vec![
            render::time(past.time),
            past.snapshot.short(),
            outcome,
            shown(past.rto),
            shown(past.rpo),
            render::count(past.rows),
        ]
    };
    let left_out = past.len().saturating_sub(PAST_SHOWN);
    let rows: Vec<Vec<String>> = past[left_out..].iter().map(row).collect();
    let mut text = render::table(&columns, &rows);
    if left_out > 0 {
        let left_out = render::count(left_out as u64);
        text.push_str(&format!("({left_out} before these; --json prints all)\n"));
    }
    session.output.text(&text)?;
    Ok(0)
}
