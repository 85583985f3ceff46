//! Ledgers: read whole and checked, and added to at the end.
//!
//! A chain is believed when every entry names the hash of the one before, and when it holds the
//! head that this client saw last. Invariant: an older or forked ledger is refused until a person
//! accepts it; an entry by somebody who may not write it stays in the chain and counts for nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::failure::{Class, Failure};
use crate::format::keyring::Keyring;
use crate::format::ledger::{Entry, Event, Head, SUMMARY_EVERY};
use crate::format::object::{Kind, read_body, write_body};
use crate::id::{ObjectId, SignerId, SourceHash, SourceName, Ulid};
use crate::planted;
use crate::repo::vault::{self, Vault, object_id};
use crate::state::{self, State};
use crate::store::{self, Created, ObjectPath, Prefix};

/// How many entries are fetched at once.
const FETCHES_AT_ONCE: usize = 16;
const HEADS_FILE: &str = "heads";
const WAIVED_FILE: &str = "heads-waived";

/// Why a ledger cannot be believed or added to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or an object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The local state.
    #[error(transparent)]
    State(#[from] state::Error),
    /// An entry between others is not there.
    #[error("entry {number} of the ledger of {source_name} is missing")]
    Gap {
        /// The source.
        source_name: String,
        /// The entry.
        number: u64,
    },
    /// An entry does not name the one before it.
    #[error(
        "entry {number} of the ledger of {source_name} does not follow the one before it: the ledger was altered or forked"
    )]
    Broken {
        /// The source.
        source_name: String,
        /// The entry.
        number: u64,
    },
    /// The ledger ends before the head that was seen, or has another entry in its place.
    #[error(
        "the ledger of {source_name} is older than what was seen before: entry {number} with hash {hash} is not in it"
    )]
    RolledBack {
        /// The source.
        source_name: String,
        /// The entry that was seen.
        number: u64,
        /// Its hash.
        hash: ObjectId,
    },
    /// An entry stands in the ledger of another source.
    #[error("entry {number} of the ledger of {source_name} belongs to another source")]
    Misplaced {
        /// The source.
        source_name: String,
        /// The entry.
        number: u64,
    },
    /// Our heads cannot be read.
    #[error("the heads kept in {path} are damaged")]
    Heads {
        /// The file.
        path: String,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::State(error) => error.class(),
            _ => Class::Corrupt,
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::Vault(error) => error.hint(),
            Error::State(error) => error.hint(),
            Error::Heads { path } => Some(format!(
                "remove {path} to trust the repository as it is now"
            )),
            _ => Some("compare heads with another client or a log; 'rowvault ledger SOURCE --accept-head HASH' goes on from that head".into()),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

/// An entry, as it stands in its chain.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The entry.
    pub entry: Entry,
    /// BLAKE3 of its stored bytes.
    pub hash: ObjectId,
    /// Who signed it.
    pub signer: SignerId,
    /// Whether the keyring lets it count.
    pub counts: bool,
}

/// The ledger of one source, oldest entry first.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Its entries; the first is entry 1 or a summary.
    pub entries: Vec<Linked>,
}

impl Chain {
    /// The last entry.
    pub fn head(&self) -> Option<Head> {
        self.entries.last().map(|last| Head {
            number: last.entry.number,
            hash: last.hash,
        })
    }
}

/// The heads that this client saw, by source.
pub type Heads = BTreeMap<SourceHash, Head>;

/// Reads the heads that this client keeps.
///
/// # Errors
/// [`Error::Heads`] where they are damaged: a person must decide.
pub fn load_heads(vault: &Vault, state: &State) -> Result<Heads, Error> {
    let Some(bytes) = state.read(HEADS_FILE)? else {
        return Ok(Heads::new());
    };
    let damaged = || Error::Heads {
        path: state.path(HEADS_FILE).display().to_string(),
    };
    let (_, body) = vault
        .open(Kind::State, HEADS_FILE, &bytes)
        .map_err(|_| damaged())?;
    let heads: Vec<(SourceHash, Head)> = read_body(&body, "heads").map_err(|_| damaged())?;
    Ok(heads.into_iter().collect())
}

