//! Chunks moved from packs that are half dead into new ones, unopened.
//!
//! The sealed bytes stay as they are; the sessions that open them move along, and each chunk is
//! compared with the hash that its pack's sealed footer names. Invariant: a pack is emptied only
//! when everything in it that is kept was read back from the new pack.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::format::index::IndexedPack;
use crate::format::pack::{Entry, Footer, Head, SESSION_BYTES, SessionRecord};
use crate::id::{ChunkId, ObjectId, SignerId};
use crate::repo::blob;
use crate::repo::check;
use crate::repo::index::Index;
use crate::repo::prune::{Plan, Sized};
use crate::repo::sweep::Error;
use crate::repo::vault::{Vault, object_id};
use crate::repo::writer::close_pack;
use crate::store::ObjectPath;

/// How many bytes of packs one sweep writes anew; the next one goes on.
const REPACK_BYTES_MAX: u64 = 2 << 30;
/// How many sessions a pack may hold.
const SESSIONS_MAX: usize = 256;

/// What was moved.
#[derive(Default)]
pub(super) struct Moved {
    /// The new packs.
    pub packs: Vec<IndexedPack>,
    /// The packs that hold nothing any more that is not elsewhere.
    pub emptied: Vec<Sized>,
    /// What could not be moved, in sentences.
    pub warnings: Vec<String>,
}

/// A pack that is being filled with chunks of one signer.
#[derive(Default)]
struct Filling {
    bytes: Vec<u8>,
    sessions: Vec<SessionRecord>,
    footer: Footer,
}

/// Moves what is kept out of the packs that `plan` names.
pub(super) async fn repack(vault: &Vault, index: &Index, plan: &Plan) -> Result<Moved, Error> {
    let mut moved = Moved::default();
    let mut filling: BTreeMap<SignerId, Filling> = BTreeMap::new();
    let kept = kept_places(index, plan);
    let mut bytes = 0;
    for sized in &plan.repack {
        if bytes > REPACK_BYTES_MAX {
            break;
        }
        bytes += sized.bytes;
        let whole = vault.store.get(&ObjectPath::Pack(sized.pack)).await?;
        let of = (sized.pack, kept.get(&sized.pack).copied().unwrap_or(0));
        match chunks(vault, index, plan, of, &whole) {
            Err(why) => moved
                .warnings
                .push(format!("pack {} stays: {why}", sized.pack)),
            Ok((head, footer, chunks)) => {
                for (signer, entry) in chunks {
                    let into = filling.entry(signer).or_default();
                    into.add(&entry, &whole, &head, &footer);
                }
                moved.emptied.push(*sized);
            }
        }
        for (signer, filling) in &mut filling {
            if filling.is_full(vault.pack_bytes) {
                let full = std::mem::take(filling);
                moved.packs.push(full.store(vault, *signer).await?);
            }
        }
    }
    for (signer, filling) in filling {
        if !filling.footer.entries.is_empty() {
            moved.packs.push(filling.store(vault, signer).await?);
        }
    }
    Ok(moved)
}

/// How many places of each of the packs are kept: counted once, for an index may be long.
fn kept_places(index: &Index, plan: &Plan) -> HashMap<ObjectId, usize> {
    let packs = plan.repack.iter().map(|sized| (sized.pack, 0));
    let mut kept: HashMap<ObjectId, usize> = packs.collect();
    for number in (0..index.len()).filter(|number| plan.kept.has(*number)) {
        if let Some(count) = kept.get_mut(&index.place(number).0.id) {
            *count += 1;
        }
    }
    kept
}

type Chunks = (Head, Footer, Vec<(SignerId, Entry)>);

/// The kept chunks of a pack, each for the signer on whose word it is kept.
fn chunks(
    vault: &Vault,
    index: &Index,
    plan: &Plan,
    (pack, kept): (ObjectId, usize),
    whole: &Bytes,
) -> Result<Chunks, String> {
    let head = Head::read(whole).map_err(|error| error.to_string())?;
    if head.epoch != vault.realm.epoch {
        return Err(format!("its keys are of epoch {}", head.epoch));
    }
    let footer = check::footer(vault, whole).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for entry in &footer.entries {
        let places = index.numbered(&entry.name).filter(|(number, place)| {
            place.pack.id == pack && place.offset == entry.offset && plan.kept.has(*number)
        });
        for (_, place) in places {
            let start = entry.offset as usize;
            let sealed = whole.get(start..start + entry.length as usize);
            if sealed.map(blob::sealed_hash) != Some(entry.sealed_hash) {
                return Err(format!("chunk {} in it is damaged", entry.name));
            }
            let sessions = head.sessions.len();
            if usize::from(entry.session) > sessions {
                return Err(format!(
                    "chunk {} names a session that it lacks",
                    entry.name
                ));
            }
            found.push((place.pack.signer, *entry));
        }
    }
    if kept != found.len() {
        return Err("an index names chunks in it that it does not have".into());
    }
    Ok((head, footer, found))
}

impl Filling {
    fn is_full(&self, pack_bytes: usize) -> bool {
        self.bytes.len() >= pack_bytes || self.sessions.len() >= SESSIONS_MAX
    }

    fn add(&mut self, entry: &Entry, whole: &Bytes, head: &Head, footer: &Footer) {
        let session = match entry.session {
            0 => 0,
            n => number(&mut self.sessions, head.sessions[usize::from(n) - 1]),
        };
        let dictionary = match entry.dictionary {
            0 => 0,
            n => number::<ChunkId>(
                &mut self.footer.dictionaries,
                footer.dictionaries[usize::from(n) - 1],
            ),
        };
        let start = entry.offset as usize;
        self.footer.entries.push(Entry {
            session,
            dictionary,
            // The head, whose length is known at the end, is added then.
            offset: self.bytes.len() as u32,
            ..*entry
        });
        let sealed = &whole[start..start + entry.length as usize];
        self.bytes.extend_from_slice(sealed);
    }

    /// Stores the pack and reads it back.
    async fn store(mut self, vault: &Vault, signer: SignerId) -> Result<IndexedPack, Error> {
        let mut sessions = Vec::with_capacity(self.sessions.len() * SESSION_BYTES);
        for record in &self.sessions {
            sessions.extend_from_slice(record);
        }
        let head = Head {
            epoch: vault.realm.epoch,
            sessions: self.sessions,
        };
        let mut bytes = head.write();
        let shift = bytes.len();
        for entry in &mut self.footer.entries {
            entry.offset += shift as u32;
        }
        bytes.append(&mut self.bytes);
        close_pack(vault, shift, &mut bytes, &self.footer);
        let bytes = Bytes::from(bytes);
        let pack = object_id(&bytes);
        let length = bytes.len() as u64;
        vault.store.put(&ObjectPath::Pack(pack), bytes).await?;
        // Reading compares the bytes with the name.
        vault.store.get(&ObjectPath::Pack(pack)).await?;
        let own = signer == vault.access.signer.id();
        Ok(IndexedPack {
            pack,
            length,
            sessions,
            footer: self.footer.write(),
            signer: (!own).then_some(signer),
        })
    }
}

/// The number of `value` in `known`, from 1; added where it is not in it.
fn number<T: PartialEq>(known: &mut Vec<T>, value: T) -> u16 {
    let at = known.iter().position(|one| *one == value);
    let at = at.unwrap_or_else(|| {
        known.push(value);
        known.len() - 1
    });
    at as u16 + 1
}
