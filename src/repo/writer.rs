//! Chunks into packs, packs into the storage.
//!
//! Any thread adds chunks; one that the repository has already is only named. At most one pack is
//! being filled and one being uploaded, so memory stays bounded. Invariant: a chunk counts as
//! stored only after its pack and the index that names it are durable (`finish`).

mod space;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::crypto::envelope;
use crate::crypto::key::SymmetricKey;
use crate::crypto::seal;
use crate::failpoint;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::index::{Index as IndexBody, IndexedPack};
use crate::format::pack::{
    ChunkKind, Entry, Footer, Head, SESSION_BYTES, SessionRecord, write_trailer,
};
use crate::id::{ChunkId, ObjectId};
use crate::planted;
use crate::random::draw;
use crate::repo::blob::{self, ChunkFacts, Dictionary};
use crate::repo::index::{self, Index, Place};
use crate::repo::kept::KeptRuns;
use crate::repo::vault::{self, Vault, object_id};
use crate::repo::workers::Workers;
use crate::repo::writer::space::{Space, with_space};
use crate::store::{self, ObjectPath, Prefix};

/// Up to this many packs are asked for one by one; more are looked up in one listing.
const HEADS_MAX: usize = 64;

/// Why chunks could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or an object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The storage did not take a pack; whoever adds a chunk afterwards is told the same.
    #[error("{what}")]
    Refused {
        /// What the caller must do.
        class: Class,
        /// What the storage said.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The uploader ended before its work did.
    #[error("uploading stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// A pack that the snapshot needs is not in the storage, or not whole.
    #[error("pack {pack} was written or found before, and is not whole in the storage now")]
    PackGone {
        /// The pack.
        pack: ObjectId,
    },
    /// The reader's public key is none.
    #[error("no session can be sealed to this repository's reader")]
    Session,
    /// What was sealed does not open to what it was made from.
    #[error("a chunk did not come back from its seal as it went in; nothing was stored")]
    Mismatch,
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::Refused { class, .. } => *class,
            Error::Stopped { .. } => Class::Transient,
            Error::PackGone { .. } | Error::Session => Class::Corrupt,
            Error::Mismatch => Class::Bug,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::PackGone { .. } => {
                Some("run the backup again; 'rowvault verify' says what else is missing".into())
            }
            Error::Mismatch => Some("check the machine's memory, and report this".into()),
            Error::Session => Some("use an unaltered key file".into()),
            Error::Refused { hint, .. } => hint.clone(),
            Error::Stopped { .. } => None,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

/// What adding a chunk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was sealed into a pack: this many bytes.
    New(u32),
    /// The repository has it.
    Reused,
}

/// Numbers of a writer, so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Sealed bytes of new chunks.
    pub bytes: u64,
    /// New chunks.
    pub chunks_new: u64,
    /// Chunks found in the repository.
    pub chunks_reused: u64,
}

struct Filling {
    bytes: Vec<u8>,
    footer: Footer,
}

#[derive(Default)]
struct Progress {
    filling: Option<Filling>,
    /// Chunks of this writer, with what they are compressed with.
    added: HashMap<ChunkId, Option<ChunkId>>,
    reused: HashSet<ObjectId>,
    written: Written,
}

type Uploader = JoinHandle<Result<Vec<IndexedPack>, Error>>;

/// Why the uploader ended early.
type Refusal = Arc<OnceLock<(Class, String, Option<String>)>>;

fn refused((class, what, hint): &(Class, String, Option<String>)) -> Error {
    Error::Refused {
        class: *class,
        what: what.clone(),
        hint: hint.clone(),
    }
}

/// The memory of a pack that was stored, for the next one. Given back to the allocator instead, it
/// would teach glibc's to take all large blocks from its arenas, which then grow with every table.
type Spare = Arc<Mutex<Option<Vec<u8>>>>;

/// Takes chunks and stores them.
pub struct Writer {
    vault: Arc<Vault>,
    index: Arc<Index>,
    session: SymmetricKey,
    record: SessionRecord,
    runtime: Handle,
    progress: Mutex<Progress>,
    packs: mpsc::Sender<(Vec<u8>, Footer)>,
    room: Arc<Semaphore>,
    spare: Spare,
    refusal: Refusal,
    uploader: Mutex<Option<Uploader>>,
    kept: Option<KeptRuns>,
    workers: Workers,
}