/// Keeps heads, and those kept before that are further on.
///
/// # Errors
/// The state directory's.
pub fn save_heads(vault: &Vault, state: &State, heads: &Heads) -> Result<(), Error> {
    if planted::is("head not kept") {
        return Ok(());
    }
    let mut kept = load_heads(vault, state)?;
    merge_heads(
        &mut kept,
        heads.iter().map(|(source, head)| (*source, *head)),
    );
    replace_heads(vault, state, &kept)
}

fn replace_heads(vault: &Vault, state: &State, heads: &Heads) -> Result<(), Error> {
    let body: Vec<(SourceHash, Head)> = heads.iter().map(|(k, v)| (*k, *v)).collect();
    let sealed = vault.seal(Kind::State, HEADS_FILE, &write_body(&body));
    Ok(state.write(HEADS_FILE, &sealed, vault.random.as_ref())?)
}

/// Takes over from `more` what is further on.
pub fn merge_heads(heads: &mut Heads, more: impl IntoIterator<Item = (SourceHash, Head)>) {
    for (source, head) in more {
        let known = heads.entry(source).or_insert(head);
        if head.number > known.number {
            *known = head;
        }
    }
}

/// Up to which entry a source may lack what entries of other ledgers say it has, because a person
/// accepted an earlier head.
pub type Waived = BTreeMap<SourceHash, u64>;

/// What this client's people waived. What cannot be read waives nothing.
///
/// # Errors
/// The state directory's.
pub fn load_waived(vault: &Vault, state: &State) -> Result<Waived, Error> {
    let Some(bytes) = state.read(WAIVED_FILE)? else {
        return Ok(Waived::new());
    };
    let opened = vault.open(Kind::State, WAIVED_FILE, &bytes).ok();
    let waived: Option<Vec<(SourceHash, u64)>> =
        opened.and_then(|(_, body)| read_body(&body, WAIVED_FILE).ok());
    Ok(waived.unwrap_or_default().into_iter().collect())
}

/// Makes this client believe `head` of `source` again, whatever it saw before, and whatever entries
/// of other ledgers say of its entries up to `waived`.
///
/// # Errors
/// The state directory's.
pub fn accept_head(
    vault: &Vault,
    state: &State,
    source: SourceHash,
    head: Option<Head>,
    waived: u64,
) -> Result<(), Error> {
    let mut all = load_waived(vault, state)?;
    let known = all.entry(source).or_default();
    *known = waived.max(*known);
    // Entries that were fetched once are kept; others will stand in the places of those let go.
    let folder = format!("ledger/{source}");
    for name in state.names(&folder)? {
        state.remove(&format!("{folder}/{name}"))?;
    }
    let body: Vec<(SourceHash, u64)> = all.into_iter().collect();
    let sealed = vault.seal(Kind::State, WAIVED_FILE, &write_body(&body));
    state.write(WAIVED_FILE, &sealed, vault.random.as_ref())?;
    let mut heads = load_heads(vault, state)?;
    match head {
        Some(head) => heads.insert(source, head),
        None => heads.remove(&source),
    };
    replace_heads(vault, state, &heads)
}

fn place(source: &SourceHash, number: u64) -> String {
    ObjectPath::Ledger(*source, number, None).to_path()
}

/// The sources that have a ledger in the storage, with the entries that whoever saw `known` may
/// need: all, or for a long ledger those from the last summary on that was seen.
///
/// # Errors
/// The storage's.
pub async fn sources(
    vault: &Vault,
    known: &Heads,
) -> Result<BTreeMap<SourceHash, Vec<ObjectPath>>, Error> {
    // As many as one page of a listing has.
    if known.values().map(|head| head.number).sum::<u64>() < SUMMARY_EVERY {
        return all_sources(vault).await;
    }
    let mut sources = BTreeMap::new();
    for folder in vault.store.folders(Prefix::Ledgers).await? {
        let Ok(source) = folder.parse::<SourceHash>() else {
            continue;
        };
        let seen = known.get(&source).map_or(0, |head| head.number);
        let summary = seen / SUMMARY_EVERY * SUMMARY_EVERY;
        let after = ObjectPath::Ledger(source, summary.saturating_sub(1), None);
        let listing = vault
            .store
            .list_after(Prefix::Ledger(source), &after)
            .await?;
        let entries = listing.objects.into_iter().map(|listed| listed.path);
        sources.insert(source, entries.collect());
    }
    Ok(sources)
}

