//! Metrics: what the daemon did, as Prometheus reads it.
//!
//! Times are the instants themselves, so that an alert reckons their age at its own time.
//! Invariant: a value that is not known has no line, and labels are names of the configuration,
//! tasks, classes of failures, and some tables of each source, so that there are never many.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Timestamp;
use crate::daemon::history::{History, Memory};
use crate::daemon::job::{Job, Run, Task};
use crate::daemon::runner::{Ended, Taken};
use crate::id::SourceName;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// So many tables of a source are told apart, those that changed most.
const TABLES_MAX: usize = 50;
const CHANGED_BY_TABLE: &str = "Rows put and deleted by the last snapshot, by table";
const LIVING: &str = "Added to the storage by the living snapshots";
const LOCKED: &str = "Packs that would go and are locked by the storage";

/// What is measured.
pub struct Metrics {
    registry: Registry,
    snapshot: Gauges,
    verification: Gauges,
    drill: Gauges,
    duration: Gauges,
    rows: Gauges,
    changed: Gauges,
    changed_by_table: Gauges,
    /// The labels of the tables that stand there, by source.
    tables: Mutex<BTreeMap<String, Vec<Labels>>>,
    living: Gauges,
    repository: Gauges,
    locked: Gauges,
    read: Gauges,
    stored: Gauges,
    head: Gauges,
    frozen: Gauges,
    next: Gauges,
    running: Gauges,
    failures: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::with_prefix("rowvault");
        let all = &mut all;
        let failures = Family::<Labels, Counter>::default();
        let help = "Runs that failed, by class of failure";
        all.register("job_failures", help, failures.clone());
        let (second, byte) = (Unit::Seconds, Unit::Bytes);
        let snapshot = "When the last good snapshot was taken";
        let verification = "When snapshots were last found whole";
        let drill = "When a recovery was last rehearsed with success";
        Metrics {
            snapshot: timed(all, "snapshot_timestamp", snapshot, &second),
            verification: timed(all, "verification_timestamp", verification, &second),
            drill: timed(all, "drill_timestamp", drill, &second),
            duration: timed(all, "job_duration", "How long the last run took", &second),
            next: timed(
                all,
                "job_next_timestamp",
                "When the job is due next",
                &second,
            ),
            read: timed(all, "snapshot_read", "Read by the last snapshot", &byte),
            stored: timed(all, "snapshot_stored", "Stored by the last snapshot", &byte),
            rows: plain(all, "snapshot_rows", "Rows in the last snapshot"),
            changed: plain(all, "snapshot_changed_rows", "Rows put and deleted by it"),
            changed_by_table: plain(all, "table_changed_rows", CHANGED_BY_TABLE),
            tables: Mutex::default(),
            living: timed(all, "source_stored", LIVING, &byte),
            repository: timed(all, "repository", "Packs in the storage", &byte),
            locked: timed(all, "repository_locked", LOCKED, &byte),
            head: plain(all, "ledger_head", "Number of the ledger's last entry"),
            frozen: plain(all, "source_frozen", "Whether an unusual change froze it"),
            running: plain(all, "job_running", "Whether the job runs now"),
            failures,
            registry: std::mem::take(all),
        }
    }
}

fn plain(registry: &mut Registry, name: &str, help: &str) -> Gauges {
    let gauges = Gauges::default();
    registry.register(name, help, gauges.clone());
    gauges
}

fn timed(registry: &mut Registry, name: &str, help: &str, unit: &Unit) -> Gauges {
    let gauges = Gauges::default();
    registry.register_with_unit(name, help, unit.clone(), gauges.clone());
    gauges
}

fn of_source(source: Option<&SourceName>) -> Labels {
    vec![(
        "source",
        source.map(SourceName::to_string).unwrap_or_default(),
    )]
}

fn of_job(task: Task, source: Option<&SourceName>) -> Labels {
    let mut labels = of_source(source);
    labels.push(("task", task.name().to_owned()));
    labels
}

fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1e6
}

impl Metrics {
    /// What is known from before this daemon began.
    pub fn remember(&self, jobs: &[Job], history: &History) {
        for job in jobs {
            let memory = history.memory(&job.name());
            if let Some(Memory {
                good_at: Some(at), ..
            }) = memory
            {
                self.good(job.task, job.source.as_ref(), *at);
            }
        }
    }

    fn good(&self, task: Task, source: Option<&SourceName>, at: Timestamp) {
        let gauges = match task {
            Task::Backup => &self.snapshot,
            Task::Verify => &self.verification,
            Task::Drill => &self.drill,
            Task::Probe | Task::Forget | Task::Prune => return,
        };
        gauges.get_or_create(&of_source(source)).set(seconds(at));
    }

    /// What stands on the board.
    pub fn planned(&self, jobs: &[(Job, Option<Timestamp>, bool)]) {
        self.next.clear();
        self.running.clear();
        for (job, next, runs) in jobs {
            let labels = of_job(job.task, job.source.as_ref());
            let running = if *runs { 1.0 } else { 0.0 };
            self.running.get_or_create(&labels).set(running);
            if let Some(next) = next {
                self.next.get_or_create(&labels).set(seconds(*next));
            }
        }
    }

