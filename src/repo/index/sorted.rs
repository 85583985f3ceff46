//! Places of chunks in a file of this host, sorted by name, so that one is found by reading one page.
//!
//! Without it every verb would open the whole index and sort it: a GiB where a database has a
//! terabyte. The file is made from index objects, which never change, and names them; what came
//! later stands in memory beside it. Sealed pages come first, then the tail with all that is said of
//! packs, then the tail's length (8, LE). Invariant: it is only a cache. It counts as long as every
//! word in it would be believed today, and what does not open is removed and made anew.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use crate::format::index::Mark;
use crate::format::object::{Fields, Kind, read_body, write_body};
use crate::format::pack::{ChunkKind, Codec, SEAL_BYTES};
use crate::id::{ObjectId, SignerId};
use crate::random::draw;
use crate::repo::blob::FramePlace;
use crate::repo::index::{Pack, Slot};
use crate::repo::vault::{Error, Vault};
use crate::state::{self, State};

/// Where it stands in the state directory.
const FILE: &str = "places";
/// What it is sealed for: this layout, and these rules of what it says.
const PLACE: &str = "places 1";
/// Where it is made; what a crash leaves here is overwritten.
const NEW: &str = "places.new";
/// A place: name, pack, offset, length, raw length, session, dictionary, kind, codec.
const SLOT_BYTES: usize = 16 + 4 * 4 + 2 * 2 + 2;
/// Places in a page, which has about 4 KiB.
const PAGE_SLOTS: usize = 106;
const PAGE_BYTES: usize = PAGE_SLOTS * SLOT_BYTES + SEAL_BYTES;
const LENGTH_BYTES: u64 = 8;
/// No tail is longer; by its shape, a terabyte has one of some 13 MiB.
const TAIL_BYTES_MAX: u64 = 1 << 30;
/// Who asks more than one time for so many pages gets all of them into memory: a page at a time
/// would cost more.
const ASKED_PAGES: u64 = 16;

/// An index object, but for where its chunks lie.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Object {
    /// Its name.
    pub id: ObjectId,
    /// Who signed it.
    pub signer: SignerId,
    /// Whether the signer might maintain when this was written: its word on others' packs hangs on it.
    pub maintains: bool,
    /// The packs that it names, by their numbers.
    pub packs: Vec<u32>,
    /// The index objects that it replaces.
    pub replaces: Vec<ObjectId>,
    /// Its marks, whoever signed it.
    pub marks: Vec<Mark>,
    /// Whether another replaced it: then only what it replaces itself stands here.
    pub replaced: bool,
}

/// The part of the file that is read at once.
#[derive(Debug, Serialize, Deserialize)]
struct Tail {
    /// What was drawn for the file, to which its pages are bound.
    #[serde(with = "serde_bytes")]
    generation: [u8; 24],
    /// How many places there are.
    slots: u64,
    /// The first 8 bytes of the first name of every page.
    #[serde(with = "serde_bytes")]
    fences: Vec<u8>,
    packs: Vec<Pack>,
    objects: Vec<Object>,
}

/// What index objects say, to be kept in a file.
pub(super) struct Content<'a> {
    /// The packs.
    pub packs: &'a [Pack],
    /// The places, sorted by name; each names its pack by its number in `packs`.
    pub slots: &'a [Slot],
    /// The objects that say so.
    pub objects: Vec<Object>,
}

/// The file, opened.
pub(super) struct Sorted {
    vault: Arc<Vault>,
    state: State,
    file: File,
    generation: [u8; 24],
    slots: u64,
    fences: Vec<u64>,
    /// The numbers that its packs have in the index; none for those that nothing names any more.
    numbers: Vec<Option<u32>>,
    /// How often a chunk was looked up in pages.
    asked: AtomicU64,
    /// All places, once many were asked for.
    whole: OnceLock<Vec<Slot>>,
    /// Held by who reads all of them.
    reading: Mutex<()>,
}

