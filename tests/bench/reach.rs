//! What the steps of a walk are to reach, for each engine.
//!
//! Invariant: both sides of a ratio are of one run.

use crate::report::{Asked, Report};
use crate::tools::Taken;
use crate::walk::Step;

/// The steps of one run.
pub struct Steps {
    /// The first snapshot.
    pub full: Step,
    /// Nothing changed.
    pub same: Step,
    /// Nothing changed, while another database of the server was written.
    pub beside: Option<Step>,
    /// A CRM's day.
    pub crm_day: Step,
    /// A day on which rows were only added.
    pub append_only: Step,
    /// One row in a hundred updated.
    pub updates: Step,
    /// Contacts deleted with all that hangs on them.
    pub accident: Step,
    /// rowvault's restore.
    pub restore: Taken,
    /// The engine's own, of a dump.
    pub load: Option<Taken>,
    /// Bytes of the rows that the CRM's day changed, where the engine can say.
    pub least: Option<u64>,
}

/// A figure of what a tool took.
type Figure = fn(&Taken) -> f64;

const BYTES: Figure = |taken| taken.bytes as f64;
const CPU: Figure = Taken::cpu;
const CLIENT_CPU: Figure = |taken| taken.cost.cpu;
const WALL: Figure = |taken| taken.cost.wall;

struct Judge<'a> {
    engine: &'a str,
    report: &'a mut Report,
}

impl Judge<'_> {
    /// rowvault's figure by restic's.
    fn ratio(&mut self, what: &str, step: &Step, figure: Figure, asked: Asked) {
        let what = format!("{}: {what} ÷ (dump → restic)", self.engine);
        let theirs = step.restic().map(figure);
        let ours = figure(step.ours());
        self.report.ratio(&what, Some(ours), theirs, asked);
    }

    fn own(&mut self, what: &str, value: Option<f64>, limit: f64, unit: &'static str) {
        let what = format!("{}: {what}", self.engine);
        self.report.target(&what, value, Asked::AtMost(limit), unit);
    }
}

impl Steps {
    /// Notes what was reached on `engine`.
    pub fn judge(&self, engine: &str, report: &mut Report) {
        let mut judge = Judge { engine, report };
        match engine {
            "PostgreSQL" => self.judge_postgres(&mut judge),
            "SQLite" => {
                let most = Asked::AtMost(0.5);
                judge.ratio("CRM day, CPU", &self.crm_day, CPU, most);
                judge.ratio("CRM day, bytes", &self.crm_day, BYTES, most_of(1.0 / 30.0));
            }
            _ => {
                judge.ratio("full, client CPU", &self.full, CLIENT_CPU, most_of(0.8));
                judge.ratio("CRM day, bytes", &self.crm_day, BYTES, most_of(1.0 / 30.0));
            }
        }
        judge.ratio("full, bytes", &self.full, BYTES, most_of(0.95));
        judge.ratio("1 % updated, bytes", &self.updates, BYTES, most_of(0.01));
        let same = BYTES(self.same.ours()) / 1024.0;
        judge.own("nothing changed, bytes stored", Some(same), 64.0, " KiB");
        if let Some(least) = self.least {
            let what = "CRM day, bytes ÷ zstd-3 of the changed rows";
            let ratio = BYTES(self.crm_day.ours()) / least as f64;
            judge.own(what, Some(ratio), 2.0, "");
        }
        let limit = if engine == "PostgreSQL" { 1.1 } else { 1.0 };
        let ours = WALL(&self.restore) - self.restore.read_back;
        let ratio = self.load.as_ref().map(|load| ours / WALL(load));
        let what = match engine {
            "PostgreSQL" => "restore, wall without its read-back ÷ pg_restore -j2",
            _ => "restore, wall without its read-back ÷ loading the dump",
        };
        judge.own(what, ratio, limit, "");
        let limit = if engine == "SQLite" { 160.0 } else { 192.0 };
        let what = format!("{engine}: peak memory");
        judge.report.peak(&what, self.peak(), limit);
    }

    fn judge_postgres(&self, judge: &mut Judge) {
        judge.ratio("CRM day, CPU", &self.crm_day, CPU, most_of(0.15));
        judge.ratio("CRM day, wall", &self.crm_day, WALL, most_of(0.2));
        judge.ratio("CRM day, bytes", &self.crm_day, BYTES, most_of(1.0 / 40.0));
        judge.ratio("append-only, CPU", &self.append_only, CPU, most_of(0.08));
        judge.ratio("same again, CPU", &self.same, CPU, Asked::Nothing);
        if let Some(beside) = &self.beside {
            let what = "same again, another database written, CPU";
            judge.ratio(what, beside, CPU, most_of(0.05));
        }
        judge.ratio("1 % updated, CPU", &self.updates, CPU, Asked::Nothing);
        judge.ratio("full, CPU", &self.full, CPU, most_of(0.8));
        let full = self.full.ours();
        let busy = WALL(full) / (CPU(full) / 2.0);
        let what = "full, wall ÷ half of the client's and the server's CPU";
        judge.own(what, Some(busy), 1.25, "");
    }

    fn peak(&self) -> f64 {
        let mut steps = vec![
            &self.full,
            &self.same,
            &self.crm_day,
            &self.append_only,
            &self.updates,
            &self.accident,
        ];
        steps.extend(&self.beside);
        let peaks = steps.iter().map(|step| step.ours().cost.peak);
        peaks.fold(self.restore.cost.peak, f64::max)
    }
}

fn most_of(limit: f64) -> Asked {
    Asked::AtMost(limit)
}
