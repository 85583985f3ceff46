//! The loop of the daemon: moves the board on, starts jobs, hears their ends and the signals.
//!
//! Invariant: the history is on disk before what it says is done; a configuration that cannot be
//! meant changes nothing; after SIGTERM every job is asked to stop and none is started.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::daemon::board::{Board, Notice};
use crate::daemon::desk::Desk;
use crate::daemon::ground::{Ground, Setup};
use crate::daemon::history::{History, Past};
use crate::daemon::http::{Listening, Window};
use crate::daemon::job::Verdict;
use crate::daemon::question::Question;
use crate::daemon::runner::{self, Ended, Running, Wish};
use crate::failure::{AnyFailure, Class};

/// The file of the history.
const HISTORY_FILE: &str = "history.json";
/// How often the loop looks at the clock, however far the next run is.
const TICK: Duration = Duration::from_secs(1);
/// How long jobs may take to stop with the daemon.
const PATIENCE: Duration = Duration::from_secs(18);

/// Where setups come from.
pub trait Plans {
    /// Reads the configuration anew.
    ///
    /// # Errors
    /// Invalid: it cannot be meant.
    fn setup(&self) -> Result<Setup, AnyFailure>;
}

struct Daemon<'a> {
    ground: &'a Ground,
    setup: Setup,
    board: Board,
    running: Vec<Running>,
    desk: Desk,
    window: Arc<Window>,
    listening: Option<Listening>,
    ended: mpsc::UnboundedSender<Ended>,
}

/// Runs until `wish` says to stop.
///
/// # Errors
/// Busy: a daemon with this state runs already; Invalid: the first configuration.
pub async fn serve(ground: Ground, plans: &dyn Plans, mut wish: Wish) -> Result<(), AnyFailure> {
    let _lock = ground
        .state
        .lock("daemon", "a daemon with this state directory")?;
    let setup = plans.setup()?;
    let history = read_history(&ground)?;
    let now = ground.clock.now();
    let board = Board::new(setup.jobs.clone(), setup.bounds, history, now);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let (window, mut questions) = Window::new(ground.clock.clone());
    let window = Arc::new(window);
    window.metrics.remember(&setup.jobs, board.history());
    let listening = match &setup.http {
        Some(plan) => Some(Listening::open(plan, window.clone()).await?),
        None => None,
    };
    if let Some(http) = &listening {
        tracing::info!("listening at {}://{}", http.scheme(), http.address);
    }
    let mut daemon = Daemon {
        ground: &ground,
        setup,
        board,
        running: Vec::new(),
        desk: Desk::open(&ground)?,
        window,
        listening,
        ended,
    };
    let mut reload = hangups()?;
    daemon.tell_next();
    tell_system(&[NotifyState::Ready]);
    loop {
        daemon.start_due();
        daemon.watch();
        daemon.desk.repeat(&ground, &daemon.setup);
        daemon.show();
        let pause = daemon.pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(end) = ends.recv() => daemon.note(end),
            Some(question) = questions.recv() => daemon.answer(question),
            _ = reload.recv() => daemon.reload(plans),
            _ = wish.wait_for(Option::is_some) => break,
        }
        tell_system(&[NotifyState::Watchdog]);
    }
    tell_system(&[NotifyState::Stopping]);
    daemon.stop(&mut ends).await;
    Ok(())
}

fn hangups() -> Result<Signal, AnyFailure> {
    signal(SignalKind::hangup()).map_err(|error| {
        let what = format!("SIGHUP cannot be heard: {error}");
        AnyFailure::new(Class::Transient, what, None)
    })
}

/// Tells the service manager, where there is one.
fn tell_system(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {error}");
    }
}

fn read_history(ground: &Ground) -> Result<History, AnyFailure> {
    let Some(bytes) = ground.state.read(HISTORY_FILE)? else {
        return Ok(History::default());
    };
    Ok(History::read(&bytes).unwrap_or_else(|| {
        tracing::warn!("the history of jobs cannot be read and begins anew");
        History::default()
    }))
}

