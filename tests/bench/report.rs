//! What is printed: tables of costs, and the table of what was to be reached.
//!
//! A step that is run several times comes out as the median of its runs, a ratio as the median of
//! the ratios within each run. Everything is Markdown, so that a run can be put into
//! `docs/benchmarks.md` as it stands. Invariant: a target whose two sides were not both measured
//! is printed as not measured.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::Options;
use crate::measure::version;
use crate::tools::{self, Taken};

/// What was asked of a figure.
#[derive(Clone, Copy)]
pub enum Asked {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing: it is only shown.
    Nothing,
}

/// A figure that is judged, over all runs.
struct Target {
    what: String,
    asked: Asked,
    values: Vec<f64>,
    unit: &'static str,
    /// The largest of all runs counts, not their median.
    worst: bool,
}

/// What a tool cost in one step, over all runs.
pub struct Line {
    /// What was done.
    pub step: String,
    /// By which tool.
    pub tool: String,
    runs: Vec<Taken>,
}

/// The costs on one database.
pub struct Table {
    /// The database.
    pub title: String,
    versions: String,
    /// How many rows it has before any edit.
    pub rows: u64,
    /// In the order in which they were measured first.
    pub lines: Vec<Line>,
}

/// What was measured so far.
pub struct Report {
    targets: Vec<Target>,
    tables: Vec<Table>,
    printed: usize,
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

/// The median of what was measured; the mean of the two in the middle of an even number.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Line {
    /// The median of each figure.
    pub fn taken(&self) -> Taken {
        let all = |figure: &dyn Fn(&Taken) -> Option<f64>| {
            let values: Vec<f64> = self.runs.iter().filter_map(figure).collect();
            median(&values)
        };
        let last = self.runs.last().cloned().unwrap_or_default();
        let mut taken = last;
        taken.cost.cpu = all(&|taken| Some(taken.cost.cpu)).unwrap_or_default();
        taken.cost.wall = all(&|taken| Some(taken.cost.wall)).unwrap_or_default();
        taken.cost.peak = all(&|taken| Some(taken.cost.peak)).unwrap_or_default();
        taken.bytes = all(&|taken| Some(taken.bytes as f64)).unwrap_or_default() as u64;
        taken.server = all(&|taken| taken.server);
        taken.requests = all(&|taken| taken.requests);
        taken
    }

    fn print(&self, requests: bool) {
        let taken = self.taken();
        let mut tool = self.tool.clone();
        if !taken.mode.is_empty() {
            let _ = write!(tool, " ({})", taken.mode);
        }
        let stored = match taken.bytes {
            0 => String::from("–"),
            bytes => size(bytes as f64),
        };
        let cost = taken.cost;
        let server = taken.server.map_or("–".into(), |cpu| format!("{cpu:.2}"));
        let mut line = format!(
            "| {} | {tool} | {stored} | {:.2} | {server} | {:.2} | {:.0} |",
            self.step, cost.cpu, cost.wall, cost.peak
        );
        if requests {
            let count = taken
                .requests
                .map_or("–".into(), |count| format!("{count:.0}"));
            let _ = write!(line, " {count} |");
        }
        print(&line);
    }
}

impl Table {
    fn print(&self) {
        let requests = self
            .lines
            .iter()
            .any(|line| line.taken().requests.is_some());
        let mut head = String::from(
            "| step | tool | stored | client CPU s | server CPU s | wall s | peak MiB |",
        );
        let mut rule = String::from("|---|---|--:|--:|--:|--:|--:|");
        if requests {
            head.push_str(" requests |");
            rule.push_str("--:|");
        }
        print(&format!(
            "\n### {}\n\n{}; {} rows.\n\n{head}\n{rule}",
            self.title, self.versions, self.rows
        ));
        for line in &self.lines {
            line.print(requests);
        }
    }
}

impl Report {
    /// Prints what the run is made of.
    pub fn new(options: &Options) -> Report {
        let own = version(&options.binary.display().to_string(), "--version");
        let mut said = vec![own.unwrap_or_default()];
        if !options.alone {
            said.extend(tools::PEERS.iter().map(|(program, argument)| {
                version(program, argument).unwrap_or(format!("{program}: not installed"))
            }));
        }
        print(&format!(
            "Machine: {}; {}, seed {}. {}.",
            machine(),
            options.about(),
            options.seed,
            said.join("; ")
        ));
        Report {
            targets: Vec::new(),
            tables: Vec::new(),
            printed: 0,
        }
    }

