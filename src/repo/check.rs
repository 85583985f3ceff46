//! Is everything that snapshots need there, and whole?
//!
//! A manifest is walked to every chunk that it needs, without opening a row; packs are compared
//! with the storage's listing, and read and opened where that is asked. Invariant: what is found
//! whole here can be restored; what is not is named, with the tables and keys that it hurts.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use crate::crypto::key;
use crate::crypto::seal;
use crate::failure::{Class, Failure};
use crate::format::manifest::Manifest;
use crate::format::object;
use crate::format::pack::{
    ChunkKind, Entry, Footer, Head, SEAL_BYTES, SESSION_BYTES, TRAILER_BYTES, read_trailer,
};
use crate::format::run::{RunChunk, RunKind};
use crate::id::{ChunkId, ObjectId};
use crate::repo::blob::{self, ChunkFacts};
use crate::repo::index::Place;
use crate::repo::reader::{self, Reader};
use crate::repo::table::{self, RunChunks, read_run};
use crate::repo::vault::{self, Vault, object_id};
use crate::repo::writer::footer_associated;
use crate::row::cell::take_varint;
use crate::row::codec::{self, Limits};
use crate::store::{self, ObjectPath, Prefix};

/// Why a check could not be made, or what a restore lacks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading a run.
    #[error(transparent)]
    Table(#[from] table::Error),
    /// The storage.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Maintenance marked what the snapshot is built on.
    #[error(
        "chunk {chunk} was marked to be swept while the backup was using it; no snapshot was made"
    )]
    Marked {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Something that the snapshot needs is not there.
    #[error("{what}")]
    Missing {
        /// What is missing, in a sentence.
        what: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Table(error) => error.class(),
            Error::Store(error) => error.class(),
            Error::Missing { .. } => Class::Corrupt,
            Error::Marked { .. } => Class::Busy,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Table(error) => error.hint(),
            Error::Store(error) => error.hint(),
            Error::Marked { .. } => Some("run the backup again".into()),
            Error::Missing { .. } => Some(
                "run 'rowvault verify' to see which snapshots are hurt; a new backup sends again what the source still has".into(),
            ),
        }
    }
}

/// What the index said where a chunk was looked up.
fn indexed(error: vault::Error) -> Error {
    table::Error::from(reader::Error::from(error)).into()
}

/// A chunk that a snapshot needs, and what for.
#[derive(Clone, Debug)]
pub struct Need {
    /// The chunk.
    pub chunk: ChunkId,
    /// The table, by its position in the manifest; none for structure.
    pub table: Option<usize>,
    /// First and last canonical key of the rows in it; empty for what is not rows.
    pub keys: (Vec<u8>, Vec<u8>),
}

/// The packs in the storage, with their lengths.
///
/// # Errors
/// The storage's.
pub async fn packs_listed(vault: &Vault) -> Result<HashMap<ObjectId, u64>, store::Error> {
    let listing = vault.store.list(Prefix::Packs).await?;
    let packs = listing
        .objects
        .iter()
        .filter_map(|listed| match listed.path {
            ObjectPath::Pack(id) => Some((id, listed.length)),
            _ => None,
        });
    Ok(packs.collect())
}

/// A pack that has `chunk` and is there with its length; a sentence where there is none.
pub fn place_of<'a>(
    places: impl Iterator<Item = Place<'a>>,
    listed: &HashMap<ObjectId, u64>,
    chunk: &ChunkId,
) -> Result<ObjectId, String> {
    let mut why = format!("chunk {chunk} stands in no index");
    for place in places {
        match listed.get(&place.pack.id) {
            Some(length) if *length == place.pack.length => return Ok(place.pack.id),
            Some(length) => {
                why = format!(
                    "pack {} has {length} bytes where the index says {}",
                    place.pack.id, place.pack.length
                );
            }
            None => why = format!("pack {} is missing from the storage", place.pack.id),
        }
    }
    Err(why)
}