/// The sources that have a ledger in the storage, with all their entries.
///
/// # Errors
/// The storage's.
pub async fn all_sources(vault: &Vault) -> Result<BTreeMap<SourceHash, Vec<ObjectPath>>, Error> {
    let listing = vault.store.list(Prefix::Ledgers).await?;
    let mut sources: BTreeMap<SourceHash, Vec<ObjectPath>> = BTreeMap::new();
    for listed in listing.objects {
        if let ObjectPath::Ledger(source, ..) = listed.path {
            sources.entry(source).or_default().push(listed.path);
        }
    }
    Ok(sources)
}

/// Lists the entries of one source.
///
/// # Errors
/// The storage's.
pub async fn list(vault: &Vault, source: SourceHash) -> Result<Vec<ObjectPath>, Error> {
    let listing = vault.store.list(Prefix::Ledger(source)).await?;
    Ok(listing
        .objects
        .into_iter()
        .map(|listed| listed.path)
        .collect())
}

/// Who reads ledgers: the repository, who may write in it, and what this host keeps.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The repository.
    pub vault: &'a Vault,
    /// Whose entries count.
    pub keyring: &'a Keyring,
    /// Entries never change, so those that were fetched once are kept here.
    pub state: &'a State,
}

/// Gives the entries at `paths` from the last summary that counts on, fetched where this host has not got
/// them, and checks the chain, and that it holds `seen`. Of `paths` the oldest may be left out, where
/// they are before the last summary that was seen.
///
/// # Errors
/// Corrupt: a gap, a fork, an entry that was altered, a ledger older than `seen`.
pub async fn read(
    context: Context<'_>,
    source: SourceHash,
    paths: &[ObjectPath],
    seen: Option<Head>,
) -> Result<Chain, Error> {
    let number = |path: &ObjectPath| match path {
        ObjectPath::Ledger(_, number, _) => *number,
        _ => 0,
    };
    let last = paths.iter().map(number).max().unwrap_or(0);
    let mut summary = (last / SUMMARY_EVERY * SUMMARY_EVERY).max(1);
    let mut paths = Cow::Borrowed(paths);
    let (linked, name) = loop {
        let start = seen.map_or(summary, |seen| summary.min(seen.number.max(1)));
        let wanted = paths.iter().filter(|path| number(path) >= start).cloned();
        let linked: Vec<Linked> = stream::iter(wanted)
            .map(|path| fetch(context, source, path))
            .buffered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        let name = match linked.first() {
            Some(first) => first.entry.source.to_string(),
            None => source.to_string(),
        };
        check_links(&linked, start, &name)?;
        if start == 1 || is_summed(&linked, summary) {
            break (linked, name);
        }
        summary = summary.saturating_sub(SUMMARY_EVERY).max(1);
        if let Cow::Borrowed(_) = paths {
            paths = Cow::Owned(list(context.vault, source).await?);
        }
    };
    if let Some(seen) = seen {
        let there = linked
            .iter()
            .any(|link| link.entry.number == seen.number && link.hash == seen.hash);
        if !there {
            return Err(Error::RolledBack {
                source_name: name,
                number: seen.number,
                hash: seen.hash,
            });
        }
    }
    if let Some(first) = linked.first() {
        let_go(context.state, source, first.entry.number);
    }
    Ok(Chain { entries: linked })
}

/// Keeps no entries on this host that came long before `first`: who wants them fetches them again.
fn let_go(state: &State, source: SourceHash, first: u64) {
    let folder = format!("ledger/{source}");
    // A cache that cannot be cleared is only too large.
    let kept = state.names(&folder).unwrap_or_default();
    if (kept.len() as u64) < 2 * SUMMARY_EVERY {
        return;
    }
    for name in kept {
        let file = format!("{folder}/{name}");
        let passed = match ObjectPath::parse(&file) {
            Some(ObjectPath::Ledger(_, number, _)) => number < first,
            _ => false,
        };
        if passed {
            let _ = state.remove(&file);
        }
    }
}

