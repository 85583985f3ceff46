//! `verify --repair-index`: what lost or damaged index objects said, made anew from the packs.
//!
//! A pack's footer repeats what its index said, and is not signed. Invariant: a chunk stands on our
//! word only after its bytes were opened and compared with its name; a damaged index object goes
//! only when all that its packs hold is indexed again.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::{AnyFailure, Class, Failure};
use crate::format::index::{Index as IndexBody, IndexedPack};
use crate::format::pack::{Footer, Head, SESSION_BYTES};
use crate::id::ObjectId;
use crate::job::Opened;
use crate::repo::check;
use crate::repo::index::{Index, Kept};
use crate::repo::lease::Lease;
use crate::repo::reader::Reader;
use crate::repo::vault::{self, object_id};
use crate::store::{self, ObjectPath, Prefix};

/// An index object is stored when it has about this many bytes of footers.
const INDEX_BYTES_MAX: usize = 8 << 20;

/// What was repaired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Packs that no index named and one names now.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Damaged index objects that were taken away.
    pub indexes: u64,
    /// What could not be repaired, in sentences.
    pub left: Vec<String>,
}

/// Indexes every pack that no readable index object names, and takes damaged index objects away.
///
/// # Errors
/// Denied without the owner's key; Busy where somebody maintains; the storage's.
pub async fn repair_index(opened: &Opened) -> Result<Repaired, AnyFailure> {
    let vault = &opened.vault;
    vault.reader("repair the index")?;
    if vault.access.signer.id() != vault.access.owner {
        return Err(vault::Error::OwnerOnly {
            verb: "repair the index",
        }
        .into());
    }
    opened.know_storage().await?;
    let mut lease = Lease::acquire(vault, &opened.state, &opened.whoami.host).await?;
    let repaired = repair(opened, &mut lease).await;
    let released = lease.release(vault).await;
    let repaired = repaired?;
    released?;
    opened.progress.end();
    Ok(repaired)
}

async fn repair(opened: &Opened, lease: &mut Lease) -> Result<Repaired, AnyFailure> {
    let vault = &opened.vault;
    opened.progress.stage("reading footers", None);
    let mut index = opened.load_index(Kept::CountsForNothing).await?;
    let damaged: Vec<ObjectId> = index.damaged.iter().map(|(id, _)| *id).collect();
    let mut repaired = Repaired::default();
    let mut lost = Vec::new();
    for id in unnamed(opened, &index).await? {
        match fetch(opened, id).await? {
            Ok((_, pack)) => match index.add(&pack, vault.access.owner) {
                Ok(()) => lost.push(id),
                Err(error) => repaired.left.push(format!("pack {id} {error}")),
            },
            Err(why) => repaired.left.push(format!("pack {id} {why}")),
        }
    }
    index.sort();
    let reader = Reader::new(vault.clone(), Arc::new(index));
    opened.progress.stage("proving chunks", None);
    let mut body = IndexBody::default();
    let mut bytes = 0;
    for id in lost {
        lease.hold(vault).await?;
        let Ok((whole, pack)) = fetch(opened, id).await? else {
            repaired.left.push(format!("pack {id} changed meanwhile"));
            continue;
        };
        let proven = proven(&reader, &whole, pack, &mut repaired).await?;
        bytes += proven.footer.len();
        body.packs.push(proven);
        if bytes >= INDEX_BYTES_MAX {
            store(opened, std::mem::take(&mut body)).await?;
            bytes = 0;
        }
    }
    if !body.packs.is_empty() {
        store(opened, body).await?;
    }
    // What a damaged object said of packs that cannot be proven may yet be told from its bytes.
    if repaired.left.is_empty() {
        for id in damaged {
            lease.hold(vault).await?;
            vault.store.delete(&ObjectPath::Index(id)).await?;
            repaired.indexes += 1;
        }
    }
    Ok(repaired)
}

/// The packs in the storage that no readable index object names.
async fn unnamed(opened: &Opened, index: &Index) -> Result<Vec<ObjectId>, AnyFailure> {
    let named: HashSet<ObjectId> = index.packs().iter().map(|pack| pack.id).collect();
    let listing = opened.vault.store.list(Prefix::Packs).await?;
    let packs = listing
        .objects
        .into_iter()
        .filter_map(|one| match one.path {
            ObjectPath::Pack(id) if !named.contains(&id) => Some(id),
            _ => None,
        });
    Ok(packs.collect())
}

/// A pack with what an index says of it; a sentence where it is not whole.
async fn fetch(
    opened: &Opened,
    id: ObjectId,
) -> Result<Result<(Bytes, IndexedPack), String>, AnyFailure> {
    let vault = &opened.vault;
    let bytes = match vault.store.get(&ObjectPath::Pack(id)).await {
        Ok(bytes) => bytes,
        Err(store::Error::Missing { .. }) => return Ok(Err("is gone".into())),
        Err(error) if error.class() == Class::Corrupt => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if object_id(&bytes) != id {
        return Ok(Err("does not hold the bytes of its name".into()));
    }
    let read = Head::read(&bytes).and_then(|head| Ok((head, check::footer(vault, &bytes)?)));
    let (head, footer) = match read {
        Ok(read) => read,
        Err(error) => return Ok(Err(format!("has no readable footer: {error}"))),
    };
    if head.epoch != vault.realm.epoch {
        let epoch = head.epoch;
        return Ok(Err(format!("has keys of epoch {epoch}")));
    }
    let mut sessions = Vec::with_capacity(head.sessions.len() * SESSION_BYTES);
    for record in &head.sessions {
        sessions.extend_from_slice(record);
    }
    let pack = IndexedPack {
        pack: id,
        length: bytes.len() as u64,
        sessions,
        footer: footer.write(),
        signer: None,
    };
    Ok(Ok((bytes, pack)))
}

/// The pack with those of its chunks that are what their names say.
async fn proven(
    reader: &Reader,
    whole: &Bytes,
    mut pack: IndexedPack,
    repaired: &mut Repaired,
) -> Result<IndexedPack, AnyFailure> {
    let mut footer = match Footer::read(&pack.footer) {
        Ok(footer) => footer,
        Err(error) => return Err(error.into()),
    };
    let mut good = Vec::with_capacity(footer.entries.len());
    for entry in &footer.entries {
        let start = entry.offset as usize;
        let end = start + entry.length as usize;
        let opens = match whole.get(start..end) {
            Some(_) => {
                let sealed = whole.slice(start..end);
                check::opens_here(reader, pack.pack, entry, sealed).await?
            }
            None => false,
        };
        match opens {
            true => good.push(*entry),
            false => {
                let chunk = &entry.name;
                let left = format!("chunk {chunk} in pack {} is damaged", pack.pack);
                repaired.left.push(left);
            }
        }
    }
    repaired.packs += 1;
    repaired.chunks += good.len() as u64;
    footer.entries = good;
    pack.footer = footer.write();
    Ok(pack)
}

/// Stores an index object and reads it back.
async fn store(opened: &Opened, body: IndexBody) -> Result<(), AnyFailure> {
    let id = opened.vault.put_index(&body).await?;
    opened.vault.fetch_index(id).await?;
    Ok(())
}