    /// Prints a sentence.
    pub fn note(&self, text: &str) {
        print(&format!("\n{text}."));
    }

    /// Begins a table of costs on a database of `rows` rows, or goes on with it in a further run.
    pub fn table(&mut self, title: &str, versions: &str, rows: u64) {
        if self.tables.last().is_none_or(|last| last.title != title) {
            self.tables.push(Table {
                title: title.into(),
                versions: versions.into(),
                rows,
                lines: Vec::new(),
            });
        }
    }

    /// Notes what a tool cost in a step of the table that was begun last.
    pub fn line(&mut self, step: &str, tool: &str, taken: &Taken) {
        eprintln!(
            "{step} · {tool}: {:.2} + {:.2} CPU s, {:.2} s",
            taken.cost.cpu,
            taken.server.unwrap_or_default(),
            taken.cost.wall
        );
        let table = self.tables.last_mut().expect("a table was begun");
        let mut lines = table.lines.iter_mut();
        match lines.find(|line| line.step == step && line.tool == tool) {
            Some(line) => line.runs.push(taken.clone()),
            None => table.lines.push(Line {
                step: step.into(),
                tool: tool.into(),
                runs: vec![taken.clone()],
            }),
        }
    }

    /// Prints the tables that were not printed yet: all their runs are done.
    pub fn print(&mut self) {
        for table in &self.tables[self.printed..] {
            table.print();
        }
        self.printed = self.tables.len();
    }

    /// The tables that were measured.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Notes a ratio of one run; one without a second side is not judged.
    pub fn ratio(&mut self, what: &str, over: Option<f64>, under: Option<f64>, asked: Asked) {
        let value = over.zip(under).map(|(over, under)| over / under);
        self.target(what, value, asked, "");
    }

    /// Notes a value of one run.
    pub fn target(&mut self, what: &str, value: Option<f64>, asked: Asked, unit: &'static str) {
        let at = self.targets.iter().position(|target| target.what == what);
        let at = at.unwrap_or_else(|| {
            self.targets.push(Target {
                what: what.into(),
                asked,
                values: Vec::new(),
                unit,
                worst: false,
            });
            self.targets.len() - 1
        });
        self.targets[at].values.extend(value);
    }

    /// Notes a value of which the largest of all runs is to be at most `limit`.
    pub fn peak(&mut self, what: &str, value: f64, limit: f64) {
        self.target(what, Some(value), Asked::AtMost(limit), " MiB");
        let noted = self.targets.iter_mut().filter(|target| target.what == what);
        noted.for_each(|target| target.worst = true);
    }

    /// Prints which targets were met.
    pub fn end(&self) {
        print("\n### Reach\n\n| | asked | measured | |\n|---|--:|--:|---|");
        for target in &self.targets {
            target.print();
        }
    }
}

impl Target {
    fn value(&self) -> Option<f64> {
        match self.worst {
            true => self.values.iter().copied().max_by(f64::total_cmp),
            false => median(&self.values),
        }
    }

    fn print(&self) {
        let unit = self.unit;
        let (asked, met) = match (self.asked, self.value()) {
            (Asked::AtMost(limit), value) => (
                format!("≤ {}", figure(limit, unit)),
                value.map(|value| value <= limit),
            ),
            (Asked::AtLeast(limit), value) => (
                format!("≥ {}", figure(limit, unit)),
                value.map(|value| value >= limit),
            ),
            (Asked::Nothing, value) => ("–".into(), value.map(|_| true)),
        };
        let verdict = match (self.asked, met) {
            (_, None) => "not measured",
            (Asked::Nothing, _) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "**not met**",
        };
        let value = self.value().map_or("–".into(), |value| figure(value, unit));
        print(&format!(
            "| {} | {asked} | {value} | {verdict} |",
            self.what
        ));
    }
}

fn figure(value: f64, unit: &str) -> String {
    let number = match value {
        0.0 => "0".into(),
        value if value < 0.04 && unit.is_empty() => format!("1/{:.0}", 1.0 / value),
        value if value < 0.1 => format!("{value:.3}"),
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