impl Daemon<'_> {
    /// Notes the history. A disk that is full must not keep backups from being taken.
    fn save(&self) {
        let bytes = self.board.history().write();
        let random = self.ground.random.as_ref();
        if let Err(error) = self.ground.state.write(HISTORY_FILE, &bytes, random) {
            tracing::warn!("the history of jobs was not written: {error}");
        }
    }

    fn start_due(&mut self) {
        let now = self.ground.clock.now();
        let (runs, notices) = self.board.start(now);
        if !runs.is_empty() || !notices.is_empty() {
            self.save();
        }
        for notice in notices {
            tell_notice(&notice);
            self.desk.notice(self.ground, &self.setup, &notice);
        }
        for run in runs {
            tracing::info!("{run} begins");
            let worker = self.setup.worker.clone();
            let clock = &self.ground.clock;
            let running = runner::start(run, worker, clock, self.ended.clone());
            self.running.push(running);
        }
    }

    /// Looks after what runs.
    fn watch(&mut self) {
        let clock = self.ground.clock.clone();
        let stall = self.setup.stall;
        let mut lost = Vec::new();
        self.running.retain_mut(|running| {
            let is_lost = running.check(stall, clock.as_ref());
            if is_lost {
                lost.push((running.run.clone(), running.started_at));
            }
            !is_lost
        });
        for (run, started_at) in lost {
            let what = format!("{run} did not stop when it was asked to, and is given up");
            let outcome = Err(AnyFailure::new(
                Class::Transient,
                what,
                Some("see what it waits for, and restart the daemon".into()),
            ));
            self.settle(Ended {
                run,
                started_at,
                outcome,
            });
        }
    }

    fn note(&mut self, end: Ended) {
        let before = self.running.len();
        let same =
            |running: &Running| running.run == end.run && running.started_at == end.started_at;
        self.running.retain(|running| !same(running));
        // What was given up has been settled.
        if self.running.len() < before {
            self.settle(end);
        }
    }

    fn settle(&mut self, end: Ended) {
        let now = self.ground.clock.now();
        let span = (end.started_at, now);
        let run = &end.run;
        let past = match &end.outcome {
            Ok(report) => Past::good(run, report.told.clone(), span),
            Err(error) => Past::failed(run, error.class(), error.to_string(), span),
        };
        let verdict = self.board.end(run, past, now);
        self.save();
        self.desk.settled(self.ground, &self.setup, &end, verdict);
        self.window.metrics.ended(&end, now);
        match (&end.outcome, verdict) {
            (Ok(report), _) => {
                tracing::info!("{run}: {}", report.told);
                for warning in &report.warnings {
                    tracing::warn!("{run}: {warning}");
                }
            }
            (Err(error), Verdict::Again { at }) => {
                let at = at.rfc3339();
                tracing::warn!("{run} failed and is tried again at {at}: {error}");
            }
            (Err(error), _) => {
                let hint = error
                    .hint()
                    .map_or(String::new(), |hint| format!("; {hint}"));
                tracing::error!("{run} failed: {error}{hint}");
            }
        }
    }

    fn answer(&mut self, question: Question) {
        question.answer(&mut self.board, self.ground.clock.now());
    }

    fn reload(&mut self, plans: &dyn Plans) {
        match plans.setup() {
            Ok(setup) => {
                let now = self.ground.clock.now();
                self.board.replace(setup.jobs.clone(), setup.bounds, now);
                self.setup = setup;
                if let Some(listening) = &self.listening {
                    listening.replace(self.setup.http.as_ref());
                }
                tracing::info!("the configuration was read anew");
                self.tell_next();
            }
            Err(error) => {
                tracing::error!("the configuration is refused, and the old one stays: {error}");
            }
        }
    }

    fn tell_next(&self) {
        for (job, next, _) in self.board.jobs() {
            if let (Some(next), Some(schedule)) = (next, job.schedule()) {
                let local = schedule.local(next);
                tracing::info!("{}: next at {} ({local})", job.name(), next.rfc3339());
            }
        }
    }

    /// Shows that the loop turns, and what stands on the board.
    fn show(&self) {
        self.window.turn();
        self.window.metrics.planned(&self.board.jobs());
    }

    /// How long nothing happens by itself, as far as is known.
    fn pause(&self) -> Duration {
        let now = self.ground.clock.now();
        let wake = self.board.wake().map(|at| at.since(now));
        wake.map_or(TICK, |wake| wake.min(TICK))
    }

    /// Stops what runs. A run that was cut off stays open in the history, and the next daemon
    /// takes it up again.
    async fn stop(&mut self, ends: &mut mpsc::UnboundedReceiver<Ended>) {
        for running in &mut self.running {
            running.stop("SIGTERM", self.ground.clock.as_ref());
        }
        let all = async {
            while !self.running.is_empty() {
                let Some(end) = ends.recv().await else { break };
                self.running.retain(|running| running.run != end.run);
                match &end.outcome {
                    // What had ended by itself did so.
                    Ok(_) => self.settle(end),
                    Err(error) => tracing::warn!("{}: {error}", end.run),
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("some jobs did not stop in time");
        }
        self.desk.close().await;
        self.save();
    }
}

fn tell_notice(notice: &Notice) {
    match notice {
        Notice::Missed { job, planned } => {
            let planned = planned.rfc3339();
            tracing::warn!("{job} missed its run of {planned} and makes up for it now");
        }
        Notice::LeftOut { job, planned, next } => {
            let (planned, next) = (planned.rfc3339(), next.rfc3339());
            tracing::warn!("{job} missed its run of {planned}; the next, at {next}, is near");
        }
        Notice::ClockSetBack { job, reached } => {
            let reached = reached.rfc3339();
            tracing::warn!("{job} was run at {reached}, which has not come: the clock was wrong");
        }
    }
}
