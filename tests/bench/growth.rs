//! Growth: what each figure does when the database, or the number of its snapshots, grows.
//!
//! First with real databases and the binary, then with described ones: repositories that the
//! library fills with chunks that stand for larger ones, to sizes that no disk here holds. Each
//! figure gets an exponent e, so that it grows as size^e. Invariant: what is printed was measured
//! on a repository that the product itself wrote; nothing is reckoned from a formula of its own.

mod described;
mod simulated;

use std::fmt::Write as _;
use std::path::Path;

use clap::{Args, ValueEnum};
use rowvault::sample::Sample;
use rowvault::sample::churn::{Churn, Edit};

pub use described::step;

use crate::database::Database;
use crate::database::sqlite::Sqlite;
use crate::measure::{Cost, stored};
use crate::report::size;
use crate::tools::{Rowvault, Tool};
use crate::{Options, scratch};

/// How many rows are edited where the same number is edited at every size.
const FEW_EDITS: usize = 200;
/// What tells the dice of this part from another's.
const DAY: u64 = 11;

/// Which tables of growth are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Table {
    /// SQLite files, by the binary.
    Real,
    /// A described database of more and more chunks.
    Size,
    /// More and more hourly snapshots, each by a whole backup.
    Hours,
    /// Years of hourly snapshots that are described, all of them kept.
    Years,
    /// The same, kept as a policy has it.
    Retained,
}

/// How far growth is looked at.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// Growth: the sizes of the real databases
    #[arg(long, value_delimiter = ',', default_values_t = [0.1, 1.0, 5.0])]
    sizes: Vec<f64>,
    /// Growth: the sizes of described databases, in GiB of text
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 10.0, 100.0, 1000.0])]
    described: Vec<f64>,
    /// Growth: after how many whole hourly backups is looked
    #[arg(long, value_delimiter = ',', default_values_t = [24, 120, 600])]
    hours: Vec<u64>,
    /// Growth: after how many described hourly snapshots is looked; five years have 43,800
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000, 15_000, 43_800])]
    years: Vec<u64>,
    /// Growth: only these tables; all of them without it
    #[arg(long, value_delimiter = ',')]
    growth: Vec<Table>,
    /// A step of growth, which runs in a process of its own to be measured
    #[arg(long, hide = true)]
    pub growth_step: Option<String>,
}

impl Reach {
    /// So little that it takes seconds, without being optimized.
    pub fn into_test(self) -> Reach {
        Reach {
            sizes: vec![0.001, 0.002],
            described: vec![0.1, 0.2],
            hours: vec![3],
            years: vec![12],
            ..self
        }
    }

    fn wants(&self, table: Table) -> bool {
        self.growth.is_empty() || self.growth.contains(&table)
    }
}

/// What a figure counts.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Seconds,
    Mebibytes,
    Count,
}

struct Figure {
    what: String,
    unit: Unit,
    values: Vec<Option<f64>>,
}

/// Figures at growing sizes.
struct Series {
    points: Vec<(String, f64)>,
    figures: Vec<Figure>,
}

impl Series {
    fn new() -> Series {
        Series {
            points: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// Begins the next size.
    fn point(&mut self, label: String, size: f64) {
        self.points.push((label, size));
    }

    /// Notes a figure at the size that was begun last.
    fn note(&mut self, what: &str, unit: Unit, value: f64) {
        let at = self.points.len() - 1;
        let known = self.figures.iter().position(|figure| figure.what == what);
        let known = known.unwrap_or_else(|| {
            self.figures.push(Figure {
                what: what.to_owned(),
                unit,
                values: Vec::new(),
            });
            self.figures.len() - 1
        });
        let values = &mut self.figures[known].values;
        values.resize(at + 1, None);
        values[at] = Some(value);
    }

    /// Notes CPU and memory, and wall time where it says more.
    fn cost(&mut self, step: &str, cost: &Cost) {
        self.note(&format!("{step}: CPU"), Unit::Seconds, cost.cpu);
        self.note(&format!("{step}: wall"), Unit::Seconds, cost.wall);
        self.note(&format!("{step}: peak memory"), Unit::Mebibytes, cost.peak);
    }

    /// The table, with the exponent of each figure.
    fn print(&self, title: &str) {
        let mut text = format!("\n### {title}\n\n|");
        for (label, _) in &self.points {
            let _ = write!(text, " | {label}");
        }
        text.push_str(" | exponent |\n|---");
        text.push_str(&"|--:".repeat(self.points.len() + 1));
        text.push_str("|\n");
        for figure in &self.figures {
            let _ = write!(text, "| {}", figure.what);
            for at in 0..self.points.len() {
                let value = figure.values.get(at).copied().flatten();
                let shown = value.map_or("–".into(), |value| shown(value, figure.unit));
                let _ = write!(text, " | {shown}");
            }
            let sizes = self.points.iter().map(|(_, size)| *size);
            let pairs = sizes.zip(&figure.values);
            let pairs = pairs.filter_map(|(size, value)| Some((size, (*value)?)));
            let exponent = exponent(&pairs.collect::<Vec<_>>());
            let exponent = exponent.map_or("–".into(), |exponent| format!("{exponent:.2}"));
            let _ = writeln!(text, " | {exponent} |");
        }
        println!("{text}");
    }
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes => size(value),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Mebibytes => format!("{value:.0} MiB"),
        Unit::Count => format!("{value:.0}"),
    }
}

/// The e of the y = c · x^e that is nearest to the points, by least squares of the logarithms; what
/// is zero has none.
fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let positive = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let logs: Vec<(f64, f64)> = positive.map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean_x = logs.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = logs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y));
    (logs.len() > 1 && spread > 0.0).then(|| together.sum::<f64>() / spread)
}

