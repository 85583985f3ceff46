//! Key slots in the storage: made, tried, listed and taken away.
//!
//! A slot's name is drawn and its object created once, so two owners never write the same one.
//! Invariant: a slot counts only where it was read back as it was written, and the last slot that
//! can open the repository is not taken away.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Error, Unlock};
use crate::clock::Timestamp;
use crate::crypto;
use crate::crypto::key::{RootSecret, SymmetricKey};
use crate::crypto::keyslot::{
    self as wrapping, PassphraseCost, PassphraseLock, SlotPlace, WrappedRoot,
};
use crate::format::keyslot::text::{KeyFile, SlotKey};
use crate::format::keyslot::{self, KeySlot, Lock};
use crate::format::object;
use crate::id::{RepositoryId, SlotId};
use crate::random::{Random, draw};
use crate::recipient;
use crate::repo::vault::{self, Vault};
use crate::store::{self, Created, ObjectPath, Prefix, Store};

/// Most slots that are looked at.
pub const SLOTS_MAX: usize = 256;
const FETCHES_AT_ONCE: usize = 8;

/// What a drawn secret is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// A key file.
    KeyFile,
    /// A recovery sheet.
    RecoverySheet,
}

/// The key slots of a repository, as the storage has them.
#[derive(Debug, Default)]
pub struct Slots {
    /// Those that are whole and ours.
    pub whole: Vec<KeySlot>,
    /// The names of others: damaged, newer, or no slot at all, and what is wrong with each.
    pub damaged: Vec<(String, object::Error)>,
    /// The names of whole slots of other repositories, such as an `init` that was cut short left.
    pub strange: Vec<String>,
}

/// What a slot says of itself when it is made.
pub(super) struct Making<'a> {
    pub root: &'a RootSecret,
    pub repository: RepositoryId,
    pub created: Timestamp,
    pub label: &'a str,
}

impl Making<'_> {
    fn slot(&self, slot: SlotId, lock: Lock) -> KeySlot {
        KeySlot {
            repository: self.repository,
            slot,
            created: self.created,
            label: self.label.to_owned(),
            lock,
        }
    }

    /// A slot that a passphrase opens.
    pub(super) async fn passphrase(
        &self,
        passphrase: &SecretString,
        cost: PassphraseCost,
        random: &Arc<dyn Random>,
    ) -> Result<KeySlot, Error> {
        let empty = PassphraseLock {
            cost,
            salt: [0; 16],
            wrapped: WrappedRoot([0; WrappedRoot::BYTES]),
        };
        let mut made = self.slot(SlotId::draw(random.as_ref()), lock_of(empty));
        let (root, slot, passphrase) = (self.root.clone(), made.clone(), passphrase.clone());
        let random = random.clone();
        let lock = off_thread(move || {
            let secret = passphrase.expose_secret().as_bytes();
            wrapping::wrap_passphrase(&root, &place(&slot), secret, cost, random.as_ref())
        })
        .await??;
        made.lock = lock_of(lock);
        Ok(made)
    }

    /// A slot that the holder of an `age` identity opens.
    pub(super) async fn recipient(
        &self,
        recipient: &str,
        random: &dyn Random,
    ) -> Result<KeySlot, Error> {
        let slot = SlotId::draw(random);
        let (root, repository) = (self.root.clone(), self.repository);
        let to = recipient.trim().to_owned();
        let file = off_thread(move || recipient::wrap(&to, &root, repository, slot)).await??;
        let recipient = recipient.trim().to_owned();
        Ok(self.slot(slot, Lock::Recipient { recipient, file }))
    }

    /// The slot that `key` opens.
    pub(super) fn secret(&self, key: &SlotKey, keeping: Keeping, random: &dyn Random) -> KeySlot {
        let empty = [0; keyslot::WRAPPED_BYTES];
        let lock = |wrapped| match keeping {
            Keeping::KeyFile => Lock::KeyFile { wrapped },
            Keeping::RecoverySheet => Lock::Recovery { wrapped },
        };
        let mut made = self.slot(key.slot, lock(empty));
        let secret = SymmetricKey::from_bytes(*key.secret);
        made.lock = lock(wrapping::wrap_secret(self.root, &place(&made), &secret, random).0);
        made
    }
}

