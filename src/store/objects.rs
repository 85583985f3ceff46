//! The store: what the vault asks of a storage, with retries, in our own words.
//!
//! Reads and the writing of content-named objects, which may be repeated freely; what must happen
//! once is in `settle`. Invariant: each method either did what it says or returns an error that
//! says what is known about it.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use object_store::{GetRange, ObjectStore, PutMode};

use crate::clock::{Clock, Timestamp};
use crate::id::Ulid;
use crate::planted;
use crate::random::Random;
use crate::store::classify::classify;
use crate::store::error::{Error, Place, Trouble};
use crate::store::layout::{ObjectPath, Prefix};
use crate::store::local::Directory;
use crate::store::lock::Lock;
use crate::store::options::StoreOptions;
use crate::store::retry::Attempts;
use crate::store::traffic::Requests;
use crate::store::wire::Wire;

/// Ranges closer than this are read by one request.
const GAP_BYTES_MAX: u64 = 256 << 10;
/// No joined read is longer than this, so that memory stays bounded.
const JOINED_BYTES_MAX: u64 = 32 << 20;

/// A storage, opened. Cloning it is cheap; clones share limits, counters and what was learned.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    conditions: Arc<OnceLock<Conditions>>,
    lock: Option<Arc<Lock>>,
}

/// How writes that others may race for are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Writing where nothing stands.
    pub create: Condition,
    /// Writing over a known state.
    pub replace: Condition,
}

/// How a condition on a write is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// By the storage.
    Kept,
    /// By looking before and after, since the storage does not keep it (the probe's verdict).
    Looked,
}

impl Conditions {
    /// The storage keeps both, as far as is known.
    pub const KEPT: Conditions = Conditions {
        create: Condition::Kept,
        replace: Condition::Kept,
    };
    /// The storage keeps none.
    pub const LOOKED: Conditions = Conditions {
        create: Condition::Looked,
        replace: Condition::Looked,
    };
}

struct Inner {
    url: String,
    wire: Wire,
    directory: Option<Arc<Directory>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// What the storage says about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Its bytes.
    pub length: u64,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which object.
    pub path: ObjectPath,
    /// Its bytes.
    pub length: u64,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
}

/// A whole listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The objects, in the order of their names, each once.
    pub objects: Vec<Listed>,
    /// Names that no version of this program writes, in order.
    pub foreign: Vec<String>,
}

/// The end of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last bytes: as many as were asked for, or the whole object where it is shorter.
    pub bytes: Bytes,
    /// The length of the whole object.
    pub length: u64,
}

