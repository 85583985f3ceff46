//! Jobs: what people ask for, one file a verb.
//!
//! Only here do sources and the repository meet. A job takes an opened repository and plain
//! requests, and gives an outcome as data; the faces make text, metrics and messages of it.
//! Invariant: a job that fails leaves a repository that reads as before, and says why.

pub mod staging;

pub mod backup;
pub mod diff;
pub mod doctor;
pub mod drill;
pub mod export;
pub mod find;
pub mod freeze;
pub mod history;
pub mod init;
pub mod keys;
pub mod maintain;
pub mod restore;
pub mod rollback;
pub mod stats;
pub mod undelete;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::failure::{AnyFailure, Class, Failure};
use crate::format::keyring::Keyring;
use crate::format::ledger::{Event, Head, SUMMARY_EVERY};
use crate::format::manifest::Manifest;
use crate::id::SourceName;
use crate::random::Random;
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::index::{self, Index, Kept};
use crate::repo::intent::{self, Whoami};
use crate::repo::kept::KeptRuns;
use crate::repo::keys::{Opening, Unlock, check_keyring_seen, open};
use crate::repo::ledger::{self, Appended, Author};
use crate::repo::owed::{Owed, Owing};
use crate::repo::reader::Reader;
use crate::repo::vault::Vault;
use crate::repo::verdict;
use crate::repo::writer::Writer;
use crate::state::State;
use crate::store::{Conditions, Store, StoreOptions};

/// Says on this host that the storage locks what is written.
const LOCK_FILE: &str = "lock-proven";
/// How often an entry is tried again when others add to the same ledger.
const RACES_MAX: usize = 16;

/// What a job tells while it runs.
pub trait Progress: Send + Sync {
    /// A new stage begins: its name, and how many bytes it will handle where that is known.
    fn stage(&self, name: &str, bytes: Option<u64>);
    /// So many more bytes and rows were handled.
    fn advance(&self, bytes: u64, rows: u64);
    /// The stage is over.
    fn end(&self);
    /// A sentence for the person.
    fn warn(&self, sentence: &str);
}

/// Tells nobody anything.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn warn(&self, _: &str) {}
}

/// What it takes to open a repository.
pub struct Context {
    /// Where it is: a path or a URL.
    pub repository: String,
    /// How its storage is used.
    pub store: StoreOptions,
    /// What opens it.
    pub unlock: Unlock,
    /// Where local state of all repositories stands.
    pub state_root: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Who is told.
    pub progress: Arc<dyn Progress>,
}

/// An opened repository, with what this host keeps of it.
pub struct Opened {
    /// The repository.
    pub vault: Arc<Vault>,
    /// Who may write.
    pub keyring: Keyring,
    /// What this host keeps.
    pub state: State,
    /// This process.
    pub whoami: Whoami,
    /// Who is told.
    pub progress: Arc<dyn Progress>,
}

impl Context {
    /// Opens the repository.
    ///
    /// # Errors
    /// The storage's; Denied for a wrong key; Corrupt for a repository that is not the one seen.
    pub async fn open(&self) -> Result<Opened, AnyFailure> {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let store = Store::open(&self.repository, &self.store, clock.clone(), random.clone())?;
        let opening = Opening {
            store,
            clock,
            random,
        };
        let (mut vault, keyring) = open(opening, &self.unlock).await?;
        let state = State::open(&self.state_root, &vault.realm.repository)?;
        check_keyring_seen(&vault, &state, &keyring)?;
        if let Some(verdict) = verdict::kept(&vault, &state)? {
            vault.store = verdict.apply(&vault.store);
        }
        Ok(Opened {
            vault: Arc::new(vault),
            keyring,
            state,
            whoami: Whoami::ask(),
            progress: self.progress.clone(),
        })
    }
}

impl Opened {
    /// What lives in the repository.
    ///
    /// # Errors
    /// Corrupt: a ledger that was altered, forked, rolled back or removed.
    pub async fn catalog(&self) -> Result<Catalog, AnyFailure> {
        Ok(Catalog::load(&self.vault, &self.keyring, &self.state).await?)
    }

    /// Where every chunk lies.
    ///
    /// # Errors
    /// The storage's.
    pub async fn index(&self) -> Result<Arc<Index>, AnyFailure> {
        let index = Index::open(self.indexes(Kept::Counts)).await?;
        for (id, _) in &index.damaged {
            let warning = format!("index {id} is damaged: 'rowvault verify --repair-index'");
            self.progress.warn(&warning);
        }
        Ok(Arc::new(index))
    }

    /// The index, loaded whole, as it is in the storage or with what is kept here of it: for whoever
    /// walks over all places.
    ///
    /// # Errors
    /// As [`Opened::index`].
    pub async fn load_index(&self, kept: Kept) -> Result<Index, AnyFailure> {
        Ok(Index::load(self.indexes(kept)).await?)
    }

