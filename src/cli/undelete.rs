//! `undelete`: records brought back into a live database.
//!
//! Invariant: without `--apply` nothing is written anywhere but into the files that were named; the
//! plan is printed whatever comes of it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use serde::Serialize;

use crate::cli::database;
use crate::cli::render;
use crate::cli::session::Session;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::Progress;
use crate::job::undelete::{self, Choice, Mode, Outcome, Overwritten, Request};
use crate::row::closure::Dependents;
use crate::source::open;

/// How many rows of a plan are printed for people.
const ROWS_SHOWN: usize = 200;

/// Arguments of `undelete`.
#[derive(Args, Clone, Debug)]
pub struct Undelete {
    /// An id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// The live database: a name of the configuration or a URL [default: the snapshot's source]
    #[arg(long, value_name = "SOURCE")]
    pub into: Option<String>,
    /// The rows.
    #[command(flatten)]
    pub choices: Choices,
    /// Put back columns that were overwritten, instead of refusing rows that differ
    #[arg(long)]
    pub changed: bool,
    /// With --changed: only what changed between SNAPSHOT and this one; later edits stay
    #[arg(long, value_name = "SNAPSHOT", requires = "changed")]
    pub until: Option<String>,
    /// Leave out what was lost with the rows
    #[arg(long)]
    pub no_dependents: bool,
    /// What a conflict does to the rest
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    pub on_conflict: OnConflict,
    /// Let triggers fire where the server cannot hold them
    #[arg(long)]
    pub with_triggers: bool,
    /// Write the statements into this new file
    #[arg(long, value_name = "FILE")]
    pub sql: Option<PathBuf>,
    /// Write the statements that take it back into this new file
    #[arg(long, value_name = "FILE")]
    pub undo_sql: Option<PathBuf>,
    /// Write what the plan says, in one transaction
    #[arg(long)]
    pub apply: bool,
}

/// What a conflict does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Nothing is written.
    Stop,
    /// Rows in conflict are left out.
    Skip,
}

/// Which rows: each --table has the --key, --where and --missing behind it.
#[derive(Clone, Debug, Default)]
pub struct Choices(pub Vec<Choice>);

impl Args for Choices {
    fn augment_args(command: Command) -> Command {
        let option = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name(value)
                .help(help)
                .action(ArgAction::Append)
        };
        command
            .arg(
                option(
                    "table",
                    "TABLE",
                    "The table; may be repeated, with its own choice of rows",
                )
                .required(true),
            )
            .arg(
                option(
                    "key",
                    "KEY",
                    "The record's key: 42, or COL=VAL,COL=VAL; may be repeated",
                )
                .allow_hyphen_values(true),
            )
            .arg(
                option(
                    "where",
                    "COL=VAL",
                    "Rows with this value; several are 'and'",
                )
                .allow_hyphen_values(true),
            )
            .arg(
                option(
                    "missing",
                    "",
                    "All rows that are gone from the live database",
                )
                .num_args(0)
                .default_missing_value("true"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Choices::augment_args(command)
    }
}

impl FromArgMatches for Choices {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Choices, clap::Error> {
        let mut words: Vec<(usize, &str, String)> = Vec::new();
        for name in ["table", "key", "where", "missing"] {
            let values = matches.get_many::<String>(name).into_iter().flatten();
            let places = matches.indices_of(name).into_iter().flatten();
            words.extend(
                places
                    .zip(values)
                    .map(|(at, value)| (at, name, value.clone())),
            );
        }
        words.sort();
        let mut choices: Vec<Choice> = Vec::new();
        for (_, name, value) in words {
            if name == "table" {
                choices.push(Choice {
                    table: value,
                    ..Choice::default()
                });
                continue;
            }
            let Some(choice) = choices.last_mut() else {
                let what = format!("--{name} stands before its --table");
                return Err(clap::Error::raw(
                    clap::error::ErrorKind::ArgumentConflict,
                    what,
                ));
            };
            match name {
                "key" => choice.keys.push(value),
                "where" => choice.conditions.push(value),
                _ => choice.missing = true,
            }
        }
        Ok(Choices(choices))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Choices::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    plan: PlanDocument<'a>,
    applied: bool,
    inserted: usize,
    updated: usize,
    entry: Option<u64>,
}

#[derive(Serialize)]
struct PlanDocument<'a> {
    insert: Vec<InsertDocument<'a>>,
    update: Vec<UpdateDocument<'a>>,
    conflicts: Vec<ConflictDocument<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct InsertDocument<'a> {
    table: &'a str,
    key: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct UpdateDocument<'a> {
    table: &'a str,
    key: &'a str,
    columns: &'a [String],
    why: &'a str,
}

#[derive(Serialize)]
struct ConflictDocument<'a> {
    table: &'a str,
    key: &'a str,
    what: &'a str,
}