/// Visits every chunk that `manifest` needs. A run in `done` is passed over; those visited are
/// added to it.
///
/// # Errors
/// A run's description that is gone or damaged; `visit` has then seen what came before it.
pub async fn walk(
    reader: &Reader,
    manifest: &Manifest,
    done: &mut HashSet<ChunkId>,
    visit: &mut (dyn FnMut(Need) + Send),
) -> Result<(), Error> {
    walk_structure(manifest, visit);
    for (table, facts) in manifest.tables.iter().enumerate() {
        for run in &facts.stack {
            if done.insert(*run) {
                walk_run(reader, run, table, visit).await?;
            }
        }
    }
    Ok(())
}

/// Visits the chunks of the structure of `manifest`.
pub fn walk_structure(manifest: &Manifest, visit: &mut (dyn FnMut(Need) + Send)) {
    for part in &manifest.structure {
        for chunk in &part.chunks {
            visit(plain(*chunk, None));
        }
    }
}

fn plain(chunk: ChunkId, table: Option<usize>) -> Need {
    Need {
        chunk,
        table,
        keys: (Vec::new(), Vec::new()),
    }
}

/// Visits every chunk that the run `name` needs, its description included.
///
/// # Errors
/// A description that is gone or damaged; `visit` has then seen what came before it.
pub async fn walk_run(
    reader: &Reader,
    name: &ChunkId,
    table: usize,
    visit: &mut (dyn FnMut(Need) + Send),
) -> Result<(), Error> {
    visit(plain(*name, Some(table)));
    let run = read_run(reader, name).await?;
    debug_assert!(run.kind == RunKind::Delta || run.deletions == 0);
    for page in &run.pages {
        visit(plain(page.name, Some(table)));
    }
    for dictionary in &run.dictionaries {
        visit(plain(*dictionary, Some(table)));
    }
    let mut chunks = RunChunks::new(run);
    while let Some(chunk) = chunks.next(reader).await? {
        needs_of(chunk, table, visit);
    }
    Ok(())
}

fn needs_of(chunk: RunChunk, table: usize, visit: &mut (dyn FnMut(Need) + Send)) {
    let keys = (chunk.first, chunk.last);
    for cell in &chunk.cells {
        for piece in &cell.chunks {
            visit(Need {
                chunk: *piece,
                table: Some(table),
                keys: keys.clone(),
            });
        }
    }
    visit(Need {
        chunk: chunk.name,
        table: Some(table),
        keys,
    });
}

/// Refuses a snapshot of which a pack is missing or short, before anything is restored.
///
/// # Errors
/// [`Error::Missing`] names the first.
pub async fn packs_are_there(reader: &Reader, manifest: &Manifest) -> Result<(), Error> {
    let listed = packs_listed(reader.vault()).await?;
    let mut first = None;
    let mut done = HashSet::new();
    walk(reader, manifest, &mut done, &mut |need| {
        if first.is_some() {
            return;
        }
        let found = match reader.index().places(&need.chunk) {
            Ok(places) => place_of(places, &listed, &need.chunk),
            Err(error) => {
                first = Some(indexed(error));
                return;
            }
        };
        if let Err(why) = found {
            let table = need.table.map(|table| &manifest.tables[table].table.name);
            let of = table.map_or("the structure".into(), |table| format!("table {table}"));
            let what = format!("{why}; {of} needs it");
            first = Some(Error::Missing { what });
        }
    })
    .await?;
    first.map_or(Ok(()), Err)
}

/// Refuses a snapshot that needs a chunk which lies in marked packs only: they may be gone soon. The
/// runs in `sure` are not looked at: a snapshot needs them that lives until this one does.
///
/// # Errors
/// [`Error::Marked`] names the first.
pub async fn packs_will_stay(
    reader: &Reader,
    manifest: &Manifest,
    mut sure: HashSet<ChunkId>,
) -> Result<(), Error> {
    let index = reader.index();
    if !index.has_marks() {
        return Ok(());
    }
    let mut first = None;
    walk(reader, manifest, &mut sure, &mut |need| {
        if first.is_some() {
            return;
        }
        let chunk = need.chunk;
        first = match index.places(&chunk) {
            Ok(mut places) => (!places.any(|place| !index.is_marked(&place.pack.id)))
                .then_some(Error::Marked { chunk }),
            Err(error) => Some(indexed(error)),
        };
    })
    .await?;
    first.map_or(Ok(()), Err)
}

