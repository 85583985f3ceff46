//! The loop of the daemon through hours in seconds: a storage that is down, jobs that panic or hang.
//!
//! The clock is moved on by the test, a second each time that nothing is left to do; backups are
//! real ones, into storages that fail when they are told to.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, LocalBoxFuture};
use rowvault::clock::{ManualClock, Timestamp};
use rowvault::daemon::board::Bounds;
use rowvault::daemon::ground::{Ground, Setup};
use rowvault::daemon::job::{Job, Run, Task, Trigger};
use rowvault::daemon::runner::{Report, Watch, Wish, Worker};
use rowvault::daemon::serve::{Plans, serve};
use rowvault::failure::{AnyFailure, Class};
use rowvault::job::{Progress, backup};
use rowvault::notify::{Channel, Message};
use rowvault::random::SystemRandom;
use rowvault::schedule::Schedule;
use rowvault::source::open::{self, SourceOptions, SourceUrl};
use rowvault::state::State;
use rowvault::store::fault::{Failing, Fault, Rule, When};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::tiny::{Holding, Tiny, directory};

/// Noon of a Friday.
const BEGIN: Timestamp = Timestamp(1_795_176_000_000_000);
const HOUR: u64 = 3600;

/// Hears every message.
#[derive(Default)]
struct Ear(Mutex<Vec<Message>>);

impl Channel for Ear {
    fn name(&self) -> String {
        "the ear".into()
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), String>> {
        self.0.lock().unwrap().push(message.clone());
        Box::pin(async { Ok(()) })
    }
}

/// A source with a repository of its own.
struct Place {
    tiny: Tiny,
    file: PathBuf,
    _directory: TempDir,
}

impl Place {
    async fn make(seed: u64) -> Place {
        let directory = directory();
        let file = directory.path().join("live.db");
        let db = rusqlite::Connection::open(&file).unwrap();
        db.execute_batch(
            "CREATE TABLE people(id INTEGER PRIMARY KEY); INSERT INTO people VALUES (1);",
        )
        .unwrap();
        Place {
            tiny: Tiny::make(seed, Holding::OneDay).await,
            file,
            _directory: directory,
        }
    }

    async fn backup(&self) -> Result<Report, AnyFailure> {
        let Tiny {
            machine,
            storage,
            key,
            state,
        } = &self.tiny;
        let opened = machine.open(storage, key, state.path()).await?;
        let url = SourceUrl::Sqlite(self.file.clone());
        let mut source = open::source(&url, &SourceOptions::default())?;
        let request = backup::Request {
            name: "live".parse().unwrap(),
            tags: Vec::new(),
            lasting: backup::LASTING,
            reading: backup::Reading::Changes,
        };
        let taken = backup::run(&opened, source.as_mut(), &request).await?;
        Ok(Report {
            told: format!("snapshot {}", taken.record.id.short()),
            ..Report::default()
        })
    }
}

/// Backs up `crm` and `shop`; panics where it should verify; hangs where it should drill or prune.
struct Hands {
    crm: Place,
    shop: Place,
    busy: AtomicUsize,
    /// What jobs that hang hear, and whether they have ended.
    hung: Mutex<Vec<(Wish, Arc<AtomicBool>)>>,
}

impl Hands {
    /// Whether real time has to pass before the clock may move on.
    fn is_busy(&self) -> bool {
        let hung = self.hung.lock().unwrap();
        let mut asked = hung.iter().filter(|(wish, _)| wish.borrow().is_some());
        self.busy.load(Ordering::SeqCst) > 0
            || asked.any(|(_, ended)| !ended.load(Ordering::SeqCst))
    }
}

impl Worker for Hands {
    fn run<'a>(
        &'a self,
        run: &'a Run,
        mut watch: Watch,
    ) -> LocalBoxFuture<'a, Result<Report, AnyFailure>> {
        Box::pin(async move {
            let ended = Arc::new(AtomicBool::new(false));
            if matches!(run.task, Task::Prune | Task::Drill) {
                let mut hung = self.hung.lock().unwrap();
                hung.push((watch.wish.clone(), ended.clone()));
            }
            let done = match run.task {
                Task::Backup => {
                    self.busy.fetch_add(1, Ordering::SeqCst);
                    let of_crm = run.job == "backup crm";
                    let place = if of_crm { &self.crm } else { &self.shop };
                    let done = place.backup().await;
                    self.busy.fetch_sub(1, Ordering::SeqCst);
                    done
                }
                // A panic that prints no trace, which would take its time.
                Task::Verify => std::panic::resume_unwind(Box::new("a mistake")),
                // It goes on for ever, and shows it.
                Task::Prune => loop {
                    watch.beat.advance(0, 0);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if let Some(why) = *watch.wish.borrow() {
                        break stopped(why);
                    }
                },
                // It shows nothing.
                _ => {
                    let why = watch.wish.wait_for(Option::is_some).await;
                    stopped(why.unwrap().unwrap())
                }
            };
            ended.store(true, Ordering::SeqCst);
            done
        })
    }
}

fn stopped(why: &str) -> Result<Report, AnyFailure> {
    let what = format!("stopped by {why}");
    Err(AnyFailure::new(Class::Conflict, what, None))
}

struct Scene {
    hands: Arc<Hands>,
    ear: Arc<Ear>,
    jobs: Vec<Job>,
    clock: Arc<ManualClock>,
    state: TempDir,
}

