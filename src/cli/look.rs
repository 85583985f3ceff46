//! `snapshots`, `show`, `stats` and `verify`: what there is, and whether it is whole.
//!
//! Invariant: nothing here opens a row but `verify` with data, and a writer's key can do the rest.

use clap::Args;
use serde::Serialize;

use crate::cli::relations;
use crate::cli::render::{self, Side};
use crate::cli::session::Session;
use crate::document::SnapshotDocument;
use crate::failure::{AnyFailure, Class};
use crate::format::manifest::{Manifest, ManifestTable};
use crate::id::SourceName;
use crate::job::verify::Data;
use crate::job::{stats, verify};
use crate::repo::catalog::Snapshot;

/// Arguments of `snapshots`.
#[derive(Args, Clone, Debug)]
pub struct Snapshots {
    /// Only those of this source
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
}

#[derive(Serialize)]
struct SnapshotsDocument {
    snapshots: Vec<SnapshotDocument>,
}

/// Runs `snapshots`.
///
/// # Errors
/// Missing: no such source; the repository's.
pub async fn snapshots(session: &Session, arguments: &Snapshots) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let chosen: Vec<&Snapshot> = match &arguments.source {
        Some(name) => catalog.source(name)?.snapshots.iter().collect(),
        None => catalog.snapshots(),
    };
    if session.output.is_json() {
        let snapshots = chosen.iter().map(|one| SnapshotDocument::new(one));
        let snapshots = snapshots.collect();
        session.output.document(&SnapshotsDocument { snapshots })?;
        return Ok(0);
    }
    if chosen.is_empty() {
        session
            .output
            .text("no snapshots yet; take one: rowvault backup SOURCE\n")?;
        return Ok(0);
    }
    let now = session.clock.now();
    let columns = [
        ("id", Side::Left),
        ("source", Side::Left),
        ("time (UTC)", Side::Left),
        ("age", Side::Left),
        ("rows", Side::Right),
        ("stored", Side::Right),
        ("verified", Side::Left),
    ];
    let row = |snapshot: &&Snapshot| {
        let record = &snapshot.record;
        vec![
            record.id.short(),
            snapshot.source.to_string(),
            render::time(record.taken_at),
            short_age(&render::ago(record.taken_at, now)),
            render::count(record.totals.rows),
            render::size(record.totals.bytes_stored),
            snapshot
                .verified_at
                .map_or("never".into(), |time| render::ago(time, now)),
        ]
    };
    let rows: Vec<Vec<String>> = chosen.iter().map(row).collect();
    session.output.text(&render::table(&columns, &rows))?;
    Ok(0)
}

fn short_age(text: &str) -> String {
    text.trim_end_matches(" ago").to_owned()
}

/// Arguments of `show`.
#[derive(Args, Clone, Debug)]
pub struct Show {
    /// An id or 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// List how its tables refer to each other, declared or by a CRM's convention
    #[arg(long)]
    pub relations: bool,
}

#[derive(Serialize)]
struct ShowDocument<'a> {
    id: String,
    source: String,
    time: String,
    rows: u64,
    bytes_stored: u64,
    verified_at: Option<String>,
    mode: &'static str,
    engine: &'a crate::row::schema::Engine,
    tags: &'a [String],
    host: &'a str,
    program: &'a str,
    facts: &'a std::collections::BTreeMap<String, String>,
    warnings: &'a [String],
    tables: Vec<TableDocument>,
}

#[derive(Serialize)]
struct TableDocument {
    name: String,
    rows: u64,
    runs: u64,
    bytes_raw: u64,
    bytes_stored: u64,
    key: Vec<String>,
}

fn key_of(table: &ManifestTable) -> Vec<String> {
    let name = |&(at, _): &(usize, crate::row::schema::KeyOrder)| {
        table
            .table
            .columns
            .get(at)
            .map(|column| column.name.clone())
    };
    let key = table.table.key.as_ref();
    key.map_or(Vec::new(), |key| {
        key.columns.iter().filter_map(name).collect()
    })
}

/// Runs `show`.
///
/// # Errors
/// Missing or Invalid: no such snapshot; the repository's.
pub async fn show(session: &Session, arguments: &Show) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let manifest = opened.manifest(snapshot).await?;
    if arguments.relations {
        relations::show(session, snapshot, &manifest)?;
        return Ok(0);
    }
    if !session.output.is_json() {
        session
            .output
            .text(&show_text(session, snapshot, &manifest))?;
        return Ok(0);
    }
    let table = |table: &ManifestTable| TableDocument {
        name: table.table.name.to_string(),
        rows: table.rows,
        runs: table.stack.len() as u64,
        bytes_raw: table.bytes_raw,
        bytes_stored: table.bytes_stored,
        key: key_of(table),
    };
    let head = SnapshotDocument::new(snapshot);
    session.output.document(&ShowDocument {
        id: head.id,
        source: head.source,
        time: head.time,
        rows: head.rows,
        bytes_stored: head.bytes_stored,
        verified_at: head.verified_at,
        mode: manifest.mode.name(),
        engine: &manifest.engine,
        tags: &snapshot.record.tags,
        host: &manifest.host,
        program: &manifest.program,
        facts: &manifest.facts,
        warnings: &manifest.warnings,
        tables: manifest.tables.iter().map(table).collect(),
    })?;
    Ok(0)
}

