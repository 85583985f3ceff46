//! `doctor`: whether all is well, line by line, and what to do where it is not.
//!
//! What a job finds out is asked of the job; here the configuration itself is looked at: what it
//! names must be there. Invariant: nothing is run, sent or changed to find out.

use std::path::Path;

use clap::Args;
use rustix::fs::{Access, access};
use serde::Serialize;

use crate::cli::database;
use crate::cli::render;
use crate::cli::session::Session;
use crate::clock::Timestamp;
use crate::config::Source;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::doctor::{self, Candidate, Check};
use crate::job::rollback::{self, Way};
use crate::row::schema::Table;
use crate::source::open;

/// How many runs of a schedule are shown.
const RUNS_SHOWN: usize = 5;
/// How far text stands in from the words `ok` and `WRONG`.
const INDENT: usize = 7;

/// Arguments of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {}

#[derive(Serialize)]
struct DoctorDocument {
    ok: bool,
    checks: Vec<CheckDocument>,
}

#[derive(Serialize)]
struct CheckDocument {
    name: String,
    ok: bool,
    detail: String,
    hint: Option<String>,
}

/// Runs `doctor`; the exit code is 2 when something is wrong.
///
/// # Errors
/// Where stdout cannot be written.
pub async fn doctor(session: &Session) -> Result<u8, AnyFailure> {
    let mut checks = checks(session).await;
    checks.extend(cut_off(session).await);
    checks.extend(plans(session));
    let ok = checks.iter().all(|check| check.ok);
    if session.output.is_json() {
        let check = |check: &Check| CheckDocument {
            name: check.name.clone(),
            ok: check.ok,
            detail: check.detail.clone(),
            hint: check.hint.clone(),
        };
        let checks = checks.iter().map(check).collect();
        session.output.document(&DoctorDocument { ok, checks })?;
    } else {
        session.output.text(&checks_text(&checks))?;
    }
    Ok(if ok { 0 } else { Class::Invalid.exit_code() })
}

/// Rollbacks on this host that were cut off.
async fn cut_off(session: &Session) -> Vec<Check> {
    let Ok(opened) = session.open().await else {
        // Why it does not open was said.
        return Vec::new();
    };
    let wrong = |detail: String, hint: Option<String>| Check {
        name: "rollback".into(),
        ok: false,
        detail,
        hint,
    };
    let found = match rollback::cut_off(&opened) {
        Ok(found) => found,
        Err(error) => return vec![wrong(error.to_string(), error.hint())],
    };
    let told = found.into_iter().map(|one| {
        let what = match one.way {
            Way::Back => format!("to snapshot {}", one.snapshot.short()),
            Way::Undo => "that was being undone".into(),
        };
        let how = match one.exchanging {
            true => "in the exchange",
            false => "before the exchange",
        };
        let detail = format!(
            "a rollback of {} {what} was cut off {how}; {} may stand beside {}",
            one.source, one.side, one.place
        );
        let hint = "run 'rowvault restore --rollback', --undo or --drop-kept of that database: it \
                    ends this one before anything else";
        wrong(detail, Some(hint.into()))
    });
    told.collect()
}

/// Looks at the repository, and at everything that the configuration names.
pub async fn checks(session: &Session) -> Vec<Check> {
    let config = &session.config;
    let candidate = |source: &Source| {
        let opened = database::source(session, source.name.as_str(), None)
            .and_then(|chosen| open::source(&chosen.url, &chosen.options(session, &[])));
        Candidate {
            name: source.name.clone(),
            source: opened,
            is_drilled: source.plan.drill.is_some(),
        }
    };
    let sources = config.sources.iter().map(candidate).collect();
    let known = |name: &SourceName, tables: &[Table]| session.relations(name, tables).lists;
    let mut checks = doctor::run(&session.context(), sources, &known).await;
    checks.extend(commands(session));
    checks.extend(messages(session));
    checks
}

/// Whether the programs that the configuration names are there.
fn commands(session: &Session) -> Vec<Check> {
    let config = &session.config;
    let mut named: Vec<(String, &str)> = Vec::new();
    for source in &config.sources {
        for (when, words) in [("before", &source.before), ("after", &source.after)] {
            let name = format!("command {when} {}", source.name);
            named.extend(words.first().map(|program| (name, program.as_str())));
        }
    }
    let told = config.notify.programs();
    named.extend(told.map(|program| ("command of [notify]".to_owned(), program)));
    let look = |(name, program): (String, &str)| match is_program(program) {
        true => Check::good(&name, format!("{program} is there")),
        false => Check::bad(
            &name,
            &AnyFailure::new(
                Class::Missing,
                format!("{program} is no program that this user may run"),
                Some("install it, correct the configuration, or run: chmod +x".into()),
            ),
        ),
    };
    named.into_iter().map(look).collect()
}

/// Whether `program` would be found and may be run.
fn is_program(program: &str) -> bool {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return runs(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| runs(&place.join(program)))
}

/// Whether messages could go out: every secret is there, and nobody else may read it.
fn messages(session: &Session) -> Option<Check> {
    const NAME: &str = "messages";
    let notify = &session.config.notify;
    let ways = notify.channels(&session.clock).and_then(|channels| {
        let heartbeat = notify.heartbeat()?;
        Ok((channels.len(), heartbeat.is_some()))
    });
    match ways {
        Err(error) => Some(Check::bad(NAME, &error)),
        Ok((0, false)) => None,
        Ok((ways, heartbeat)) => {
            let ways = format!("ways that they go: {ways}");
            let heartbeat = if heartbeat { ", and a heartbeat" } else { "" };
            Some(Check::good(NAME, format!("{ways}{heartbeat}")))
        }
    }
}

/// When each job of the daemon is due next, in UTC and in its zone.
fn plans(session: &Session) -> Vec<Check> {
    let now = session.clock.now();
    let jobs = crate::daemon::plan::jobs(&session.config);
    let planned = jobs.iter().filter_map(|job| {
        let schedule = job.schedule()?;
        let runs = schedule.upcoming(now, RUNS_SHOWN);
        let run = |at: &Timestamp| format!("{} = {}", at.rfc3339(), schedule.local(*at));
        let runs: Vec<String> = runs.iter().map(run).collect();
        Some(Check {
            name: format!("schedule of {}", job.name()),
            ok: true,
            detail: format!("{schedule}: {}", runs.join(", ")),
            hint: None,
        })
    });
    planned.collect()
}

fn checks_text(checks: &[Check]) -> String {
    let width = usize::from(render::width());
    let mut text = String::new();
    let indent = " ".repeat(INDENT);
    let mut add = |word: &str, sentence: &str| {
        let mut first = format!("{word:<INDENT$}");
        for line in render::wrapped(&render::plain(sentence), width.saturating_sub(INDENT)) {
            text.push_str(&format!("{first}{line}\n"));
            first.clone_from(&indent);
        }
    };
    for check in checks {
        let word = if check.ok { "ok" } else { "WRONG" };
        add(word, &format!("{}: {}", check.name, check.detail));
        if let Some(hint) = &check.hint {
            add("", &format!("do: {hint}"));
        }
    }
    let wrong = checks.iter().filter(|check| !check.ok).count();
    text.push_str(&match wrong {
        0 => "all is well\n".to_owned(),
        1 => "1 thing is wrong\n".to_owned(),
        many => format!("{many} things are wrong\n"),
    });
    text
}
