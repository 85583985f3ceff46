//! The board: which job is due, which waits, which runs, and what comes of a failure.
//!
//! Pure but for the history that it keeps: instants go in, runs and notices come out. Invariant:
//! of one job one run stands on the board at most, and so of one source; no planned instant is
//! started twice, whatever the clock does.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::daemon::history::{History, Past};
use crate::daemon::job::{Job, Run, Trigger, Verdict};
use crate::failure::Class;
use crate::schedule::Schedule;

/// A run that begins later than this after its instant was missed.
const MISSED_AFTER: Duration = Duration::from_secs(120);
/// A clock that is behind what was reached by more than this was wrong then.
const STEP_BACK_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest wait before a job that failed is tried again.
const RETRY_MAX: Duration = Duration::from_secs(1800);
/// A missed run is left out when less than this part of the time to the next one remains.
const NEAR_PART: u32 = 10;

/// Bounds over all jobs.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How many run at once.
    pub jobs: usize,
    /// How long until the first further attempt.
    pub retry: Duration,
}

/// Something that people may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A run was missed and is made up for now.
    Missed {
        /// The job.
        job: String,
        /// The first instant that was missed.
        planned: Timestamp,
    },
    /// A run was missed and is left out, since the next one is near.
    LeftOut {
        /// The job.
        job: String,
        /// The instant.
        planned: Timestamp,
        /// The next one.
        next: Timestamp,
    },
    /// The clock was set back so far that what was reached cannot be believed.
    ClockSetBack {
        /// The job.
        job: String,
        /// What was reached.
        reached: Timestamp,
    },
}

#[derive(Clone, Debug)]
enum Place {
    Idle,
    /// It waits for a place to run.
    Waiting(Run),
    Running(Run),
    /// It failed, and is tried again.
    Again(Run, Timestamp),
}

struct Slot {
    job: Job,
    place: Place,
    /// The next planned instant.
    due: Option<Timestamp>,
    /// Since when it could have run.
    free_since: Timestamp,
    /// The configuration does not have it any more.
    is_leaving: bool,
}

/// What is due, and what runs.
pub struct Board {
    slots: Vec<Slot>,
    bounds: Bounds,
    history: History,
}

impl Board {
    /// A board of `jobs` that goes on where `history` ends.
    pub fn new(jobs: Vec<Job>, bounds: Bounds, history: History, now: Timestamp) -> Board {
        let mut board = Board {
            slots: Vec::new(),
            bounds,
            history,
        };
        board.replace(jobs, bounds, now);
        board.resume(now);
        board
    }

    /// Puts other jobs on the board; what runs goes on, and what is known of a job stays.
    pub fn replace(&mut self, jobs: Vec<Job>, bounds: Bounds, now: Timestamp) {
        self.bounds = bounds;
        let mut old = std::mem::take(&mut self.slots);
        for job in jobs {
            let name = job.name();
            let before = old.iter().position(|slot| slot.job.name() == name);
            let before = before.map(|at| old.swap_remove(at));
            let is_new = before.is_none();
            let mut slot = Slot {
                place: match (&job.trigger, &before) {
                    (Trigger::Start, None) => Place::Waiting(run_of(&job, now)),
                    _ => Place::Idle,
                },
                due: None,
                // Before this daemon nothing of ours kept it from running.
                free_since: Timestamp::default(),
                is_leaving: false,
                job,
            };
            if let Some(before) = before {
                slot.place = before.place;
                slot.free_since = before.free_since;
            }
            if is_new {
                self.history.begin(&name, now);
            }
            slot.due = self.due_of(&slot.job);
            self.slots.push(slot);
        }
        for mut slot in old {
            if matches!(slot.place, Place::Running(_)) {
                slot.is_leaving = true;
                self.slots.push(slot);
            }
        }
    }

    /// Takes up again what a daemon before this one had begun and not ended.
    fn resume(&mut self, now: Timestamp) {
        for slot in &mut self.slots {
            let Some(planned) = self.history.open(&slot.job.name()) else {
                continue;
            };
            let next = slot.due.filter(|next| *next > now);
            if slot.job.schedule().is_some() && !is_near(planned, next, now) {
                let run = run_of(&slot.job, planned);
                slot.place = Place::Waiting(run);
            } else {
                self.history.close(&slot.job.name());
            }
        }
    }

