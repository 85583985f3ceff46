//! Loading the index: from the storage, from the objects that this host keeps, or from their places
//! in a sorted file.
//!
//! Who looks some chunks up opens it; who walks over all of them loads it whole. Invariant: both
//! find the same places of every chunk, and an object that is gone or replaced says nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::index::Index as IndexBody;
use crate::format::keyring::Keyring;
use crate::id::{ObjectId, SignerId};
use crate::repo::index::sorted::{self, Object, Sorted};
use crate::repo::index::{Damaged, Index, IndexObject, Marked, Pack, first_of_each};
use crate::repo::vault::{Error, Vault};
use crate::state::State;
use crate::store::{ObjectPath, Prefix};

/// The sorted file is made anew when more than one part in so many of the index is not in it.
const SORTED_ANEW: u64 = 4;
/// How many index objects are fetched at once.
const FETCHES_AT_ONCE: usize = 8;
/// How often the listing is read again, because maintenance replaced an object meanwhile.
const LISTINGS_MAX: usize = 5;
/// Index objects never change, so those that were fetched once are kept here.
const CACHE_FOLDER: &str = "index";

/// Who reads the index: the repository, who may write in it, and what this host keeps.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The repository.
    pub vault: &'a Arc<Vault>,
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

/// Where the places of chunks are read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Objects,
    /// The sorted file, as far as it goes.
    Sorted,
}

impl Index {
    /// Loads every index object of the repository, those that were not read before from the
    /// storage, and forgets here which are gone. A damaged one says nothing and is named in
    /// `damaged`: what only it knew of is found missing by whoever needs it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn load(context: Context<'_>) -> Result<Index, Error> {
        Ok(load(context, Through::Objects).await?.index)
    }

    /// The same for whoever looks chunks up: an index of `Vault::index_sorted_bytes_min` or more is
    /// not read whole, but for the first time and when much of it is new. Its places have no numbers.
    ///
    /// # Errors
    /// The storage's.
    pub async fn open(context: Context<'_>) -> Result<Index, Error> {
        if context.kept == Kept::CountsForNothing {
            return Index::load(context).await;
        }
        let opened = load(context, Through::Sorted).await?;
        let few = opened.fresh <= opened.bytes / SORTED_ANEW;
        if few || opened.bytes < context.vault.index_sorted_bytes_min {
            return Ok(opened.index);
        }
        let whole = match &opened.index.kept {
            None => opened,
            Some(_) => {
                drop(opened);
                load(context, Through::Objects).await?
            }
        };
        let content = sorted::Content {
            packs: &whole.index.packs,
            slots: &whole.index.slots,
            objects: whole.objects,
        };
        // Without the file the next one reads all again.
        let _ = sorted::write(context.vault, context.state, content);
        Ok(whole.index)
    }
}

async fn load(context: Context<'_>, through: Through) -> Result<Loaded, Error> {
    let mut listings = 1;
    loop {
        match load_once(context, through).await {
            Err(Error::Store(error)) if error.is_missing() && listings < LISTINGS_MAX => {
                listings += 1;
            }
            loaded => return loaded,
        }
    }
}

/// What the storage lists of an index object.
#[derive(Clone, Copy)]
struct Listed {
    length: u64,
    modified: Timestamp,
}