/// A pack that was read.
#[derive(Debug, Default)]
pub struct PackChecked {
    /// Bytes read.
    pub bytes: u64,
    /// Chunks whose sealed bytes were compared with their hash, or that were opened.
    pub chunks: u64,
    /// What is wrong with the pack as a whole.
    pub wrong: Option<String>,
    /// Chunks that are not whole, and why.
    pub damaged: BTreeMap<ChunkId, String>,
}

/// Reads a whole pack: its bytes must be those of its name, and each chunk that the index names in
/// it those of its sealed hash; with the reader's key each is opened and compared with its name.
///
/// # Errors
/// The storage's, unless the pack is missing: that is a finding.
pub async fn read_pack(reader: &Reader, id: ObjectId) -> Result<PackChecked, Error> {
    let vault = reader.vault();
    let mut checked = PackChecked::default();
    let bytes = match whole_or_not(vault, &ObjectPath::Pack(id)).await {
        Ok(bytes) => bytes,
        Err(store::Error::Missing { .. }) => {
            checked.wrong = Some("is missing from the storage".into());
            return Ok(checked);
        }
        Err(error) if error.class() == Class::Corrupt => {
            checked.wrong = Some(error.to_string());
            return Ok(checked);
        }
        Err(error) => return Err(error.into()),
    };
    checked.bytes = bytes.len() as u64;
    if object_id(&bytes) != id {
        checked.wrong = Some("does not hold the bytes of its name".into());
    }
    match footer(vault, &bytes) {
        Err(why) => {
            checked.wrong = Some(format!("has no readable footer: {why}"));
        }
        Ok(footer) => check_chunks(reader, (id, &footer), &bytes, &mut checked).await?,
    }
    Ok(checked)
}

/// The bytes of an object even where they are not those of its name: of a damaged pack, chunks that
/// are whole can still be told from those that are not.
async fn whole_or_not(vault: &Vault, path: &ObjectPath) -> Result<Bytes, store::Error> {
    match vault.store.get(path).await {
        Err(error) if error.class() == Class::Corrupt => {
            let length = vault.store.head(path).await?.length;
            vault.store.get_range(path, 0..length).await
        }
        got => got,
    }
}

/// The footer at the end of the bytes of a pack.
///
/// # Errors
/// [`object::Error`]: there is none, or it was altered.
pub fn footer(vault: &Vault, bytes: &Bytes) -> Result<Footer, object::Error> {
    let short = || object::Error::Short {
        what: "pack",
        length: bytes.len(),
    };
    let head_length = Head::measure(bytes)?;
    let trailer = bytes.len().checked_sub(TRAILER_BYTES).ok_or_else(short)?;
    let length = read_trailer(&bytes[trailer..])? as usize;
    let start = trailer.checked_sub(length).ok_or_else(short)?;
    if start < head_length || length < SEAL_BYTES {
        return Err(short());
    }
    let mut nonce = [0; 24];
    nonce.copy_from_slice(&bytes[start..start + 24]);
    let mut sealed = bytes[start + 24..trailer].to_vec();
    let associated = footer_associated(vault, &bytes[..head_length]);
    let key = &vault.access.shared.index;
    seal::open(key, &nonce, &associated, &mut sealed).map_err(|_| object::Error::Body {
        what: "pack footer",
        why: "it failed authentication".into(),
    })?;
    Footer::read(&sealed)
}

/// The footer of the pack `id`, read from the storage: the way to an index that was lost.
///
/// # Errors
/// The storage's; a sentence for a pack that has none.
pub async fn fetch_footer(
    vault: &Vault,
    id: ObjectId,
) -> Result<Result<(u64, Vec<u8>, Footer), String>, store::Error> {
    let bytes = vault.store.get(&ObjectPath::Pack(id)).await?;
    if object_id(&bytes) != id {
        return Ok(Err("does not hold the bytes of its name".into()));
    }
    let footer = footer(vault, &bytes).map_err(|error| error.to_string());
    Ok(footer.and_then(|footer| {
        let head = Head::read(&bytes).map_err(|error| error.to_string())?;
        let mut sessions = Vec::with_capacity(head.sessions.len() * SESSION_BYTES);
        for record in &head.sessions {
            sessions.extend_from_slice(record);
        }
        Ok((bytes.len() as u64, sessions, footer))
    }))
}

