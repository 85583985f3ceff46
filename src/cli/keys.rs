//! `key …`: who can open the repository, and who may write to it.
//!
//! Invariant: a secret is written to a file of its owner's or printed nowhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::cli::render::{self, Side};
use crate::cli::session::{Session, ask_new};
use crate::config::secret;
use crate::config::token::{Role, TokenHash, draw_token};
use crate::crypto::keyslot::PassphraseCost;
use crate::failure::{AnyFailure, Class};
use crate::format::keyring::{Sources, Writer};
use crate::id::SourceName;
use crate::job::keys::{self, Addition, SlotFacts};
use crate::repo::keys::writer::Rights;

/// Arguments of `key`.
#[derive(Args, Clone, Debug)]
pub struct Key {
    /// What to do.
    #[command(subcommand)]
    pub verb: KeyVerb,
}

/// What to do with keys.
#[derive(Subcommand, Clone, Debug)]
pub enum KeyVerb {
    /// List key slots and writers
    List,
    /// Let one more passphrase, age identity or key file open the repository
    Add(Add),
    /// Take a key slot away
    Remove {
        /// The slot, as list prints it
        #[arg(value_name = "SLOT")]
        slot: String,
    },
    /// Enrol a host that may back up and cannot read
    Writer(WriterArguments),
    /// Revoke a writer: nothing that it writes from now on counts
    Revoke {
        /// The writer
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Make a token for the daemon's API; print it once, and the lines for the configuration
    Token(TokenArguments),
    /// Make one more recovery sheet
    Recovery {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

const AFTER_ADD: &str = "\
Behind 'key add', --key-file and --passphrase-file mean --new-key-file and
--new-passphrase-file; before it they open the repository, as everywhere.";

/// What shall open the repository too.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "rowvault key add [OPTIONS] WHAT", after_help = AFTER_ADD)]
#[command(group(clap::ArgGroup::new("what").required(true)
    .args(["new_passphrase_file", "new_passphrase", "recipient", "new_key_file"])))]
pub struct Add {
    /// The passphrase in this file
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
    /// A passphrase that is asked for
    #[arg(long)]
    pub new_passphrase: bool,
    /// The identity of this age recipient
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Option<String>,
    /// A key file, which is made, readable for its owner only
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
    /// What to call the slot
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

/// Who is enrolled.
#[derive(Args, Clone, Debug)]
pub struct WriterArguments {
    /// The writer: 1 to 64 of a-z, 0-9, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The key file to make, readable for its owner only
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Only for this source; may be repeated [default: all]
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<SourceName>,
    /// Let it forget snapshots too
    #[arg(long)]
    pub may_forget: bool,
}

/// Who gets a token.
#[derive(Args, Clone, Debug)]
pub struct TokenArguments {
    /// The name that the ledger shows
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What it lets do: viewer (look), operator (start backups and drills), admin (thaw)
    #[arg(long, value_name = "ROLE", default_value = "viewer", value_parser = role)]
    pub role: Role,
}

fn role(text: &str) -> Result<Role, String> {
    let found = Role::ALL.into_iter().find(|role| role.name() == text);
    found.ok_or_else(|| "viewer, operator or admin".into())
}

/// Runs `key …`.
///
/// # Errors
/// Denied to writers, but for `list`; Conflict: the file or the name exists; the repository's.
pub async fn key(session: &Session, arguments: &Key) -> Result<u8, AnyFailure> {
    match &arguments.verb {
        KeyVerb::List => list(session).await,
        KeyVerb::Add(arguments) => add(session, arguments).await,
        KeyVerb::Remove { slot } => remove(session, slot).await,
        KeyVerb::Writer(arguments) => writer(session, arguments).await,
        KeyVerb::Revoke { name } => revoke(session, name).await,
        KeyVerb::Token(arguments) => token(session, arguments),
        KeyVerb::Recovery { out } => {
            let addition = Addition::RecoverySheet(out.clone());
            added(session, &addition, "recovery sheet").await
        }
    }
}

#[derive(Serialize)]
struct TokenDocument<'a> {
    name: &'a str,
    role: &'static str,
    token: &'a str,
    hash: String,
}

