//! The command line: what can be typed, and what each verb is handed to.
//!
//! One file a command group below; here stands the list of verbs and the help. Invariant: stdout
//! gets results and nothing else, stderr the rest, and the exit code is the failure's class.

pub mod care;
pub mod compare;
pub mod daemon;
pub mod database;
pub mod doctor;
pub mod drill;
pub mod export;
pub mod global;
pub mod keys;
pub mod look;
pub mod output;
pub mod protect;
pub mod recover;
pub mod relations;
pub mod render;
pub mod retain;
pub mod rollback;
pub mod screen;
pub mod session;
pub mod stop;
pub mod undelete;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use futures::future::LocalBoxFuture;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::global::Globals;
use crate::cli::output::{Output, Style, failure_text};
use crate::cli::screen::Screen;
use crate::cli::session::Session;
use crate::cli::stop::Stop;
use crate::failure::{AnyFailure, Class};

/// Lines of help are at most so long.
const HELP_COLUMNS: usize = 80;

/// The verbs by what they are for, as the help lists them.
const GROUPS: &[(&str, &[&str])] = &[
    ("Protect", &["init", "backup", "daemon"]),
    ("Look", &["snapshots", "show", "stats", "verify", "ledger"]),
    ("Keep", &["forget", "prune", "pin", "unpin", "tag", "thaw"]),
    ("Records", &["find", "diff", "history"]),
    ("Recover", &["restore", "undelete", "drill", "export"]),
    ("Keys", &["key"]),
    ("Help", &["demo", "doctor", "completions", "man"]),
];

const EXAMPLES: &str = "\
Examples:
  export ROWVAULT_REPO=/srv/backup ROWVAULT_KEY_FILE=/root/rowvault.key
  rowvault init                          make the repository and its key file
  rowvault backup sqlite:/srv/crm.db     take a snapshot
  rowvault snapshots                     list what there is
  rowvault find crm@latest contacts --key 42
  rowvault verify --data all             open and hash everything
  rowvault restore crm@latest --to sqlite:/tmp/crm.db

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 damaged or altered,
4 something asked for was not done, 5 busy, 6 denied.
";

/// Encrypted, row-aware backup and recovery for CRM databases
#[derive(Parser, Clone, Debug)]
#[command(
    name = "rowvault",
    version,
    disable_help_subcommand = true,
    disable_help_flag = true
)]
#[command(max_term_width = HELP_COLUMNS)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Make a repository and print its recovery sheet
    Init(protect::Init),
    /// Take a snapshot of one database or several, now
    Backup(protect::Backup),
    /// Do what the configuration plans, by schedule, until SIGTERM
    Daemon(daemon::Daemon),
    /// List snapshots, oldest first
    Snapshots(look::Snapshots),
    /// Show what a snapshot consists of: tables, rows, bytes
    Show(look::Show),
    /// Show bytes by source and table
    Stats(look::Stats),
    /// Check that everything snapshots need is there and whole
    Verify(look::Verify),
    /// Show what happened, and whether the chain is whole
    Ledger(care::Ledger),
    /// Take snapshots out of the living, by rules of what to keep
    Forget(retain::Forget),
    /// Delete what no living snapshot needs, after a day of waiting
    Prune(retain::Prune),
    /// Keep a snapshot from being forgotten
    Pin(retain::Pin),
    /// Take away the pins of a snapshot
    Unpin(retain::Unpin),
    /// Give a snapshot tags
    Tag(retain::Tag),
    /// End a freeze, after a person has looked
    Thaw(care::Thaw),
    /// Restore a snapshot into a new or an empty database
    Restore(recover::Restore),
    /// Bring records back into a live database
    Undelete(undelete::Undelete),
    /// Rehearse a restore, measure it, and report
    Drill(drill::Drill),
    /// Find records in a snapshot
    Find(recover::Find),
    /// Show what was added, removed and changed between snapshots
    Diff(compare::Diff),
    /// Show every version of a record over all snapshots
    History(compare::History),
    /// Write tables of a snapshot as plain files
    Export(export::Export),
    /// List and change who can open the repository or write to it
    Key(keys::Key),
    /// Look at everything that a backup needs, and say what to do
    Doctor(doctor::Doctor),
    /// Tell the whole story on a sample CRM, in under a minute
    Demo(Demo),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual, or write one page a verb
    Man(Man),
}

/// Arguments of `demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Keep what the demo makes, in this new directory
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// What tells the demo, which stands above this room and is handed in.
pub type DemoTeller =
    for<'a> fn(&'a Session, &'a Demo) -> LocalBoxFuture<'a, Result<(), AnyFailure>>;

