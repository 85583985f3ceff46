//! The walk of one engine: a full snapshot, the same again, four kinds of days, a restore.
//!
//! Each step edits the database once and then lets every tool take its snapshot in turn, rowvault
//! first, so that no tool finds the data warmer than the one before it by more than the page cache.

use std::path::Path;
use std::rc::Rc;

use rowvault::sample::Sample;
use rowvault::sample::churn::{Churn, Edit};

use crate::database::neighbour::Neighbour;
use crate::database::sqlite::Sqlite;
use crate::database::{Copy, Database, changed_rows, shell};
use crate::measure::{Meter, Watch};
use crate::reach::Steps;
use crate::report::Report;
use crate::s3::S3;
use crate::tools::streams::{Borg, Restic, Rustic};
use crate::tools::{Rowvault, Taken, Tool};
use crate::{Options, scratch};

/// What tells a day's dice from another's.
const DAY: u64 = 7;
/// How many contacts an accident deletes at size 1.
const CONTACTS: f64 = 5000.0;
/// How many rows somebody else commits before each snapshot.
const ROWS_BESIDE: u32 = 2000;

/// What each tool took of one step, rowvault first.
pub struct Step(Vec<(&'static str, Taken)>);

impl Step {
    /// What rowvault took.
    pub fn ours(&self) -> &Taken {
        &self.0[0].1
    }

    /// What restic took, where it is installed.
    pub fn restic(&self) -> Option<&Taken> {
        let mut all = self.0.iter();
        let found = all.find(|(name, _)| *name == "dump → restic");
        found.map(|(_, taken)| taken)
    }
}

/// Who takes part in a step.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    /// Every tool.
    All,
    /// rowvault, and the peer that it is measured by.
    Foremost,
}

struct Walk<'a> {
    database: &'a mut dyn Database,
    tools: Vec<Box<dyn Tool>>,
    report: &'a mut Report,
    meter: Meter,
}

/// Runs the walk on `database` at `share` of the run's size.
pub fn run(options: &Options, database: &mut dyn Database, share: f64, report: &mut Report) {
    let scratch = scratch(options);
    let sample = Sample::new(options.seed, options.size * share);
    database.fill(&sample);
    report.table(database.name(), &database.version(), sample.count_all());
    let mut tools = tools(options, database, scratch.path());
    tools.iter_mut().for_each(|tool| tool.fill(&sample));
    let walk = Walk {
        database,
        tools,
        report,
        meter: Meter::new(scratch.path()),
    };
    walk.run(&sample, options.size * share);
}

/// A short walk with the repositories on an S3 server: what each step asks of a storage.
pub fn on_s3(options: &Options, share: f64, server: &Rc<S3>, report: &mut Report) {
    let scratch = scratch(options);
    let sample = Sample::new(options.seed, options.size * share);
    let mut database = Sqlite::new(scratch.path());
    database.fill(&sample);
    let title = "SQLite, the repository on an S3 server";
    report.table(title, &database.version(), sample.count_all());
    let rowvault = Rowvault::in_bucket(&options.binary, scratch.path(), server);
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(rowvault)];
    if !options.alone {
        let restic = Restic::in_bucket(scratch.path(), server);
        tools.extend(restic.map(boxed));
    }
    let mut walk = Walk {
        database: &mut database,
        tools,
        report,
        meter: Meter::new(scratch.path()),
    };
    walk.step("full", Who::All);
    walk.step("same again", Who::All);
    let day: Vec<Edit> = Churn::new(&sample).crm_day(DAY).collect();
    walk.day("CRM day", day);
    walk.restore_each();
}

fn boxed<T: Tool + 'static>(tool: T) -> Box<dyn Tool> {
    Box::new(tool)
}

/// rowvault, and the peers that are installed.
fn tools(options: &Options, database: &dyn Database, directory: &Path) -> Vec<Box<dyn Tool>> {
    let rowvault = Rowvault::new(&options.binary, directory, "rowvault");
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(rowvault)];
    if !options.alone {
        tools.extend(Restic::new(directory).map(boxed));
        tools.extend(Rustic::new(directory).map(boxed));
        tools.extend(Borg::new(directory).map(boxed));
        tools.extend(database.own_tool(directory));
    }
    tools
}

/// Lets a tool work, and sees what the server used meanwhile.
fn with_server(server: Option<u32>, work: impl FnOnce() -> Taken) -> Taken {
    let watch = server.map(Watch::start);
    let mut taken = work();
    taken.server = watch.map(Watch::end);
    taken
}

