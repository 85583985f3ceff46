//! Keys: how a repository is opened, by whom, and what that allows.
//!
//! A key file or a passphrase opens a slot and gives the root; a writer's key file gives what a
//! writer has. Invariant: nothing is believed that the owner's key did not sign, and the owner is
//! the one whose root or key file the caller brought, never the one that the storage names.

pub mod create;
mod error;
pub mod file;
pub mod slot;
pub mod writer;

use std::sync::Arc;

use secrecy::SecretString;

use crate::clock::Clock;
use crate::crypto::envelope::ReaderPublic;
use crate::crypto::key::{RootSecret, SharedKeys};
use crate::crypto::sign::{self, SigningKey};
use crate::format::keyring::Keyring;
use crate::format::keyslot::text::{KeyFile, WriterKey};
use crate::format::repository::{self, Repository};
use crate::id::RepositoryId;
use crate::random::Random;
use crate::repo::blob::Realm;
use crate::repo::vault::{Access, INDEX_SORTED_BYTES_MIN, PACK_BYTES, Vault};
use crate::store::{ObjectPath, Prefix, Store};

pub use error::Error;
pub use writer::check_keyring_seen;

/// The epoch of keys that this program makes and uses.
pub const EPOCH: u16 = 1;

/// What a person or a host has to open a repository with.
pub enum Unlock {
    /// A passphrase, tried against every passphrase slot.
    Passphrase(SecretString),
    /// A key file: a slot's, a recovery sheet, a writer's, or `age` identities.
    KeyFile(KeyFile),
}

/// Where a repository is, and what time and randomness it is used with.
#[derive(Clone)]
pub struct Opening {
    /// The storage.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

impl Opening {
    fn vault(self, access: Access, id: RepositoryId, chunk_target_bytes: u32) -> Vault {
        Vault {
            store: self.store,
            access,
            realm: Realm {
                repository: id,
                epoch: EPOCH,
            },
            chunk_target_bytes,
            pack_bytes: PACK_BYTES,
            index_sorted_bytes_min: INDEX_SORTED_BYTES_MIN,
            clock: self.clock,
            random: self.random,
        }
    }
}

/// Opens the repository that stands in the storage. A passphrase costs the memory that its slot
/// asks for, once for each slot that is tried, off the async threads.
///
/// # Errors
/// Missing: there is none.  Denied: a wrong passphrase, another repository's key file, a writer
/// who is not enrolled or was revoked.  Invalid: a newer format.  Corrupt: damage, or another's
/// repository in its place.
pub async fn open(opening: Opening, unlock: &Unlock) -> Result<(Vault, Keyring), Error> {
    let repository = read_repository(&opening.store).await?;
    let access = match unlock {
        Unlock::KeyFile(KeyFile::Writer(key)) => writer_access(&repository, key)?,
        _ => {
            let root = slot::unlock(&opening.store, repository.id, unlock).await?;
            owner_access(&repository, root, &opening.store)?
        }
    };
    let vault = opening.vault(access, repository.id, repository.chunk_target_bytes);
    let keyring = writer::read(&vault, repository.created).await?;
    if let Unlock::KeyFile(KeyFile::Writer(key)) = unlock {
        writer::check_enrolled(&keyring, key, &vault.access.signer.id())?;
    }
    Ok((vault, keyring))
}

/// What stands in the storage for everybody to see, its signature checked.
///
/// # Errors
/// Missing; Corrupt: damaged, or key slots without a repository; Invalid: a newer format.
pub async fn read_repository(store: &Store) -> Result<Repository, Error> {
    let url = || store.url().to_owned();
    let bytes = match store.get(&ObjectPath::Repository).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => {
            let slots = store.list(Prefix::Keys).await?.objects;
            return Err(match slots.is_empty() {
                true => Error::NoRepository { url: url() },
                false => Error::Unfinished { url: url() },
            });
        }
        Err(error) => return Err(error.into()),
    };
    repository::read(&bytes, |signer, signed, signature| {
        sign::verify(signer, repository::SIGNATURE_CONTEXT, signed, signature).is_ok()
    })
    .map_err(|source| Error::Repository { url: url(), source })
}

/// All that the root allows, if the repository is the root's own.
fn owner_access(repository: &Repository, root: RootSecret, store: &Store) -> Result<Access, Error> {
    let access = Access::owner(root, repository.id, EPOCH);
    if access.owner == repository.owner {
        return Ok(access);
    }
    Err(Error::AnothersRepository {
        url: store.url().to_owned(),
        owner: repository.owner,
    })
}

/// What a writer's key file allows, if it is for this repository and this owner.
fn writer_access(repository: &Repository, key: &WriterKey) -> Result<Access, Error> {
    if key.repository != repository.id {
        return Err(Error::KeyFileElsewhere {
            belongs: key.repository,
            found: repository.id,
        });
    }
    if key.owner != repository.owner {
        return Err(Error::WriterOfAnotherOwner {
            name: key.name.clone(),
            owner: repository.owner,
        });
    }
    if key.epoch != u32::from(EPOCH) {
        return Err(Error::Epoch { epoch: key.epoch });
    }
    Ok(Access {
        shared: SharedKeys::from_bytes(&key.shared),
        reader_public: ReaderPublic(key.reader),
        reader: None,
        root: None,
        owner: key.owner,
        signer: SigningKey::from_seed(&key.seed),
    })
}
