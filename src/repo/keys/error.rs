//! Why a repository could not be opened or made, or its keys not be changed.
//!
//! Invariant: no message holds a secret, and none says more about a passphrase than that it is
//! wrong.

use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::crypto;
use crate::failure::{Class, Failure};
use crate::format::keyslot::text;
use crate::format::object;
use crate::id::{RepositoryId, SignerId, SlotId};
use crate::recipient;
use crate::repo::vault;
use crate::state;
use crate::store;

/// Why a repository could not be opened or made, or its keys not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The storage, or a sealed object in it.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// The local state.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A passphrase, its cost, or a key.
    #[error(transparent)]
    Crypto(#[from] crypto::Error),
    /// A key file's text.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// An `age` recipient or identity.
    #[error(transparent)]
    Recipient(#[from] recipient::Error),
    /// Something that we were about to write does not fit the format.
    #[error(transparent)]
    Format(#[from] object::Error),
    /// Nothing stands there.
    #[error("there is no repository at {url}")]
    NoRepository {
        /// Where.
        url: String,
    },
    /// Key slots stand there, and the object that makes them a repository does not.
    #[error("{url} holds key slots, but its object 'repository' is not there")]
    Unfinished {
        /// Where.
        url: String,
    },
    /// The `repository` object is not what it should be.
    #[error("the repository at {url} cannot be opened")]
    Repository {
        /// Where.
        url: String,
        /// What is wrong with it.
        #[source]
        source: object::Error,
    },
    /// The root that the key opened belongs to another owner than the storage names.
    #[error(
        "{url} names the owner {owner}, who is not the owner of this key: another's repository was put in its place"
    )]
    AnothersRepository {
        /// Where.
        url: String,
        /// Whom it names.
        owner: SignerId,
    },
    /// All key slots are of another repository.
    #[error("the key slots at {url} belong to another repository than the object 'repository'")]
    StrangeSlots {
        /// Where.
        url: String,
    },
    /// A key file for another repository.
    #[error("this key file belongs to repository {belongs}, and this is repository {found}")]
    KeyFileElsewhere {
        /// Whose it is.
        belongs: RepositoryId,
        /// What was found.
        found: RepositoryId,
    },
    /// A writer's key file names another owner than the storage.
    #[error(
        "the key file of writer {name} was issued by another owner than {owner}, whom the repository names"
    )]
    WriterOfAnotherOwner {
        /// The writer.
        name: String,
        /// Whom the storage names.
        owner: SignerId,
    },
    /// Keys of an epoch that this program does not make.
    #[error("the repository uses keys of epoch {epoch}, which this rowvault does not know")]
    Epoch {
        /// The epoch.
        epoch: u32,
    },
    /// No passphrase slot opens.
    #[error("wrong passphrase{}", damaged_note(.damaged))]
    WrongPassphrase {
        /// Slots that could not be tried.
        damaged: Vec<String>,
    },
    /// There is no slot of the kind that could be tried.
    #[error("the repository has no {kind} key slot{}", damaged_note(.damaged))]
    NoSlotOfKind {
        /// The kind.
        kind: &'static str,
        /// Slots that could not be read.
        damaged: Vec<String>,
    },
    /// No slot has the name that was asked for.
    #[error("the repository has no key slot {slot}")]
    UnknownSlot {
        /// The name.
        slot: String,
    },
    /// The slot of a key file is not there.
    #[error("the repository has no key slot {slot}")]
    NoSlot {
        /// The slot.
        slot: String,
    },
    /// A key slot is damaged, or its object is no key slot.
    #[error("key slot {slot} cannot be read")]
    Slot {
        /// The slot.
        slot: String,
        /// What is wrong with it.
        #[source]
        source: object::Error,
    },
    /// A key slot came back otherwise than it was written.
    #[error("key slot {slot} does not read as it was written")]
    SlotLost {
        /// The slot.
        slot: SlotId,
    },
    /// Something was written and could not be read back.
    #[error("{what} was written, and whether it is there is not known")]
    Unread {
        /// What was written.
        what: String,
        /// Why it could not be read.
        #[source]
        source: store::Error,
    },
    /// Far more key slots than anybody makes.
    #[error("the repository holds {count} key slots, the most is {most}")]
    ManySlots {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// Without this slot nobody could open the repository again.
    #[error("key slot {slot} is the last one that opens the repository")]
    LastSlot {
        /// The slot.
        slot: String,
    },
    /// A repository stands where one was to be made.
    #[error("repository {id} stands at {url} already")]
    Taken {
        /// Where.
        url: String,
        /// Which.
        id: String,
    },
    /// Something else stands where a repository was to be made.
    #[error("{url} is not empty: it holds {found}")]
    NotEmpty {
        /// Where.
        url: String,
        /// The first thing that was found, and how many there are.
        found: String,
    },
    /// The writer is in no keyring.
    #[error("writer {name} is not enrolled in this repository")]
    NotEnrolled {
        /// The writer.
        name: String,
    },
    /// The writer was shut out.
    #[error("writer {name} was revoked on {}", .when.rfc3339())]
    Revoked {
        /// The writer.
        name: String,
        /// When.
        when: Timestamp,
    },
    /// A writer of this name has another key.
    #[error("a writer {name} is enrolled already")]
    WriterTaken {
        /// The writer.
        name: String,
    },
    /// Somebody changed the keyring at the same time.
    #[error("keyring {number} was written by somebody else at the same time")]
    KeyringRace {
        /// The number that both wanted.
        number: u64,
    },
    /// A keyring in the middle is missing, or does not name the one before it.
    #[error("keyring {number} is missing or does not follow the one before it")]
    KeyringBroken {
        /// The keyring.
        number: u64,
    },
    /// The keyring is older than one that this client saw, or another of its number.
    #[error(
        "the repository shows keyring {found}, and this client has seen keyring {seen}: writers were put back to an earlier state"
    )]
    KeyringRolledBack {
        /// What is there.
        found: u64,
        /// What was seen.
        seen: u64,
        /// The file that remembers it.
        path: PathBuf,
    },
    /// What this client remembers of the keyring is damaged.
    #[error("what this client keeps of the keyring in {} is damaged", path.display())]
    KeyringMemory {
        /// The file.
        path: PathBuf,
    },
    /// A file that holds, or would hold, a secret.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file with a secret that others can read.
    #[error("{} can be read by others (its mode is {mode:o})", path.display())]
    FileOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file that stands where a new secret was to be written.
    #[error("{} exists already", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no text, or far too long for one.
    #[error("{} is not a text of at most {most} bytes", path.display())]
    FileContent {
        /// The file.
        path: PathBuf,
        /// How long it may be.
        most: usize,
    },
    /// Work on another thread was cut off.
    #[error("the thread that works on keys ended early")]
    Worker,
}

