//! `diff` and `history`: what became of rows from one state to the next.
//!
//! Invariant: both need the reader's key, and neither writes anything anywhere.

use std::collections::HashMap;
use std::io::{BufWriter, Write};

use clap::Args;
use serde::Serialize;

use crate::cli::database;
use crate::cli::output::Output;
use crate::cli::render::{self, Side};
use crate::cli::session::Session;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::diff::{
    self, Compared, Comparison, Counts, Difference, Pairing, SideTable, Wanted,
};
use crate::job::{Opened, history};
use crate::repo::catalog::Snapshot;
use crate::repo::reader::Reader;
use crate::repo::value::{self, Form, LargeCells, RowWriter, preview};
use crate::row::cell::{self, Cells};
use crate::row::key;
use crate::row::schema::Table;
use crate::source::open;

/// How wide a value is shown in a line that has several.
const VALUE_WIDTH: usize = 32;

/// Arguments of `diff`.
#[derive(Args, Clone, Debug)]
pub struct Diff {
    /// The earlier state: an id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub before: String,
    /// The later state
    #[arg(value_name = "SNAPSHOT", required_unless_present = "live")]
    pub after: Option<String>,
    /// Compare with a database as it is now, which is read and not written
    #[arg(long, value_name = "SOURCE", conflicts_with = "after")]
    pub live: Option<String>,
    /// Only this table; may be repeated
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Show the rows too, before and after
    #[arg(long)]
    pub rows: bool,
    /// At most so many rows of each table; all are counted
    #[arg(long, value_name = "N", default_value_t = 100, requires = "rows")]
    pub limit: u64,
}

/// Runs `diff`. That something differs is no failure.
///
/// # Errors
/// Denied with a writer's key; Missing or Invalid: no such snapshot or table; the repository's;
/// the live database's.
pub async fn diff(session: &Session, arguments: &Diff) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    opened.vault.reader("compare rows")?;
    let catalog = opened.catalog().await?;
    let before = session.snapshot(&catalog, &arguments.before)?;
    match (&arguments.after, &arguments.live) {
        (Some(after), _) => {
            let after = session.snapshot(&catalog, after)?;
            let comparison = diff::start(&opened, before, after, &arguments.table).await?;
            tell(session, arguments, &comparison).await?;
        }
        (None, Some(live)) => diff_live(session, arguments, &opened, before, live).await?,
        (None, None) => {
            let what = "nothing was named to compare with";
            let hint = "name a second snapshot, or --live SOURCE";
            return Err(AnyFailure::new(Class::Invalid, what, Some(hint.into())));
        }
    }
    Ok(0)
}

async fn diff_live(
    session: &Session,
    arguments: &Diff,
    opened: &Opened,
    before: &Snapshot,
    live: &str,
) -> Result<(), AnyFailure> {
    let chosen = database::source(session, live, Some(&before.source))?;
    let options = chosen.options(session, &[]);
    let mut source = open::source(&chosen.url, &options)?;
    let structure = source.begin().await?;
    let tables = &arguments.table;
    let comparison = diff::start_live(opened, before, source.as_ref(), &structure, tables).await?;
    let told = tell(session, arguments, &comparison).await;
    drop(comparison);
    // What was told is worth something only if the database snapshot lived until here.
    let ended = source.end().await;
    told.and(ended)
}

async fn tell(
    session: &Session,
    arguments: &Diff,
    comparison: &Comparison<'_>,
) -> Result<(), AnyFailure> {
    let told = match session.output.is_json() {
        true => tell_json(&session.output, arguments, comparison).await,
        false => tell_text(&session.output, arguments, comparison).await,
    };
    crate::job::Progress::end(&session.screen);
    told
}

#[derive(Serialize)]
struct TableDocument<'a> {
    table: &'a str,
    only: Option<&'static str>,
    compared: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    columns_added: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    columns_removed: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    columns_changed: &'a [String],
    key_changed: bool,
    added: u64,
    removed: u64,
    changed: u64,
}

