//! `restore` and `find`: what comes out of a repository again.
//!
//! Invariant: each needs the reader's key, and says so before it does anything; a restore that is
//! stopped takes away what it made.

use std::io::{BufWriter, Write};

use clap::Args;
use serde::Serialize;

use crate::cli::database;
use crate::cli::render;
use crate::cli::rollback;
use crate::cli::session::Session;
use crate::failure::AnyFailure;
use crate::job::{Opened, Progress, find, restore};
use crate::repo::catalog::Snapshot;
use crate::repo::intent;
use crate::repo::table::Rows;
use crate::repo::value::{Form, RowWriter, preview};
use crate::row::cell::Cells;
use crate::row::schema::{Column, Table};
use crate::source::Target;
use crate::source::address::{Ownership, SourceUrl};
use crate::source::beside::{self, Beside};
use crate::source::open;

/// Arguments of `restore`.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "rowvault restore SNAPSHOT --to URL [OPTIONS]\n       \
        rowvault restore SNAPSHOT --to URL --table TABLE... [OPTIONS]\n       \
        rowvault restore SNAPSHOT --rollback SOURCE [--confirm NAME] [OPTIONS]\n       \
        rowvault restore --undo SOURCE | --drop-kept SOURCE [OPTIONS]"
)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["to", "rollback", "undo", "drop_kept"])))]
pub struct Restore {
    /// An id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT", required_unless_present_any = ["undo", "drop_kept"])]
    pub snapshot: Option<String>,
    /// The database to make: sqlite:PATH, postgres://…, mysql://…
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Only this table, beside those of a database in use, as NAME__rowvault_TIME; may be repeated
    #[arg(long, value_name = "TABLE", conflicts_with_all = ["rollback", "undo", "drop_kept", "no_owner",
        "no_privileges", "role_map"])]
    pub table: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)] // clap would take the sentence for its own.
    pub live: rollback::Live,
    /// How many tables are loaded at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: Option<u8>,
    /// Leave every object to the role that restores
    #[arg(long)]
    pub no_owner: bool,
    /// Leave out every grant
    #[arg(long)]
    pub no_privileges: bool,
    /// Let the role NEW stand for OLD; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = role)]
    pub role_map: Vec<(String, String)>,
}

fn role(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW".into()),
    }
}

