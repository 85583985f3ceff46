//! `export`: plain copies of tables, or one record with all that belongs to it.
//!
//! Invariant: what is written is said to be unencrypted, and nothing is overwritten.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::render;
use crate::cli::session::Session;
use crate::failure::{AnyFailure, Class};
use crate::job::Opened;
use crate::job::export::{self, record};
use crate::repo::catalog::Snapshot;
use crate::repo::value::Form;
use crate::row::closure::Dependents;

/// Arguments of `export`.
#[derive(Args, Clone, Debug)]
pub struct Export {
    /// An id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// Only this table; may be repeated [default: all that have rows]
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// One record of that table with all that belongs to it, as JSON; may be repeated
    #[arg(
        long,
        value_name = "KEY",
        allow_hyphen_values = true,
        requires = "table"
    )]
    pub key: Vec<String>,
    /// The records with this value, with all that belongs to them; several are 'and'
    #[arg(
        long = "where",
        value_name = "COL=VAL",
        allow_hyphen_values = true,
        requires = "table",
        conflicts_with = "key"
    )]
    pub conditions: Vec<String>,
    /// With --key or --where: leave out what refers to the records
    #[arg(long)]
    pub no_dependents: bool,
    /// How rows are written
    #[arg(long, value_name = "FORMAT")]
    pub format: Format,
    /// A file for one table or a record, a directory for several; nothing is overwritten
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated, with a line of names.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// One document of a record with all that belongs to it (--key, --where).
    Json,
}

#[derive(Serialize)]
struct ExportDocument {
    snapshot: String,
    files: Vec<FileDocument>,
    duration_ms: u64,
}

#[derive(Serialize)]
struct FileDocument {
    table: String,
    rows: u64,
    bytes: u64,
    path: String,
}

impl FileDocument {
    fn new(written: &export::Written) -> FileDocument {
        FileDocument {
            table: written.table.clone(),
            rows: written.rows,
            bytes: written.bytes,
            path: written.path.display().to_string(),
        }
    }
}

#[derive(Serialize)]
struct RecordDocument {
    snapshot: String,
    files: Vec<FileDocument>,
    tables: BTreeMap<String, u64>,
    notes: Vec<String>,
    duration_ms: u64,
}

/// Records and whole tables are asked for differently.
fn check(arguments: &Export) -> Result<(), AnyFailure> {
    let chosen = !arguments.key.is_empty() || !arguments.conditions.is_empty();
    let refused =
        |what: &str, hint: &str| Err(AnyFailure::new(Class::Invalid, what, Some(hint.to_owned())));
    match (arguments.format, chosen) {
        (Format::Json, false) => refused(
            "--format json writes one record, and none was named",
            "say --table TABLE with --key KEY or --where COL=VAL; whole tables: --format jsonl",
        ),
        (Format::Csv | Format::Jsonl, true) => refused(
            "--key and --where name a record, which is written with all that belongs to it",
            "say --format json",
        ),
        (Format::Json, true) if arguments.table.len() > 1 => refused(
            "a record is one table's, and several were named",
            "say one --table",
        ),
        _ => Ok(()),
    }
}

async fn record(
    session: &Session,
    opened: &Opened,
    snapshot: &Snapshot,
    arguments: &Export,
) -> Result<u8, AnyFailure> {
    let start = opened.vault.clock.elapsed();
    let manifest = opened.manifest(snapshot).await?;
    let tables = manifest.tables.iter().map(|one| one.table.clone());
    let tables: Vec<_> = tables.collect();
    let request = record::Request {
        table: arguments.table.first().cloned().unwrap_or_default(),
        keys: arguments.key.clone(),
        conditions: arguments.conditions.clone(),
        dependents: match arguments.no_dependents {
            true => Dependents::Leave,
            false => Dependents::OfRecord,
        },
        relations: session.relations(&snapshot.source, &tables),
        out: arguments.out.clone(),
    };
    let exported = record::run(opened, snapshot, &request).await?;
    let duration = opened.vault.clock.elapsed() - start;
    if session.output.is_json() {
        session.output.document(&RecordDocument {
            snapshot: snapshot.record.id.to_string(),
            files: vec![FileDocument::new(&exported.written)],
            tables: exported.tables,
            notes: exported.notes,
            duration_ms: duration.as_millis() as u64,
        })?;
        return Ok(0);
    }
    let written = &exported.written;
    let mut text = format!(
        "wrote {} of {} of snapshot {} in {} to {} ({}); the file is NOT encrypted\n",
        render::counted(written.rows, "row"),
        render::counted(exported.tables.len() as u64, "table"),
        snapshot.record.id.short(),
        render::duration(duration),
        written.path.display(),
        render::size(written.bytes),
    );
    for (table, rows) in &exported.tables {
        let line = format!("  {table}: {}", render::counted(*rows, "row"));
        text.push_str(&render::plain(&line));
        text.push('\n');
    }
    for note in &exported.notes {
        text.push_str(&render::plain(&format!("  note: {note}")));
        text.push('\n');
    }
    session.output.done(&text)?;
    Ok(0)
}

/// Runs `export`.
///
/// # Errors
/// Denied with a writer's key; Conflict where a file stands in the way; the repository's.
pub async fn export(session: &Session, arguments: &Export) -> Result<u8, AnyFailure> {
    check(arguments)?;
    let opened = session.open().await?;
    opened.vault.reader("export rows")?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let form = match arguments.format {
        Format::Csv => Form::Csv,
        Format::Jsonl => Form::Json,
        Format::Json => return record(session, &opened, snapshot, arguments).await,
    };
    let request = export::Request {
        tables: arguments.table.clone(),
        form,
        out: arguments.out.clone(),
    };
    let exported = export::run(&opened, snapshot, &request).await?;
    if session.output.is_json() {
        session.output.document(&ExportDocument {
            snapshot: snapshot.record.id.to_string(),
            files: exported.tables.iter().map(FileDocument::new).collect(),
            duration_ms: exported.duration.as_millis() as u64,
        })?;
        return Ok(0);
    }
    let mut text = format!(
        "wrote {} of snapshot {} in {}; the files are NOT encrypted\n",
        render::counted(exported.tables.len() as u64, "table"),
        snapshot.record.id.short(),
        render::duration(exported.duration),
    );
    for written in &exported.tables {
        text.push_str(&format!(
            "  {}  ({}, {})\n",
            written.path.display(),
            render::counted(written.rows, "row"),
            render::size(written.bytes),
        ));
    }
    session.output.done(&text)?;
    Ok(0)
}
