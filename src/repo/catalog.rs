//! What lives in a repository: its sources and their snapshots, told from the ledgers.
//!
//! A ledger is folded entry by entry into the living snapshots. Invariant: a source that any
//! known head names and the storage's listing leaves out is an error, never an empty source.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Timestamp;
use crate::failure::{Class, Failure};
use crate::format::keyring::Keyring;
use crate::format::ledger::{Entry, Event, Head, Reason, SnapshotRecord, Summary, Treated};
use crate::id::{SnapshotId, SourceHash, SourceName, hex};
use crate::repo::ledger::{self, Chain, Heads, Linked, merge_heads};
use crate::repo::vault::Vault;
use crate::state::State;
use crate::store::ObjectPath;

/// Why a snapshot could not be named, or the catalog not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// A source whose head is known is not in the storage.
    #[error(
        "the ledger of source {source_name} is not in the storage, though its entry {number} was seen"
    )]
    SourceMissing {
        /// The source, by name where it is known, else by hash.
        source_name: String,
        /// The entry that was seen.
        number: u64,
    },
    /// No snapshot or source by that name.
    #[error("{what}")]
    Unknown {
        /// What was looked for, in a sentence.
        what: String,
        /// What there is.
        hint: String,
    },
    /// More than one snapshot fits.
    #[error("{text:?} fits {count} snapshots")]
    Ambiguous {
        /// What was given.
        text: String,
        /// How many fit.
        count: usize,
    },
    /// No day and no time.
    #[error("{text:?} is no day and no time with a zone")]
    When {
        /// What was given.
        text: String,
    },
    /// More than one table has that name.
    #[error("{text:?} is the name of several tables")]
    AmbiguousTable {
        /// What was given.
        text: String,
        /// The tables, with their schemas.
        tables: Vec<String>,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Ledger(error) => error.class(),
            Error::SourceMissing { .. } => Class::Corrupt,
            Error::Unknown { .. } => Class::Missing,
            Error::Ambiguous { .. } | Error::AmbiguousTable { .. } | Error::When { .. } => {
                Class::Invalid
            }
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Ledger(error) => error.hint(),
            Error::SourceMissing { .. } => {
                Some("somebody removed it, or the listing is wrong; once you know why: 'rowvault ledger SOURCE --accept-head HASH', or --accept-head none where nothing is left of it".into())
            }
            Error::Unknown { hint, .. } => Some(hint.clone()),
            Error::Ambiguous { .. } => Some("give more of the id, or SOURCE@latest".into()),
            Error::When { .. } => Some("write 2026-11-20 or 2026-11-20T10:00:00+01:00".into()),
            Error::AmbiguousTable { tables, .. } => Some(format!("say {}", tables.join(" or "))),
        }
    }
}

/// A living snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its source.
    pub source: SourceName,
    /// What the ledger says of it.
    pub record: SnapshotRecord,
    /// The entry that holds it.
    pub entry: u64,
    /// When it was last found whole.
    pub verified_at: Option<Timestamp>,
    /// Pins in force, with their reasons.
    pub pins: Vec<Treated>,
}

/// A source in the repository.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// Its name in paths.
    pub hash: SourceHash,
    /// Its ledger.
    pub chain: Chain,
    /// Living snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Why it is frozen, if it is.
    pub frozen: Option<String>,
}

/// The sources of a repository.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// By name.
    pub sources: BTreeMap<SourceName, Source>,
    /// Heads of all sources, as they are now.
    pub heads: Heads,
}

impl Catalog {
    /// Reads all ledgers, checks them against the heads that this client keeps, and keeps the new
    /// heads.
    ///
    /// # Errors
    /// Corrupt: a ledger that was altered, forked, rolled back or removed.
    pub async fn load(vault: &Vault, keyring: &Keyring, state: &State) -> Result<Catalog, Error> {
        let known = ledger::load_heads(vault, state)?;
        let context = ledger::Context {
            vault,
            keyring,
            state,
        };
        let catalog = Catalog::read(context, &known).await?;
        ledger::save_heads(vault, state, &catalog.heads)?;
        Ok(catalog)
    }

    /// Lets this client believe the ledger of `source` again as it is now, with `head` at its end,
    /// whatever was seen of it before or stands in entries of other ledgers.
    ///
    /// # Errors
    /// The storage's, the state directory's.
    pub async fn accept(
        context: ledger::Context<'_>,
        source: SourceHash,
        head: Option<Head>,
    ) -> Result<(), Error> {
        let known = ledger::load_heads(context.vault, context.state)?;
        let mut seen = known.get(&source).map_or(0, |head| head.number);
        for (hash, paths) in &ledger::all_sources(context.vault).await? {
            let chain = match ledger::read(context, *hash, paths, None).await {
                Ok(chain) => chain,
                // It is refused by itself, until a person looks at it too.
                Err(error) if error.class() == Class::Corrupt => continue,
                Err(error) => return Err(error.into()),
            };
            let heads = chain.entries.iter().flat_map(|link| &link.entry.heads);
            let heads = heads.filter(|(of, _)| *of == source);
            let heads = heads.map(|(_, head)| head.number);
            seen = heads.fold(seen, u64::max);
        }
        let (vault, state) = (context.vault, context.state);
        Ok(ledger::accept_head(vault, state, source, head, seen)?)
    }