/// Whether entry `number` is a summary that counts: one that does not could leave snapshots out.
fn is_summed(linked: &[Linked], number: u64) -> bool {
    linked.iter().any(|link| {
        let is_summary = matches!(link.entry.event, Event::Summary(_));
        link.entry.number == number && is_summary && link.counts
    })
}

fn check_links(linked: &[Linked], start: u64, name: &str) -> Result<(), Error> {
    let mut before: Option<ObjectId> = None;
    for (expected, link) in (start..).zip(linked) {
        let number = link.entry.number;
        let source_name = name.to_owned();
        if number > expected {
            return Err(Error::Gap {
                source_name,
                number: expected,
            });
        }
        let follows = before.is_none_or(|hash| link.entry.previous == Some(hash));
        if number < expected || !follows {
            return Err(Error::Broken {
                source_name,
                number,
            });
        }
        before = Some(link.hash);
    }
    Ok(())
}

async fn fetch(
    context: Context<'_>,
    source: SourceHash,
    path: ObjectPath,
) -> Result<Linked, Error> {
    let kept = path.to_path();
    // A kept entry that does not open is fetched again: local state is only a cache.
    if let Some(bytes) = context.state.read(&kept)?
        && let Ok(linked) = link(context, source, path.clone(), &bytes)
    {
        return Ok(linked);
    }
    let bytes = context.vault.store.get(&path).await?;
    let linked = link(context, source, path, &bytes)?;
    let random = context.vault.random.as_ref();
    context.state.write(&kept, &bytes, random)?;
    Ok(linked)
}

fn link(
    context: Context<'_>,
    source: SourceHash,
    path: ObjectPath,
    bytes: &[u8],
) -> Result<Linked, Error> {
    let number = match path {
        ObjectPath::Ledger(_, number, _) => number,
        _ => 0,
    };
    let Context { vault, keyring, .. } = context;
    let (signer, body) = vault
        .open(Kind::Ledger, &place(&source, number), bytes)
        .map_err(|source| vault::Error::object(&path, source))?;
    let entry = Entry::read(&body).map_err(|source| vault::Error::body(&path, source))?;
    if entry.number != number || vault.source_hash(&entry.source) != source {
        return Err(Error::Misplaced {
            source_name: entry.source.to_string(),
            number,
        });
    }
    let counts = if entry.event.takes_away() {
        keyring.may_forget(&signer, &entry.source, number)
    } else {
        keyring.may_write(&signer, &entry.source, number)
    };
    Ok(Linked {
        hash: object_id(bytes),
        entry,
        signer,
        counts,
    })
}

/// What adding an entry came to.
#[derive(Clone, Debug)]
pub enum Appended {
    /// It is the head now.
    Ours(Head),
    /// Another entry has its number: read the ledger again.
    Lost,
}

/// Who writes an entry, and what it knows.
pub struct Author<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// The writer's host.
    pub host: &'a str,
    /// The heads of all sources that it knows.
    pub heads: &'a Heads,
}

/// Adds `event` behind `head`; a lost race is a value.
///
/// # Errors
/// The storage's; Unsettled where it may have been added.
pub async fn append(
    vault: &Vault,
    author: &Author<'_>,
    head: Option<Head>,
    event: Event,
) -> Result<Appended, Error> {
    let number = head.map_or(1, |head| head.number + 1);
    let now = vault.clock.now();
    let entry = Entry {
        number,
        previous: head.map(|head| head.hash),
        source: author.source.clone(),
        token: Ulid::draw(now, vault.random.as_ref()),
        time: now,
        host: author.host.to_owned(),
        heads: author.heads.iter().map(|(k, v)| (*k, *v)).collect(),
        event,
    };
    let source = vault.source_hash(author.source);
    let sealed = vault.seal(Kind::Ledger, &place(&source, number), &entry.write());
    let head = Head {
        number,
        hash: object_id(&sealed),
    };
    let path = ObjectPath::Ledger(source, number, None);
    let token = Vault::token(&sealed).to_vec();
    let length = sealed.len() as u64;
    match vault.store.create(&path, sealed, &token).await? {
        Created::Ours => {
            vault.check_kept(&path, length).await?;
            Ok(Appended::Ours(head))
        }
        Created::Anothers(_) => Ok(Appended::Lost),
    }
}
