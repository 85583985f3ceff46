//! The benchmark: rowvault and its peers on the same data, in turn, and what each of them costs.
//!
//! It drives the release binary as a user would, on the sample CRM of a chosen size, and prints
//! tables in Markdown. Ratios are reckoned within one run only, because no two machines are alike.
//! Invariant: every figure that is printed was measured in this run.

mod charts;
mod database;
mod days;
mod growth;
mod measure;
mod memory;
mod reach;
mod report;
mod s3;
mod speed;
mod tools;
mod walk;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use database::mysql::Mysql;
use database::postgres::Postgres;
use database::sqlite::Sqlite;
use report::Report;
use s3::S3;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A SQLite file: full, same again, four kinds of days, restore; beside the peers.
    Sqlite,
    /// The same on a PostgreSQL server.
    Postgres,
    /// The same on a MariaDB server, at half the size.
    Mysql,
    /// Requests to an S3 server, on SQLite at a tenth of the size.
    S3,
    /// How many bytes of text one thread turns into sealed chunks.
    Speed,
    /// Sixty daily snapshots, and hourly ones, all kept, on SQLite.
    Days,
    /// Peak memory of backup and restore, with a row of 256 MiB, on SQLite.
    Memory,
    /// What grows how fast, with the database and with the number of snapshots.
    Growth,
}

/// Measures rowvault beside its peers; prints tables in Markdown.
#[derive(Parser, Debug)]
struct Options {
    /// How large the sample is: 1.0 has about 1 GB of text
    #[arg(long, default_value_t = 1.0)]
    size: f64,
    /// Only these parts; all of them without it
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// A small and short run of everything, to see that the benchmark works
    #[arg(long)]
    smoke: bool,
    /// How many daily snapshots are kept
    #[arg(long, default_value_t = 60)]
    days: u32,
    /// How many days of 24 hourly snapshots follow on a repository of their own
    #[arg(long, default_value_t = 0)]
    hourly_days: u32,
    /// How many times each engine's walk is run; figures are medians, ratios are of one run each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// What the sample and its edits are drawn from
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
    /// Where the databases and repositories are made
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Write bar charts of what was measured into this directory
    #[arg(long, value_name = "DIR")]
    charts: Option<PathBuf>,
    /// The rowvault that is measured: this build's, unless another is named
    #[arg(long, default_value = env!("CARGO_BIN_EXE_rowvault"))]
    binary: PathBuf,
    /// Leave the peers out
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    reach: growth::Reach,
    /// Given by cargo to every benchmark; without it this is a test
    #[arg(long, hide = true)]
    bench: bool,
    /// What cargo hands on to every test
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// What is run, in few words.
    fn about(&self) -> String {
        let runs = match self.runs {
            1 => "one run".into(),
            runs => format!("medians of {runs} runs"),
        };
        format!("size {}, {runs}", self.size)
    }

    /// Whether `cargo test` was asked for this, or for everything.
    fn is_asked_for(&self) -> bool {
        let mut words = self.words.iter();
        self.words.is_empty() || words.any(|word| "bench".contains(&**word))
    }

    /// A few seconds' run, to see that the benchmark works.
    fn into_test(self) -> Options {
        Options {
            size: 0.002,
            only: vec![
                Part::Sqlite,
                Part::Postgres,
                Part::Speed,
                Part::Days,
                Part::Growth,
            ],
            reach: self.reach.into_test(),
            runs: 1,
            days: 2,
            hourly_days: 0,
            alone: true,
            ..self
        }
    }
}

fn main() {
    let mut options = Options::parse();
    if let Some(words) = &options.reach.growth_step {
        return growth::step(words);
    }
    if !options.bench {
        if !options.is_asked_for() || !measure::can_run() {
            return;
        }
        options = options.into_test();
    }
    if options.smoke {
        options.size = 0.02;
        options.days = options.days.min(3);
        options.reach = options.reach.into_test();
    }
    let mut report = Report::new(&options);
    walks(&options, &mut report);
    if options.wants(Part::Speed) {
        (0..options.runs).for_each(|_| speed::run(&options, &mut report));
    }
    if options.wants(Part::Days) {
        days::run(&options, &mut report);
    }
    if options.wants(Part::Memory) {
        memory::run(&options, &mut report);
    }
    if options.wants(Part::Growth) {
        growth::run(&options);
    }
    report.end();
    if let Some(directory) = &options.charts {
        charts::write(directory, report.tables(), options.runs);
    }
}

/// The walks of the engines, each as often as was asked, with a new database for each.
fn walks(options: &Options, report: &mut Report) {
    type One = fn(&Options, &mut Report) -> Result<(), &'static str>;
    let all: [(Part, One); 4] = [
        (Part::Sqlite, sqlite),
        (Part::Postgres, postgres),
        (Part::Mysql, mysql),
        (Part::S3, s3),
    ];
    for (part, one) in all {
        if options.wants(part) {
            let walked: Result<(), &str> = (0..options.runs).try_for_each(|_| one(options, report));
            match walked {
                Ok(()) => report.print(),
                Err(why) => report.note(why),
            }
        }
    }
}

fn sqlite(options: &Options, report: &mut Report) -> Result<(), &'static str> {
    let scratch = scratch(options);
    walk::run(options, &mut Sqlite::new(scratch.path()), 1.0, report);
    Ok(())
}

fn postgres(options: &Options, report: &mut Report) -> Result<(), &'static str> {
    let mut server = Postgres::start().ok_or("PostgreSQL is not installed: left out")?;
    walk::run(options, &mut server, 1.0, report);
    Ok(())
}

fn mysql(options: &Options, report: &mut Report) -> Result<(), &'static str> {
    let mut server = Mysql::start().ok_or("MariaDB is not installed: left out")?;
    walk::run(options, &mut server, 0.5, report);
    Ok(())
}

/// The server keeps what it is given in memory, and is slow: a tenth of the size is enough to count.
fn s3(options: &Options, report: &mut Report) -> Result<(), &'static str> {
    let server = S3::start().ok_or("ROWVAULT_MOTO names no S3 server: requests were left out")?;
    walk::on_s3(options, 0.1, &server, report);
    Ok(())
}

fn scratch(options: &Options) -> tempfile::TempDir {
    let made = tempfile::Builder::new()
        .prefix("rowvault-bench-")
        .tempdir_in(&options.directory);
    made.expect("--directory is writable")
}