impl Writer {
    /// A writer with a session of its own; must be made inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Session`]: the key file's public key of the reader is none.
    pub fn new(vault: Arc<Vault>, index: Arc<Index>) -> Result<Writer, Error> {
        let session = SymmetricKey::draw(vault.random.as_ref());
        let info = session_info(&vault);
        let to = &vault.access.reader_public;
        let sealed = envelope::seal_session(to, &session, &info, vault.random.as_ref())
            .map_err(|_| Error::Session)?;
        let mut record = [0; SESSION_BYTES];
        record[..8].copy_from_slice(&session.check_value());
        record[8..].copy_from_slice(&sealed.0);
        let (packs, queue) = mpsc::channel(1);
        let room = Arc::new(Semaphore::new(1));
        let spare = Spare::default();
        let refusal = Refusal::default();
        let shared = (room.clone(), spare.clone(), refusal.clone());
        let uploader = tokio::spawn(upload(vault.clone(), queue, shared));
        Ok(Writer {
            vault,
            index,
            session,
            record,
            runtime: Handle::current(),
            progress: Mutex::default(),
            packs,
            room,
            spare,
            refusal,
            uploader: Mutex::new(Some(uploader)),
            kept: None,
            workers: Workers::new(Handle::current()),
        })
    }

    /// The same writer, which keeps descriptions of runs on this host as well: whoever looks a record
    /// up here asks the storage for rows alone.
    pub fn with_kept(self, kept: KeptRuns) -> Writer {
        let kept = Some(kept);
        Writer { kept, ..self }
    }

