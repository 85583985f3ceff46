//! What a sweep may do: a plan, made from what was read and nothing else.
//!
//! Every pack in the storage is needed, waiting, ready to go, to be marked, or half dead; the plan
//! says which, and nothing is done here. Invariant: a pack goes only when two plans, a waiting time
//! apart, found that no living snapshot needs it, and no backup runs that began before the mark.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::id::{ChunkId, ObjectId, SignerId};
use crate::planted;
use crate::repo::index::{Index, Place};
use crate::store::Listed;

/// How long a mark waits, by the storage's clock.
pub const WAIT: Duration = Duration::from_secs(24 * 3600);
/// Times of the storage that are nearer to each other than this are taken for equal: some
/// storages give whole seconds.
pub const MARGIN: Duration = Duration::from_secs(2);
/// The share of the repository that may be marked beyond what forgotten snapshots account for.
pub const MAX_DELETE_PERCENT: u8 = 30;
/// Packs whose needed bytes are less than this share are written anew.
const HALF_DEAD_PERCENT: u64 = 50;
/// More packs are written anew, the deadest first, until what is left in packs and needed by
/// nothing is less than this share.
const GARBAGE_PERCENT: u64 = 4;

/// Why nothing may be deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that a living snapshot needs is not there.
    #[error("{what}: nothing was marked or deleted")]
    Damaged {
        /// What is missing, and who needs it.
        what: String,
    },
    /// Too much would go.
    #[error(
        "{percent} % of the repository ({bytes} bytes) would go that no forgotten snapshot accounts for, and {allowed} % may: nothing was marked or deleted"
    )]
    TooMuch {
        /// The share.
        percent: u64,
        /// How much that is.
        bytes: u64,
        /// What was allowed.
        allowed: u8,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Damaged { .. } => Class::Corrupt,
            Error::TooMuch { .. } => Class::Conflict,
        }
    }
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Damaged { .. } => {
                "run 'rowvault verify'; a damaged snapshot can be forgotten, a lost index rebuilt by 'rowvault verify --repair-index'".into()
            }
            Error::TooMuch { percent, .. } => format!(
                "if snapshots are missing, find out why; else allow it: --max-delete {}%",
                percent + 1
            ),
        })
    }
}

/// What the storage says of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub length: u64,
    /// When it was written, by the storage's clock.
    pub modified: Timestamp,
}

/// The packs of a listing.
pub fn stored(listed: impl IntoIterator<Item = Listed>) -> HashMap<ObjectId, Stored> {
    let pack = |listed: Listed| match listed.path {
        crate::store::ObjectPath::Pack(id) => Some((
            id,
            Stored {
                length: listed.length,
                modified: listed.modified,
            },
        )),
        _ => None,
    };
    listed.into_iter().filter_map(pack).collect()
}

/// Some places of an index, one bit each.
#[derive(Clone, Debug, Default)]
pub struct Places {
    bits: Vec<u64>,
}

impl Places {
    /// None of the places of `index`.
    pub fn none(index: &Index) -> Places {
        Places {
            bits: vec![0; index.len().div_ceil(64)],
        }
    }

    fn add(&mut self, number: usize) {
        self.bits[number / 64] |= 1 << (number % 64);
    }

    /// Whether this place is among them.
    pub fn has(&self, number: usize) -> bool {
        self.bits
            .get(number / 64)
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Adds the places of `chunk` whose pack is in the storage with its length, and of the
    /// dictionaries that it is compressed with there: any of the places may be the one that stays.
    ///
    /// # Errors
    /// A sentence, where there is no such place.
    pub fn need(
        &mut self,
        index: &Index,
        packs: &HashMap<ObjectId, Stored>,
        chunk: &ChunkId,
    ) -> Result<(), String> {
        let mut why = Some(format!("chunk {chunk} stands in no index"));
        for (number, place) in index.numbered(chunk) {
            let dictionary = place.facts.dictionary;
            let found = lies(packs, &place).and_then(|()| match dictionary {
                Some(dictionary) => self.need_dictionary(index, packs, &dictionary),
                None => Ok(()),
            });
            match found {
                Ok(()) => {
                    self.add(number);
                    why = None;
                }
                Err(wrong) => why = why.map(|_| wrong),
            }
        }
        why.map_or(Ok(()), Err)
    }

    fn need_dictionary(
        &mut self,
        index: &Index,
        packs: &HashMap<ObjectId, Stored>,
        dictionary: &ChunkId,
    ) -> Result<(), String> {
        let mut why = Some(format!("dictionary {dictionary} stands in no index"));
        for (number, place) in index.numbered(dictionary) {
            match lies(packs, &place) {
                Ok(()) => {
                    self.add(number);
                    why = None;
                }
                Err(wrong) => why = why.map(|_| wrong),
            }
        }
        why.map_or(Ok(()), Err)
    }
}

/// Whether the pack of `place` is in the storage with its length; a sentence where it is not.
fn lies(packs: &HashMap<ObjectId, Stored>, place: &Place<'_>) -> Result<(), String> {
    let id = place.pack.id;
    match packs.get(&id) {
        Some(stored) if stored.length == place.pack.length => Ok(()),
        Some(stored) => {
            let (found, length) = (stored.length, place.pack.length);
            Err(format!(
                "pack {id} has {found} bytes where the index says {length}"
            ))
        }
        None => Err(format!("pack {id} is missing from the storage")),
    }
}

/// What a plan is made from, in the order in which it must have been read: intents, ledgers and
/// manifests, index, packs.
pub struct Survey<'a> {
    /// The storage's time before any of it was read.
    pub now: Timestamp,
    /// When the oldest intent that counts was written.
    pub oldest_intent: Option<Timestamp>,
    /// Where everything lies.
    pub index: &'a Index,
    /// Places of what living snapshots need.
    pub needed: &'a Places,
    /// Places of what forgotten snapshots needed whose manifests are still there.
    pub recalled: &'a Places,
    /// The packs in the storage.
    pub packs: &'a HashMap<ObjectId, Stored>,
}

