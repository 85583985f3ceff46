//! One customer's whole record as a document: what requests for data portability ask for.
//!
//! From the rows that are asked for it goes down to all that refers to them and up to what they name,
//! by the relations that `undelete` follows. Invariant: every row says why it is there, and what
//! could not be followed is said.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::failure::{AnyFailure, Class};
use crate::job::Opened;
use crate::job::export::{Beside, Written, refuse_standing};
use crate::repo::catalog::Snapshot;
use crate::repo::records::{Side, SnapshotRows, Sought};
use crate::repo::value::{Error, Form, RowWriter};
use crate::row::closure::relation::Relations;
use crate::row::closure::{Closure, Dependents, Question, Standing};
use crate::row::filter::Conditions;

/// Whose record, and where to.
#[derive(Clone, Debug)]
pub struct Request {
    /// The table, as a person names it.
    pub table: String,
    /// Keys, as a person writes them; none where conditions choose.
    pub keys: Vec<String>,
    /// Conditions, all of which must hold.
    pub conditions: Vec<String>,
    /// How far relations are followed.
    pub dependents: Dependents,
    /// Relations that no foreign key declares.
    pub relations: Relations,
    /// The new file.
    pub out: PathBuf,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The file; its rows are those of all tables.
    pub written: Written,
    /// How many rows of each table it holds.
    pub tables: BTreeMap<String, u64>,
    /// What could not be followed.
    pub notes: Vec<String>,
}

/// Writes the record.
///
/// # Errors
/// Denied with a writer's key; Missing where nothing is found; Invalid for a table, a key or a
/// condition that cannot be meant; Conflict where a file stands in the way; the storage's. No file
/// has then got its name.
pub async fn run(
    opened: &Opened,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("export rows")?;
    refuse_standing(&request.out)?;
    let work = export(opened, snapshot, request);
    opened.reading(&snapshot.source, work).await
}

async fn export(
    opened: &Opened,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    let manifest = Arc::new(opened.manifest(snapshot).await?);
    let mut rows = SnapshotRows::new(opened.record_reader().await?, manifest);
    opened.progress.stage("following relations", None);
    let closure = gather(&mut rows, request).await?;
    opened.progress.stage("writing the record", None);
    let outcome = write(snapshot, &rows, &closure, request).await;
    opened.progress.end();
    outcome
}

/// All rows of the record.
async fn gather(rows: &mut SnapshotRows, request: &Request) -> Result<Closure, AnyFailure> {
    let at = rows.table(&request.table)?;
    rows.may_choose(at)?;
    let of = &rows.tables()[at].table;
    let conditions = Arc::new(Conditions::parse(of, &request.conditions)?);
    let chosen = match request.keys.is_empty() {
        false => rows.named(at, &request.keys).await?,
        true => rows.fitting(at, &conditions).await?,
    };
    if chosen.is_empty() {
        let what = format!("no row of table {} fits", rows.tables()[at].table.name);
        let hint = "'rowvault find' tells what is there";
        return Err(AnyFailure::new(Class::Missing, what, Some(hint.into())));
    }
    let mut closure = empty(rows, request).await?;
    for one in &chosen {
        closure.ask_for(at, &one.row)?;
    }
    loop {
        let questions = closure.questions();
        if questions.is_empty() {
            return Ok(closure);
        }
        let sought = answer(&mut closure, &questions)?;
        rows.follow(&mut closure, sought).await?;
    }
}

async fn empty(rows: &mut SnapshotRows, request: &Request) -> Result<Closure, AnyFailure> {
    let tables: Vec<_> = rows.tables().iter().map(|one| one.table.clone()).collect();
    let mut relations = request.relations.among(&tables);
    if request.relations.content_types {
        relations.extend(rows.content_types().await?);
    }
    let engine = rows.engine();
    let dependents = request.dependents;
    Ok(Closure::new(engine, tables, &relations, dependents))
}

