//! How many heaps the real binary has, and that nobody whom it starts hears of it.

use std::path::Path;

use crate::cli_desk::Desk;

/// Tells what the command after a backup was given, and what the backup itself has.
const LOOK: &str = "env > given\ncat /proc/$PPID/environ > own\ncat /proc/$PPID/maps > maps\n";
/// Where glibc puts a heap of a further thread: at a multiple of so much address space, of which
/// the first part can be written.
const HEAP_BYTES: u64 = 64 << 20;

/// The values of the variables whose names hold `word`.
fn variables(path: &Path, word: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let found = text.split(['\n', '\0']).filter(|line| line.contains(word));
    found.map(str::to_owned).collect()
}

/// How many heaps a process has besides its first.
fn further_heaps(maps: &Path) -> usize {
    let maps = std::fs::read_to_string(maps).unwrap();
    let lines: Vec<Vec<&str>> = maps
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let start = |line: &[&str]| {
        let start = line[0].split('-').next().unwrap();
        u64::from_str_radix(start, 16).unwrap()
    };
    lines
        .windows(2)
        .filter(|pair| {
            let follows = pair[0][0].ends_with(pair[1][0].split('-').next().unwrap());
            let is_anonymous = pair[0].len() == 5;
            start(&pair[0]).is_multiple_of(HEAP_BYTES)
                && (pair[0][1], pair[1][1]) == ("rw-p", "---p")
                && follows
                && is_anonymous
        })
        .count()
}

#[test]
fn backup_has_two_heaps_and_what_it_starts_has_what_the_user_gave() {
    let mut desk = Desk::with_repository();
    desk.write("look.sh", LOOK);
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = \"sqlite:crm.db\"\nafter = [\"/bin/sh\", \"look.sh\"]\n",
    );
    for user in [None, Some("7")] {
        if let Some(heaps) = user {
            desk.set("MALLOC_ARENA_MAX", heaps);
        }
        let taken = desk.run(&["backup", "--all", "-q"]);
        assert_eq!(taken.code, 0, "{taken:?}");
        let heaps = |file: &str| variables(&desk.path(file), "MALLOC_ARENA_MAX");
        let told = |value: &str| vec![format!("MALLOC_ARENA_MAX={value}")];
        assert_eq!(heaps("own"), told(user.unwrap_or("2")));
        assert_eq!(heaps("given"), user.map_or(Vec::new(), told));
        let ours = variables(&desk.path("given"), "ROWVAULT_");
        let mut names: Vec<&str> = ours
            .iter()
            .flat_map(|line| line.split('=').next())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["ROWVAULT_KEY_FILE", "ROWVAULT_REPO", "ROWVAULT_SOURCE"]
        );
        let further = further_heaps(&desk.path("maps"));
        println!("{user:?}: {further} heaps besides the first");
        assert_eq!(further > 1, user.is_some(), "{further}");
    }
}
