//! What is printed: tables of costs, and the table of what was to be reached.
//!
//! Everything is Markdown, so that a run can be put into `docs/benchmarks.md` as it stands.
//! Invariant: a target whose two sides were not both measured is printed as not measured.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::Options;
use crate::database::Database;
use crate::measure::version;
use crate::tools::Taken;

/// A target of the project's.
struct Target {
    what: String,
    limit: f64,
    value: Option<f64>,
    unit: &'static str,
}

/// What was measured so far.
pub struct Report {
    targets: Vec<Target>,
}

/// One line of a table of costs.
pub struct Line<'a> {
    /// What was done.
    pub step: &'a str,
    /// By which tool.
    pub tool: &'a str,
    /// What it cost.
    pub taken: &'a Taken,
    /// What the server used meanwhile, where there is one.
    pub server: Option<f64>,
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.expect("somebody reads the benchmark");
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{model}, {cores} cores, load {load} at the start")
}

impl Report {
    /// Prints what the run is made of.
    pub fn new(options: &Options) -> Report {
        let restic = version("restic", "version").unwrap_or("restic: not installed".into());
        let borg = version("borg", "--version").unwrap_or("borg: not installed".into());
        print(&format!(
            "Machine: {}. Size {}, seed {}. rowvault {}; {restic}; {borg}.",
            machine(),
            options.size,
            options.seed,
            env!("CARGO_PKG_VERSION"),
        ));
        Report {
            targets: Vec::new(),
        }
    }

    /// Prints a sentence.
    pub fn note(&self, text: &str) {
        print(&format!("\n{text}."));
    }

    /// Begins a table of costs on `database`.
    pub fn table(&self, database: &dyn Database, rows: u64) {
        print(&format!(
            "\n### {}: {rows} rows\n\n{}\n\n{}\n{}",
            database.name(),
            database.version(),
            "| step | tool | stored | CPU s | server CPU s | wall s | peak MiB |",
            "|---|---|--:|--:|--:|--:|--:|"
        ));
    }

    /// Prints a line of it.
    pub fn line(&self, line: &Line) {
        let (cost, mode) = (line.taken.cost, &line.taken.mode);
        let mut tool = line.tool.to_owned();
        if !mode.is_empty() {
            let _ = write!(tool, " ({mode})");
        }
        let stored = match line.taken.bytes {
            0 => String::from("–"),
            bytes => size(bytes as f64),
        };
        let server = line.server.map_or("–".into(), |cpu| format!("{cpu:.2}"));
        print(&format!(
            "| {} | {tool} | {stored} | {:.2} | {server} | {:.2} | {:.0} |",
            line.step, cost.cpu, cost.wall, cost.peak
        ));
    }

    /// Notes a ratio that is to be at most `limit`; one without a second side is not judged.
    pub fn ratio(&mut self, what: &str, over: Option<f64>, under: Option<f64>, limit: f64) {
        let value = over.zip(under).map(|(over, under)| over / under);
        self.target(what, value, limit, "");
    }

    /// Notes a value that is to be at most `limit`.
    pub fn target(&mut self, what: &str, value: Option<f64>, limit: f64, unit: &'static str) {
        let what = what.to_owned();
        self.targets.push(Target {
            what,
            limit,
            value,
            unit,
        });
    }

    /// Prints which targets were met.
    pub fn end(&self) {
        print("\n### Reach\n\n| | at most | measured | |\n|---|--:|--:|---|");
        for target in &self.targets {
            let unit = target.unit;
            let (value, verdict) = match target.value {
                None => ("–".into(), "not measured"),
                Some(value) if value <= target.limit => (figure(value, unit), "met"),
                Some(value) => (figure(value, unit), "**not met**"),
            };
            let limit = figure(target.limit, unit);
            print(&format!(
                "| {} | {limit} | {value} | {verdict} |",
                target.what
            ));
        }
    }
}

fn figure(value: f64, unit: &str) -> String {
    let number = match value {
        0.0 => "0".into(),
        value if value < 0.1 => format!("{value:.4}"),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    };
    format!("{number}{unit}")
}

/// Bytes in the unit that a person would take.
pub fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1024.0 => format!("{bytes:.0} B"),
        bytes if bytes < 1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        bytes => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}
