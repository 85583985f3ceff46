//! The plan of a prune, carried out: marks, deletions, packs and indexes written anew.
//!
//! Before each deletion the lease is asked. What is written anew is read back whole before anything
//! that it replaces goes. Invariant: a sweep that is cut short at any point leaves a repository
//! that restores as before, and the next one goes on from there.

mod repack;

use std::collections::HashSet;

use crate::clock::Timestamp;
use crate::failpoint;
use crate::failure::{Class, Failure};
use crate::format::index::{Index as IndexBody, IndexedPack, Mark};
use crate::format::object;
use crate::id::{ObjectId, SignerId, SourceHash};
use crate::repo::index::{INDEX_BYTES_MAX, Index, IndexObject};
use crate::repo::lease::{self, Lease};
use crate::repo::prune::{Plan, Sized};
use crate::repo::vault::{self, Vault};
use crate::store::{self, ObjectPath};

/// An index object of fewer bytes than this is small.
const SMALL_INDEX_BYTES: u64 = 1 << 20;
/// Small index objects are joined when there are more of them than this.
const SMALL_INDEXES_MAX: usize = 32;

/// Why a sweep stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or an object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The lease.
    #[error(transparent)]
    Lease(#[from] lease::Error),
    /// A footer in an index is none.
    #[error("an index object cannot be written anew")]
    Footer(#[from] object::Error),
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::Lease(error) => error.class(),
            Error::Footer(error) => error.class(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::Lease(error) => error.hint(),
            Error::Footer(error) => error.hint(),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Packs whose needed chunks were moved into others.
    pub packs_rewritten: u64,
    /// Bytes of deleted packs.
    pub bytes_freed: u64,
    /// Bytes of packs that were marked now.
    pub bytes_marked: u64,
    /// Manifests that were deleted.
    pub manifests_deleted: u64,
    /// Objects that stay because the storage keeps them locked.
    pub locked: u64,
    /// Bytes of packs among them.
    pub bytes_locked: u64,
    /// Until when, the last of them.
    pub locked_until: Option<Timestamp>,
    /// Objects that stay because this host's credentials may not delete; another's may.
    pub withheld: u64,
    /// What could not be moved, in sentences.
    pub warnings: Vec<String>,
}

/// Carries out a plan under a lease.
pub struct Sweep<'a> {
    vault: &'a Vault,
    index: &'a Index,
    lease: &'a mut Lease,
    swept: Swept,
}

impl<'a> Sweep<'a> {
    /// A sweep over what `index` names, by the right of `lease`.
    pub fn new(vault: &'a Vault, index: &'a Index, lease: &'a mut Lease) -> Sweep<'a> {
        Sweep {
            vault,
            index,
            lease,
            swept: Swept::default(),
        }
    }

    /// Does what `plan` says, and deletes `manifests`, which no living snapshot has.
    ///
    /// # Errors
    /// The lease is lost, or the storage's. What was done by then stays done.
    pub async fn run(
        mut self,
        plan: &Plan,
        manifests: &[(SourceHash, ObjectId)],
    ) -> Result<Swept, Error> {
        let unmark: HashSet<ObjectId> = plan.unmark.iter().copied().collect();
        self.rewrite(&self.marking(&unmark), &HashSet::new(), &unmark)
            .await?;
        let moved = self.repack(plan).await?;
        self.mark(plan.mark.iter().chain(&moved)).await?;
        failpoint::reach("sweep: marks stored");
        for (source, id) in manifests {
            let path = ObjectPath::Manifest(*source, *id);
            self.swept.manifests_deleted += u64::from(self.delete(&path).await?);
        }
        failpoint::reach("sweep: manifests deleted");
        let mut dead: HashSet<ObjectId> = plan.gone.iter().copied().collect();
        for Sized { pack, bytes } in &plan.delete {
            let locked = self.swept.locked;
            if self.delete(&ObjectPath::Pack(*pack)).await? {
                dead.insert(*pack);
                self.swept.packs_deleted += 1;
                self.swept.bytes_freed += bytes;
            } else if self.swept.locked > locked {
                self.swept.bytes_locked += bytes;
            }
        }
        failpoint::reach("sweep: packs deleted");
        // First no index names a pack that is gone, then no mark does: in between it is absent to
        // whoever writes.
        self.rewrite(&self.naming(&dead), &dead, &HashSet::new())
            .await?;
        failpoint::reach("sweep: indexes rewritten");
        self.rewrite(&self.marking(&dead), &dead, &dead).await?;
        failpoint::reach("sweep: marks dropped");
        for id in &self.index.replaced {
            self.delete(&ObjectPath::Index(*id)).await?;
        }
        Ok(self.swept)
    }

    /// Deletes an object, if we still may; false where the storage keeps it, because it is locked
    /// or because it lets us write and not delete. What is marked goes by another host then.
    async fn delete(&mut self, path: &ObjectPath) -> Result<bool, Error> {
        if self.swept.withheld > 0 {
            self.swept.withheld += 1;
            return Ok(false);
        }
        self.lease.hold(self.vault).await?;
        let until = match self.vault.store.locked_until(path).await {
            Err(error) if error.is_missing() => None,
            until => until?,
        };
        if until.is_some_and(|until| until > self.vault.clock.now()) {
            self.swept.locked += 1;
            self.swept.locked_until = self.swept.locked_until.max(until);
            return Ok(false);
        }
        match self.vault.store.delete(path).await {
            Ok(()) => Ok(true),
            Err(error) if error.class() == Class::Denied => {
                self.swept.withheld += 1;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn mark(&mut self, packs: impl Iterator<Item = &Sized>) -> Result<(), Error> {
        let marked_at = self.lease.renewed_at();
        let mut marks = Vec::new();
        for Sized { pack, bytes } in packs {
            self.swept.bytes_marked += bytes;
            marks.push(Mark {
                pack: *pack,
                marked_at,
            });
        }
        if !marks.is_empty() {
            self.lease.hold(self.vault).await?;
            self.put_index(&IndexBody {
                marks,
                ..IndexBody::default()
            })
            .await?;
        }
        Ok(())
    }

    /// Stores an index and reads it back: some storages say yes and keep nothing.
    async fn put_index(&self, body: &IndexBody) -> Result<(), Error> {
        let id = self.vault.put_index(body).await?;
        self.vault.fetch_index(id).await?;
        Ok(())
    }

    async fn repack(&mut self, plan: &Plan) -> Result<Vec<Sized>, Error> {
        if plan.repack.is_empty() {
            return Ok(Vec::new());
        }
        self.lease.hold(self.vault).await?;
        let moved = repack::repack(self.vault, self.index, plan).await?;
        failpoint::reach("repack: packs stored");
        if !moved.packs.is_empty() {
            self.put_index(&IndexBody {
                packs: moved.packs,
                ..IndexBody::default()
            })
            .await?;
        }
        failpoint::reach("repack: index stored");
        self.swept.packs_rewritten += moved.emptied.len() as u64;
        self.swept.warnings.extend(moved.warnings);
        Ok(moved.emptied)
    }

    /// The index objects that mark one of `packs`.
    fn marking(&self, packs: &HashSet<ObjectId>) -> Vec<&'a IndexObject> {
        let marks = |object: &&IndexObject| object.marks.iter().any(|pack| packs.contains(pack));
        self.index.objects.iter().filter(marks).collect()
    }

    /// The index objects that name one of `packs`, and the small ones where they are many.
    fn naming(&self, packs: &HashSet<ObjectId>) -> Vec<&'a IndexObject> {
        let small =
            |object: &IndexObject| object.length < SMALL_INDEX_BYTES && object.marks.is_empty();
        let many = self.index.objects.iter().filter(|o| small(o)).count() > SMALL_INDEXES_MAX;
        let named = |object: &&IndexObject| {
            (many && small(object)) || object.packs.iter().any(|pack| packs.contains(pack))
        };
        self.index.objects.iter().filter(named).collect()
    }

    /// Writes index objects anew, several in one, without these packs and these marks, and deletes
    /// the old ones.
    async fn rewrite(
        &mut self,
        objects: &[&IndexObject],
        packs: &HashSet<ObjectId>,
        marks: &HashSet<ObjectId>,
    ) -> Result<(), Error> {
        let mut joined = IndexBody::default();
        let mut bytes = 0;
        for object in objects {
            let (signer, body) = match self.vault.fetch_index(object.id).await {
                Ok(fetched) => fetched,
                // An earlier step of this sweep wrote it anew.
                Err(vault::Error::Store(error)) if error.is_missing() => continue,
                Err(error) => return Err(error.into()),
            };
            for mut pack in body.packs {
                if !packs.contains(&pack.pack) {
                    bytes += pack.footer.len();
                    pack.signer = self.word(&pack, signer);
                    joined.packs.push(pack);
                }
            }
            let stay = self.index.marks_of(&object.id).into_iter();
            joined.marks.extend(
                stay.filter(|mark| !marks.contains(&mark.pack))
                    .map(|mark| Mark {
                        pack: mark.pack,
                        marked_at: mark.since,
                    }),
            );
            joined.replaces.push(object.id);
            if bytes >= INDEX_BYTES_MAX {
                self.replace(std::mem::take(&mut joined)).await?;
                bytes = 0;
            }
        }
        self.replace(joined).await
    }

    /// On whose word a pack stands in an index that we write anew: none for our own.
    fn word(&self, pack: &IndexedPack, signer: SignerId) -> Option<SignerId> {
        // A claim that was not believed when the index was loaded is not passed on: the same words
        // must be known from whoever is said to have said them.
        let claimed = pack
            .signer
            .filter(|claimed| self.index.is_said_by(pack, claimed));
        let word = claimed.unwrap_or(signer);
        (word != self.vault.access.signer.id()).then_some(word)
    }

    async fn replace(&mut self, joined: IndexBody) -> Result<(), Error> {
        if joined.replaces.is_empty() {
            return Ok(());
        }
        self.lease.hold(self.vault).await?;
        let old = joined.replaces.clone();
        if !joined.packs.is_empty() || !joined.marks.is_empty() {
            self.put_index(&joined).await?;
        }
        for id in old {
            self.delete(&ObjectPath::Index(id)).await?;
        }
        Ok(())
    }
}
