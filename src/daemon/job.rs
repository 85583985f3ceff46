//! A job of the daemon: what is to be done by itself, to what, and what moves it.
//!
//! Invariant: the name of a job says all that it does, so that its history survives whatever else
//! the configuration changes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::SourceName;
use crate::schedule::{Schedule, jitter};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Sources and storage are tried.
    Probe,
    /// A snapshot is taken.
    Backup,
    /// Snapshots are taken out of the living by the rules of the source.
    Forget,
    /// What nothing needs is swept.
    Prune,
    /// Snapshots are checked.
    Verify,
    /// A recovery is rehearsed.
    Drill,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 6] = [
        Task::Probe,
        Task::Backup,
        Task::Forget,
        Task::Prune,
        Task::Verify,
        Task::Drill,
    ];

    /// Its word in names, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Task::Probe => "probe",
            Task::Backup => "backup",
            Task::Forget => "forget",
            Task::Prune => "prune",
            Task::Verify => "verify",
            Task::Drill => "drill",
        }
    }
}

/// What moves a job.
#[derive(Clone, Debug)]
pub enum Trigger {
    /// The daemon has begun.
    Start,
    /// An instant of this schedule, and up to so much later.
    At(Schedule, Duration),
    /// The job of this name has ended well.
    After(String),
    /// Nothing but somebody who asks.
    Asked,
}

/// Something to do again and again.
#[derive(Clone, Debug)]
pub struct Job {
    /// What.
    pub task: Task,
    /// To which source; none for the whole repository.
    pub source: Option<SourceName>,
    /// What moves it.
    pub trigger: Trigger,
    /// How long it may take.
    pub deadline: Duration,
}

impl Job {
    /// Its name, such as `backup crm`.
    pub fn name(&self) -> String {
        match &self.source {
            Some(source) => format!("{} {source}", self.task.name()),
            None => self.task.name().to_owned(),
        }
    }

    /// Its schedule, if it has one.
    pub fn schedule(&self) -> Option<&Schedule> {
        match &self.trigger {
            Trigger::At(schedule, _) => Some(schedule),
            Trigger::Start | Trigger::After(_) | Trigger::Asked => None,
        }
    }

    /// When the run planned for `planned` begins.
    pub fn begins(&self, planned: Timestamp) -> Timestamp {
        match &self.trigger {
            Trigger::At(_, most) => planned.plus(jitter(&self.name(), planned, *most)),
            Trigger::Start | Trigger::After(_) | Trigger::Asked => planned,
        }
    }
}

/// One run of a job: known by the job's name and the planned instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The job's name.
    pub job: String,
    /// What is done.
    pub task: Task,
    /// To which source.
    pub source: Option<SourceName>,
    /// For when it was planned.
    pub planned: Timestamp,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// How long it may take.
    pub deadline: Duration,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.job, self.planned.rfc3339())
    }
}

/// What becomes of a run that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it should.
    Done,
    /// It failed, and is tried again.
    Again {
        /// When.
        at: Timestamp,
    },
    /// It failed, and is not tried again before its next instant.
    Failed,
}
