//! Opening a storage by its URL.
//!
//! A path, `file://`, `s3://`, `gs://`, `az://`, or `memory:`. Invariant: a URL with credentials
//! in it is refused and never repeated in a message, because URLs are stored and printed.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;

use crate::clock::Clock;
use crate::random::Random;
use crate::store::error::{Error, Place};
use crate::store::local::Directory;
use crate::store::lock::{Lock, Locking};
use crate::store::objects::Store;
use crate::store::options::{Root, StoreOptions};
use crate::store::s3;

impl Store {
    /// Opens a storage: a path or `file://` (see [`Root`]), `s3://bucket/prefix`, `gs://`, `az://`
    /// or `memory:`. No request is made yet; the process has installed a TLS provider before.
    ///
    /// # Errors
    /// `Invalid`: the URL or an option is wrong, the directory does not exist or is none.
    pub fn open(
        url: &str,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Store, Error> {
        let invalid = |reason: String| Error::Invalid {
            place: Place {
                url: redact(url),
                object: None,
            },
            reason,
        };
        let shown = redact(url);
        let objects: Arc<dyn ObjectStore> = match Address::parse(url).map_err(invalid)? {
            Address::Bucket(bucket) if bucket.provider == Provider::S3 => {
                let (objects, lock) = bucket.open_s3(options, &clock).map_err(invalid)?;
                let store = Store::from_object_store(objects, &shown, options, clock, random);
                return Ok(store.with_lock(lock));
            }
            _ if options.lock.is_some() => {
                let why = "only S3 has an object lock; take lock out of [repository]";
                return Err(invalid(why.to_owned()));
            }
            Address::Memory => Arc::new(InMemory::new()),
            Address::Bucket(bucket) => bucket.open(options).map_err(invalid)?,
            Address::Directory(path) => {
                let directory = directory(url, &path, options.root)?;
                return Ok(Store::from_directory(
                    directory, &shown, options, clock, random,
                ));
            }
        };
        Ok(Store::from_object_store(
            objects, &shown, options, clock, random,
        ))
    }
}

#[derive(Debug, PartialEq)]
enum Address {
    Memory,
    Directory(PathBuf),
    Bucket(Bucket),
}

#[derive(Clone, Debug, PartialEq)]
struct Bucket {
    provider: Provider,
    name: String,
    prefix: Path,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Provider {
    S3,
    Google,
    Azure,
}

impl Address {
    fn parse(text: &str) -> Result<Address, String> {
        if text.is_empty() {
            return Err("no repository was named".to_owned());
        }
        if text == "memory:" {
            return Ok(Address::Memory);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Address::Directory(PathBuf::from(text)));
        };
        let provider = match scheme {
            "file" => return Address::parse_file(text),
            "s3" | "s3a" => Provider::S3,
            "gs" => Provider::Google,
            "az" => Provider::Azure,
            _ => return Err("it is neither a path nor file, s3, gs, az or memory".to_owned()),
        };
        Ok(Address::Bucket(Bucket::parse(provider, rest)?))
    }

    fn parse_file(text: &str) -> Result<Address, String> {
        let url = url::Url::parse(text).map_err(|error| error.to_string())?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a file URL has no query and no fragment".to_owned());
        }
        match url.to_file_path() {
            Ok(path) => Ok(Address::Directory(path)),
            Err(()) => Err("a file URL has three slashes and an absolute path".to_owned()),
        }
    }
}

/// A client, and what locks objects through it where that is asked for.
type Lockable = (Arc<dyn ObjectStore>, Option<Arc<Lock>>);

impl Bucket {
    fn parse(provider: Provider, rest: &str) -> Result<Bucket, String> {
        if rest.contains('@') {
            return Err("credentials do not belong in the URL; use the environment".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("a bucket's URL has no query and no fragment".to_owned());
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(format!("{name:?} is not a bucket's name"));
        }
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| error.to_string())?;
        Ok(Bucket {
            provider,
            name: name.to_owned(),
            prefix,
        })
    }

    /// The bucket, and what locks objects in it where that is asked for.
    fn open_s3(&self, options: &StoreOptions, clock: &Arc<dyn Clock>) -> Result<Lockable, String> {
        let plain = s3::open(&self.name, options)?;
        let Some(span) = options.lock else {
            return Ok((self.below(plain), None));
        };
        let signer = Arc::new(s3::open(&self.name, options)?);
        let (bucket, again) = (self.clone(), options.clone());
        let make = move |headers| {
            let client = s3::open_with(&bucket.name, &again, Some(headers))?;
            Ok(bucket.below(client))
        };
        let http = s3::http(options.s3.ca_file.as_deref())?;
        let signed = (signer as Arc<dyn Signer>, self.prefix.clone());
        let lock = Arc::new(Lock::new(span, signed, http, Box::new(make), clock.clone()));
        let locking = Locking {
            plain: self.below(plain),
            lock: lock.clone(),
        };
        Ok((Arc::new(locking), Some(lock)))
    }

    fn open(&self, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
        match self.provider {
            Provider::S3 => Ok(self.below(s3::open(&self.name, options)?)),
            Provider::Google => {
                let google = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(&self.name)
                    .with_retry(s3::no_retries())
                    .with_client_options(s3::client(None, false)?)
                    .build()
                    .map_err(|error| error.to_string())?;
                Ok(self.below(google))
            }
            Provider::Azure => {
                let azure = MicrosoftAzureBuilder::from_env()
                    .with_container_name(&self.name)
                    .with_retry(s3::no_retries())
                    .with_client_options(s3::client(None, false)?)
                    .build()
                    .map_err(|error| error.to_string())?;
                Ok(self.below(azure))
            }
        }
    }

    fn below(&self, objects: impl ObjectStore) -> Arc<dyn ObjectStore> {
        if self.prefix == Path::default() {
            Arc::new(objects)
        } else {
            Arc::new(PrefixStore::new(objects, self.prefix.clone()))
        }
    }
}

fn directory(url: &str, path: &FilePath, missing: Root) -> Result<Directory, Error> {
    Directory::open(path, missing).map_err(|error| {
        let place = Place {
            url: redact(url),
            object: None,
        };
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            _ => error.to_string(),
        };
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Error::Denied { place, reason },
            _ => Error::Invalid { place, reason },
        }
    })
}

/// The URL without what may be a credential: a user's part, and a query.
pub(crate) fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood() {
        let directory = |path: &str| Ok(Address::Directory(PathBuf::from(path)));
        assert_eq!(Address::parse("/srv/backup"), directory("/srv/backup"));
        assert_eq!(Address::parse("backup"), directory("backup"));
        assert_eq!(Address::parse("file:///srv/a%20b"), directory("/srv/a b"));
        assert_eq!(Address::parse("memory:"), Ok(Address::Memory));
        assert_eq!(
            Address::parse("s3://acme-backup/crm/one/"),
            Ok(Address::Bucket(Bucket {
                provider: Provider::S3,
                name: "acme-backup".into(),
                prefix: Path::from("crm/one"),
            }))
        );
    }

    #[test]
    fn bad_urls_are_refused() {
        for url in [
            "",
            "s3://",
            "s3:///prefix",
            "s3://buck et/x",
            "s3://key:secret@bucket/x",
            "s3://bucket/x?versioning=1",
            "s3://bucket/a/../b",
            "http://bucket",
            "file://host/x",
            "file:///x?y",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn messages_hold_no_credential() {
        for url in ["s3://id:hunter2@bucket/x", "s3://bucket/x?secret=hunter2"] {
            assert!(!redact(url).contains("hunter2"));
        }
    }
}