/// Refuses whoever may not change keys, before anything is made ready.
///
/// # Errors
/// Denied to all but the owner.
pub fn check_may_change(vault: &Vault, verb: &'static str) -> Result<(), Error> {
    root(vault, verb).map(drop)
}

/// Draws what opens a new slot of `repository`: to be kept durably before the slot is made.
pub fn draw_key(repository: RepositoryId, random: &dyn Random) -> SlotKey {
    SlotKey {
        repository,
        slot: SlotId::draw(random),
        secret: Zeroizing::new(draw(random)),
    }
}

/// Adds a slot that `passphrase` (1 byte to 1 MiB) opens.
///
/// # Errors
/// Denied to writers; Invalid: an empty or too long passphrase, a cost outside of its bounds.
pub async fn add_passphrase(
    vault: &Vault,
    passphrase: &SecretString,
    cost: PassphraseCost,
    label: &str,
) -> Result<SlotId, Error> {
    let making = making(vault, label, "add a passphrase")?;
    let slot = making.passphrase(passphrase, cost, &vault.random).await?;
    put(&vault.store, &slot).await
}

/// Adds a slot that the identity of an `age` recipient opens.
///
/// # Errors
/// Denied to writers; Invalid: not a recipient; a plugin that is missing or fails.
pub async fn add_recipient(vault: &Vault, recipient: &str, label: &str) -> Result<SlotId, Error> {
    let making = making(vault, label, "add a recipient")?;
    let slot = making.recipient(recipient, vault.random.as_ref()).await?;
    put(&vault.store, &slot).await
}

/// Adds the slot that `key`, from [`draw_key`], opens.
///
/// # Errors
/// Denied to writers; the storage's.
pub async fn add_key(
    vault: &Vault,
    key: &SlotKey,
    keeping: Keeping,
    label: &str,
) -> Result<SlotId, Error> {
    let making = making(vault, label, "add a key")?;
    let slot = making.secret(key, keeping, vault.random.as_ref());
    put(&vault.store, &slot).await
}

/// Takes the slot `name` away.
///
/// # Errors
/// Denied to writers; [`Error::UnknownSlot`]; [`Error::LastSlot`] where no other whole slot is left.
pub async fn remove(vault: &Vault, name: &str) -> Result<(), Error> {
    root(vault, "remove a key slot")?;
    let slots = read_all(&vault.store, vault.realm.repository).await?;
    let named = |slot: &KeySlot| slot.slot.to_string() == name;
    let ours = slots.whole.iter().any(named);
    let other = slots.damaged.iter().any(|(slot, _)| slot == name)
        || slots.strange.iter().any(|slot| slot == name);
    let slot = || name.to_owned();
    if !ours && !other {
        return Err(Error::UnknownSlot { slot: slot() });
    }
    if ours && slots.whole.len() == 1 {
        return Err(Error::LastSlot { slot: slot() });
    }
    vault.store.delete(&ObjectPath::Key(slot())).await?;
    Ok(())
}

/// Reads all key slots of `repository`.
///
/// # Errors
/// The storage's; [`Error::ManySlots`]. What cannot be read as a slot is no error here.
pub async fn read_all(store: &Store, repository: RepositoryId) -> Result<Slots, Error> {
    let listing = store.list(Prefix::Keys).await?;
    let count = listing.objects.len();
    if count > SLOTS_MAX {
        let most = SLOTS_MAX;
        return Err(Error::ManySlots { count, most });
    }
    let names = listing
        .objects
        .into_iter()
        .filter_map(|one| match one.path {
            ObjectPath::Key(name) => Some(name),
            _ => None,
        });
    let read: Vec<(String, Read)> = stream::iter(names)
        .map(|name| async move {
            let read = read(store, repository, &name).await?;
            Ok::<_, Error>((name, read))
        })
        .buffered(FETCHES_AT_ONCE)
        .try_collect()
        .await?;
    let mut slots = Slots::default();
    for (name, read) in read {
        match read {
            Read::Whole(slot) => slots.whole.push(*slot),
            Read::Damaged(error) => slots.damaged.push((name, error)),
            Read::Strange => slots.strange.push(name),
            Read::Gone => {}
        }
    }
    slots.whole.sort_by_key(|slot| (slot.created, slot.slot));
    Ok(slots)
}