    fn due_of(&self, job: &Job) -> Option<Timestamp> {
        let schedule = job.schedule()?;
        schedule.next(self.history.reached(&job.name()))
    }

    /// What is to be started now, and what is to be told.
    pub fn start(&mut self, now: Timestamp) -> (Vec<Run>, Vec<Notice>) {
        let mut notices = Vec::new();
        for at in 0..self.slots.len() {
            self.advance(at, now, &mut notices);
        }
        let mut runs = Vec::new();
        let mut waiting: Vec<usize> = (0..self.slots.len())
            .filter(|at| matches!(self.slots[*at].place, Place::Waiting(_)))
            .collect();
        waiting.sort_by_key(|at| match &self.slots[*at].place {
            Place::Waiting(run) => run.planned,
            _ => now,
        });
        for at in waiting {
            if self.running().count() >= self.bounds.jobs {
                break;
            }
            let slot = &self.slots[at];
            let lane = &slot.job.source;
            if self.running().any(|run| run.source == *lane) {
                continue;
            }
            let Place::Waiting(run) = slot.place.clone() else {
                continue;
            };
            self.history.start(&run.job, run.planned);
            self.slots[at].place = Place::Running(run.clone());
            runs.push(run);
        }
        (runs, notices)
    }

    /// Lets one job see what time it is.
    fn advance(&mut self, at: usize, now: Timestamp, notices: &mut Vec<Notice>) {
        let slot = &self.slots[at];
        match &slot.place {
            Place::Again(run, when) if *when <= now => {
                self.slots[at].place = Place::Waiting(run.clone());
            }
            Place::Idle if !slot.is_leaving => self.look(at, now, notices),
            _ => {}
        }
    }

    /// Whether an idle job is due.
    fn look(&mut self, at: usize, now: Timestamp, notices: &mut Vec<Notice>) {
        let slot = &self.slots[at];
        let Some(schedule) = slot.job.schedule().cloned() else {
            return;
        };
        let name = slot.job.name();
        let reached = self.history.reached(&name);
        if reached.since(now) > STEP_BACK_MAX {
            let job = name.clone();
            notices.push(Notice::ClockSetBack { job, reached });
            self.history.reach(&name, now);
            self.slots[at].due = schedule.next(now);
        }
        let slot = &self.slots[at];
        let Some(due) = slot.due.filter(|due| slot.job.begins(*due) <= now) else {
            return;
        };
        let (planned, next) = newest(&schedule, due, now);
        self.history.reach(&name, planned);
        self.slots[at].due = next;
        let slot = &mut self.slots[at];
        let is_late = now.since(slot.job.begins(due)) > MISSED_AFTER;
        let was_missed = is_late && due >= slot.free_since;
        let job = name.clone();
        if is_late && is_near(planned, next, now) {
            let next = next.unwrap_or(planned);
            notices.push(Notice::LeftOut { job, planned, next });
            return;
        }
        if was_missed {
            notices.push(Notice::Missed { job, planned: due });
        }
        // A run that a clock set back by days would repeat is in the history.
        if !self.history.knows(&name, planned) {
            slot.place = Place::Waiting(run_of(&slot.job, planned));
            self.history.start(&name, planned);
        }
    }

    fn running(&self) -> impl Iterator<Item = &Run> {
        self.slots.iter().filter_map(|slot| match &slot.place {
            Place::Running(run) => Some(run),
            _ => None,
        })
    }