fn check(arguments: &Undelete) -> Result<(), AnyFailure> {
    for choice in &arguments.choices.0 {
        let named = !choice.keys.is_empty();
        let wrong = match (named, choice.conditions.is_empty(), choice.missing) {
            (true, true, false) | (false, false, _) | (false, true, true) => continue,
            (false, true, false) if arguments.changed => continue,
            (false, true, false) => "says no rows",
            _ => "has --key, which stands alone",
        };
        return Err(AnyFailure::new(
            Class::Invalid,
            format!("--table {} {wrong}", choice.table),
            Some("say --key KEY, --where COL=VAL or --missing behind it".into()),
        ));
    }
    Ok(())
}

/// Runs `undelete`.
///
/// # Errors
/// Denied with a writer's key or without a right to write; Missing or Invalid for what cannot be
/// asked for; Conflict where a row cannot come back; the repository's. Nothing is written then.
pub async fn undelete(session: &Session, arguments: &Undelete) -> Result<u8, AnyFailure> {
    check(arguments)?;
    let opened = session.open().await?;
    opened.vault.reader("bring records back")?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let into = arguments
        .into
        .clone()
        .unwrap_or(snapshot.source.to_string());
    let name: Option<&SourceName> = Some(&snapshot.source);
    let chosen = database::source(session, &into, name)?;
    let overwritten = match (&arguments.until, arguments.changed) {
        (Some(until), _) => {
            Overwritten::PutBackUntil(Box::new(session.snapshot(&catalog, until)?.clone()))
        }
        (None, true) => Overwritten::PutBack,
        (None, false) => Overwritten::Refuse,
    };
    let manifest = opened.manifest(snapshot).await?;
    let tables: Vec<_> = manifest
        .tables
        .iter()
        .map(|one| one.table.clone())
        .collect();
    let request = Request {
        choices: arguments.choices.0.clone(),
        overwritten,
        dependents: match arguments.no_dependents {
            true => Dependents::Leave,
            false => Dependents::Follow,
        },
        on_conflict: match arguments.on_conflict {
            OnConflict::Stop => undelete::OnConflict::Stop,
            OnConflict::Skip => undelete::OnConflict::Skip,
        },
        with_triggers: arguments.with_triggers,
        relations: session.relations(&snapshot.source, &tables),
        render: arguments.sql.is_some() || arguments.undo_sql.is_some(),
        place: chosen.url.to_string(),
    };
    let mut live = open::live(&chosen.url, &chosen.options(session, &[]))?;
    let mode = match arguments.apply {
        true => Mode::Apply,
        false => Mode::Plan,
    };
    let outcome = undelete::run(&opened, snapshot, live.as_mut(), &request, mode).await;
    session.screen.end();
    let outcome = outcome?;
    for (path, statements) in [
        (&arguments.sql, &outcome.sql),
        (&arguments.undo_sql, &outcome.undo_sql),
    ] {
        if let Some(path) = path {
            write_statements(path, statements)?;
        }
    }
    print(session, &outcome, arguments)?;
    match outcome.plan.conflicts.is_empty() {
        true => Ok(0),
        false if session.output.is_json() => Ok(Class::Conflict.exit_code()),
        false => Err(outcome.conflict()),
    }
}

