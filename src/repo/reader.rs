//! Chunks back from their packs.
//!
//! Chunks that lie near each other are fetched in one request; each is opened and compared with
//! its name before anybody sees it. Invariant: what is given out under a name is that chunk's
//! content; where one place of a chunk is damaged, its other places are tried.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::crypto::envelope::{self, SealedSession};
use crate::crypto::key::SymmetricKey;
use crate::failure::{Class, Failure};
use crate::format::pack::{ChunkKind, SESSION_BYTES};
use crate::id::{ChunkId, ObjectId};
use crate::repo::blob::{self, Dictionary};
use crate::repo::index::{Index, Pack, Place};
use crate::repo::kept::KeptRuns;
use crate::repo::vault::{self, Vault};
use crate::repo::writer::session_info;
use crate::store::{self, ObjectPath};

/// Chunks of a pack are fetched together when no more than this many bytes lie between them.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// So much where there would be many requests: each of them costs as much as reading this.
const WIDE_GAP_BYTES_MAX: u64 = 512 << 10;
/// So many requests are many.
const FETCHES_MANY: usize = 8;
/// One request fetches at most this many bytes, unless a single chunk is larger.
const FETCH_BYTES_MAX: u64 = 4 << 20;
/// How many dictionaries are kept, of about a quarter of a MiB each.
const DICTIONARIES_KEPT: usize = 64;
/// How many requests run at once for one call.
const FETCHES_AT_ONCE: usize = 4;

/// Why a chunk could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or our key.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// No index names the chunk.
    #[error("chunk {chunk} stands in no index")]
    Unknown {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The pack that holds the chunk is not in the storage.
    #[error("pack {pack} is missing from the storage")]
    PackMissing {
        /// The pack.
        pack: ObjectId,
    },
    /// The chunk, wherever it lies, does not open.
    #[error("chunk {chunk} in pack {pack} is damaged")]
    Damaged {
        /// The chunk.
        chunk: ChunkId,
        /// The last pack that was tried.
        pack: ObjectId,
        /// What is wrong.
        #[source]
        source: Box<blob::Error>,
    },
    /// A dictionary opens, and is none.
    #[error("chunk {chunk} should be a zstd dictionary, and is none")]
    Dictionary {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The session key of a pack does not open.
    #[error("a session key of pack {pack} does not open with our key")]
    Session {
        /// The pack.
        pack: ObjectId,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            _ => Class::Corrupt,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            _ => Some("run 'rowvault verify' to see which snapshots are hurt".into()),
        }
    }
}

/// A chunk as it lies, with all that is needed to open it on any thread.
pub struct SealedChunk {
    /// Its facts.
    pub facts: blob::ChunkFacts,
    pack: ObjectId,
    sealed: Bytes,
    key: SymmetricKey,
    dictionary: Option<Arc<Dictionary>>,
}

impl SealedChunk {
    /// Opens the chunk; the caller compares the name where the content must be decoded for it.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn open(&self, vault: &Vault) -> Result<Vec<u8>, Error> {
        let dictionary = self.dictionary.as_deref();
        let opened = vault
            .realm
            .open_chunk(&self.facts, &self.sealed, &self.key, dictionary);
        let checked = opened.and_then(|raw| {
            let named = match self.facts.kind {
                ChunkKind::Rows => true,
                kind => vault.access.shared.chunk_id(kind as u8, &raw) == self.facts.name,
            };
            let chunk = self.facts.name;
            named.then_some(raw).ok_or(blob::Error::Name { chunk })
        });
        checked.map_err(|source| Error::Damaged {
            chunk: self.facts.name,
            pack: self.pack,
            source: Box::new(source),
        })
    }
}

impl SealedChunk {
    /// The error of a chunk that opens, and holds other content than its name says.
    pub fn misnamed(&self) -> Error {
        let chunk = self.facts.name;
        Error::Damaged {
            chunk,
            pack: self.pack,
            source: Box::new(blob::Error::Name { chunk }),
        }
    }
}

/// Fetches and opens chunks.
pub struct Reader {
    vault: Arc<Vault>,
    index: Arc<Index>,
    sessions: Mutex<HashMap<Vec<u8>, SymmetricKey>>,
    dictionaries: Mutex<HashMap<ChunkId, Arc<Dictionary>>>,
    kept: Option<KeptRuns>,
}