    /// The vault that it writes to.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// What works for it.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// What was there before.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress
            .lock()
            .expect("nobody panics while holding the pack that is being filled")
    }

    /// Whether the chunk need not be sealed again: it is in a pack of ours, or in one that an
    /// index signed by us or by the owner names. Counts it, and remembers its pack, if so.
    ///
    /// # Errors
    /// The index's.
    pub fn has(&self, name: &ChunkId) -> Result<bool, Error> {
        let place = self.trusted_place(name)?;
        // A chunk that needs a dictionary is there only if its dictionary is.
        let needed = match place.and_then(|place| place.facts.dictionary) {
            None => None,
            Some(dictionary) => Some((dictionary, self.trusted_place(&dictionary)?)),
        };
        let mut progress = self.progress();
        let needed = needed.filter(|(dictionary, _)| !progress.added.contains_key(dictionary));
        let dictionary = needed.map(|(_, place)| place);
        let added = progress.added.contains_key(name);
        let there = place.is_some() && dictionary.is_none_or(|place| place.is_some());
        if there && !added {
            let places = [place, dictionary.flatten()].into_iter().flatten();
            progress.reused.extend(places.map(|place| place.pack.id));
        }
        if there || added {
            progress.written.chunks_reused += 1;
        }
        Ok(there || added)
    }

    /// Where a chunk lies that may be built on.
    fn trusted_place(&self, name: &ChunkId) -> Result<Option<Place<'_>>, Error> {
        let trusted = [self.vault.access.owner, self.vault.access.signer.id()];
        Ok(self.index.places(name)?.find(|place| {
            let absent =
                self.index.is_absent(&place.pack.id) && !planted::is("dedup against a marked pack");
            trusted.contains(&place.pack.signer) && !absent
        }))
    }

    /// The dictionaries that a chunk may need, wherever it lies.
    ///
    /// # Errors
    /// The index's.
    pub fn dictionaries_of(&self, name: &ChunkId) -> Result<Vec<ChunkId>, Error> {
        let added = self.progress().added.get(name).copied().flatten();
        let places = self.index.places(name)?;
        let placed = places.filter_map(|place| place.facts.dictionary);
        Ok(added.into_iter().chain(placed).collect())
    }

    /// Compresses and seals a chunk that the repository does not have, opens it again and lets
    /// `check` compare, and puts it into a pack. Waits while an upload is behind; call it on a
    /// thread of its own.
    ///
    /// # Errors
    /// Transient when the upload failed; Bug when the chunk did not come back as it went in.
    pub fn add(
        &self,
        kind: ChunkKind,
        name: ChunkId,
        raw: &[u8],
        dictionary: Option<&Dictionary>,
        check: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Added, Error> {
        with_space(|Space { sealed, opened }| {
            let codec = blob::pack(raw, dictionary, sealed);
            let facts = ChunkFacts {
                name,
                kind,
                codec,
                dictionary: dictionary.map(|dictionary| dictionary.name),
                raw_length: raw.len() as u32,
            };
            let key = match kind.is_metadata() {
                true => &self.vault.access.shared.metadata,
                false => &self.session,
            };
            let realm = &self.vault.realm;
            realm.seal_chunk(&facts, sealed, key, self.vault.random.as_ref());
            let done = realm.open_chunk_into(&facts, sealed, (key, dictionary), opened);
            if done.is_err() || !check(&opened.raw) {
                return Err(Error::Mismatch);
            }
            if let Some(kept) = self.kept.as_ref().filter(|_| kind.is_metadata()) {
                kept.put(&name, sealed);
            }
            self.append(&facts, sealed)
        })
    }

    /// Names a chunk of plain bytes, and adds it unless the repository has it.
    ///
    /// # Errors
    /// As [`Writer::add`].
    pub fn add_bytes(&self, kind: ChunkKind, bytes: &[u8]) -> Result<(ChunkId, Added), Error> {
        let name = self.vault.access.shared.chunk_id(kind as u8, bytes);
        if self.has(&name)? {
            return Ok((name, Added::Reused));
        }
        let added = self.add(kind, name, bytes, None, |opened| opened == bytes)?;
        Ok((name, added))
    }

    fn append(&self, facts: &ChunkFacts, sealed: &[u8]) -> Result<Added, Error> {
        let mut progress = self.progress();
        if progress.added.contains_key(&facts.name) {
            progress.written.chunks_reused += 1;
            return Ok(Added::Reused);
        }
        progress.added.insert(facts.name, facts.dictionary);
        let record = self.record;
        let epoch = self.vault.realm.epoch;
        let filling = progress.filling.get_or_insert_with(|| {
            let spare = self.spare.lock().ok().and_then(|mut spare| spare.take());
            let mut bytes =
                spare.unwrap_or_else(|| Vec::with_capacity(self.vault.pack_bytes + (2 << 20)));
            let sessions = vec![record];
            bytes.extend_from_slice(&Head { epoch, sessions }.write());
            Filling {
                bytes,
                footer: Footer::default(),
            }
        });
        let dictionary = match facts.dictionary {
            None => 0,
            Some(name) => dictionary_number(&mut filling.footer.dictionaries, name),
        };
        filling.footer.entries.push(Entry {
            name: facts.name,
            kind: facts.kind,
            codec: facts.codec,
            session: if facts.kind.is_metadata() { 0 } else { 1 },
            dictionary,
            offset: filling.bytes.len() as u32,
            length: sealed.len() as u32,
            raw_length: facts.raw_length,
            sealed_hash: blob::sealed_hash(sealed),
        });
        filling.bytes.extend_from_slice(sealed);
        let full = filling.bytes.len() >= self.vault.pack_bytes;
        progress.written.bytes += sealed.len() as u64;
        progress.written.chunks_new += 1;
        if full && let Some(full) = progress.filling.take() {
            // The lock is held meanwhile: whoever else wants to add must wait as well.
            self.send(full)?;
        }
        Ok(Added::New(sealed.len() as u32))
    }

    fn send(&self, mut filled: Filling) -> Result<(), Error> {
        if planted::is("two chunks swapped")
            && let [first, second, ..] = &mut filled.footer.entries[..]
        {
            std::mem::swap(&mut first.name, &mut second.name);
        }
        close_pack(
            &self.vault,
            Head::length(1),
            &mut filled.bytes,
            &filled.footer,
        );
        let stopped = || match self.refusal.get() {
            Some(refusal) => refused(refusal),
            None => Error::Stopped {
                reason: "a pack could not be stored".into(),
            },
        };
        let room = self
            .runtime
            .block_on(self.room.clone().acquire_owned())
            .map_err(|_| stopped())?;
        room.forget();
        self.packs
            .blocking_send((filled.bytes, filled.footer))
            .map_err(|_| stopped())
    }

    /// What has been written so far.
    pub fn written(&self) -> Written {
        self.progress().written
    }

    fn take_uploader(&self) -> Option<Uploader> {
        let mut uploader = self.uploader.lock().ok()?;
        uploader.take()
    }

    /// Stores the last pack, checks that every pack that was written or reused is in the storage with
    /// its length, and stores the index, in as many objects as it takes. No chunk may be added
    /// afterwards.
    ///
    /// # Errors
    /// The storage's; Corrupt where a pack is gone.
    pub async fn finish(self: Arc<Self>) -> Result<(), Error> {
        let this = self.clone();
        let last = tokio::task::spawn_blocking(move || {
            let last = this.progress().filling.take();
            last.map_or(Ok(()), |last| this.send(last))
        });
        let sent = last.await.map_err(|error| Error::Stopped {
            reason: error.to_string(),
        })?;
        let Some(uploader) = self.take_uploader() else {
            return Err(Error::Stopped {
                reason: "the writer was finished before".into(),
            });
        };
        // An empty pack tells the uploader that no more will come.
        let _ = self.packs.send((Vec::new(), Footer::default())).await;
        let packs = uploader.await.map_err(|error| Error::Stopped {
            reason: error.to_string(),
        })??;
        sent?;
        let mut needed: BTreeMap<ObjectId, u64> =
            packs.iter().map(|pack| (pack.pack, pack.length)).collect();
        let reused = std::mem::take(&mut self.progress().reused);
        for pack in self.index.packs() {
            if reused.contains(&pack.id) {
                needed.insert(pack.id, pack.length);
            }
        }
        failpoint::reach("backup: packs stored");
        check_packs(&self.vault, &needed).await?;
        if !planted::is("no index flush") {
            for packs in index::together(packs) {
                let body = IndexBody {
                    packs,
                    ..IndexBody::default()
                };
                self.vault.put_index(&body).await?;
            }
        }
        Ok(())
    }
}

