//! README.md and docs/: every block of commands is run as it stands there, or says why not.
//!
//! A block that cannot be run here is opened with "```sh not-run: WHY". The commands of a page run
//! in one shell, one after the other, at a desk that stands for the machine: directories such as
//! /backup are directories of the desk. `# exits N` behind a command is the exit code that it has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rowvault::config;

use crate::cli_desk::Desk;

/// The blocks that are not run, and why; the README tells it too.
const NOT_RUN: [(&str, &str); 6] = [
    ("README.md", "the suite itself runs the demo"),
    ("README.md", "it is the suite"),
    (
        "docs/benchmarks.md",
        "measures for hours, beside other tools",
    ),
    ("docs/operations.md", "takes a release build and root"),
    ("docs/operations.md", "systemd"),
    ("docs/operations.md", "containers and a cluster"),
];
/// The pages whose commands are run here.
const RUN: [&str; 3] = ["README.md", "docs/operations.md", "docs/security.md"];
/// The chapters of docs/runbook.md; `runbook.rs` runs each in a scene of its own.
const RUNBOOK: [&str; 5] = [
    "The server is gone",
    "A table was emptied",
    "One record is missing",
    "The repository is damaged",
    "A key is lost",
];
/// Directories of a machine that the desk stands for.
const PLACES: [&str; 3] = ["/backup/", "/srv/", "/etc/rowvault/"];

#[derive(Debug)]
struct Block {
    line: usize,
    language: String,
    note: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|end| end == "md") {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    pages.sort();
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (at, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let (language, note) = info.split_once(' ').unwrap_or((info, ""));
                let block = Block {
                    line: at + 1,
                    language: language.into(),
                    note: note.into(),
                    text: String::new(),
                };
                open = Some((indent, block));
            }
            (Some(_), Some(_)) => found.extend(open.take().map(|(_, block)| block)),
            (None, Some((indent, block))) => {
                block.text.push_str(line.get(*indent..).unwrap_or(""));
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    found
}

/// The text of the one block of a page with this language and note.
pub fn block(page: &str, language: &str, note: &str) -> String {
    let found = blocks(page).into_iter();
    let mut found = found.filter(|block| block.language == language && block.note == note);
    let block = found
        .next()
        .unwrap_or_else(|| panic!("{page}: no {language} {note}"));
    assert!(found.next().is_none(), "{page}: several {language} {note}");
    block.text
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    let mut not_run = Vec::new();
    for page in pages() {
        for block in blocks(&page)
            .into_iter()
            .filter(|block| block.language == "sh")
        {
            match block.note.strip_prefix("not-run: ") {
                Some(why) => not_run.push((page.clone(), why.to_owned())),
                None => assert!(
                    block.note.is_empty() && (RUN.contains(&&*page) || page == "docs/runbook.md"),
                    "{page}, line {}: nothing runs this block",
                    block.line
                ),
            }
        }
    }
    let known = NOT_RUN.map(|(page, why)| (page.to_owned(), why.to_owned()));
    assert_eq!(not_run, known);
    let book = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let chapters: Vec<&str> = book
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(chapters, RUNBOOK);
}

/// A line of a script that ends where its command does not end as it says.
fn checked(line: &str) -> String {
    match line.split_once(" # exits ") {
        Some((command, code)) => format!(
            "code=0; {command} || code=$?; [ \"$code\" = {code} ] || \
             {{ echo \"exit $code\" >&2; exit 1; }}"
        ),
        None => line.to_owned(),
    }
}

/// Runs the commands of a page, and tells how many blocks there were.
fn follow(page: &str, desk: &Desk, prelude: &str) -> usize {
    std::fs::create_dir(desk.path("bin")).unwrap();
    let program = env!("CARGO_BIN_EXE_rowvault");
    std::os::unix::fs::symlink(program, desk.path("bin/rowvault")).unwrap();
    let found = blocks(page);
    let run = found
        .iter()
        .filter(|one| one.language == "sh" && one.note.is_empty());
    let mut script = format!("set -euo pipefail\n{prelude}\n");
    let mut many = 0;
    for block in run {
        many += 1;
        script.push_str(&format!("echo '== line {}'\n", block.line));
        for line in block.text.lines() {
            script.push_str(&checked(line));
            script.push('\n');
        }
    }
    for place in PLACES {
        let own = desk.path(place.trim_matches('/'));
        script = script.replace(place, &format!("{}/", own.display()));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(desk.path(""))
        .env_clear()
        .env("PATH", format!("{}:{path}", desk.path("bin").display()))
        .env("HOME", desk.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{page}: {:?}\n{}\n{}",
        output.status,
        told(&output.stdout),
        told(&output.stderr)
    );
    many
}

/// A desk with the directories of a machine and a CRM in /srv.
fn machine() -> Desk {
    let desk = Desk::bare();
    for place in PLACES {
        std::fs::create_dir_all(desk.path(place.trim_matches('/'))).unwrap();
    }
    std::fs::rename(desk.path("crm.db"), desk.path("srv/crm.db")).unwrap();
    desk
}

#[test]
fn commands_of_the_readme_run() {
    assert_eq!(follow("README.md", &machine(), ""), 2);
}

#[test]
fn commands_of_the_operations_page_run() {
    assert!(follow("docs/operations.md", &machine(), "") >= 8);
}

#[test]
fn commands_of_the_security_page_run() {
    let desk = machine();
    let prelude = "rowvault init --repo /backup/crm --key-file /etc/rowvault/owner.key \
         --recovery-out sheet.txt --quiet\n\
         export ROWVAULT_REPO=/backup/crm ROWVAULT_KEY_FILE=/etc/rowvault/owner.key\n\
         printf '[[source]]\\nurl = \"sqlite:/srv/crm.db\"\\n' > rowvault.toml\n\
         rowvault backup crm --quiet";
    assert!(follow("docs/security.md", &desk, prelude) >= 6);
}

#[test]
fn configurations_and_policies_of_the_pages_can_be_read() {
    let mut many = 0;
    for page in pages() {
        for block in blocks(&page) {
            let place = format!("{page}, line {}", block.line);
            match &*block.language {
                "json" => {
                    drop(serde_json::from_str::<serde_json::Value>(&block.text).expect(&place))
                }
                "toml" => {
                    let file = tempfile::NamedTempFile::new().unwrap();
                    std::fs::write(file.path(), &block.text).unwrap();
                    let loaded = config::load(file.path(), &|_| None);
                    loaded.unwrap_or_else(|error| panic!("{place}: {error}"));
                }
                _ => continue,
            }
            many += 1;
        }
    }
    assert!(many >= 2, "{many}");
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(root().join(&page)).unwrap();
        let folder = root().join(&page).parent().unwrap().to_path_buf();
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains(':') {
                assert!(folder.join(link).exists(), "{page}: {link} is not there");
            }
        }
    }
}