    async fn read(context: ledger::Context<'_>, known: &Heads) -> Result<Catalog, Error> {
        let waived = ledger::load_waived(context.vault, context.state)?;
        let listed = ledger::sources(context.vault, known).await?;
        let mut expected = known.clone();
        let mut catalog = Catalog::default();
        let mut names: HashMap<SourceHash, SourceName> = HashMap::new();
        for (hash, paths) in &listed {
            let seen = known.get(hash).copied();
            let chain = ledger::read(context, *hash, paths, seen).await?;
            let Some(head) = chain.head() else { continue };
            for link in &chain.entries {
                let heads = link.entry.heads.iter();
                let heads = heads.filter(|(hash, head)| {
                    let upto = waived.get(hash);
                    upto.is_none_or(|upto| head.number > *upto)
                });
                merge_heads(&mut expected, heads.copied());
            }
            let source = fold(*hash, chain);
            names.insert(*hash, source.name.clone());
            catalog.heads.insert(*hash, head);
            catalog.sources.insert(source.name.clone(), source);
        }
        for (hash, head) in &expected {
            let there = catalog.heads.get(hash).map_or(0, |head| head.number);
            if there < head.number {
                let name = names.get(hash).map(ToString::to_string);
                return Err(Error::SourceMissing {
                    source_name: name.unwrap_or_else(|| hash.to_string()),
                    number: head.number,
                });
            }
        }
        Ok(catalog)
    }

    /// All living snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<&Snapshot> {
        let mut all: Vec<&Snapshot> = self
            .sources
            .values()
            .flat_map(|source| &source.snapshots)
            .collect();
        all.sort_by_key(|snapshot| snapshot.record.taken_at);
        all
    }

    /// The source of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn source(&self, name: &SourceName) -> Result<&Source, Error> {
        self.sources.get(name).ok_or_else(|| {
            let all: Vec<&str> = self.sources.keys().map(SourceName::as_str).collect();
            Error::Unknown {
                what: format!("the repository has no source {name}"),
                hint: match all.is_empty() {
                    true => "it has no snapshot yet".into(),
                    false => format!("it has {}", all.join(", ")),
                },
            }
        })
    }

    /// The snapshot with this id or unique prefix of 6 digits or more.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Ambiguous`].
    pub fn by_prefix(&self, text: &str) -> Result<&Snapshot, Error> {
        let prefix = text.to_ascii_lowercase();
        let digits = prefix.len() >= 6 && prefix.bytes().all(|c| c.is_ascii_hexdigit());
        let fits: Vec<&Snapshot> = match digits {
            false => Vec::new(),
            true => self
                .snapshots()
                .into_iter()
                .filter(|snapshot| hex(&snapshot.record.id.0).starts_with(&prefix))
                .collect(),
        };
        match fits.as_slice() {
            [] => Err(Error::Unknown {
                what: format!("there is no snapshot {text:?}"),
                hint: "give an id or at least 6 digits of it, SOURCE@latest, SOURCE@2026-11-20, or latest; 'rowvault snapshots' lists them".into(),
            }),
            [one] => Ok(one),
            many => Err(Error::Ambiguous {
                text: text.to_owned(),
                count: many.len(),
            }),
        }
    }

    /// The newest snapshot of `source` taken at or before `until`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn at(&self, source: &SourceName, until: Option<Timestamp>) -> Result<&Snapshot, Error> {
        let snapshots = &self.source(source)?.snapshots;
        let fits =
            |snapshot: &&Snapshot| until.is_none_or(|until| snapshot.record.taken_at <= until);
        snapshots.iter().rev().find(fits).ok_or_else(|| {
            let first = snapshots.first().map(|first| first.record.taken_at);
            Error::Unknown {
                what: match until {
                    Some(until) => {
                        format!(
                            "source {source} has no snapshot at or before {}",
                            until.rfc3339()
                        )
                    }
                    None => format!("source {source} has no snapshot"),
                },
                hint: match first {
                    Some(first) => format!("its oldest is of {}", first.rfc3339()),
                    None => "all of them were forgotten".into(),
                },
            }
        })
    }

    /// The newest snapshot, where there is exactly one source.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Ambiguous`].
    pub fn latest(&self) -> Result<&Snapshot, Error> {
        let mut names = self.sources.keys();
        match (names.next(), names.next()) {
            (Some(name), None) => self.at(name, None),
            (None, _) => Err(Error::Unknown {
                what: "the repository has no snapshot".into(),
                hint: "take one: 'rowvault backup SOURCE'".into(),
            }),
            _ => Err(Error::Unknown {
                what: "latest of which source? The repository has several".into(),
                hint: "say SOURCE@latest".into(),
            }),
        }
    }
}

