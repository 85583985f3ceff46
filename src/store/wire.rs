//! The wire: one request at a time, counted, limited, and ended by its deadline.
//!
//! Everything that talks to object_store is here; what to do about a failure is decided above.
//! Invariant: each request ends within a time reckoned from its bytes, its answer has the length
//! that was asked for, and no answer is held in memory beyond the length that its kind may have.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attribute, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore, PutMode,
    PutOptions, UpdateVersion,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::{Clock, Timestamp};
use crate::store::classify::classify;
use crate::store::error::Trouble;
use crate::store::layout::ObjectPath;
use crate::store::options::StoreOptions;
use crate::store::traffic::{Counters, Limiter, Request};

const LIST_PAGE: usize = 1000;
const LIST_LENGTH_MAX: usize = 50_000_000;

/// Which state of a replaceable object was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    e_tag: Option<String>,
    version: Option<String>,
}

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        Version {
            e_tag: meta.e_tag.clone(),
            version: meta.version.clone(),
        }
    }
}

/// What a read brought.
pub(crate) struct Answer {
    pub(crate) bytes: Bytes,
    /// The length of the whole object.
    pub(crate) length: u64,
    pub(crate) version: Version,
}

/// What the storage says about one object.
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) length: u64,
    pub(crate) modified: Timestamp,
}

impl Found {
    fn of(meta: &ObjectMeta) -> Self {
        Found {
            path: meta.location.to_string(),
            length: meta.size,
            modified: Timestamp(meta.last_modified.timestamp_micros()),
        }
    }
}

pub(crate) struct Wire {
    objects: Arc<dyn ObjectStore>,
    options: StoreOptions,
    clock: Arc<dyn Clock>,
    permits: Semaphore,
    up: Limiter,
    down: Limiter,
    counters: Counters,
}

