//! Maintenance: what is kept, what is forgotten, and what is swept after it.
//!
//! Forgetting is an entry in a ledger and deletes nothing; a prune deletes what nothing living
//! needs, in two runs with a waiting time between. Invariant: everything that is deleted was first
//! forgotten by somebody who may, or never was a snapshot.

mod forget;
mod lock;
mod prune;

pub use forget::{
    ForgetOutcome, ForgetRequest, ForgetSource, KeptSnapshot, Times, forget, forget_told,
};
pub use prune::{Effect, Hosts, PruneOutcome, PruneRequest, prune, prune_told};

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Head, Treated};
use crate::job::Opened;
use crate::repo::catalog::Snapshot;

/// Keeps a snapshot from being forgotten, until it is unpinned or `until` has come.
///
/// # Errors
/// The storage's; Denied where our entry would not count.
pub async fn pin(
    opened: &Opened,
    snapshot: &Snapshot,
    reason: &str,
    until: Option<Timestamp>,
) -> Result<Head, AnyFailure> {
    let treated = treated(snapshot, reason, until);
    record(opened, snapshot, Event::Pinned(treated)).await
}

/// Takes away all pins of a snapshot.
///
/// # Errors
/// As [`pin`]; it takes the right to forget.
pub async fn unpin(opened: &Opened, snapshot: &Snapshot) -> Result<Head, AnyFailure> {
    let signer = opened.vault.access.signer.id();
    let next = snapshot.entry + 1;
    if !opened.keyring.may_forget(&signer, &snapshot.source, next) {
        return Err(denied("unpin snapshots"));
    }
    record(
        opened,
        snapshot,
        Event::Unpinned(treated(snapshot, "", None)),
    )
    .await
}

/// Adds a tag to a snapshot.
///
/// # Errors
/// As [`pin`]; Invalid where the tag is empty or longer than 64 characters.
pub async fn tag(opened: &Opened, snapshot: &Snapshot, text: &str) -> Result<Head, AnyFailure> {
    check_tag(text)?;
    record(
        opened,
        snapshot,
        Event::Tagged(treated(snapshot, text, None)),
    )
    .await
}

/// Refuses what can be no tag.
///
/// # Errors
/// Invalid: it is empty, longer than 64 characters, or has control characters.
pub fn check_tag(text: &str) -> Result<(), AnyFailure> {
    if text.is_empty() || text.chars().count() > 64 || text.chars().any(char::is_control) {
        return Err(AnyFailure::new(
            Class::Invalid,
            format!("{text:?} is no tag"),
            Some("use 1 to 64 characters on one line".into()),
        ));
    }
    Ok(())
}

fn treated(snapshot: &Snapshot, text: &str, until: Option<Timestamp>) -> Treated {
    Treated {
        snapshot: snapshot.record.id,
        text: text.to_owned(),
        until,
    }
}

async fn record(opened: &Opened, snapshot: &Snapshot, event: Event) -> Result<Head, AnyFailure> {
    let signer = opened.vault.access.signer.id();
    let next = snapshot.entry + 1;
    if !opened.keyring.may_write(&signer, &snapshot.source, next) {
        return Err(denied("change snapshots of this source"));
    }
    opened.record(&snapshot.source, event).await
}

fn denied(what: &str) -> AnyFailure {
    AnyFailure::new(
        Class::Denied,
        format!("this key may not {what}"),
        Some(
            "use the owner's passphrase or key file, or a writer's that was made with --may-forget"
                .into(),
        ),
    )
}