    /// Notes how a run ended, and what becomes of it.
    pub fn end(&mut self, run: &Run, past: Past, now: Timestamp) -> Verdict {
        let class = past.class;
        let name = &run.job;
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| matches!(&slot.place, Place::Running(running) if running.job == *name));
        let Some(slot) = slot else {
            self.history.end(name, past, Verdict::Failed);
            return Verdict::Failed;
        };
        let verdict = match class {
            None => Verdict::Done,
            Some(class) => judge(slot, run, class, self.bounds.retry, now),
        };
        slot.free_since = now;
        slot.place = match verdict {
            Verdict::Again { at } => {
                let attempt = run.attempt + 1;
                Place::Again(
                    Run {
                        attempt,
                        ..run.clone()
                    },
                    at,
                )
            }
            Verdict::Done | Verdict::Failed => Place::Idle,
        };
        self.history.end(name, past, verdict);
        self.slots
            .retain(|slot| !slot.is_leaving || matches!(slot.place, Place::Running(_)));
        if verdict == Verdict::Done {
            self.follow(name, run.planned);
        }
        verdict
    }

    /// Moves the jobs that come after the one named.
    fn follow(&mut self, name: &str, planned: Timestamp) {
        for slot in &mut self.slots {
            let follows = matches!(&slot.job.trigger, Trigger::After(before) if before == name);
            if follows && matches!(slot.place, Place::Idle) {
                slot.place = Place::Waiting(run_of(&slot.job, planned));
            }
        }
    }

    /// Whether a run could be put on the board.
    pub fn may_ask(&self, name: &str) -> Asked {
        match self.slots.iter().find(|slot| slot.job.name() == name) {
            None => Asked::Unknown,
            Some(slot) if slot.is_leaving => Asked::Unknown,
            Some(slot) if matches!(slot.place, Place::Waiting(_) | Place::Running(_)) => {
                Asked::Already
            }
            Some(_) => Asked::Waiting,
        }
    }

    /// Puts a run on the board that a person asked for; whether there is such a job, and it was
    /// not on the board already.
    pub fn ask(&mut self, name: &str, now: Timestamp) -> Asked {
        let asked = self.may_ask(name);
        let slot = self.slots.iter_mut().find(|slot| slot.job.name() == name);
        if let (Asked::Waiting, Some(slot)) = (asked, slot) {
            slot.place = Place::Waiting(run_of(&slot.job, now));
        }
        asked
    }

    /// The next instant at which something happens by itself.
    pub fn wake(&self) -> Option<Timestamp> {
        let wakes = self.slots.iter().filter_map(|slot| match &slot.place {
            Place::Again(_, at) => Some(*at),
            Place::Idle if !slot.is_leaving => slot.due.map(|due| slot.job.begins(due)),
            _ => None,
        });
        wakes.min()
    }

    /// Every job with its next planned instant, and whether it runs.
    pub fn jobs(&self) -> Vec<(Job, Option<Timestamp>, bool)> {
        let one = |slot: &Slot| {
            let runs = matches!(slot.place, Place::Running(_));
            (slot.job.clone(), slot.due, runs)
        };
        self.slots.iter().map(one).collect()
    }

    /// What is known of the past.
    pub fn history(&self) -> &History {
        &self.history
    }
}

/// What came of asking for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It waits for its place.
    Waiting,
    /// It waits or runs already.
    Already,
    /// There is no such job.
    Unknown,
}

fn run_of(job: &Job, planned: Timestamp) -> Run {
    Run {
        job: job.name(),
        task: job.task,
        source: job.source.clone(),
        planned,
        attempt: 1,
        deadline: job.deadline,
    }
}

/// The last instant from `due` on that has come, and the one after it.
fn newest(schedule: &Schedule, due: Timestamp, now: Timestamp) -> (Timestamp, Option<Timestamp>) {
    match schedule.next(due) {
        Some(next) if next <= now => {
            let planned = schedule.last(due, now).unwrap_or(next);
            (planned, schedule.next(planned))
        }
        next => (due, next),
    }
}

/// Whether the next run is so near that the one of `planned` need not be made up for.
fn is_near(planned: Timestamp, next: Option<Timestamp>, now: Timestamp) -> bool {
    next.is_some_and(|next| next.since(now) < next.since(planned) / NEAR_PART)
}