async fn load_once(context: Context<'_>, through: Through) -> Result<Loaded, Error> {
    let listing = context.vault.store.list(Prefix::Indexes).await?;
    let listed = listing.objects.into_iter().filter_map(|one| {
        let ObjectPath::Index(id) = one.path else {
            return None;
        };
        let (length, modified) = (one.length, one.modified);
        Some((id, Listed { length, modified }))
    });
    let listed: HashMap<ObjectId, Listed> = listed.collect();
    let mut loaded = Loaded::new(context.vault.access.owner);
    loaded.bytes = listed.values().map(|one| one.length).sum();
    if through == Through::Sorted
        && let Some((sorted, packs, objects)) = sorted::open(context.vault, context.state)
        && are_believed(context.keyring, &objects)
        && stay_replaced(&objects, &listed)
    {
        loaded.take_sorted(sorted, packs, objects, &listed);
    }
    let known: HashSet<ObjectId> = loaded.objects.iter().map(|one| one.id).collect();
    let kept = context.state.names(CACHE_FOLDER).unwrap_or_default();
    let here: HashSet<ObjectId> = kept.iter().filter_map(|name| name.parse().ok()).collect();
    let wanted = listed.iter().filter(|(id, _)| !known.contains(id));
    let mut wanted: Vec<(ObjectId, Listed)> = wanted.map(|(id, one)| (*id, *one)).collect();
    // What is kept here first: behind an object that is on its way it would take its place, and
    // how many come at once would depend on names, which nonces decide.
    wanted.sort_by_key(|(id, _)| (!here.contains(id), *id));
    let mut fetched = stream::iter(wanted)
        .map(async |(id, listed)| Ok::<_, Error>((listed, fetch(context, id).await?)))
        .buffered(FETCHES_AT_ONCE);
    while let Some((listed, one)) = fetched.try_next().await? {
        let taken = one.and_then(|one| loaded.take(context.keyring, one, listed));
        if let Err(damaged) = taken {
            loaded.index.damaged.push(damaged);
        }
    }
    drop(fetched);
    loaded.finish();
    for name in kept {
        let known = name
            .parse()
            .is_ok_and(|id: ObjectId| listed.contains_key(&id));
        if !known {
            // A cache that cannot be cleared is only too large.
            let _ = context.state.remove(&format!("{CACHE_FOLDER}/{name}"));
        }
    }
    Ok(loaded)
}

/// Whether signers may still do what they might when the file was written.
fn are_believed(keyring: &Keyring, objects: &[Object]) -> bool {
    let same = |one: &Object| keyring.may_maintain(&one.signer) == one.maintains;
    objects.iter().all(same)
}

/// Whether what others had replaced when the file was written is replaced still: the file does not
/// say what it named.
fn stay_replaced(objects: &[Object], listed: &HashMap<ObjectId, Listed>) -> bool {
    let here = |one: &&Object| listed.contains_key(&one.id);
    let replaced = replaced(objects.iter().filter(here));
    let stays = |one: &Object| !one.replaced || replaced.contains(&one.id);
    objects.iter().filter(here).all(stays)
}

/// What indexes replace: a maintainer's any other, a writer's only its own.
fn replaced<'a>(objects: impl Iterator<Item = &'a Object> + Clone) -> HashSet<ObjectId> {
    let signers = objects.clone().map(|one| (one.id, one.signer));
    let signers: HashMap<ObjectId, SignerId> = signers.collect();
    let replaces = objects.flat_map(|one| {
        let may = |id: &&ObjectId| one.maintains || signers.get(id) == Some(&one.signer);
        one.replaces.iter().filter(may)
    });
    replaces.copied().collect()
}

/// An index that is being loaded, and what its objects say before it is known which of them count.
struct Loaded {
    index: Index,
    objects: Vec<Object>,
    marks: Vec<Marked>,
    /// Bytes of all index objects in the storage.
    bytes: u64,
    /// Bytes of those that are in no sorted file.
    fresh: u64,
}

impl Loaded {
    fn new(owner: SignerId) -> Loaded {
        Loaded {
            index: Index {
                owner: Some(owner),
                ..Index::default()
            },
            objects: Vec::new(),
            marks: Vec::new(),
            bytes: 0,
            fresh: 0,
        }
    }

    /// Takes what the file says of objects that the storage still has.
    fn take_sorted(
        &mut self,
        sorted: Sorted,
        packs: Vec<Pack>,
        objects: Vec<Object>,
        listed: &HashMap<ObjectId, Listed>,
    ) {
        let numbered = packs.iter().zip(0..);
        self.index.known = numbered
            .map(|(pack, number)| (pack.word(), number))
            .collect();
        self.index.packs = packs;
        self.index.kept = Some(sorted);
        for one in objects {
            if let Some(listed) = listed.get(&one.id) {
                self.object(one, *listed);
            }
        }
    }

