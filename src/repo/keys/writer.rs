//! Writers: enrolled and revoked by the owner, in a chain of keyrings.
//!
//! A repository without a keyring has its owner as its only writer; each change creates the next
//! number, which names the hash of the one before. Invariant: a keyring counts only where the
//! owner signed it, and a client that has seen one never accepts an earlier one.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use zeroize::Zeroizing;

use super::slot::root;
use super::{EPOCH, Error};
use crate::clock::Timestamp;
use crate::crypto::sign::SigningKey;
use crate::format::keyring::{Keyring, Sources, Writer};
use crate::format::keyslot::text::{self, WriterKey, is_name};
use crate::format::object::{Kind, read_body, write_body};
use crate::id::{ObjectId, SignerId, SourceName};
use crate::repo::vault::{self, Vault, object_id};
use crate::state::State;
use crate::store::{Created, ObjectPath, Prefix};

const FETCHES_AT_ONCE: usize = 16;
const SEEN_FILE: &str = "keyring";

/// What a writer may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Which sources it may write.
    pub sources: Sources,
    /// Whether its "forgotten" entries count.
    pub may_forget: bool,
}

/// The keyring of a repository that has none stored: number 0, the owner alone.
pub(super) fn of_owner_alone(owner: SignerId, created: Timestamp) -> Keyring {
    Keyring {
        number: 0,
        ..Keyring::first(owner, EPOCH.into(), created)
    }
}

/// Draws the key of a writer `name`: to be kept durably before it is enrolled.
///
/// # Errors
/// Denied to writers; Invalid: no name (`[a-z0-9._-]{1,64}`).
pub fn draw_key(vault: &Vault, name: &str) -> Result<WriterKey, Error> {
    root(vault, "enrol a writer")?;
    if !is_name(name) || name == "owner" {
        let name = name.to_owned();
        return Err(text::Error::Name { name }.into());
    }
    Ok(WriterKey {
        repository: vault.realm.repository,
        epoch: vault.realm.epoch.into(),
        shared: vault.access.shared.to_bytes(),
        reader: vault.access.reader_public.0,
        owner: vault.access.owner,
        seed: Zeroizing::new(*SigningKey::draw(vault.random.as_ref()).expose()),
        name: name.to_owned(),
    })
}

/// Who signs with the key of `key`'s file.
pub fn signer_of(key: &WriterKey) -> SignerId {
    SigningKey::from_seed(&key.seed).id()
}

/// Enrols the writer of `key`, from [`draw_key`]. `known` is the keyring that the caller has.
///
/// # Errors
/// Denied to writers; Conflict: the name is taken, or the keyring changed at the same time.
pub async fn enrol(
    vault: &Vault,
    known: &Keyring,
    key: &WriterKey,
    rights: Rights,
) -> Result<Keyring, Error> {
    root(vault, "enrol a writer")?;
    if known.writer(&key.name).is_some() {
        let name = key.name.clone();
        return Err(Error::WriterTaken { name });
    }
    let now = vault.clock.now();
    commit(vault, known, |keyring| {
        let writer = Writer {
            name: key.name.clone(),
            signer: signer_of(key),
            enrolled: now,
            sources: rights.sources,
            may_forget: rights.may_forget,
            counts: BTreeMap::new(),
            revoked: None,
        };
        Ok(keyring.enrol(writer)?)
    })
    .await
}

/// Revokes the writer `name`: of each source only the entries up to the number in `heads` still
/// count, and none of a source that is not in it.
///
/// # Errors
/// Denied to writers; [`Error::NotEnrolled`], [`Error::Revoked`]; Conflict: the keyring changed
/// at the same time.
pub async fn revoke(
    vault: &Vault,
    known: &Keyring,
    name: &str,
    heads: &BTreeMap<SourceName, u64>,
) -> Result<Keyring, Error> {
    root(vault, "revoke a writer")?;
    let not_enrolled = || Error::NotEnrolled {
        name: name.to_owned(),
    };
    if let Some(when) = known.writer(name).ok_or_else(not_enrolled)?.revoked {
        let name = name.to_owned();
        return Err(Error::Revoked { name, when });
    }
    let now = vault.clock.now();
    commit(vault, known, |keyring| {
        keyring.revoke(name, heads, now);
        Ok(())
    })
    .await
}