/// Whether a run that failed is tried again, and when: only what may work the next time, only
/// before its deadline, and only before the next run.
fn judge(slot: &Slot, run: &Run, class: Class, retry: Duration, now: Timestamp) -> Verdict {
    let may_work = matches!(class, Class::Transient | Class::Busy | Class::Unsettled);
    let doubled = retry.saturating_mul(1 << (run.attempt - 1).min(16));
    let at = now.plus(doubled.min(RETRY_MAX.max(retry)));
    let begun = slot.job.begins(run.planned);
    let in_time = at <= begun.plus(slot.job.deadline);
    let before_next = slot.due.is_none_or(|due| at < slot.job.begins(due));
    match may_work && in_time && before_next && !slot.is_leaving {
        true => Verdict::Again { at },
        false => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::job::Task;
    use chrono_tz::Tz;

    const NONE: [i64; 0] = [];
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const BOUNDS: Bounds = Bounds {
        jobs: 2,
        retry: Duration::from_secs(60),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn job(task: Task, source: &str, schedule: &str) -> Job {
        Job {
            task,
            source: Some(source.parse().unwrap()),
            trigger: Trigger::At(Schedule::read(schedule, Tz::UTC).unwrap(), Duration::ZERO),
            deadline: Duration::from_secs(6 * 3600),
        }
    }

    fn daily() -> Vec<Job> {
        vec![job(Task::Backup, "crm", "0 2 * * *")]
    }

    fn end(board: &mut Board, run: &Run, class: Option<Class>, now: Timestamp) -> Verdict {
        let past = match class {
            None => Past::good(run, String::new(), (now, now)),
            Some(class) => Past::failed(run, class, String::new(), (now, now)),
        };
        board.end(run, past, now)
    }

    /// Starts what is due and ends it at once; gives what was planned when.
    fn step(board: &mut Board, now: i64) -> (Vec<i64>, Vec<Notice>) {
        let (runs, notices) = board.start(at(now));
        for run in &runs {
            end(board, run, None, at(now));
        }
        let planned = runs.iter().map(|run| run.planned.seconds());
        (planned.collect(), notices)
    }

    /// A daemon that begins anew with what the one before left on disk.
    fn restarted(board: &Board, jobs: Vec<Job>, now: i64) -> Board {
        let history = History::read(&board.history().write()).unwrap();
        Board::new(jobs, BOUNDS, history, at(now))
    }

    #[test]
    fn run_that_was_missed_is_made_up_for_once() {
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        assert_eq!(step(&mut board, 2 * HOUR).0, [2 * HOUR]);
        let mut board = restarted(&board, daily(), 4 * DAY + 5 * HOUR);
        let (runs, notices) = step(&mut board, 4 * DAY + 5 * HOUR);
        assert_eq!(runs, [4 * DAY + 2 * HOUR]);
        let planned = at(DAY + 2 * HOUR);
        let job = "backup crm".to_owned();
        assert_eq!(notices, [Notice::Missed { job, planned }]);
        assert_eq!(step(&mut board, 4 * DAY + 6 * HOUR).0, NONE);
        assert_eq!(step(&mut board, 5 * DAY + 2 * HOUR).0, [5 * DAY + 2 * HOUR]);
    }

    #[test]
    fn missed_run_is_left_out_when_the_next_one_is_near() {
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        let (runs, notices) = step(&mut board, DAY + HOUR);
        assert_eq!(runs, NONE);
        assert!(
            matches!(&notices[..], [Notice::LeftOut { next, .. }] if *next == at(DAY + 2 * HOUR))
        );
        assert_eq!(step(&mut board, DAY + 2 * HOUR).0, [DAY + 2 * HOUR]);
    }

    #[test]
    fn clock_that_is_set_back_repeats_nothing() {
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        assert_eq!(step(&mut board, 2 * HOUR).0, [2 * HOUR]);
        assert_eq!(step(&mut board, HOUR).0, NONE);
        assert_eq!(step(&mut board, 2 * HOUR + 1).0, NONE);
        let mut board = restarted(&board, daily(), HOUR);
        assert_eq!(step(&mut board, 2 * HOUR + 1).0, NONE);
        assert_eq!(step(&mut board, DAY + 2 * HOUR).0, [DAY + 2 * HOUR]);
    }

    #[test]
    fn clock_that_was_years_ahead_stops_no_job_for_years() {
        let year = 365 * DAY;
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        assert_eq!(step(&mut board, 9 * year + 2 * HOUR).0.len(), 1);
        let (runs, notices) = step(&mut board, 3 * HOUR);
        assert_eq!(runs, NONE);
        assert!(matches!(notices[..], [Notice::ClockSetBack { .. }]));
        assert_eq!(step(&mut board, DAY + 2 * HOUR).0, [DAY + 2 * HOUR]);
    }

    #[test]
    fn jobs_of_one_source_run_one_after_the_other_and_all_within_the_bound() {
        let jobs = ["a", "b", "c"].map(|name| job(Task::Backup, name, "0 2 * * *"));
        let mut jobs = jobs.to_vec();
        jobs.push(job(Task::Verify, "a", "0 2 * * *"));
        let mut board = Board::new(jobs, BOUNDS, History::default(), at(0));
        let (first, _) = board.start(at(2 * HOUR));
        let names: Vec<&str> = first.iter().map(|run| run.job.as_str()).collect();
        assert_eq!(names, ["backup a", "backup b"]);
        assert_eq!(board.start(at(2 * HOUR + 1)).0, []);
        end(&mut board, &first[1], None, at(2 * HOUR + 2));
        let (second, _) = board.start(at(2 * HOUR + 3));
        assert_eq!(second[0].job, "backup c");
        end(&mut board, &second[0], None, at(2 * HOUR + 4));
        assert_eq!(board.start(at(2 * HOUR + 5)).0, [], "source a is busy");
        end(&mut board, &first[0], None, at(2 * HOUR + 6));
        assert_eq!(board.start(at(2 * HOUR + 7)).0[0].job, "verify a");
    }

    #[test]
    fn failure_that_may_pass_is_tried_again_with_growing_pauses_until_the_next_run() {
        let jobs = vec![job(Task::Backup, "crm", "0 * * * *")];
        let mut board = Board::new(jobs, BOUNDS, History::default(), at(0));
        let mut now = HOUR;
        let mut pauses = Vec::new();
        loop {
            let (runs, _) = board.start(at(now));
            assert_eq!(runs[0].planned, at(HOUR));
            match end(&mut board, &runs[0], Some(Class::Transient), at(now)) {
                Verdict::Again { at } => {
                    pauses.push(at.seconds() - now);
                    now = at.seconds();
                }
                verdict => break assert_eq!(verdict, Verdict::Failed),
            }
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960]);
        assert_eq!(step(&mut board, 2 * HOUR).0, [2 * HOUR]);
        assert_eq!(board.history().memory("backup crm").unwrap().failures, 0);
        let (runs, _) = board.start(at(3 * HOUR));
        let verdict = end(&mut board, &runs[0], Some(Class::Denied), at(3 * HOUR));
        assert_eq!(verdict, Verdict::Failed);
    }

    #[test]
    fn run_that_a_crash_cut_off_is_taken_up_again() {
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        assert_eq!(board.start(at(2 * HOUR)).0.len(), 1);
        let mut board = restarted(&board, daily(), 3 * HOUR);
        assert_eq!(step(&mut board, 3 * HOUR).0, [2 * HOUR]);
        assert_eq!(step(&mut board, 4 * HOUR).0, NONE);
        let mut board = restarted(&board, daily(), 5 * HOUR);
        assert_eq!(step(&mut board, 5 * HOUR).0, NONE);
    }

    #[test]
    fn job_that_follows_another_runs_after_a_success_and_after_no_failure() {
        let mut jobs = daily();
        jobs.push(Job {
            trigger: Trigger::After("backup crm".into()),
            ..job(Task::Forget, "crm", "@daily")
        });
        let mut board = Board::new(jobs, BOUNDS, History::default(), at(0));
        assert_eq!(step(&mut board, 2 * HOUR).0, [2 * HOUR]);
        let (runs, _) = board.start(at(2 * HOUR + 1));
        assert_eq!(
            (runs[0].task, runs[0].planned),
            (Task::Forget, at(2 * HOUR))
        );
        end(&mut board, &runs[0], None, at(2 * HOUR + 2));
        let (runs, _) = board.start(at(DAY + 2 * HOUR));
        end(
            &mut board,
            &runs[0],
            Some(Class::Corrupt),
            at(DAY + 2 * HOUR),
        );
        assert_eq!(step(&mut board, DAY + 2 * HOUR + 1).0, NONE);
    }

    #[test]
    fn other_jobs_leave_alone_what_runs() {
        let mut board = Board::new(daily(), BOUNDS, History::default(), at(0));
        let (runs, _) = board.start(at(2 * HOUR));
        let others = vec![job(Task::Backup, "shop", "0 2 * * *")];
        board.replace(others, BOUNDS, at(2 * HOUR));
        assert_eq!(board.jobs().len(), 2, "what runs stays");
        assert_eq!(end(&mut board, &runs[0], None, at(3 * HOUR)), Verdict::Done);
        assert_eq!(board.jobs().len(), 1);
        assert_eq!(step(&mut board, DAY + 2 * HOUR).0, [DAY + 2 * HOUR]);
        assert_eq!(board.ask("backup shop", at(DAY + 3 * HOUR)), Asked::Waiting);
        assert_eq!(board.ask("backup crm", at(DAY + 3 * HOUR)), Asked::Unknown);
        assert_eq!(step(&mut board, DAY + 3 * HOUR).0, [DAY + 3 * HOUR]);
    }
}
