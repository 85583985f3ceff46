//! Freezing: a snapshot after an unusual change stops the forgetting of what was before it.
//!
//! The counts of the last snapshots are compared by `unusual`; what stands out puts a "frozen"
//! entry into the ledger, and nothing of the source is forgotten or swept until a person has
//! looked and thawed it. Invariant: looking reads manifests alone, so that a writer's key is
//! enough, and a freeze takes nothing away.

use chrono_tz::Tz;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Head, Reason};
use crate::format::manifest::{Manifest, Mode};
use crate::id::SourceName;
use crate::job::Opened;
use crate::repo::catalog::Snapshot;
use crate::unusual::{self, Count, Day, Floor, LOOKED_AT, Unusual};

/// How many manifests are fetched at once.
const FETCHED_AT_ONCE: usize = 8;

/// What is looked at, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The source.
    pub name: SourceName,
    /// The zone of its weekdays.
    pub zone: Tz,
    /// What is never unusual.
    pub floor: Floor,
}

/// Something unusual in the newest snapshot of a source.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// What.
    pub found: Vec<Unusual>,
    /// The newest snapshot.
    pub newest: Snapshot,
    /// The last snapshot before.
    pub quiet: Snapshot,
}

impl Alarm {
    /// What was found, in a sentence.
    pub fn reason(&self) -> String {
        let found: Vec<String> = self.found.iter().map(Unusual::to_string).collect();
        let id = self.newest.record.id.short();
        format!("snapshot {id}: {}", found.join("; "))
    }

    /// The commands that show how to bring the rows back.
    pub fn remedies(&self) -> Vec<String> {
        let (quiet, newest) = (self.quiet.record.id.short(), self.newest.record.id.short());
        let source = &self.newest.source;
        let mut commands: Vec<String> = Vec::new();
        for one in &self.found {
            let table = &one.table;
            let command = match one.what {
                unusual::What::Deleted => {
                    format!("rowvault undelete {quiet} --into {source} --table {table} --missing")
                }
                unusual::What::Overwritten | unusual::What::Incompressible => format!(
                    "rowvault undelete {quiet} --into {source} --changed --until {newest} --table {table}"
                ),
            };
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        commands
    }
}

/// Compares the newest snapshot of a source with those before it; none where all is as usual, or
/// the source is frozen already.
///
/// # Errors
/// The repository's.
pub async fn look(opened: &Opened, request: &Request) -> Result<Option<Alarm>, AnyFailure> {
    let catalog = opened.catalog().await?;
    let source = catalog.source(&request.name)?;
    let mut snapshots = source.snapshots.iter().rev().take(LOOKED_AT + 1);
    let (Some(newest), None) = (snapshots.next(), &source.frozen) else {
        return Ok(None);
    };
    let before: Vec<&Snapshot> = snapshots.collect();
    let Some(quiet) = before.first() else {
        return Ok(None);
    };
    let today = day_of(&opened.manifest(newest).await?);
    let fetched = before.iter().map(|snapshot| opened.manifest(snapshot));
    let fetched = stream::iter(fetched).buffered(FETCHED_AT_ONCE);
    let past: Vec<Day> = fetched
        .map_ok(|manifest| day_of(&manifest))
        .try_collect()
        .await?;
    let found = unusual::judge(&today, &past, request.zone, request.floor);
    let alarm = (!found.is_empty()).then(|| Alarm {
        found,
        newest: newest.clone(),
        quiet: (*quiet).clone(),
    });
    Ok(alarm)
}

fn day_of(manifest: &Manifest) -> Day {
    let with_rows = manifest.tables.iter().filter(|table| table.table.with_rows);
    let tables = with_rows.map(|table| {
        let count = Count {
            rows: table.rows,
            put: table.rows_put,
            deleted: table.rows_deleted,
            is_full: manifest.mode == Mode::Full,
            bytes_stored: table.bytes_stored,
        };
        (table.table.name.to_string(), count)
    });
    Day {
        at: manifest.taken_at,
        tables: tables.collect(),
    }
}

/// Freezes a source.
///
/// # Errors
/// The storage's.
pub async fn freeze(
    opened: &Opened,
    name: &SourceName,
    reason: String,
) -> Result<Head, AnyFailure> {
    let event = Event::Frozen(Reason { text: reason });
    opened.record(name, event).await
}

/// Ends a freeze; why it was frozen.
///
/// # Errors
/// Conflict: it is not frozen; Denied: this key may not forget, and so not let others forget.
pub async fn thaw(
    opened: &Opened,
    name: &SourceName,
    reason: String,
) -> Result<String, AnyFailure> {
    let catalog = opened.catalog().await?;
    let source = catalog.source(name)?;
    let Some(frozen) = source.frozen.clone() else {
        return Err(AnyFailure::new(
            Class::Conflict,
            format!("source {name} is not frozen"),
            None,
        ));
    };
    let signer = opened.vault.access.signer.id();
    let next = source.head().map_or(1, |head| head.number + 1);
    if !opened.keyring.may_forget(&signer, name, next) {
        return Err(AnyFailure::new(
            Class::Denied,
            format!("this key may not thaw {name}"),
            Some("use the owner's passphrase or key file, or a writer's that was made with --may-forget".into()),
        ));
    }
    opened
        .record(name, Event::Thawed(Reason { text: reason }))
        .await?;
    Ok(frozen)
}
