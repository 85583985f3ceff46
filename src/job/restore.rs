//! Makes a database again from a snapshot, beside, and publishes it once it is proven equal.
//!
//! The walk is that of [`crate::job::staging`]. Invariant: a restore that fails takes away what it
//! made.

use std::sync::Arc;
use std::time::Duration;

use crate::failpoint;
use crate::failure::AnyFailure;
use crate::format::ledger::{Event, Recovered};
use crate::job::Opened;
use crate::job::staging::{self, Plan, discard};
use crate::repo::catalog::Snapshot;
use crate::row::schema::Structure;
use crate::source::{Published, Target};

/// What was restored.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Where it is.
    pub published: Published,
    /// Tables that were made.
    pub tables: u64,
    /// Rows that were loaded.
    pub rows: u64,
    /// How long it took, the read-back included.
    pub duration: Duration,
    /// How long reading the target back and comparing took.
    pub read_back: Duration,
    /// The structure that was made.
    pub structure: Structure,
}

/// Restores `snapshot` into `target`.
///
/// # Errors
/// Denied with a writer's key; Corrupt where anything needed is damaged; the target's. What was
/// made is then taken away again.
pub async fn run(
    opened: &Opened,
    snapshot: &Snapshot,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("restore")?;
    let work = async {
        let restored = restore(opened, snapshot, target).await?;
        record(opened, &restored).await;
        Ok(restored)
    };
    opened.reading(&snapshot.source, work).await
}

/// Restores `snapshot` into `target` for somebody who goes on with it; no ledger hears of it.
///
/// # Errors
/// As [`run`].
pub async fn stage(
    opened: &Opened,
    snapshot: &Snapshot,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("restore")?;
    let work = restore(opened, snapshot, target);
    opened.reading(&snapshot.source, work).await
}

/// What is needed to restore the tables that `names` names, as a person does.
///
/// # Errors
/// Denied with a writer's key; Missing with the nearest names; as [`staging::plan`].
pub async fn plan_tables(
    opened: &Opened,
    snapshot: &Snapshot,
    names: &[String],
) -> Result<Plan, AnyFailure> {
    opened.vault.reader("restore")?;
    staging::plan_of(opened, snapshot, names).await
}

/// Restores the tables of `plan` into `target`.
///
/// # Errors
/// As [`run`].
pub async fn run_tables(
    opened: &Opened,
    snapshot: &Snapshot,
    plan: Plan,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    let work = async {
        let start = opened.vault.clock.elapsed();
        let restored = walk(opened, snapshot, plan, target, start).await?;
        record(opened, &restored).await;
        Ok(restored)
    };
    opened.reading(&snapshot.source, work).await
}

async fn restore(
    opened: &Opened,
    snapshot: &Snapshot,
    target: &mut dyn Target,
) -> Result<Outcome, AnyFailure> {
    let start = opened.vault.clock.elapsed();
    let plan = staging::plan(opened, snapshot).await?;
    walk(opened, snapshot, plan, target, start).await
}

async fn walk(
    opened: &Opened,
    snapshot: &Snapshot,
    plan: Plan,
    target: &mut dyn Target,
    start: Duration,
) -> Result<Outcome, AnyFailure> {
    let clock = opened.vault.clock.clone();
    let staged = staging::stage(opened, &plan, target, &Arc::default()).await?;
    failpoint::reach("restore: compared");
    let published = match target.publish().await {
        Ok(published) => published,
        Err(error) => return Err(discard(target, error).await),
    };
    failpoint::reach("restore: published");
    Ok(Outcome {
        snapshot: snapshot.clone(),
        published,
        tables: plan.manifest.tables.len() as u64,
        rows: staged.rows,
        duration: clock.elapsed() - start,
        read_back: staged.spent.read_back,
        structure: plan.structure,
    })
}

/// The ledger hears of it; a restore that worked does not fail because the storage is read-only.
async fn record(opened: &Opened, restored: &Outcome) {
    let snapshot = &restored.snapshot;
    let event = Event::Restored(Recovered {
        snapshot: snapshot.record.id,
        place: restored.published.place.clone(),
        rows: restored.rows,
        facts: [("verified".to_owned(), "true".to_owned())].into(),
    });
    if let Err(error) = opened.record(&snapshot.source, event).await {
        let warning = format!("the ledger could not be told of this restore: {error}");
        opened.progress.warn(&warning);
    }
}
