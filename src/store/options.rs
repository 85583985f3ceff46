//! How a storage is to be used: limits, deadlines, and what S3 needs to be told.
//!
//! Everything has a default that works; the config file and flags fill in the rest. Invariant:
//! plain http is used only for this machine itself, unless it was allowed by name.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::store::retry::Budget;

/// What to do where the directory of a local repository does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// Refuse: a mistyped path must not become an empty repository.
    #[default]
    MustExist,
    /// Make it, readable for its owner only (`init` asks for this).
    Create,
}

/// How a storage is to be used.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A missing directory of a local repository.
    pub root: Root,
    /// Retries.
    pub budget: Budget,
    /// How many requests may be under way at once; at least 1.
    pub requests_max: usize,
    /// The time that any request may take, before its bytes are counted.
    pub deadline_base: Duration,
    /// The slowest transfer that is still waited for; adds its time to the deadline.
    pub rate_min_bytes_per_second: u64,
    /// The fastest upload, over all requests; none for no limit.
    pub upload_max_bytes_per_second: Option<u64>,
    /// The fastest download, over all requests; none for no limit.
    pub download_max_bytes_per_second: Option<u64>,
    /// How long what snapshots are made of stays, whoever wants it gone (S3 Object Lock).
    pub lock: Option<Duration>,
    /// What only S3 needs.
    pub s3: S3Options,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            root: Root::default(),
            budget: Budget::default(),
            requests_max: 16,
            deadline_base: Duration::from_secs(30),
            rate_min_bytes_per_second: 128 << 10,
            upload_max_bytes_per_second: None,
            download_max_bytes_per_second: None,
            lock: None,
            s3: S3Options::default(),
        }
    }
}

impl StoreOptions {
    /// How long a request that moves `bytes` may take.
    pub(crate) fn deadline(&self, bytes: u64) -> Duration {
        self.deadline_base + Duration::from_secs(bytes / self.rate_min_bytes_per_second.max(1))
    }
}

/// What S3 needs to be told; each overrides the `AWS_*` variable of its meaning.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// The server, as `https://host[:port]`; none for Amazon's.
    pub endpoint: Option<String>,
    /// Who we are; none for the `AWS_*` variables, or what the machine or container provides.
    pub credentials: Option<S3Credentials>,
    /// The region; none for `AWS_REGION`, `AWS_DEFAULT_REGION`, or us-east-1.
    pub region: Option<String>,
    /// How a bucket stands in a request.
    pub addressing: Addressing,
    /// A PEM file of certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether http without TLS may leave this machine.
    pub plain_http: PlainHttp,
    /// The storage class of packs, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
}

/// A key pair of S3; the secret is never shown.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: SecretString,
}

/// How a bucket stands in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// `host/bucket/…`, which every server knows.
    #[default]
    Path,
    /// `bucket.host/…`
    VirtualHost,
}

/// Whether http without TLS may leave this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Only to a loopback address.
    #[default]
    LoopbackOnly,
    /// To any host: passwords do not travel, but everybody on the way sees and alters requests.
    Anywhere,
}