fn show_text(session: &Session, snapshot: &Snapshot, manifest: &Manifest) -> String {
    let (record, totals) = (&snapshot.record, &snapshot.record.totals);
    let now = session.clock.now();
    let mut text = format!(
        "snapshot {} of {}, {}\n  taken {} UTC ({}) on {} by {}, mode {}\n  {}, {}; read {}, stored {}\n",
        record.id,
        snapshot.source,
        manifest.engine,
        render::time(record.taken_at),
        render::ago(record.taken_at, now),
        render::plain(&manifest.host),
        render::plain(&manifest.program),
        manifest.mode.name(),
        render::counted(totals.tables, "table"),
        render::counted(totals.rows, "row"),
        render::size(totals.bytes_read),
        render::size(totals.bytes_stored),
    );
    if !record.tags.is_empty() {
        text.push_str(&format!(
            "  tags: {}\n",
            render::plain(&record.tags.join(", "))
        ));
    }
    for warning in &manifest.warnings {
        text.push_str(&format!("  warning: {}\n", render::plain(warning)));
    }
    let columns = [
        ("table", Side::Left),
        ("rows", Side::Right),
        ("runs", Side::Right),
        ("raw", Side::Right),
        ("stored", Side::Right),
        ("key", Side::Left),
    ];
    let row = |table: &ManifestTable| {
        let key = key_of(table);
        let rows = match table.table.with_rows {
            true => render::count(table.rows),
            false => "(structure)".into(),
        };
        vec![
            table.table.name.to_string(),
            rows,
            table.stack.len().to_string(),
            render::size(table.bytes_raw),
            render::size(table.bytes_stored),
            if key.is_empty() {
                "(none)".into()
            } else {
                key.join(", ")
            },
        ]
    };
    let rows: Vec<Vec<String>> = manifest.tables.iter().map(row).collect();
    text.push('\n');
    text.push_str(&render::table(&columns, &rows));
    text
}

/// Arguments of `stats`.
#[derive(Args, Clone, Debug)]
pub struct Stats {}

#[derive(Serialize)]
struct StatsDocument {
    sources: Vec<SourceDocument>,
    packs: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct SourceDocument {
    source: String,
    snapshots: u64,
    bytes_stored: u64,
    tables: Vec<TableSizeDocument>,
}

#[derive(Serialize)]
struct TableSizeDocument {
    name: String,
    rows: u64,
    bytes_raw: u64,
    bytes_stored: u64,
}

/// Runs `stats`.
///
/// # Errors
/// The repository's.
pub async fn stats(session: &Session) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let sizes = stats::run(&opened).await?;
    if session.output.is_json() {
        let table = |table: &stats::TableSize| TableSizeDocument {
            name: table.name.clone(),
            rows: table.rows,
            bytes_raw: table.bytes_raw,
            bytes_stored: table.bytes_stored,
        };
        let source = |source: &stats::SourceSize| SourceDocument {
            source: source.source.to_string(),
            snapshots: source.snapshots,
            bytes_stored: source.bytes_stored,
            tables: source.tables.iter().map(table).collect(),
        };
        session.output.document(&StatsDocument {
            sources: sizes.sources.iter().map(source).collect(),
            packs: sizes.packs,
            bytes: sizes.bytes,
        })?;
        return Ok(0);
    }
    let columns = [
        ("source", Side::Left),
        ("table", Side::Left),
        ("rows", Side::Right),
        ("raw", Side::Right),
        ("stored", Side::Right),
    ];
    let mut rows = Vec::new();
    for source in &sizes.sources {
        rows.push(vec![
            source.source.to_string(),
            format!("({})", render::counted(source.snapshots, "snapshot")),
            String::new(),
            String::new(),
            render::size(source.bytes_stored),
        ]);
        rows.extend(source.tables.iter().map(|table| {
            vec![
                String::new(),
                table.name.clone(),
                render::count(table.rows),
                render::size(table.bytes_raw),
                render::size(table.bytes_stored),
            ]
        }));
    }
    let packs = render::counted(sizes.packs, "pack");
    let total = format!("\n{packs} in the storage, {}\n", render::size(sizes.bytes));
    session
        .output
        .text(&(render::table(&columns, &rows) + &total))?;
    Ok(0)
}

/// Arguments of `verify`.
#[derive(Args, Clone, Debug)]
pub struct Verify {
    /// These snapshots [default: all]
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// How much of the data is read, opened and hashed: none, N%, or all
    #[arg(long, value_name = "SHARE", default_value = "none")]
    pub data: Data,
    /// First make lost and damaged index objects anew from the packs (owner only)
    #[arg(long)]
    pub repair_index: bool,
}

