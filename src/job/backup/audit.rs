//! The audit that goes with a full snapshot: is what was stored before what was read then?
//!
//! The walk has compared the shadow with the counts and digests of the snapshot that it mirrors.
//! Who holds the reader's key also reads that snapshot's stacks back, and compares what comes out
//! with the digests of the rows that were read from the source at that time. A difference is an
//! integrity error; the new snapshot, which builds on nothing older, is kept.

use crate::failure::{AnyFailure, Class, Failure};
use crate::job::Opened;
use crate::job::backup::{Ground, Outcome, Reading, Request};
use crate::repo::catalog::Snapshot;
use crate::repo::shadow::How;
use crate::repo::table::{self, StackReader};

/// Compares the snapshot before with what was read when it was taken, if this one is an audit;
/// `wrong` is what the walk found.
///
/// # Errors
/// Corrupt: they differ.
pub(super) async fn compare(
    opened: &Opened,
    ground: &Ground,
    request: &Request,
    outcome: &Outcome,
    mut wrong: Vec<String>,
) -> Result<(), AnyFailure> {
    let asked = ground.how == How::Audit || request.reading == Reading::All;
    let before = ground.newest.as_ref().filter(|_| asked);
    let Some(before) = before else {
        return Ok(());
    };
    if opened.vault.access.may_read() {
        opened.progress.stage("auditing", None);
        wrong.extend(read_back(opened, before).await?);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(AnyFailure::new(
        Class::Corrupt,
        format!(
            "snapshot {} was taken and is kept, but snapshot {} before it is not what was read then: {}",
            outcome.record.id.short(),
            before.record.id.short(),
            wrong.join("; ")
        ),
        Some(
            "run 'rowvault verify --data all' to see which snapshots are hurt, and report this"
                .into(),
        ),
    ))
}

/// What is wrong with the stacks of a snapshot.
async fn read_back(opened: &Opened, before: &Snapshot) -> Result<Vec<String>, AnyFailure> {
    let manifest = opened.manifest(before).await?;
    let reader = opened.reader().await?;
    let mut wrong = Vec::new();
    for table in &manifest.tables {
        let drained = async {
            let mut stack = StackReader::open(reader.clone(), table).await?;
            while let Some(rows) = stack.next().await? {
                let bytes = rows.rows.bytes().len() as u64;
                opened.progress.advance(bytes, rows.rows.len() as u64);
            }
            Ok::<_, table::Error>(())
        };
        match drained.await {
            Ok(()) => {}
            Err(error) if error.class() == Class::Corrupt => {
                let name = &table.table.name;
                wrong.push(format!("table {name}: {}", AnyFailure::from(error)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(wrong)
}