fn dictionary_number(dictionaries: &mut Vec<ChunkId>, name: ChunkId) -> u16 {
    let at = dictionaries.iter().position(|known| *known == name);
    let at = at.unwrap_or_else(|| {
        dictionaries.push(name);
        dictionaries.len() - 1
    });
    at as u16 + 1
}

/// Ends a pack whose head (of `head_length` bytes) and chunks stand in `bytes`.
pub fn close_pack(vault: &Vault, head_length: usize, bytes: &mut Vec<u8>, footer: &Footer) {
    let nonce: [u8; 24] = draw(vault.random.as_ref());
    let mut sealed = footer.write();
    let associated = footer_associated(vault, &bytes[..head_length]);
    let key = &vault.access.shared.index;
    seal::seal(key, &nonce, &associated, &mut sealed);
    let length = (sealed.len() + nonce.len()) as u32;
    bytes.extend_from_slice(&nonce);
    bytes.append(&mut sealed);
    bytes.extend_from_slice(&write_trailer(length));
}

/// What a session key's envelope is bound to.
pub fn session_info(vault: &Vault) -> Vec<u8> {
    let mut info = b"rowvault v1 session".to_vec();
    info.extend_from_slice(&vault.realm.repository.0);
    info.extend_from_slice(&vault.realm.epoch.to_le_bytes());
    info
}

/// What a pack's footer is bound to: the repository and the pack's head.
pub fn footer_associated(vault: &Vault, head: &[u8]) -> Vec<u8> {
    let mut associated = b"footer".to_vec();
    associated.extend_from_slice(&vault.realm.repository.0);
    associated.extend_from_slice(head);
    associated
}

async fn upload(
    vault: Arc<Vault>,
    mut queue: mpsc::Receiver<(Vec<u8>, Footer)>,
    (room, spare, refusal): (Arc<Semaphore>, Spare, Refusal),
) -> Result<Vec<IndexedPack>, Error> {
    let mut done = Vec::new();
    while let Some((bytes, footer)) = queue.recv().await {
        if bytes.is_empty() {
            break;
        }
        let bytes = Bytes::from(bytes);
        match upload_one(&vault, bytes.clone(), footer).await {
            Ok(pack) => {
                done.push(pack);
                keep(bytes, &spare);
            }
            Err(error) => {
                let error = AnyFailure::from(error);
                let told = (error.class(), error.to_string(), error.hint());
                let told = refusal.get_or_init(|| told);
                room.close();
                return Err(refused(told));
            }
        }
        room.add_permits(1);
    }
    Ok(done)
}

/// Empties the memory of a stored pack for the next, if nobody else holds it.
fn keep(bytes: Bytes, spare: &Spare) {
    if bytes.is_unique()
        && let Ok(mut spare) = spare.lock()
    {
        let mut bytes = Vec::from(bytes);
        bytes.clear();
        *spare = Some(bytes);
    }
}

async fn upload_one(
    vault: &Vault,
    bytes: Bytes,
    footer: Footer,
) -> Result<IndexedPack, store::Error> {
    let head = Head::length(1);
    let sessions = bytes[head - SESSION_BYTES..head].to_vec();
    let pack = object_id(&bytes);
    let length = bytes.len() as u64;
    vault.store.put(&ObjectPath::Pack(pack), bytes).await?;
    Ok(IndexedPack {
        pack,
        length,
        sessions,
        footer: footer.write(),
        signer: None,
    })
}

async fn check_packs(vault: &Vault, needed: &BTreeMap<ObjectId, u64>) -> Result<(), Error> {
    if needed.len() <= HEADS_MAX {
        for (pack, length) in needed {
            match vault.store.head(&ObjectPath::Pack(*pack)).await {
                Ok(facts) if facts.length == *length => {}
                Ok(_) | Err(store::Error::Missing { .. }) => {
                    return Err(Error::PackGone { pack: *pack });
                }
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(());
    }
    let listing = vault.store.list(Prefix::Packs).await?;
    let there: HashMap<ObjectId, u64> = listing
        .objects
        .iter()
        .filter_map(|listed| match listed.path {
            ObjectPath::Pack(id) => Some((id, listed.length)),
            _ => None,
        })
        .collect();
    let lacks = |(pack, length): &(&ObjectId, &u64)| there.get(*pack) != Some(*length);
    match needed.iter().find(lacks) {
        None => Ok(()),
        Some((pack, _)) => Err(Error::PackGone { pack: *pack }),
    }
}
