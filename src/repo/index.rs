//! The index in memory: where every chunk lies, in 40 bytes a chunk.
//!
//! Names are kept to 16 of their 32 bytes; the seal of a chunk is bound to its whole name, so that
//! a false match cannot be opened. Invariant: a chunk in several packs has all its places.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::index::{Index as IndexBody, IndexedPack};
use crate::format::keyring::Keyring;
use crate::format::object;
use crate::format::pack::{ChunkKind, Codec, Entry, Footer};
use crate::id::{ChunkId, ObjectId, SignerId};
use crate::repo::blob::ChunkFacts;
use crate::repo::vault::{Error, Vault};
use crate::state::State;
use crate::store::{ObjectPath, Prefix};

/// An index object is written when it has about this many bytes of footers: an object has a longest
/// length, and the index of a repository has none.
pub const INDEX_BYTES_MAX: usize = 8 << 20;
/// How many index objects are fetched at once.
const FETCHES_AT_ONCE: usize = 8;
/// How often the listing is read again, because maintenance replaced an object meanwhile.
const LISTINGS_MAX: usize = 5;
/// Index objects never change, so those that were fetched once are kept here.
const CACHE_FOLDER: &str = "index";

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
    /// On whose word it is known.
    pub signer: SignerId,
}

/// An index object in the storage.
#[derive(Clone, Debug)]
pub struct IndexObject {
    /// Its name.
    pub id: ObjectId,
    /// Its stored bytes.
    pub length: u64,
    /// The packs that it names.
    pub packs: Vec<ObjectId>,
    /// The packs that it marks, where its marks count.
    pub marks: Vec<ObjectId>,
}

/// A mark that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The pack that is to go.
    pub pack: ObjectId,
    /// Since when everybody who looks can know, by the storage's clock.
    pub since: Timestamp,
    /// The index object that holds the mark.
    pub object: ObjectId,
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
    /// Its number among all places of all chunks, from 0.
    pub number: usize,
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
    known: HashSet<(blake3::Hash, SignerId)>,
    owner: Option<SignerId>,
    sorted: bool,
    marks: HashMap<ObjectId, Marked>,
    all_marks: Vec<Marked>,
    lost: HashSet<ObjectId>,
    /// The index objects that count.
    pub objects: Vec<IndexObject>,
    /// Index objects in the storage that others replace.
    pub replaced: Vec<ObjectId>,
    /// Index objects that cannot be read, and why.
    pub damaged: Vec<Damaged>,
}

/// An index object with what the storage says of it.
struct Fetched {
    id: ObjectId,
    length: u64,
    modified: Timestamp,
    signer: SignerId,
    body: IndexBody,
}

/// What maintainers say in index objects, before it is known which of those count.
#[derive(Default)]
struct Found {
    signers: HashMap<ObjectId, SignerId>,
    /// An object, who replaces it, and whether that is a maintainer.
    replaces: Vec<(ObjectId, SignerId, bool)>,
    marks: Vec<Marked>,
}

impl Found {
    /// What indexes replace: a maintainer's any other, a writer's only its own.
    fn replaced(&self) -> HashSet<ObjectId> {
        let may = |(id, signer, maintains): &&(ObjectId, SignerId, bool)| {
            *maintains || self.signers.get(id) == Some(signer)
        };
        let replaces = self.replaces.iter().filter(may);
        replaces.map(|(id, ..)| *id).collect()
    }
}

/// Who reads the index: the repository, who may write in it, and what this host keeps.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The repository.
    pub vault: &'a Vault,
    /// Whose marks and replacements count.
    pub keyring: &'a Keyring,
    /// What this host keeps.
    pub state: &'a State,
    /// Whether what is kept here may stand for what the storage has.
    pub kept: Kept,
}

/// Whether index objects that are kept on this host need not be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// They never change, so they need not.
    Counts,
    /// They must: the question is whether the storage still has them whole.
    CountsForNothing,
}