enum Read {
    Whole(Box<KeySlot>),
    Damaged(object::Error),
    Strange,
    Gone,
}

async fn read(store: &Store, repository: RepositoryId, name: &str) -> Result<Read, Error> {
    let foreign = Read::Damaged(object::Error::Foreign { what: "key slot" });
    let Ok(slot) = name.parse::<SlotId>() else {
        return Ok(foreign);
    };
    let bytes = match store.get(&ObjectPath::Key(name.to_owned())).await {
        Ok(bytes) => bytes,
        // Taken away since it was listed.
        Err(error) if error.is_missing() => return Ok(Read::Gone),
        Err(store::Error::Corrupt { .. }) => return Ok(foreign),
        Err(error) => return Err(error.into()),
    };
    Ok(match keyslot::read(&bytes, repository, slot) {
        Ok(slot) => Read::Whole(Box::new(slot)),
        Err(object::Error::Misplaced {
            field: "repository",
            ..
        }) => Read::Strange,
        Err(error) => Read::Damaged(error),
    })
}

/// Creates the object of a slot, and reads it back: a key that was not kept is worse than none.
pub(super) async fn put(store: &Store, slot: &KeySlot) -> Result<SlotId, Error> {
    let path = ObjectPath::Key(slot.slot.to_string());
    let body = bytes::Bytes::from(keyslot::write(slot)?);
    let created = store.create(&path, body.clone(), token(&slot.lock)).await?;
    let unread = |source| Error::Unread {
        what: format!("key slot {}", slot.slot),
        source,
    };
    if created != Created::Ours || store.get(&path).await.map_err(unread)? != body {
        return Err(Error::SlotLost { slot: slot.slot });
    }
    Ok(slot.slot)
}

/// The drawn bytes in a slot by which its maker knows it again.
fn token(lock: &Lock) -> &[u8] {
    match lock {
        Lock::Passphrase { wrapped, .. }
        | Lock::KeyFile { wrapped }
        | Lock::Recovery { wrapped } => &wrapped[8..32],
        Lock::Recipient { file, .. } => &file[file.len().saturating_sub(32)..],
    }
}

/// Opens the root with what the caller has.
pub(super) async fn unlock(
    store: &Store,
    repository: RepositoryId,
    unlock: &Unlock,
) -> Result<RootSecret, Error> {
    let elsewhere = |belongs| Error::KeyFileElsewhere {
        belongs,
        found: repository,
    };
    match unlock {
        Unlock::KeyFile(KeyFile::Slot(key)) if key.repository != repository => {
            Err(elsewhere(key.repository))
        }
        Unlock::KeyFile(KeyFile::Slot(key)) => unlock_by_secret(store, key).await,
        Unlock::KeyFile(KeyFile::Writer(_)) => Err(vault::Error::OwnerOnly {
            verb: "open a key slot",
        }
        .into()),
        Unlock::KeyFile(KeyFile::AgeIdentity(text)) => {
            let slots = read_all(store, repository).await?;
            unlock_by_identity(store, slots, text).await
        }
        Unlock::Passphrase(passphrase) => {
            let slots = read_all(store, repository).await?;
            unlock_by_passphrase(store, slots, passphrase).await
        }
    }
}

async fn unlock_by_secret(store: &Store, key: &SlotKey) -> Result<RootSecret, Error> {
    let name = key.slot.to_string();
    let bytes = match store.get(&ObjectPath::Key(name.clone())).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Err(Error::NoSlot { slot: name }),
        Err(error) => return Err(error.into()),
    };
    let slot = keyslot::read(&bytes, key.repository, key.slot)
        .map_err(|source| Error::Slot { slot: name, source })?;
    let (Lock::KeyFile { wrapped } | Lock::Recovery { wrapped }) = &slot.lock else {
        return Err(crypto::Error::WrongKeyFile.into());
    };
    let secret = SymmetricKey::from_bytes(*key.secret);
    Ok(wrapping::unwrap_secret(
        &WrappedRoot(*wrapped),
        &place(&slot),
        &secret,
    )?)
}

