//! Locks kept alive: what living snapshots need stays locked while they live.
//!
//! Whatever is written is locked for a span; a snapshot may live longer. At half the span all that
//! is needed and old is locked for a whole span anew. Invariant: nothing is deleted here.

use std::collections::HashSet;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::object::{Kind, read_body};
use crate::id::ObjectId;
use crate::job::Opened;
use crate::repo::catalog::Catalog;
use crate::repo::index::Index;
use crate::repo::prune::Places;
use crate::store::{Listed, ObjectPath, Prefix};

/// When everything was locked anew last.
const EXTENDED_FILE: &str = "lock-extended";
/// How many locks are extended at once.
const AT_ONCE: usize = 8;

/// Locks what is needed anew where that is due; gives how many objects that were.
///
/// # Errors
/// The storage's.
pub(super) async fn extend(
    opened: &Opened,
    catalog: &Catalog,
    (index, kept): (&Index, &Places),
    now: Timestamp,
) -> Result<u64, AnyFailure> {
    let Some(span) = opened.vault.store.lock_span() else {
        return Ok(0);
    };
    let last = read_extended(opened)?;
    if last.is_some_and(|last| last.plus(span / 2) > now) {
        return Ok(0);
    }
    opened.progress.stage("extending locks", None);
    let mut packs: HashSet<ObjectId> = HashSet::new();
    for number in (0..index.len()).filter(|number| kept.has(*number)) {
        packs.insert(index.place(number).0.id);
    }
    let snapshots = catalog.snapshots();
    let manifests: HashSet<ObjectId> = snapshots.iter().map(|one| one.record.manifest).collect();
    let indexes: HashSet<ObjectId> = index.objects.iter().map(|object| object.id).collect();
    let needed = |one: &Listed| match &one.path {
        ObjectPath::Pack(id) => packs.contains(id),
        ObjectPath::Index(id) => indexes.contains(id),
        ObjectPath::Manifest(_, id) => manifests.contains(id),
        ObjectPath::Ledger(..) => true,
        _ => false,
    };
    let mut due = Vec::new();
    for prefix in [
        Prefix::Packs,
        Prefix::Indexes,
        Prefix::Manifests,
        Prefix::Ledgers,
    ] {
        let listing = opened.vault.store.list(prefix).await?;
        // What is young is locked for long enough by its writer.
        let old = |one: &Listed| one.modified.plus(span / 4) < now;
        due.extend(
            listing
                .objects
                .into_iter()
                .filter(|one| needed(one) && old(one)),
        );
    }
    let until = now.plus(span);
    let count = due.len() as u64;
    stream::iter(due)
        .map(
            async |one| match opened.vault.store.extend_lock(&one.path, until).await {
                // It is locked for longer already, by another span.
                Err(error) if error.class() == Class::Denied => Ok(()),
                extended => extended,
            },
        )
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let sealed = opened.vault.seal_state(EXTENDED_FILE, &now);
    opened
        .state
        .write(EXTENDED_FILE, &sealed, opened.vault.random.as_ref())?;
    Ok(count)
}

fn read_extended(opened: &Opened) -> Result<Option<Timestamp>, AnyFailure> {
    let Some(sealed) = opened.state.read(EXTENDED_FILE)? else {
        return Ok(None);
    };
    // What cannot be read costs one request an object.
    let body = opened.vault.open(Kind::State, EXTENDED_FILE, &sealed).ok();
    Ok(body.and_then(|(_, body)| read_body(&body, EXTENDED_FILE).ok()))
}
