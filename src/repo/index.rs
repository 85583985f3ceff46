//! The index in memory: where every chunk lies, in 40 bytes a chunk.
//!
//! Names are kept to 16 of their 32 bytes; the seal of a chunk is bound to its whole name, so that
//! a false match cannot be opened. Invariant: a chunk in several packs has all its places.

mod load;
mod sorted;

pub use load::{Context, Kept};

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::format::index::IndexedPack;
use crate::format::object;
use crate::format::pack::{ChunkKind, Codec, Entry, Footer};
use crate::id::{ChunkId, ObjectId, SignerId};
use crate::repo::blob::ChunkFacts;
use crate::repo::index::sorted::Sorted;
use crate::repo::vault::Error;

/// An index object is written when it has about this many bytes of footers: an object has a longest
/// length, and the index of a repository has none.
pub const INDEX_BYTES_MAX: usize = 8 << 20;

/// A pack that an index names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pack {
    /// Its name.
    pub id: ObjectId,
    /// Its length.
    pub length: u64,
    /// The session records of its head.
    #[serde(with = "serde_bytes")]
    pub sessions: Vec<u8>,
    /// The dictionaries that its chunks refer to.
    pub dictionaries: Vec<ChunkId>,
    /// On whose word it is known.
    pub signer: SignerId,
    /// All that is said of it, hashed.
    #[serde(with = "serde_bytes")]
    said: [u8; 32],
}

/// What is said of a pack, hashed, and who says so.
type Word = ([u8; 32], SignerId);

impl Pack {
    fn word(&self) -> Word {
        (self.said, self.signer)
    }
}

/// An index object that cannot be read, and why.
type Damaged = (ObjectId, String);

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
    /// The places that are not among `slots`; none where all are.
    kept: Option<Sorted>,
    /// The numbers of packs, by what is said of them and by whom.
    known: HashMap<Word, u32>,
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

impl Index {
    /// Gives packs other numbers, and takes out those that get none.
    fn renumber(&mut self, numbers: &[Option<u32>]) {
        let number = |old: u32| numbers[old as usize];
        self.slots.retain_mut(|slot| {
            let stays = number(slot.pack);
            slot.pack = stays.unwrap_or(slot.pack);
            stays.is_some()
        });
        self.known.retain(|_, pack| {
            let stays = number(*pack);
            *pack = stays.unwrap_or(*pack);
            stays.is_some()
        });
        let mut stays = numbers.iter().map(Option::is_some);
        self.packs.retain(|_| stays.next().unwrap_or(false));
        if let Some(kept) = &mut self.kept {
            kept.renumber(numbers);
        }
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
        self.insert(pack, signer).map(|_| ())
    }

    /// As [`Index::add`]; gives the pack's number.
    fn insert(&mut self, pack: &IndexedPack, signer: SignerId) -> Result<u32, object::Error> {
        let said = said(pack);
        if let Some(number) = self.known.get(&(said, signer)) {
            return Ok(*number);
        }
        let footer = Footer::read(&pack.footer)?;
        let number = self.packs.len() as u32;
        self.known.insert((said, signer), number);
        self.slots
            .extend(footer.entries.iter().map(|entry| slot(number, entry)));
        self.packs.push(Pack {
            id: pack.pack,
            length: pack.length,
            sessions: pack.sessions.clone(),
            dictionaries: footer.dictionaries,
            signer,
            said,
        });
        self.sorted = false;
        Ok(number)
    }

    /// Whether these words on a pack are known as this signer's.
    pub fn is_said_by(&self, pack: &IndexedPack, signer: &SignerId) -> bool {
        self.known.contains_key(&(said(pack), *signer))
    }

    /// Makes what was added findable.
    pub fn sort(&mut self) {
        if !self.sorted {
            let ranks: Vec<(bool, bool)> = self.packs.iter().map(|pack| self.rank(pack)).collect();
            self.slots
                .sort_unstable_by_key(|slot| (slot.name, ranks[slot.pack as usize], slot.pack));
            self.slots.shrink_to_fit();
            self.sorted = true;
        }
    }