impl Wire {
    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Wire {
            permits: Semaphore::new(options.requests_max.clamp(1, Semaphore::MAX_PERMITS)),
            up: Limiter::new(options.upload_max_bytes_per_second),
            down: Limiter::new(options.download_max_bytes_per_second),
            counters: Counters::default(),
            objects,
            options,
            clock,
        }
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    async fn permit(&self) -> SemaphorePermit<'_> {
        let permit = self.permits.acquire().await;
        permit.expect("this semaphore is never closed")
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(deadline, request).await {
            Ok(answer) => answer.map_err(|error| classify(&error)),
            Err(_) => Err(Trouble::Transient(format!(
                "no answer within {} s",
                deadline.as_secs()
            ))),
        }
    }

    pub(crate) async fn put(
        &self,
        path: &ObjectPath,
        body: Bytes,
        mode: PutMode,
    ) -> Result<Version, Trouble> {
        let length = body.len() as u64;
        let _permit = self.permit().await;
        tokio::time::sleep(self.up.book(length, self.clock())).await;
        self.counters.sent(Request::Put, 1);
        self.counters.up(length);
        let location = Path::from(path.to_path());
        // A replacement that finds nothing lost a race; another write finds at least its bucket.
        let absent = match mode {
            PutMode::Update(_) => Trouble::Conflict,
            _ => Trouble::Invalid("the storage has no place for it; is the bucket there?".into()),
        };
        let options = self.put_options(path, mode);
        let put = self.objects.put_opts(&location, body.into(), options);
        match self.within(self.options.deadline(length), put).await {
            Ok(result) => Ok(Version {
                e_tag: result.e_tag,
                version: result.version,
            }),
            Err(Trouble::Missing) => Err(absent),
            Err(trouble) => Err(trouble),
        }
    }

    fn put_options(&self, path: &ObjectPath, mode: PutMode) -> PutOptions {
        let mut options = PutOptions::from(mode);
        if let (ObjectPath::Pack(_), Some(class)) = (path, &self.options.s3.storage_class) {
            options
                .attributes
                .insert(Attribute::StorageClass, class.clone().into());
        }
        options
    }

    /// Puts in place of the object seen as `expected`, and of no other.
    pub(crate) async fn update(
        &self,
        path: &ObjectPath,
        body: Bytes,
        expected: &Version,
    ) -> Result<Version, Trouble> {
        let mode = PutMode::Update(UpdateVersion {
            e_tag: expected.e_tag.clone(),
            version: expected.version.clone(),
        });
        self.put(path, body, mode).await
    }

    /// Reads the object or a part of it; refuses more than `length_max` bytes.
    pub(crate) async fn get(
        &self,
        path: &ObjectPath,
        range: Option<GetRange>,
        length_max: u64,
    ) -> Result<Answer, Trouble> {
        let _permit = self.permit().await;
        self.counters.sent(Request::Get, 1);
        let location = Path::from(path.to_path());
        let asked = GetOptions::new().with_range(range.clone());
        let begun = self.objects.get_opts(&location, asked);
        let result = self.within(self.options.deadline_base, begun).await?;
        fits(&range, &result)?;
        let expected = result.range.end - result.range.start;
        if expected > length_max {
            return Err(Trouble::Misfit(format!(
                "it has {expected} bytes, and at most {length_max} are allowed"
            )));
        }
        let (length, version) = (result.meta.size, Version::of(&result.meta));
        tokio::time::sleep(self.down.book(expected, self.clock())).await;
        let deadline = self.options.deadline(expected);
        let bytes = match tokio::time::timeout(deadline, body(result, expected)).await {
            Ok(bytes) => bytes?,
            Err(_) => {
                let why = format!(
                    "{expected} bytes did not come within {} s",
                    deadline.as_secs()
                );
                return Err(Trouble::Transient(why));
            }
        };
        self.counters.down(expected);
        if range.is_none() && !path.may_name(&bytes) {
            return Err(Trouble::Misfit(
                "its bytes are not those of its name".to_owned(),
            ));
        }
        Ok(Answer {
            bytes,
            length,
            version,
        })
    }

    pub(crate) async fn head(&self, path: &ObjectPath) -> Result<Found, Trouble> {
        let _permit = self.permit().await;
        self.counters.sent(Request::Head, 1);
        let location = Path::from(path.to_path());
        let asked = GetOptions::new().with_head(true);
        let head = self.objects.get_opts(&location, asked);
        let result = self.within(self.options.deadline_base, head).await?;
        Ok(Found::of(&result.meta))
    }

    pub(crate) async fn delete(&self, path: &ObjectPath) -> Result<(), Trouble> {
        let _permit = self.permit().await;
        self.counters.sent(Request::Delete, 1);
        let location = Path::from(path.to_path());
        let one = stream::once(async move { Ok(location) }).boxed();
        let mut deleted = self.objects.delete_stream(one);
        match self
            .within(self.options.deadline_base, async {
                deleted.next().await.transpose()
            })
            .await?
        {
            Some(_) => Ok(()),
            None => Err(Trouble::Transient(
                "the deletion was not confirmed".to_owned(),
            )),
        }
    }

    /// The folders right below `folder`.
    pub(crate) async fn folders(&self, folder: &str) -> Result<Vec<String>, Trouble> {
        let _permit = self.permit().await;
        self.counters.sent(Request::List, 1);
        let prefix = Path::from(folder);
        let listed = self.objects.list_with_delimiter(Some(&prefix));
        let listed = self.within(self.options.deadline_base, listed).await?;
        let more = (listed.common_prefixes.len() / LIST_PAGE) as u64;
        self.counters.sent(Request::List, more);
        let names = listed.common_prefixes.iter();
        Ok(names.map(ToString::to_string).collect())
    }

    /// All names below `folder`, or those of them that come after `after`; or the trouble: an
    /// unfinished listing is no listing.
    pub(crate) async fn list(
        &self,
        folder: &str,
        after: Option<&str>,
    ) -> Result<Vec<Found>, Trouble> {
        let _permit = self.permit().await;
        let prefix = (!folder.is_empty()).then(|| Path::from(folder));
        let mut names = match after {
            None => self.objects.list(prefix.as_ref()),
            Some(after) => {
                let after = Path::from(after);
                self.objects.list_with_offset(prefix.as_ref(), &after)
            }
        };
        let mut all = Vec::new();
        loop {
            if all.len().is_multiple_of(LIST_PAGE) {
                self.counters.sent(Request::List, 1);
            }
            let next = self.within(self.options.deadline_base, async {
                names.next().await.transpose()
            });
            match next.await {
                Ok(Some(meta)) => all.push(Found::of(&meta)),
                Ok(None) => return Ok(all),
                Err(Trouble::Missing) => {
                    return Err(Trouble::Invalid("the bucket is not there".to_owned()));
                }
                Err(trouble) => return Err(trouble),
            }
            if all.len() > LIST_LENGTH_MAX {
                return Err(Trouble::Misfit("the listing does not end".to_owned()));
            }
        }
    }
}

/// Whether the answer covers the very range that was asked for.
fn fits(asked: &Option<GetRange>, result: &GetResult) -> Result<(), Trouble> {
    let size = result.meta.size;
    let expected: Range<u64> = match asked {
        None => 0..size,
        Some(GetRange::Bounded(range)) => range.clone(),
        Some(GetRange::Suffix(length)) => size.saturating_sub(*length)..size,
        Some(GetRange::Offset(start)) => *start..size,
    };
    if result.range == expected && expected.start <= expected.end {
        Ok(())
    } else {
        Err(Trouble::Misfit(format!(
            "bytes {} to {} were asked for, and {} to {} of {size} came",
            expected.start, expected.end, result.range.start, result.range.end
        )))
    }
}

async fn body(result: GetResult, expected: u64) -> Result<Bytes, Trouble> {
    let mut frames = match result.payload {
        GetResultPayload::Stream(frames) => frames,
        GetResultPayload::File(..) => {
            return result.bytes().await.map_err(|error| classify(&error));
        }
    };
    let mut whole = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| classify(&error))?;
        if whole.len() as u64 + frame.len() as u64 > expected {
            return Err(Trouble::Misfit(format!(
                "more than the {expected} bytes announced came"
            )));
        }
        if whole.is_empty() && frame.len() as u64 == expected {
            return Ok(frame);
        }
        if whole.capacity() == 0 {
            whole.reserve_exact(expected as usize);
        }
        whole.extend_from_slice(&frame);
    }
    if whole.len() as u64 == expected {
        Ok(whole.into())
    } else {
        let came = whole.len();
        Err(Trouble::Misfit(format!("{came} of {expected} bytes came")))
    }
}