async fn check_chunks(
    reader: &Reader,
    (pack, footer): (ObjectId, &Footer),
    bytes: &Bytes,
    checked: &mut PackChecked,
) -> Result<(), Error> {
    let vault = reader.vault();
    for entry in &footer.entries {
        let start = entry.offset as usize;
        let end = start + entry.length as usize;
        let whole = match bytes.get(start..end) {
            None => Err("lies beyond the end of its pack".to_owned()),
            Some(sealed) if blob::sealed_hash(sealed) != entry.sealed_hash => {
                Err("does not have the sealed bytes that its footer names".to_owned())
            }
            Some(_) if vault.access.may_read() || entry.kind.is_metadata() => {
                let sealed = bytes.slice(start..end);
                match opens_here(reader, pack, entry, sealed).await? {
                    true => Ok(()),
                    // Another place of it may be whole.
                    false => opens(reader, &ChunkFacts::of(entry, &footer.dictionaries)).await?,
                }
            }
            Some(_) => Ok(()),
        };
        checked.chunks += 1;
        if let Err(why) = whole {
            checked.damaged.insert(entry.name, why);
        }
    }
    Ok(())
}

/// Whether the sealed bytes of `entry`, which lie in `pack`, open to what its name says, as an
/// index names them.
///
/// # Errors
/// The storage's.
pub async fn opens_here(
    reader: &Reader,
    pack: ObjectId,
    entry: &Entry,
    sealed: Bytes,
) -> Result<bool, Error> {
    let mut places = reader.index().places(&entry.name).map_err(indexed)?;
    let here = places.find(|place| place.pack.id == pack && place.offset == entry.offset);
    let Some(place) = here.filter(|place| place.length == entry.length) else {
        return Ok(false);
    };
    let opened = reader.chunk_of(place, sealed).await;
    match opened.and_then(|chunk| is_named(reader, &chunk)) {
        Ok(()) => Ok(true),
        Err(error) if error.class() == Class::Corrupt => Ok(false),
        Err(error) => Err(table::Error::from(error).into()),
    }
}

/// Refuses a chunk whose content is not that of its name.
fn is_named(reader: &Reader, chunk: &reader::SealedChunk) -> Result<(), reader::Error> {
    // What is no chunk of rows is compared while it is opened.
    let raw = chunk.open(reader.vault())?;
    let rows = chunk.facts.kind == ChunkKind::Rows;
    let named = !rows || rows_named(reader.vault(), &raw) == Some(chunk.facts.name);
    named.then_some(()).ok_or_else(|| chunk.misnamed())
}

/// Opens a chunk from any of its places, and compares its content with its name; a sentence where
/// none is whole.
async fn opens(reader: &Reader, facts: &ChunkFacts) -> Result<Result<(), String>, Error> {
    let accept = |sealed: &reader::SealedChunk| is_named(reader, sealed);
    match reader.chunk_elsewhere(&facts.name, accept).await {
        Ok(()) => Ok(Ok(())),
        Err(error) if error.class() == Class::Corrupt => Ok(Err(error.to_string())),
        Err(error) => Err(table::Error::from(error).into()),
    }
}

/// The name that a chunk of rows has by its content; none where it cannot be decoded.
fn rows_named(vault: &Vault, raw: &[u8]) -> Option<ChunkId> {
    let columns = take_varint(&mut raw.get(1..)?)?;
    let columns = usize::try_from(columns).ok()?;
    let content = codec::decode(raw, columns, Limits::default()).ok()?;
    let mut hasher = vault.access.shared.chunk_hasher(ChunkKind::Rows as u8);
    codec::feed_content(columns, &content.rows, &content.deleted, &mut |bytes| {
        hasher.update(bytes);
    });
    Some(key::chunk_id(&hasher))
}
