//! One job, run apart: on a thread and a runtime of its own, watched from outside.
//!
//! Invariant: whatever a job does, a panic included, its end is told once; a job that shows no
//! progress or takes too long is asked to stop, and given up when it does not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use crate::clock::{Clock, Timestamp};
use crate::daemon::job::Run;
use crate::failure::{AnyFailure, Class};
use crate::job::Progress;

/// How deep a job may call.
const STACK_BYTES: usize = 16 << 20;
/// How many threads share the work of one job.
const WORKERS_MAX: usize = 4;
/// How long what a job has started may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// How long a job that was asked to stop may take.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(120);
/// The most warnings of one job that are kept.
const WARNINGS_MAX: usize = 100;

/// A wish that a job may hear: why it is to stop.
pub type Wish = watch::Receiver<Option<&'static str>>;

/// A snapshot that a job took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// When it was taken.
    pub at: Timestamp,
    /// Rows in it, put, and deleted.
    pub rows: [u64; 3],
    /// Bytes read, and stored.
    pub bytes: [u64; 2],
    /// The number of the ledger's head.
    pub head: u64,
    /// Tables that changed: rows put, and deleted.
    pub changed: Vec<(String, u64, u64)>,
    /// Bytes that the living snapshots of the source added to the storage.
    pub living_bytes: u64,
}

/// What a job has to tell.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was done, in a sentence.
    pub told: String,
    /// What was not as it should be, in sentences.
    pub warnings: Vec<String>,
    /// Objects that were found damaged.
    pub damaged: Vec<String>,
    /// The snapshot that was taken.
    pub taken: Option<Taken>,
    /// What is unusual in it, and the commands that show how to bring rows back.
    pub unusual: Option<(String, Vec<String>)>,
    /// Bytes of all packs in the storage, where they were listed.
    pub repository_bytes: Option<u64>,
    /// Bytes of packs that would go and are locked by the storage, where that was tried.
    pub locked_bytes: Option<u64>,
    /// Whether the source is frozen, where that was looked at.
    pub is_frozen: Option<bool>,
}

/// What does the work of a job.
pub trait Worker: Send + Sync {
    /// Does what `run` asks for, until `watch` wishes it to stop.
    fn run<'a>(
        &'a self,
        run: &'a Run,
        watch: Watch,
    ) -> LocalBoxFuture<'a, Result<Report, AnyFailure>>;
}

/// What ties a job to the daemon.
#[derive(Clone)]
pub struct Watch {
    /// Whether it is to stop, and why.
    pub wish: Wish,
    /// Where it shows that it goes on.
    pub beat: Arc<Beat>,
}

/// The sign of life of a job.
pub struct Beat {
    clock: Arc<dyn Clock>,
    /// Milliseconds on the clock that never goes back.
    last: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

impl Beat {
    fn new(clock: Arc<dyn Clock>) -> Beat {
        let beat = Beat {
            clock,
            last: AtomicU64::new(0),
            warnings: Mutex::default(),
        };
        beat.beat();
        beat
    }

    fn beat(&self) {
        let now = self.clock.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    fn silent(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.clock.elapsed().saturating_sub(last)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *warnings)
    }
}

impl Progress for Beat {
    fn stage(&self, name: &str, _: Option<u64>) {
        tracing::debug!("{name}");
        self.beat();
    }

    fn advance(&self, _: u64, _: u64) {
        self.beat();
    }

    fn end(&self) {
        self.beat();
    }

    fn warn(&self, sentence: &str) {
        self.beat();
        tracing::warn!("{sentence}");
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX {
            warnings.push(sentence.to_owned());
        }
    }
}

/// A job that ended.
pub struct Ended {
    /// Which.
    pub run: Run,
    /// When it began.
    pub started_at: Timestamp,
    /// What it told.
    pub outcome: Result<Report, AnyFailure>,
}

/// A job that runs.
pub struct Running {
    /// Which.
    pub run: Run,
    /// When it began.
    pub started_at: Timestamp,
    begun: Duration,
    stop: watch::Sender<Option<&'static str>>,
    asked: Option<Duration>,
    beat: Arc<Beat>,
}

/// Starts `run`; its end comes through `ended`.
pub fn start(
    run: Run,
    worker: Arc<dyn Worker>,
    clock: &Arc<dyn Clock>,
    ended: mpsc::UnboundedSender<Ended>,
) -> Running {
    let (stop, wish) = watch::channel(None);
    let beat = Arc::new(Beat::new(clock.clone()));
    let watch = Watch {
        wish,
        beat: beat.clone(),
    };
    let started_at = clock.now();
    let running = Running {
        run: run.clone(),
        started_at,
        begun: clock.elapsed(),
        stop,
        asked: None,
        beat,
    };
    let (of_thread, told) = (run.clone(), ended.clone());
    let name = run.job.clone();
    let spawned = thread::Builder::new()
        .name(name)
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let run = of_thread;
            let outcome = alone(&run, worker.as_ref(), watch);
            let end = Ended {
                run,
                started_at,
                outcome,
            };
            // The daemon is ending when nobody listens any more.
            let _ = told.send(end);
        });
    if let Err(error) = spawned {
        let what = format!("no thread can be started: {error}");
        let outcome = Err(AnyFailure::new(Class::Transient, what, None));
        let _ = ended.send(Ended {
            run,
            started_at,
            outcome,
        });
    }
    running
}

/// Does the work, and makes a failure of a panic.
fn alone(run: &Run, worker: &dyn Worker, watch: Watch) -> Result<Report, AnyFailure> {
    let beat = watch.beat.clone();
    let work = || {
        let workers = thread::available_parallelism().map_or(2, |count| count.get());
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers.clamp(2, WORKERS_MAX))
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            let what = format!("no threads can be started: {error}");
            AnyFailure::new(Class::Transient, what, None)
        })?;
        let done = runtime.block_on(worker.run(run, watch));
        runtime.shutdown_timeout(ENDING);
        done
    };
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(AnyFailure::new(
            Class::Bug,
            format!("{run} met a mistake of rowvault"),
            Some("report the line that the log has about it".into()),
        ))
    });
    outcome.map(|mut report| {
        report.warnings.extend(beat.warnings());
        report
    })
}

impl Running {
    /// Asks it to stop.
    pub fn stop(&mut self, why: &'static str, clock: &dyn Clock) {
        if self.asked.is_none() {
            self.asked = Some(clock.elapsed());
            self.stop.send_replace(Some(why));
        }
    }

    /// Asks it to stop where it takes too long or shows no progress; whether it is to be given up,
    /// since it did not.
    pub fn check(&mut self, stall: Duration, clock: &dyn Clock) -> bool {
        let now = clock.elapsed();
        if now.saturating_sub(self.begun) > self.run.deadline {
            self.stop("its deadline", clock);
        } else if self.beat.silent() > stall {
            self.stop("its silence", clock);
        }
        let asked = self.asked;
        asked.is_some_and(|asked| now.saturating_sub(asked) > GIVEN_UP_AFTER)
    }
}
