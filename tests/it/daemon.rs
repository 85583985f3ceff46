//! The real daemon at schedules of seconds: what it does by itself, and how it begins and ends.
//!
//! Nothing here is timed: each test waits for what the daemon has to do in the end, and the limit
//! only ends a test that has failed.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli_desk::Desk;

/// A daemon whose words are written to a file of the desk.
pub struct Daemon<'a> {
    desk: &'a Desk,
    child: Child,
    log: String,
}

impl<'a> Daemon<'a> {
    /// Starts it.
    pub fn start(desk: &'a Desk, log: &str) -> Daemon<'a> {
        Daemon::start_with(desk, log, &[])
    }

    /// Starts it with more arguments.
    pub fn start_with(desk: &'a Desk, log: &str, arguments: &[&str]) -> Daemon<'a> {
        let told = File::create(desk.path(log)).unwrap();
        let mut command = desk.command(&[&["daemon"], arguments].concat());
        let child = command.stdout(Stdio::null()).stderr(told).spawn().unwrap();
        let log = log.to_owned();
        Daemon { desk, child, log }
    }

    /// All that it told.
    pub fn told(&self) -> String {
        std::fs::read_to_string(self.desk.path(&self.log)).unwrap()
    }

    /// Waits until it has told all of `words`.
    #[track_caller]
    pub fn until(&self, words: &[&str]) {
        for _ in 0..6000 {
            let told = self.told();
            if words.iter().all(|word| told.contains(word)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{words:?} did not all come: {}", self.told());
    }

    /// Waits until `seen`.
    #[track_caller]
    pub fn until_it(&self, what: &str, seen: impl Fn(&Daemon<'a>) -> bool) {
        for _ in 0..6000 {
            if seen(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: not yet: {}", self.told());
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it where it stands.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Sends SIGHUP.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGTERM; gives the exit code.
    pub fn end(mut self) -> Option<i32> {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(30), "{}", self.told());
        status.code()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Of a daemon that ended, nothing is left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn daemon_backs_up_forgets_prunes_and_verifies_by_itself() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[daemon]\nprune = { schedule = '*/3 * * * * *' }\n\
         verify = { schedule = '*/4 * * * * *', data = '10%' }\n\
         [[source]]\nurl = 'sqlite:crm.db'\nschedule = '*/2 * * * * *'\nkeep = { last = 2 }\n\
         drill = { schedule = '*/5 * * * * *' }\n",
    );
    let daemon = Daemon::start(&desk, "log");
    daemon.until(&[
        "probe of",
        "backup crm: next at",
        "snapshot ",
        "snapshots are whole",
        "freed ",
        "came back as expected",
    ]);
    // One or two at a time: the newest that was verified is kept too.
    daemon.until_it("a snapshot is forgotten", |daemon| {
        let told = daemon.told();
        ["1", "2"]
            .iter()
            .any(|count| told.contains(&format!(" snapshots, forgot {count}")))
    });
    let twice = Daemon::start(&desk, "log of another");
    twice.until(&["is running already"]);
    assert_eq!(daemon.end(), Some(0));
    assert_eq!(desk.names("repo/intents"), Vec::<String>::new());
    let listed = desk.run(&["snapshots", "--json"]).json();
    let count = listed["snapshots"].as_array().unwrap().len();
    assert!((1..=3).contains(&count), "{listed}");
    assert_eq!(desk.run(&["verify", "--data", "all", "-q"]).code, 0);
}

#[test]
fn configuration_is_read_anew_and_a_bad_one_changes_nothing() {
    let desk = Desk::with_repository();
    let good = "[[source]]\nurl = 'sqlite:crm.db'\nschedule = '*/2 * * * * *'\n";
    desk.write("rowvault.toml", good);
    let daemon = Daemon::start(&desk, "log");
    daemon.until(&["backup crm of"]);
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = 'sqlite:crm.db'\nschedul = 'x'\n",
    );
    daemon.signal(Signal::HUP);
    daemon.until(&["is refused, and the old one stays"]);
    let before = daemon.told().matches(": snapshot ").count();
    let more = || daemon.told().matches(": snapshot ").count() > before;
    let waited = (0..1500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        more()
    });
    assert!(waited, "the old one is not in force: {}", daemon.told());
    desk.write(
        "rowvault.toml",
        &good.replace("[[source]]", "[[source]]\nname = 'shop'"),
    );
    daemon.signal(Signal::HUP);
    daemon.until(&["was read anew", "backup shop of", "shop: next at"]);
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn run_that_kill_9_cut_off_is_made_up_for_by_the_next_daemon() {
    let desk = Desk::with_repository();
    desk.write("hold.sh", "touch held\n[ -e go ] || exec sleep 600\n");
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = 'sqlite:crm.db'\nschedule = '*/3 * * * * *'\n\
         before = ['/bin/sh', 'hold.sh']\n",
    );
    let mut first = Daemon::start(&desk, "first");
    first.until(&["backup crm of"]);
    let held = (0..1500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        desk.path("held").exists()
    });
    assert!(held, "{}", first.told());
    first.kill();
    desk.write("go", "");
    // The schedule is a daily one now, so that only what was cut off is left to do.
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = 'sqlite:crm.db'\nschedule = '0 0 29 2 *'\n\
         before = ['/bin/sh', 'hold.sh']\n",
    );
    let planned = first.told();
    let planned = planned.split("backup crm of ").nth(1).unwrap();
    let planned = planned.split(' ').next().unwrap();
    let second = Daemon::start(&desk, "second");
    second.until(&[&format!("backup crm of {planned} begins"), ": snapshot "]);
    assert_eq!(second.end(), Some(0));
}

#[test]
fn doctor_shows_the_next_five_runs_in_both_zones() {
    let desk = Desk::with_repository();
    desk.write(
        "rowvault.toml",
        "[[source]]\nurl = 'sqlite:crm.db'\nschedule = '30 2 * * *'\n\
         timezone = 'Europe/Warsaw'\n",
    );
    let ran = desk.run(&["doctor"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    crate::doctor::fits(&ran);
    let words: Vec<&str> = ran.out.split_whitespace().collect();
    let words = words.join(" ");
    let (_, runs) = words.split_once("schedule of backup crm").unwrap();
    assert_eq!(runs.matches("02:30:00 CE").count(), 5, "{runs}");
    assert_eq!(runs.matches("Z = ").count(), 5, "{runs}");
}
