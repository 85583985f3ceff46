//! The probe: what a storage can carry, found out by trying and not by asking its name.
//!
//! It writes a few small objects under `probe/<ulid>/`, races for one of them, reads, lists,
//! compares clocks and takes them away again. Invariant: a doubt counts against the storage, since
//! what a verdict allows (several writers, deletion) loses data where the storage lied.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::Ulid;
use crate::store::error::Error;
use crate::store::layout::{ObjectPath, Prefix};
use crate::store::objects::{Condition, Conditions, Store};
use crate::store::settle::{Created, Replaced};

/// How many clients race for one name.
const RACERS: usize = 12;
/// Clocks that differ by more than this are not trusted with waiting times.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Probes older than this, left behind by a crash, are taken away.
const LEFTOVER_AGE: Duration = Duration::from_secs(60 * 60);
const OBJECT_LENGTH: usize = 4096;

/// What a storage makes of a condition on a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditional {
    /// It keeps it: of all who raced, exactly one won.
    Honoured,
    /// It says that it does not know it.
    Refused,
    /// It says yes to several and overwrites: the dangerous one.
    Ignored,
}

/// What a storage can carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Writing only where nothing stands: the commit of a snapshot.
    pub conditional_create: Conditional,
    /// Writing only over a known state: leases.
    pub conditional_replace: Conditional,
    /// An object just written can be read, whole.
    pub read_after_write: bool,
    /// An object just written is listed, with its length.
    pub list_after_write: bool,
    /// Parts of objects can be read, from the start and from the end.
    pub range_reads: bool,
    /// How far the storage's clock is ahead of ours; to the second.
    pub clock_skew_seconds: i64,
    /// When this was found out, by our clock.
    pub probed_at: Timestamp,
}

impl Verdict {
    /// Whether several hosts may write here at once.
    pub fn several_writers(&self) -> bool {
        self.conditional_create == Conditional::Honoured && self.is_consistent()
    }

    /// Whether any host may take the lease and delete; else only the one that the config names.
    pub fn maintenance(&self) -> bool {
        self.several_writers() && self.conditional_replace == Conditional::Honoured
    }

    /// The store, writing in the way that this storage can be trusted with.
    pub fn apply(&self, store: &Store) -> Store {
        store.with_conditions(self.conditions())
    }

    /// How writes that others may race for are made here.
    pub fn conditions(&self) -> Conditions {
        let by = |found: Conditional| match found {
            Conditional::Honoured => Condition::Kept,
            Conditional::Refused | Conditional::Ignored => Condition::Looked,
        };
        Conditions {
            create: by(self.conditional_create),
            replace: by(self.conditional_replace),
        }
    }

    /// Whether ledger entries get their hash into their name, so that none is overwritten.
    pub fn hashed_ledger_names(&self) -> bool {
        self.conditional_create != Conditional::Honoured
    }

    fn is_consistent(&self) -> bool {
        let in_time = self.clock_skew_seconds.unsigned_abs() <= SKEW_MAX.as_secs();
        self.read_after_write && self.list_after_write && in_time
    }
}

impl fmt::Display for Conditional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Conditional::Honoured => "honoured",
            Conditional::Refused => "refused",
            Conditional::Ignored => "IGNORED",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |fact: bool| if fact { "yes" } else { "NO" };
        writeln!(f, "conditional create   {}", self.conditional_create)?;
        writeln!(f, "conditional replace  {}", self.conditional_replace)?;
        writeln!(f, "read after write     {}", yes(self.read_after_write))?;
        writeln!(f, "list after write     {}", yes(self.list_after_write))?;
        writeln!(f, "range reads          {}", yes(self.range_reads))?;
        writeln!(f, "clock                {:+} s", self.clock_skew_seconds)?;
        writeln!(f, "several writers      {}", yes(self.several_writers()))?;
        write!(f, "maintenance by lease {}", yes(self.maintenance()))
    }
}

/// Finds out what the storage can carry; about 30 small requests.
///
/// # Errors
/// Those of the storage, such as `Denied` or `Invalid`: it cannot be used at all. What it cannot
/// do is no error but the verdict.
pub async fn probe(store: &Store) -> Result<Verdict, Error> {
    let ulid = Ulid::draw(store.clock().now(), store.random());
    let store = store.with_conditions(Conditions::KEPT);
    let probe = Probe {
        store: &store,
        ulid,
    };
    let verdict = probe.run().await;
    let cleared = clear(&store, ulid).await;
    let verdict = verdict?;
    cleared?;
    Ok(verdict)
}

struct Probe<'a> {
    store: &'a Store,
    ulid: Ulid,
}