impl Walk<'_> {
    fn run(mut self, sample: &Sample, size: f64) {
        let mut churn = Churn::new(sample);
        let full = self.step("full", Who::All);
        let same = self.step("same again", Who::All);
        if self.database.name() == "PostgreSQL" && same.ours().mode != "proof" {
            let what =
                "Nothing could be proven on this server: rowvault reads all rows at every step";
            self.report.note(what);
        }
        let beside = self.database.neighbour();
        let beside = beside.map(|neighbour| self.beside(neighbour));
        let day: Vec<Edit> = churn.crm_day(DAY).collect();
        self.apply(day.clone());
        let least = changed_rows(self.database, &day);
        let crm_day = self.step(&format!("CRM day, {} edits", day.len()), Who::All);
        let append_only = self.day("append-only", churn.append_only(DAY).collect());
        let updates = self.day("1 % updated", churn.random_updates(DAY).collect());
        let contacts = (CONTACTS * size).max(1.0) as u32;
        let accident = churn.delete_contacts(DAY, contacts).collect();
        let accident = self.day(&format!("{contacts} contacts deleted"), accident);
        let (restore, load) = self.restore();
        let steps = Steps {
            full,
            same,
            beside,
            crm_day,
            append_only,
            updates,
            accident,
            restore,
            load,
            least,
        };
        steps.judge(self.database.name(), self.report);
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        self.tools.iter_mut().for_each(|tool| tool.note(&edits));
        self.database.apply(edits);
    }

    fn day(&mut self, what: &str, edits: Vec<Edit>) -> Step {
        let step = format!("{what}, {} edits", edits.len());
        self.apply(edits);
        self.step(&step, Who::Foremost)
    }

    /// Lets the tools take a snapshot in turn.
    fn step(&mut self, what: &str, who: Who) -> Step {
        self.step_beside(what, who, None)
    }

    /// Nothing changed; but in another database of the server rows were written before each
    /// snapshot, and are written during it. What the writing itself costs is taken off.
    fn beside(&mut self, mut neighbour: Neighbour) -> Step {
        let what = "same again, another database written";
        self.step_beside(what, Who::Foremost, Some(&mut neighbour))
    }

    fn step_beside(&mut self, what: &str, who: Who, mut neighbour: Option<&mut Neighbour>) -> Step {
        let (url, dump) = (self.database.url(), self.database.dump());
        let mut step = Step(Vec::new());
        for tool in &mut self.tools {
            if who == Who::Foremost && !tool.is_foremost() {
                continue;
            }
            tool.prepare();
            let server = tool.server().or(self.database.server());
            let mut take = || with_server(server, || tool.backup(&url, &dump));
            let taken = match &mut neighbour {
                None => take(),
                Some(neighbour) => {
                    neighbour.commit(ROWS_BESIDE);
                    let (mut taken, cpu) = neighbour.beside(take);
                    taken.server = taken.server.map(|server| server - cpu);
                    taken
                }
            };
            self.report.line(what, tool.name(), &taken);
            step.0.push((tool.name(), taken));
        }
        step
    }

    /// Restores the newest snapshot of each tool; rowvault's is given back.
    fn restore_each(&mut self) -> Taken {
        let copy = self.database.copy("restored");
        let mut ours = None;
        for tool in &mut self.tools {
            let own = tool.server();
            let server = own.or(self.database.server());
            let taken = with_server(server, || tool.restore(&copy));
            if own.is_none() {
                self.database.discard(&copy);
            }
            self.report.line("restore", tool.name(), &taken);
            ours.get_or_insert(taken);
        }
        ours.expect("rowvault is one of the tools")
    }

    /// The same, and the dump by the engine's own means.
    fn restore(&mut self) -> (Taken, Option<Taken>) {
        let ours = self.restore_each();
        let copy = self.database.copy("restored");
        let server = self.database.server();
        let Some((write, load)) = &copy.parallel else {
            let loaded = self.plain_load(&copy);
            self.database.discard(&copy);
            return (ours, Some(loaded));
        };
        let written = with_server(server, || self.meter.run(write).0.into());
        self.report
            .line("restore", "parallel dump, written", &written);
        let loaded = with_server(server, || self.meter.run(load).0.into());
        self.report
            .line("restore", "parallel dump, loaded", &loaded);
        self.database.discard(&copy);
        (ours, Some(loaded))
    }

    /// Loads a dump that was written before.
    fn plain_load(&mut self, copy: &Copy) -> Taken {
        let file = self.meter.scratch().join("dump.sql");
        let path = shell(&file);
        self.meter
            .run(&format!("{} > {path}", self.database.dump()));
        let line = format!("{} < {path}", copy.load);
        let loaded = with_server(self.database.server(), || self.meter.run(&line).0.into());
        std::fs::remove_file(file).expect("it was just written");
        self.report.line("restore", "dump, loaded", &loaded);
        loaded
    }
}
