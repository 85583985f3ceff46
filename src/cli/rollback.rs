//! `restore --rollback`, `--undo` and `--drop-kept`: a live database put back, and back again.
//!
//! The order is the promise: plan, consent, everything proven beside, a safety snapshot, then the
//! exchange. Invariant: a wish to stop is heard until the exchange begins, and never in it.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use serde::Serialize;

use crate::cli::database::{self, Chosen};
use crate::cli::render::{self, Side};
use crate::cli::session::Session;
use crate::failure::{AnyFailure, Class};
use crate::id::{SnapshotId, SourceName};
use crate::job::diff::{self, Wanted};
use crate::job::rollback::{self, Ended, Journal, Outcome, Start, Way};
use crate::job::{Opened, Progress, backup, maintain, restore};
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::intent;
use crate::source::address::{Aim, Ownership, SourceOptions, TargetOptions};
use crate::source::{Others, Settled, open};

/// Arguments of `restore` for a live database.
#[derive(Args, Clone, Debug)]
pub struct Live {
    /// Put this live database back to the snapshot; the one that is there is kept beside
    #[arg(long, value_name = "SOURCE")]
    pub rollback: Option<String>,
    /// Put back the database that the last rollback of this one has kept
    #[arg(long, value_name = "SOURCE", conflicts_with = "snapshot")]
    pub undo: Option<String>,
    /// Remove the databases that rollbacks of this one have kept
    #[arg(long, value_name = "SOURCE", conflicts_with = "snapshot")]
    pub drop_kept: Option<String>,
    /// Say yes to a rollback of this source; asked for at the terminal else
    #[arg(long, value_name = "NAME", requires = "rollback")]
    pub confirm: Option<String>,
    /// Show what a rollback would lose and bring back, and do nothing
    #[arg(long, requires = "rollback")]
    pub dry_run: bool,
    /// Let transactions of others come to their end before the exchange
    #[arg(long, conflicts_with_all = ["to", "drop_kept"])]
    pub wait: bool,
    /// End transactions of others, and pass over replication slots and subscriptions
    #[arg(long, conflicts_with_all = ["to", "drop_kept", "wait"])]
    pub force: bool,
    /// What a database that is given by its URL is called in the repository
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "rollback"])]
    pub name: Option<SourceName>,
}

/// What happens to one table.
#[derive(Serialize)]
struct Loss {
    table: String,
    lost: u64,
    brought_back: u64,
    put_back: u64,
}

#[derive(Serialize)]
struct Plan<'a> {
    snapshot: String,
    source: &'a str,
    target: &'a str,
    dry_run: bool,
    plan: &'a [Loss],
}

#[derive(Serialize)]
struct Done<'a> {
    snapshot: String,
    target: &'a str,
    tables: u64,
    rows: u64,
    verified: bool,
    duration_ms: u64,
    downtime_ms: u64,
    kept: Option<&'a str>,
    safety_snapshot: Option<String>,
    plan: &'a [Loss],
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Dropped<'a> {
    target: &'a str,
    dropped: &'a [String],
}

fn others(arguments: &Live) -> Others {
    match (arguments.force, arguments.wait) {
        (true, _) => Others::End,
        (false, true) => Others::Wait,
        (false, false) => Others::Respect,
    }
}

/// Everything of the live database, whatever the configuration leaves out of its backups.
fn options(session: &Session, chosen: &Chosen<'_>) -> SourceOptions {
    SourceOptions {
        exclude_tables: Vec::new(),
        exclude_data: Vec::new(),
        ..chosen.options(session, &[])
    }
}

/// Runs `restore` for a live database: `--rollback`, `--undo` or `--drop-kept`.
///
/// # Errors
/// Invalid without consent; Missing where nothing is kept; Corrupt where anything needed is
/// damaged; Conflict, Busy, Denied as the database says. The live database is then as it was, and
/// nothing new stands beside it.
pub async fn run(
    session: &Session,
    arguments: &Live,
    snapshot: &str,
    jobs: Option<u8>,
) -> Result<u8, AnyFailure> {
    if let Some(live) = &arguments.undo {
        return undo(session, arguments, live).await;
    }
    if let Some(live) = &arguments.drop_kept {
        return drop_kept(session, arguments, live).await;
    }
    let live = arguments.rollback.as_deref().unwrap_or_default();
    let opened = session.stop.or(session.open()).await?;
    opened.vault.reader("restore")?;
    let catalog = session.stop.or(opened.catalog()).await?;
    let snapshot = session.snapshot(&catalog, snapshot)?;
    let chosen = database::source(session, live, None)?;
    check_source(&chosen, snapshot)?;
    let work = Work {
        session,
        opened: &opened,
        chosen: &chosen,
        options: &options(session, &chosen),
        snapshot,
        arguments,
        jobs,
    };
    work.rollback(live).await?;
    Ok(0)
}