impl Plans for Scene {
    fn setup(&self) -> Result<Setup, AnyFailure> {
        Ok(Setup {
            jobs: self.jobs.clone(),
            bounds: Bounds {
                jobs: 4,
                retry: Duration::from_secs(60),
            },
            stall: Duration::from_secs(1200),
            repeat: Duration::from_secs(24 * HOUR),
            channels: vec![self.ear.clone()],
            http: None,
            heartbeat: None,
            worker: self.hands.clone(),
        })
    }
}

fn job(task: Task, source: Option<&str>, schedule: &str) -> Job {
    Job {
        task,
        source: source.map(|name| name.parse().unwrap()),
        trigger: Trigger::At(
            Schedule::read(schedule, chrono_tz::Tz::UTC).unwrap(),
            Duration::ZERO,
        ),
        deadline: Duration::from_secs(1800),
    }
}

impl Scene {
    async fn make(jobs: Vec<Job>) -> Scene {
        Scene {
            hands: Arc::new(Hands {
                crm: Place::make(1).await,
                shop: Place::make(2).await,
                busy: AtomicUsize::new(0),
                hung: Mutex::default(),
            }),
            ear: Arc::new(Ear::default()),
            jobs,
            clock: Arc::new(ManualClock::new(BEGIN)),
            state: directory(),
        }
    }

    /// Runs the daemon for so many seconds; `at` is called before each.
    async fn live(&self, seconds: u64, at: impl Fn(u64)) {
        let ground = Ground {
            state: State::of_daemon(self.state.path()).unwrap(),
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
        };
        let (stop, wish) = watch::channel(None);
        let clock = async {
            for second in 0..seconds {
                at(second);
                tokio::time::sleep(Duration::from_secs(1)).await;
                // Threads of jobs need real time to begin and to tell their ends.
                std::thread::sleep(Duration::from_micros(500));
                while self.hands.is_busy() {
                    std::thread::sleep(Duration::from_micros(500));
                }
                self.clock.advance(Duration::from_secs(1));
            }
            stop.send_replace(Some("SIGTERM"));
        };
        let (ended, ()) = tokio::join!(serve(ground, self, wish), clock);
        ended.unwrap();
    }

    /// The runs of a job: failure or none, what was told, and how late it began, in seconds.
    fn runs(&self, job: &str) -> Vec<(Option<String>, String, i64)> {
        let path = State::of_daemon(self.state.path())
            .unwrap()
            .path("history.json");
        let text = std::fs::read(path).unwrap();
        let history: Value = serde_json::from_slice(&text).unwrap();
        let runs = history["runs"].as_array().unwrap().iter();
        let runs = runs.filter(|run| run["job"] == job).map(|run| {
            let at = |name: &str| run[name].as_i64().unwrap();
            (
                run["failure"].as_str().map(str::to_owned),
                run["told"].as_str().unwrap().to_owned(),
                (at("started_at") - at("planned")) / 1_000_000,
            )
        });
        runs.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn storage_down_for_an_hour_is_one_message_and_its_return_another() {
    let jobs = ["crm", "shop"].map(|name| job(Task::Backup, Some(name), "*/10 * * * *"));
    let scene = Scene::make(jobs.to_vec()).await;
    let storage = scene.hands.crm.tiny.storage.clone();
    scene
        .live(3 * HOUR, |second| match second {
            3600 => storage.add(Rule::any(When::Always, Fault::Fail(Failing::Reset))),
            7200 => storage.heal(),
            _ => {}
        })
        .await;
    let crm = scene.runs("backup crm");
    let failed = crm.iter().filter(|(failure, ..)| failure.is_some()).count();
    assert!(failed >= 12, "each run and its retries: {crm:?}");
    assert!(
        crm.iter()
            .rev()
            .take(4)
            .all(|(failure, ..)| failure.is_none()),
        "{crm:?}"
    );
    let told = scene.ear.0.lock().unwrap();
    let told: Vec<String> = told.iter().map(Message::subject).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].ends_with("backup crm FAILED"), "{told:?}");
    assert!(told[1].ends_with("backup crm recovered"), "{told:?}");
    let shop = scene.runs("backup shop");
    assert!((17..=18).contains(&shop.len()), "{shop:?}");
    for (failure, told, late) in shop {
        assert!(failure.is_none() && late <= 2, "{told}, {late} s late");
    }
}

#[tokio::test(start_paused = true)]
async fn job_that_panics_hangs_or_never_ends_fails_alone() {
    let jobs = vec![
        job(Task::Backup, Some("shop"), "*/10 * * * *"),
        job(Task::Verify, Some("crm"), "5 12 * * *"),
        job(Task::Drill, Some("files"), "5 12 * * *"),
        job(Task::Prune, None, "5 12 * * *"),
    ];
    let scene = Scene::make(jobs).await;
    scene.live(HOUR, |_| {}).await;
    for (job, class, words) in [
        ("verify crm", "bug", "met a mistake of rowvault"),
        ("drill files", "conflict", "its silence"),
        ("prune", "conflict", "its deadline"),
    ] {
        let runs = scene.runs(job);
        let [(failure, told, late)] = runs.as_slice() else {
            panic!("{job}: {runs:?}");
        };
        assert_eq!(failure.as_deref(), Some(class), "{told}");
        assert!(told.contains(words) && *late <= 2, "{told}");
    }
    let shop = scene.runs("backup shop");
    assert!(shop.len() >= 5, "{shop:?}");
    assert!(
        shop.iter()
            .all(|(failure, _, late)| failure.is_none() && *late <= 2),
        "{shop:?}"
    );
    let told = scene.ear.0.lock().unwrap();
    assert_eq!(told.len(), 3, "{told:?}");
}
