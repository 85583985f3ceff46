//! What a failure asks of the caller: its class, a sentence, and a hint.
//!
//! Every room has its own error enum; each variant says its class here, and the binary turns the
//! class into an exit code (docs/cli.md). Invariant: a class names what the caller must do, never
//! which room failed.

use std::error::Error as StdError;
use std::fmt;

/// What the caller must do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request or the configuration is wrong: change it.
    Invalid,
    /// A key, a passphrase or a right is missing: get it.
    Denied,
    /// What was asked for is not there, and retrying cannot bring it.
    Missing,
    /// Something asked for was not done, because the state of the world speaks against it.
    Conflict,
    /// Somebody else is at it: come back later.
    Busy,
    /// Bytes are damaged, altered or rolled back: trust nothing built on them.
    Corrupt,
    /// It definitely did not happen, and may work when tried again.
    Transient,
    /// It may have happened: read before deciding.
    Unsettled,
    /// A mistake of this program: report it.
    Bug,
}

impl Class {
    /// The exit code of the process for this class (DESIGN §3).
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Missing | Class::Transient | Class::Unsettled | Class::Bug => 1,
            Class::Invalid => 2,
            Class::Corrupt => 3,
            Class::Conflict => 4,
            Class::Busy => 5,
            Class::Denied => 6,
        }
    }

    /// The class as it stands in JSON logs, metrics and job history.
    pub fn name(self) -> &'static str {
        match self {
            Class::Invalid => "invalid",
            Class::Denied => "denied",
            Class::Missing => "missing",
            Class::Conflict => "conflict",
            Class::Busy => "busy",
            Class::Corrupt => "corrupt",
            Class::Transient => "transient",
            Class::Unsettled => "unsettled",
            Class::Bug => "bug",
        }
    }
}

/// An error that says what the caller must do.
pub trait Failure: StdError + Send + Sync + 'static {
    /// What the caller must do about it.
    fn class(&self) -> Class;
    /// What to do, as a sentence without a full stop; none where the message says it all.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A failure of any room, as jobs hand it on to the faces.
pub struct AnyFailure(Box<dyn Failure>);

impl AnyFailure {
    /// A failure made on the spot, for a job that finds something wrong itself.
    pub fn new(class: Class, what: impl Into<String>, hint: Option<String>) -> Self {
        AnyFailure(Box::new(Stated {
            class,
            what: what.into(),
            hint,
        }))
    }

    /// What the caller must do about it.
    pub fn class(&self) -> Class {
        self.0.class()
    }

    /// What to do, as a sentence without a full stop.
    pub fn hint(&self) -> Option<String> {
        self.0.hint()
    }
}

impl<E: Failure> From<E> for AnyFailure {
    fn from(error: E) -> Self {
        AnyFailure(Box::new(error))
    }
}

impl fmt::Display for AnyFailure {
    /// The message and, where they add something, the messages of its causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for AnyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.class(), self)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Stated {
    class: Class,
    what: String,
    hint: Option<String>,
}

impl Failure for Stated {
    fn class(&self) -> Class {
        self.class
    }
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