impl std::fmt::Debug for Sorted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sorted")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// Opens the file, if there is one that is whole as far as its tail tells; with it what its index
/// objects say of packs.
pub(super) fn open(vault: &Arc<Vault>, state: &State) -> Option<(Sorted, Vec<Pack>, Vec<Object>)> {
    // A cache that cannot be read is one that is not there.
    let mut file = state.open_file(FILE).ok().flatten()?;
    let tail = read_tail(vault, &mut file).ok().flatten()?;
    let pages = tail.slots.div_ceil(PAGE_SLOTS as u64);
    let (fences, rest) = tail.fences.as_chunks::<8>();
    let mut numbers = tail.objects.iter().flat_map(|object| &object.packs);
    let numbered = numbers.all(|number| (*number as usize) < tail.packs.len());
    if fences.len() as u64 != pages || !rest.is_empty() || !numbered {
        return None;
    }
    let sorted = Sorted {
        vault: vault.clone(),
        state: state.clone(),
        file,
        generation: tail.generation,
        slots: tail.slots,
        numbers: (0..tail.packs.len() as u32).map(Some).collect(),
        fences: fences
            .iter()
            .map(|fence| u64::from_be_bytes(*fence))
            .collect(),
        asked: AtomicU64::new(0),
        whole: OnceLock::new(),
        reading: Mutex::default(),
    };
    Some((sorted, tail.packs, tail.objects))
}

fn read_tail(vault: &Vault, file: &mut File) -> io::Result<Option<Tail>> {
    let end = file.seek(SeekFrom::End(0))?;
    let Some(before) = end.checked_sub(LENGTH_BYTES) else {
        return Ok(None);
    };
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, before)?;
    let length = u64::from_le_bytes(length);
    let Some(start) = before.checked_sub(length.min(TAIL_BYTES_MAX)) else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start(start))?;
    let mut sealed = Vec::new();
    file.take(before - start).read_to_end(&mut sealed)?;
    let opened = vault.open(Kind::State, PLACE, &sealed);
    Ok(opened
        .ok()
        .and_then(|(_, body)| read_body(&body, "file of places").ok()))
}

/// Writes the file anew. It is not made durable: what a crash leaves of it does not open.
///
/// # Errors
/// The state directory's; Busy where another process writes it.
pub(super) fn write(
    vault: &Vault,
    state: &State,
    content: Content<'_>,
) -> Result<(), state::Error> {
    let _lock = state.lock(FILE, "sorting the index")?;
    state.remove(NEW)?;
    let written = state.create(NEW).and_then(|file| {
        fill(vault, file, content).map_err(|source| state::Error::Io {
            what: "write",
            path: state.path(NEW),
            source,
        })
    });
    let renamed = written.and_then(|()| state.rename(NEW, FILE));
    renamed.inspect_err(|_| {
        let _ = state.remove(NEW);
    })
}

fn fill(vault: &Vault, file: File, content: Content<'_>) -> io::Result<()> {
    let random = vault.random.as_ref();
    let key = &vault.access.shared.state;
    let generation: [u8; 24] = draw(random);
    let mut out = BufWriter::new(file);
    let mut plain = Vec::with_capacity(PAGE_SLOTS * SLOT_BYTES);
    for (number, page) in content.slots.chunks(PAGE_SLOTS).enumerate() {
        plain.clear();
        page.iter().for_each(|slot| write_slot(slot, &mut plain));
        let place = place(&generation, number as u64);
        out.write_all(&vault.realm.seal_frame(place, &plain, key, random))?;
    }
    let fences = content
        .slots
        .chunks(PAGE_SLOTS)
        .map(|page| fence(&page[0].name));
    let tail = Tail {
        generation,
        slots: content.slots.len() as u64,
        fences: fences.flat_map(u64::to_be_bytes).collect(),
        packs: content.packs.to_vec(),
        objects: content.objects,
    };
    let tail = vault.seal(Kind::State, PLACE, &write_body(&tail));
    out.write_all(&tail)?;
    out.write_all(&(tail.len() as u64).to_le_bytes())?;
    out.flush()
}