impl<'a> TableDocument<'a> {
    fn new(pairing: &'a Pairing, counts: Counts) -> TableDocument<'a> {
        TableDocument {
            table: &pairing.name,
            only: match (&pairing.before, &pairing.after) {
                (Some(_), None) => Some("before"),
                (None, Some(_)) => Some("after"),
                _ => None,
            },
            compared: match pairing.compared {
                Compared::ByKey => "by key",
                Compared::AsWholeRows => "as whole rows",
                Compared::OneSide => "one side",
                Compared::NotAtAll => "not at all",
            },
            columns_added: &pairing.columns_added,
            columns_removed: &pairing.columns_removed,
            columns_changed: &pairing.columns_changed,
            key_changed: pairing.key_changed,
            added: counts.added,
            removed: counts.removed,
            changed: counts.changed,
        }
    }
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), AnyFailure> {
    Ok(out.write_all(bytes).map_err(value::Error::from)?)
}

async fn tell_json(
    output: &Output,
    arguments: &Diff,
    comparison: &Comparison<'_>,
) -> Result<(), AnyFailure> {
    let mut out = BufWriter::new(output.clone());
    let mut first = true;
    for pairing in &comparison.pairings {
        // Where rows are wanted, they stand before the counts, which are known at the end. The
        // document begins when the first table can be read: a failure before it prints nothing.
        let wanted = wanted(arguments);
        let mut differences = comparison.table(pairing, wanted).await?;
        let mut rows = match arguments.rows {
            true => differences.next().await?,
            false => None,
        };
        let separator: &[u8] = match std::mem::take(&mut first) {
            true => b"{\"tables\":[",
            false => b",",
        };
        write(&mut out, separator)?;
        let mut list = RowList::new(comparison.reader(), pairing);
        while let Some(some) = rows {
            for one in &some {
                list.push(one, arguments.limit, &mut out).await?;
            }
            rows = match output.is_closed() {
                true => None,
                false => differences.next().await?,
            };
        }
        let counts = differences.finish().await?;
        let document = TableDocument::new(pairing, counts);
        let document = serde_json::to_string(&document).expect("counts are plain data");
        list.end(&document, arguments.rows, &mut out)?;
    }
    write(&mut out, if first { b"{\"tables\":[]}\n" } else { b"]}\n" })?;
    Ok(out.flush().map_err(value::Error::from)?)
}

fn wanted(arguments: &Diff) -> Wanted {
    match arguments.rows {
        true => Wanted::Rows,
        false => Wanted::Counts,
    }
}

/// The rows of one table, as they are written to the document.
struct RowList<'a> {
    reader: &'a Reader,
    pairing: &'a Pairing,
    listed: u64,
    left_out: u64,
}

impl<'a> RowList<'a> {
    fn new(reader: &'a Reader, pairing: &'a Pairing) -> RowList<'a> {
        RowList {
            reader,
            pairing,
            listed: 0,
            left_out: 0,
        }
    }

    async fn push(
        &mut self,
        one: &Difference,
        limit: u64,
        out: &mut BufWriter<Output>,
    ) -> Result<(), AnyFailure> {
        if self.listed == limit {
            self.left_out += 1;
            return Ok(());
        }
        let separator: &[u8] = if self.listed == 0 {
            b"{\"rows\":["
        } else {
            b","
        };
        self.listed += 1;
        write(out, separator)?;
        let key = one
            .key
            .as_ref()
            .map(|key| key_text(self.pairing, key))
            .transpose()?;
        let key = serde_json::to_string(&key).expect("a key is text");
        let operation = one.operation.name();
        write(
            out,
            format!("{{\"op\":\"{operation}\",\"key\":{key}").as_bytes(),
        )?;
        let sides = [
            ("before", &one.before, &self.pairing.before),
            ("after", &one.after, &self.pairing.after),
        ];
        for (name, version, side) in sides {
            write(out, format!(",\"{name}\":").as_bytes())?;
            match (version, side) {
                (Some(version), Some(side)) => {
                    let writer = row_writer(self.reader, side.table());
                    writer.row(&version.row, &version.cells, out).await?;
                }
                _ => write(out, b"null")?,
            }
        }
        write(out, b"}")
    }

    /// Closes the list and goes on with the table's other fields.
    fn end(
        self,
        document: &str,
        rows: bool,
        out: &mut BufWriter<Output>,
    ) -> Result<(), AnyFailure> {
        let fields = document.strip_prefix('{').unwrap_or(document);
        match (rows, self.listed) {
            (false, _) => return write(out, document.as_bytes()),
            (true, 0) => write(out, b"{\"rows\":[],")?,
            (true, _) => write(out, b"],")?,
        }
        write(
            out,
            format!("\"rows_left_out\":{},", self.left_out).as_bytes(),
        )?;
        write(out, fields.as_bytes())
    }
}

