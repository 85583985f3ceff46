//! The index in memory: where every chunk lies, in 40 bytes a chunk.
//!
//! Names are kept to 16 of their 32 bytes; the seal of a chunk is bound to its whole name, so that
//! a false match cannot be opened. Invariant: a chunk in several packs has all its places.

use std::collections::{HashMap, HashSet};

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::format::index::{Index as IndexBody, IndexedPack, Mark};
use crate::format::object;
use crate::format::pack::{ChunkKind, Codec, Entry, Footer};
use crate::id::{ChunkId, ObjectId, SignerId};
use crate::repo::blob::ChunkFacts;
use crate::repo::vault::{Error, Vault};
use crate::store::{ObjectPath, Prefix};

/// How many index objects are fetched at once.
const FETCHES_AT_ONCE: usize = 8;

/// A pack that an index names.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Its name.
    pub id: ObjectId,
    /// Its length.
    pub length: u64,
    /// The session records of its head.
    pub sessions: Vec<u8>,
    /// The dictionaries that its chunks refer to.
    pub dictionaries: Vec<ChunkId>,
    /// Who signed the index.
    pub signer: SignerId,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    name: [u8; 16],
    pack: u32,
    offset: u32,
    length: u32,
    raw_length: u32,
    session: u16,
    dictionary: u16,
    kind: ChunkKind,
    codec: Codec,
}

/// A place where a chunk lies.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The pack.
    pub pack: &'a Pack,
    /// Offset of the sealed bytes.
    pub offset: u32,
    /// Length of the sealed bytes.
    pub length: u32,
    /// Which key opens it: 0 the metadata key, n the pack's session n.
    pub session: u16,
    /// What its seal binds it to.
    pub facts: ChunkFacts,
}

/// Where every chunk lies.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<Pack>,
    slots: Vec<Slot>,
    known: HashSet<blake3::Hash>,
    sorted: bool,
    /// Packs that wait to be swept.
    pub marks: Vec<Mark>,
    /// The index objects that were read and are not replaced.
    pub objects: Vec<ObjectId>,
}

impl Index {
    /// Loads every index object of the repository.
    ///
    /// # Errors
    /// The storage's; Corrupt for an index object that is damaged.
    pub async fn load(vault: &Vault) -> Result<Index, Error> {
        let listing = vault.store.list(Prefix::Indexes).await?;
        let ids = listing
            .objects
            .iter()
            .filter_map(|listed| match listed.path {
                ObjectPath::Index(id) => Some(id),
                _ => None,
            });
        let mut fetched: Vec<(ObjectId, SignerId, IndexBody)> = stream::iter(ids)
            .map(|id| async move {
                let (signer, body) = vault.fetch_index(id).await?;
                Ok::<_, Error>((id, signer, body))
            })
            .buffered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        let owner = vault.access.owner;
        // What the owner says of a chunk's place is tried first.
        fetched.sort_by_key(|(_, signer, _)| *signer != owner);
        let replaced = replaced(&fetched, &owner);
        let mut index = Index::default();
        for (id, signer, body) in &fetched {
            if replaced.contains(id) {
                continue;
            }
            index.objects.push(*id);
            index.marks.extend(body.marks.iter().cloned());
            for pack in &body.packs {
                index
                    .add(pack, *signer)
                    .map_err(|source| Error::body(&ObjectPath::Index(*id), source))?;
            }
        }
        index.sort();
        Ok(index)
    }

    /// Adds a pack. What is known already changes nothing; who says something else of a known pack
    /// adds places, and takes none away.
    ///
    /// # Errors
    /// [`object::Error`]: the footer is no footer.
    pub fn add(&mut self, pack: &IndexedPack, signer: SignerId) -> Result<(), object::Error> {
        if !self.known.insert(said(pack)) {
            return Ok(());
        }
        let footer = Footer::read(&pack.footer)?;
        let number = self.packs.len() as u32;
        self.slots
            .extend(footer.entries.iter().map(|entry| slot(number, entry)));
        self.packs.push(Pack {
            id: pack.pack,
            length: pack.length,
            sessions: pack.sessions.clone(),
            dictionaries: footer.dictionaries,
            signer,
        });
        self.sorted = false;
        Ok(())
    }

    /// Makes what was added findable.
    pub fn sort(&mut self) {
        if !self.sorted {
            self.slots
                .sort_unstable_by_key(|slot| (slot.name, slot.pack));
            self.slots.shrink_to_fit();
            self.sorted = true;
        }
    }

