//! The walk of one engine: a full snapshot, the same again, four kinds of days, a restore.
//!
//! Each step edits the database once and then lets every tool take its snapshot in turn, rowvault
//! first, so that no tool finds the data warmer than the one before it by more than the page cache.

use rowvault::sample::Sample;
use rowvault::sample::churn::{Churn, Edit};

use crate::database::{Database, changed_rows};
use crate::measure::{Meter, server_cpu};
use crate::report::{Line, Report};
use crate::tools::{Borg, Restic, Rowvault, Taken, Tool};
use crate::{Options, scratch};

/// What tells a day's dice from another's.
const DAY: u64 = 7;
/// How many contacts an accident deletes at size 1.
const CONTACTS: f64 = 5000.0;

/// A step's costs by tool: rowvault's first, then restic's where it is installed.
struct Step {
    ours: Taken,
    ours_server: Option<f64>,
    restic: Option<Taken>,
    restic_server: Option<f64>,
}

struct Walk<'a> {
    database: &'a mut dyn Database,
    rowvault: Rowvault,
    restic: Option<Restic>,
    borg: Option<Borg>,
    meter: Meter,
    peak: f64,
}

/// Runs the walk on `database` at `share` of the run's size.
pub fn run(options: &Options, database: &mut dyn Database, share: f64, report: &mut Report) {
    let scratch = scratch(options);
    let sample = Sample::new(options.seed, options.size * share);
    database.fill(&sample);
    report.table(database, sample.count_all());
    let peers = (!options.alone).then(|| scratch.path());
    let mut walk = Walk {
        database,
        rowvault: Rowvault::new(&options.binary, scratch.path(), "rowvault"),
        restic: peers.and_then(Restic::new),
        borg: peers.and_then(Borg::new),
        meter: Meter::new(scratch.path()),
        peak: 0.0,
    };
    let mut churn = Churn::new(&sample);
    let full = walk.step(report, "full");
    let same = walk.step(report, "same again");
    let day: Vec<Edit> = churn.crm_day(DAY).collect();
    walk.database.apply(day.clone());
    let least = changed_rows(walk.database, &day);
    let what = format!("CRM day, {} edits", day.len());
    let crm_day = walk.step(report, &what);
    walk.day(report, "append-only", churn.append_only(DAY).collect());
    let updates = churn.random_updates(DAY).collect();
    let updates = walk.day(report, "1 % updated", updates);
    let contacts = (CONTACTS * options.size * share).max(1.0) as u32;
    let accident = churn.delete_contacts(DAY, contacts).collect();
    let what = format!("{contacts} contacts deleted");
    walk.day(report, &what, accident);
    let (restore, load) = walk.restore(report);
    let steps = Steps {
        full,
        same,
        crm_day,
        updates,
    };
    steps.judge(walk.database.name(), walk.peak, least, report);
    let over = restore.cost.wall;
    let under = load.map(|load| load.cost.wall);
    let limit = match walk.database.name() {
        "PostgreSQL" => 1.2,
        _ => 1.0,
    };
    let what = "restore, wall without its read-back ÷ loading the dump";
    report.ratio(
        &prefixed(walk.database.name(), what),
        Some(over),
        under,
        limit,
    );
}

fn prefixed(name: &str, what: &str) -> String {
    format!("{name}: {what}")
}

