//! `ledger` and `thaw`: what happened, and that a person has looked.
//!
//! Invariant: an older or forked ledger is believed again only by `--accept-head`, with the hash
//! that a person compared.

use clap::Args;
use serde::Serialize;

use crate::cli::render::{self, Side};
use crate::cli::session::Session;
use crate::document::{EntryDocument, HeadDocument, detail};
use crate::failure::{AnyFailure, Class};
use crate::id::{ObjectId, SourceName};
use crate::job::{Opened, freeze};
use crate::repo::catalog::{Catalog, Source};
use crate::repo::ledger::{self, Linked};

/// How many entries `ledger` prints for people.
const ENTRIES_SHOWN: usize = 40;

/// Arguments of `ledger`.
#[derive(Args, Clone, Debug)]
pub struct Ledger {
    /// Only the ledger of this source
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// Only check the chains, and print the heads
    #[arg(long)]
    pub verify: bool,
    /// Go on from this head, though another was seen before; none: the ledger is gone
    #[arg(
        long,
        value_name = "HASH",
        requires = "source",
        conflicts_with = "verify",
        value_parser = accepted
    )]
    pub accept_head: Option<Accepted>,
}

/// What a person accepts as the end of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The entry with this hash.
    Head(ObjectId),
    /// That nothing is left of it.
    Nothing,
}

fn accepted(text: &str) -> Result<Accepted, String> {
    if text == "none" {
        return Ok(Accepted::Nothing);
    }
    let hash = text.parse().map(Accepted::Head);
    hash.map_err(|_| "give the 64 digits of the hash, or none".into())
}

#[derive(Serialize)]
struct LedgerDocument {
    ok: bool,
    heads: Vec<HeadDocument>,
    entries: Vec<EntryDocument>,
}

/// Runs `ledger`.
///
/// # Errors
/// Corrupt: a chain that was altered, forked or rolled back; Missing: no such source.
pub async fn ledger(session: &Session, arguments: &Ledger) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    if let (Some(name), Some(hash)) = (&arguments.source, arguments.accept_head) {
        accept(&opened, name, hash).await?;
        if hash == Accepted::Nothing {
            opened.catalog().await?;
            return Ok(0);
        }
    }
    let catalog = opened.catalog().await?;
    let sources = chosen(&catalog, arguments.source.as_ref())?;
    if session.output.is_json() {
        session
            .output
            .document(&document(&sources, arguments.verify))?;
        return Ok(0);
    }
    if !arguments.verify && !sources.is_empty() {
        session.output.text(&entries_text(&sources))?;
    }
    let mut text = String::new();
    for head in heads(&sources) {
        let (source, number, hash) = (head.source, head.number, head.hash);
        text.push_str(&format!(
            "{source}: whole up to entry {number}\n  head {hash}\n"
        ));
    }
    if text.is_empty() {
        text.push_str("no ledger yet: nothing was backed up\n");
    }
    session.output.text(&text)?;
    Ok(0)
}

fn chosen<'a>(
    catalog: &'a Catalog,
    name: Option<&SourceName>,
) -> Result<Vec<&'a Source>, AnyFailure> {
    Ok(match name {
        Some(name) => vec![catalog.source(name)?],
        None => catalog.sources.values().collect(),
    })
}

fn heads(sources: &[&Source]) -> Vec<HeadDocument> {
    let heads = sources.iter().filter_map(|source| HeadDocument::of(source));
    heads.collect()
}

fn document(sources: &[&Source], heads_alone: bool) -> LedgerDocument {
    let entries = sources.iter().flat_map(|source| &source.chain.entries);
    LedgerDocument {
        ok: true,
        heads: heads(sources),
        entries: match heads_alone {
            true => Vec::new(),
            false => entries.map(EntryDocument::new).collect(),
        },
    }
}

fn entries_text(sources: &[&Source]) -> String {
    let columns = [
        ("source", Side::Left),
        ("no", Side::Right),
        ("time (UTC)", Side::Left),
        ("event", Side::Left),
        ("detail", Side::Left),
        ("host", Side::Left),
    ];
    let mut links: Vec<&Linked> = sources
        .iter()
        .flat_map(|source| &source.chain.entries)
        .collect();
    links.sort_by_key(|link| link.entry.time);
    let left_out = links.len().saturating_sub(ENTRIES_SHOWN);
    let row = |link: &&Linked| {
        let entry = &link.entry;
        let mut event = entry.event.kind().replace('_', " ");
        if !link.counts {
            event.push_str(" (does not count)");
        }
        vec![
            entry.source.to_string(),
            entry.number.to_string(),
            render::time(entry.time),
            event,
            detail(&entry.event),
            entry.host.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = links[left_out..].iter().map(row).collect();
    let mut text = render::table(&columns, &rows);
    if left_out > 0 {
        let left_out = render::count(left_out as u64);
        text.push_str(&format!("({left_out} before these; --json prints all)\n"));
    }
    text.push('\n');
    text
}

/// Believes the ledger again as it ends now, whatever was seen before.
async fn accept(opened: &Opened, name: &SourceName, wanted: Accepted) -> Result<(), AnyFailure> {
    let source = opened.vault.source_hash(name);
    let paths = ledger::list(&opened.vault, source).await?;
    let context = ledger::Context {
        vault: &opened.vault,
        keyring: &opened.keyring,
        state: &opened.state,
    };
    let head = ledger::read(context, source, &paths, None).await?.head();
    let found = head.map_or(Accepted::Nothing, |head| Accepted::Head(head.hash));
    if found != wanted {
        let what = match wanted {
            Accepted::Head(hash) => format!("the ledger of {name} does not end with {hash}"),
            Accepted::Nothing => format!("something is left of the ledger of {name}"),
        };
        let hint = match head {
            Some(head) => format!("it ends with entry {}, {}", head.number, head.hash),
            None => "it has no entry".into(),
        };
        return Err(AnyFailure::new(Class::Conflict, what, Some(hint)));
    }
    Catalog::accept(context, source, head).await?;
    let from = head.map_or(0, |head| head.number);
    tracing::warn!("the ledger of {name} is believed from entry {from} on");
    Ok(())
}

/// Arguments of `thaw`.
#[derive(Args, Clone, Debug)]
pub struct Thaw {
    /// The source
    #[arg(value_name = "SOURCE")]
    pub source: SourceName,
    /// What was found, for the ledger
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

#[derive(Serialize)]
struct ThawDocument {
    thawed: String,
    was: String,
}

/// Runs `thaw`.
///
/// # Errors
/// Conflict: the source is not frozen; Denied: this key may not forget.
pub async fn thaw(session: &Session, arguments: &Thaw) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let (name, reason) = (&arguments.source, arguments.reason.clone());
    let was = freeze::thaw(&opened, name, reason).await?;
    if session.output.is_json() {
        let thawed = name.to_string();
        session.output.document(&ThawDocument { thawed, was })?;
        return Ok(0);
    }
    let was = render::plain(&was);
    let text = format!("{name} is thawed; it was frozen for: {was}\n");
    session.output.done(&text)?;
    Ok(0)
}
