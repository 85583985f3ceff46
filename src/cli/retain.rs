//! `forget`, `prune`, `pin`, `unpin` and `tag`: what is kept, and what goes.
//!
//! Invariant: a plan is told before anything of it is done, and without a word on what to keep
//! nothing is forgotten.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::output::Output;
use crate::cli::render::{self, Side};
use crate::cli::session::Session;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::job::Progress;
use crate::job::maintain::{
    self, Effect, ForgetOutcome, ForgetRequest, ForgetSource, Hosts, PruneOutcome, PruneRequest,
    Times,
};
use crate::repo::catalog::Catalog;
use crate::repo::intent::Whoami;
use crate::repo::prune::{Limits, MAX_DELETE_PERCENT, Sized};
use crate::repo::select;
use crate::retention::Policy;

/// What to keep, as it is typed.
#[derive(Args, Clone, Debug)]
pub struct Keep {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the last one of each of the newest N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// Of N days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// Of N weeks, which begin on Monday
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// Of N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// Of N years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Keep all that are at most so much older than the newest one, such as 48h or 14d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub keep_within: Option<Duration>,
    /// Keep all with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
}

impl Keep {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last.unwrap_or(0),
            hourly: self.keep_hourly.unwrap_or(0),
            daily: self.keep_daily.unwrap_or(0),
            weekly: self.keep_weekly.unwrap_or(0),
            monthly: self.keep_monthly.unwrap_or(0),
            yearly: self.keep_yearly.unwrap_or(0),
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }

    fn is_given(&self) -> bool {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let counted = counts.iter().any(Option::is_some);
        counted || self.keep_within.is_some() || !self.keep_tag.is_empty()
    }
}

/// Whose word on the time of a snapshot counts, as it is typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TimesWord {
    /// When the storage got it
    #[default]
    Stored,
    /// When its host says that it was taken; for a copied repository
    Taken,
}

/// Arguments of `forget`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "A snapshot that any rule counts is kept; so are pinned ones, the newest, and the \
    newest that was verified. Rules given here stand for those of the configuration. Nothing is \
    deleted: 'rowvault prune' does that."
)]
pub struct Forget {
    /// Only snapshots of this source [default: all that have rules]
    #[arg(value_name = "SOURCE")]
    pub source: Option<SourceName>,
    /// What is kept.
    #[command(flatten)]
    pub keep: Keep,
    /// Whose word on times counts
    #[arg(long, value_enum, default_value = "stored")]
    pub times: TimesWord,
    /// Only say what would be forgotten
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct ForgetDocument {
    kept: Vec<KeptDocument>,
    forgotten: Vec<String>,
}

#[derive(Serialize)]
struct KeptDocument {
    id: String,
    reasons: Vec<String>,
}

/// Runs `forget`.
///
/// # Errors
/// Invalid: nothing says what to keep; Missing: no such source; Denied: this key may not forget;
/// Conflict: the source is frozen.
pub async fn forget(session: &Session, arguments: &Forget) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let request = ForgetRequest {
        sources: sources(session, &catalog, arguments)?,
        times: match arguments.times {
            TimesWord::Stored => Times::Stored,
            TimesWord::Taken => Times::Taken,
        },
        dry_run: arguments.dry_run,
    };
    let output = &session.output;
    let mut told = Ok(());
    let outcome = maintain::forget_told(&opened, &request, &mut |plan| {
        told = tell(output, arguments.dry_run, || forget_text(plan));
    })
    .await?;
    told?;
    if output.is_json() {
        output.document(&forget_document(&outcome))?;
    } else if !arguments.dry_run {
        let forgot = render::counted(outcome.forgotten.len() as u64, "snapshot");
        let next = match outcome.forgotten.is_empty() {
            true => "",
            false => "; 'rowvault prune' frees what only they needed",
        };
        output.done(&format!("forgot {forgot}{next}\n"))?;
    }
    Ok(0)
}