    /// A run ended.
    pub fn ended(&self, end: &Ended, now: Timestamp) {
        let Run { task, source, .. } = &end.run;
        let labels = of_job(*task, source.as_ref());
        let took = now.since(end.started_at).as_secs_f64();
        self.duration.get_or_create(&labels).set(took);
        match &end.outcome {
            Ok(report) => {
                let at = report.taken.as_ref().map_or(now, |taken| taken.at);
                self.good(*task, source.as_ref(), at);
                if let Some(taken) = &report.taken {
                    self.taken(source.as_ref(), taken);
                }
                if let Some(bytes) = report.repository_bytes {
                    self.repository.get_or_create(&Vec::new()).set(bytes as f64);
                }
                if let Some(bytes) = report.locked_bytes {
                    self.locked.get_or_create(&Vec::new()).set(bytes as f64);
                }
                if let Some(frozen) = report.is_frozen {
                    let value = if frozen { 1.0 } else { 0.0 };
                    self.frozen
                        .get_or_create(&of_source(source.as_ref()))
                        .set(value);
                }
            }
            Err(error) => {
                let mut labels = labels;
                labels.push(("class", error.class().name().to_owned()));
                self.failures.get_or_create(&labels).inc();
            }
        }
    }

    fn taken(&self, source: Option<&SourceName>, taken: &Taken) {
        let labels = of_source(source);
        let [rows, put, deleted] = taken.rows.map(|rows| rows as f64);
        self.rows.get_or_create(&labels).set(rows);
        for (change, rows) in [("put", put), ("deleted", deleted)] {
            let mut labels = labels.clone();
            labels.push(("change", change.to_owned()));
            self.changed.get_or_create(&labels).set(rows);
        }
        let [read, stored] = taken.bytes.map(|bytes| bytes as f64);
        self.read.get_or_create(&labels).set(read);
        self.stored.get_or_create(&labels).set(stored);
        self.head.get_or_create(&labels).set(taken.head as f64);
        self.living
            .get_or_create(&labels)
            .set(taken.living_bytes as f64);
        self.by_table(source, &taken.changed);
    }

    /// Tables of a source that changed, in place of those that did before.
    fn by_table(&self, source: Option<&SourceName>, changed: &[(String, u64, u64)]) {
        let mut most: Vec<&(String, u64, u64)> = changed.iter().collect();
        most.sort_by_key(|(_, put, deleted)| std::cmp::Reverse(put + deleted));
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let name = source.map(SourceName::to_string).unwrap_or_default();
        let stands = tables.entry(name).or_default();
        for labels in stands.drain(..) {
            self.changed_by_table.remove(&labels);
        }
        for (table, put, deleted) in most.into_iter().take(TABLES_MAX) {
            for (change, rows) in [("put", put), ("deleted", deleted)] {
                let mut labels = of_source(source);
                labels.push(("table", table.clone()));
                labels.push(("change", change.to_owned()));
                let gauge = self.changed_by_table.get_or_create(&labels);
                gauge.set(*rows as f64);
                drop(gauge);
                stands.push(labels);
            }
        }
    }

    /// All of it, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::daemon::runner::Report;

    #[test]
    fn ends_of_runs_show_in_the_text() {
        let metrics = Metrics::default();
        let run = Run {
            job: "backup crm".into(),
            task: Task::Backup,
            source: Some("crm".parse().unwrap()),
            planned: Timestamp(0),
            attempt: 1,
            deadline: Duration::from_secs(60),
        };
        let taken = Taken {
            id: "x".into(),
            at: Timestamp::from_seconds(1_700_000_000),
            rows: [100, 5, 2],
            bytes: [4_000, 300],
            head: 7,
            changed: vec![("notes".into(), 1, 0), ("contacts".into(), 4, 2)],
            living_bytes: 900,
        };
        let report = Report {
            taken: Some(taken),
            is_frozen: Some(true),
            repository_bytes: Some(2_000),
            locked_bytes: Some(10),
            ..Report::default()
        };
        let end = Ended {
            run,
            started_at: Timestamp::from_seconds(1_700_000_000),
            outcome: Ok(report),
        };
        metrics.ended(&end, Timestamp::from_seconds(1_700_000_004));
        let text = metrics.text();
        for line in [
            "rowvault_snapshot_timestamp_seconds{source=\"crm\"} 1700000000.0",
            "rowvault_job_duration_seconds{source=\"crm\",task=\"backup\"} 4.0",
            "rowvault_snapshot_changed_rows{source=\"crm\",change=\"deleted\"} 2.0",
            "rowvault_snapshot_stored_bytes{source=\"crm\"} 300.0",
            "rowvault_table_changed_rows{source=\"crm\",table=\"contacts\",change=\"deleted\"} 2.0",
            "rowvault_source_stored_bytes{source=\"crm\"} 900.0",
            "rowvault_repository_bytes{} 2000.0",
            "rowvault_repository_locked_bytes{} 10.0",
            "rowvault_ledger_head{source=\"crm\"} 7.0",
            "rowvault_source_frozen{source=\"crm\"} 1.0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