fn damaged_note(damaged: &[String]) -> String {
    match damaged {
        [] => String::new(),
        slots => format!(
            "; key slot {} is damaged and was not tried",
            slots.join(", ")
        ),
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error::Vault(error.into())
    }
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Vault(error) => error.class(),
            Error::State(error) => error.class(),
            Error::Crypto(error) => error.class(),
            Error::Text(error) => error.class(),
            Error::Recipient(error) => error.class(),
            // What was read is told apart from what the caller gave by its own variants.
            Error::Format(_) => Class::Invalid,
            Error::Repository { source, .. } | Error::Slot { source, .. } => source.class(),
            Error::NoRepository { .. } | Error::UnknownSlot { .. } => Class::Missing,
            Error::Unread { .. } => Class::Unsettled,
            Error::Unfinished { .. }
            | Error::AnothersRepository { .. }
            | Error::StrangeSlots { .. }
            | Error::WriterOfAnotherOwner { .. }
            | Error::ManySlots { .. }
            | Error::SlotLost { .. }
            | Error::KeyringBroken { .. }
            | Error::KeyringRolledBack { .. }
            | Error::KeyringMemory { .. } => Class::Corrupt,
            Error::KeyFileElsewhere { .. }
            | Error::WrongPassphrase { .. }
            | Error::NoSlotOfKind { .. }
            | Error::NoSlot { .. }
            | Error::NotEnrolled { .. }
            | Error::Revoked { .. } => Class::Denied,
            Error::LastSlot { .. }
            | Error::Taken { .. }
            | Error::NotEmpty { .. }
            | Error::WriterTaken { .. }
            | Error::KeyringRace { .. }
            | Error::FileExists { .. } => Class::Conflict,
            Error::Epoch { .. } | Error::FileOpen { .. } | Error::FileContent { .. } => {
                Class::Invalid
            }
            Error::File { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Class::Invalid,
                std::io::ErrorKind::PermissionDenied => Class::Denied,
                _ => Class::Transient,
            },
            Error::Worker => Class::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Vault(error) => return error.hint(),
            Error::State(error) => return error.hint(),
            Error::Crypto(error) => return error.hint(),
            Error::Text(error) => return error.hint(),
            Error::Recipient(error) => return error.hint(),
            Error::Repository { source, .. } if !self.is_unfinished() => return source.hint(),
            Error::Slot { source, .. } => return source.hint(),
            Error::KeyringRolledBack { path, .. } | Error::KeyringMemory { path } => {
                return Some(format!(
                    "ask the owner what happened; removing {} trusts the repository as it is now",
                    path.display()
                ));
            }
            Error::FileOpen { path, .. } => {
                return Some(format!("run: chmod 600 {}", path.display()));
            }
            other => other.plain_hint()?,
        };
        Some(hint.to_owned())
    }
}