/// Every row of the snapshot is as good as lost: what must be looked for to answer.
fn answer(
    closure: &mut Closure,
    questions: &[Question],
) -> Result<BTreeMap<Sought, usize>, AnyFailure> {
    let mut sought = BTreeMap::new();
    for question in questions {
        let (side, edge, member, reference) = match *question {
            Question::Standing(member) => {
                closure.stands(member, Standing::Absent)?;
                continue;
            }
            Question::Parent { edge, child } => {
                let row = &closure.members()[child].row;
                (Side::Parent, edge, child, closure.reference(edge, row)?)
            }
            Question::Dependents { edge, parent } => {
                let row = &closure.members()[parent].row;
                (Side::Child, edge, parent, closure.referred(edge, row)?)
            }
        };
        if let Some(reference) = reference {
            sought.insert((side, edge, reference), member);
        }
    }
    Ok(sought)
}

/// What the relations lead to and the document has not.
fn notes(closure: &Closure) -> Vec<String> {
    let name = |table: usize| &closure.tables()[table].name;
    let note = |&(child, parent): &(usize, usize)| {
        let why = match closure.tables()[child].with_rows {
            true => "its rows have no key",
            false => "only its structure was captured",
        };
        let (child, parent) = (name(child), name(parent));
        format!("rows of {child} that refer to {parent} are not here: {why}")
    };
    closure.uncovered().iter().map(note).collect()
}

fn text(value: &str) -> String {
    serde_json::to_string(value).expect("a text is JSON")
}

/// Writes the document beside its name, and gives it the name when it is whole.
async fn write(
    snapshot: &Snapshot,
    rows: &SnapshotRows,
    closure: &Closure,
    request: &Request,
) -> Result<Outcome, AnyFailure> {
    let mut beside = Beside::create(&request.out)?;
    let out = &mut beside.out;
    let head = format!(
        "{{\"snapshot\":\"{}\",\"source\":{},\"time\":\"{}\",\"tables\":[",
        snapshot.record.id,
        text(snapshot.source.as_str()),
        snapshot.record.taken_at.rfc3339()
    );
    out.write_all(head.as_bytes()).map_err(Error::from)?;
    let mut of_table: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, member) in closure.members().iter().enumerate() {
        of_table.entry(member.table).or_default().push(at);
    }
    let mut tables = BTreeMap::new();
    for (nth, (table, mut members)) in of_table.into_iter().enumerate() {
        members.sort_by_key(|&member| &closure.members()[member].key);
        let between = if nth > 0 { "," } else { "" };
        let name = closure.tables()[table].name.to_string();
        let begin = format!("{between}\n{{\"table\":{},\"rows\":[", text(&name));
        out.write_all(begin.as_bytes()).map_err(Error::from)?;
        write_table(rows, closure, (table, &members), out).await?;
        out.write_all(b"]}").map_err(Error::from)?;
        tables.insert(name, members.len() as u64);
    }
    let notes = notes(closure);
    let end = serde_json::to_string(&notes).expect("texts are JSON");
    let end = format!("],\n\"notes\":{end}}}\n");
    out.write_all(end.as_bytes()).map_err(Error::from)?;
    let count = closure.members().len() as u64;
    let table = rows.tables()[rows.table(&request.table)?]
        .table
        .name
        .to_string();
    let written = beside.finish(table, count)?;
    Ok(Outcome {
        written,
        tables,
        notes,
    })
}

async fn write_table(
    rows: &SnapshotRows,
    closure: &Closure,
    (table, members): (usize, &[usize]),
    out: &mut BufWriter<std::fs::File>,
) -> Result<(), AnyFailure> {
    let columns = closure.tables()[table].columns.iter().enumerate();
    let shown = columns.filter(|(_, column)| !column.hidden);
    let named = shown.map(|(at, column)| (at, column.name.as_str()));
    let writer = RowWriter::new(rows.reader(), Form::Json, named);
    for (nth, &member) in members.iter().enumerate() {
        let between = if nth > 0 { "," } else { "" };
        let begin = format!(
            "{between}\n{{\"key\":{},\"why\":{},\"row\":",
            text(&closure.key_text(member)?),
            text(&closure.why(member)?)
        );
        out.write_all(begin.as_bytes()).map_err(Error::from)?;
        writer
            .row(&closure.members()[member].row, rows.cells(), out)
            .await?;
        out.write_all(b"}").map_err(Error::from)?;
    }
    Ok(())
}
