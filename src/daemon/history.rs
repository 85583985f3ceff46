//! What the daemon did: for each job how far it came, and the last runs of all.
//!
//! One JSON file in the state directory, replaced whole on each change; lost, it costs no more
//! than that nothing is made up for. Invariant: what was started is in the file before it starts.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::daemon::job::{Run, Task, Verdict};
use crate::failure::Class;
use crate::id::SourceName;

/// How many runs are remembered.
const RUNS_MAX: usize = 1000;
/// The longest file that is read.
const FILE_BYTES_MAX: usize = 16 << 20;

/// What is known of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The last planned instant that was dealt with.
    pub reached: Timestamp,
    /// The planned instant of a run that was begun and has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Timestamp>,
    /// When it last ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_at: Option<Timestamp>,
    /// Since when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// How often it failed since then.
    #[serde(default)]
    pub failures: u64,
}

/// A run that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Past {
    /// The job's name.
    pub job: String,
    /// What was done.
    pub task: Task,
    /// To which source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For when it was planned.
    pub planned: Timestamp,
    /// Which attempt it was.
    pub attempt: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The class of its failure; none where it did what it should.
    #[serde(skip)]
    pub class: Option<Class>,
    /// The class of its failure, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What came of it, in a sentence.
    pub told: String,
}

impl Past {
    /// A run that ended well.
    pub fn good(run: &Run, told: String, (started_at, ended_at): (Timestamp, Timestamp)) -> Past {
        Past {
            job: run.job.clone(),
            task: run.task,
            source: run.source.as_ref().map(SourceName::to_string),
            planned: run.planned,
            attempt: run.attempt,
            started_at,
            ended_at,
            class: None,
            failure: None,
            told,
        }
    }

    /// A run that failed.
    pub fn failed(run: &Run, class: Class, told: String, at: (Timestamp, Timestamp)) -> Past {
        Past {
            class: Some(class),
            failure: Some(class.name().to_owned()),
            ..Past::good(run, told, at)
        }
    }
}

/// What the daemon did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    jobs: BTreeMap<String, Memory>,
    runs: VecDeque<Past>,
}

impl History {
    /// Reads a file; none where it is no such file, or far too long for one.
    pub fn read(bytes: &[u8]) -> Option<History> {
        if bytes.len() > FILE_BYTES_MAX {
            return None;
        }
        let mut history: History = serde_json::from_slice(bytes).ok()?;
        while history.runs.len() > RUNS_MAX {
            history.runs.pop_front();
        }
        Some(history)
    }

    /// The file's bytes.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it is plain data")
    }

    /// A job that was never seen begins at `now`.
    pub fn begin(&mut self, job: &str, now: Timestamp) {
        self.jobs.entry(job.to_owned()).or_insert(Memory {
            reached: now,
            ..Memory::default()
        });
    }

    fn job(&mut self, job: &str) -> &mut Memory {
        self.jobs.entry(job.to_owned()).or_default()
    }

    /// What is known of `job`.
    pub fn memory(&self, job: &str) -> Option<&Memory> {
        self.jobs.get(job)
    }

    /// The last runs, oldest first.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.runs.iter()
    }

    /// How far `job` came.
    pub fn reached(&self, job: &str) -> Timestamp {
        self.jobs
            .get(job)
            .map_or(Timestamp(0), |memory| memory.reached)
    }

    /// `job` came as far as `planned`.
    pub fn reach(&mut self, job: &str, planned: Timestamp) {
        self.job(job).reached = planned;
    }

    /// The run of `job` that was begun and has not ended.
    pub fn open(&self, job: &str) -> Option<Timestamp> {
        self.jobs.get(job)?.open
    }

    /// What was begun is not gone on with.
    pub fn close(&mut self, job: &str) {
        self.job(job).open = None;
    }

    /// A run of `job` begins.
    pub fn start(&mut self, job: &str, planned: Timestamp) {
        self.job(job).open = Some(planned);
    }

    /// Whether this very run ended once.
    pub fn knows(&self, job: &str, planned: Timestamp) -> bool {
        let mut runs = self.runs.iter();
        runs.any(|past| past.planned == planned && past.job == job)
    }

    /// A run of `job` ended.
    pub fn end(&mut self, job: &str, past: Past, verdict: Verdict) {
        let memory = self.job(job);
        match verdict {
            Verdict::Done => {
                memory.good_at = Some(past.ended_at);
                memory.failing_since = None;
                memory.failures = 0;
            }
            Verdict::Again { .. } | Verdict::Failed => {
                memory.failing_since.get_or_insert(past.ended_at);
                memory.failures += 1;
            }
        }
        if !matches!(verdict, Verdict::Again { .. }) {
            memory.open = None;
        }
        self.runs.push_back(past);
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
    }
}