/// The sources that are meant, each with its rules.
fn sources(
    session: &Session,
    catalog: &Catalog,
    arguments: &Forget,
) -> Result<Vec<ForgetSource>, AnyFailure> {
    let given = arguments.keep.is_given().then(|| arguments.keep.policy());
    let configured = |name: &SourceName| {
        let mut sources = session.config.sources.iter();
        let source = sources.find(|source| source.name == *name)?;
        source.keep.clone()
    };
    let wanted = |name: &SourceName| {
        let policy = given.clone().or_else(|| configured(name));
        policy.map(|policy| ForgetSource {
            name: name.clone(),
            policy,
            zone: session.zone(name),
        })
    };
    if let Some(name) = &arguments.source {
        let name = &catalog.source(name)?.name;
        return wanted(name).map(|one| vec![one]).ok_or_else(no_rules);
    }
    let all: Vec<ForgetSource> = catalog.sources.keys().filter_map(wanted).collect();
    if all.is_empty() && !catalog.sources.is_empty() {
        return Err(no_rules());
    }
    for name in catalog.sources.keys() {
        if all.iter().all(|one| one.name != *name) {
            session.screen.warn(&format!(
                "no rule says what to keep of {name}: all of it is kept"
            ));
        }
    }
    Ok(all)
}

fn no_rules() -> AnyFailure {
    AnyFailure::new(
        Class::Invalid,
        "nothing says which snapshots to keep, so none is forgotten",
        Some("say it: --keep-daily 14 --keep-weekly 8, or keep = {…} in the configuration".into()),
    )
}

fn forget_document(outcome: &ForgetOutcome) -> ForgetDocument {
    let kept = outcome.kept.iter().map(|kept| KeptDocument {
        id: kept.snapshot.record.id.to_string(),
        reasons: kept.reasons.iter().map(ToString::to_string).collect(),
    });
    let forgotten = outcome.forgotten.iter();
    ForgetDocument {
        kept: kept.collect(),
        forgotten: forgotten.map(|one| one.record.id.to_string()).collect(),
    }
}

fn forget_text(plan: &ForgetOutcome) -> String {
    let columns = [
        ("snapshot", Side::Left),
        ("source", Side::Left),
        ("taken (UTC)", Side::Left),
        ("kept because", Side::Left),
    ];
    let kept = plan.kept.iter().map(|kept| {
        let reasons: Vec<String> = kept.reasons.iter().map(ToString::to_string).collect();
        (&kept.snapshot, reasons.join(", "))
    });
    let gone = plan
        .forgotten
        .iter()
        .map(|one| (one, "FORGET: no rule keeps it".to_owned()));
    let mut all: Vec<_> = kept.chain(gone).collect();
    all.sort_by_key(|(one, _)| (one.source.clone(), one.record.taken_at));
    let row = |(one, why): &(&crate::repo::catalog::Snapshot, String)| {
        vec![
            one.record.id.short(),
            one.source.to_string(),
            render::time(one.record.taken_at),
            why.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let mut text = match rows.is_empty() {
        true => String::new(),
        false => render::table(&columns, &rows),
    };
    let (kept, gone) = (plan.kept.len() as u64, plan.forgotten.len() as u64);
    text.push_str(&format!(
        "{} to keep, {} to forget\n",
        render::counted(kept, "snapshot"),
        render::count(gone)
    ));
    text
}

/// Arguments of `prune`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "What nothing needs is marked first; a run a day later deletes what is still \
    not needed then. Run it daily."
)]
pub struct Prune {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Let so much go that no forgotten snapshot accounts for [default: 30%]
    #[arg(long, value_name = "N%", value_parser = percent)]
    pub max_delete: Option<u8>,
}

fn percent(text: &str) -> Result<u8, String> {
    let digits = text
        .strip_suffix('%')
        .and_then(|digits| digits.parse().ok());
    match digits {
        Some(percent @ 0..=100) => Ok(percent),
        _ => Err("write 0% to 100%".into()),
    }
}

#[derive(Serialize)]
struct PruneDocument {
    packs_deleted: u64,
    packs_rewritten: u64,
    bytes_freed: u64,
    bytes_marked: u64,
    manifests_deleted: u64,
    packs_waiting: u64,
    bytes_waiting: u64,
    running: Vec<String>,
    locked: u64,
    locked_until: Option<String>,
    withheld: u64,
    dry_run: bool,
}

/// Tells a plan before anything of it is done: where nothing will be, it is the result.
fn tell(output: &Output, dry_run: bool, plan: impl Fn() -> String) -> Result<(), AnyFailure> {
    match (output.is_json(), dry_run) {
        (true, _) => Ok(()),
        (false, true) => output.text(&plan()),
        (false, false) => output.done(&plan()),
    }
}

