//! Brings records back into a live database: a plan, and with it applied, one transaction.
//!
//! The rows asked for are found in the snapshot, what was lost with them and what they stand on is
//! followed along relations, and everything is compared with the live database in the transaction
//! that writes. Invariant: what stands in the plan is written whole or not at all, and nothing else
//! is touched.

pub mod choose;
pub mod fit;
pub mod overwritten;
pub mod plan;
pub mod planner;
pub mod request;
pub mod settle;
pub mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::failpoint;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::Recovered;
use crate::job::Opened;
pub use crate::job::undelete::request::{Choice, Mode, OnConflict, Overwritten, Request};

use crate::job::undelete::plan::Plan;
use crate::job::undelete::planner::Planner;
use crate::repo::catalog::Snapshot;
use crate::repo::owed::Owing;
use crate::repo::records::SnapshotRows;
use crate::source::{Live, Purpose};

/// How many bytes of keys of one table the ledger keeps.
const LEDGER_KEYS_BYTES_MAX: usize = 16 << 10;

/// What was planned and done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// Whether it was written.
    pub applied: bool,
    /// The statements that write it.
    pub sql: Vec<String>,
    /// The statements that take it back.
    pub undo_sql: Vec<String>,
    /// The ledger's entry about it.
    pub entry: Option<u64>,
}

/// Plans, and writes the plan where that is the mode.
///
/// # Errors
/// Denied with a writer's key, or without a right to write; Missing or Invalid for what cannot be
/// asked for; Conflict where the server refuses what was planned; the repository's. Nothing is then
/// written. Conflicts that the plan foresees are in the outcome.
pub async fn run(
    opened: &Opened,
    snapshot: &Snapshot,
    live: &mut dyn Live,
    request: &Request,
    mode: Mode,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("bring records back")?;
    opened.pay_owed().await;
    let work = undelete(opened, snapshot, live, request, mode);
    opened.reading(&snapshot.source, work).await
}

async fn undelete(
    opened: &Opened,
    snapshot: &Snapshot,
    live: &mut dyn Live,
    request: &Request,
    mode: Mode,
) -> Result<Outcome, AnyFailure> {
    let manifest = Arc::new(opened.manifest(snapshot).await?);
    let reader = opened.record_reader().await?;
    let mut rows = SnapshotRows::new(reader.clone(), manifest);
    let mut later = match &request.overwritten {
        Overwritten::PutBackUntil(until) => {
            let manifest = Arc::new(opened.manifest(until).await?);
            Some(SnapshotRows::new(reader, manifest))
        }
        _ => None,
    };
    if request.relations.content_types {
        rows.content_types().await?;
    }
    opened.progress.stage("planning", None);
    let looked = once(&mut rows, &mut later, live, request, Purpose::Look).await;
    opened.progress.end();
    let (mut outcome, _) = match looked {
        Ok(looked) => looked,
        Err(error) => return Err(abandoned(live, error).await),
    };
    live.abandon().await?;
    let stopped = !outcome.plan.conflicts.is_empty() && request.on_conflict == OnConflict::Stop;
    if mode == Mode::Plan || stopped || outcome.plan.changes.is_empty() {
        return Ok(outcome);
    }
    opened.progress.stage("writing", None);
    let written = once(&mut rows, &mut later, live, request, Purpose::Write).await;
    opened.progress.end();
    outcome = match written {
        Err(error) => return Err(abandoned(live, error).await),
        Ok((outcome, false)) => {
            live.abandon().await?;
            return Ok(outcome);
        }
        Ok((outcome, true)) => outcome,
    };
    outcome.entry = commit(
        opened,
        snapshot,
        live,
        recovered(snapshot, request, &outcome.plan),
    )
    .await?;
    outcome.applied = true;
    Ok(outcome)
}

