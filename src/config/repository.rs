//! `[repository]`: where snapshots go, what opens them, and what the storage needs to be told.
//!
//! Invariant: of what opens the repository one thing is given, and a lock on objects, which nobody
//! can take back, is never longer than ten years.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::reading::{Error, Reading};
use crate::config::secret::Origin;
use crate::config::traffic::Traffic;
use crate::store::{Addressing, PlainHttp, S3Options};

/// The shortest and the longest time that objects may be locked.
const LOCK_MIN: Duration = Duration::from_secs(24 * 3600);
const LOCK_MAX: Duration = Duration::from_secs(3653 * 24 * 3600);

/// Where the repository is and what opens it.
#[derive(Debug, Default)]
pub struct Repository {
    /// A path or a URL.
    pub url: Option<String>,
    /// Where the passphrase is.
    pub passphrase: Option<Origin>,
    /// Where the text of a key file is.
    pub key: Option<Origin>,
    /// Where local state stands.
    pub state_dir: Option<PathBuf>,
    /// The one host that maintains, where the storage cannot keep several apart.
    pub maintenance_host: Option<String>,
    /// How long what snapshots are made of is locked in the storage.
    pub lock: Option<Duration>,
    /// What S3 needs to be told.
    pub s3: S3Options,
    /// How fast the storage is used.
    pub traffic: Traffic,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepositoryText {
    url: Option<String>,
    passphrase_file: Option<String>,
    passphrase_command: Option<Vec<String>>,
    key_file: Option<String>,
    key_command: Option<Vec<String>>,
    state_dir: Option<String>,
    maintenance_host: Option<String>,
    lock: Option<String>,
    #[serde(default)]
    s3: S3Text,
    traffic: Option<Traffic>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct S3Text {
    endpoint: Option<String>,
    region: Option<String>,
    addressing: Option<AddressingText>,
    ca_file: Option<String>,
    #[serde(default)]
    plain_http: bool,
    storage_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AddressingText {
    Path,
    VirtualHost,
}

impl Reading<'_> {
    pub(super) fn repository(&self, text: RepositoryText) -> Result<Repository, Error> {
        let url = self.text("repository.url", text.url)?;
        // What has no scheme is a path.
        let url = url.map(|url| match url.contains(':') || url.is_empty() {
            true => url,
            false => self.beside(Path::new(&url)).display().to_string(),
        });
        let (file, command) = (text.passphrase_file, text.passphrase_command);
        let passphrase = self.secret("repository", "passphrase", (file, command))?;
        let key = self.secret("repository", "key", (text.key_file, text.key_command))?;
        if passphrase.is_some() && key.is_some() {
            let what = "a passphrase and a key are both given".to_owned();
            return Err(self.wrong("repository", what, Some("keep one of them".into())));
        }
        Ok(Repository {
            url,
            passphrase,
            key,
            state_dir: self.file("repository.state_dir", text.state_dir)?,
            lock: self.lock(text.lock)?,
            maintenance_host: self.text("repository.maintenance_host", text.maintenance_host)?,
            s3: self.s3(text.s3)?,
            traffic: text.traffic.unwrap_or_default(),
        })
    }

    fn lock(&self, text: Option<String>) -> Result<Option<Duration>, Error> {
        let Some(text) = text else { return Ok(None) };
        let span = self.span("repository", "lock", &text)?;
        // Nobody can take back a lock, so that a typing mistake must not last for ever.
        match (LOCK_MIN..=LOCK_MAX).contains(&span) {
            true => Ok(Some(span)),
            false => Err(self.wrong(
                "repository",
                "lock must be 1 day to 10 years".into(),
                Some("write it as 30d".into()),
            )),
        }
    }

    fn s3(&self, text: S3Text) -> Result<S3Options, Error> {
        Ok(S3Options {
            endpoint: self.text("repository.s3.endpoint", text.endpoint)?,
            credentials: None,
            region: self.text("repository.s3.region", text.region)?,
            addressing: match text.addressing {
                Some(AddressingText::VirtualHost) => Addressing::VirtualHost,
                Some(AddressingText::Path) | None => Addressing::Path,
            },
            ca_file: self.file("repository.s3.ca_file", text.ca_file)?,
            plain_http: match text.plain_http {
                true => PlainHttp::Anywhere,
                false => PlainHttp::LoopbackOnly,
            },
            storage_class: self.text("repository.s3.storage_class", text.storage_class)?,
        })
    }
}
