//! A directory as a storage: what object_store's local one leaves open, closed.
//!
//! It adds: no symbolic link below the root is followed; a root that was unmounted or exchanged is
//! an error and not an empty repository; a listing fails where anything cannot be read; and
//! conditional replacement, under a lock file (so all maintainers of a directory must see one
//! another's file locks); and large objects past the page cache ([`direct`]).
//! Invariant: an object appears whole, synced to the disk, or not at all.

mod direct;

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

use crate::clock::Timestamp;
use crate::store::options::Root;
use direct::Publish;

const NAME: &str = "directory";
const LOCK_FILE: &str = ".rowvault-lock";
/// Objects up to this length have the hash of their bytes as their state; inode numbers come again.
const HASHED_BYTES_MAX: u64 = 64 << 10;

/// A directory as a storage.
#[derive(Debug)]
pub(crate) struct Directory {
    files: LocalFileSystem,
    root: Arc<RootDirectory>,
}

#[derive(Debug)]
struct RootDirectory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Directory {
    /// Opens the directory, which is made first where the options say so.
    pub(crate) fn open(path: &FilePath, missing: Root) -> io::Result<Self> {
        if missing == Root::Create {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let path = fs::canonicalize(path)?;
        let facts = fs::metadata(&path)?;
        if !facts.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let files = LocalFileSystem::new_with_prefix(&path).map_err(io::Error::other)?;
        Ok(Directory {
            files: files.with_fsync(true),
            root: Arc::new(RootDirectory {
                path,
                device: facts.dev(),
                inode: facts.ino(),
            }),
        })
    }

    /// Checks the way to an object, away from the threads that must not wait for a disk.
    async fn check(&self, location: &Path) -> Result<()> {
        let (root, location) = (self.root.clone(), location.clone());
        blocking(move || root.check(&location)).await
    }

    /// Removes files that were being written and were last touched before `before`.
    pub(crate) async fn clear_unfinished(&self, before: Timestamp) -> Result<u64> {
        let root = self.root.clone();
        blocking(move || {
            let mut cleared = 0;
            root.walk(Path::default(), None, &mut |entry, facts, name, _| {
                let touched = DateTime::<Utc>::from(facts.modified().map_err(generic)?);
                if is_staged(name) && touched.timestamp_micros() < before.0 {
                    fs::remove_file(entry.path()).map_err(generic)?;
                    cleared += 1;
                }
                Ok(())
            })?;
            Ok(cleared)
        })
        .await
    }

    /// Puts a large object past the page cache; none where that cannot be done.
    async fn put_large(
        &self,
        location: &Path,
        payload: &PutPayload,
        mode: &PutMode,
    ) -> Result<Option<PutResult>> {
        let publish = match mode {
            PutMode::Create => Publish::Create,
            PutMode::Overwrite => Publish::Replace,
            PutMode::Update(_) => return Ok(None),
        };
        if payload.content_length() < direct::BYTES_MIN {
            return Ok(None);
        }
        let path = self.root.path.join(location.as_ref());
        let (payload, name) = (payload.clone(), location.to_string());
        let put = blocking(move || {
            direct::put(&path, &payload, publish).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
                    path: name,
                    source: Box::new(error),
                },
                _ => generic(error),
            })
        });
        if !put.await? {
            return Ok(None);
        }
        Ok(Some(PutResult {
            e_tag: self.files.head(location).await?.e_tag,
            version: None,
            extensions: Default::default(),
        }))
    }

    /// Puts `payload` in place of the object whose state is `expected`, under the lock.
    async fn update(
        &self,
        location: &Path,
        payload: PutPayload,
        expected: Option<String>,
    ) -> Result<PutResult> {
        let root = self.root.clone();
        let lock = blocking(move || root.lock()).await?;
        let found = self.files.get(location).await?.bytes().await?;
        if expected != Some(state(&found)) {
            return Err(object_store::Error::Precondition {
                path: location.to_string(),
                source: "the object has changed".into(),
            });
        }
        let result = self
            .files
            .put_opts(location, payload, PutOptions::default());
        let result = result.await?;
        drop(lock);
        Ok(result)
    }
}

impl RootDirectory {
    /// Whether the root is still the directory that was opened, and no link leads out of it.
    fn check(&self, location: &Path) -> Result<()> {
        let facts = fs::metadata(&self.path).map_err(|error| self.gone(&error.to_string()))?;
        if (facts.dev(), facts.ino()) != (self.device, self.inode) {
            return Err(self.gone("another directory stands in its place"));
        }
        let mut path = self.path.clone();
        for part in location.parts() {
            path.push(part.as_ref());
            match fs::symlink_metadata(&path) {
                Ok(facts) if facts.file_type().is_symlink() => return Err(link(&path)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(generic(error)),
            }
        }
        Ok(())
    }

    fn gone(&self, why: &str) -> object_store::Error {
        let path = self.path.display();
        generic(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("the directory {path} is gone: {why}"),
        ))
    }