#[derive(Serialize)]
struct VerifyDocument {
    ok: bool,
    snapshots: u64,
    packs: u64,
    chunks: u64,
    bytes_read: u64,
    errors: Vec<FindingDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<RepairedDocument>,
}

#[derive(Serialize)]
struct RepairedDocument {
    packs: u64,
    chunks: u64,
    indexes: u64,
    left: Vec<String>,
}

#[derive(Serialize)]
struct FindingDocument {
    object: String,
    what: String,
    snapshots: Vec<String>,
    tables: Vec<String>,
}

/// Runs `verify`; what is damaged is printed, and the exit code is 3.
///
/// # Errors
/// Missing or Invalid: no such snapshot; the repository's.
pub async fn verify(session: &Session, arguments: &Verify) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let repaired = match arguments.repair_index {
        true => Some(verify::repair_index(&opened).await?),
        false => None,
    };
    let catalog = opened.catalog().await?;
    let chosen: Vec<&Snapshot> = match arguments.snapshots.is_empty() {
        true => catalog.snapshots(),
        false => {
            let texts = arguments.snapshots.iter();
            let chosen = texts.map(|text| session.snapshot(&catalog, text));
            chosen.collect::<Result<_, _>>()?
        }
    };
    let outcome = verify::run(&opened, &chosen, arguments.data).await?;
    let ok = outcome.findings.is_empty();
    if let Some(repaired) = &repaired
        && !session.output.is_json()
    {
        session.output.done(&repaired_text(repaired))?;
    }
    if session.output.is_json() {
        let document = verify_document(&outcome, repaired.as_ref());
        session.output.document(&document)?;
    } else if ok {
        session.output.done(&verified_text(&outcome))?;
    } else {
        session.output.text(&findings_text(&outcome))?;
    }
    Ok(if ok { 0 } else { Class::Corrupt.exit_code() })
}

fn repaired_text(repaired: &verify::Repaired) -> String {
    let mut text = format!(
        "index: {} with {} indexed anew, {} taken away\n",
        render::counted(repaired.packs, "pack"),
        render::counted(repaired.chunks, "chunk"),
        render::counted(repaired.indexes, "damaged object"),
    );
    for left in &repaired.left {
        text.push_str(&format!("  not repaired: {}\n", render::plain(left)));
    }
    text
}

fn verify_document(
    outcome: &verify::Outcome,
    repaired: Option<&verify::Repaired>,
) -> VerifyDocument {
    let finding = |finding: &verify::Finding| FindingDocument {
        object: finding.object.clone(),
        what: finding.what.clone(),
        snapshots: finding.snapshots.iter().map(ToString::to_string).collect(),
        tables: finding.tables.clone(),
    };
    VerifyDocument {
        ok: outcome.findings.is_empty(),
        snapshots: outcome.snapshots,
        packs: outcome.packs,
        chunks: outcome.chunks,
        bytes_read: outcome.bytes_read,
        errors: outcome.findings.iter().map(finding).collect(),
        repaired: repaired.map(|repaired| RepairedDocument {
            packs: repaired.packs,
            chunks: repaired.chunks,
            indexes: repaired.indexes,
            left: repaired.left.clone(),
        }),
    }
}

fn verified_text(outcome: &verify::Outcome) -> String {
    let read = match outcome.bytes_read {
        0 => "no data was read (--data all reads it)".into(),
        bytes => format!("{} read", render::size(bytes)),
    };
    format!(
        "whole: {}, {}, {}; {read}; {}\n",
        render::counted(outcome.snapshots, "snapshot"),
        render::counted(outcome.packs, "pack"),
        render::counted(outcome.chunks, "chunk"),
        render::duration(outcome.duration),
    )
}

fn findings_text(outcome: &verify::Outcome) -> String {
    let damaged = render::counted(outcome.findings.len() as u64, "object");
    let mut text = format!("DAMAGED: {damaged}\n");
    for finding in &outcome.findings {
        let what = render::plain(&finding.what);
        text.push_str(&format!("  {}: {what}\n", finding.object));
        let short: Vec<String> = finding.snapshots.iter().map(|id| id.short()).collect();
        if !short.is_empty() {
            let tables = render::plain(&finding.tables.join(", "));
            text.push_str(&format!(
                "    hurts snapshot {}: {tables}\n",
                short.join(", ")
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_none_percent_or_all() {
        for (text, data) in [
            ("none", Some(Data::None)),
            ("0%", Some(Data::None)),
            ("5%", Some(Data::Percent(5))),
            ("99%", Some(Data::Percent(99))),
            ("100%", Some(Data::All)),
            ("all", Some(Data::All)),
            ("5", None),
            ("101%", None),
            ("-1%", None),
        ] {
            assert_eq!(text.parse().ok(), data, "{text}");
        }
    }
}