#[derive(Serialize)]
struct RestoreDocument {
    snapshot: String,
    target: String,
    tables: u64,
    rows: u64,
    verified: bool,
    duration_ms: u64,
    read_back_ms: u64,
    kept: Option<String>,
    safety_snapshot: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made: Vec<MadeDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl RestoreDocument {
    fn new(snapshot: &Snapshot, restored: restore::Outcome) -> RestoreDocument {
        RestoreDocument {
            snapshot: snapshot.record.id.to_string(),
            target: restored.published.place,
            tables: restored.tables,
            rows: restored.rows,
            verified: true,
            duration_ms: restored.duration.as_millis() as u64,
            read_back_ms: restored.read_back.as_millis() as u64,
            kept: None,
            safety_snapshot: None,
            made: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// A table that was put beside.
#[derive(Serialize)]
struct MadeDocument {
    table: String,
    r#as: String,
}

/// Runs `restore`.
///
/// # Errors
/// Denied with a writer's key; Conflict where something stands at the target; Corrupt where the
/// snapshot is damaged; the target's. What was made is then taken away again.
pub async fn restore(session: &Session, arguments: &Restore) -> Result<u8, AnyFailure> {
    let asked = arguments.snapshot.as_deref().unwrap_or_default();
    let Some(to) = arguments.to.as_deref() else {
        // The command line has a place or a live database, or it was refused.
        return rollback::run(session, &arguments.live, asked, arguments.jobs).await;
    };
    let opened = session.stop.or(session.open()).await?;
    opened.vault.reader("restore")?;
    let catalog = session.stop.or(opened.catalog()).await?;
    let snapshot = session.snapshot(&catalog, asked)?;
    let url = database::target(session, to)?;
    if !arguments.table.is_empty() {
        return tables(session, arguments, &opened, snapshot, &url).await;
    }
    let ownership = Ownership {
        no_owner: arguments.no_owner,
        no_privileges: arguments.no_privileges,
        role_map: arguments.role_map.clone(),
    };
    let parallel = arguments.jobs.map(usize::from);
    let options = database::target_options(session, parallel, ownership);
    let mut target = open::target(&url, &options)?;
    let work = restore::run(&opened, snapshot, target.as_mut());
    let (restored, stopped) = tokio::select! {
        restored = work => (restored, false),
        stopped = session.stop.wait() => (Err(stopped), true),
    };
    session.screen.end();
    if stopped {
        take_away(&opened, target.as_mut()).await;
    }
    let restored = restored?;
    for warning in &restored.published.warnings {
        tracing::warn!("{warning}");
    }
    if session.output.is_json() {
        session
            .output
            .document(&RestoreDocument::new(snapshot, restored))?;
        return Ok(0);
    }
    session.output.done(&format!(
        "restored snapshot {} of {} to {}\n  {}, {}; read back and found equal; {}\n",
        snapshot.record.id.short(),
        snapshot.source,
        restored.published.place,
        render::counted(restored.tables, "table"),
        render::counted(restored.rows, "row"),
        render::duration(restored.duration),
    ))?;
    Ok(0)
}

/// Takes away what a restore that was dropped left: it could not do so itself.
async fn take_away(opened: &Opened, target: &mut dyn Target) {
    let _ = intent::withdraw_ours(&opened.vault, &opened.whoami).await;
    if let Err(left) = target.discard().await {
        tracing::warn!("what was made could not be taken away: {left}");
    }
}

/// Puts some tables of a snapshot beside those of a database in use.
async fn tables(
    session: &Session,
    arguments: &Restore,
    opened: &Opened,
    snapshot: &Snapshot,
    url: &SourceUrl,
) -> Result<u8, AnyFailure> {
    let plan = restore::plan_tables(opened, snapshot, &arguments.table);
    let plan = session.stop.or(plan).await?;
    let (engine, now) = (plan.structure.engine, session.clock.now());
    if engine != url.engine() {
        return Err(beside::other_engine(engine, url.engine()));
    }
    let beside = Beside::new(engine, &plan.structure.tables, now)?;
    let parallel = arguments.jobs.map(usize::from);
    let options = database::target_options(session, parallel, Ownership::default());
    let mut target = open::tables_beside(url, &options, beside.clone());
    let work = restore::run_tables(opened, snapshot, plan, target.as_mut());
    let (restored, stopped) = tokio::select! {
        restored = work => (restored, false),
        stopped = session.stop.wait() => (Err(stopped), true),
    };
    session.screen.end();
    if stopped {
        take_away(opened, target.as_mut()).await;
    }
    tell_tables(session, snapshot, restored?, &beside)
}

fn tell_tables(
    session: &Session,
    snapshot: &Snapshot,
    mut restored: restore::Outcome,
    beside: &Beside,
) -> Result<u8, AnyFailure> {
    let warnings = std::mem::take(&mut restored.published.warnings);
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    if session.output.is_json() {
        let made = beside.names().map(|(old, new)| MadeDocument {
            table: old.to_string(),
            r#as: new.to_string(),
        });
        let document = RestoreDocument::new(snapshot, restored);
        session.output.document(&RestoreDocument {
            made: made.collect(),
            warnings,
            ..document
        })?;
        return Ok(0);
    }
    let mut text = format!(
        "put {} of snapshot {} of {} into {}\n",
        render::counted(restored.tables, "table"),
        snapshot.record.id.short(),
        snapshot.source,
        restored.published.place,
    );
    for (old, new) in beside.names() {
        let names = [old, new].map(|name| render::plain(&name.to_string()));
        text.push_str(&format!("  {} as {}\n", names[0], names[1]));
    }
    let rows = render::counted(restored.rows, "row");
    let took = render::duration(restored.duration);
    text.push_str(&format!("  {rows}; read back and found equal; {took}\n"));
    session.output.done(&text)?;
    Ok(0)
}

/// Arguments of `find`.
#[derive(Args, Clone, Debug)]
pub struct Find {
    /// An id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// As show prints it; the schema may be left out where the name is unique
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// The record's key: 42, or COL=VAL,COL=VAL
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub key: Option<String>,
    /// Only where this holds: COL=VAL, also != < > <= >=, ~ (holds PART), 'COL is null'; all of
    /// several must
    #[arg(long = "where", value_name = "COL=VAL", allow_hyphen_values = true)]
    pub conditions: Vec<String>,
    /// At most so many records
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// Runs `find`. That nothing was found is no failure.
///
/// # Errors
/// Denied with a writer's key; Missing or Invalid: no such snapshot, table or column; the
/// repository's.
pub async fn find(session: &Session, arguments: &Find) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    opened.vault.reader("find records")?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let request = find::Request {
        table: arguments.table.clone(),
        key: arguments.key.clone(),
        conditions: arguments.conditions.clone(),
        limit: arguments.limit,
    };
    let mut finder = find::start(&opened, snapshot, &request).await?;
    let found = match session.output.is_json() {
        true => print_json(session, &mut finder).await,
        false => print_text(session, &mut finder).await,
    };
    opened.progress.end();
    found?;
    Ok(0)
}

fn shown(table: &Table) -> impl Iterator<Item = (usize, &Column)> {
    let columns = table.columns.iter().enumerate();
    columns.filter(|(_, column)| !column.hidden)
}

async fn print_json(session: &Session, finder: &mut find::Finder) -> Result<(), AnyFailure> {
    let (table, reader) = (finder.table().clone(), finder.reader().clone());
    let columns = shown(&table).map(|(at, column)| (at, column.name.as_str()));
    let writer = RowWriter::new(&reader, Form::Json, columns);
    // The document begins when the first rows are there: a failure before them prints nothing.
    let mut rows = finder.next().await?;
    let mut out = BufWriter::new(session.output.clone());
    write(&mut out, b"{\"rows\":[")?;
    let mut first = true;
    while let Some(some) = rows {
        for row in some.rows.iter() {
            if !std::mem::take(&mut first) {
                write(&mut out, b",")?;
            }
            writer.row(row, &some.cells, &mut out).await?;
        }
        rows = match session.output.is_closed() {
            true => None,
            false => finder.next().await?,
        };
    }
    write(&mut out, b"]}\n")?;
    Ok(out.flush().map_err(crate::repo::value::Error::from)?)
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), AnyFailure> {
    Ok(out
        .write_all(bytes)
        .map_err(crate::repo::value::Error::from)?)
}

/// Each record as lines of column and value.
async fn print_text(session: &Session, finder: &mut find::Finder) -> Result<(), AnyFailure> {
    let table = finder.table().clone();
    let names = shown(&table).map(|(_, column)| column.name.chars().count());
    let indent = names.max().unwrap_or(0).min(30);
    let mut count = 0u64;
    while let Some(Rows { rows, .. }) = finder.next().await? {
        for row in rows.iter() {
            let mut text = String::new();
            if count > 0 {
                text.push('\n');
            }
            let cells: Vec<_> = Cells::new(row).collect::<Result<_, _>>()?;
            let room = usize::from(render::width()).saturating_sub(indent + 2);
            for (at, column) in shown(&table) {
                let name = render::plain(&column.name);
                let value = cells.get(at).map(|cell| preview(cell, room));
                let value = render::plain(&value.unwrap_or_default());
                let line = format!("{name:<indent$}  {value}");
                text.push_str(line.trim_end());
                text.push('\n');
            }
            count += 1;
            session.output.text(&text)?;
        }
        if session.output.is_closed() {
            break;
        }
    }
    if count == 0 {
        session.output.done("no record was found\n")?;
    }
    Ok(())
}