fn check_source(chosen: &Chosen<'_>, snapshot: &Snapshot) -> Result<(), AnyFailure> {
    // A URL says nothing of the name that its snapshots have.
    if chosen.config.is_none() || chosen.name == snapshot.source {
        return Ok(());
    }
    Err(AnyFailure::new(
        Class::Invalid,
        format!(
            "snapshot {} is of source {}, not of {}",
            snapshot.record.id.short(),
            snapshot.source,
            chosen.name
        ),
        Some("name a snapshot of that source, or the database by its URL".into()),
    ))
}

/// Ends what an earlier run left, and says so.
async fn end_interrupted(session: &Session, journal: &mut Journal<'_>) -> Result<(), AnyFailure> {
    let ended = journal.end_interrupted().await?;
    if let Some(ended) = &ended {
        tracing::warn!("{}", ended_text(ended, journal.place()));
    }
    session.screen.end();
    Ok(())
}

fn ended_text(ended: &Ended, place: &str) -> String {
    let what = match ended.way {
        Way::Back => format!("a rollback to snapshot {}", ended.snapshot.short()),
        Way::Undo => "the undoing of a rollback".to_owned(),
    };
    match ended.settled {
        Settled::Old => format!("{what} was cut off; {place} is as it was before it"),
        Settled::New => format!(
            "{what} was cut off at its end; it is done, and the database before is kept as {}",
            ended.kept
        ),
    }
}

async fn given_up(journal: &mut Journal<'_>, error: AnyFailure) -> AnyFailure {
    match journal.abandon().await {
        Ok(()) => error,
        Err(left) => AnyFailure::new(
            error.class(),
            format!("{error}; and what was made beside could not be removed: {left}"),
            error.hint(),
        ),
    }
}

fn tell_plan(
    session: &Session,
    snapshot: &Snapshot,
    place: &str,
    dry_run: bool,
    plan: &[Loss],
) -> Result<(), AnyFailure> {
    let (id, source) = (&snapshot.record.id, snapshot.source.as_str());
    if session.output.is_json() {
        return session.output.document(&Plan {
            snapshot: id.to_string(),
            source,
            target: place,
            dry_run,
            plan,
        });
    }
    let mut text = format!(
        "plan: put {place} back to snapshot {} of {source}, of {} UTC\n",
        id.short(),
        render::time(snapshot.record.taken_at)
    );
    if plan.is_empty() {
        text.push_str("no row differs\n");
    } else {
        let columns = [
            ("table", Side::Left),
            ("rows lost", Side::Right),
            ("rows brought back", Side::Right),
            ("rows put back", Side::Right),
        ];
        let count = render::count;
        let row = |loss: &Loss| {
            let numbers = [loss.lost, loss.brought_back, loss.put_back];
            let numbers = numbers.into_iter().map(count);
            std::iter::once(loss.table.clone()).chain(numbers).collect()
        };
        let rows: Vec<Vec<String>> = plan.iter().map(row).collect();
        text.push_str(&render::table(&columns, &rows));
    }
    match dry_run {
        true => session.output.done(&text),
        false => session.output.text(&text),
    }
}

/// Whether a person agrees, in an argument or at the terminal.
fn consent(session: &Session, confirm: Option<&str>, name: &SourceName) -> Result<(), AnyFailure> {
    let name = name.as_str();
    let typed = match confirm {
        Some(given) => given.to_owned(),
        None if std::io::stdin().is_terminal() && !session.output.is_json() => {
            let mut typed = String::new();
            eprint!("type {name} to go on: ");
            let read = std::io::stderr()
                .flush()
                .and_then(|()| std::io::stdin().lock().read_line(&mut typed));
            // A terminal that cannot be read has agreed to nothing.
            read.map(|_| typed.trim().to_owned()).unwrap_or_default()
        }
        None => String::new(),
    };
    if typed == name {
        return Ok(());
    }
    Err(AnyFailure::new(
        Class::Invalid,
        format!("nobody confirmed that {name} is to be rolled back; nothing was done"),
        Some(format!(
            "--confirm {name} says yes; --dry-run shows the plan alone"
        )),
    ))
}

/// What stands beside before the exchange.
struct Prepared {
    tables: u64,
    rows: u64,
    safety: SnapshotId,
    warnings: Vec<String>,
}