/// Arguments of `completions`.
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Clone, Debug)]
pub struct Man {
    /// Write a page for each verb into this directory, instead of the first one to stdout
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// The command with its whole help.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let mut verbs = String::new();
    for (group, names) in GROUPS {
        verbs.push_str(&format!("{group}:\n"));
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(|verb| verb.get_about().map(ToString::to_string));
            verbs.push_str(&format!("  {name:<12} {}\n", about.unwrap_or_default()));
        }
    }
    let template = format!(
        "{{about}}\n\n{{usage-heading}} rowvault [OPTIONS] COMMAND …\n\n{verbs}\nOptions:\n{{options}}{{after-help}}"
    );
    command
        .help_template(template)
        .override_usage("rowvault [OPTIONS] COMMAND …")
        .after_help(EXAMPLES)
}

/// Behind `key add`, what is added bears the names of what opens the repository elsewhere.
fn rename_added(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let command = Cli::command();
    let takes_value = |option: &str| {
        let mut globals = command.get_arguments().filter(|one| one.is_global_set());
        globals.any(|one| {
            one.get_long() == option.strip_prefix("--") && one.get_action().takes_values()
        })
    };
    let mut out = Vec::new();
    let mut words = 0;
    let mut value = false;
    for (at, argument) in arguments.enumerate() {
        let text = argument.to_str().unwrap_or_default();
        let word = at > 0 && !value && !text.starts_with('-');
        value = at > 0 && !value && takes_value(text);
        let expected = ["key", "add"].get(words);
        if word && words < 2 {
            // Another verb: nothing is renamed from here on.
            words = if expected == Some(&text) {
                words + 1
            } else {
                usize::MAX
            };
        }
        let renamed = ["key-file", "passphrase-file"].iter().find_map(|name| {
            let rest = text.strip_prefix("--")?.strip_prefix(name)?;
            let whole = rest.is_empty() || rest.starts_with('=');
            (words == 2 && whole).then(|| format!("--new-{name}{rest}"))
        });
        out.push(renamed.map_or(argument, OsString::from));
    }
    out
}

/// Reads the command line.
///
/// # Errors
/// The exit code, where it asked for help (printed, 0) or cannot be meant (told, 2).
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, u8> {
    let arguments = rename_added(arguments);
    let json = arguments
        .iter()
        .any(|argument| argument == OsStr::new("--json"));
    let parsed = command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if !error.use_stderr() {
            // Help was asked for; nobody can be told that stdout is closed.
            let _ = error.print();
            return 0;
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && !json {
            let _ = error.print();
        } else {
            let style = if json { Style::Json } else { Style::Text };
            eprint!("{}", failure_text(&refusal(&error), style));
        }
        Class::Invalid.exit_code()
    })
}

/// What is wrong with a command line, and the parser's tip or the usage.
fn refusal(error: &clap::Error) -> AnyFailure {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut lines = text.lines().map(str::trim);
    let what: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let rest: Vec<&str> = lines.collect();
    let hint = rest
        .iter()
        .find_map(|line| line.strip_prefix("tip: "))
        .or_else(|| rest.iter().find(|line| line.starts_with("Usage:")).copied())
        .unwrap_or("rowvault --help lists what there is");
    AnyFailure::new(Class::Invalid, what.join(" "), Some(hint.to_owned()))
}

/// Runs what was asked for, and gives the exit code; a failure has been told by then.
pub async fn run(cli: Cli, stop: Stop, demo: DemoTeller) -> u8 {
    let screen = Screen::new(&cli.globals);
    let mut loud = cli.globals.clone();
    if matches!(cli.verb, Verb::Daemon(_)) && !loud.quiet {
        // Its log is all that a daemon has to show.
        loud.verbose = loud.verbose.max(1);
    }
    screen::start_log(&loud, &screen);
    let style = if cli.globals.json {
        Style::Json
    } else {
        Style::Text
    };
    let outcome = match Session::new(cli.globals, screen.clone(), stop) {
        Ok(session) => dispatch(&session, &cli.verb, demo).await,
        Err(error) => Err(error),
    };
    crate::job::Progress::end(&screen);
    outcome.unwrap_or_else(|failure| {
        screen.print(&failure_text(&failure, style));
        failure.class().exit_code()
    })
}

