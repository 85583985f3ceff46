//! An opened repository: its storage, what we may do in it, and its sealed metadata objects.
//!
//! Every metadata object passes through here, with the key of its kind and its place. Invariant:
//! an object that is named by its bytes is checked against its name before it is opened.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::Clock;
use crate::crypto::envelope::ReaderPublic;
use crate::crypto::key::{ReaderSecret, RootSecret, SharedKeys, SymmetricKey};
use crate::crypto::sign::SigningKey;
use crate::failure::{Class, Failure};
use crate::format::index::Index;
use crate::format::manifest::Manifest;
use crate::format::object::{self, HEADER_BYTES, Kind};
use crate::id::{ObjectId, RepositoryId, SignerId, SourceHash, SourceName};
use crate::random::Random;
use crate::repo::blob::{self, Realm};
use crate::store::{self, ObjectPath, Store};

/// Why a metadata object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The object is not what it should be.
    #[error("{path} is damaged or not ours")]
    Object {
        /// Which object.
        path: ObjectPath,
        /// What is wrong with it.
        #[source]
        source: Box<blob::Error>,
    },
    /// The object's body is not what it should be.
    #[error("{path} cannot be read")]
    Body {
        /// Which object.
        path: ObjectPath,
        /// What is wrong with it.
        #[source]
        source: Box<object::Error>,
    },
    /// The object's bytes are not those of its name.
    #[error("{path} does not hold the bytes of its name: it was altered")]
    Renamed {
        /// Which object.
        path: ObjectPath,
    },
    /// The signer may not have written it.
    #[error("{path} is signed by {signer}, who may not write it")]
    Signer {
        /// Which object.
        path: ObjectPath,
        /// Who signed it.
        signer: SignerId,
    },
    /// The storage said yes and kept nothing, or half.
    #[error("the storage said that it keeps {path}, and has not got it whole")]
    NotKept {
        /// Which object.
        path: ObjectPath,
    },
    /// A file of places that this host keeps does not open, and was removed if that could be done.
    #[error("{}, which this host keeps, is damaged; nothing in the repository is hurt", path.display())]
    Places {
        /// The file.
        path: PathBuf,
    },
    /// The reader's key is needed.
    #[error("a writer's key file cannot {verb}")]
    WriterOnly {
        /// What was asked.
        verb: &'static str,
    },
    /// The owner's key is needed.
    #[error("this key may not {verb}")]
    OwnerOnly {
        /// What was asked.
        verb: &'static str,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Store(error) => error.class(),
            Error::Object { source, .. } => source.class(),
            Error::Body { source, .. } => source.class(),
            Error::Renamed { .. } | Error::Signer { .. } => Class::Corrupt,
            Error::NotKept { .. } => Class::Unsettled,
            Error::Places { .. } => Class::Transient,
            Error::WriterOnly { .. } | Error::OwnerOnly { .. } => Class::Denied,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Store(error) => error.hint(),
            Error::Object { source, .. } => source.hint(),
            Error::Body { source, .. } => source.hint(),
            Error::WriterOnly { .. } | Error::OwnerOnly { .. } => Some(
                "use the passphrase or a key file of the repository's owner (--passphrase-file, --key-file)".into(),
            ),
            Error::Places { .. } => Some("run it again: the file is made anew; remove it where that does not help".into()),
            Error::NotKept { .. } => Some("run it again; 'rowvault doctor' tries the storage".into()),
            _ => Some("run 'rowvault verify' to see which snapshots are hurt".into()),
        }
    }
}

impl Error {
    /// The object at `path` is not what it should be.
    pub fn object(path: &ObjectPath, source: blob::Error) -> Error {
        Error::Object {
            path: path.clone(),
            source: Box::new(source),
        }
    }

    /// The body of the object at `path` is not what it should be.
    pub fn body(path: &ObjectPath, source: object::Error) -> Error {
        Error::Body {
            path: path.clone(),
            source: Box::new(source),
        }
    }
}