    /// The packs, in the order in which they were added.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// How many places there are; a chunk in two packs counts twice.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The places of a chunk.
    pub fn places(&self, name: &ChunkId) -> impl Iterator<Item = Place<'_>> {
        assert!(self.sorted, "an index is sorted before it is asked");
        let short: [u8; 16] = short(name);
        let start = self.slots.partition_point(|slot| slot.name < short);
        let name = *name;
        self.slots[start..]
            .iter()
            .take_while(move |slot| slot.name == short)
            .filter_map(move |slot| {
                let pack = &self.packs[slot.pack as usize];
                let dictionary = match slot.dictionary {
                    0 => None,
                    n => Some(*pack.dictionaries.get(usize::from(n) - 1)?),
                };
                Some(Place {
                    pack,
                    offset: slot.offset,
                    length: slot.length,
                    session: slot.session,
                    facts: ChunkFacts {
                        name,
                        kind: slot.kind,
                        codec: slot.codec,
                        dictionary,
                        raw_length: slot.raw_length,
                    },
                })
            })
    }
}

/// What indexes replace: the owner's any other, a writer's only its own.
fn replaced(fetched: &[(ObjectId, SignerId, IndexBody)], owner: &SignerId) -> HashSet<ObjectId> {
    let signers: HashMap<ObjectId, SignerId> = fetched
        .iter()
        .map(|(id, signer, _)| (*id, *signer))
        .collect();
    let mut replaced = HashSet::new();
    for (_, signer, body) in fetched {
        let may = |id: &&ObjectId| signer == owner || signers.get(*id) == Some(signer);
        replaced.extend(body.replaces.iter().filter(may));
    }
    replaced
}

/// All that an index says of a pack, hashed.
fn said(pack: &IndexedPack) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.pack.0);
    hasher.update(&pack.length.to_le_bytes());
    hasher.update(&(pack.sessions.len() as u64).to_le_bytes());
    hasher.update(&pack.sessions).update(&pack.footer);
    hasher.finalize()
}

fn short(name: &ChunkId) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&name.0[..16]);
    out
}

fn slot(pack: u32, entry: &Entry) -> Slot {
    Slot {
        name: short(&entry.name),
        pack,
        offset: entry.offset,
        length: entry.length,
        raw_length: entry.raw_length,
        session: entry.session,
        dictionary: entry.dictionary,
        kind: entry.kind,
        codec: entry.codec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_takes_forty_bytes() {
        assert!(std::mem::size_of::<Slot>() <= 40);
    }

    #[test]
    fn index_gives_every_place_of_a_chunk() {
        let entry = |byte: u8| Entry {
            name: ChunkId([byte; 32]),
            kind: ChunkKind::Run,
            codec: Codec::Stored,
            session: 0,
            dictionary: 0,
            offset: 12,
            length: 50,
            raw_length: 10,
            sealed_hash: [0; 16],
        };
        let pack = |byte: u8, entries: Vec<Entry>| IndexedPack {
            pack: ObjectId([byte; 32]),
            length: 100,
            sessions: Vec::new(),
            footer: Footer {
                dictionaries: Vec::new(),
                entries,
            }
            .write(),
        };
        let mut index = Index::default();
        let signer = SignerId([0; 32]);
        index
            .add(&pack(1, vec![entry(7), entry(8)]), signer)
            .unwrap();
        index.add(&pack(2, vec![entry(7)]), signer).unwrap();
        index.add(&pack(2, vec![entry(7)]), signer).unwrap();
        index.sort();
        assert_eq!(index.places(&ChunkId([7; 32])).count(), 2);
        assert_eq!(index.places(&ChunkId([8; 32])).count(), 1);
        assert_eq!(index.places(&ChunkId([9; 32])).count(), 0);
        // Whoever speaks of a pack first hides nothing that another says of it.
        index.add(&pack(2, vec![entry(9)]), signer).unwrap();
        index.sort();
        assert_eq!(index.places(&ChunkId([7; 32])).count(), 2);
        assert_eq!(index.places(&ChunkId([9; 32])).count(), 1);
    }

    #[test]
    fn a_writer_replaces_its_own_indexes_and_the_owner_all() {
        let (owner, one, two) = (SignerId([0; 32]), SignerId([1; 32]), SignerId([2; 32]));
        let id = |byte: u8| ObjectId([byte; 32]);
        let index = |byte: u8, signer: SignerId, replaces: &[u8]| {
            let body = IndexBody {
                replaces: replaces.iter().map(|byte| id(*byte)).collect(),
                ..IndexBody::default()
            };
            (id(byte), signer, body)
        };
        let written = [
            index(1, one, &[]),
            index(2, two, &[1, 2, 9]),
            index(3, one, &[1]),
        ];
        assert_eq!(replaced(&written[..2], &owner), HashSet::from([id(2)]));
        assert_eq!(replaced(&written, &owner), HashSet::from([id(1), id(2)]));
        let by_owner = [index(1, one, &[]), index(2, owner, &[1])];
        assert_eq!(replaced(&by_owner, &owner), HashSet::from([id(1)]));
    }
}
