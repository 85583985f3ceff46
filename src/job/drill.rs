//! `drill`: a rehearsed restore, measured and held against what was expected.
//!
//! A snapshot is walked into a scratch place exactly as a restore would, asked the source's own
//! questions, and taken away. Invariant: a drill is good only when everything that was expected
//! was found; the ledger is told of the bad ones too.

mod expect;
mod past;

pub use expect::{Answer, Canary, Check, Expected, References, fact};
pub use past::{Past, of as past};

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::Event;
use crate::job::Opened;
use crate::job::staging::{self, Plan, Staged, Watch};
use crate::repo::catalog::Snapshot;
use crate::repo::select;
use crate::row::filter::Conditions;
use crate::source::address::{SourceUrl, TargetOptions};
use crate::source::open;
use crate::source::scratch::{Broken, Ready, Scratch};

/// How long the answer to a check may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
/// How many broken references are named.
const BROKEN_NAMED_MAX: usize = 5;

/// Why a snapshot was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is the newest: its age is what would be lost.
    Newest,
    /// A person named it, or chance did.
    Given,
}

/// What to drill.
pub struct Request<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// Why it was chosen.
    pub choice: Choice,
    /// Where: at this address, or in a place of our own.
    pub scratch: Option<&'a SourceUrl>,
    /// How the target is made.
    pub options: TargetOptions,
    /// What is expected.
    pub expected: &'a Expected,
    /// When it all began, as `elapsed` of the vault's clock: before the repository was opened.
    pub began: Duration,
    /// The same by the wall clock.
    pub began_at: Timestamp,
    /// Whether nothing but a recovery sheet was used to open the repository.
    pub from_recovery: bool,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What.
    pub name: String,
    /// Whether it is as expected.
    pub ok: bool,
    /// What was found, in words.
    pub detail: String,
}

/// How long each part took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// Opening the repository, reading the ledgers, choosing.
    pub find: Duration,
    /// Manifest, index, and the look for every pack.
    pub fetch: Duration,
    /// The structure, opened.
    pub open: Duration,
    /// Making the place; a server of its own, which a real recovery has already.
    pub scratch: Duration,
    /// Everything that stands before rows.
    pub ddl: Duration,
    /// Rows: fetched, opened and loaded side by side.
    pub data: Duration,
    /// Indexes, constraints, publishing.
    pub indexes: Duration,
    /// Reading back and comparing.
    pub read_back: Duration,
    /// Foreign keys, the source's own checks.
    pub checks: Duration,
}

/// What a drill found.
#[derive(Debug)]
pub struct Outcome {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// When it began.
    pub began_at: Timestamp,
    /// Where it was restored to, in words.
    pub place: String,
    /// Whether it began with nothing but a recovery sheet.
    pub from_recovery: bool,
    /// Tables of the snapshot.
    pub tables: u64,
    /// Rows that came back.
    pub rows: u64,
    /// Bytes of those rows.
    pub bytes: u64,
    /// Bytes that came from the storage.
    pub bytes_fetched: u64,
    /// Bytes of the restored database on this host's disk, where it is on it.
    pub bytes_scratch: Option<u64>,
    /// How long each part took.
    pub spent: Phases,
    /// How old the snapshot was when the drill began.
    pub rpo: Duration,
    /// What was looked at.
    pub checks: Vec<Checked>,
    /// Sentences for the reader.
    pub warnings: Vec<String>,
    /// Why the restore itself did not come to its end.
    pub failure: Option<AnyFailure>,
}

impl Outcome {
    /// Whether everything that was expected was found.
    pub fn is_ok(&self) -> bool {
        self.failure.is_none() && self.checks.iter().all(|check| check.ok)
    }

    /// What the caller must do about it; none where all is well. A failed restore has its own
    /// class; where the restore was good and something else was not as expected, it is Conflict.
    pub fn class(&self) -> Option<Class> {
        match &self.failure {
            Some(failure) => Some(failure.class()),
            None => (!self.is_ok()).then_some(Class::Conflict),
        }
    }

