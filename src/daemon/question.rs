//! Questions to the loop: what others ask of it, each with a place for the answer.
//!
//! Only the loop touches the board. Invariant: a question is answered between two turns or not at
//! all, and who asks waits a bounded time.

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::daemon::board::{Asked, Board};
use crate::daemon::history::Past;
use crate::daemon::job::Task;

/// A job as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub job: String,
    /// What it does.
    pub task: Task,
    /// To which source.
    pub source: Option<String>,
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// Whether it runs.
    pub runs: bool,
    /// When it last ended well.
    pub good_at: Option<Timestamp>,
    /// Since when it fails.
    pub failing_since: Option<Timestamp>,
}

/// What is asked of the loop.
#[derive(Debug)]
pub enum Question {
    /// Every job as it stands.
    Jobs(oneshot::Sender<Vec<Standing>>),
    /// The last runs, oldest first.
    Runs(oneshot::Sender<Vec<Past>>),
    /// Whether a job could be put on the board.
    May(String, oneshot::Sender<Asked>),
    /// To put a job on the board.
    Start(String, oneshot::Sender<Asked>),
}

impl Question {
    /// Answers; who asked may have gone.
    pub fn answer(self, board: &mut Board, now: Timestamp) {
        match self {
            Question::Jobs(told) => drop(told.send(jobs(board))),
            Question::Runs(told) => drop(told.send(board.history().runs().cloned().collect())),
            Question::May(job, told) => drop(told.send(board.may_ask(&job))),
            Question::Start(job, told) => drop(told.send(board.ask(&job, now))),
        }
    }
}

fn jobs(board: &Board) -> Vec<Standing> {
    let one = |(job, next, runs): (crate::daemon::job::Job, Option<Timestamp>, bool)| {
        let memory = board.history().memory(&job.name());
        Standing {
            job: job.name(),
            task: job.task,
            source: job.source.as_ref().map(ToString::to_string),
            next: next.map(|next| job.begins(next)),
            runs,
            good_at: memory.and_then(|memory| memory.good_at),
            failing_since: memory.and_then(|memory| memory.failing_since),
        }
    };
    board.jobs().into_iter().map(one).collect()
}