    fn lock(&self) -> Result<File> {
        let path = self.path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        // A link in place of the lock file would be created or opened elsewhere.
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = options.open(path).map_err(generic)?;
        file.lock().map_err(generic)?;
        Ok(file)
    }

    /// Every object below `folder`, or those whose names come after `after`; fails where anything
    /// cannot be read.
    fn list(&self, folder: Option<&Path>, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        self.walk(
            folder.cloned().unwrap_or_default(),
            after,
            &mut |_, facts, name, location| {
                if name != LOCK_FILE && !is_staged(name) {
                    found.push(ObjectMeta {
                        location,
                        last_modified: DateTime::<Utc>::from(facts.modified().map_err(generic)?),
                        size: facts.len(),
                        e_tag: None,
                        version: None,
                    });
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Shows every file below `folder`, or those after `after`, whatever it is; fails where anything
    /// cannot be read.
    fn walk(&self, folder: Path, after: Option<&Path>, show: &mut Show<'_>) -> Result<()> {
        self.check(&folder)?;
        let mut open = vec![folder];
        while let Some(folder) = open.pop() {
            let entries = match fs::read_dir(self.path.join(folder.as_ref())) {
                Ok(entries) => entries,
                // Its last object was deleted, or none was ever written.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(generic(error)),
            };
            for entry in entries {
                let entry = entry.map_err(generic)?;
                let name = entry.file_name();
                // A name that is no text is foreign; it is shown as near to itself as text can be.
                let name = name.to_string_lossy();
                let location = folder.clone().join(name.as_ref());
                let passed = after.is_some_and(|after| location <= *after);
                if passed && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    continue;
                }
                let facts = match entry.metadata() {
                    Ok(facts) => facts,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(generic(error)),
                };
                if facts.is_symlink() {
                    return Err(link(&entry.path()));
                } else if facts.is_dir() {
                    open.push(location);
                } else {
                    show(&entry, &facts, &name, location)?;
                }
            }
        }
        self.check(&Path::default())
    }
}

fn listed(
    root: Arc<RootDirectory>,
    folder: Option<Path>,
    after: Option<Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let all = async move {
        let all = blocking(move || root.list(folder.as_ref(), after.as_ref())).await?;
        Ok::<_, object_store::Error>(stream::iter(all.into_iter().map(Ok)))
    };
    stream::once(all).try_flatten().boxed()
}

/// What is done with each file of a walk: its entry, its facts, its name, and its place.
type Show<'a> = dyn FnMut(&fs::DirEntry, &fs::Metadata, &str, Path) -> Result<()> + 'a;

/// Whether a file is an object that is still being written, or was when its writer died.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|c| c.is_ascii_digit()))
}

fn state(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn payload_state(payload: &PutPayload) -> Option<String> {
    (payload.content_length() as u64 <= HASHED_BYTES_MAX).then(|| {
        let mut hasher = blake3::Hasher::new();
        for part in payload {
            hasher.update(part);
        }
        hasher.finalize().to_hex().to_string()
    })
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: NAME,
        source: Box::new(error),
    }
}

fn link(path: &FilePath) -> object_store::Error {
    generic(io::Error::new(
        io::ErrorKind::NotADirectory,
        format!(
            "{} is a symbolic link, which is not followed",
            path.display()
        ),
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.path.display())
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.check(location).await?;
        // A directory has no storage classes.
        options.attributes = Default::default();
        if let Some(result) = self.put_large(location, &payload, &options.mode).await? {
            return Ok(result);
        }
        let state = payload_state(&payload);
        let mut result = match options.mode {
            PutMode::Update(expected) => self.update(location, payload, expected.e_tag).await?,
            _ => self.files.put_opts(location, payload, options).await?,
        };
        if state.is_some() {
            result.e_tag = state;
        }
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check(location).await?;
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location).await?;
        let whole = options.range.is_none() && !options.head;
        let result = self.files.get_opts(location, options).await?;
        if !whole || result.meta.size > HASHED_BYTES_MAX {
            return Ok(result);
        }
        let (mut meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let bytes: Bytes = result.bytes().await?;
        meta.e_tag = Some(state(&bytes));
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let root = self.root.clone();
        let checked = locations.and_then(move |location| {
            let root = root.clone();
            blocking(move || root.check(&location).map(|()| location))
        });
        self.files.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.root.clone(), prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(self.root.clone(), prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check(prefix.unwrap_or(&Path::default())).await?;
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from).await?;
        self.check(to).await?;
        self.files.copy_opts(from, to, options).await
    }
}
