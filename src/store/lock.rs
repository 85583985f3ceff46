//! Object Lock: what is written stays, for a time that nobody can shorten.
//!
//! object_store has no words for it. Objects are written by a client whose every request carries
//! the lock's headers; asking for a lock and extending it are requests of our own, signed by that
//! client. Invariant: whatever a snapshot is made of is written locked, for at least the span.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::signer::{HeaderMap, HeaderName, HeaderValue, Method, SignedUrlOptions, Signer};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::clock::{Clock, Timestamp};
use crate::store::classify::{answered, unreached};
use crate::store::error::Trouble;
use crate::store::layout::ObjectPath;

/// A client writes locked objects for so long at most; then another is made, with a later end.
const CLIENT_AGE: Duration = Duration::from_secs(3600);
/// A signed request is used at once.
const SIGNATURE_AGE: Duration = Duration::from_secs(300);
/// The longest answer to a question about a lock.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Makes a client that writes with these headers.
type Make =
    Box<dyn Fn(HeaderMap) -> std::result::Result<Arc<dyn ObjectStore>, String> + Send + Sync>;

/// What it takes to lock objects of one bucket.
pub(crate) struct Lock {
    /// How long objects stay at least.
    pub(crate) span: Duration,
    signer: Arc<dyn Signer>,
    prefix: Path,
    http: reqwest::Client,
    make: Make,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<(Duration, Arc<dyn ObjectStore>)>>,
}

impl Lock {
    pub(crate) fn new(
        span: Duration,
        (signer, prefix): (Arc<dyn Signer>, Path),
        http: reqwest::Client,
        make: Make,
        clock: Arc<dyn Clock>,
    ) -> Lock {
        Lock {
            span,
            signer,
            prefix,
            http,
            make,
            clock,
            current: Mutex::default(),
        }
    }

    /// A client whose objects stay for the span from now on.
    fn client(&self) -> Result<Arc<dyn ObjectStore>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.elapsed();
        let age = CLIENT_AGE.min(self.span / 8);
        if let Some((made, client)) = &*current
            && now.saturating_sub(*made) < age
        {
            return Ok(client.clone());
        }
        let until = self.clock.now().plus(self.span + age);
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-amz-object-lock-mode",
            HeaderValue::from_static("COMPLIANCE"),
        );
        headers.insert("x-amz-object-lock-retain-until-date", date(until)?);
        headers.insert(
            "x-amz-sdk-checksum-algorithm",
            HeaderValue::from_static("SHA256"),
        );
        let client = (self.make)(headers).map_err(generic)?;
        *current = Some((now, client.clone()));
        Ok(client)
    }

    /// Until when an object is locked; none where it is not.
    pub(crate) async fn until(
        &self,
        path: &ObjectPath,
    ) -> std::result::Result<Option<Timestamp>, Trouble> {
        let url = self
            .sign(Method::HEAD, path, &SignedUrlOptions::new())
            .await?;
        let answer = self.http.head(url).send().await;
        let answer = answer.map_err(|error| unreached(&error))?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(answered(status, ""));
        }
        let until = answer.headers().get("x-amz-object-lock-retain-until-date");
        let until = until.and_then(|until| until.to_str().ok());
        Ok(until.and_then(parse))
    }

    /// Locks an object until `until`, where it was not for longer.
    pub(crate) async fn extend(
        &self,
        path: &ObjectPath,
        until: Timestamp,
    ) -> std::result::Result<(), Trouble> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            until.rfc3339()
        );
        let name = HeaderName::from_static("x-amz-checksum-crc32");
        let sum = STANDARD.encode(crc32(body.as_bytes()).to_be_bytes());
        let value = HeaderValue::from_str(&sum).expect("base 64 is plain text");
        let options = SignedUrlOptions::new()
            .with_query([("retention", "")])
            .with_signed_header(name.clone(), value.clone());
        let url = self.sign(Method::PUT, path, &options).await?;
        let request = self.http.put(url).header(name.as_str(), sum).body(body);
        let answer = request.send().await.map_err(|error| unreached(&error))?;
        match read(answer).await? {
            (200..=299, _) => Ok(()),
            (status, text) => Err(answered(status, &text)),
        }
    }

    async fn sign(
        &self,
        method: Method,
        path: &ObjectPath,
        options: &SignedUrlOptions,
    ) -> std::result::Result<String, Trouble> {
        let whole = Path::from_iter(
            self.prefix
                .parts()
                .chain(Path::from(path.to_path()).parts()),
        );
        let signed = self
            .signer
            .signed_url_opts(method, &whole, SIGNATURE_AGE, options)
            .await;
        let url = signed.map_err(|error| crate::store::classify::classify(&error))?;
        Ok(url.to_string())
    }
}

async fn read(answer: reqwest::Response) -> std::result::Result<(u16, String), Trouble> {
    let status = answer.status().as_u16();
    let mut bytes = Vec::new();
    let mut answer = answer;
    while let Some(piece) = answer.chunk().await.map_err(|error| unreached(&error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(Trouble::Misfit("the answer about a lock has no end".into()));
        }
    }
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

fn parse(text: &str) -> Option<Timestamp> {
    let instant = chrono::DateTime::parse_from_rfc3339(text.trim()).ok()?;
    Some(Timestamp(instant.timestamp_micros()))
}

fn date(until: Timestamp) -> Result<HeaderValue> {
    HeaderValue::from_str(&until.rfc3339()).map_err(|error| generic(error.to_string()))
}

fn generic(why: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "object lock",
        source: why.into(),
    }
}

/// The checksum that S3 wants of such requests (CRC-32 of IEEE 802.3, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

/// Whether objects under this path are written locked.
fn is_locked(location: &Path) -> bool {
    let text = location.as_ref();
    let folders = ["packs/", "index/", "manifests/", "ledger/"];
    let proof = text.starts_with("probe/") && text.ends_with("/lock");
    proof || folders.iter().any(|folder| text.starts_with(folder))
}

/// A store that writes what snapshots are made of locked.
pub(crate) struct Locking {
    pub(crate) plain: Arc<dyn ObjectStore>,
    pub(crate) lock: Arc<Lock>,
}

impl fmt::Display for Locking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plain)
    }
}

impl fmt::Debug for Locking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.plain)
    }
}

#[async_trait]
impl ObjectStore for Locking {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match is_locked(location) {
            true => {
                self.lock
                    .client()?
                    .put_opts(location, payload, options)
                    .await
            }
            false => self.plain.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.plain.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.plain.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.plain.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plain.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.plain.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.plain.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.plain.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_snapshots_are_made_of_is_locked_and_nothing_else() {
        for (path, locked) in [
            ("packs/ab/abcd", true),
            ("index/ab", true),
            ("manifests/a/b", true),
            ("ledger/a/1", true),
            ("intents/a", false),
            ("leases/a", false),
            ("keys/a", false),
            ("repository", false),
            ("probe/a/race", false),
        ] {
            assert_eq!(is_locked(&Path::from(path)), locked, "{path}");
        }
    }
}
