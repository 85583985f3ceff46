//! The board of the daemon on a clock that is moved by hand through a year.
//!
//! What a walk through every minute finds due must be started at that very minute, once, by a
//! board that sleeps from one instant to the next; nothing may be told as missed.

use std::collections::BTreeMap;
use std::time::Duration;

use rowvault::clock::Timestamp;
use rowvault::daemon::board::{Board, Bounds};
use rowvault::daemon::history::{History, Past};
use rowvault::daemon::job::{Job, Run, Task, Trigger};
use rowvault::schedule::Schedule;

use crate::schedule::{CASES, Rules};

/// How long every run takes.
const TAKES: Duration = Duration::from_secs(30);

/// Walks a board of all cases through `rules`; gives what it started, by case.
fn live(rules: &Rules) -> Vec<Vec<i64>> {
    let (from, until) = (rules.from * 60, rules.until * 60);
    let job = |(at, text): (usize, &str)| Job {
        task: Task::Backup,
        source: Some(format!("case{at}").parse().unwrap()),
        trigger: Trigger::At(Schedule::read(text, rules.zone).unwrap(), Duration::ZERO),
        deadline: Duration::from_secs(3600),
    };
    let jobs: Vec<Job> = CASES
        .iter()
        .map(|case| case.text)
        .enumerate()
        .map(job)
        .collect();
    let names: BTreeMap<String, usize> = jobs.iter().map(Job::name).zip(0..).collect();
    let bounds = Bounds {
        jobs: CASES.len(),
        retry: Duration::from_secs(60),
    };
    let mut now = Timestamp::from_seconds(from - 1);
    let mut board = Board::new(jobs, bounds, History::default(), now);
    let mut running: Vec<(Timestamp, Run)> = Vec::new();
    let mut started = vec![Vec::new(); CASES.len()];
    while now.seconds() < until {
        let (runs, notices) = board.start(now);
        assert_eq!(notices, [], "{} at {}", rules.zone, now.rfc3339());
        for run in runs {
            assert_eq!(run.planned, now, "{run} in {}", rules.zone);
            started[names[&run.job]].push(now.seconds() / 60);
            running.push((now.plus(TAKES), run));
        }
        let ends = running.iter().map(|(end, _)| *end).min();
        now = board.wake().into_iter().chain(ends).min().unwrap();
        let (ended, going) = running.into_iter().partition(|(end, _)| *end <= now);
        running = going;
        let ended: Vec<(Timestamp, Run)> = ended;
        for (_, run) in ended {
            board.end(&run, Past::good(&run, String::new(), (now, now)), now);
        }
    }
    started
}

/// Lives through 2024 by every so many-th set of rules; gives how many sets and runs there were.
fn year(step: usize) -> (usize, usize) {
    let (mut sets, mut runs) = (0, 0);
    for rules in crate::schedule::rules(2024..2025).iter().step_by(step) {
        let (found, expected) = (live(rules), rules.walk());
        for (case, (found, expected)) in CASES.iter().zip(found.iter().zip(&expected)) {
            assert!(found == expected, "{} in {}", case.text, rules.zone);
        }
        sets += 1;
        runs += found.iter().map(Vec::len).sum::<usize>();
    }
    (sets, runs)
}

#[test]
fn board_starts_every_run_of_a_year_at_its_minute_and_once() {
    let (_, runs) = year(5);
    assert!(runs > 100_000, "{runs}");
}

#[test]
#[ignore = "some minutes: tests/long.sh schedule"]
fn long_schedule_board_of_a_year_in_every_zone() {
    let (sets, runs) = year(1);
    println!("{sets} sets of rules, {runs} runs, each at its minute and once");
    assert!(sets > 50 && runs > 500_000, "{sets}, {runs}");
}