struct Work<'a> {
    session: &'a Session,
    opened: &'a Opened,
    chosen: &'a Chosen<'a>,
    options: &'a SourceOptions,
    snapshot: &'a Snapshot,
    arguments: &'a Live,
    jobs: Option<u8>,
}

impl Work<'_> {
    async fn rollback(&self, live: &str) -> Result<(), AnyFailure> {
        let (session, snapshot, arguments) = (self.session, self.snapshot, self.arguments);
        let mut swap = open::swap(&self.chosen.url, self.options)?;
        let mut journal = Journal::open(self.opened, &snapshot.source, swap.as_mut()).await?;
        end_interrupted(session, &mut journal).await?;
        let begun = session.clock.elapsed();
        let plan = session.stop.or(self.plan()).await?;
        session.screen.end();
        let place = journal.place().to_owned();
        if arguments.dry_run || !session.output.is_json() {
            tell_plan(session, snapshot, &place, arguments.dry_run, &plan)?;
        }
        if arguments.dry_run {
            return Ok(());
        }
        consent(session, arguments.confirm.as_deref(), &snapshot.source)?;
        let done = match self.prepare(&mut journal).await {
            Ok(prepared) => {
                session.screen.stage("exchanging the databases", None);
                let outcome = journal.exchange(others(arguments)).await;
                outcome.map(|outcome| (prepared, outcome))
            }
            Err(error) => Err(given_up(&mut journal, error).await),
        };
        session.screen.end();
        let (prepared, outcome) = done?;
        let duration_ms = (session.clock.elapsed() - begun).as_millis() as u64;
        let warnings = [&prepared.warnings[..], &outcome.warnings].concat();
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        if !session.output.is_json() {
            return session
                .output
                .done(&self.told(live, &place, &prepared, &outcome));
        }
        session.output.document(&Done {
            snapshot: snapshot.record.id.to_string(),
            target: &place,
            tables: prepared.tables,
            rows: prepared.rows,
            verified: true,
            duration_ms,
            downtime_ms: outcome.downtime.as_millis() as u64,
            kept: Some(&outcome.kept),
            safety_snapshot: Some(prepared.safety.to_string()),
            plan: &plan,
            warnings: &warnings,
        })
    }

    fn told(&self, live: &str, place: &str, prepared: &Prepared, outcome: &Outcome) -> String {
        format!(
            "{place} is back at snapshot {} of {}\n  {}, {}; not to be used for {}\n  \
             what it was is kept as {}, and as snapshot {} (pinned for 30 days)\n  \
             to undo: rowvault restore --undo {live}; to remove what is kept: rowvault restore \
             --drop-kept {live}\n",
            self.snapshot.record.id.short(),
            self.snapshot.source,
            render::counted(prepared.tables, "table"),
            render::counted(prepared.rows, "row"),
            render::duration(outcome.downtime),
            outcome.kept,
            prepared.safety.short(),
        )
    }

    /// What the live database has and the snapshot has not, and the other way round.
    async fn plan(&self) -> Result<Vec<Loss>, AnyFailure> {
        let (opened, snapshot) = (self.opened, self.snapshot);
        self.session
            .screen
            .stage("comparing with the snapshot", None);
        let mut source = open::source(&self.chosen.url, self.options)?;
        let structure = source.begin().await?;
        let compared = async {
            let all = &[];
            let comparison =
                diff::start_live(opened, snapshot, source.as_ref(), &structure, all).await?;
            let mut losses = Vec::new();
            for pairing in &comparison.pairings {
                let counts = comparison.table(pairing, Wanted::Counts).await?;
                let counts = counts.finish().await?;
                if !counts.is_zero() {
                    losses.push(Loss {
                        table: pairing.name.clone(),
                        lost: counts.added,
                        brought_back: counts.removed,
                        put_back: counts.changed,
                    });
                }
            }
            Ok(losses)
        };
        let losses: Result<Vec<Loss>, AnyFailure> = compared.await;
        // What was counted is worth something only if the database snapshot lived until here.
        let ended = source.end().await;
        let losses = losses?;
        ended.map(|()| losses)
    }

    /// Everything but the exchange; the live database is only read.
    async fn prepare(&self, journal: &mut Journal<'_>) -> Result<Prepared, AnyFailure> {
        let start = Start {
            snapshot: self.snapshot.record.id,
            others: others(self.arguments),
        };
        let side = journal.begin(&start).await?;
        let staged = self.stage(&side).await?;
        let mut warnings = staged.published.warnings;
        warnings.extend(journal.staged(staged.rows, &staged.structure).await?);
        let taken = self.save().await?;
        warnings.extend(taken.warnings);
        journal.saved(taken.record.id)?;
        Ok(Prepared {
            tables: staged.tables,
            rows: staged.rows,
            safety: taken.record.id,
            warnings,
        })
    }

    async fn stage(&self, side: &str) -> Result<restore::Outcome, AnyFailure> {
        let ownership = Ownership::default();
        let parallel = self.jobs.map(usize::from);
        let options = TargetOptions {
            aim: Aim::Exchange,
            ..database::target_options(self.session, parallel, ownership)
        };
        let mut target = open::target(&open::beside(&self.chosen.url, side), &options)?;
        let work = restore::stage(self.opened, self.snapshot, target.as_mut());
        let (staged, stopped) = tokio::select! {
            staged = work => (staged, false),
            stopped = self.session.stop.wait() => (Err(stopped), true),
        };
        if stopped {
            // What was dropped could not take its intent away itself.
            let _ = intent::withdraw_ours(&self.opened.vault, &self.opened.whoami).await;
            if let Err(left) = target.discard().await {
                tracing::warn!("what was made could not be taken away: {left}");
            }
        }
        staged
    }

    /// The safety snapshot, pinned.
    async fn save(&self) -> Result<backup::Outcome, AnyFailure> {
        let mut source = open::source(&self.chosen.url, self.options)?;
        let mut request = backup::Request::new(self.snapshot.source.clone());
        request.tags = vec!["before-rollback".into()];
        let work = backup::run(self.opened, source.as_mut(), &request);
        let taken = tokio::select! {
            taken = work => taken,
            stopped = self.session.stop.wait() => Err(stopped),
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // A backup that was dropped could not take its intent away itself.
                let _ = intent::withdraw_ours(&self.opened.vault, &self.opened.whoami).await;
                return Err(error);
            }
        };
        let catalog: Catalog = self.opened.catalog().await?;
        let living = catalog.snapshots();
        let safety = living.iter().find(|one| one.record.id == taken.record.id);
        if let Some(safety) = safety {
            let until = self.session.clock.now().plus(rollback::SAFETY);
            let reason = "the database before a rollback";
            maintain::pin(self.opened, safety, reason, Some(until)).await?;
        }
        Ok(taken)
    }
}

