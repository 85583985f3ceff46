//! What goes wrong, and when: the script of a [`FaultStore`](super::FaultStore).
//!
//! Faults are named after what a storage does to its client, not after what the client should
//! make of it. Invariant: the same script, seed and order of operations give the same faults.

use std::time::Duration;

/// What a client asks for, as finely as faults are scripted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A plain write.
    Put,
    /// A write where nothing may stand.
    Create,
    /// A write in place of a known state.
    Update,
    /// A read, whole or in part.
    Get,
    /// A look at length and time.
    Head,
    /// A listing.
    List,
    /// A deletion.
    Delete,
}

impl Operation {
    /// Whether it may change what is stored.
    pub fn writes(self) -> bool {
        matches!(
            self,
            Operation::Put | Operation::Create | Operation::Update | Operation::Delete
        )
    }
}

/// How a failure shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The connection breaks.
    Reset,
    /// The server answers with this HTTP status.
    Status(u16),
    /// The server answers with this HTTP status and error code.
    Code(u16, &'static str),
}

/// What goes wrong. A fault that does not fit an operation leaves it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails before anything happens.
    Fail(Failing),
    /// Happens, and then fails: the acknowledgement is lost.
    LoseAnswer(Failing),
    /// A write keeps only the first bytes (half, if there are no more) and reports success, or
    /// this failure.
    Torn(usize, Option<Failing>),
    /// A write reports success and stores nothing.
    Vanish,
    /// Never answers.
    Hang,
    /// Answers late.
    Delay(Duration),
    /// The body of a read comes byte by byte, with this pause before each.
    Drip(Duration),
    /// A read gives the state before the last write; a listing lacks the last object written.
    Stale,
    /// This bit of what is read is turned over (counted round where there are fewer).
    Flip(u64),
    /// The body of a read ends this many bytes early.
    Short(u64),
    /// A range begins and ends one byte further on, and says so.
    Shifted,
    /// A range begins one byte further on, and says that it did not.
    ShiftedUnsaid,
    /// The whole object comes where a range was asked for.
    Whole,
    /// A listing stops after this many names and calls itself complete.
    ListCut(usize),
    /// A listing fails after this many names.
    ListBreak(usize, Failing),
    /// A listing gives every name twice.
    ListTwice,
}

/// Which of the matching operations a rule is for, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All of them.
    Always,
    /// The n-th only.
    Nth(u64),
    /// The first n.
    First(u64),
    /// The n-th and all after it.
    From(u64),
}

/// A fault, and the operations that it befalls.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The kind; none for any.
    pub operation: Option<Operation>,
    /// What the path begins with; empty for any.
    pub prefix: String,
    /// Which of them.
    pub when: When,
    /// What goes wrong.
    pub fault: Fault,
}

impl Rule {
    /// `fault` on every `operation`.
    pub fn on(operation: Operation, when: When, fault: Fault) -> Rule {
        Rule {
            operation: Some(operation),
            prefix: String::new(),
            when,
            fault,
        }
    }

    /// `fault` on any operation.
    pub fn any(when: When, fault: Fault) -> Rule {
        Rule {
            operation: None,
            prefix: String::new(),
            when,
            fault,
        }
    }

    /// The rule for paths that begin with `prefix` only.
    pub fn under(mut self, prefix: &str) -> Rule {
        self.prefix = prefix.to_owned();
        self
    }

    pub(super) fn matches(&self, operation: Operation, path: &str) -> bool {
        self.operation.is_none_or(|own| own == operation) && path.starts_with(&self.prefix)
    }
}

impl When {
    pub(super) fn covers(self, occurrence: u64) -> bool {
        match self {
            When::Always => true,
            When::Nth(n) => occurrence == n,
            When::First(n) => occurrence <= n,
            When::From(n) => occurrence >= n,
        }
    }
}

/// How the process "dies" at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before the storage heard of it.
    Before,
    /// After it was done, before we heard.
    AfterEffect,
    /// In the middle of a write, half of which stays.
    Torn,
}

/// What a storage makes of a conditional write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// It keeps them.
    #[default]
    Honoured,
    /// It says that it does not know them (501).
    Refused,
    /// It says yes and overwrites, as Garage does.
    Ignored,
}