async fn unlock_by_passphrase(
    store: &Store,
    slots: Slots,
    passphrase: &SecretString,
) -> Result<RootSecret, Error> {
    let mut tried = 0;
    let mut altered = None;
    for slot in &slots.whole {
        let Some(lock) = passphrase_lock(&slot.lock) else {
            continue;
        };
        tried += 1;
        let (slot, passphrase) = (slot.clone(), passphrase.clone());
        let opened = off_thread(move || {
            let secret = passphrase.expose_secret().as_bytes();
            wrapping::unwrap_passphrase(&lock, &place(&slot), secret)
        });
        match opened.await? {
            Ok(root) => return Ok(root),
            Err(crypto::Error::WrongPassphrase) => {}
            // What is wrong with the passphrase itself is wrong with it for every slot.
            Err(
                error @ (crypto::Error::PassphraseEmpty | crypto::Error::PassphraseLong { .. }),
            ) => return Err(error.into()),
            Err(error) => altered = Some(error),
        }
    }
    match altered {
        Some(error) => Err(error.into()),
        None if tried > 0 => Err(Error::WrongPassphrase {
            damaged: names(slots.damaged),
        }),
        None => Err(none_of(store, slots, "passphrase")),
    }
}

async fn unlock_by_identity(
    store: &Store,
    slots: Slots,
    identities: &Zeroizing<String>,
) -> Result<RootSecret, Error> {
    let mut failed = None;
    for slot in &slots.whole {
        let Lock::Recipient { file, .. } = &slot.lock else {
            continue;
        };
        let (repository, name) = (slot.repository, slot.slot);
        let (file, identities) = (file.clone(), identities.clone());
        let opened =
            off_thread(move || recipient::unwrap(&identities, &file, repository, name)).await?;
        match (opened, &failed) {
            (Ok(root), _) => return Ok(root),
            // A slot that is not for us says nothing; anything else is worth telling.
            (Err(error), None | Some(recipient::Error::NoMatch)) => failed = Some(error),
            (Err(_), Some(_)) => {}
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Err(none_of(store, slots, "recipient")),
    }
}

/// Why there was nothing to try.
fn none_of(store: &Store, mut slots: Slots, kind: &'static str) -> Error {
    if slots.whole.is_empty() && !slots.strange.is_empty() {
        return Error::StrangeSlots {
            url: store.url().to_owned(),
        };
    }
    if slots.whole.is_empty() && !slots.damaged.is_empty() {
        let (slot, source) = slots.damaged.swap_remove(0);
        return Error::Slot { slot, source };
    }
    Error::NoSlotOfKind {
        kind,
        damaged: names(slots.damaged),
    }
}

fn names(damaged: Vec<(String, object::Error)>) -> Vec<String> {
    damaged.into_iter().map(|(name, _)| name).collect()
}

fn passphrase_lock(lock: &Lock) -> Option<PassphraseLock> {
    let Lock::Passphrase {
        memory_kib,
        passes,
        lanes,
        salt,
        wrapped,
    } = lock
    else {
        return None;
    };
    Some(PassphraseLock {
        cost: PassphraseCost {
            memory_kib: *memory_kib,
            passes: *passes,
            lanes: *lanes,
        },
        salt: *salt,
        wrapped: WrappedRoot(*wrapped),
    })
}

fn lock_of(lock: PassphraseLock) -> Lock {
    Lock::Passphrase {
        memory_kib: lock.cost.memory_kib,
        passes: lock.cost.passes,
        lanes: lock.cost.lanes,
        salt: lock.salt,
        wrapped: lock.wrapped.0,
    }
}

fn place(slot: &KeySlot) -> SlotPlace<'_> {
    SlotPlace {
        repository: slot.repository,
        slot: slot.slot,
        kind: slot.lock.kind(),
        created: slot.created,
        label: &slot.label,
    }
}

/// The root secret, which only the owner has.
pub(super) fn root<'a>(vault: &'a Vault, verb: &'static str) -> Result<&'a RootSecret, Error> {
    let root = vault.access.root.as_ref();
    root.ok_or_else(|| vault::Error::OwnerOnly { verb }.into())
}

fn making<'a>(vault: &'a Vault, label: &'a str, verb: &'static str) -> Result<Making<'a>, Error> {
    Ok(Making {
        root: root(vault, verb)?,
        repository: vault.realm.repository,
        created: vault.clock.now(),
        label,
    })
}

/// Runs what takes long or may block away from the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Worker)
}