/// Draws a token; nothing of it is kept here.
fn token(session: &Session, arguments: &TokenArguments) -> Result<u8, AnyFailure> {
    let (name, role) = (arguments.name.as_str(), arguments.role.name());
    if name.is_empty()
        || name
            .chars()
            .any(|letter| letter.is_control() || letter == '\'')
    {
        return Err(AnyFailure::new(
            Class::Invalid,
            format!("{name:?} is no name of a token"),
            Some("name who will have it, such as grafana".into()),
        ));
    }
    let drawn = draw_token(session.random.as_ref());
    let token = drawn.expose_secret();
    let hash = TokenHash::of(token).map_or(String::new(), |hash| hash.to_string());
    if session.output.is_json() {
        session.output.document(&TokenDocument {
            name,
            role,
            token,
            hash,
        })?;
        return Ok(0);
    }
    let lines = format!("[[http.token]]\nname = '{name}'\nrole = '{role}'\nhash = '{hash}'\n");
    session.output.text(&format!(
        "{token}\n\nThis token is shown once: hand it to {name}. The configuration gets:\n\n{lines}"
    ))?;
    Ok(0)
}

#[derive(Serialize)]
struct ListDocument {
    slots: Vec<SlotDocument>,
    writers: Vec<WriterDocument>,
}

#[derive(Serialize)]
struct SlotDocument {
    slot: String,
    kind: Option<&'static str>,
    created: Option<String>,
    label: String,
    recipient: Option<String>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct WriterDocument {
    name: String,
    enrolled: String,
    sources: Option<Vec<String>>,
    may_forget: bool,
    revoked: Option<String>,
}

fn sources_of(writer: &Writer) -> Option<Vec<String>> {
    match &writer.sources {
        Sources::All => None,
        Sources::Only(names) => Some(names.iter().map(ToString::to_string).collect()),
    }
}

async fn list(session: &Session) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let listed = keys::list(&opened.vault, &opened.keyring).await?;
    if session.output.is_json() {
        let slot = |slot: &SlotFacts| SlotDocument {
            slot: slot.slot.clone(),
            kind: slot.kind,
            created: slot.created.map(|time| time.rfc3339()),
            label: slot.label.clone(),
            recipient: slot.recipient.clone(),
            problem: slot.problem.clone(),
        };
        let writer = |writer: &Writer| WriterDocument {
            name: writer.name.clone(),
            enrolled: writer.enrolled.rfc3339(),
            sources: sources_of(writer),
            may_forget: writer.may_forget,
            revoked: writer.revoked.map(|time| time.rfc3339()),
        };
        session.output.document(&ListDocument {
            slots: listed.slots.iter().map(slot).collect(),
            writers: listed.writers.iter().map(writer).collect(),
        })?;
        return Ok(0);
    }
    session.output.text(&slots_text(&listed.slots))?;
    if !listed.writers.is_empty() {
        session
            .output
            .text(&format!("\n{}", writers_text(&listed.writers)))?;
    }
    Ok(0)
}

fn slots_text(slots: &[SlotFacts]) -> String {
    let columns = [
        ("slot", Side::Left),
        ("kind", Side::Left),
        ("made (UTC)", Side::Left),
        ("label", Side::Left),
    ];
    let row = |slot: &SlotFacts| {
        let note = slot.problem.as_ref().or(slot.recipient.as_ref());
        let label = match (slot.label.is_empty(), note) {
            (true, Some(note)) => note.clone(),
            (false, Some(note)) => format!("{}: {note}", slot.label),
            (_, None) => slot.label.clone(),
        };
        vec![
            slot.slot.clone(),
            slot.kind.unwrap_or("(unusable)").into(),
            slot.created.map_or(String::new(), render::time),
            label,
        ]
    };
    render::table(&columns, &slots.iter().map(row).collect::<Vec<_>>())
}

