//! Why a storage did not do what was asked.
//!
//! Two layers: [`Trouble`] is one request's failure as the door sees it, [`Error`] what is left
//! after retries, with the place and what to do. Invariant: "definitely did not happen"
//! (`Transient`) and "may have happened" (`Unsettled`) are different errors; no message holds a
//! credential.

use std::fmt;

use crate::failure::{Class, Failure};

/// Which storage, and which object in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The storage's URL, without credentials.
    pub url: String,
    /// The object or the folder; none where the storage as a whole is meant.
    pub object: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{object} in {}", self.url),
            None => f.write_str(&self.url),
        }
    }
}

/// Why a storage did not do what was asked, after all retries.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The object is not there. Retrying cannot bring it.
    #[error("{place} is not there")]
    Missing {
        /// Where.
        place: Place,
    },
    /// The storage refuses us: credentials or rights. Never retried.
    #[error("access to {place} was denied: {reason}")]
    Denied {
        /// Where.
        place: Place,
        /// What the storage said.
        reason: String,
    },
    /// The URL, the options, the bucket or the region is wrong.
    #[error("{place} cannot be used: {reason}")]
    Invalid {
        /// Where.
        place: Place,
        /// What is wrong.
        reason: String,
    },
    /// No room is left. Nothing was written.
    #[error("no room is left for {place}: {reason}")]
    Full {
        /// Where.
        place: Place,
        /// What the storage said.
        reason: String,
    },
    /// The storage cannot do this at all. Never retried.
    #[error("the storage does not support what {place} needs: {reason}")]
    NotSupported {
        /// Where.
        place: Place,
        /// What the storage said.
        reason: String,
    },
    /// It definitely did not happen, and the retries are used up.
    #[error("{place} could not be reached in {attempts} attempts: {reason}")]
    Transient {
        /// Where.
        place: Place,
        /// The last failure.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// It may have happened: read before deciding.
    #[error("whether {place} was written is not known: {reason}")]
    Unsettled {
        /// Where.
        place: Place,
        /// The last failure.
        reason: String,
    },
    /// What came back is not what was asked for.
    #[error("{place} came back damaged: {reason}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether the object is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. })
    }
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Missing { .. } => Class::Missing,
            Error::Denied { .. } => Class::Denied,
            Error::Invalid { .. } | Error::NotSupported { .. } => Class::Invalid,
            Error::Full { .. } | Error::Transient { .. } => Class::Transient,
            Error::Unsettled { .. } => Class::Unsettled,
            Error::Corrupt { .. } => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing { .. } => return None,
            Error::Denied { .. } => {
                "check the credentials (AWS_ACCESS_KEY_ID and so on, or the directory's owner) and their rights"
            }
            Error::Invalid { .. } => "check the repository's URL and the options of its storage",
            Error::Full { .. } => "free some room, or let prune run, and try again",
            Error::NotSupported { .. } => "docs/storage.md says which storages can carry what",
            Error::Transient { .. } => "nothing was changed; try again when the storage answers",
            Error::Unsettled { .. } => "run the command again: it reads first what is there",
            Error::Corrupt { .. } => "run verify, which names the snapshots that this hurts",
        };
        Some(hint.to_owned())
    }
}

/// Why one request failed, before anything is decided about trying again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Missing,
    /// A conditional put found another object, or the storage saw two at once (409).
    Conflict,
    Denied(String),
    Invalid(String),
    Full(String),
    NotSupported(String),
    /// The request never left this machine.
    Unreached(String),
    Transient(String),
    /// What came back does not fit the question; worth one more try.
    Misfit(String),
}

impl Trouble {
    /// The error that this trouble is at `place`, after `attempts` attempts.
    pub(crate) fn at(self, place: Place, attempts: u32) -> Error {
        match self {
            Trouble::Missing => Error::Missing { place },
            Trouble::Conflict => Error::Unsettled {
                place,
                reason: "the storage reports another object in its place".to_owned(),
            },
            Trouble::Denied(reason) => Error::Denied { place, reason },
            Trouble::Invalid(reason) => Error::Invalid { place, reason },
            Trouble::Full(reason) => Error::Full { place, reason },
            Trouble::NotSupported(reason) => Error::NotSupported { place, reason },
            Trouble::Misfit(reason) => Error::Corrupt { place, reason },
            Trouble::Unreached(reason) | Trouble::Transient(reason) => Error::Transient {
                place,
                reason,
                attempts,
            },
        }
    }

    /// The trouble as part of a sentence.
    pub(crate) fn reason(&self) -> String {
        match self {
            Trouble::Missing => "it is not there".to_owned(),
            Trouble::Conflict => "the storage reports another object in its place".to_owned(),
            Trouble::Denied(reason)
            | Trouble::Invalid(reason)
            | Trouble::Full(reason)
            | Trouble::NotSupported(reason)
            | Trouble::Unreached(reason)
            | Trouble::Transient(reason)
            | Trouble::Misfit(reason) => reason.clone(),
        }
    }

    /// Whether the request certainly had no effect, so that nothing is left to be found out.
    pub(crate) fn is_definite(&self) -> bool {
        matches!(
            self,
            Trouble::Denied(_)
                | Trouble::Invalid(_)
                | Trouble::Full(_)
                | Trouble::NotSupported(_)
                | Trouble::Unreached(_)
                | Trouble::Missing
        )
    }
}
