//! Intents: a backup says that it runs, before it looks anything up; so does who reads.
//!
//! Two backups of one source never run at once, and a sweep leaves alone what a running one may
//! build on, or a restore still reads. Invariant: an intent of a dead process on this host counts for nothing; one from
//! elsewhere counts until its deadline, and then until it is voided.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::intent::{Intent as Body, Purpose};
use crate::format::object::Kind;
use crate::id::{SourceName, Ulid};
use crate::repo::vault::{self, Vault};
use crate::store::{self, Created, ObjectPath, Prefix};

/// How long a reading holds a sweep back at most. Marks wait a day whatever is read, so that only
/// what takes longer needs its intent.
const READING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a backup may not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or an object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The storage took our intent, and does not show it as it was written.
    #[error("{path} was written, and the storage does not show it as it was")]
    Lost {
        /// The intent.
        path: ObjectPath,
    },
    /// Another backup of the source runs.
    #[error(
        "a backup of {source_name} is running on host {host} (process {process}, since {since})"
    )]
    Running {
        /// The source.
        source_name: SourceName,
        /// Its host.
        host: String,
        /// Its process.
        process: u32,
        /// When it began.
        since: String,
        /// When it may be voided.
        deadline: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::Lost { .. } => Class::Transient,
            Error::Running { .. } => Class::Busy,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::Lost { .. } => {
                Some("run it again; 'rowvault doctor' says what the storage can carry".into())
            }
            Error::Running { deadline, .. } => Some(format!(
                "wait for it; if it died, it is passed over after {deadline}"
            )),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

/// This process, as other processes can know it.
#[derive(Clone, Debug)]
pub struct Whoami {
    /// The host's name.
    pub host: String,
    /// Its boot; empty where the system does not number boots.
    pub boot: String,
    /// This process.
    pub process: u32,
    /// When it started, in ticks since boot.
    pub process_started: u64,
    /// The intents that stand in the storage for it, as far as this value and its clones made them.
    pub standing: Arc<Mutex<Vec<Ulid>>>,
}

impl Whoami {
    /// Asks the operating system.
    pub fn ask() -> Whoami {
        let name = rustix::system::uname();
        let process = std::process::id();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Whoami {
            host: name.nodename().to_string_lossy().into_owned(),
            boot: boot.unwrap_or_default().trim().to_owned(),
            process,
            process_started: started(process).unwrap_or(0),
            standing: Arc::default(),
        }
    }

    fn standing(&self) -> MutexGuard<'_, Vec<Ulid>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process of `intent` is known to be gone: it ran on this host, and its boot is
    /// over or no process of its number and start runs.
    pub fn knows_dead(&self, intent: &Body) -> bool {
        if intent.host != self.host || self.boot.is_empty() || intent.boot.is_empty() {
            return false;
        }
        intent.boot != self.boot || started(intent.process) != Some(intent.process_started)
    }
}

/// The start of a process in ticks since boot (field 22 of /proc/PID/stat).
fn started(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let behind_name = stat.rsplit_once(')')?.1;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

/// An intent in the storage.
pub struct Held {
    /// Its name.
    pub id: Ulid,
    path: ObjectPath,
    since: Timestamp,
    standing: Arc<Mutex<Vec<Ulid>>>,
}

fn place(id: Ulid) -> String {
    ObjectPath::Intent(id).to_path()
}

/// An intent as it stands in the storage.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub id: Ulid,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
    /// What it says; none where it cannot be read: then its backup never began, since a backup
    /// reads its own intent before it goes on.
    pub body: Option<Body>,
}

impl Standing {
    /// When it may be voided, by the storage's clock.
    pub fn deadline(&self, unread: Duration) -> Timestamp {
        let lasting = self.body.as_ref();
        let lasting = lasting.map(|body| body.deadline.since(body.started_at));
        self.modified.plus(lasting.unwrap_or(unread))
    }
}

/// All intents in the storage.
///
/// # Errors
/// The storage's.
pub async fn list(vault: &Vault) -> Result<Vec<Standing>, Error> {
    let listing = vault.store.list(Prefix::Intents).await?;
    let mut intents = Vec::new();
    for listed in listing.objects {
        let ObjectPath::Intent(id) = listed.path else {
            continue;
        };
        let bytes = match vault.store.get(&listed.path).await {
            Ok(bytes) => bytes,
            Err(store::Error::Missing { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let opened = vault.open(Kind::Intent, &place(id), &bytes).ok();
        let body = opened.and_then(|(_, body)| Body::read(&body).ok());
        intents.push(Standing {
            id,
            modified: listed.modified,
            body: body.filter(|body| body.id == id),
        });
    }
    Ok(intents)
}

/// Takes away an intent that no longer counts.
///
/// # Errors
/// The storage's.
pub async fn remove(vault: &Vault, id: Ulid) -> Result<(), Error> {
    Ok(vault.store.delete(&ObjectPath::Intent(id)).await?)
}

/// Makes our intent durable, and then looks whether another backup of `source` runs. Intents in
/// `voided` count for nothing.
///
/// # Errors
/// [`Error::Running`]; ours is then taken away again.
pub async fn announce(
    vault: &Vault,
    whoami: &Whoami,
    source: &SourceName,
    lasting: Duration,
    voided: &HashSet<Ulid>,
) -> Result<Held, Error> {
    let held = store(vault, whoami, source, (Purpose::Backup, lasting)).await?;
    let (id, now) = (held.id, held.since);
    let standing = list(vault).await?;
    let ours = standing.iter().find(|one| one.id == id);
    if ours.is_none_or(|ours| ours.body.is_none()) {
        let path = held.path.clone();
        withdraw(vault, held).await?;
        return Err(Error::Lost { path });
    }
    let mut others = standing.into_iter().filter_map(|one| one.body);
    let rival = others.find(|other| {
        let counts = !whoami.knows_dead(other) && !voided.contains(&other.id);
        let backs_up = other.purpose == Purpose::Backup && other.source == *source;
        backs_up && other.id != id && counts && !is_late(other, now)
    });
    let Some(rival) = rival else {
        return Ok(held);
    };
    withdraw(vault, held).await?;
    Err(Error::Running {
        source_name: source.clone(),
        host: rival.host,
        process: rival.process,
        since: rival.started_at.rfc3339(),
        deadline: rival.deadline.rfc3339(),
    })
}

/// Says that snapshots are being read here, first of all of `source`. Nobody else is looked for:
/// who reads hinders nobody but a sweep.
///
/// # Errors
/// The storage's.
pub async fn announce_reading(
    vault: &Vault,
    whoami: &Whoami,
    source: &SourceName,
) -> Result<Held, Error> {
    store(vault, whoami, source, (Purpose::Reading, READING)).await
}

async fn store(
    vault: &Vault,
    whoami: &Whoami,
    source: &SourceName,
    (purpose, lasting): (Purpose, Duration),
) -> Result<Held, Error> {
    let now = vault.clock.now();
    let id = Ulid::draw(now, vault.random.as_ref());
    let body = Body {
        required: Vec::new(),
        id,
        purpose,
        source: source.clone(),
        host: whoami.host.clone(),
        boot: whoami.boot.clone(),
        process: whoami.process,
        process_started: whoami.process_started,
        started_at: now,
        deadline: now.plus(lasting),
    };
    let sealed = vault.seal(Kind::Intent, &place(id), &body.write());
    whoami.standing().push(id);
    let path = ObjectPath::Intent(id);
    let token = Vault::token(&sealed).to_vec();
    if let Created::Anothers(_) = vault.store.create(&path, sealed, &token).await? {
        // The name is drawn: another object under it can only be our own from before a retry.
        return Err(vault::Error::Renamed { path }.into());
    }
    let since = now;
    let standing = whoami.standing.clone();
    Ok(Held {
        id,
        path,
        since,
        standing,
    })
}

fn is_late(intent: &Body, now: Timestamp) -> bool {
    now > intent.deadline
}

/// Takes our intent away.
///
/// # Errors
/// The storage's.
pub async fn withdraw(vault: &Vault, held: Held) -> Result<(), Error> {
    vault.store.delete(&held.path).await?;
    let mut standing = held.standing.lock().unwrap_or_else(PoisonError::into_inner);
    standing.retain(|id| *id != held.id);
    Ok(())
}

/// Takes away every intent that was made for `whoami`, for work that was stopped and could not.
///
/// # Errors
/// The storage's.
pub async fn withdraw_ours(vault: &Vault, whoami: &Whoami) -> Result<(), Error> {
    let ours = std::mem::take(&mut *whoami.standing());
    for id in ours {
        remove(vault, id).await?;
    }
    Ok(())
}

/// Takes away intents of `source` whose processes died on this host.
///
/// # Errors
/// The storage's.
pub async fn clear_dead(
    vault: &Vault,
    whoami: &Whoami,
    source: &SourceName,
) -> Result<usize, Error> {
    let mut cleared = 0;
    for standing in list(vault).await? {
        let dead = |body: &Body| body.source == *source && whoami.knows_dead(body);
        if standing.body.as_ref().is_some_and(dead) {
            remove(vault, standing.id).await?;
            cleared += 1;
        }
    }
    Ok(cleared)
}