impl Walk<'_> {
    fn day(&mut self, report: &Report, what: &str, edits: Vec<Edit>) -> Step {
        let step = format!("{what}, {} edits", edits.len());
        self.database.apply(edits);
        self.step(report, &step)
    }

    /// Lets each tool take a snapshot.
    fn step(&mut self, report: &Report, step: &str) -> Step {
        let (url, dump) = (self.database.url(), self.database.dump());
        let server = self.database.server();
        let take = |tool: &mut dyn Tool| {
            let before = server.map(server_cpu);
            let taken = tool.backup(&url, &dump);
            let used = server.map(server_cpu).zip(before);
            let server = used.map(|(after, before)| after - before);
            report.line(&Line {
                step,
                tool: tool.name(),
                taken: &taken,
                server,
            });
            (taken, server)
        };
        let (ours, ours_server) = take(&mut self.rowvault);
        let restic = self.restic.as_mut().map(|tool| take(tool));
        if let Some(borg) = self.borg.as_mut() {
            take(borg);
        }
        self.peak = self.peak.max(ours.cost.peak);
        Step {
            ours,
            ours_server,
            restic_server: restic.as_ref().and_then(|(_, server)| *server),
            restic: restic.map(|(taken, _)| taken),
        }
    }

    /// Restores the newest snapshot; and the dump, by the engine's own means.
    fn restore(&mut self, report: &Report) -> (Taken, Option<Taken>) {
        let copy = self.database.copy("restored");
        let (cost, read_back) = self.rowvault.restore_timed("latest", &copy.url);
        self.peak = self.peak.max(cost.peak);
        self.database.discard(&copy);
        let taken = |cost| Taken {
            cost,
            ..Taken::default()
        };
        let print = |tool, taken: &Taken| {
            report.line(&Line {
                step: "restore",
                tool,
                taken,
                server: None,
            });
        };
        let ours = taken(cost);
        print("rowvault", &ours);
        // The same without the reading back, which no peer does; its CPU is not known apart.
        let mut written = ours.clone();
        written.cost.wall -= read_back;
        if let Some(restic) = &self.restic {
            print("restic, loaded", &taken(restic.restore(&copy.load)));
            self.database.discard(&copy);
        }
        let Some((write, load)) = &copy.parallel else {
            let loaded = self.plain_load(&copy.load);
            print("dump, loaded", &taken(loaded));
            self.database.discard(&copy);
            return (written, Some(taken(loaded)));
        };
        print("parallel dump, written", &taken(self.meter.run(write).0));
        let loaded = taken(self.meter.run(load).0);
        print("parallel dump, loaded", &loaded);
        self.database.discard(&copy);
        (written, Some(loaded))
    }

    /// Loads a dump that was written before.
    fn plain_load(&self, load: &str) -> crate::measure::Cost {
        let file = self.meter.scratch().join("dump.sql");
        let path = crate::database::shell(&file);
        self.meter
            .run(&format!("{} > {path}", self.database.dump()));
        let (cost, _) = self.meter.run(&format!("{load} < {path}"));
        std::fs::remove_file(file).expect("it was just written");
        cost
    }
}

/// The steps that are judged.
struct Steps {
    full: Step,
    same: Step,
    crm_day: Step,
    updates: Step,
}

impl Steps {
    fn judge(&self, name: &str, peak: f64, least: Option<u64>, report: &mut Report) {
        let mut bytes = |what: &str, step: &Step, limit| {
            let theirs = step.restic.as_ref().map(|taken| taken.bytes as f64);
            let what = prefixed(name, what);
            report.ratio(&what, Some(step.ours.bytes as f64), theirs, limit);
        };
        bytes("full, bytes ÷ restic", &self.full, 0.95);
        bytes("CRM day, bytes ÷ restic", &self.crm_day, 1.0 / 30.0);
        bytes("1 % updated, bytes ÷ restic", &self.updates, 0.01);
        let same = self.same.ours.bytes as f64 / 1024.0;
        let what = prefixed(name, "nothing changed, bytes stored");
        report.target(&what, Some(same), 64.0, " KiB");
        if let Some(least) = least {
            let what = prefixed(name, "CRM day, bytes ÷ zstd-3 of the changed rows");
            let ours = self.crm_day.ours.bytes as f64;
            report.ratio(&what, Some(ours), Some(least as f64), 2.0);
        }
        let mut cpu = |what: &str, step: &Step, with_server: bool, limit| {
            let server = |cpu: Option<f64>| cpu.filter(|_| with_server).unwrap_or(0.0);
            let ours = step.ours.cost.cpu + server(step.ours_server);
            let theirs = step.restic.as_ref();
            let theirs = theirs.map(|taken| taken.cost.cpu + server(step.restic_server));
            report.ratio(&prefixed(name, what), Some(ours), theirs, limit);
        };
        match name {
            "SQLite" => cpu("CRM day, CPU ÷ (dump → restic)", &self.crm_day, false, 0.5),
            _ => cpu("full, client CPU ÷ (dump → restic)", &self.full, false, 0.8),
        }
        if name == "PostgreSQL" {
            let what = "CRM day, client and server CPU ÷ (dump → restic)";
            cpu(what, &self.crm_day, true, 0.15);
        }
        let limit = match name {
            "SQLite" => 160.0,
            _ => 192.0,
        };
        report.target(&prefixed(name, "peak memory"), Some(peak), limit, " MiB");
    }
}