fn row_writer<'a>(reader: &'a Reader, table: &'a Table) -> RowWriter<'a> {
    let columns = table.columns.iter().enumerate();
    let shown = columns.filter(|(_, column)| !column.hidden);
    let named = shown.map(|(at, column)| (at, column.name.as_str()));
    RowWriter::new(reader, Form::Json, named).with_large_cells(LargeCells::Named)
}

fn key_text(pairing: &Pairing, key: &[u8]) -> Result<String, AnyFailure> {
    let side = pairing.before.as_ref().or(pairing.after.as_ref());
    match side {
        Some(side) => Ok(key::text(side.table(), key)?),
        None => Ok(String::new()),
    }
}

async fn tell_text(
    output: &Output,
    arguments: &Diff,
    comparison: &Comparison<'_>,
) -> Result<(), AnyFailure> {
    let mut lines = Vec::new();
    for pairing in &comparison.pairings {
        let mut differences = comparison.table(pairing, wanted(arguments)).await?;
        let mut listed = 0;
        while arguments.rows
            && !output.is_closed()
            && let Some(some) = differences.next().await?
        {
            for one in &some {
                if listed < arguments.limit {
                    output.text(&row_line(pairing, one)?)?;
                }
                listed += 1;
            }
        }
        let counts = differences.finish().await?;
        let note = note(pairing, arguments, listed);
        if !counts.is_zero() || !note.is_empty() {
            let count = render::count;
            lines.push(vec![
                pairing.name.clone(),
                count(counts.added),
                count(counts.removed),
                count(counts.changed),
                note,
            ]);
        }
    }
    if lines.is_empty() {
        let tables = comparison.pairings.len() as u64;
        return output.done(&format!(
            "no difference in {}\n",
            render::counted(tables, "table")
        ));
    }
    if arguments.rows {
        output.text("\n")?;
    }
    let columns = [
        ("table", Side::Left),
        ("added", Side::Right),
        ("removed", Side::Right),
        ("changed", Side::Right),
        ("note", Side::Left),
    ];
    output.text(&render::table(&columns, &lines))
}

/// What is to be said of a table besides its counts.
fn note(pairing: &Pairing, arguments: &Diff, listed: u64) -> String {
    let mut notes = Vec::new();
    match (&pairing.before, &pairing.after, pairing.compared) {
        (_, _, Compared::NotAtAll) => notes.push("not compared: no rows were captured".to_owned()),
        (Some(_), None, _) => notes.push("the table is gone".to_owned()),
        (None, Some(_), _) => notes.push("the table is new".to_owned()),
        _ => {}
    }
    for (names, what) in [
        (&pairing.columns_added, "new columns"),
        (&pairing.columns_removed, "columns gone"),
        (&pairing.columns_changed, "columns of another type"),
    ] {
        if !names.is_empty() {
            notes.push(format!("{what}: {}", names.join(", ")));
        }
    }
    if pairing.key_changed {
        notes.push("another key".into());
    }
    if listed > arguments.limit {
        notes.push(format!(
            "{} more rows",
            render::count(listed - arguments.limit)
        ));
    }
    notes.join("; ")
}

/// Name, preview and canonical bytes of each cell that is shown.
fn named_values(table: &Table, row: &[u8]) -> Result<Vec<(String, String, Vec<u8>)>, cell::Error> {
    let mut named = Vec::new();
    for (cell, column) in Cells::new(row).zip(&table.columns) {
        let cell = cell?;
        let mut bytes = Vec::new();
        cell.push(&mut bytes);
        if !column.hidden {
            named.push((column.name.clone(), preview(&cell, VALUE_WIDTH), bytes));
        }
    }
    Ok(named)
}