impl Probe<'_> {
    async fn run(&self) -> Result<Verdict, Error> {
        let conditional_create = self.race().await?;
        let path = self.path("object");
        let body = self.body("object");
        let before = self.store.clock().now();
        self.store.overwrite(&path, body.clone()).await?;
        let after = self.store.clock().now();
        Ok(Verdict {
            conditional_create,
            conditional_replace: self.replace(conditional_create).await?,
            read_after_write: self.reads(&path, &body).await?,
            list_after_write: self.lists(&path, &body).await?,
            range_reads: self.reads_parts(&path, &body).await?,
            clock_skew_seconds: self.skew(&path, before, after).await?,
            probed_at: after,
        })
    }

    fn path(&self, name: &str) -> ObjectPath {
        ObjectPath::Probe(self.ulid, name.to_owned())
    }

    /// A body that is this probe's and this name's own.
    fn body(&self, name: &str) -> Bytes {
        let mut body = format!("{}/{name}\n", self.ulid).into_bytes();
        let fill = (0..OBJECT_LENGTH - body.len()).map(|n| (n % 251) as u8);
        body.extend(fill);
        body.into()
    }

    /// Many at once want one name; afterwards it must be the one winner's.
    async fn race(&self) -> Result<Conditional, Error> {
        let path = self.path("race");
        let bodies: Vec<Bytes> = (0..RACERS)
            .map(|n| self.body(&format!("race-{n}")))
            .collect();
        let creates = bodies.iter().map(|body| {
            let token = body.slice(..body.len() / 2);
            let (path, body) = (&path, body.clone());
            async move { self.store.create(path, body, &token).await }
        });
        let mut winners = Vec::new();
        for (created, body) in join_all(creates).await.into_iter().zip(&bodies) {
            match created {
                Ok(Created::Ours) => winners.push(body),
                Ok(Created::Anothers(_)) => {}
                Err(Error::NotSupported { .. }) => return Ok(Conditional::Refused),
                Err(error) => return Err(error),
            }
        }
        let late = self.body("race-late");
        let token = late.slice(..late.len() / 2);
        let late_won = self.store.create(&path, late, &token).await? == Created::Ours;
        let stands = self.store.get(&path).await?;
        Ok(match winners.as_slice() {
            [winner] if !late_won && **winner == stands => Conditional::Honoured,
            _ => Conditional::Ignored,
        })
    }

    /// Replaces once with the right state, then with the state that is past.
    async fn replace(&self, create: Conditional) -> Result<Conditional, Error> {
        let path = self.path("lease");
        self.store.overwrite(&path, self.body("lease-0")).await?;
        let first = self.store.get_versioned(&path).await?.version;
        match self
            .store
            .replace(&path, self.body("lease-1"), &first)
            .await
        {
            Ok(Replaced::Ours(_)) => {}
            // It refuses even the state that it just told us.
            Ok(Replaced::Anothers(_)) | Err(Error::NotSupported { .. }) => {
                return Ok(Conditional::Refused);
            }
            Err(Error::Unsettled { .. }) => return Ok(Conditional::Refused),
            Err(error) if create == Conditional::Honoured => return Err(error),
            Err(_) => return Ok(Conditional::Refused),
        }
        match self
            .store
            .replace(&path, self.body("lease-2"), &first)
            .await
        {
            Ok(Replaced::Anothers(_)) => Ok(Conditional::Honoured),
            Ok(Replaced::Ours(_)) => Ok(Conditional::Ignored),
            Err(error) => Err(error),
        }
    }

    async fn reads(&self, path: &ObjectPath, body: &Bytes) -> Result<bool, Error> {
        match self.store.get(path).await {
            Ok(bytes) => Ok(bytes == *body),
            Err(error) => incapable(error),
        }
    }

    async fn lists(&self, path: &ObjectPath, body: &Bytes) -> Result<bool, Error> {
        let listing = self.store.list(Prefix::Probes).await?;
        let length = body.len() as u64;
        let mut objects = listing.objects.iter();
        Ok(objects.any(|one| one.path == *path && one.length == length))
    }

    async fn reads_parts(&self, path: &ObjectPath, body: &Bytes) -> Result<bool, Error> {
        let middle = match self.store.get_range(path, 1000..1010).await {
            Ok(middle) => middle,
            Err(error) => return incapable(error),
        };
        let tail = match self.store.get_suffix(path, 10).await {
            Ok(tail) => tail.bytes,
            Err(error) => return incapable(error),
        };
        Ok(middle == body.slice(1000..1010) && tail == body.slice(body.len() - 10..))
    }

    /// The storage's time of the write against the middle of ours, in whole seconds.
    async fn skew(
        &self,
        path: &ObjectPath,
        before: Timestamp,
        after: Timestamp,
    ) -> Result<i64, Error> {
        let modified = self.store.head(path).await?.modified;
        let middle = before.plus(after.since(before) / 2);
        Ok(modified.seconds() - middle.seconds())
    }
}

/// A wrong answer is a verdict; no answer is an error.
fn incapable(error: Error) -> Result<bool, Error> {
    match error {
        Error::Missing { .. } | Error::Corrupt { .. } | Error::NotSupported { .. } => Ok(false),
        error => Err(error),
    }
}

/// Takes away this probe's objects, and what crashed ones left behind.
async fn clear(store: &Store, ulid: Ulid) -> Result<(), Error> {
    let listing = store.list(Prefix::Probes).await?;
    let newest = listing.objects.iter().map(|one| one.modified).max();
    for one in &listing.objects {
        let own = matches!(one.path, ObjectPath::Probe(other, _) if other == ulid);
        let old = newest.is_some_and(|newest| newest.since(one.modified) > LEFTOVER_AGE);
        if own || old {
            store.delete(&one.path).await?;
        }
    }
    // A storage that lists late may have left these out.
    for name in ["race", "object", "lease"] {
        store
            .delete(&ObjectPath::Probe(ulid, name.to_owned()))
            .await?;
    }
    Ok(())
}