/// Runs `prune`.
///
/// # Errors
/// Busy: somebody else maintains; Denied: this key may not; Conflict: too much would go; Corrupt:
/// a living snapshot is damaged. Nothing was deleted then.
pub async fn prune(session: &Session, arguments: &Prune) -> Result<u8, AnyFailure> {
    let hosts = hosts(session)?;
    let opened = session.open().await?;
    let request = PruneRequest {
        limits: Limits {
            max_delete_percent: arguments.max_delete.unwrap_or(MAX_DELETE_PERCENT),
            ..Limits::default()
        },
        effect: match arguments.dry_run {
            true => Effect::Planned,
            false => Effect::Done,
        },
        hosts,
    };
    let output = &session.output;
    let mut told = Ok(());
    let outcome = maintain::prune_told(&opened, &request, &mut |plan| {
        told = tell(output, arguments.dry_run, || plan_text(plan));
    })
    .await?;
    told?;
    if output.is_json() {
        output.document(&prune_document(&outcome, arguments.dry_run))?;
    } else if !arguments.dry_run {
        output.done(&swept_text(&outcome))?;
    }
    Ok(0)
}

/// Whether this host alone maintains, as the configuration says.
///
/// # Errors
/// Invalid: another host is named.
pub fn hosts(session: &Session) -> Result<Hosts, AnyFailure> {
    let Some(named) = &session.config.repository.maintenance_host else {
        return Ok(Hosts::Any);
    };
    let ours = Whoami::ask().host;
    match *named == ours {
        true => Ok(Hosts::ThisOneOnly),
        false => Err(AnyFailure::new(
            Class::Invalid,
            format!("this host is {ours}, and the configuration lets only {named} maintain"),
            Some("run it there, or change maintenance_host".into()),
        )),
    }
}

fn bytes(packs: &[Sized]) -> u64 {
    packs.iter().map(|pack| pack.bytes).sum()
}

fn prune_document(outcome: &PruneOutcome, dry_run: bool) -> PruneDocument {
    let (plan, swept) = (&outcome.plan, &outcome.swept);
    let waiting = PruneDocument {
        packs_deleted: swept.packs_deleted,
        packs_rewritten: swept.packs_rewritten,
        bytes_freed: swept.bytes_freed,
        bytes_marked: swept.bytes_marked,
        manifests_deleted: swept.manifests_deleted,
        packs_waiting: plan.waiting.len() as u64,
        bytes_waiting: bytes(&plan.waiting),
        running: outcome.running.clone(),
        locked: swept.locked,
        locked_until: swept.locked_until.map(|until| until.rfc3339()),
        withheld: swept.withheld,
        dry_run,
    };
    match dry_run {
        false => waiting,
        true => PruneDocument {
            packs_deleted: plan.delete.len() as u64,
            packs_rewritten: plan.repack.len() as u64,
            bytes_freed: bytes(&plan.delete),
            bytes_marked: bytes(&plan.mark) + bytes(&plan.repack),
            manifests_deleted: outcome.manifests,
            ..waiting
        },
    }
}

fn plan_text(outcome: &PruneOutcome) -> String {
    let plan = &outcome.plan;
    let mut text = String::from("plan:\n");
    for (what, packs) in [
        ("delete", &plan.delete),
        ("mark, to be deleted after a day", &plan.mark),
        ("move the living half out of", &plan.repack),
        ("wait for, marked already:", &plan.waiting),
    ] {
        if !packs.is_empty() {
            let many = render::counted(packs.len() as u64, "pack");
            let size = render::size(bytes(packs));
            text.push_str(&format!("  {what} {many}, {size}\n"));
        }
    }
    if !plan.unmark.is_empty() {
        let many = render::counted(plan.unmark.len() as u64, "pack");
        text.push_str(&format!("  keep {many} that are needed again\n"));
    }
    if outcome.manifests > 0 {
        let many = render::counted(outcome.manifests, "manifest");
        text.push_str(&format!("  delete {many} of snapshots that are no more\n"));
    }
    if text.lines().count() == 1 {
        text.push_str("  nothing is to be done\n");
    }
    for running in &outcome.running {
        let running = render::plain(running);
        text.push_str(&format!("  held back by {running}\n"));
    }
    text
}