/// A pack is closed when it has this many bytes, where nothing else is asked. Two are held at once,
/// one being filled and one being stored; with more, a backup of large cells would need over 160 MiB.
pub const PACK_BYTES: usize = 12 << 20;
/// An index of fewer bytes is read whole by whoever looks chunks up, in some 20 ms, where nothing
/// else is asked.
pub const INDEX_SORTED_BYTES_MIN: u64 = 2 << 20;

/// What the key that opened the repository allows.
pub struct Access {
    /// Keys that every writer has.
    pub shared: SharedKeys,
    /// The half of the reader's pair that seals sessions.
    pub reader_public: ReaderPublic,
    /// The reader's secret, where rows may be opened.
    pub reader: Option<ReaderSecret>,
    /// The root secret, where slots and writers may be changed.
    pub root: Option<RootSecret>,
    /// The owner's public key.
    pub owner: SignerId,
    /// What signs our objects: the owner's key, or this writer's.
    pub signer: SigningKey,
}

impl Access {
    /// All that the root secret allows.
    pub fn owner(root: RootSecret, repository: RepositoryId, epoch: u16) -> Access {
        let reader = root.reader(repository, epoch.into());
        let signer = root.owner(repository);
        Access {
            shared: root.shared(repository, epoch.into()),
            reader_public: reader.public(),
            reader: Some(reader),
            owner: signer.id(),
            signer,
            root: Some(root),
        }
    }

    /// Whether rows may be opened.
    pub fn may_read(&self) -> bool {
        self.reader.is_some()
    }
}

/// An opened repository.
pub struct Vault {
    /// The storage.
    pub store: Store,
    /// What our key allows.
    pub access: Access,
    /// The repository and the epoch of its keys.
    pub realm: Realm,
    /// About how many bytes of rows a chunk holds.
    pub chunk_target_bytes: u32,
    /// A pack is closed when it has this many bytes.
    pub pack_bytes: usize,
    /// From how many bytes on this host keeps the places of an index sorted.
    pub index_sorted_bytes_min: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

/// The BLAKE3 of `bytes`: the name of an object that never changes.
pub fn object_id(bytes: &[u8]) -> ObjectId {
    ObjectId(*blake3::hash(bytes).as_bytes())
}

impl Vault {
    /// The name of `source` in paths.
    pub fn source_hash(&self, source: &SourceName) -> SourceHash {
        self.access.shared.source_hash(source)
    }

    /// The reader's secret.
    ///
    /// # Errors
    /// [`Error::WriterOnly`]: our key is a writer's.
    pub fn reader(&self, verb: &'static str) -> Result<&ReaderSecret, Error> {
        self.access
            .reader
            .as_ref()
            .ok_or(Error::WriterOnly { verb })
    }

    fn key(&self, kind: Kind) -> &SymmetricKey {
        match kind {
            Kind::Index => &self.access.shared.index,
            Kind::Shadow | Kind::State => &self.access.shared.state,
            _ => &self.access.shared.metadata,
        }
    }

    /// Seals and signs a body for `place`.
    pub fn seal(&self, kind: Kind, place: &str, body: &[u8]) -> Bytes {
        let by = (self.key(kind), &self.access.signer);
        let random = self.random.as_ref();
        Bytes::from(self.realm.seal_object(kind, place, body, by, random))
    }

    /// Opens what was sealed for `place`, and says who signed it.
    ///
    /// # Errors
    /// [`blob::Error`].
    pub fn open(
        &self,
        kind: Kind,
        place: &str,
        bytes: &[u8],
    ) -> Result<(SignerId, Vec<u8>), blob::Error> {
        self.realm.open_object(kind, place, bytes, self.key(kind))
    }

    /// The drawn bytes in a sealed object by which its writer knows it again.
    pub fn token(sealed: &[u8]) -> &[u8] {
        &sealed[16..HEADER_BYTES]
    }

