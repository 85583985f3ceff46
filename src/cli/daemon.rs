//! `daemon`: the jobs of the configuration, done by themselves until somebody says stop.
//!
//! What each job does is what the verb of its name does; here the two are put together. Invariant:
//! a job works with the configuration that was in force when it began, and leaves no intent behind
//! however it ends.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use clap::Args;
use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};

use crate::cli::database;
use crate::cli::doctor;
use crate::cli::protect;
use crate::cli::retain;
use crate::cli::session::{Place, Session};
use crate::daemon::archive::Opener;
use crate::daemon::board::Bounds;
use crate::daemon::ground::{Ground, Setup};
use crate::daemon::http::Plan;
use crate::daemon::job::{Run, Task};
use crate::daemon::plan::jobs;
use crate::daemon::runner::{Report, Taken, Watch, Worker};
use crate::daemon::serve::{self, Plans};
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::maintain::{self, ForgetRequest, ForgetSource, PruneRequest, Times};
use crate::job::verify::{self, Data};
use crate::job::{Context, Opened, Silent, backup, drill};
use crate::repo::catalog::Snapshot;
use crate::repo::check;
use crate::repo::intent;
use crate::repo::prune::Limits;
use crate::source::address::Ownership;
use crate::state::State;

/// Arguments of `daemon`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Its jobs, their schedules and bounds stand in the configuration. SIGHUP reads it \
    anew, SIGTERM stops."
)]
pub struct Daemon {}

/// Runs `daemon` until SIGTERM.
///
/// # Errors
/// Invalid: the configuration; Busy: a daemon with this state directory runs already.
pub async fn daemon(session: &Session) -> Result<u8, AnyFailure> {
    let ground = Ground {
        state: State::of_daemon(&session.state_root())?,
        clock: session.clock.clone(),
        random: session.random.clone(),
    };
    serve::serve(ground, &FromFile(session), session.stop.heard()).await?;
    Ok(0)
}

/// The configuration as it stands in its file whenever it is asked for.
struct FromFile<'a>(&'a Session);

impl Plans for FromFile<'_> {
    fn setup(&self) -> Result<Setup, AnyFailure> {
        let session = self.0.again()?;
        session.repository()?;
        if matches!(session.key_place()?, Place::Nowhere) {
            return Err(AnyFailure::new(
                Class::Invalid,
                "the daemon cannot ask for a passphrase",
                Some("name key_file or passphrase_file under [repository]".into()),
            ));
        }
        let daemon = &session.config.daemon;
        Ok(Setup {
            jobs: jobs(&session.config),
            bounds: Bounds {
                jobs: daemon.jobs,
                retry: daemon.retry,
            },
            stall: daemon.stall,
            repeat: session.config.notify.repeat,
            channels: session.config.notify.channels(&session.clock)?,
            http: match &session.config.http {
                Some(http) => {
                    let opener = Arc::new(Opens(session.clone()));
                    Some(Plan::new(http.clone(), opener)?)
                }
                None => None,
            },
            heartbeat: session.config.notify.heartbeat()?,
            worker: Arc::new(Verbs(session)),
        })
    }
}

/// Opens the repository for who looks things up over HTTP.
struct Opens(Session);

impl Opener for Opens {
    fn open(&self) -> BoxFuture<'_, Result<Opened, AnyFailure>> {
        Box::pin(async move {
            let context = Context {
                progress: Arc::new(Silent),
                ..self.0.context()?
            };
            context.open().await
        })
    }
}

/// Does jobs by the verbs of their names.
struct Verbs(Session);