async fn dispatch(session: &Session, verb: &Verb, demo: DemoTeller) -> Result<u8, AnyFailure> {
    let stop = session.stop.clone();
    match verb {
        // These stop in their own way, since they have something to take away.
        Verb::Backup(arguments) => protect::backup(session, arguments).await,
        Verb::Daemon(_) => daemon::daemon(session).await,
        Verb::Restore(arguments) => recover::restore(session, arguments).await,
        Verb::Drill(arguments) => drill::drill(session, arguments).await,
        Verb::Init(arguments) => protect::init(session, arguments).await,
        Verb::Snapshots(arguments) => stop.or(look::snapshots(session, arguments)).await,
        Verb::Show(arguments) => stop.or(look::show(session, arguments)).await,
        Verb::Stats(_) => stop.or(look::stats(session)).await,
        Verb::Verify(arguments) => stop.or(look::verify(session, arguments)).await,
        Verb::Ledger(arguments) => stop.or(care::ledger(session, arguments)).await,
        Verb::Forget(arguments) => stop.or(retain::forget(session, arguments)).await,
        Verb::Prune(arguments) => stop.or(retain::prune(session, arguments)).await,
        Verb::Pin(arguments) => stop.or(retain::pin(session, arguments)).await,
        Verb::Unpin(arguments) => stop.or(retain::unpin(session, arguments)).await,
        Verb::Tag(arguments) => stop.or(retain::tag(session, arguments)).await,
        Verb::Thaw(arguments) => stop.or(care::thaw(session, arguments)).await,
        Verb::Undelete(arguments) => stop.or(undelete::undelete(session, arguments)).await,
        Verb::Find(arguments) => stop.or(recover::find(session, arguments)).await,
        Verb::Diff(arguments) => stop.or(compare::diff(session, arguments)).await,
        Verb::History(arguments) => stop.or(compare::history(session, arguments)).await,
        Verb::Export(arguments) => stop.or(export::export(session, arguments)).await,
        Verb::Key(arguments) => stop.or(keys::key(session, arguments)).await,
        Verb::Doctor(_) => stop.or(doctor::doctor(session)).await,
        Verb::Demo(_) if session.output.is_json() => Err(AnyFailure::new(
            Class::Invalid,
            "the demo is told in words and has no JSON",
            Some("leave --json out".into()),
        )),
        Verb::Demo(arguments) => stop.or(demo(session, arguments)).await.map(|()| 0),
        Verb::Completions(arguments) => completions(&session.output, arguments),
        Verb::Man(arguments) => man(&session.output, arguments),
    }
}

fn completions(output: &Output, arguments: &Completions) -> Result<u8, AnyFailure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "rowvault", &mut text);
    output.text(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

fn man(output: &Output, arguments: &Man) -> Result<u8, AnyFailure> {
    let failed = |error: std::io::Error| crate::repo::value::Error::from(error);
    let Some(directory) = &arguments.out else {
        let mut page = Vec::new();
        // The template of the help is no manual page: the plain command makes a better one.
        let plain = Cli::command().after_help(EXAMPLES);
        clap_mangen::Man::new(plain)
            .render(&mut page)
            .map_err(failed)?;
        output.text(&String::from_utf8_lossy(&page))?;
        return Ok(0);
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command().after_help(EXAMPLES), directory).map_err(failed)?;
    output.done(&format!("wrote the manual to {}\n", directory.display()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_one_group_and_every_group_has_only_verbs() {
        let grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        let mut known: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        let mut grouped: Vec<String> = grouped.into_iter().map(str::to_owned).collect();
        known.sort();
        grouped.sort();
        assert_eq!(known, grouped);
        command().debug_assert();
    }

    #[test]
    fn key_files_behind_key_add_are_those_that_are_made() {
        let renamed = |line: &str| {
            let words = line.split(' ').map(OsString::from);
            let words: Vec<String> = rename_added(words)
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect();
            words.join(" ")
        };
        for (line, expected) in [
            (
                "rowvault --key-file a key add --key-file b",
                "rowvault --key-file a key add --new-key-file b",
            ),
            (
                "rowvault key --repo add --json add --passphrase-file=b --repo x",
                "rowvault key --repo add --json add --new-passphrase-file=b --repo x",
            ),
            (
                "rowvault key list --key-file a",
                "rowvault key list --key-file a",
            ),
            (
                "rowvault backup key add --key-file a",
                "rowvault backup key add --key-file a",
            ),
            (
                "rowvault --repo key key add --key-file a",
                "rowvault --repo key key add --new-key-file a",
            ),
        ] {
            assert_eq!(renamed(line), expected);
        }
    }
}
