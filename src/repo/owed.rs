//! Entries that a ledger is owed: what was done elsewhere, and is not in the ledger yet.
//!
//! An entry stands here from before the deed until the ledger has it, so that a process that ends in
//! between leaves a trace, which the next one completes. Invariant: what cannot be read is dropped
//! with a word, and never becomes an entry.

use serde::{Deserialize, Serialize};

use crate::failure::{Class, Failure};
use crate::format::ledger::{Event, Recovered};
use crate::format::object::{Kind, read_body};
use crate::id::{SourceName, hex};
use crate::random::draw;
use crate::repo::vault::Vault;
use crate::state::{self, Lock, State};

const FOLDER: &str = "owed";
const LOCK: &str = "owed";
/// The fact that is added where a process ended before it knew.
const UNKNOWN: &str = "the run ended before it knew whether the rows were written";

/// Why an entry could not be noted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory.
    #[error(transparent)]
    State(#[from] state::Error),
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::State(error) => error.class(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Error::State(error) => error.hint(),
        }
    }
}

/// How far the deed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// It is about to be done.
    Begun,
    /// It was done.
    Done,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Body {
    source: SourceName,
    undeleted: Recovered,
    stage: Stage,
}

/// Keeps others of this host from taking what is under way for what was left behind.
pub struct Owing {
    state: State,
    _lock: Lock,
}

/// An entry that is owed.
pub struct Owed {
    name: String,
    body: Body,
}

impl Owed {
    /// Whose ledger it is.
    pub fn source(&self) -> &SourceName {
        &self.body.source
    }

    /// The entry; where nobody knows whether the deed was done, it says so.
    pub fn event(&self) -> Event {
        let mut undeleted = self.body.undeleted.clone();
        if self.body.stage == Stage::Begun {
            undeleted.facts.insert("outcome".into(), UNKNOWN.into());
        }
        Event::Undeleted(undeleted)
    }
}

impl Owing {
    /// Whether anything stands there, which another process may have in hand.
    pub fn is_any(state: &State) -> bool {
        state.names(FOLDER).is_ok_and(|names| !names.is_empty())
    }

    /// Takes what this host owes into its hands.
    ///
    /// # Errors
    /// Busy: another process of this host has it.
    pub fn take(state: &State) -> Result<Owing, Error> {
        let lock = state.lock(LOCK, "an undelete")?;
        Ok(Owing {
            state: state.clone(),
            _lock: lock,
        })
    }

    /// Notes, durably, that rows are about to be brought back.
    ///
    /// # Errors
    /// The state directory's.
    pub fn begin(
        &self,
        vault: &Vault,
        source: &SourceName,
        undeleted: Recovered,
    ) -> Result<Owed, Error> {
        let owed = Owed {
            name: format!("{FOLDER}/{}", hex(&draw::<16>(vault.random.as_ref()))),
            body: Body {
                source: source.clone(),
                undeleted,
                stage: Stage::Begun,
            },
        };
        self.write(vault, &owed)?;
        Ok(owed)
    }

    /// Notes that it was done.
    ///
    /// # Errors
    /// The state directory's.
    pub fn done(&self, vault: &Vault, owed: &mut Owed) -> Result<(), Error> {
        owed.body.stage = Stage::Done;
        self.write(vault, owed)
    }

    fn write(&self, vault: &Vault, owed: &Owed) -> Result<(), Error> {
        let sealed = vault.seal_state(&owed.name, &owed.body);
        let random = vault.random.as_ref();
        Ok(self.state.write(&owed.name, &sealed, random)?)
    }

    /// Drops an entry, because the ledger has it or because nothing was done.
    ///
    /// # Errors
    /// The state directory's.
    pub fn settle(&self, owed: &Owed) -> Result<(), Error> {
        Ok(self.state.remove(&owed.name)?)
    }

    /// What was left behind, and the names of files that say nothing.
    ///
    /// # Errors
    /// The state directory's.
    pub fn left(&self, vault: &Vault) -> Result<(Vec<Owed>, Vec<String>), Error> {
        let (mut left, mut unreadable) = (Vec::new(), Vec::new());
        for file in self.state.names(FOLDER)? {
            let name = format!("{FOLDER}/{file}");
            let Some(sealed) = self.state.read(&name)? else {
                continue;
            };
            let opened = vault.open(Kind::State, &name, &sealed).ok();
            match opened.and_then(|(_, body)| read_body(&body, "owed entry").ok()) {
                Some(body) => left.push(Owed { name, body }),
                None => {
                    self.state.remove(&name)?;
                    unreadable.push(name);
                }
            }
        }
        Ok((left, unreadable))
    }
}