/// The snapshots that live, in the order of their coming, and where each stands: a history of years
/// must not be searched for each entry.
#[derive(Default)]
struct Living {
    all: Vec<Option<Snapshot>>,
    at: HashMap<SnapshotId, usize>,
}

impl Living {
    fn get(&mut self, id: &SnapshotId) -> Option<&mut Snapshot> {
        let at = *self.at.get(id)?;
        self.all[at].as_mut()
    }

    fn remove(&mut self, id: &SnapshotId) -> Option<Snapshot> {
        let at = self.at.remove(id)?;
        self.all[at].take()
    }

    /// Adds a snapshot behind all others; what was known of it stays, but for its pins.
    fn add(&mut self, entry: &Entry, record: &SnapshotRecord) {
        let verified_at = self.remove(&record.id).and_then(|old| old.verified_at);
        self.at.insert(record.id, self.all.len());
        self.all.push(Some(Snapshot {
            source: entry.source.clone(),
            record: record.clone(),
            entry: entry.number,
            verified_at,
            pins: Vec::new(),
        }));
    }

    /// Takes over all that an entry says to live, and nothing else.
    fn replace(&mut self, entry: &Entry, summary: &Summary) {
        let mut old = std::mem::take(self);
        for record in &summary.snapshots {
            self.add(entry, record);
        }
        for snapshot in self.all.iter_mut().flatten() {
            let id = snapshot.record.id;
            let verified_at = summary.verified_at.get(&id.to_string()).copied();
            let before = || old.get(&id).and_then(|old| old.verified_at);
            snapshot.verified_at = verified_at.or_else(before);
        }
        for pin in &summary.pins {
            if let Some(snapshot) = self.get(&pin.snapshot) {
                snapshot.pins.push(pin.clone());
            }
        }
    }
}

fn fold(hash: SourceHash, chain: Chain) -> Source {
    let mut living = Living::default();
    let mut frozen = None;
    let mut name = None;
    for link in &chain.entries {
        name.get_or_insert_with(|| link.entry.source.clone());
        if link.counts {
            apply(link, &mut living, &mut frozen);
        }
    }
    let mut snapshots: Vec<Snapshot> = living.all.into_iter().flatten().collect();
    snapshots.sort_by_key(|snapshot| (snapshot.record.taken_at, snapshot.entry));
    Source {
        name: name.expect("a chain with a head has an entry"),
        hash,
        chain,
        snapshots,
        frozen,
    }
}

fn apply(link: &Linked, living: &mut Living, frozen: &mut Option<String>) {
    let entry = &link.entry;
    match &entry.event {
        // An id is given once; only who may forget puts another manifest in its place.
        Event::Snapshot(record)
            if record.replaces.is_none() && living.get(&record.id).is_some() => {}
        Event::Snapshot(record) => living.add(entry, record),
        Event::Forgotten(forgotten) => {
            for id in &forgotten.snapshots {
                living.remove(id);
            }
        }
        // Looking whether objects are there proves nothing about what they hold.
        Event::Verified(verified) if verified.data_percent > 0 => {
            for id in &verified.snapshots {
                if let Some(snapshot) = living.get(id) {
                    snapshot.verified_at = Some(entry.time);
                }
            }
        }
        Event::Pinned(pin) => {
            if let Some(snapshot) = living.get(&pin.snapshot) {
                snapshot.pins.push(pin.clone());
            }
        }
        Event::Unpinned(pin) => {
            if let Some(snapshot) = living.get(&pin.snapshot) {
                snapshot.pins.clear();
            }
        }
        Event::Tagged(tag) => {
            if let Some(snapshot) = living.get(&tag.snapshot) {
                snapshot.record.tags.push(tag.text.clone());
            }
        }
        Event::Frozen(reason) => *frozen = Some(reason.text.clone()),
        Event::Thawed(_) => *frozen = None,
        Event::Summary(summary) => {
            living.replace(entry, summary);
            *frozen = summary.frozen.as_ref().map(|reason| reason.text.clone());
        }
        _ => {}
    }
}

impl Source {
    /// The head of its ledger.
    pub fn head(&self) -> Option<Head> {
        self.chain.head()
    }

    /// All that lives, as one entry tells it.
    pub fn summary(&self) -> Summary {
        let verified = self.snapshots.iter().filter_map(|snapshot| {
            let verified_at = snapshot.verified_at?;
            Some((snapshot.record.id.to_string(), verified_at))
        });
        let pins = self
            .snapshots
            .iter()
            .flat_map(|snapshot| snapshot.pins.clone());
        let records = self
            .snapshots
            .iter()
            .map(|snapshot| snapshot.record.clone());
        Summary {
            snapshots: records.collect(),
            verified_at: verified.collect(),
            pins: pins.collect(),
            frozen: self.frozen.clone().map(|text| Reason { text }),
        }
    }

    /// Where a manifest of this source stands.
    pub fn manifest_path(&self, snapshot: &Snapshot) -> ObjectPath {
        ObjectPath::Manifest(self.hash, snapshot.record.manifest)
    }
}