/// A row that differs, in one line: what is different of a changed one, else all of it.
fn row_line(pairing: &Pairing, one: &Difference) -> Result<String, AnyFailure> {
    let key = one
        .key
        .as_ref()
        .map(|key| key_text(pairing, key))
        .transpose()?;
    let values = |side: &Option<SideTable>, version: &Option<diff::Version>| match (side, version) {
        (Some(side), Some(version)) => named_values(side.table(), &version.row),
        _ => Ok(Vec::new()),
    };
    let before = values(&pairing.before, &one.before)?;
    let after = values(&pairing.after, &one.after)?;
    let sign = match one.operation {
        diff::Operation::Added => '+',
        diff::Operation::Removed => '-',
        diff::Operation::Changed => '~',
    };
    let told: Vec<String> = match one.operation {
        diff::Operation::Changed => {
            let later: HashMap<&String, _> = after
                .iter()
                .map(|(name, text, bytes)| (name, (text, bytes)))
                .collect();
            let changed = before.iter().filter_map(|(name, text, bytes)| {
                let (new, new_bytes) = later.get(name)?;
                (*new_bytes != bytes).then(|| format!("{name}: {text} → {new}"))
            });
            changed.collect()
        }
        _ => {
            let side = if one.before.is_some() {
                &before
            } else {
                &after
            };
            side.iter()
                .map(|(name, text, _)| format!("{name}={text}"))
                .collect()
        }
    };
    let key = key.map_or_else(String::new, |key| format!(" {key}"));
    let line = format!("{sign} {}{key}  {}", pairing.name, told.join(", "));
    Ok(format!("{}\n", render::plain(&line)))
}

/// Arguments of `history`.
#[derive(Args, Clone, Debug)]
pub struct History {
    /// A source in the repository, whether the configuration has it or not
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// As show prints it; the schema may be left out where the name is unique
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// The record's key: 42, or COL=VAL,COL=VAL
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    pub key: String,
}

/// Runs `history`. That no snapshot has the record is no failure.
///
/// # Errors
/// Denied with a writer's key; Missing or Invalid: no such source or table, no key of it; the
/// repository's.
pub async fn history(session: &Session, arguments: &History) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    opened.vault.reader("look at records")?;
    let catalog = opened.catalog().await?;
    let source = catalog.source(&arguments.source)?;
    let outcome = history::run(&opened, source, &arguments.table, &arguments.key).await?;
    for warning in &outcome.warnings {
        tracing::warn!("{warning}");
    }
    match session.output.is_json() {
        true => history_json(&session.output, &outcome).await?,
        false => history_text(&session.output, &outcome)?,
    }
    Ok(0)
}

async fn history_json(output: &Output, outcome: &history::Outcome) -> Result<(), AnyFailure> {
    let mut out = BufWriter::new(output.clone());
    write(&mut out, b"{\"versions\":[")?;
    for (at, version) in outcome.versions.iter().enumerate() {
        if at > 0 {
            write(&mut out, b",")?;
        }
        let head = serde_json::json!({
            "snapshot": version.snapshot.to_string(),
            "time": version.time.rfc3339(),
            "op": version.operation.name(),
            "previous": version.previous.map(|(id, _)| id.to_string()),
            "previous_time": version.previous.map(|(_, time)| time.rfc3339()),
        });
        let head = head.to_string();
        write(&mut out, head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
        write(&mut out, b",\"row\":")?;
        match &version.record {
            None => write(&mut out, b"null")?,
            Some(record) => {
                let writer = row_writer(&outcome.reader, &record.table);
                writer.row(&record.row, &record.cells, &mut out).await?;
            }
        }
        write(&mut out, b"}")?;
    }
    write(&mut out, b"]}\n")?;
    Ok(out.flush().map_err(value::Error::from)?)
}

/// Each version as its time and what changed.
fn history_text(output: &Output, outcome: &history::Outcome) -> Result<(), AnyFailure> {
    if outcome.versions.is_empty() {
        let snapshots = render::counted(outcome.snapshots, "snapshot");
        return output.done(&format!("no record of that key was found in {snapshots}\n"));
    }
    let mut earlier: Vec<(String, String, Vec<u8>)> = Vec::new();
    for version in &outcome.versions {
        let values = match &version.record {
            None => Vec::new(),
            Some(record) => named_values(&record.table, &record.row)?,
        };
        let mut text = format!(
            "{}  {}  {}",
            render::time(version.time),
            version.snapshot.short(),
            version.operation.name()
        );
        if let Some((id, time)) = version.previous {
            text.push_str(&format!(" since {}  {}", render::time(time), id.short()));
        }
        text.push('\n');
        for (name, value, bytes) in &values {
            let known = earlier.iter().find(|(other, ..)| other == name);
            match known {
                Some((_, _, old)) if old == bytes => {}
                Some((_, old, _)) => {
                    text.push_str(&format!(
                        "  {}\n",
                        render::plain(&format!("{name}: {old} → {value}"))
                    ));
                }
                None => text.push_str(&format!(
                    "  {}\n",
                    render::plain(&format!("{name}: {value}"))
                )),
            }
        }
        output.text(&text)?;
        earlier = values;
    }
    Ok(())
}