/// Makes the rows durable. The entry is owed to the ledger from before that until the ledger has it;
/// what was written stays written if it cannot be told now.
async fn commit(
    opened: &Opened,
    snapshot: &Snapshot,
    live: &mut dyn Live,
    recovered: Recovered,
) -> Result<Option<u64>, AnyFailure> {
    let vault = &opened.vault;
    failpoint::reach("undelete: written");
    let begun = Owing::take(&opened.state).and_then(|owing| {
        let owed = owing.begin(vault, &snapshot.source, recovered)?;
        Ok((owing, owed))
    });
    let (owing, mut owed) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(abandoned(live, error.into()).await),
    };
    if let Err(error) = live.commit().await {
        // Where nobody knows whether it was written, the entry is owed, and will say so.
        if error.class() != Class::Unsettled {
            owing.settle(&owed)?;
        }
        return Err(error);
    }
    failpoint::reach("undelete: committed");
    let noted = owing.done(vault, &mut owed).map_err(AnyFailure::from);
    let told = opened.pay_one(&owing, &owed).await;
    match noted.and(told) {
        Ok(head) => Ok(Some(head.number)),
        Err(error) => {
            let warning = format!("the ledger could not be told of this: {error}");
            opened.progress.warn(&warning);
            Ok(None)
        }
    }
}

async fn abandoned(live: &mut dyn Live, error: AnyFailure) -> AnyFailure {
    // Nothing was written either way; what went wrong first is what a person must know.
    let _ = live.abandon().await;
    error
}

/// Plans in one transaction, and writes the plan into it where that is the purpose: then true.
async fn once(
    rows: &mut SnapshotRows,
    later: &mut Option<SnapshotRows>,
    live: &mut dyn Live,
    request: &Request,
    purpose: Purpose,
) -> Result<(Outcome, bool), AnyFailure> {
    let structure = live.begin(purpose).await?;
    let mut planner = Planner::new(rows, live, &structure, request);
    let chosen = planner.chosen().await?;
    match request.overwritten {
        Overwritten::Refuse => planner.ask_for(&chosen)?,
        _ => overwritten::plan(&mut planner, &chosen, later).await?,
    }
    planner.close().await?;
    settle::settle(&mut planner).await?;
    let planned = planner.done();
    let (sql, undo_sql) = match request.render {
        true => write::render(rows, live, &planned).await?,
        false => Default::default(),
    };
    let stopped = !planned.conflicts.is_empty() && request.on_conflict == OnConflict::Stop;
    let writes = purpose == Purpose::Write && !stopped;
    if writes {
        write::write(rows, live, &structure, &planned).await?;
    }
    let outcome = Outcome {
        plan: planned,
        applied: false,
        sql,
        undo_sql,
        entry: None,
    };
    Ok((outcome, writes))
}

/// What the ledger is told.
fn recovered(snapshot: &Snapshot, request: &Request, plan: &Plan) -> Recovered {
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    let inserted = plan
        .insert
        .iter()
        .map(|one| ("inserted", &one.table, &one.key));
    let updated = plan
        .update
        .iter()
        .map(|one| ("updated", &one.table, &one.key));
    for (what, table, key) in inserted.chain(updated) {
        let keys = facts.entry(format!("{what} {table}")).or_default();
        if keys.len() + key.len() < LEDGER_KEYS_BYTES_MAX {
            if !keys.is_empty() {
                keys.push(';');
            }
            keys.push_str(key);
        } else if !keys.ends_with('…') {
            keys.push('…');
        }
    }
    Recovered {
        snapshot: snapshot.record.id,
        place: request.place.clone(),
        rows: (plan.insert.len() + plan.update.len()) as u64,
        facts,
    }
}

impl Outcome {
    /// The failure that a plan with conflicts stands for.
    pub fn conflict(&self) -> AnyFailure {
        let count = self.plan.conflicts.len();
        let first = self.plan.conflicts.first();
        let first = first.map_or(String::new(), |one| {
            format!("; the first: {} {}: {}", one.table, one.key, one.what)
        });
        AnyFailure::new(
            Class::Conflict,
            format!("{count} rows cannot be brought back{first}"),
            Some("settle them, or leave them out: --on-conflict skip".into()),
        )
    }
}