    /// Packs that stay are tried before those that are to go, and what the owner says of a chunk's
    /// place before what another says.
    fn rank(&self, pack: &Pack) -> (bool, bool) {
        (self.is_marked(&pack.id), Some(pack.signer) != self.owner)
    }

    /// The packs, in the order in which they were added.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// All places in memory, by their numbers.
    fn whole(&self) -> &[Slot] {
        assert!(
            self.kept.is_none(),
            "places are numbered where all are loaded"
        );
        &self.slots
    }

    /// How many places there are, where all were loaded; a chunk in two packs counts twice.
    pub fn len(&self) -> usize {
        self.whole().len()
    }

    /// Whether nothing is known, where all was loaded.
    pub fn is_empty(&self) -> bool {
        self.whole().is_empty()
    }

    /// The places of a chunk.
    ///
    /// # Errors
    /// [`Error::Places`]: what this host keeps of the index is damaged; never where it was loaded whole.
    pub fn places(&self, name: &ChunkId) -> Result<impl Iterator<Item = Place<'_>>, Error> {
        let here = &self.slots[self.in_memory(name)];
        let mut found = Cow::Borrowed(here);
        let kept = self.kept.as_ref().map(|kept| kept.find(&short(name)));
        if let Some(mut kept) = kept.transpose()?.filter(|kept| !kept.is_empty()) {
            kept.extend_from_slice(here);
            let rank = |slot: &Slot| self.rank(&self.packs[slot.pack as usize]);
            kept.sort_by_key(|slot| (rank(slot), slot.pack));
            found = Cow::Owned(kept);
        }
        let name = *name;
        Ok((0..found.len()).filter_map(move |at| self.place_of(&found[at], name)))
    }

    /// The places of a chunk with their numbers among all places, from 0, where all were loaded.
    pub fn numbered(&self, name: &ChunkId) -> impl Iterator<Item = (usize, Place<'_>)> {
        let slots = self.whole();
        let name = *name;
        self.in_memory(&name).filter_map(move |number| {
            let place = self.place_of(&slots[number], name)?;
            Some((number, place))
        })
    }

    fn in_memory(&self, name: &ChunkId) -> Range<usize> {
        assert!(self.sorted, "an index is sorted before it is asked");
        let short = short(name);
        let start = self.slots.partition_point(|slot| slot.name < short);
        let same = self.slots[start..].iter();
        start..start + same.take_while(|slot| slot.name == short).count()
    }

    fn place_of(&self, slot: &Slot, name: ChunkId) -> Option<Place<'_>> {
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
    }
}

/// All that an index says of a pack, hashed.
fn said(pack: &IndexedPack) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.pack.0);
    hasher.update(&pack.length.to_le_bytes());
    hasher.update(&(pack.sessions.len() as u64).to_le_bytes());
    hasher.update(&pack.sessions).update(&pack.footer);
    hasher.finalize().into()
}

impl Index {
    /// The places of all chunks, by their numbers: for each chunk the numbers of its places.
    pub fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let slots = self.whole();
        let mut start = 0;
        std::iter::from_fn(move || {
            let first = slots.get(start)?;
            let same = |slot: &&Slot| slot.name == first.name;
            let end = start + slots[start..].iter().take_while(same).count();
            let range = start..end;
            start = end;
            Some(range)
        })
    }

    /// The pack of a place, and how many sealed bytes lie there.
    pub fn place(&self, number: usize) -> (&Pack, u32) {
        let slot = &self.whole()[number];
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
        let places = |index: &Index, byte| index.places(&ChunkId([byte; 32])).unwrap().count();
        assert_eq!([7, 8, 9].map(|byte| places(&index, byte)), [2, 1, 0]);
        // Whoever speaks of a pack first hides nothing that another says of it.
        index.add(&pack(2, vec![entry(9)]), signer).unwrap();
        index.sort();
        assert_eq!([7, 8, 9].map(|byte| places(&index, byte)), [2, 1, 1]);
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