    fn take(&mut self, keyring: &Keyring, one: Fetched, listed: Listed) -> Result<(), Damaged> {
        let Fetched { id, signer, body } = one;
        let maintains = keyring.may_maintain(&signer);
        let mut packs = Vec::with_capacity(body.packs.len());
        for pack in &body.packs {
            let word = pack.signer.filter(|_| maintains);
            let number = self.index.insert(pack, word.unwrap_or(signer));
            packs.push(number.map_err(|error| (id, error.to_string()))?);
        }
        self.fresh += listed.length;
        let object = Object {
            id,
            signer,
            maintains,
            packs,
            replaces: body.replaces,
            marks: body.marks,
            replaced: false,
        };
        self.object(object, listed);
        Ok(())
    }

    fn object(&mut self, one: Object, listed: Listed) {
        let marks = match one.maintains {
            true => &one.marks[..],
            false => &[],
        };
        self.marks.extend(marks.iter().map(|mark| Marked {
            pack: mark.pack,
            since: match one.replaces.is_empty() {
                true => listed.modified,
                // Taken over from an earlier object, with the time that the storage gave it.
                false => mark.marked_at.min(listed.modified),
            },
            object: one.id,
        }));
        let pack = |number: &u32| self.index.packs[*number as usize].id;
        let object = IndexObject {
            id: one.id,
            length: listed.length,
            packs: one.packs.iter().map(pack).collect(),
            marks: marks.iter().map(|mark| mark.pack).collect(),
        };
        self.index.objects.push(object);
        self.objects.push(one);
    }

    /// Leaves out what only replaced objects say, or objects that are gone; the rest can be asked then.
    fn finish(&mut self) {
        let replaced = replaced(self.objects.iter());
        for one in self
            .objects
            .iter_mut()
            .filter(|one| replaced.contains(&one.id))
        {
            one.replaced = true;
            one.packs = Vec::new();
            one.marks = Vec::new();
            self.index.replaced.push(one.id);
        }
        self.index.objects.retain(|one| !replaced.contains(&one.id));
        self.leave_out_unnamed();
        self.marks.retain(|mark| !replaced.contains(&mark.object));
        self.index.all_marks = std::mem::take(&mut self.marks);
        self.index.marks = first_of_each(&self.index.all_marks);
        self.index.sort();
    }

    fn leave_out_unnamed(&mut self) {
        let mut named = vec![false; self.index.packs.len()];
        for number in self.objects.iter().flat_map(|one| &one.packs) {
            named[*number as usize] = true;
        }
        if named.iter().all(|named| *named) {
            return;
        }
        let mut next = 0;
        let number = |named: bool| {
            let number = next;
            next += u32::from(named);
            named.then_some(number)
        };
        let numbers: Vec<Option<u32>> = named.into_iter().map(number).collect();
        self.index.renumber(&numbers);
        for one in &mut self.objects {
            let stays = one
                .packs
                .iter()
                .filter_map(|number| numbers[*number as usize]);
            one.packs = stays.collect();
        }
    }
}

/// An index object, opened.
struct Fetched {
    id: ObjectId,
    signer: SignerId,
    body: IndexBody,
}

async fn fetch(context: Context<'_>, id: ObjectId) -> Result<Result<Fetched, Damaged>, Error> {
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
    Ok(Ok(Fetched { id, signer, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_replaces_its_own_indexes_and_the_owner_all() {
        let (owner, one, two) = (SignerId([0; 32]), SignerId([1; 32]), SignerId([2; 32]));
        let id = |byte: u8| ObjectId([byte; 32]);
        let replaced = |written: &[(u8, SignerId, &[u8])]| {
            let mut objects = Vec::new();
            for (object, signer, replaces) in written {
                objects.push(Object {
                    id: id(*object),
                    signer: *signer,
                    maintains: *signer == owner,
                    packs: Vec::new(),
                    replaces: replaces.iter().map(|byte| id(*byte)).collect(),
                    marks: Vec::new(),
                    replaced: false,
                });
            }
            super::replaced(objects.iter())
        };
        let mut written = vec![(1, one, &[][..]), (2, two, &[1, 2, 9])];
        assert_eq!(replaced(&written), HashSet::from([id(2)]));
        written.push((3, one, &[1]));
        assert_eq!(replaced(&written), HashSet::from([id(1), id(2)]));
        let by_owner = [(1, one, &[][..]), (2, owner, &[1])];
        assert_eq!(replaced(&by_owner), HashSet::from([id(1)]));
    }
}