fn write_statements(path: &Path, statements: &[String]) -> Result<(), AnyFailure> {
    let failed = |error: std::io::Error| {
        let class = match error.kind() {
            std::io::ErrorKind::AlreadyExists => Class::Conflict,
            _ => Class::Denied,
        };
        AnyFailure::new(
            class,
            format!("cannot write {}: {error}", path.display()),
            None,
        )
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(failed)?;
    for statement in statements {
        writeln!(file, "{statement};").map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

fn print(session: &Session, outcome: &Outcome, arguments: &Undelete) -> Result<(), AnyFailure> {
    if session.output.is_json() {
        return session.output.document(&document(outcome));
    }
    let plan = &outcome.plan;
    let mut lines = Vec::new();
    for one in &plan.insert {
        lines.push(format!("  insert  {} {}: {}", one.table, one.key, one.why));
    }
    for one in &plan.update {
        let columns = one.columns.join(", ");
        lines.push(format!(
            "  update  {} {} ({columns}): {}",
            one.table, one.key, one.why
        ));
    }
    let left_out = lines.len().saturating_sub(ROWS_SHOWN);
    lines.truncate(ROWS_SHOWN);
    if left_out > 0 {
        lines.push(format!("  … and {left_out} more; --json has them all"));
    }
    for one in &plan.conflicts {
        lines.push(format!(
            "  CONFLICT {} {}: {}",
            one.table, one.key, one.what
        ));
    }
    for note in &plan.notes {
        lines.push(format!("  note: {note}"));
    }
    let (inserts, updates) = (plan.insert.len() as u64, plan.update.len() as u64);
    let counts = format!(
        "{} and {}",
        render::counted(inserts, "insertion"),
        render::counted(updates, "update")
    );
    let end = match (outcome.applied, plan.changes.is_empty()) {
        (true, _) => applied_text(&counts, outcome, arguments),
        (false, true) => "nothing to bring back\n".into(),
        (false, false) => format!("{counts} planned; nothing was written (--apply writes them)\n"),
    };
    let lines: Vec<String> = lines.iter().map(|line| render::plain(line)).collect();
    let body = match lines.is_empty() {
        true => String::new(),
        false => format!("{}\n", lines.join("\n")),
    };
    session.output.text(&format!("{body}{end}"))
}

fn applied_text(counts: &str, outcome: &Outcome, arguments: &Undelete) -> String {
    let entry = match outcome.entry {
        Some(number) => format!(" (entry {number} of the ledger has the keys)"),
        None => String::new(),
    };
    let back = match &arguments.undo_sql {
        Some(path) => format!("run {} against the database", path.display()),
        None => "delete the rows that are listed here".into(),
    };
    format!("{counts} written in one transaction{entry}\nto take it back: {back}\n")
}

fn document(outcome: &Outcome) -> Document<'_> {
    let plan = &outcome.plan;
    let insert = plan.insert.iter().map(|one| InsertDocument {
        table: &one.table,
        key: &one.key,
        why: &one.why,
    });
    let update = plan.update.iter().map(|one| UpdateDocument {
        table: &one.table,
        key: &one.key,
        columns: &one.columns,
        why: &one.why,
    });
    let conflicts = plan.conflicts.iter().map(|one| ConflictDocument {
        table: &one.table,
        key: &one.key,
        what: &one.what,
    });
    Document {
        inserted: if outcome.applied {
            plan.insert.len()
        } else {
            0
        },
        updated: if outcome.applied {
            plan.update.len()
        } else {
            0
        },
        applied: outcome.applied,
        entry: outcome.entry,
        plan: PlanDocument {
            insert: insert.collect(),
            update: update.collect(),
            conflicts: conflicts.collect(),
            notes: &plan.notes,
        },
    }
}