    fn indexes(&self, kept: Kept) -> index::Context<'_> {
        index::Context {
            vault: &self.vault,
            keyring: &self.keyring,
            state: &self.state,
            kept,
        }
    }

    /// A reader over all that is indexed.
    ///
    /// # Errors
    /// As [`Opened::index`].
    pub async fn reader(&self) -> Result<Arc<Reader>, AnyFailure> {
        let index = self.index().await?;
        Ok(Arc::new(Reader::new(self.vault.clone(), index)))
    }

    /// A reader for whoever looks records up: descriptions of runs that this host keeps are not
    /// fetched again.
    ///
    /// # Errors
    /// As [`Opened::index`].
    pub async fn record_reader(&self) -> Result<Arc<Reader>, AnyFailure> {
        let index = self.index().await?;
        let reader = Reader::new(self.vault.clone(), index).with_kept(self.kept_runs());
        Ok(Arc::new(reader))
    }

    /// A writer; where rows can be opened, it keeps descriptions of runs on this host.
    ///
    /// # Errors
    /// The writer's.
    pub fn writer(&self, index: Arc<Index>) -> Result<Writer, AnyFailure> {
        let writer = Writer::new(self.vault.clone(), index)?;
        Ok(match self.vault.reader("open rows") {
            Ok(_) => writer.with_kept(self.kept_runs()),
            Err(_) => writer,
        })
    }

    fn kept_runs(&self) -> KeptRuns {
        KeptRuns::new(self.state.clone(), self.vault.random.clone())
    }

    /// A snapshot's manifest, which must be signed by who may write its source.
    ///
    /// # Errors
    /// The storage's; Corrupt where it is damaged, missing, or another snapshot's.
    pub async fn manifest(&self, snapshot: &Snapshot) -> Result<Manifest, AnyFailure> {
        let source = self.vault.source_hash(&snapshot.source);
        let id = snapshot.record.manifest;
        let (signer, manifest) = match self.vault.fetch_manifest(source, id).await {
            Ok(fetched) => fetched,
            Err(error) if error.class() == Class::Missing => {
                return Err(self.without_manifest(snapshot).await?);
            }
            Err(error) => return Err(error.into()),
        };
        let may = self
            .keyring
            .may_write(&signer, &snapshot.source, snapshot.entry);
        if !may || manifest.snapshot != snapshot.record.id || manifest.source != snapshot.source {
            return Err(AnyFailure::new(
                Class::Corrupt,
                format!(
                    "the manifest of snapshot {} of {} is another's",
                    snapshot.record.id.short(),
                    snapshot.source
                ),
                Some("run 'rowvault verify' to see which snapshots are hurt".into()),
            ));
        }
        Ok(manifest)
    }

    /// Why a snapshot has no manifest.
    async fn without_manifest(&self, snapshot: &Snapshot) -> Result<AnyFailure, AnyFailure> {
        let catalog = self.catalog().await?;
        let id = snapshot.record.id;
        let (short, source) = (id.short(), &snapshot.source);
        if catalog.snapshots().iter().all(|one| one.record.id != id) {
            return Ok(AnyFailure::new(
                Class::Missing,
                format!("snapshot {short} of {source} was forgotten meanwhile"),
                Some("'rowvault snapshots' lists what there is".into()),
            ));
        }
        Ok(AnyFailure::new(
            Class::Corrupt,
            format!(
                "snapshot {short} of {source} stands in the ledger, and its manifest is not in the storage"
            ),
            Some("it was removed by other means than rowvault; restore another snapshot".into()),
        ))
    }

    /// Makes sure that it is known what the storage makes of conditional writes, before the first
    /// of them: a storage that was never tried may say yes and overwrite.
    ///
    /// # Errors
    /// The storage's. Where it may not be tried, it is written to as one that keeps none.
    pub async fn know_storage(&self) -> Result<(), AnyFailure> {
        self.prove_lock().await?;
        if self.vault.store.knows_conditions() {
            return Ok(());
        }
        let known = match verdict::kept(&self.vault, &self.state)? {
            Some(verdict) => verdict.conditions(),
            None => match verdict::renew(&self.vault, &self.state).await {
                Ok(verdict) => verdict.conditions(),
                Err(error) if error.class() == Class::Denied => Conditions::LOOKED,
                Err(error) => return Err(error.into()),
            },
        };
        self.vault.store.learn(known);
        Ok(())
    }

    /// Once for each host: what is asked to be locked is locked.
    async fn prove_lock(&self) -> Result<(), AnyFailure> {
        if self.vault.store.lock_span().is_none() || self.state.read(LOCK_FILE)?.is_some() {
            return Ok(());
        }
        self.vault.store.prove_lock().await?;
        let random = self.vault.random.as_ref();
        Ok(self.state.write(LOCK_FILE, b"proven", random)?)
    }

    /// Does `work` while an intent says that this host reads, so that nothing it reads is swept
    /// before it ends. Where no intent can be written, it reads all the same, and says so.
    ///
    /// For what may take long, or waits for another server: restore, verify, export, undelete. Who
    /// looks something up (find, history, diff) does without: a snapshot that lived when it was
    /// looked up keeps its packs for a day at least, since they are marked after it is forgotten.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn reading<T>(
        &self,
        source: &SourceName,
        work: impl Future<Output = Result<T, AnyFailure>>,
    ) -> Result<T, AnyFailure> {
        let announced = match self.know_storage().await {
            Ok(()) => intent::announce_reading(&self.vault, &self.whoami, source)
                .await
                .map_err(AnyFailure::from),
            Err(error) => Err(error),
        };
        let held = match announced {
            Ok(held) => Some(held),
            Err(error) => {
                let warning =
                    format!("do not prune while this runs: no intent was stored: {error}");
                self.progress.warn(&warning);
                None
            }
        };
        let done = work.await;
        if let Some(held) = held
            && let Err(error) = intent::withdraw(&self.vault, held).await
        {
            let warning = format!("an intent could not be taken away: {error}");
            self.progress.warn(&warning);
        }
        done
    }

    /// Adds an entry to the ledger of `source`, behind whatever others add meanwhile.
    ///
    /// # Errors
    /// The storage's; Corrupt for a ledger that cannot be believed.
    pub async fn record(&self, source: &SourceName, event: Event) -> Result<Head, AnyFailure> {
        for _ in 0..RACES_MAX {
            let catalog = self.catalog().await?;
            let head = catalog.sources.get(source).and_then(|source| source.head());
            let appended = self.append(&catalog, source, head, event.clone()).await?;
            if let Appended::Ours(head) = appended {
                return Ok(head);
            }
        }
        Err(AnyFailure::new(
            Class::Busy,
            format!("the ledger of {source} grows faster than an entry can be added"),
            Some("run the command again".into()),
        ))
    }

    /// Gives the ledgers what earlier runs of this host left owing, and says so. It is no failure
    /// that this cannot be done now: it stays owed.
    pub async fn pay_owed(&self) {
        // Where another process has it in hand, nothing was left behind.
        if Owing::is_any(&self.state)
            && let Ok(owing) = Owing::take(&self.state)
        {
            self.pay(&owing).await;
        }
    }

    async fn pay(&self, owing: &Owing) {
        let (left, unreadable) = match owing.left(&self.vault) {
            Ok(left) => left,
            Err(error) => return self.progress.warn(&error.to_string()),
        };
        for name in unreadable {
            let warning =
                format!("what an earlier run left in {name} could not be read: see the ledger");
            self.progress.warn(&warning);
        }
        for owed in left {
            let source = owed.source();
            let warning = match self.pay_one(owing, &owed).await {
                Ok(head) => format!(
                    "an earlier run brought rows back into {source} and ended before its entry: it is entry {} now",
                    head.number
                ),
                Err(error) => format!(
                    "the ledger of {source} still lacks an entry of an earlier run: {error}"
                ),
            };
            self.progress.warn(&warning);
        }
    }

    /// Adds an entry that is owed, and owes it no more.
    ///
    /// # Errors
    /// The storage's; it stays owed.
    pub async fn pay_one(&self, owing: &Owing, owed: &Owed) -> Result<Head, AnyFailure> {
        let head = self.record(owed.source(), owed.event()).await?;
        owing.settle(owed)?;
        Ok(head)
    }

    /// Adds an entry behind `head`, and keeps the new head; a lost race is a value. Where a
    /// summary is due, it goes before.
    ///
    /// # Errors
    /// The storage's.
    pub async fn append(
        &self,
        catalog: &Catalog,
        source: &SourceName,
        head: Option<Head>,
        event: Event,
    ) -> Result<Appended, AnyFailure> {
        self.know_storage().await?;
        let due = head.is_some_and(|head| (head.number + 1).is_multiple_of(SUMMARY_EVERY));
        let mut head = head;
        if due && let Some(living) = catalog.sources.get(source) {
            let summary = Event::Summary(living.summary());
            match self.append_one(catalog, source, head, summary).await? {
                Appended::Ours(summed) => head = Some(summed),
                Appended::Lost => return Ok(Appended::Lost),
            }
        }
        self.append_one(catalog, source, head, event).await
    }

    async fn append_one(
        &self,
        catalog: &Catalog,
        source: &SourceName,
        head: Option<Head>,
        event: Event,
    ) -> Result<Appended, AnyFailure> {
        let author = Author {
            source,
            host: &self.whoami.host,
            heads: &catalog.heads,
        };
        let appended = ledger::append(&self.vault, &author, head, event).await?;
        if let Appended::Ours(head) = &appended {
            let heads = [(self.vault.source_hash(source), *head)].into();
            ledger::save_heads(&self.vault, &self.state, &heads)?;
        }
        Ok(appended)
    }
}
