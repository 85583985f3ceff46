//! Making a repository: nothing, or one that opens.
//!
//! The key slots are written first and the object `repository` last, created where none stands;
//! that is the moment from which there is a repository. Invariant: whatever stands in the storage
//! is left alone until that moment, and after it only slots that were there before and open
//! nothing here, which an `init` that was cut short left behind, are taken away.

use std::sync::Arc;

use bytes::Bytes;
use secrecy::SecretString;

use super::{EPOCH, Error, Opening, slot, writer};
use crate::clock::Timestamp;
use crate::crypto::key::RootSecret;
use crate::crypto::keyslot::PassphraseCost;
use crate::crypto::sign::SIGNATURE_BYTES;
use crate::failpoint;
use crate::format::keyring::Keyring;
use crate::format::keyslot::KeySlot;
use crate::format::keyslot::text::SlotKey;
use crate::format::repository::{self, Repository};
use crate::id::{RepositoryId, SlotId};
use crate::random::{Random, draw};
use crate::repo::keys::slot::{Keeping, Making};
use crate::repo::vault::{Access, Vault};
use crate::store::{Created, Listing, ObjectPath, Prefix, Replaced, Store, Versioned};

/// A repository that is not there yet: its identity, its root, and the slots that will open it.
pub struct Draft {
    repository: RepositoryId,
    root: RootSecret,
    created: Timestamp,
    random: Arc<dyn Random>,
    slots: Vec<KeySlot>,
}

impl Draft {
    /// Draws a repository without slots.
    pub fn draw(opening: &Opening) -> Draft {
        Draft {
            repository: RepositoryId(draw(opening.random.as_ref())),
            root: RootSecret::draw(opening.random.as_ref()),
            created: opening.clock.now(),
            random: opening.random.clone(),
            slots: Vec::new(),
        }
    }

    /// The repository that it will be.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// When it was drawn.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    fn making<'a>(&'a self, label: &'a str) -> Making<'a> {
        Making {
            root: &self.root,
            repository: self.repository,
            created: self.created,
            label,
        }
    }

    /// Adds a slot that `passphrase` opens.
    ///
    /// # Errors
    /// As [`slot::add_passphrase`].
    pub async fn add_passphrase(
        &mut self,
        passphrase: &SecretString,
        cost: PassphraseCost,
        label: &str,
    ) -> Result<SlotId, Error> {
        let making = self.making(label);
        let made = making.passphrase(passphrase, cost, &self.random).await?;
        Ok(self.push(made))
    }

    /// Adds a slot that the identity of an `age` recipient opens.
    ///
    /// # Errors
    /// As [`slot::add_recipient`].
    pub async fn add_recipient(&mut self, recipient: &str, label: &str) -> Result<SlotId, Error> {
        let making = self.making(label);
        let made = making.recipient(recipient, self.random.as_ref()).await?;
        Ok(self.push(made))
    }

    /// Adds a slot with a drawn secret, and gives what opens it: to be kept durably before the
    /// repository is created.
    pub fn add_key(&mut self, keeping: Keeping, label: &str) -> SlotKey {
        let key = slot::draw_key(self.repository, self.random.as_ref());
        let made = self
            .making(label)
            .secret(&key, keeping, self.random.as_ref());
        self.push(made);
        key
    }

    fn push(&mut self, made: KeySlot) -> SlotId {
        let name = made.slot;
        self.slots.push(made);
        name
    }

    fn object(&self, chunk_target_bytes: u32) -> Result<Bytes, Error> {
        let owner = self.root.owner(self.repository);
        let repository = Repository {
            id: self.repository,
            created: self.created,
            chunk_target_bytes,
            owner: owner.id(),
            features: Vec::new(),
        };
        let sign = |signed: &[u8]| owner.sign(repository::SIGNATURE_CONTEXT, signed);
        Ok(Bytes::from(repository::write(&repository, sign)?))
    }
}

/// Refuses a place where anything stands that a new repository would mix with. What an `init` that
/// was cut short leaves is let pass: key slots without a repository, the torn start of one.
///
/// # Errors
/// Conflict: [`Error::Taken`] by a repository, [`Error::NotEmpty`] by anything else.
pub async fn check_vacant(store: &Store) -> Result<(), Error> {
    find_leftovers(store).await.map(drop)
}