impl Error {
    /// Whether no repository stands there, or only the torn start of one.
    pub fn is_unfinished(&self) -> bool {
        matches!(
            self,
            Error::NoRepository { .. }
                | Error::Unfinished { .. }
                | Error::Repository {
                    source: object::Error::Short { .. },
                    ..
                }
        )
    }

    /// The hint of what needs no names filled in.
    fn plain_hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::NoRepository { .. } => "check --repo, or make one there with 'rowvault init'",
            Error::Unfinished { .. } | Error::Repository { .. } => {
                "if 'rowvault init' was cut short, run it again; else bring the object back"
            }
            Error::AnothersRepository { .. }
            | Error::StrangeSlots { .. }
            | Error::WriterOfAnotherOwner { .. } => {
                "find out who changed the storage before anything is written to it"
            }
            Error::KeyFileElsewhere { .. } => {
                "check --repo and --key-file: they do not belong together"
            }
            Error::Epoch { .. } => "use a newer rowvault for this repository",
            Error::WrongPassphrase { .. } => {
                "try again, or use a key file or the recovery sheet (--key-file)"
            }
            Error::UnknownSlot { .. } => "'rowvault key list' shows the slots",
            Error::NoSlotOfKind { .. } | Error::NoSlot { .. } => {
                "use another key; whoever can open the repository sees its slots by 'rowvault key list'"
            }
            Error::SlotLost { .. } | Error::Unread { .. } | Error::KeyringRace { .. } => {
                "run the command again"
            }
            Error::ManySlots { .. } => "find out who writes to the storage",
            Error::LastSlot { .. } => "add another key first: 'rowvault key add'",
            Error::Taken { .. } => {
                "use it as it is, or give another --repo; 'rowvault key recovery' prints a new recovery sheet"
            }
            Error::NotEmpty { .. } => "give an empty directory or prefix to 'rowvault init'",
            Error::NotEnrolled { .. } | Error::Revoked { .. } => {
                "ask the repository's owner for a new key file ('rowvault key writer')"
            }
            Error::WriterTaken { .. } => "give another --name, or revoke the old one first",
            Error::KeyringBroken { .. } => "find out who changed the storage",
            Error::FileExists { .. } => "give another name: keys are never overwritten",
            Error::FileContent { .. } => "check the path: this is another file",
            _ => return None,
        })
    }
}
