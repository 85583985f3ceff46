//! The options that every verb has, and where their values come from when they are not given.
//!
//! Invariant: a flag wins over the environment, the environment over the configuration, and that
//! over the default; of what opens the repository, one layer gives one thing or is refused.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options before or after the verb.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The configuration [env: ROWVAULT_CONFIG] [default: ./rowvault.toml, else
    /// /etc/rowvault/rowvault.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The repository: a path, s3://BUCKET/PREFIX, gs:// or az:// [env: ROWVAULT_REPO]
    #[arg(long, global = true, value_name = "URL")]
    pub repo: Option<String>,
    /// A key file that opens it, a slot's or a writer's [env: ROWVAULT_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// A file with the passphrase that opens it [env: ROWVAULT_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Where this host keeps its state [env: ROWVAULT_STATE_DIR] [default:
    /// $XDG_STATE_HOME/rowvault]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print one JSON document; failures are JSON on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Leave out progress, warnings and what a command says when it went well
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more on stderr; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How lines on stderr look
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// When to draw progress bars
    #[arg(long, global = true, value_name = "WHEN")]
    pub progress: Option<When>,
    /// Print help
    #[arg(long, short, global = true, action = clap::ArgAction::HelpShort)]
    pub help: Option<bool>,
}

/// How lines on stderr look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// When something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Where a person watches.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}
