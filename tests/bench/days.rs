//! Many snapshots, all kept: what a history costs, and what restoring from a tall stack costs.
//!
//! The tallest stack is compared with a full snapshot of the very same rows in another repository,
//! so that the growth of the database does not count.

use rowvault::sample::Sample;
use rowvault::sample::churn::{Churn, Edit};

use crate::database::Database;
use crate::database::sqlite::Sqlite;
use crate::report::{Asked, Report, size};
use crate::tools::{Rowvault, Tool};
use crate::{Options, scratch};

const HOURS: usize = 24;

/// The snapshot with the most runs.
struct Tallest {
    id: String,
    runs: u64,
}

/// Takes the daily snapshots, then the hourly ones.
pub fn run(options: &Options, report: &mut Report) {
    history(options, options.days, 1, report);
    if options.hourly_days > 0 {
        history(options, options.hourly_days, HOURS, report);
    }
}

fn history(options: &Options, days: u32, a_day: usize, report: &mut Report) {
    let scratch = scratch(options);
    let sample = Sample::new(options.seed, options.size);
    let mut crm = Sqlite::new(scratch.path());
    crm.fill(&sample);
    let mut rowvault = Rowvault::new(&options.binary, scratch.path(), "history");
    let (url, dump) = (crm.url(), crm.dump());
    let first = rowvault.backup(&url, &dump);
    let (mut peak, mut cpu) = (first.cost.peak, 0.0);
    let mut tallest: Option<Tallest> = None;
    let mut churn = Churn::new(&sample);
    for day in 0..days {
        let mut edits: Vec<Edit> = churn.crm_day(u64::from(day)).collect();
        let part = edits.len().div_ceil(a_day).max(1);
        while !edits.is_empty() {
            let rest = edits.split_off(part.min(edits.len()));
            crm.apply(edits);
            edits = rest;
            let taken = rowvault.backup(&url, &dump);
            peak = peak.max(taken.cost.peak);
            cpu += taken.cost.cpu;
        }
        let id = rowvault.newest();
        let runs = rowvault.runs(&id);
        if tallest.as_ref().is_none_or(|tallest| runs >= tallest.runs) {
            tallest = Some(Tallest { id, runs });
        }
    }
    let total = rowvault.bytes();
    let count = days as usize * a_day;
    let what = match a_day {
        1 => format!("{count} daily snapshots"),
        _ => format!("{days} days of {a_day} hourly snapshots"),
    };
    report.note(&format!(
        "\n### {what}\n\nThe first stored {}, all together {}; {:.2} CPU s for each later one",
        size(first.bytes as f64),
        size(total as f64),
        cpu / count.max(1) as f64
    ));
    let limit = if a_day == 1 { 2.2 } else { 2.5 };
    let ratio = total as f64 / first.bytes as f64;
    report.target(
        &format!("{what}: total ÷ first"),
        Some(ratio),
        Asked::AtMost(limit),
        "",
    );
    if let Some(tallest) = tallest {
        let mut alone = Rowvault::new(&options.binary, scratch.path(), "alone");
        let restored = restore(&rowvault, &mut alone, &mut crm, &tallest, report);
        peak = peak.max(restored);
    }
    report.peak(&format!("{what}: peak memory"), peak, 160.0);
}

/// Compares the restore of `tallest` with one of the same rows in a single run a table, which
/// they become in the repository `alone`.
fn restore(
    rowvault: &Rowvault,
    alone: &mut Rowvault,
    crm: &mut Sqlite,
    tallest: &Tallest,
    report: &mut Report,
) -> f64 {
    let tall = crm.copy("tall");
    let stacked = rowvault.restore_to(&tallest.id, &tall.url).cost;
    alone.backup(&tall.url, "");
    let flat = crm.copy("flat");
    let base = alone.restore(&flat).cost;
    crm.discard(&tall);
    crm.discard(&flat);
    report.note(&format!(
        "Restored from {} runs: {:.2} CPU s; the same rows from one run a table: {:.2} CPU s",
        tallest.runs, stacked.cpu, base.cpu
    ));
    let what = "tallest stack restored, CPU ÷ base alone";
    report.ratio(what, Some(stacked.cpu), Some(base.cpu), Asked::AtMost(1.4));
    stacked.peak.max(base.peak)
}
