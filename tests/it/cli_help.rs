//! Help that fits, and docs/cli.md that says what the program has: neither can rot unseen.

use std::collections::BTreeSet;

use rowvault::cli;

use crate::cli_desk::Desk;

/// Each command by its words (`key add`), with its own options.
fn commands() -> Vec<(String, clap::Command)> {
    fn walk(words: &str, command: &clap::Command, out: &mut Vec<(String, clap::Command)>) {
        for one in command.get_subcommands() {
            let words = format!("{words}{}", one.get_name());
            out.push((words.clone(), one.clone()));
            walk(&format!("{words} "), one, out);
        }
    }
    let mut out = Vec::new();
    walk("", &cli::command(), &mut out);
    out
}

#[test]
fn help_of_every_command_fits_eighty_columns() {
    let desk = Desk::bare();
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    let words = |words: &str| words.split(' ').map(str::to_owned).collect();
    all.extend(commands().iter().map(|(name, _)| words(name)));
    assert!(all.len() > 20);
    for mut words in all {
        for help in ["-h", "--help"] {
            words.push(help.into());
            let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = desk.run(&arguments);
            assert_eq!((ran.code, &*ran.err), (0, ""), "{words:?}");
            for line in ran.out.lines() {
                assert!(line.chars().count() <= 80, "{words:?}: {line:?}");
            }
            words.pop();
        }
    }
}

#[test]
fn documentation_lists_exactly_the_commands_and_options_that_there_are() {
    let text = include_str!("../../docs/cli.md");
    let headings: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.split_once('`'))
        .map(|(heading, _)| heading)
        .map(|heading| heading.split(" [").next().unwrap_or_default())
        .collect();
    let globals: BTreeSet<String> = cli::command()
        .get_arguments()
        .filter_map(|one| one.get_long().map(str::to_owned))
        .collect();
    let mut sections = text.split("\n### `").skip(1);
    let mut documented = BTreeSet::new();
    for (name, command) in commands() {
        assert!(
            headings.iter().any(|heading| command_of(heading) == name),
            "no section {name}"
        );
        let section = sections
            .clone()
            .find(|section| command_of(section.split('`').next().unwrap_or_default()) == name)
            .unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        for option in command.get_arguments().filter_map(|one| one.get_long()) {
            if !globals.contains(option) {
                assert!(
                    section.contains(&format!("--{option}")),
                    "{name}: --{option}"
                );
            }
        }
        documented.insert(name);
    }
    for heading in headings {
        assert!(
            documented.contains(&command_of(heading)),
            "there is no {heading:?}"
        );
    }
    let (before, _) = text.split_once("\n### `").expect("there are sections");
    for global in globals {
        assert!(before.contains(&format!("--{global}")), "no --{global}");
    }
    assert!(sections.next().is_some());
    let known: BTreeSet<String> = commands()
        .iter()
        .flat_map(|(_, command)| command.get_arguments().filter_map(|one| one.get_long()))
        .map(str::to_owned)
        .chain(["help".into(), "version".into()])
        .chain(
            cli::command()
                .get_arguments()
                .filter_map(|one| Some(one.get_long()?.into())),
        )
        .collect();
    for word in text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-')) {
        if let Some(option) = word.strip_prefix("--")
            && !option.is_empty()
            && !option.starts_with('-')
        {
            assert!(
                known.contains(option),
                "docs/cli.md has --{option}, which there is not"
            );
        }
    }
}

/// The words of a command in a heading such as `key add WHAT`.
fn command_of(heading: &str) -> String {
    let words = heading
        .split(' ')
        .take_while(|word| word.chars().all(|letter| letter.is_ascii_lowercase()));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn completions_and_manual_are_made() {
    let desk = Desk::bare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.run(&["completions", shell]).out.contains("rowvault"));
    }
    assert!(desk.run(&["man"]).out.contains(".TH rowvault 1"));
    assert_eq!(desk.run(&["man", "--out", "man", "-q"]).code, 0);
    assert_eq!(desk.names("man").len(), commands().len() + 1);
}