    /// Fetches the object at `path`, which is named by its bytes, and opens it.
    ///
    /// # Errors
    /// The storage's; Corrupt where the bytes are not those of the name, or do not open.
    pub async fn fetch_named(
        &self,
        path: &ObjectPath,
        kind: Kind,
        place: &str,
    ) -> Result<(SignerId, Vec<u8>), Error> {
        let bytes = self.store.get(path).await?;
        let named = match path {
            ObjectPath::Index(id) | ObjectPath::Manifest(_, id) => *id == object_id(&bytes),
            _ => false,
        };
        if !named {
            return Err(Error::Renamed { path: path.clone() });
        }
        self.open(kind, place, &bytes)
            .map_err(|source| Error::object(path, source))
    }

    /// Stores an index, and gives its name.
    ///
    /// # Errors
    /// The storage's.
    pub async fn put_index(&self, index: &Index) -> Result<ObjectId, Error> {
        let sealed = self.seal(Kind::Index, INDEX_PLACE, &index.write());
        let id = object_id(&sealed);
        self.put_kept(&ObjectPath::Index(id), sealed).await?;
        Ok(id)
    }

    async fn put_kept(&self, path: &ObjectPath, sealed: Bytes) -> Result<(), Error> {
        let length = sealed.len() as u64;
        self.store.put(path, sealed).await?;
        self.check_kept(path, length).await
    }

    /// Makes sure that an object which was just stored is there with its length: a storage may say
    /// yes and keep nothing. That it cannot be asked proves nothing.
    ///
    /// # Errors
    /// [`Error::NotKept`].
    pub async fn check_kept(&self, path: &ObjectPath, length: u64) -> Result<(), Error> {
        let kept = match self.store.head(path).await {
            Ok(facts) => facts.length == length,
            Err(error) => !error.is_missing(),
        };
        match kept {
            true => Ok(()),
            false => Err(Error::NotKept { path: path.clone() }),
        }
    }

    /// Fetches an index, and says who signed it.
    ///
    /// # Errors
    /// As [`Vault::fetch_named`].
    pub async fn fetch_index(&self, id: ObjectId) -> Result<(SignerId, Index), Error> {
        let bytes = self.store.get(&ObjectPath::Index(id)).await?;
        self.open_index(id, &bytes)
    }

    /// Opens the stored bytes of an index, and says who signed it.
    ///
    /// # Errors
    /// Corrupt where they are not those of the name, or do not open.
    pub fn open_index(&self, id: ObjectId, bytes: &[u8]) -> Result<(SignerId, Index), Error> {
        let path = ObjectPath::Index(id);
        if object_id(bytes) != id {
            return Err(Error::Renamed { path });
        }
        let (signer, body) = self
            .open(Kind::Index, INDEX_PLACE, bytes)
            .map_err(|source| Error::object(&path, source))?;
        let index = Index::read(&body).map_err(|source| Error::body(&path, source))?;
        Ok((signer, index))
    }

    /// Stores a manifest, and gives its name.
    ///
    /// # Errors
    /// The storage's.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<ObjectId, Error> {
        let source = self.source_hash(&manifest.source);
        let sealed = self.seal(Kind::Manifest, &manifest_place(&source), &manifest.write());
        let id = object_id(&sealed);
        let path = ObjectPath::Manifest(source, id);
        self.put_kept(&path, sealed).await?;
        Ok(id)
    }

    /// Fetches a manifest of `source`, and says who signed it.
    ///
    /// # Errors
    /// As [`Vault::fetch_named`].
    pub async fn fetch_manifest(
        &self,
        source: SourceHash,
        id: ObjectId,
    ) -> Result<(SignerId, Manifest), Error> {
        let path = ObjectPath::Manifest(source, id);
        let place = manifest_place(&source);
        let (signer, body) = self.fetch_named(&path, Kind::Manifest, &place).await?;
        let manifest = Manifest::read(&body).map_err(|source| Error::body(&path, source))?;
        Ok((signer, manifest))
    }

    /// Seals something that this host keeps for itself under `name`.
    pub fn seal_state<T: Serialize>(&self, name: &str, body: &T) -> Bytes {
        self.seal(Kind::State, name, &object::write_body(body))
    }
}

const INDEX_PLACE: &str = "index";

fn manifest_place(source: &SourceHash) -> String {
    format!("manifests/{source}")
}