/// Makes the tables.
pub fn run(options: &Options) {
    let reach = &options.reach;
    if reach.wants(Table::Real) {
        real(options);
    }
    simulated::run(options);
}

fn real(options: &Options) {
    let mut series = Series::new();
    for factor in &options.reach.sizes {
        series.point(format!("size {factor}"), *factor);
        one_size(options, *factor, &mut series);
    }
    series.print("Growth of a SQLite database, size 1 about 1 GB of text");
}

fn one_size(options: &Options, factor: f64, series: &mut Series) {
    let scratch = scratch(options);
    let sample = Sample::new(options.seed, factor);
    let mut crm = Sqlite::new(scratch.path());
    crm.fill(&sample);
    let file = std::fs::metadata(crm.file()).expect("the sample was made");
    series.note("the database's file", Unit::Bytes, file.len() as f64);
    let mut rowvault = Rowvault::new(&options.binary, scratch.path(), "growth");
    let repository = rowvault.repository().to_owned();
    backup(&mut rowvault, &crm, "full", series);
    backup(&mut rowvault, &crm, "nothing changed", series);
    let mut churn = Churn::new(&sample);
    let updates: Vec<Edit> = churn.random_updates(DAY).collect();
    let each = (updates.len() / FEW_EDITS).max(1);
    let few = updates.into_iter().step_by(each).take(FEW_EDITS).collect();
    crm.apply(few);
    let what = format!("{FEW_EDITS} rows changed");
    backup(&mut rowvault, &crm, &what, series);
    crm.apply(churn.crm_day(DAY).collect());
    backup(&mut rowvault, &crm, "CRM day, in proportion", series);
    let (_, found) = rowvault.json("find latest contacts --limit 1");
    let id = found["rows"][0]["id"].as_str().expect("contacts have ids");
    let (cost, found) = rowvault.json(&format!("find latest contacts --key {id}"));
    assert_eq!(found["rows"].as_array().map(Vec::len), Some(1));
    series.cost("find by key", &cost);
    series.note("newest manifest", Unit::Bytes, newest_manifest(&repository));
    let index = stored(&repository.join("index")) as f64;
    series.note("index", Unit::Bytes, index);
    rowvault.json("forget crm --keep-last 1");
    let (cost, _) = rowvault.json("prune");
    series.cost("prune, three snapshots forgotten", &cost);
}

fn backup(rowvault: &mut Rowvault, crm: &Sqlite, step: &str, series: &mut Series) {
    let taken = rowvault.backup(&crm.url(), "");
    let what = format!("{step}: stored");
    series.note(&what, Unit::Bytes, taken.bytes as f64);
    series.cost(step, &taken.cost);
}

/// The bytes of the manifest that was written last.
fn newest_manifest(repository: &Path) -> f64 {
    let files = |directory: &Path| -> Vec<_> {
        let entries = std::fs::read_dir(directory).expect("the repository can be read");
        entries
            .map(|entry| entry.expect("nobody else is there"))
            .collect()
    };
    let sources = files(&repository.join("manifests"));
    let manifests = sources.iter().flat_map(|source| files(&source.path()));
    let facts = manifests.map(|file| file.metadata().expect("nobody else is there"));
    let newest = facts.max_by_key(|facts| facts.modified().expect("files have times"));
    newest.map_or(0.0, |facts| facts.len() as f64)
}