struct Fetch<'a> {
    pack: &'a Pack,
    range: Range<u64>,
    wanted: Vec<(usize, Place<'a>)>,
}

impl Reader {
    /// A reader over what `index` names.
    pub fn new(vault: Arc<Vault>, index: Arc<Index>) -> Reader {
        Reader {
            vault,
            index,
            sessions: Mutex::default(),
            dictionaries: Mutex::default(),
            kept: None,
        }
    }

    /// The same reader, which looks for descriptions of runs among those that are kept here first:
    /// for whoever looks records up, and never for whoever checks the storage.
    pub fn with_kept(self, kept: KeptRuns) -> Reader {
        let kept = Some(kept);
        Reader { kept, ..self }
    }

    /// The vault that it reads from.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// The index that it looks chunks up in.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Fetches chunks without opening them, in the order asked for, joined into few requests. What
    /// cannot be had from its first place is fetched from another.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn fetch(&self, names: &[ChunkId]) -> Result<Vec<SealedChunk>, Error> {
        let mut places = Vec::with_capacity(names.len());
        let mut chunks: Vec<(usize, SealedChunk)> = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let place = self.index.places(name)?.next();
            let place = place.ok_or(Error::Unknown { chunk: *name })?;
            match self.kept_chunk(&place) {
                Some(chunk) => chunks.push((at, chunk)),
                None => places.push((at, place)),
            }
        }
        let dictionaries = places
            .iter()
            .filter_map(|(_, place)| place.facts.dictionary);
        match self.load_dictionaries(dictionaries).await {
            Err(error) if error.class() == Class::Corrupt => {
                let all = (0..names.len()).map(|at| (at, names[at])).collect();
                let chunks = self.fetch_from_anywhere(all).await?;
                return Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect());
            }
            loaded => loaded?,
        }
        let fetched: Vec<Vec<(usize, SealedChunk)>> = stream::iter(few(places))
            .map(async |fetch| {
                let wanted = fetch.wanted.iter();
                let wanted = wanted.map(|(at, place)| (*at, place.facts.name)).collect();
                match self.run(fetch).await {
                    Err(error) if error.class() == Class::Corrupt => {
                        self.fetch_from_anywhere(wanted).await
                    }
                    fetched => fetched,
                }
            })
            .buffer_unordered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        chunks.extend(fetched.into_iter().flatten());
        chunks.sort_by_key(|(at, _)| *at);
        Ok(chunks.into_iter().map(|(_, chunk)| chunk).collect())
    }

    /// Each of these chunks from the first of its places that can be fetched.
    async fn fetch_from_anywhere(
        &self,
        wanted: Vec<(usize, ChunkId)>,
    ) -> Result<Vec<(usize, SealedChunk)>, Error> {
        let mut chunks = Vec::with_capacity(wanted.len());
        for (at, name) in wanted {
            let mut last = Error::Unknown { chunk: name };
            let mut found = None;
            for place in self.index.places(&name)? {
                match self.chunk_at(place).await {
                    Ok(chunk) => {
                        found = Some(chunk);
                        break;
                    }
                    Err(error) if error.class() == Class::Corrupt => last = error,
                    Err(error) => return Err(error),
                }
            }
            chunks.push((at, found.ok_or(last)?));
        }
        Ok(chunks)
    }

    /// The chunk at `place`, whose sealed bytes are at hand.
    ///
    /// # Errors
    /// [`Error`]: its session or its dictionary cannot be had.
    pub async fn chunk_of(&self, place: Place<'_>, sealed: Bytes) -> Result<SealedChunk, Error> {
        self.load_dictionaries(place.facts.dictionary).await?;
        Ok(SealedChunk {
            facts: place.facts,
            pack: place.pack.id,
            sealed,
            key: self.key(&place)?,
            dictionary: place.facts.dictionary.and_then(|name| self.known(&name)),
        })
    }

    /// Fetches and opens one chunk of plain bytes (not rows), trying all its places.
    ///
    /// # Errors
    /// [`Error`]: of its last place, where none is whole.
    pub async fn chunk(&self, name: &ChunkId) -> Result<Vec<u8>, Error> {
        let place = self.index.places(name)?.next();
        if let Some(kept) = place.and_then(|place| self.kept_chunk(&place)) {
            return kept.open(&self.vault);
        }
        let mut last = Error::Unknown { chunk: *name };
        for place in self.index.places(name)? {
            match self.chunk_at(place).await {
                Ok(chunk) => match chunk.open(&self.vault) {
                    Ok(raw) => return Ok(raw),
                    Err(error) => last = error,
                },
                Err(error) if error.class() == Class::Corrupt => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Every place of a chunk of rows, fetched one after the other until `accept` takes one: the
    /// way out when the first place did not check.
    ///
    /// # Errors
    /// [`Error`]: of its last place, where none is accepted.
    pub async fn chunk_elsewhere<T>(
        &self,
        name: &ChunkId,
        mut accept: impl FnMut(&SealedChunk) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut last = Error::Unknown { chunk: *name };
        for place in self.index.places(name)? {
            match self.chunk_at(place).await.and_then(|chunk| accept(&chunk)) {
                Ok(value) => return Ok(value),
                Err(error) if error.class() == Class::Corrupt => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The chunk at `place`, where it describes a run and is kept here whole.
    fn kept_chunk(&self, place: &Place<'_>) -> Option<SealedChunk> {
        let kept = self.kept.as_ref()?;
        if !place.facts.kind.is_metadata() || place.session != 0 {
            return None;
        }
        let chunk = SealedChunk {
            facts: place.facts,
            pack: place.pack.id,
            sealed: kept.get(&place.facts.name)?.into(),
            key: self.key(place).ok()?,
            dictionary: None,
        };
        if chunk.open(&self.vault).is_err() {
            kept.forget(&place.facts.name);
            return None;
        }
        Some(chunk)
    }

    async fn chunk_at(&self, place: Place<'_>) -> Result<SealedChunk, Error> {
        self.load_dictionaries(place.facts.dictionary).await?;
        self.place(place).await
    }

    async fn place(&self, place: Place<'_>) -> Result<SealedChunk, Error> {
        let start = u64::from(place.offset);
        let fetch = Fetch {
            pack: place.pack,
            range: start..start + u64::from(place.length),
            wanted: vec![(0, place)],
        };
        let chunk = place.facts.name;
        let mut chunks = self.run(fetch).await?;
        chunks
            .pop()
            .map(|(_, chunk)| chunk)
            .ok_or(Error::Unknown { chunk })
    }

    async fn run(&self, fetch: Fetch<'_>) -> Result<Vec<(usize, SealedChunk)>, Error> {
        let path = ObjectPath::Pack(fetch.pack.id);
        let start = fetch.range.start;
        let bytes = self.vault.store.get_range(&path, fetch.range).await;
        let bytes = bytes.map_err(|error| match error {
            store::Error::Missing { .. } => Error::PackMissing {
                pack: fetch.pack.id,
            },
            error => Error::Vault(error.into()),
        })?;
        let mut out = Vec::with_capacity(fetch.wanted.len());
        let wanted = fetch.wanted.iter().map(|(_, place)| place.length as usize);
        // What lies between a few chunks must not stay in memory with them.
        let sparse = wanted.sum::<usize>() < bytes.len() / 2;
        for (at, place) in fetch.wanted {
            let from = (u64::from(place.offset) - start) as usize;
            let mut sealed = bytes.slice(from..from + place.length as usize);
            if sparse {
                sealed = Bytes::copy_from_slice(&sealed);
            }
            if let Some(kept) = &self.kept
                && place.facts.kind.is_metadata()
            {
                kept.put(&place.facts.name, &sealed);
            }
            out.push((
                at,
                SealedChunk {
                    facts: place.facts,
                    pack: place.pack.id,
                    sealed,
                    key: self.key(&place)?,
                    dictionary: place.facts.dictionary.and_then(|name| self.known(&name)),
                },
            ));
        }
        Ok(out)
    }

    fn key(&self, place: &Place<'_>) -> Result<SymmetricKey, Error> {
        if place.session == 0 {
            return Ok(self.vault.access.shared.metadata.clone());
        }
        let pack = place.pack.id;
        let reader = self.vault.reader("open rows")?;
        let record = (place.pack.sessions)
            .chunks_exact(SESSION_BYTES)
            .nth(usize::from(place.session) - 1)
            .ok_or(Error::Session { pack })?;
        let mut sessions = self.sessions.lock().map_err(|_| Error::Session { pack })?;
        if let Some(key) = sessions.get(record) {
            return Ok(key.clone());
        }
        let mut sealed = [0; SealedSession::BYTES];
        sealed.copy_from_slice(&record[8..]);
        let info = session_info(&self.vault);
        let key = envelope::open_session(reader, &SealedSession(sealed), &info)
            .map_err(|_| Error::Session { pack })?;
        if key.check_value() != record[..8] {
            return Err(Error::Session { pack });
        }
        sessions.insert(record.to_vec(), key.clone());
        Ok(key)
    }

    fn known(&self, name: &ChunkId) -> Option<Arc<Dictionary>> {
        let dictionaries = self.dictionaries.lock().ok()?;
        dictionaries.get(name).cloned()
    }

    async fn load_dictionaries(
        &self,
        names: impl IntoIterator<Item = ChunkId>,
    ) -> Result<(), Error> {
        let missing = names.into_iter().filter(|name| self.known(name).is_none());
        let mut missing: Vec<ChunkId> = missing.collect();
        missing.sort_unstable();
        missing.dedup();
        for name in missing {
            let dictionary = Arc::new(self.load_dictionary(&name).await?);
            if let Ok(mut dictionaries) = self.dictionaries.lock() {
                if dictionaries.len() >= DICTIONARIES_KEPT {
                    dictionaries.clear();
                }
                dictionaries.insert(name, dictionary);
            }
        }
        Ok(())
    }

    async fn load_dictionary(&self, name: &ChunkId) -> Result<Dictionary, Error> {
        let mut last = Error::Unknown { chunk: *name };
        // A dictionary needs none itself; a place that says otherwise could lead in a circle.
        let plain = |place: &Place<'_>| {
            place.facts.kind == ChunkKind::Dictionary && place.facts.dictionary.is_none()
        };
        for place in self.index.places(name)?.filter(plain) {
            let opened = self.place(place).await;
            let dictionary = opened.and_then(|chunk| {
                let raw = chunk.open(&self.vault)?;
                Dictionary::new(*name, raw).ok_or(Error::Dictionary { chunk: *name })
            });
            match dictionary {
                Ok(dictionary) => return Ok(dictionary),
                Err(error) if error.class() == Class::Corrupt => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The dictionary that the chunk `name` holds.
    ///
    /// # Errors
    /// [`Error`]: of the chunk, or [`Error::Dictionary`].
    pub async fn dictionary(&self, name: &ChunkId) -> Result<Arc<Dictionary>, Error> {
        self.load_dictionaries([*name]).await?;
        self.known(name).ok_or(Error::Dictionary { chunk: *name })
    }
}

/// Joins places that lie near each other in one pack into one fetch; places further apart only where
/// there would be many.
fn few(places: Vec<(usize, Place<'_>)>) -> Vec<Fetch<'_>> {
    let near = plan(places, GAP_BYTES_MAX);
    if near.len() <= FETCHES_MANY {
        return near;
    }
    let places = near.into_iter().flat_map(|fetch| fetch.wanted).collect();
    plan(places, WIDE_GAP_BYTES_MAX)
}

/// Joins places with no more than `gap` bytes between them.
fn plan(mut places: Vec<(usize, Place<'_>)>, gap: u64) -> Vec<Fetch<'_>> {
    places.sort_by_key(|(_, place)| (place.pack.id, place.offset));
    let mut fetches: Vec<Fetch<'_>> = Vec::new();
    for (at, place) in places {
        let start = u64::from(place.offset);
        let end = start + u64::from(place.length);
        match fetches.last_mut() {
            Some(last)
                if last.pack.id == place.pack.id
                    && start <= last.range.end + gap
                    && end - last.range.start <= FETCH_BYTES_MAX =>
            {
                last.range.end = last.range.end.max(end);
                last.wanted.push((at, place));
            }
            _ => fetches.push(Fetch {
                pack: place.pack,
                range: start..end,
                wanted: vec![(at, place)],
            }),
        }
    }
    fetches
}