/// How much may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long marks wait.
    pub wait: Duration,
    /// The share that may be marked beyond what forgotten snapshots account for, in percent.
    pub max_delete_percent: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            wait: WAIT,
            max_delete_percent: MAX_DELETE_PERCENT,
        }
    }
}

/// A pack, and how many bytes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sized {
    /// The pack.
    pub pack: ObjectId,
    /// Its bytes.
    pub bytes: u64,
}

/// What a sweep may do. Lists stand in the order of the packs' names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Packs that were marked long enough, and that nothing needs.
    pub delete: Vec<Sized>,
    /// Packs that nothing needs and that are not marked yet.
    pub mark: Vec<Sized>,
    /// Packs whose mark is to be taken away: they are needed again.
    pub unmark: Vec<ObjectId>,
    /// Packs that are marked and must wait.
    pub waiting: Vec<Sized>,
    /// Packs less than half of which is needed, and more where the garbage in all would be too much.
    pub repack: Vec<Sized>,
    /// Packs that an index or a mark names and that are not in the storage.
    pub gone: Vec<ObjectId>,
    /// The places that must stay readable, one for each needed chunk and signer.
    pub kept: Places,
}

impl PartialEq for Places {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl Eq for Places {}

/// Makes the plan.
///
/// # Errors
/// [`Error::TooMuch`].
pub fn plan(survey: &Survey<'_>, limits: &Limits) -> Result<Plan, Error> {
    let (kept, live) = keep(survey);
    let mut plan = Plan {
        kept,
        ..Plan::default()
    };
    let explained = explained(survey);
    let contents = contents(survey.index);
    let content = |id: &ObjectId| contents.get(id).copied().unwrap_or(0);
    let wait = match planted::is("grace 0") {
        true => Duration::ZERO,
        false => limits.wait,
    };
    let mut beyond = 0;
    let mut total = 0;
    let mut partly = Vec::new();
    let since: HashMap<ObjectId, Timestamp> = survey
        .index
        .marks()
        .into_iter()
        .map(|mark| (mark.pack, mark.since))
        .collect();
    let indexed: HashSet<ObjectId> = survey.index.packs().iter().map(|pack| pack.id).collect();
    for (id, stored) in sorted(survey.packs) {
        total += stored.length;
        let sized = Sized {
            pack: id,
            bytes: stored.length,
        };
        let live = live.get(&id).copied().unwrap_or(0);
        match since.get(&id) {
            Some(_) if live > 0 && !planted::is("no second mark") => plan.unmark.push(id),
            Some(since) if is_ripe(survey, *since, wait) => plan.delete.push(sized),
            Some(_) => plan.waiting.push(sized),
            None if !is_settled(survey, stored.modified) => {}
            None if live == 0 => {
                plan.mark.push(sized);
                if indexed.contains(&id) && !explained.contains(&id) {
                    beyond += stored.length;
                }
            }
            None => partly.push(Partly {
                sized,
                live,
                content: content(&id),
            }),
        }
    }
    plan.repack = to_repack(partly);
    let named = indexed.into_iter().chain(since.into_keys());
    let gone = named.filter(|id| !survey.packs.contains_key(id));
    plan.gone = gone.collect::<HashSet<_>>().into_iter().collect();
    plan.gone.sort_unstable();
    let allowed = limits.max_delete_percent;
    if beyond * 100 > total * u64::from(allowed) {
        return Err(Error::TooMuch {
            percent: beyond * 100 / total.max(1),
            bytes: beyond,
            allowed,
        });
    }
    Ok(plan)
}

/// A pack of which something is needed.
struct Partly {
    sized: Sized,
    live: u64,
    content: u64,
}

impl Partly {
    fn dead(&self) -> u64 {
        self.content.saturating_sub(self.live)
    }
}

/// Which packs are worth moving: all that are more than half dead, and then the deadest until the
/// rest of the garbage is little.
fn to_repack(mut packs: Vec<Partly>) -> Vec<Sized> {
    let all: u64 = packs.iter().map(|pack| pack.live).sum();
    let mut garbage: u64 = packs.iter().map(Partly::dead).sum();
    // By the share that is dead, compared without a fraction.
    packs.sort_by(|a, b| {
        let (a_share, b_share) = (
            u128::from(a.dead()) * u128::from(b.content),
            u128::from(b.dead()) * u128::from(a.content),
        );
        b_share.cmp(&a_share).then(a.sized.pack.cmp(&b.sized.pack))
    });
    let mut chosen = Vec::new();
    for pack in packs {
        let half_dead = pack.live * 100 < pack.content * HALF_DEAD_PERCENT;
        let too_much = garbage * 100 > (all + garbage) * GARBAGE_PERCENT;
        if pack.dead() == 0 || !(half_dead || too_much) {
            break;
        }
        garbage -= pack.dead();
        chosen.push(pack.sized);
    }
    chosen.sort_unstable_by_key(|sized| sized.pack);
    chosen
}

fn sorted(packs: &HashMap<ObjectId, Stored>) -> Vec<(ObjectId, Stored)> {
    let mut packs: Vec<(ObjectId, Stored)> =
        packs.iter().map(|(id, stored)| (*id, *stored)).collect();
    packs.sort_unstable_by_key(|(id, _)| *id);
    packs
}

/// Whether a mark has waited, and every backup that might not have seen it has ended.
fn is_ripe(survey: &Survey<'_>, since: Timestamp, wait: Duration) -> bool {
    let waited = since.plus(wait) <= survey.now;
    waited
        && survey
            .oldest_intent
            .is_none_or(|oldest| oldest > since.plus(MARGIN))
}

/// Whether a pack was written before every running backup began, and before this survey did.
fn is_settled(survey: &Survey<'_>, modified: Timestamp) -> bool {
    let first = survey
        .oldest_intent
        .map_or(survey.now, |oldest| oldest.min(survey.now));
    modified.plus(MARGIN) < first
}

/// Which place of each needed chunk is kept, and how many needed bytes that gives each pack. Of
/// several places on the word of one signer one is enough; each signer trusts only itself.
fn keep(survey: &Survey<'_>) -> (Places, HashMap<ObjectId, u64>) {
    let index = survey.index;
    let mut kept = Places::none(index);
    let mut live: HashMap<ObjectId, u64> = HashMap::new();
    let mut shared: Vec<(SignerId, Vec<usize>)> = Vec::new();
    for places in index.chunks() {
        let mut by_signer: Vec<(SignerId, Vec<usize>)> = Vec::new();
        for number in places.filter(|number| survey.needed.has(*number)) {
            let signer = index.place(number).0.signer;
            match by_signer.iter_mut().find(|(known, _)| *known == signer) {
                Some((_, numbers)) => numbers.push(number),
                None => by_signer.push((signer, vec![number])),
            }
        }
        for (signer, numbers) in by_signer {
            if let [number] = numbers[..] {
                kept.add(number);
                *live.entry(index.place(number).0.id).or_default() +=
                    u64::from(index.place(number).1);
            } else {
                shared.push((signer, numbers));
            }
        }
    }
    let alone = live.clone();
    let rank = |number: &usize| {
        let id = index.place(*number).0.id;
        let modified = survey.packs.get(&id).map(|stored| stored.modified);
        (
            !index.is_marked(&id),
            alone.get(&id).copied().unwrap_or(0),
            modified,
            id,
        )
    };
    for (_, numbers) in shared {
        if let Some(best) = numbers.iter().copied().max_by_key(rank) {
            kept.add(best);
            *live.entry(index.place(best).0.id).or_default() += u64::from(index.place(best).1);
        }
    }
    (kept, live)
}

/// How many bytes of chunks each pack has, by those of its indexes that names most.
fn contents(index: &Index) -> HashMap<ObjectId, u64> {
    let mut by_word: HashMap<(ObjectId, SignerId), u64> = HashMap::new();
    for number in 0..index.len() {
        let (pack, length) = index.place(number);
        *by_word.entry((pack.id, pack.signer)).or_default() += u64::from(length);
    }
    let mut contents: HashMap<ObjectId, u64> = HashMap::new();
    for ((pack, _), bytes) in by_word {
        let most = contents.entry(pack).or_default();
        *most = bytes.max(*most);
    }
    contents
}

/// The packs that a forgotten snapshot used, or whose content is needed and kept elsewhere.
fn explained(survey: &Survey<'_>) -> HashSet<ObjectId> {
    let numbers = 0..survey.index.len();
    let known = numbers.filter(|number| survey.recalled.has(*number) || survey.needed.has(*number));
    known
        .map(|number| survey.index.place(number).0.id)
        .collect()
}