/// What an `init` that was cut short left.
struct Leftovers {
    slots: Vec<ObjectPath>,
    torn: Option<Versioned>,
}

async fn find_leftovers(store: &Store) -> Result<Leftovers, Error> {
    let torn = find_torn(store).await?;
    let Listing { objects, foreign } = store.list(Prefix::All).await?;
    let mut others: Vec<String> = foreign;
    let mut slots = Vec::new();
    for one in objects {
        match one.path {
            ObjectPath::Key(_) => slots.push(one.path),
            ObjectPath::Repository if torn.is_some() => {}
            // What a probe that was cut short leaves; the next probe takes it away.
            ObjectPath::Probe(..) => {}
            path => others.push(path.to_path()),
        }
    }
    match others.as_slice() {
        [] => Ok(Leftovers { slots, torn }),
        [first, more @ ..] => Err(Error::NotEmpty {
            url: store.url().to_owned(),
            found: match more.len() {
                0 => first.clone(),
                more => format!("{first} and {more} more"),
            },
        }),
    }
}

/// The start of a `repository` object whose writing was cut short; none where there is no object.
async fn find_torn(store: &Store) -> Result<Option<Versioned>, Error> {
    let found = match store.get_versioned(&ObjectPath::Repository).await {
        Ok(found) => found,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match taken(store, &found.bytes) {
        error if error.is_unfinished() => Ok(Some(found)),
        error => Err(error),
    }
}

fn taken(store: &Store, bytes: &[u8]) -> Error {
    let url = store.url().to_owned();
    match repository::read(bytes, |_, _, _| true) {
        Ok(found) => Error::Taken {
            url,
            id: found.id.to_string(),
        },
        Err(source) => Error::Repository { url, source },
    }
}

/// Makes the repository that `draft` is. A failure before its end leaves none, and the next try
/// starts anew.
///
/// # Errors
/// Conflict, as [`check_vacant`], also where another `init` was faster.  Invalid: a chunk target
/// outside of its bounds.  Unsettled: it may have been made; try to open it.
///
/// # Panics
/// Where the draft has no slot: nobody could ever open it.
pub async fn create(
    opening: Opening,
    draft: Draft,
    chunk_target_bytes: u32,
) -> Result<(Vault, Keyring), Error> {
    assert!(!draft.slots.is_empty(), "a repository needs a key slot");
    let store = &opening.store;
    let object = draft.object(chunk_target_bytes)?;
    let leftovers = find_leftovers(store).await?;
    for made in &draft.slots {
        slot::put(store, made).await?;
    }
    failpoint::reach("init: slots stored");
    if let Some(error) = publish(store, object, leftovers.torn).await? {
        // The winner's repository stands; our slots open nothing. That they stay harms nobody.
        for made in &draft.slots {
            let _ = store.delete(&ObjectPath::Key(made.slot.to_string())).await;
        }
        return Err(error);
    }
    for leftover in &leftovers.slots {
        // It opens nothing here: that one stays behind is no reason to call the making failed.
        let _ = store.delete(leftover).await;
    }
    let access = Access::owner(draft.root, draft.repository, EPOCH);
    let keyring = writer::of_owner_alone(access.owner, draft.created);
    let vault = opening.vault(access, draft.repository, chunk_target_bytes);
    Ok((vault, keyring))
}

/// Makes `object` the object `repository`, or says who was faster.
async fn publish(
    store: &Store,
    object: Bytes,
    torn: Option<Versioned>,
) -> Result<Option<Error>, Error> {
    let path = ObjectPath::Repository;
    let Some(torn) = torn else {
        // The owner's signature is what nobody else writes.
        let token = object.slice(object.len() - SIGNATURE_BYTES..);
        let created = store.create(&path, object, &token).await?;
        return Ok(match created {
            Created::Ours => None,
            Created::Anothers(found) => Some(taken(store, &found)),
        });
    };
    Ok(match store.replace(&path, object, &torn.version).await? {
        Replaced::Ours(_) => None,
        Replaced::Anothers(found) => {
            let found = found.map(|found| found.bytes).unwrap_or_default();
            Some(taken(store, &found))
        }
    })
}
