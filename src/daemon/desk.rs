//! The desk where messages are written: what became of jobs, turned into words for people.
//!
//! Deliveries run beside the loop. Invariant: a job that is tried again is no message until it has
//! failed three times, and what is told of lasts in a file, so that a restart tells nothing twice.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::daemon::alerts::{Alerts, Matter, Telling};
use crate::daemon::board::Notice;
use crate::daemon::ground::{Ground, Setup};
use crate::daemon::job::{Run, Task, Verdict};
use crate::daemon::runner::{Ended, Report};
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::notify::{self, Kind, Message};
use crate::repo::intent::Whoami;
use crate::state;

/// The file of what lasts.
const ALERTS_FILE: &str = "alerts.json";
/// So many attempts fail before anybody is told.
const ATTEMPTS_UNTOLD: u32 = 2;
/// How long deliveries may take when the daemon ends.
const CLOSING: Duration = Duration::from_secs(5);

/// Where messages are written.
pub struct Desk {
    alerts: Alerts,
    host: String,
    sending: JoinSet<()>,
}

impl Desk {
    /// Goes on with what lasted.
    ///
    /// # Errors
    /// The state directory's.
    pub fn open(ground: &Ground) -> Result<Desk, state::Error> {
        let kept = ground.state.read(ALERTS_FILE)?;
        Ok(Desk {
            alerts: kept.map(|bytes| Alerts::read(&bytes)).unwrap_or_default(),
            host: Whoami::ask().host,
            sending: JoinSet::new(),
        })
    }

    /// Tells again what lasts.
    pub fn repeat(&mut self, ground: &Ground, setup: &Setup) {
        while self.sending.try_join_next().is_some() {}
        let now = ground.clock.now();
        let due = self.alerts.due(now, setup.repeat);
        if !due.is_empty() {
            self.keep(ground);
        }
        due.into_iter()
            .for_each(|telling| self.tell(ground, setup, &telling));
    }

    /// A run that was missed.
    pub fn notice(&mut self, ground: &Ground, setup: &Setup, notice: &Notice) {
        let (job, what, to_do) = match notice {
            Notice::Missed { job, planned } => {
                let what = format!(
                    "the run of {} did not take place; it is made up for now",
                    planned.rfc3339()
                );
                (job, what, "see why the daemon did not run then")
            }
            Notice::LeftOut { job, planned, next } => {
                let what = format!(
                    "the run of {} did not take place; the next one, at {}, is near",
                    planned.rfc3339(),
                    next.rfc3339()
                );
                (job, what, "see why the daemon did not run then")
            }
            Notice::ClockSetBack { job, reached } => {
                let what = format!(
                    "it was run at {}, which has not come: the clock was wrong",
                    reached.rfc3339()
                );
                (job, what, "set the clock of this host by NTP")
            }
        };
        let source = job.split_once(' ').map(|(_, source)| source.to_owned());
        let matter = Matter {
            kind: Kind::Missed,
            job: job.clone(),
            source,
            what,
            to_do: vec![to_do.to_owned()],
        };
        self.once(ground, setup, matter);
    }

    /// A run ended.
    pub fn settled(&mut self, ground: &Ground, setup: &Setup, end: &Ended, verdict: Verdict) {
        let run = &end.run;
        match &end.outcome {
            Ok(report) => self.good(ground, setup, run, report),
            Err(error) => {
                let is_last = verdict == Verdict::Failed;
                if is_last || run.attempt > ATTEMPTS_UNTOLD {
                    let matter = failure(run, error);
                    self.raise(ground, setup, &run.job, matter);
                }
            }
        }
        self.keep(ground);
    }

    fn good(&mut self, ground: &Ground, setup: &Setup, run: &Run, report: &Report) {
        if let Some(ended) = self.alerts.clear(&run.job) {
            let was = &ended.matter.what;
            let matter = Matter {
                kind: Kind::Recovery,
                what: format!("it works again: {}; before: {was}", report.told),
                to_do: Vec::new(),
                ..ended.matter.clone()
            };
            let telling = Telling { matter, ..ended };
            self.tell(ground, setup, &telling);
        }
        if let Some((what, remedies)) = &report.unusual {
            let matter = unusual(run, what, remedies);
            self.raise(ground, setup, &frozen_key(run), matter);
        }
        if report.is_frozen == Some(false) && report.unusual.is_none() {
            // Who thawed it knows.
            self.alerts.clear(&frozen_key(run));
        }
        if run.task == Task::Drill {
            let matter = Matter {
                kind: Kind::Drill,
                what: report.told.clone(),
                ..matter(run)
            };
            self.once(ground, setup, matter);
        }
        if run.task == Task::Backup
            && let Some(heartbeat) = setup.heartbeat.clone()
        {
            self.sending.spawn(async move { heartbeat.beat().await });
        }
    }

    fn raise(&mut self, ground: &Ground, setup: &Setup, key: &str, matter: Matter) {
        let now = ground.clock.now();
        if let Some(telling) = self.alerts.raise(key, matter, now) {
            self.tell(ground, setup, &telling);
        }
    }

    fn once(&mut self, ground: &Ground, setup: &Setup, matter: Matter) {
        let telling = Telling {
            matter,
            since: ground.clock.now(),
            repeated: false,
        };
        self.tell(ground, setup, &telling);
    }

    fn tell(&mut self, ground: &Ground, setup: &Setup, telling: &Telling) {
        let now = ground.clock.now();
        let message: Message = telling.message(&self.host, now, ground.random.as_ref());
        for channel in &setup.channels {
            let (channel, message) = (channel.clone(), message.clone());
            self.sending.spawn(async move {
                notify::send(channel.as_ref(), &message).await;
            });
        }
    }

    fn keep(&self, ground: &Ground) {
        let (bytes, random) = (self.alerts.write(), ground.random.as_ref());
        if let Err(error) = ground.state.write(ALERTS_FILE, &bytes, random) {
            tracing::warn!("what was told of was not written: {error}");
        }
    }

    /// Waits a little for what is on its way.
    pub async fn close(&mut self) {
        let all = async { while self.sending.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSING, all).await.is_err() {
            tracing::warn!("some messages were not delivered");
        }
    }
}

/// The key of what lasts until a thaw.
fn frozen_key(run: &Run) -> String {
    let source = run.source.as_ref().map_or("", SourceName::as_str);
    format!("frozen {source}")
}

fn matter(run: &Run) -> Matter {
    Matter {
        kind: Kind::Failure,
        job: run.job.clone(),
        source: run.source.as_ref().map(SourceName::to_string),
        what: String::new(),
        to_do: Vec::new(),
    }
}

fn failure(run: &Run, error: &AnyFailure) -> Matter {
    Matter {
        kind: match error.class() {
            Class::Corrupt => Kind::Damaged,
            _ => Kind::Failure,
        },
        what: error.to_string(),
        to_do: error.hint().into_iter().collect(),
        ..matter(run)
    }
}

fn unusual(run: &Run, what: &str, remedies: &[String]) -> Matter {
    let mut to_do =
        vec!["see whether somebody meant it; this shows what could be brought back:".into()];
    to_do.extend(remedies.iter().cloned());
    if let Some(source) = &run.source {
        to_do.push(format!(
            "until 'rowvault thaw {source}' nothing of it is forgotten or pruned"
        ));
    }
    Matter {
        kind: Kind::Unusual,
        what: what.to_owned(),
        to_do,
        ..matter(run)
    }
}