impl Sorted {
    /// The places of the chunk whose name begins so.
    ///
    /// # Errors
    /// [`Error::Places`] where a page cannot be read or does not open; the file is then removed.
    pub fn find(&self, name: &[u8; 16]) -> Result<Vec<Slot>, Error> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked < self.fences.len() as u64 / ASKED_PAGES {
            return self.find_in_pages(name);
        }
        let whole = self.whole()?;
        let start = whole.partition_point(|slot| slot.name < *name);
        let same = whole[start..].iter().take_while(|slot| slot.name == *name);
        Ok(same.copied().collect())
    }

    fn find_in_pages(&self, name: &[u8; 16]) -> Result<Vec<Slot>, Error> {
        let wanted = fence(name);
        let mut found = Vec::new();
        // Equal fences: the name may begin in the page before the first of them.
        let first = self.fences.partition_point(|fence| *fence < wanted);
        for number in first.saturating_sub(1)..self.fences.len() {
            if self.fences[number] > wanted {
                break;
            }
            let page = self.page(number as u64)?;
            let named = page.into_iter().filter(|slot| slot.name == *name);
            found.extend(named.filter_map(|slot| self.renumbered(slot)));
        }
        Ok(found)
    }

    fn whole(&self) -> Result<&[Slot], Error> {
        // Asked for every chunk: only who may have to read waits for who reads.
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let _reading = self.reading.lock();
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let mut whole = Vec::with_capacity(self.slots as usize);
        for number in 0..self.fences.len() as u64 {
            let page = self.page(number)?.into_iter();
            whole.extend(page.filter_map(|slot| self.renumbered(slot)));
        }
        Ok(self.whole.get_or_init(|| whole))
    }

    /// Gives its packs other numbers, or none.
    pub fn renumber(&mut self, numbers: &[Option<u32>]) {
        for own in &mut self.numbers {
            *own = own.and_then(|number| numbers[number as usize]);
        }
    }

    fn renumbered(&self, slot: Slot) -> Option<Slot> {
        let pack = self.numbers.get(slot.pack as usize).copied().flatten()?;
        Some(Slot { pack, ..slot })
    }

    fn damaged(&self) -> Error {
        // Where it cannot be removed, the person is told which file it is.
        let _ = self.state.remove(FILE);
        Error::Places {
            path: self.state.path(FILE),
        }
    }

    fn page(&self, number: u64) -> Result<Vec<Slot>, Error> {
        self.read_page(number).ok_or_else(|| self.damaged())
    }

    fn read_page(&self, number: u64) -> Option<Vec<Slot>> {
        let before = number * PAGE_SLOTS as u64;
        let slots = (self.slots - before).min(PAGE_SLOTS as u64) as usize;
        let mut sealed = vec![0; slots * SLOT_BYTES + SEAL_BYTES];
        let start = number * PAGE_BYTES as u64;
        self.file.read_exact_at(&mut sealed, start).ok()?;
        let key = &self.vault.access.shared.state;
        let place = place(&self.generation, number);
        let plain = self.vault.realm.open_frame(place, &sealed, key).ok()?;
        let mut fields = Fields::new(&plain, "page of places");
        (0..slots).map(|_| read_slot(&mut fields)).collect()
    }
}

fn place(generation: &[u8; 24], number: u64) -> FramePlace<'_> {
    FramePlace {
        generation,
        number,
        last: false,
    }
}

fn fence(name: &[u8; 16]) -> u64 {
    (u128::from_be_bytes(*name) >> 64) as u64
}

fn write_slot(slot: &Slot, out: &mut Vec<u8>) {
    out.extend_from_slice(&slot.name);
    for number in [slot.pack, slot.offset, slot.length, slot.raw_length] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [slot.session, slot.dictionary] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(slot.kind as u8);
    out.push(slot.codec as u8);
}

fn read_slot(fields: &mut Fields<'_>) -> Option<Slot> {
    Some(Slot {
        name: fields.array().ok()?,
        pack: fields.u32().ok()?,
        offset: fields.u32().ok()?,
        length: fields.u32().ok()?,
        raw_length: fields.u32().ok()?,
        session: fields.u16().ok()?,
        dictionary: fields.u16().ok()?,
        kind: ChunkKind::from_byte(fields.u8().ok()?)?,
        codec: Codec::from_byte(fields.u8().ok()?)?,
    })
}