impl Store {
    /// A store over any implementation of object_store; `url` is what messages call it.
    pub fn from_object_store(
        objects: Arc<dyn ObjectStore>,
        url: &str,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Store {
        Store {
            inner: Arc::new(Inner {
                url: url.to_owned(),
                wire: Wire::new(objects, options.clone(), clock.clone()),
                directory: None,
                clock,
                random,
            }),
            conditions: Arc::default(),
            lock: None,
        }
    }

    /// A store over a directory.
    pub(crate) fn from_directory(
        directory: Directory,
        url: &str,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Store {
        let directory = Arc::new(directory);
        Store {
            inner: Arc::new(Inner {
                url: url.to_owned(),
                wire: Wire::new(directory.clone(), options.clone(), clock.clone()),
                directory: Some(directory),
                clock,
                random,
            }),
            conditions: Arc::default(),
            lock: None,
        }
    }

    /// The same store, which writes what others may want too in this way.
    pub fn with_conditions(&self, conditions: Conditions) -> Store {
        Store {
            inner: self.inner.clone(),
            conditions: Arc::new(OnceLock::from(conditions)),
            lock: self.lock.clone(),
        }
    }

    /// Writes what others may want too in this way from now on, in all clones; what was learned
    /// before stays.
    pub fn learn(&self, conditions: Conditions) {
        let _ = self.conditions.set(conditions);
    }

    /// Whether it is known what the storage makes of conditions.
    pub fn knows_conditions(&self) -> bool {
        self.conditions.get().is_some()
    }

    /// How conditions are kept; by the storage, until something else is learned.
    pub(crate) fn conditions(&self) -> Conditions {
        let known = self.conditions.get().copied();
        known.unwrap_or(Conditions::KEPT)
    }

    pub(crate) fn with_lock(self, lock: Option<Arc<Lock>>) -> Store {
        Store { lock, ..self }
    }

    /// How long packs, indexes, manifests and ledger entries stay at least once they are written;
    /// none where they are not locked.
    pub fn lock_span(&self) -> Option<Duration> {
        self.lock.as_ref().map(|lock| lock.span)
    }

    /// Until when the storage keeps an object from everybody; none where it does not.
    ///
    /// # Errors
    /// As `head`.
    pub async fn locked_until(&self, path: &ObjectPath) -> Result<Option<Timestamp>, Error> {
        let Some(lock) = &self.lock else {
            return Ok(None);
        };
        self.repeat(self.place(path), || lock.until(path)).await
    }

    /// Lets the storage keep an object until `until`, if it was not longer.
    ///
    /// # Errors
    /// `Invalid` where the bucket has no lock; `Denied` where it is longer already.
    pub async fn extend_lock(&self, path: &ObjectPath, until: Timestamp) -> Result<(), Error> {
        match &self.lock {
            None => Ok(()),
            Some(lock) => {
                self.repeat(self.place(path), || lock.extend(path, until))
                    .await
            }
        }
    }

    /// Proves that what is written is locked: an object is written, asked for, and taken away. On
    /// a bucket that keeps versions its bytes stay for the span.
    ///
    /// # Errors
    /// `Invalid`: the storage has no object lock, or says yes and keeps none.
    pub async fn prove_lock(&self) -> Result<(), Error> {
        if self.lock.is_none() {
            return Ok(());
        }
        let ulid = Ulid::draw(self.clock().now(), self.random());
        let path = ObjectPath::Probe(ulid, "lock".to_owned());
        let body = Bytes::copy_from_slice(&ulid.to_bytes());
        let invalid = |reason: String| Error::Invalid {
            place: Place {
                url: self.inner.url.clone(),
                object: None,
            },
            reason: format!("it has no object lock: {reason}"),
        };
        match self.overwrite(&path, body).await {
            Ok(()) => {}
            Err(Error::Invalid { reason, .. } | Error::NotSupported { reason, .. }) => {
                return Err(invalid(reason));
            }
            Err(error) => return Err(error),
        }
        let until = self.locked_until(&path).await;
        // A server that refuses this keeps the lock.
        let _ = self.delete(&path).await;
        match until? {
            Some(until) if until > self.clock().now() => Ok(()),
            _ => Err(invalid("it took the lock and does not keep it".to_owned())),
        }
    }

    /// The storage's URL, without credentials.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// What was asked of the storage so far, over all clones.
    pub fn requests(&self) -> Requests {
        self.inner.wire.counters().snapshot()
    }

    /// The clock that the store was opened with.
    pub fn clock(&self) -> &dyn Clock {
        self.inner.clock.as_ref()
    }

    /// The random source that the store was opened with.
    pub fn random(&self) -> &dyn Random {
        self.inner.random.as_ref()
    }

    /// Reads a whole object; one that is named by its bytes is checked against its name.
    ///
    /// # Errors
    /// `Missing`; `Corrupt` where it is longer than its kind may be, or came back short or altered
    /// twice.
    pub async fn get(&self, path: &ObjectPath) -> Result<Bytes, Error> {
        let wire = self.wire();
        let attempt = || wire.get(path, None, path.length_max());
        let answer = self.repeat(self.place(path), attempt).await?;
        Ok(answer.bytes)
    }

    /// Reads these bytes of an object, all of them. An empty range needs no request.
    ///
    /// # Errors
    /// `Missing`; `Corrupt` where the object ends before the range does. Altered bytes are not
    /// found out here but by whoever opens them.
    pub async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wire = self.wire();
        let bounded = GetRange::Bounded(range);
        let attempt = || wire.get(path, Some(bounded.clone()), path.length_max());
        let answer = self.repeat(self.place(path), attempt).await?;
        Ok(answer.bytes)
    }

    /// Reads these ranges, in the order given; near ones share a request, far ones run at once.
    ///
    /// # Errors
    /// As `get_range`, of the first range that failed.
    pub async fn get_ranges(
        &self,
        path: &ObjectPath,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, Error> {
        let joined = join(ranges);
        let reads = joined
            .iter()
            .map(|range| self.get_range(path, range.clone()));
        let bytes = try_join_all(reads).await?;
        let part = |range: &Range<u64>| {
            if range.is_empty() {
                return Bytes::new();
            }
            let at = joined.partition_point(|one| one.start <= range.start) - 1;
            let start = (range.start - joined[at].start) as usize;
            bytes[at].slice(start..start + (range.end - range.start) as usize)
        };
        Ok(ranges.iter().map(part).collect())
    }

    /// Reads the last `length` bytes of an object (at least 1), or all of it where it is shorter.
    ///
    /// # Errors
    /// `Missing`; `Corrupt` where it came back short twice, or is empty.
    pub async fn get_suffix(&self, path: &ObjectPath, length: u64) -> Result<Tail, Error> {
        let wire = self.wire();
        let attempt = || wire.get(path, Some(GetRange::Suffix(length)), path.length_max());
        match self.repeat(self.place(path), attempt).await {
            Ok(answer) => Ok(Tail {
                bytes: answer.bytes,
                length: answer.length,
            }),
            Err(Error::NotSupported { .. }) => self.get_suffix_by_length(path, length).await,
            Err(error) => Err(error),
        }
    }

    /// Azure knows no suffix: ask for the length first.
    async fn get_suffix_by_length(&self, path: &ObjectPath, length: u64) -> Result<Tail, Error> {
        let whole = self.head(path).await?.length;
        let start = whole.saturating_sub(length);
        let bytes = self.get_range(path, start..whole).await?;
        Ok(Tail {
            bytes,
            length: whole,
        })
    }

    /// Length and time of an object.
    ///
    /// # Errors
    /// `Missing`, also where the bucket is: the storage tells no difference here.
    pub async fn head(&self, path: &ObjectPath) -> Result<ObjectFacts, Error> {
        let wire = self.wire();
        let found = self.repeat(self.place(path), || wire.head(path)).await?;
        Ok(ObjectFacts {
            length: found.length,
            modified: found.modified,
        })
    }

    /// Writes an object whose path nobody else wants (`ObjectPath::may_be_put`): named by its bytes,
    /// or drawn. Writing it again changes nothing.
    ///
    /// # Panics
    /// Where others may want the path: such objects are created, not put.
    ///
    /// # Errors
    /// `Full`, `Denied`, `Transient`: it may be there all the same, and that harms nobody.
    pub async fn put(&self, path: &ObjectPath, body: Bytes) -> Result<(), Error> {
        assert!(path.may_be_put(), "others may want {path} too");
        self.overwrite(path, body).await
    }

    /// Writes whatever stands there.
    pub(crate) async fn overwrite(&self, path: &ObjectPath, body: Bytes) -> Result<(), Error> {
        let wire = self.wire();
        let attempt = || wire.put(path, body.clone(), PutMode::Overwrite);
        match self.repeat(self.place(path), attempt).await {
            Err(_) if planted::is("put error ignored") => Ok(()),
            written => written.map(drop),
        }
    }

    /// Takes an object away; one that is not there is gone already.
    ///
    /// # Errors
    /// `Denied`, `Transient`: it may be gone or not; deleting again is safe.
    pub async fn delete(&self, path: &ObjectPath) -> Result<(), Error> {
        let wire = self.wire();
        match self.repeat(self.place(path), || wire.delete(path)).await {
            Ok(()) | Err(Error::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects under `prefix`, sorted by name, each once; foreign names apart.
    ///
    /// # Errors
    /// Any failure on any page: what was read up to it is thrown away, so that a list error never
    /// looks like an empty or a shorter list.
    pub async fn list(&self, prefix: Prefix) -> Result<Listing, Error> {
        self.list_from(prefix, None).await
    }

    /// The objects under `prefix` whose names come after that of `after`, as [`Store::list`] gives
    /// them.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_after(&self, prefix: Prefix, after: &ObjectPath) -> Result<Listing, Error> {
        self.list_from(prefix, Some(after.to_path())).await
    }

    /// The names of the folders right below `prefix`, in order.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn folders(&self, prefix: Prefix) -> Result<Vec<String>, Error> {
        let (wire, folder) = (self.wire(), prefix.to_path());
        let place = self.place_of_listing(prefix);
        let found = self.repeat(place, || wire.folders(&folder)).await?;
        let below = found.iter().filter_map(|path| path.strip_prefix(&folder));
        let names = below.filter_map(|below| below.strip_prefix('/'));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn place_of_listing(&self, prefix: Prefix) -> Place {
        Place {
            url: self.inner.url.clone(),
            object: Some(format!("the listing of {prefix}")),
        }
    }

    async fn list_from(&self, prefix: Prefix, after: Option<String>) -> Result<Listing, Error> {
        let (wire, folder) = (self.wire(), prefix.to_path());
        let place = self.place_of_listing(prefix);
        let attempt = || wire.list(&folder, after.as_deref());
        let found = match self.repeat(place, attempt).await {
            Err(_) if planted::is("list error as empty list") => Vec::new(),
            found => found?,
        };
        let mut listing = Listing::default();
        for one in found {
            match ObjectPath::parse(&one.path) {
                Some(path) if prefix.covers(&one.path) => listing.objects.push(Listed {
                    path,
                    length: one.length,
                    modified: one.modified,
                }),
                _ => listing.foreign.push(one.path),
            }
        }
        listing.objects.sort_by_cached_key(|one| one.path.to_path());
        listing.objects.dedup_by(|a, b| a.path == b.path);
        listing.foreign.sort();
        listing.foreign.dedup();
        Ok(listing)
    }

    /// Takes away what killed writers left half-written and nobody has touched for `age`; gives how
    /// many files those were. Only directories have such files, and no listing shows them.
    ///
    /// # Errors
    /// Those of a listing and of a deletion; what was taken away by then is gone.
    pub async fn clear_unfinished(&self, age: Duration) -> Result<u64, Error> {
        let Some(directory) = &self.inner.directory else {
            return Ok(0);
        };
        let before = Timestamp(self.clock().now().0 - age.as_micros() as i64);
        let cleared = directory.clear_unfinished(before).await;
        cleared.map_err(|error| {
            let place = Place {
                url: self.inner.url.clone(),
                object: None,
            };
            classify(&error).at(place, 1)
        })
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.inner.wire
    }

    pub(crate) fn place(&self, path: &ObjectPath) -> Place {
        Place {
            url: self.inner.url.clone(),
            object: Some(path.to_path()),
        }
    }

    pub(crate) fn attempts(&self) -> Attempts<'_> {
        let budget = &self.inner.wire.options().budget;
        Attempts::new(budget, self.clock(), self.random())
    }

    /// Tries until it succeeds, the trouble is final, or the budget is used up.
    pub(crate) async fn repeat<T, F>(
        &self,
        place: Place,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let mut attempts = self.attempts();
        loop {
            let trouble = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            match attempts.again(&trouble) {
                Some(pause) => {
                    self.wire().counters().retried();
                    tokio::time::sleep(pause).await;
                }
                None => return Err(trouble.at(place, attempts.failed())),
            }
        }
    }
}

/// The reads that cover `ranges`: sorted, disjoint, near ones joined.
fn join(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last)
                if range.start <= last.end
                    || (range.start - last.end <= GAP_BYTES_MAX
                        && range.end - last.start <= JOINED_BYTES_MAX) =>
            {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_joined_and_far_ones_are_not() {
        let far = 10 * GAP_BYTES_MAX;
        let ranges = [far..far + 10, 0..10, 5..20, 1000..1001, 7..7];
        assert_eq!(join(&ranges), [0..1001, far..far + 10]);
    }

    #[test]
    fn a_joined_read_stays_bounded() {
        let step = GAP_BYTES_MAX;
        let ranges: Vec<_> = (0..1000).map(|n| n * step..n * step + 1).collect();
        let joined = join(&ranges);
        assert!(joined.iter().all(|r| r.end - r.start <= JOINED_BYTES_MAX));
        assert!(joined.len() < 10);
    }
}