fn swept_text(outcome: &PruneOutcome) -> String {
    let swept = &outcome.swept;
    let locked = swept.locked_until.map(|until| {
        let many = render::counted(swept.locked, "object");
        format!(
            "{many} locked until {} UTC at the latest\n",
            render::time(until)
        )
    });
    let done = format!(
        "freed {} ({}), rewrote {}, marked {}; {}\n",
        render::size(swept.bytes_freed),
        render::counted(swept.packs_deleted, "pack"),
        render::counted(swept.packs_rewritten, "pack"),
        render::size(swept.bytes_marked),
        render::duration(outcome.duration),
    );
    let withheld = match swept.withheld {
        0 => String::new(),
        many => format!(
            "{} left to a host whose credentials may delete\n",
            render::counted(many, "object")
        ),
    };
    done + &locked.unwrap_or_default() + &withheld
}

/// Arguments of `pin`.
#[derive(Args, Clone, Debug)]
pub struct Pin {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// Why it must not be forgotten
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Only until the end of this day, or this time with its zone
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
}

#[derive(Serialize)]
struct PinDocument {
    pinned: String,
    reason: String,
    until: Option<String>,
}

/// Runs `pin`.
///
/// # Errors
/// Missing or Invalid: no such snapshot or time; Denied: this key may not write its source.
pub async fn pin(session: &Session, arguments: &Pin) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let zone = session.zone(&snapshot.source);
    let until = arguments.until.as_deref();
    let until = until.map(|text| select::until(text, zone)).transpose()?;
    maintain::pin(&opened, snapshot, &arguments.reason, until).await?;
    let id = &snapshot.record.id;
    if session.output.is_json() {
        session.output.document(&PinDocument {
            pinned: id.to_string(),
            reason: arguments.reason.clone(),
            until: until.map(|until| until.rfc3339()),
        })?;
        return Ok(0);
    }
    let end = until.map_or(String::new(), |until| {
        format!(" until {} UTC", render::time(until))
    });
    let text = format!("{} of {} is pinned{end}\n", id.short(), snapshot.source);
    session.output.done(&text)?;
    Ok(0)
}

/// Arguments of `unpin`.
#[derive(Args, Clone, Debug)]
pub struct Unpin {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
}

#[derive(Serialize)]
struct UnpinDocument {
    unpinned: String,
    pins: u64,
}

/// Runs `unpin`.
///
/// # Errors
/// As [`pin`]; Denied: this key may not forget.
pub async fn unpin(session: &Session, arguments: &Unpin) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let pins = snapshot.pins.len() as u64;
    if pins > 0 {
        maintain::unpin(&opened, snapshot).await?;
    }
    let id = &snapshot.record.id;
    if session.output.is_json() {
        let unpinned = id.to_string();
        session.output.document(&UnpinDocument { unpinned, pins })?;
        return Ok(0);
    }
    let (short, source) = (id.short(), &snapshot.source);
    let text = match pins {
        0 => format!("{short} of {source} has no pin\n"),
        _ => format!("{short} of {source} is not pinned any more\n"),
    };
    session.output.done(&text)?;
    Ok(0)
}

/// Arguments of `tag`.
#[derive(Args, Clone, Debug)]
pub struct Tag {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: String,
    /// The tag; several may be given
    #[arg(value_name = "TAG", required = true)]
    pub tags: Vec<String>,
}

#[derive(Serialize)]
struct TagDocument {
    id: String,
    tags: Vec<String>,
}

/// Runs `tag`.
///
/// # Errors
/// As [`pin`]; Invalid: the tag is empty, or longer than 64 characters.
pub async fn tag(session: &Session, arguments: &Tag) -> Result<u8, AnyFailure> {
    let opened = session.open().await?;
    let catalog = opened.catalog().await?;
    let snapshot = session.snapshot(&catalog, &arguments.snapshot)?;
    let mut tags = snapshot.record.tags.clone();
    for tag in &arguments.tags {
        maintain::check_tag(tag)?;
    }
    for tag in &arguments.tags {
        if !tags.contains(tag) {
            maintain::tag(&opened, snapshot, tag).await?;
            tags.push(tag.clone());
        }
    }
    let id = &snapshot.record.id;
    if session.output.is_json() {
        let id = id.to_string();
        session.output.document(&TagDocument { id, tags })?;
        return Ok(0);
    }
    let (short, source) = (id.short(), &snapshot.source);
    let text = format!("{short} of {source} has the tags {}\n", tags.join(", "));
    session.output.done(&text)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_may_go_are_percentages() {
        for (text, expected) in [
            ("0%", Some(0)),
            ("100%", Some(100)),
            ("101%", None),
            ("30", None),
            ("-1%", None),
        ] {
            assert_eq!(percent(text).ok(), expected, "{text}");
        }
    }
}
