//! The right to maintain: taken, kept alive, and asked for before every destructive step.
//!
//! One object, replaced only by conditional put; all times are the storage's, which tells its own
//! by the time that it gives to what we write. Invariant: whoever is late by our own clock, or
//! finds another's lease in place of ours, deletes nothing more.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::lease::Lease as Body;
use crate::format::object::Kind;
use crate::id::Ulid;
use crate::planted;
use crate::repo::vault::{self, Vault};
use crate::state::{self, Lock, State};
use crate::store::{self, Created, ObjectPath, Replaced, Version};

/// How long a lease holds without being renewed. Renewed after a third of it, so that a request
/// that takes as long as its retries may still ends in time.
pub const LEASE_TTL: Duration = Duration::from_secs(10 * 60);
const NAME: &str = "maintenance";
/// Where this host keeps the names of its last leases, so that one of a killed process is known.
const HOLDER_FILE: &str = "lease-holder";
const HOLDERS_MAX: usize = 8;

/// Why there is no right to maintain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or an object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The local state.
    #[error(transparent)]
    State(#[from] state::Error),
    /// Somebody else maintains.
    #[error("the repository is being maintained from host {host}, until {until} at the latest")]
    Held {
        /// Whose lease it is.
        host: String,
        /// When it ends, unless it is renewed.
        until: String,
    },
    /// The lease was ours and is not any more.
    #[error("the right to maintain went to another host: nothing more was deleted")]
    Lost,
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::State(error) => error.class(),
            Error::Held { .. } | Error::Lost => Class::Busy,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::State(error) => error.hint(),
            Error::Held { .. } => Some("wait for it, or for its end where it died".into()),
            Error::Lost => Some("run it again: it goes on where this one ended".into()),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

/// A lease that was ours when it was last renewed.
pub struct Lease {
    body: Body,
    version: Version,
    /// When it was renewed: by the storage's clock, by the wall clock, and by the steady one.
    renewed: (Timestamp, Timestamp, Duration),
    _lock: Lock,
}

fn path() -> ObjectPath {
    ObjectPath::Lease(NAME.into())
}

fn sealed(vault: &Vault, body: &Body) -> bytes::Bytes {
    vault.seal(Kind::Lease, &path().to_path(), &body.write())
}

/// What time it is by the storage's clock: a small object is written, asked for, and taken away.
///
/// # Errors
/// The storage's.
pub async fn storage_now(vault: &Vault) -> Result<Timestamp, Error> {
    let ulid = Ulid::draw(vault.clock.now(), vault.random.as_ref());
    let path = ObjectPath::Probe(ulid, "clock".into());
    let token = ulid.to_bytes();
    let body = bytes::Bytes::copy_from_slice(&token);
    vault.store.create(&path, body, &token).await?;
    let modified = vault.store.head(&path).await?.modified;
    vault.store.delete(&path).await?;
    Ok(modified)
}

impl Lease {
    /// Takes the lease for `host`, where nobody holds it, it has run out, or it was that of a
    /// process of this host which is gone.
    ///
    /// # Errors
    /// [`Error::Held`]; Busy where another process of this host maintains; the storage's.
    pub async fn acquire(vault: &Vault, state: &State, host: &str) -> Result<Lease, Error> {
        let lock = state.lock(NAME, "maintenance of the repository")?;
        let now = storage_now(vault).await?;
        let mut body = Body {
            required: Vec::new(),
            holder: Ulid::draw(now, vault.random.as_ref()),
            host: host.to_owned(),
            fence: 1,
            expires_at: now.plus(LEASE_TTL),
        };
        let found = match vault.store.get_versioned(&path()).await {
            Ok(found) => Some(found),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let Some(found) = found else {
            keep_holder(vault, state, body.holder)?;
            return Lease::create(vault, body, lock).await;
        };
        match read(vault, &found.bytes) {
            Some(other) => {
                let ours = kept_holders(vault, state).contains(&other.holder);
                if other.expires_at >= now && !ours {
                    return Err(held(&other));
                }
                body.fence = other.fence + 1;
            }
            // Torn, or not ours to read: it holds as long as a lease may hold.
            None => {
                let until = vault.store.head(&path()).await?.modified.plus(LEASE_TTL);
                if until >= now {
                    return Err(Error::Held {
                        host: "(unknown: the lease cannot be read)".into(),
                        until: until.rfc3339(),
                    });
                }
            }
        }
        keep_holder(vault, state, body.holder)?;
        let (path, sealed) = (path(), sealed(vault, &body));
        match vault.store.replace(&path, sealed, &found.version).await? {
            Replaced::Ours(version) => Lease::ours(vault, body, version, lock).await,
            Replaced::Anothers(other) => Err(other
                .and_then(|other| read(vault, &other.bytes))
                .map_or(Error::Lost, |other| held(&other))),
        }
    }

    async fn create(vault: &Vault, body: Body, lock: Lock) -> Result<Lease, Error> {
        let sealed = sealed(vault, &body);
        let token = Vault::token(&sealed).to_vec();
        match vault.store.create(&path(), sealed, &token).await? {
            Created::Ours => {
                let version = vault.store.get_versioned(&path()).await?.version;
                Lease::ours(vault, body, version, lock).await
            }
            Created::Anothers(bytes) => {
                Err(read(vault, &bytes).map_or(Error::Lost, |other| held(&other)))
            }
        }
    }

    async fn ours(vault: &Vault, body: Body, version: Version, lock: Lock) -> Result<Lease, Error> {
        let modified = vault.store.head(&path()).await?.modified;
        Ok(Lease {
            body,
            version,
            renewed: (modified, vault.clock.now(), vault.clock.elapsed()),
            _lock: lock,
        })
    }

    /// How many held it before, and this one.
    pub fn fence(&self) -> u64 {
        self.body.fence
    }

    /// When it was last renewed, by the storage's clock.
    pub fn renewed_at(&self) -> Timestamp {
        self.renewed.0
    }

    /// Makes sure that the lease is ours and will be for long enough to delete one object; renews
    /// it where that is due. To be called before every destructive step.
    ///
    /// # Errors
    /// [`Error::Lost`]: stop.  Unsettled, Transient: it cannot be known; stop.
    pub async fn hold(&mut self, vault: &Vault) -> Result<(), Error> {
        if planted::is("lease without fencing") {
            return Ok(());
        }
        // The steady clock stands still while some machines sleep, and the wall clock may be set.
        let (at, wall, steady) = self.renewed;
        let passed = vault.clock.now().since(wall);
        let passed = passed.max(vault.clock.elapsed().saturating_sub(steady));
        if passed < LEASE_TTL / 3 {
            return Ok(());
        }
        self.body.expires_at = at.plus(passed).plus(LEASE_TTL);
        let renewed = (vault.clock.now(), vault.clock.elapsed());
        match self.replace(vault).await? {
            Replaced::Ours(version) => self.version = version,
            Replaced::Anothers(_) => return Err(Error::Lost),
        }
        let modified = vault.store.head(&path()).await?.modified;
        self.renewed = (modified, renewed.0, renewed.1);
        Ok(())
    }

    async fn replace(&self, vault: &Vault) -> Result<Replaced, Error> {
        let sealed = sealed(vault, &self.body);
        Ok(vault.store.replace(&path(), sealed, &self.version).await?)
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// The storage's: it runs out by itself then.
    pub async fn release(mut self, vault: &Vault) -> Result<(), Error> {
        self.body.expires_at = Timestamp::default();
        self.replace(vault).await.map(drop)
    }
}

fn read(vault: &Vault, bytes: &[u8]) -> Option<Body> {
    let opened = vault.open(Kind::Lease, &path().to_path(), bytes).ok();
    opened.and_then(|(_, body)| Body::read(&body).ok())
}

fn held(other: &Body) -> Error {
    Error::Held {
        host: other.host.clone(),
        until: other.expires_at.rfc3339(),
    }
}

/// The last leases that this host asked for, the newest last.
fn kept_holders(vault: &Vault, state: &State) -> Vec<Ulid> {
    let bytes = state.read(HOLDER_FILE).ok().flatten().unwrap_or_default();
    let opened = vault.open(Kind::State, HOLDER_FILE, &bytes).ok();
    let body = opened.map(|(_, body)| body).unwrap_or_default();
    let holders = body.chunks_exact(16).map(|holder| {
        let holder = holder.try_into().expect("chunks_exact gives 16 bytes");
        Ulid::from_bytes(holder)
    });
    holders.collect()
}

/// Kept before it is asked for: whether it was given to us may never be known.
fn keep_holder(vault: &Vault, state: &State, holder: Ulid) -> Result<(), Error> {
    let mut holders = kept_holders(vault, state);
    holders.push(holder);
    let newest = holders.len().saturating_sub(HOLDERS_MAX);
    let bytes: Vec<u8> = holders[newest..]
        .iter()
        .flat_map(|holder| holder.to_bytes())
        .collect();
    let sealed = vault.seal(Kind::State, HOLDER_FILE, &bytes);
    Ok(state.write(HOLDER_FILE, &sealed, vault.random.as_ref())?)
}