impl Index {
    /// Loads every index object of the repository, those that were not read before from the
    /// storage, and forgets here which are gone. A damaged one says nothing and is named in
    /// `damaged`: what only it knew of is found missing by whoever needs it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn load(context: Context<'_>) -> Result<Index, Error> {
        let mut listings = 1;
        loop {
            match Index::load_once(context).await {
                Err(Error::Store(error)) if error.is_missing() && listings < LISTINGS_MAX => {
                    listings += 1;
                }
                loaded => return loaded,
            }
        }
    }

    async fn load_once(context: Context<'_>) -> Result<Index, Error> {
        let listing = context.vault.store.list(Prefix::Indexes).await?;
        let mut ids = HashSet::new();
        let wanted = listing.objects.into_iter().filter_map(|listed| {
            let ObjectPath::Index(id) = listed.path else {
                return None;
            };
            ids.insert(id);
            Some((id, listed.length, listed.modified))
        });
        let mut wanted: Vec<(ObjectId, u64, Timestamp)> = wanted.collect();
        let kept = context.state.names(CACHE_FOLDER).unwrap_or_default();
        let here: HashSet<ObjectId> = kept.iter().filter_map(|name| name.parse().ok()).collect();
        // What is kept here first: behind an object that is on its way it would take its place, and
        // how many come at once would depend on names, which nonces decide.
        wanted.sort_by_key(|(id, ..)| !here.contains(id));
        let mut fetched = stream::iter(wanted)
            .map(|(id, length, modified)| fetch(context, id, length, modified))
            .buffered(FETCHES_AT_ONCE);
        let mut index = Index {
            owner: Some(context.vault.access.owner),
            ..Index::default()
        };
        let mut found = Found::default();
        while let Some(one) = fetched.try_next().await? {
            let taken = match &one {
                Ok(one) => index.take(context.keyring, one, &mut found),
                Err((id, why)) => Err((*id, why.clone())),
            };
            if let Err(damaged) = taken {
                index.damaged.push(damaged);
            }
        }
        drop(fetched);
        let replaced = found.replaced();
        index.leave_out(&replaced);
        let counts = |mark: &Marked| !replaced.contains(&mark.object);
        index.all_marks = found.marks.into_iter().filter(counts).collect();
        index.marks = first_of_each(&index.all_marks);
        index.sort();
        for name in kept {
            let known = name.parse().is_ok_and(|id: ObjectId| ids.contains(&id));
            if !known {
                // A cache that cannot be cleared is only too large.
                let _ = context.state.remove(&format!("{CACHE_FOLDER}/{name}"));
            }
        }
        Ok(index)
    }

    fn take(&mut self, keyring: &Keyring, one: &Fetched, found: &mut Found) -> Result<(), Damaged> {
        let maintains = keyring.may_maintain(&one.signer);
        for pack in &one.body.packs {
            let word = pack.signer.filter(|_| maintains);
            let added = self.add(pack, word.unwrap_or(one.signer));
            added.map_err(|error| (one.id, error.to_string()))?;
        }
        found.signers.insert(one.id, one.signer);
        let replaces = one.body.replaces.iter();
        found
            .replaces
            .extend(replaces.map(|id| (*id, one.signer, maintains)));
        if maintains {
            for mark in &one.body.marks {
                let since = match one.body.replaces.is_empty() {
                    true => one.modified,
                    // Taken over from an earlier object, with the time that the storage gave it.
                    false => mark.marked_at.min(one.modified),
                };
                let (pack, object) = (mark.pack, one.id);
                found.marks.push(Marked {
                    pack,
                    since,
                    object,
                });
            }
        }
        self.objects.push(IndexObject {
            id: one.id,
            length: one.length,
            packs: one.body.packs.iter().map(|pack| pack.pack).collect(),
            marks: match maintains {
                true => one.body.marks.iter().map(|mark| mark.pack).collect(),
                false => Vec::new(),
            },
        });
        Ok(())
    }

    /// Takes out what only replaced objects say.
    fn leave_out(&mut self, replaced: &HashSet<ObjectId>) {
        if replaced.is_empty() {
            return;
        }
        let gone = |object: &IndexObject| replaced.contains(&object.id);
        self.replaced = self
            .objects
            .iter()
            .filter(|o| gone(o))
            .map(|o| o.id)
            .collect();
        if self.replaced.is_empty() {
            return;
        }
        self.objects.retain(|object| !gone(object));
        self.marks
            .retain(|_, mark| !replaced.contains(&mark.object));
        let named: HashSet<ObjectId> = self
            .objects
            .iter()
            .flat_map(|o| o.packs.iter().copied())
            .collect();
        let mut numbers = Vec::with_capacity(self.packs.len());
        let mut kept = 0u32;
        for pack in &self.packs {
            let stays = named.contains(&pack.id);
            numbers.push(stays.then_some(kept));
            kept += u32::from(stays);
        }
        self.slots
            .retain_mut(|slot| match numbers[slot.pack as usize] {
                Some(number) => {
                    slot.pack = number;
                    true
                }
                None => false,
            });
        self.packs.retain(|pack| named.contains(&pack.id));
    }

    /// Whether the pack is marked, and so absent to whoever writes.
    pub fn is_marked(&self, pack: &ObjectId) -> bool {
        self.marks.contains_key(pack)
    }

    /// Whether nobody may build on the pack: it is marked, or was found lost.
    pub fn is_absent(&self, pack: &ObjectId) -> bool {
        self.is_marked(pack) || self.lost.contains(pack)
    }

    /// Lets packs count as absent that are not in `listed` with their length, and gives how many
    /// of them no mark accounts for. `listed` is younger than this index.
    pub fn lose(&mut self, listed: &HashMap<ObjectId, u64>) -> usize {
        let whole = |pack: &&Pack| listed.get(&pack.id) == Some(&pack.length);
        let lost = self.packs.iter().filter(|pack| !whole(pack));
        self.lost = lost.map(|pack| pack.id).collect();
        let lost = self.lost.iter();
        lost.filter(|pack| !self.is_marked(pack)).count()
    }

    /// The marks that count, one a pack, in the order of the packs' names.
    pub fn marks(&self) -> Vec<Marked> {
        let mut marks: Vec<Marked> = self.marks.values().copied().collect();
        marks.sort_unstable_by_key(|mark| mark.pack);
        marks
    }

    /// The marks that one index object holds.
    pub fn marks_of(&self, object: &ObjectId) -> Vec<Marked> {
        let own = self.all_marks.iter().filter(|mark| mark.object == *object);
        own.copied().collect()
    }

    /// Lets the marks of one index object count no more.
    pub fn void_marks(&mut self, object: &ObjectId) {
        self.all_marks.retain(|mark| mark.object != *object);
        self.marks = first_of_each(&self.all_marks);
    }

    /// Whether any pack is marked.
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Adds a pack on somebody's word. What is known on that word already changes nothing; who says
    /// something else of a known pack adds places, and takes none away.
    ///
    /// # Errors
    /// [`object::Error`]: the footer is no footer.
    pub fn add(&mut self, pack: &IndexedPack, signer: SignerId) -> Result<(), object::Error> {
        if !self.known.insert((said(pack), signer)) {
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
            // Packs that stay are tried before those that are to go, and what the owner says of a
            // chunk's place before what another says.
            let (marks, owner) = (&self.marks, self.owner);
            let rank = |pack: &Pack| (marks.contains_key(&pack.id), Some(pack.signer) != owner);
            let ranks: Vec<(bool, bool)> = self.packs.iter().map(rank).collect();
            self.slots
                .sort_unstable_by_key(|slot| (slot.name, ranks[slot.pack as usize], slot.pack));
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
            .enumerate()
            .take_while(move |(_, slot)| slot.name == short)
            .filter_map(move |(at, slot)| {
                let pack = &self.packs[slot.pack as usize];
                let dictionary = match slot.dictionary {
                    0 => None,
                    n => Some(*pack.dictionaries.get(usize::from(n) - 1)?),
                };
                Some(Place {
                    number: start + at,
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

/// All that an index says of a pack, hashed.
fn said(pack: &IndexedPack) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.pack.0);
    hasher.update(&pack.length.to_le_bytes());
    hasher.update(&(pack.sessions.len() as u64).to_le_bytes());
    hasher.update(&pack.sessions).update(&pack.footer);
    hasher.finalize()
}

impl Index {
    /// The places of all chunks, by their numbers: for each chunk the numbers of its places.
    pub fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let first = self.slots.get(start)?;
            let same = |slot: &&Slot| slot.name == first.name;
            let end = start + self.slots[start..].iter().take_while(same).count();
            let range = start..end;
            start = end;
            Some(range)
        })
    }

    /// The pack of a place, and how many sealed bytes lie there.
    pub fn place(&self, number: usize) -> (&Pack, u32) {
        let slot = &self.slots[number];
        (&self.packs[slot.pack as usize], slot.length)
    }
}

fn first_of_each(marks: &[Marked]) -> HashMap<ObjectId, Marked> {
    let mut first: HashMap<ObjectId, Marked> = HashMap::new();
    for mark in marks {
        let known = first.entry(mark.pack).or_insert(*mark);
        if mark.since < known.since {
            *known = *mark;
        }
    }
    first
}

/// Packs in groups that one index object each may hold.
pub fn together(packs: Vec<IndexedPack>) -> Vec<Vec<IndexedPack>> {
    let mut groups: Vec<Vec<IndexedPack>> = Vec::new();
    let mut bytes = 0;
    for pack in packs {
        if bytes >= INDEX_BYTES_MAX {
            bytes = 0;
        }
        if bytes == 0 {
            groups.push(Vec::new());
        }
        bytes += pack.footer.len().max(1);
        if let Some(last) = groups.last_mut() {
            last.push(pack);
        }
    }
    groups
}

/// An index object that cannot be read, and why.
type Damaged = (ObjectId, String);

async fn fetch(
    context: Context<'_>,
    id: ObjectId,
    length: u64,
    modified: Timestamp,
) -> Result<Result<Fetched, Damaged>, Error> {
    let Context { vault, state, .. } = context;
    let kept = format!("{CACHE_FOLDER}/{id}");
    // What is kept and does not open is fetched again: local state is only a cache.
    let cached = match context.kept {
        Kept::Counts => state.read(&kept).ok().flatten(),
        Kept::CountsForNothing => None,
    };
    let opened = cached.and_then(|bytes| vault.open_index(id, &bytes).ok());
    let (signer, body) = match opened {
        Some(opened) => opened,
        None => {
            let got = vault.store.get(&ObjectPath::Index(id)).await;
            let opened = got
                .map_err(Error::from)
                .and_then(|bytes| Ok((vault.open_index(id, &bytes)?, bytes)));
            match opened {
                Ok((opened, bytes)) => {
                    let _ = state.write(&kept, &bytes, vault.random.as_ref());
                    opened
                }
                Err(error) if error.class() == Class::Corrupt => {
                    return Ok(Err((id, error.to_string())));
                }
                Err(error) => return Err(error),
            }
        }
    };
    Ok(Ok(Fetched {
        id,
        length,
        modified,
        signer,
        body,
    }))
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
            signer: None,
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
        let replaced = |written: &[(u8, SignerId, &[u8])]| {
            let mut found = Found::default();
            for (object, signer, replaces) in written {
                found.signers.insert(id(*object), *signer);
                let replaces = replaces.iter();
                found
                    .replaces
                    .extend(replaces.map(|byte| (id(*byte), *signer, *signer == owner)));
            }
            found.replaced()
        };
        let mut written = vec![(1, one, &[][..]), (2, two, &[1, 2, 9])];
        assert_eq!(replaced(&written), HashSet::from([id(2)]));
        written.push((3, one, &[1]));
        assert_eq!(replaced(&written), HashSet::from([id(1), id(2)]));
        let by_owner = [(1, one, &[][..]), (2, owner, &[1])];
        assert_eq!(replaced(&by_owner), HashSet::from([id(1)]));
    }

    /// One index object took all packs of a backup; over 256 MiB of them, from about 250 GiB of text
    /// on, no reader would have taken it.
    #[test]
    fn packs_are_indexed_together_as_long_as_an_object_holds_them() {
        let pack = |number: u8, footer: usize| IndexedPack {
            pack: ObjectId([number; 32]),
            length: 1,
            sessions: Vec::new(),
            footer: vec![0; footer],
            signer: None,
        };
        let packs: Vec<IndexedPack> = (0..20).map(|number| pack(number, 3 << 20)).collect();
        let groups = together(packs.clone());
        assert_eq!(
            groups.iter().map(Vec::len).collect::<Vec<_>>(),
            [3, 3, 3, 3, 3, 3, 2]
        );
        assert_eq!(groups.concat(), packs);
        assert_eq!(
            together(vec![pack(1, 0), pack(2, 9 << 20), pack(3, 1)]).len(),
            2
        );
        assert!(together(Vec::new()).is_empty());
    }
}