/// Creates the keyring after `known`, with one change.
async fn commit(
    vault: &Vault,
    known: &Keyring,
    change: impl FnOnce(&mut Keyring) -> Result<(), Error>,
) -> Result<Keyring, Error> {
    let number = known.number + 1;
    let race = || Error::KeyringRace { number };
    let mut next = match known.number {
        0 => Keyring {
            number,
            created: vault.clock.now(),
            ..known.clone()
        },
        last => {
            let bytes = vault.store.get(&ObjectPath::Keyring(last)).await?;
            if open(vault, last, &bytes)? != *known {
                return Err(race());
            }
            known.next(object_id(&bytes), vault.clock.now())
        }
    };
    change(&mut next)?;
    let path = ObjectPath::Keyring(number);
    let sealed = vault.seal(Kind::Keyring, &path.to_path(), &next.write()?);
    let token = Vault::token(&sealed).to_vec();
    let created = vault.store.create(&path, sealed.clone(), &token).await?;
    // Read back, for a storage that takes conditions and does not keep them.
    let unread = |source| Error::Unread {
        what: format!("keyring {number}"),
        source,
    };
    if created != Created::Ours || vault.store.get(&path).await.map_err(unread)? != sealed {
        return Err(race());
    }
    Ok(next)
}

/// The newest keyring, its chain and signatures checked.
pub(super) async fn read(vault: &Vault, made: Timestamp) -> Result<Keyring, Error> {
    let listing = vault.store.list(Prefix::Keyrings).await?;
    let numbers = listing
        .objects
        .into_iter()
        .filter_map(|one| match one.path {
            ObjectPath::Keyring(number) => Some(number),
            _ => None,
        });
    let mut chain = stream::iter(numbers)
        .map(|number| fetch(vault, number))
        .buffered(FETCHES_AT_ONCE);
    let mut newest = of_owner_alone(vault.access.owner, made);
    let mut before = None;
    while let Some((keyring, hash)) = chain.try_next().await? {
        let number = newest.number + 1;
        if keyring.number != number || keyring.previous != before {
            return Err(Error::KeyringBroken { number });
        }
        newest = keyring;
        before = Some(hash);
    }
    match newest.epoch == u32::from(EPOCH) {
        true => Ok(newest),
        false => Err(Error::Epoch {
            epoch: newest.epoch,
        }),
    }
}

async fn fetch(vault: &Vault, number: u64) -> Result<(Keyring, ObjectId), Error> {
    let bytes = vault.store.get(&ObjectPath::Keyring(number)).await?;
    Ok((open(vault, number, &bytes)?, object_id(&bytes)))
}

fn open(vault: &Vault, number: u64, bytes: &[u8]) -> Result<Keyring, Error> {
    let path = ObjectPath::Keyring(number);
    let (signer, body) = vault
        .open(Kind::Keyring, &path.to_path(), bytes)
        .map_err(|source| vault::Error::object(&path, source))?;
    let keyring =
        Keyring::read(&body, number).map_err(|source| vault::Error::body(&path, source))?;
    let owner = vault.access.owner;
    if signer != owner || keyring.owner != owner {
        return Err(vault::Error::Signer { path, signer }.into());
    }
    Ok(keyring)
}

/// Refuses a writer whom the keyring does not know, or knows no more.
pub(super) fn check_enrolled(
    keyring: &Keyring,
    key: &WriterKey,
    signer: &SignerId,
) -> Result<(), Error> {
    let found = keyring.writers.iter().find(|one| one.signer == *signer);
    match found {
        None => Err(Error::NotEnrolled {
            name: key.name.clone(),
        }),
        Some(Writer {
            name,
            revoked: Some(when),
            ..
        }) => Err(Error::Revoked {
            name: name.clone(),
            when: *when,
        }),
        Some(_) => Ok(()),
    }
}

/// Refuses a keyring older than one that this client has seen, and remembers this one.
///
/// # Errors
/// Corrupt: [`Error::KeyringRolledBack`], [`Error::KeyringMemory`]; the state directory's.
pub fn check_keyring_seen(vault: &Vault, state: &State, keyring: &Keyring) -> Result<(), Error> {
    let now = (keyring.number, object_id(&write_body(keyring)));
    let path = || state.path(SEEN_FILE);
    if let Some(bytes) = state.read(SEEN_FILE)? {
        let damaged = || Error::KeyringMemory { path: path() };
        let (_, body) = vault
            .open(Kind::State, SEEN_FILE, &bytes)
            .map_err(|_| damaged())?;
        let seen: (u64, ObjectId) = read_body(&body, "keyring memory").map_err(|_| damaged())?;
        if seen == now {
            return Ok(());
        }
        if seen.0 >= now.0 {
            return Err(Error::KeyringRolledBack {
                found: now.0,
                seen: seen.0,
                path: path(),
            });
        }
    }
    let sealed = vault.seal_state(SEEN_FILE, &now);
    Ok(state.write(SEEN_FILE, &sealed, vault.random.as_ref())?)
}