async fn undo(session: &Session, arguments: &Live, live: &str) -> Result<u8, AnyFailure> {
    let opened = session.stop.or(session.open()).await?;
    let chosen = database::source(session, live, arguments.name.as_ref())?;
    let mut swap = open::swap(&chosen.url, &options(session, &chosen))?;
    let mut journal = Journal::open(&opened, &chosen.name, swap.as_mut()).await?;
    end_interrupted(session, &mut journal).await?;
    let begun = session.clock.elapsed();
    let place = journal.place().to_owned();
    let outcome: Outcome = journal.undo(others(arguments)).await?;
    outcome
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    if session.output.is_json() {
        session.output.document(&Done {
            snapshot: outcome.snapshot.to_string(),
            target: &place,
            tables: 0,
            rows: 0,
            verified: false,
            duration_ms: (session.clock.elapsed() - begun).as_millis() as u64,
            downtime_ms: outcome.downtime.as_millis() as u64,
            kept: Some(&outcome.kept),
            safety_snapshot: None,
            plan: &[],
            warnings: &outcome.warnings,
        })?;
        return Ok(0);
    }
    session.output.done(&format!(
        "{place} is what it was before the rollback to snapshot {}\n  not to be used for {}; what \
         the rollback had made is kept as {}\n",
        outcome.snapshot.short(),
        render::duration(outcome.downtime),
        outcome.kept,
    ))?;
    Ok(0)
}

async fn drop_kept(session: &Session, arguments: &Live, live: &str) -> Result<u8, AnyFailure> {
    let opened = session.stop.or(session.open()).await?;
    let chosen = database::source(session, live, arguments.name.as_ref())?;
    let mut swap = open::swap(&chosen.url, &options(session, &chosen))?;
    let mut journal = Journal::open(&opened, &chosen.name, swap.as_mut()).await?;
    end_interrupted(session, &mut journal).await?;
    let dropped = journal.drop_kept().await?;
    if session.output.is_json() {
        session.output.document(&Dropped {
            target: journal.place(),
            dropped: &dropped,
        })?;
        return Ok(0);
    }
    let many = render::counted(dropped.len() as u64, "database");
    let text = format!("removed {many}: {}\n", dropped.join(", "));
    session.output.done(&text)?;
    Ok(0)
}