    /// How long recovering took, from opening the repository to the last check. Starting a scratch
    /// server does not count.
    pub fn rto(&self) -> Duration {
        let phases = self.phases();
        let counted = phases.iter().filter(|(name, _)| *name != "scratch");
        counted.map(|(_, spent)| *spent).sum()
    }

    /// The parts by name, in their order.
    pub fn phases(&self) -> [(&'static str, Duration); 9] {
        let spent = &self.spent;
        [
            ("find", spent.find),
            ("fetch", spent.fetch),
            ("open", spent.open),
            ("scratch", spent.scratch),
            ("ddl", spent.ddl),
            ("data", spent.data),
            ("indexes", spent.indexes),
            ("read_back", spent.read_back),
            ("checks", spent.checks),
        ]
    }

    fn check(&mut self, name: impl Into<String>, ok: bool, detail: impl Into<String>) {
        self.checks.push(Checked {
            name: name.into(),
            ok,
            detail: detail.into(),
        });
    }
}

/// Rehearses a restore, and tells the ledger.
///
/// # Errors
/// Denied with a writer's key; Missing where no scratch server is found, and whatever else keeps
/// the drill from beginning; what `stopped` says, once the scratch place was taken away. A restore
/// that fails is an outcome.
pub async fn run(
    opened: &Opened,
    request: &Request<'_>,
    stopped: impl Future<Output = AnyFailure> + Send,
) -> Result<Outcome, AnyFailure> {
    opened.vault.reader("drill")?;
    let work = drill(opened, request, Box::pin(stopped));
    let mut outcome = opened.reading(&request.snapshot.source, work).await?;
    let event = Event::Drilled(past::entry(&outcome));
    if let Err(error) = opened.record(&request.snapshot.source, event).await {
        let warning = format!("the ledger could not be told of this drill: {error}");
        opened.progress.warn(&warning);
        outcome.warnings.push(warning);
    }
    Ok(outcome)
}

/// The wish to stop.
type Stopped<'a> = Pin<Box<dyn Future<Output = AnyFailure> + Send + 'a>>;

async fn drill(
    opened: &Opened,
    request: &Request<'_>,
    stopped: Stopped<'_>,
) -> Result<Outcome, AnyFailure> {
    let clock = opened.vault.clock.clone();
    let taken_at = request.snapshot.record.taken_at;
    let mut outcome = Outcome {
        snapshot: request.snapshot.clone(),
        began_at: request.began_at,
        place: "nowhere".into(),
        from_recovery: request.from_recovery,
        tables: 0,
        rows: 0,
        bytes: 0,
        bytes_fetched: 0,
        bytes_scratch: None,
        spent: Phases::default(),
        rpo: request.began_at.since(taken_at),
        checks: Vec::new(),
        warnings: Vec::new(),
        failure: None,
    };
    if taken_at > request.began_at {
        let warning =
            "the snapshot is of a later time than this host's clock: one of them is wrong";
        outcome.warnings.push(warning.into());
    }
    outcome.spent.find = clock.elapsed().saturating_sub(request.began);
    let before = opened.vault.store.requests();
    match staging::plan(opened, request.snapshot).await {
        Ok(plan) => rehearse(opened, request, &plan, (&mut outcome, stopped)).await?,
        Err(error) => fail(&mut outcome, error),
    }
    outcome.bytes_fetched = opened.vault.store.requests().since(&before).bytes_down;
    hold_targets(request, &mut outcome);
    Ok(outcome)
}

fn fail(outcome: &mut Outcome, error: AnyFailure) {
    outcome.check("restore", false, error.to_string());
    outcome.failure = Some(error);
}

/// The restore in its scratch place, which is taken away whatever happened.
async fn rehearse(
    opened: &Opened,
    request: &Request<'_>,
    plan: &Plan,
    (outcome, mut stopped): (&mut Outcome, Stopped<'_>),
) -> Result<(), AnyFailure> {
    outcome.spent.fetch = plan.fetching;
    outcome.spent.open = plan.opening;
    outcome.tables = plan.manifest.tables.len() as u64;
    let clock = &opened.vault.clock;
    let engine = plan.manifest.engine;
    let mut scratch = open::scratch(engine, request.scratch, &request.options)?;
    let start = clock.elapsed();
    opened.progress.stage("making a scratch place", None);
    let ready = tokio::select! {
        ready = scratch.start(&plan.structure) => ready,
        stopped = &mut stopped => Err(stopped),
    };
    outcome.spent.scratch = clock.elapsed() - start;
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => {
            end(scratch.as_mut(), outcome).await;
            return Err(error);
        }
    };
    outcome.place = ready.place.clone();
    outcome.warnings.extend(ready.warnings.iter().cloned());
    let work = restore_and_ask(opened, request, plan, (&ready, scratch.as_mut()), outcome);
    let done = tokio::select! {
        () = work => Ok(()),
        stopped = &mut stopped => Err(stopped),
    };
    opened.progress.end();
    end(scratch.as_mut(), outcome).await;
    done
}

async fn end(scratch: &mut dyn Scratch, outcome: &mut Outcome) {
    if let Err(error) = scratch.end().await {
        let warning = format!("the scratch place could not be taken away: {error}");
        outcome.warnings.push(warning);
    }
}

async fn restore_and_ask(
    opened: &Opened,
    request: &Request<'_>,
    plan: &Plan,
    (ready, scratch): (&Ready, &mut dyn Scratch),
    outcome: &mut Outcome,
) {
    let clock = &opened.vault.clock;
    let watches = Arc::new(watches(plan, request.expected, outcome));
    let staged = match restore(opened, plan, ready, &watches, outcome).await {
        Ok(staged) => staged,
        Err(error) => return fail(outcome, error),
    };
    outcome.rows = staged.rows;
    outcome.bytes = plan.manifest.tables.iter().map(|one| one.bytes_raw).sum();
    outcome.bytes_scratch = scratch.bytes();
    let detail = match outcome.tables {
        1 => "1 table read back equal to the snapshot".to_owned(),
        tables => format!("{tables} tables read back equal to the snapshot"),
    };
    outcome.check("digests", true, detail);
    let start = clock.elapsed();
    opened.progress.stage("asking the restored database", None);
    check_references(request.expected, plan, scratch, outcome).await;
    for check in &request.expected.checks {
        ask(check, plan, scratch, outcome).await;
    }
    let canaries = request.expected.canaries.iter().zip(watches.iter());
    for (canary, watch) in canaries.filter_map(|(canary, watch)| Some((canary, watch.as_ref()?))) {
        let seen = watch.seen.load(Ordering::Relaxed);
        let detail = format!("{seen} found, expected {} or more", canary.least);
        outcome.check(canary_name(canary), seen >= canary.least, detail);
    }
    outcome.spent.checks = clock.elapsed() - start;
}

async fn restore(
    opened: &Opened,
    plan: &Plan,
    ready: &Ready,
    watches: &Arc<Vec<Option<Watch>>>,
    outcome: &mut Outcome,
) -> Result<Staged, AnyFailure> {
    let mut target = open::target(&ready.url, &ready.options)?;
    let staged = staging::stage(opened, plan, target.as_mut(), watches).await?;
    let spent = &mut outcome.spent;
    (spent.ddl, spent.data) = (staged.spent.definitions, staged.spent.data);
    spent.read_back = staged.spent.read_back;
    let start = opened.vault.clock.elapsed();
    match target.publish().await {
        Ok(published) => outcome.warnings.extend(published.warnings),
        Err(error) => return Err(staging::discard(target.as_mut(), error).await),
    }
    outcome.spent.indexes = staged.spent.indexes + (opened.vault.clock.elapsed() - start);
    Ok(staged)
}

fn canary_name(canary: &Canary) -> String {
    format!(
        "canary {} where {}",
        canary.table,
        canary.conditions.join(", ")
    )
}

/// What is to be counted while reading back; a canary that cannot be looked for has failed.
fn watches(plan: &Plan, expected: &Expected, outcome: &mut Outcome) -> Vec<Option<Watch>> {
    let parse = |canary: &Canary| -> Result<Watch, AnyFailure> {
        let table = &select::table(&plan.manifest, &canary.table)?.table;
        Ok(Watch {
            table: table.name.clone(),
            conditions: Conditions::parse(table, &canary.conditions)?,
            seen: AtomicU64::new(0),
        })
    };
    let watch = |canary: &Canary| match parse(canary) {
        Ok(watch) => Some(watch),
        Err(error) => {
            outcome.check(canary_name(canary), false, error.to_string());
            None
        }
    };
    expected.canaries.iter().map(watch).collect()
}

async fn check_references(
    expected: &Expected,
    plan: &Plan,
    scratch: &mut dyn Scratch,
    outcome: &mut Outcome,
) {
    let name = "foreign keys";
    let broken = match scratch.broken_references(&plan.structure).await {
        Ok(broken) => broken,
        Err(error) => return outcome.check(name, false, error.to_string()),
    };
    let tables = plan.manifest.tables.iter();
    let keys: usize = tables.map(|table| table.table.foreign_keys.len()).sum();
    if broken.is_empty() {
        let detail = match keys {
            0 => "none is declared".to_owned(),
            keys => format!("all {keys} hold"),
        };
        return outcome.check(name, true, detail);
    }
    let told = |one: &Broken| {
        format!(
            "{} rows of {} point at no row of {}",
            one.rows, one.table, one.parent
        )
    };
    let mut detail: Vec<String> = broken.iter().take(BROKEN_NAMED_MAX).map(told).collect();
    if broken.len() > BROKEN_NAMED_MAX {
        detail.push(format!("and {} more", broken.len() - BROKEN_NAMED_MAX));
    }
    let detail = format!("{}; the snapshot has them so", detail.join(", "));
    outcome.check(name, expected.references == References::Tell, detail);
}

async fn ask(check: &Check, plan: &Plan, scratch: &mut dyn Scratch, outcome: &mut Outcome) {
    let then = plan.manifest.facts.get(&fact(check)).map(String::as_str);
    let (ok, detail) = match scratch.ask(&check.sql, ANSWER_TIME_MAX).await {
        Ok(found) => check.expect.judge(found.as_deref(), then),
        Err(error) => (false, error.to_string()),
    };
    outcome.check(check.name.as_str(), ok, detail);
}

/// Holds what was measured against the targets, in words.
fn hold_targets(request: &Request<'_>, outcome: &mut Outcome) {
    let told = |found: Duration, limit: Duration| {
        let round = |duration: Duration| {
            let whole = Duration::from_secs(duration.as_secs());
            let shown = if duration.as_secs() >= 10 {
                whole
            } else {
                Duration::from_millis(duration.as_millis() as u64)
            };
            humantime::format_duration(shown).to_string()
        };
        let (word, round) = match found <= limit {
            true => ("met", round),
            false => ("missed", round),
        };
        let detail = format!("{word}: {}, target {}", round(found), round(limit));
        (found <= limit, detail)
    };
    if let (Some(limit), None) = (request.expected.rto, &outcome.failure) {
        let (ok, detail) = told(outcome.rto(), limit);
        outcome.check("RTO target", ok, detail);
    }
    // The age of a snapshot that was asked for says nothing about what would be lost.
    if let (Some(limit), Choice::Newest) = (request.expected.rpo, request.choice) {
        let (ok, detail) = told(outcome.rpo, limit);
        outcome.check("RPO target", ok, detail);
    }
}
