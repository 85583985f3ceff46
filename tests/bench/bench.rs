//! The benchmark: rowvault and its peers on the same data, in turn, and what each of them costs.
//!
//! It drives the release binary as a user would, on the sample CRM of a chosen size, and prints
//! tables in Markdown. Ratios are reckoned within one run only, because no two machines are alike.
//! Invariant: every figure that is printed was measured in this run.

mod database;
mod days;
mod measure;
mod memory;
mod report;
mod tools;
mod walk;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use database::mysql::Mysql;
use database::postgres::Postgres;
use database::sqlite::Sqlite;
use report::Report;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A SQLite file: full, same again, four kinds of days, restore; beside the peers.
    Sqlite,
    /// The same on a PostgreSQL server.
    Postgres,
    /// The same on a MariaDB server, at half the size.
    Mysql,
    /// Sixty daily snapshots, and hourly ones, all kept, on SQLite.
    Days,
    /// Peak memory of backup and restore, with a row of 256 MiB, on SQLite.
    Memory,
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
    /// What the sample and its edits are drawn from
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
    /// Where the databases and repositories are made
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// The rowvault that is measured: this build's, unless another is named
    #[arg(long, default_value = env!("CARGO_BIN_EXE_rowvault"))]
    binary: PathBuf,
    /// Leave restic and borg out
    #[arg(long)]
    alone: bool,
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

    /// Whether `cargo test` was asked for this, or for everything.
    fn is_asked_for(&self) -> bool {
        let mut words = self.words.iter();
        self.words.is_empty() || words.any(|word| "bench".contains(&**word))
    }

    /// A few seconds' run, to see that the benchmark works.
    fn into_test(self) -> Options {
        Options {
            size: 0.002,
            only: vec![Part::Sqlite, Part::Days],
            days: 2,
            hourly_days: 0,
            alone: true,
            ..self
        }
    }
}

fn main() {
    let mut options = Options::parse();
    if !options.bench {
        if !options.is_asked_for() || !measure::can_run() {
            return;
        }
        options = options.into_test();
    }
    if options.smoke {
        options.size = 0.02;
        options.days = options.days.min(3);
    }
    let mut report = Report::new(&options);
    if options.wants(Part::Sqlite) {
        let scratch = scratch(&options);
        walk::run(&options, &mut Sqlite::new(scratch.path()), 1.0, &mut report);
    }
    if options.wants(Part::Postgres) {
        match Postgres::start() {
            Some(mut server) => walk::run(&options, &mut server, 1.0, &mut report),
            None => report.note("PostgreSQL is not installed: left out"),
        }
    }
    if options.wants(Part::Mysql) {
        match Mysql::start() {
            Some(mut server) => walk::run(&options, &mut server, 0.5, &mut report),
            None => report.note("MariaDB is not installed: left out"),
        }
    }
    if options.wants(Part::Days) {
        days::run(&options, &mut report);
    }
    if options.wants(Part::Memory) {
        memory::run(&options, &mut report);
    }
    report.end();
}

fn scratch(options: &Options) -> tempfile::TempDir {
    let made = tempfile::Builder::new()
        .prefix("rowvault-bench-")
        .tempdir_in(&options.directory);
    made.expect("--directory is writable")
}