fn writers_text(writers: &[Writer]) -> String {
    let columns = [
        ("writer", Side::Left),
        ("enrolled (UTC)", Side::Left),
        ("sources", Side::Left),
        ("may forget", Side::Left),
        ("revoked", Side::Left),
    ];
    let row = |writer: &Writer| {
        vec![
            writer.name.clone(),
            render::time(writer.enrolled),
            sources_of(writer).map_or("all".into(), |names| names.join(", ")),
            if writer.may_forget { "yes" } else { "no" }.into(),
            writer.revoked.map_or("no".into(), render::time),
        ]
    };
    render::table(&columns, &writers.iter().map(row).collect::<Vec<_>>())
}

async fn add(session: &Session, arguments: &Add) -> Result<u8, AnyFailure> {
    let cost = PassphraseCost::default();
    let addition = if let Some(path) = &arguments.new_passphrase_file {
        Addition::Passphrase(secret::read("passphrase", path)?, cost)
    } else if let Some(recipient) = &arguments.recipient {
        Addition::Recipient(recipient.clone())
    } else if let Some(path) = &arguments.new_key_file {
        Addition::KeyFile(path.clone())
    } else {
        Addition::Passphrase(ask_new()?, cost)
    };
    added(
        session,
        &addition,
        arguments.label.as_deref().unwrap_or_default(),
    )
    .await
}

#[derive(Serialize)]
struct AddedDocument {
    slot: String,
    file: Option<String>,
}

async fn added(session: &Session, addition: &Addition, label: &str) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let added = keys::add(&opened.vault, addition, label).await?;
    let file = added.file.map(|path| path.display().to_string());
    if session.output.is_json() {
        let slot = added.slot.to_string();
        session.output.document(&AddedDocument { slot, file })?;
        return Ok(0);
    }
    let made = file.map_or(String::new(), |file| format!(", opened by {file}"));
    session
        .output
        .done(&format!("added key slot {}{made}\n", added.slot))?;
    Ok(0)
}

#[derive(Serialize)]
struct RemovedDocument<'a> {
    removed: &'a str,
}

async fn remove(session: &Session, slot: &str) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    keys::remove(&opened.vault, slot).await?;
    if session.output.is_json() {
        session
            .output
            .document(&RemovedDocument { removed: slot })?;
        return Ok(0);
    }
    session.output.done(&format!(
        "removed key slot {slot}; whoever kept a copy of the slot and its secret can still read\n"
    ))?;
    Ok(0)
}

#[derive(Serialize)]
struct EnrolledDocument<'a> {
    name: &'a str,
    file: String,
}

async fn writer(session: &Session, arguments: &WriterArguments) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let sources = match arguments.source.is_empty() {
        true => Sources::All,
        false => Sources::Only(arguments.source.iter().cloned().collect()),
    };
    let rights = Rights {
        sources,
        may_forget: arguments.may_forget,
    };
    let who = (arguments.name.as_str(), rights);
    let (vault, state) = (&opened.vault, &opened.state);
    keys::writer(vault, state, &opened.keyring, who, &arguments.out).await?;
    let file = arguments.out.display().to_string();
    if session.output.is_json() {
        let name = &arguments.name;
        session.output.document(&EnrolledDocument { name, file })?;
        return Ok(0);
    }
    session.output.done(&format!(
        "enrolled writer {}; its key file is {file}: move it to its host\n",
        arguments.name
    ))?;
    Ok(0)
}

#[derive(Serialize)]
struct RevokedDocument<'a> {
    revoked: &'a str,
}

async fn revoke(session: &Session, name: &str) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    if opened.vault.access.root.is_none() {
        return Err(AnyFailure::new(
            Class::Denied,
            "a writer's key file cannot revoke a writer",
            Some("use the passphrase or a key file of the repository's owner".into()),
        ));
    }
    let catalog = opened.catalog().await?;
    let heads: BTreeMap<SourceName, u64> = catalog
        .sources
        .iter()
        .filter_map(|(name, source)| Some((name.clone(), source.head()?.number)))
        .collect();
    keys::revoke(&opened.vault, &opened.state, &opened.keyring, name, &heads).await?;
    if session.output.is_json() {
        session
            .output
            .document(&RevokedDocument { revoked: name })?;
        return Ok(0);
    }
    session.output.done(&format!(
        "revoked writer {name}; what it wrote until now counts, nothing after it does\n"
    ))?;
    Ok(0)
}