impl Worker for Verbs {
    fn run<'a>(
        &'a self,
        run: &'a Run,
        watch: Watch,
    ) -> LocalBoxFuture<'a, Result<Report, AnyFailure>> {
        Box::pin(async move {
            let session = self.0.hearing(watch.wish.clone());
            if run.task == Task::Probe {
                return session.stop.or(probe(&session)).await;
            }
            let context = Context {
                progress: watch.beat.clone(),
                ..session.context()?
            };
            let opened = session.stop.or(context.open()).await?;
            let done = AssertUnwindSafe(work(&session, &opened, run))
                .catch_unwind()
                .await;
            if !matches!(done, Ok(Ok(_))) {
                // What was cut short could not take its intent away itself.
                let _ = intent::withdraw_ours(&opened.vault, &opened.whoami).await;
            }
            done.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

async fn work(session: &Session, opened: &Opened, run: &Run) -> Result<Report, AnyFailure> {
    let stop = &session.stop;
    match (run.task, &run.source) {
        (Task::Backup, Some(name)) => backed_up(session, opened, name).await,
        (Task::Forget, Some(name)) => stop.or(forget(session, opened, name)).await,
        (Task::Verify, name) => stop.or(verify(session, opened, name.as_ref())).await,
        (Task::Prune, _) => stop.or(prune(session, opened)).await,
        (Task::Drill, Some(name)) => drill(session, opened, name).await,
        (task, _) => Err(AnyFailure::new(
            Class::Invalid,
            format!("the daemon cannot run {} yet", task.name()),
            Some("take its schedule out of the configuration".into()),
        )),
    }
}

async fn probe(session: &Session) -> Result<Report, AnyFailure> {
    let checks = doctor::checks(session).await;
    let wrong = checks.iter().filter(|check| !check.ok);
    let sentence = |check: &crate::job::doctor::Check| {
        let hint = check
            .hint
            .as_ref()
            .map_or(String::new(), |hint| format!("; {hint}"));
        format!("{}: {}{hint}", check.name, check.detail)
    };
    let warnings: Vec<String> = wrong.map(sentence).collect();
    Ok(Report {
        told: format!("{} looked at, {} wrong", checks.len(), warnings.len()),
        warnings,
        ..Report::default()
    })
}

async fn backed_up(
    session: &Session,
    opened: &Opened,
    name: &SourceName,
) -> Result<Report, AnyFailure> {
    let taken = protect::backup_configured(session, opened, name).await?;
    let mut sources = session.config.sources.iter();
    let unusual = match sources.find(|one| one.name == *name) {
        Some(config) => protect::watch_change(session, opened, config).await,
        None => None,
    };
    let catalog = opened.catalog().await?;
    let living = catalog.source(name)?;
    let is_frozen = living.frozen.is_some();
    let added = living.snapshots.iter();
    let living_bytes = added.map(|one| one.record.totals.bytes_stored).sum();
    let totals = &taken.record.totals;
    Ok(Report {
        told: format!(
            "snapshot {}: {} rows, {} put, {} deleted, {} bytes stored; ledger at entry {}, {}",
            taken.record.id.short(),
            totals.rows,
            totals.rows_put,
            totals.rows_deleted,
            totals.bytes_stored,
            taken.head.number,
            taken.head.hash,
        ),
        taken: Some(told(&taken, living_bytes)),
        repository_bytes: Some(taken.bytes_there),
        is_frozen: Some(is_frozen),
        unusual: unusual.map(|alarm| (alarm.reason(), alarm.remedies())),
        ..Report::default()
    })
}

fn told(taken: &backup::Outcome, living_bytes: u64) -> Taken {
    let totals = &taken.record.totals;
    Taken {
        id: taken.record.id.to_string(),
        at: taken.record.taken_at,
        rows: [totals.rows, totals.rows_put, totals.rows_deleted],
        bytes: [totals.bytes_read, totals.bytes_stored],
        head: taken.head.number,
        changed: taken.changed.clone(),
        living_bytes,
    }
}

async fn forget(
    session: &Session,
    opened: &Opened,
    name: &SourceName,
) -> Result<Report, AnyFailure> {
    let mut sources = session.config.sources.iter();
    let policy = sources
        .find(|one| one.name == *name)
        .and_then(|one| one.keep.clone());
    let Some(policy) = policy else {
        return Ok(Report::default());
    };
    if let Some(why) = &opened.catalog().await?.source(name)?.frozen {
        return Ok(Report {
            told: format!("nothing is forgotten while the source is frozen: {why}"),
            ..Report::default()
        });
    }
    let request = ForgetRequest {
        sources: vec![ForgetSource {
            name: name.clone(),
            policy,
            zone: session.zone(name),
        }],
        times: Times::Stored,
        dry_run: false,
    };
    let outcome = maintain::forget(opened, &request).await?;
    let (kept, gone) = (outcome.kept.len(), outcome.forgotten.len());
    Ok(Report {
        told: format!("kept {kept} snapshots, forgot {gone}"),
        ..Report::default()
    })
}

async fn drill(
    session: &Session,
    opened: &Opened,
    name: &SourceName,
) -> Result<Report, AnyFailure> {
    let catalog = opened.catalog().await?;
    let mut sources = session.config.sources.iter();
    let config = sources.find(|one| one.name == *name);
    let expected = config
        .map(|one| one.drill.expected.clone())
        .unwrap_or_default();
    let request = drill::Request {
        snapshot: catalog.at(name, None)?,
        choice: drill::Choice::Newest,
        scratch: None,
        options: database::target_options(session, None, Ownership::default()),
        expected: &expected,
        began: session.clock.elapsed(),
        began_at: session.clock.now(),
        from_recovery: false,
    };
    let outcome = drill::run(opened, &request, session.stop.wait()).await?;
    let id = outcome.snapshot.record.id.short();
    let (rto, rpo) = (outcome.rto().as_secs(), outcome.rpo.as_secs());
    if let Some(class) = outcome.class() {
        let wrong = outcome.checks.iter().filter(|check| !check.ok);
        let wrong: Vec<String> = wrong
            .map(|check| format!("{}: {}", check.name, check.detail))
            .chain(outcome.failure.iter().map(ToString::to_string))
            .collect();
        return Err(AnyFailure::new(
            class,
            format!("the drill of snapshot {id} found {}", wrong.join("; ")),
            Some(format!(
                "'rowvault drill {name} --report FILE.html' shows all of it"
            )),
        ));
    }
    Ok(Report {
        told: format!(
            "snapshot {id} came back as expected: {} rows in {rto} s (RTO), {rpo} s old (RPO)",
            outcome.rows
        ),
        warnings: outcome.warnings,
        ..Report::default()
    })
}

async fn prune(session: &Session, opened: &Opened) -> Result<Report, AnyFailure> {
    let plan = session.config.daemon.prune.as_ref();
    let mut limits = Limits::default();
    if let Some(plan) = plan {
        limits.max_delete_percent = plan.max_delete_percent;
    }
    let request = PruneRequest {
        limits,
        hosts: retain::hosts(session)?,
        ..PruneRequest::default()
    };
    let swept = maintain::prune(opened, &request).await?.swept;
    let there = check::packs_listed(&opened.vault).await?;
    Ok(Report {
        told: format!(
            "freed {} bytes in {} packs, marked {} bytes",
            swept.bytes_freed, swept.packs_deleted, swept.bytes_marked
        ),
        repository_bytes: Some(there.values().sum()),
        locked_bytes: Some(swept.bytes_locked),
        ..Report::default()
    })
}

async fn verify(
    session: &Session,
    opened: &Opened,
    name: Option<&SourceName>,
) -> Result<Report, AnyFailure> {
    let config = &session.config;
    let plan = match name {
        None => config.daemon.verify.as_ref(),
        Some(name) => {
            let source = config.sources.iter().find(|one| one.name == *name);
            source.and_then(|source| source.plan.verify.as_ref())
        }
    };
    let data = plan.map_or(Data::None, |plan| plan.data);
    let catalog = opened.catalog().await?;
    let of_source = |one: &&Snapshot| name.is_none_or(|name| one.source == *name);
    let snapshots: Vec<&Snapshot> = catalog.snapshots().into_iter().filter(of_source).collect();
    let outcome = verify::run(opened, &snapshots, data).await?;
    let damaged: Vec<String> = outcome
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.object, finding.what))
        .collect();
    if let Some(first) = damaged.first() {
        return Err(AnyFailure::new(
            Class::Corrupt,
            format!(
                "{} objects are damaged, the first is {first}",
                damaged.len()
            ),
            Some(
                "'rowvault verify --data all' names the snapshots and tables that are hurt".into(),
            ),
        ));
    }
    Ok(Report {
        told: format!(
            "{} snapshots are whole, {} bytes read",
            outcome.snapshots, outcome.bytes_read
        ),
        ..Report::default()
    })
}
