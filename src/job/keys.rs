//! `key`: who can open the repository, and who may write to it.
//!
//! A new key file is durable before the repository knows its key, and gets its name after.
//! Invariant: only the owner changes anything here; a run that was cut short is brought to its end
//! by the next one with the same arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::clock::Timestamp;
use crate::crypto::keyslot::PassphraseCost;
use crate::failpoint;
use crate::failure::AnyFailure;
use crate::format::keyring::{Keyring, Writer};
use crate::format::keyslot::text::{KeyFile, SlotKey};
use crate::format::keyslot::{KeySlot, Lock};
use crate::id::{SlotId, SourceName};
use crate::repo::keys::file::{Staged, recovery_sheet};
use crate::repo::keys::slot::{self, Keeping};
use crate::repo::keys::writer::{self, Rights};
use crate::repo::keys::{self, check_keyring_seen};
use crate::repo::vault::Vault;
use crate::state::State;

/// A key slot, as a list prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// Its name.
    pub slot: String,
    /// Passphrase, recipient, key file or recovery; none where it cannot be read.
    pub kind: Option<&'static str>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What its maker called it.
    pub label: String,
    /// Whose identity opens it.
    pub recipient: Option<String>,
    /// Why it opens nothing.
    pub problem: Option<String>,
}

/// Who can open the repository, and who may write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Key slots, the oldest first, those that open nothing last.
    pub slots: Vec<SlotFacts>,
    /// Writers, the revoked ones included.
    pub writers: Vec<Writer>,
}

/// Lists slots and writers; a writer may ask too, since all of it lies in the storage in clear or
/// is known to it.
///
/// # Errors
/// The storage's.
pub async fn list(vault: &Vault, keyring: &Keyring) -> Result<Listed, AnyFailure> {
    let found = slot::read_all(&vault.store, vault.realm.repository).await?;
    let mut slots: Vec<SlotFacts> = found.whole.iter().map(facts).collect();
    let damaged = found.damaged.iter();
    slots.extend(damaged.map(|(slot, error)| problem(slot, error.to_string())));
    let strange = found.strange.iter();
    slots.extend(strange.map(|slot| problem(slot, "it belongs to another repository".into())));
    Ok(Listed {
        slots,
        writers: keyring.writers.clone(),
    })
}

fn facts(slot: &KeySlot) -> SlotFacts {
    SlotFacts {
        slot: slot.slot.to_string(),
        kind: Some(slot.lock.name()),
        created: Some(slot.created),
        label: slot.label.clone(),
        recipient: match &slot.lock {
            Lock::Recipient { recipient, .. } => Some(recipient.clone()),
            _ => None,
        },
        problem: None,
    }
}

fn problem(slot: &str, problem: String) -> SlotFacts {
    SlotFacts {
        slot: slot.to_owned(),
        kind: None,
        created: None,
        label: String::new(),
        recipient: None,
        problem: Some(problem),
    }
}

/// What shall open the repository too.
pub enum Addition {
    /// A passphrase.
    Passphrase(SecretString, PassphraseCost),
    /// An `age` recipient.
    Recipient(String),
    /// A key file, which is made; none may stand there.
    KeyFile(PathBuf),
    /// A recovery sheet, which is made as a file; none may stand there.
    RecoverySheet(PathBuf),
}

/// What was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The slot.
    pub slot: SlotId,
    /// The file that was made.
    pub file: Option<PathBuf>,
}

/// Adds a key slot; for `key add` and `key recovery`.
///
/// # Errors
/// Denied to writers; Conflict: the file exists; Invalid: an empty passphrase, no recipient.
pub async fn add(vault: &Vault, addition: &Addition, label: &str) -> Result<Added, AnyFailure> {
    let (slot, file) = match addition {
        Addition::Passphrase(passphrase, cost) => {
            let added = slot::add_passphrase(vault, passphrase, *cost, label).await?;
            (added, None)
        }
        Addition::Recipient(recipient) => {
            (slot::add_recipient(vault, recipient, label).await?, None)
        }
        Addition::KeyFile(path) => add_key(vault, Keeping::KeyFile, path, label).await?,
        Addition::RecoverySheet(path) => {
            add_key(vault, Keeping::RecoverySheet, path, label).await?
        }
    };
    Ok(Added { slot, file })
}

async fn add_key(
    vault: &Vault,
    keeping: Keeping,
    path: &Path,
    label: &str,
) -> Result<(SlotId, Option<PathBuf>), keys::Error> {
    slot::check_may_change(vault, "add a key")?;
    if let Some((staged, KeyFile::Slot(key))) = Staged::find(path)
        && slot_stands(vault, &key).await?
    {
        return Ok((key.slot, Some(staged.publish()?)));
    }
    let key = slot::draw_key(vault.realm.repository, vault.random.as_ref());
    let text = match keeping {
        Keeping::KeyFile => key.text(),
        Keeping::RecoverySheet => recovery_sheet(&key, &vault.store, vault.clock.now()),
    };
    let staged = Staged::write(path, &text)?;
    failpoint::reach("key: file staged");
    let added = slot::add_key(vault, &key, keeping, label).await;
    failpoint::reach("key: slot stored");
    let slot = staged.keep_if(added)?;
    Ok((slot, Some(staged.publish()?)))
}

async fn slot_stands(vault: &Vault, key: &SlotKey) -> Result<bool, keys::Error> {
    let slots = slot::read_all(&vault.store, vault.realm.repository).await?;
    let here = key.repository == vault.realm.repository;
    Ok(here && slots.whole.iter().any(|slot| slot.slot == key.slot))
}

/// Takes a key slot away.
///
/// # Errors
/// Denied to writers, and where there is no such slot; Conflict: it is the last one.
pub async fn remove(vault: &Vault, slot: &str) -> Result<(), AnyFailure> {
    Ok(slot::remove(vault, slot).await?)
}

/// Enrols a writer, whose key file is made at `out`; none may stand there.
///
/// # Errors
/// Denied to writers; Conflict: the name is taken, the file exists, or another changed the
/// keyring at the same time.
pub async fn writer(
    vault: &Vault,
    state: &State,
    keyring: &Keyring,
    (name, rights): (&str, Rights),
    out: &Path,
) -> Result<Keyring, AnyFailure> {
    slot::check_may_change(vault, "enrol a writer")?;
    if let Some((staged, KeyFile::Writer(key))) = Staged::find(out)
        && key.repository == vault.realm.repository
        && keyring.is_active(&writer::signer_of(&key))
    {
        staged.publish().map_err(AnyFailure::from)?;
        return Ok(keyring.clone());
    }
    let key = writer::draw_key(vault, name)?;
    let text = key.text().map_err(keys::Error::from)?;
    let staged = Staged::write(out, &text)?;
    let next = staged.keep_if(writer::enrol(vault, keyring, &key, rights).await)?;
    failpoint::reach("writer: keyring stored");
    staged.publish()?;
    check_keyring_seen(vault, state, &next)?;
    Ok(next)
}

/// Revokes a writer: of each source only its entries up to the number in `heads` still count.
///
/// # Errors
/// Denied to writers, and where no such writer is active; Conflict: another changed the keyring
/// at the same time.
pub async fn revoke(
    vault: &Vault,
    state: &State,
    keyring: &Keyring,
    name: &str,
    heads: &BTreeMap<SourceName, u64>,
) -> Result<Keyring, AnyFailure> {
    let next = writer::revoke(vault, keyring, name, heads).await?;
    check_keyring_seen(vault, state, &next)?;
    Ok(next)
}
