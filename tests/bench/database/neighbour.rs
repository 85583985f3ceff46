//! A second database of the same PostgreSQL server, into which somebody else writes.
//!
//! It moves what counts for the whole server: transaction ids, the write-ahead log, the oldest
//! transaction that runs. Invariant: what its own backend uses is known, so that no tool is charged
//! with it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::measure::process_cpu;

/// How often a row is committed while somebody else takes a snapshot.
const PAUSE: Duration = Duration::from_millis(50);

/// One connection that writes.
pub struct Neighbour {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    backend: u32,
}

impl Neighbour {
    /// Makes a table through `psql`, which is connected to the other database.
    pub fn new(psql: &mut Command) -> Neighbour {
        let mut child = psql
            .args(["-A", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let mut neighbour = Neighbour {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            backend: 0,
        };
        neighbour.say("CREATE TABLE written (id bigserial PRIMARY KEY, said text NOT NULL);");
        neighbour.backend = neighbour.ask("SELECT pg_backend_pid();");
        neighbour
    }

    fn say(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql}").expect("psql reads to the end");
    }

    fn ask(&mut self, sql: &str) -> u32 {
        self.say(sql);
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        read.expect("psql answers");
        line.trim().parse().expect("the answer is a number")
    }

    /// Commits `rows` rows, each by itself, and waits until they are there.
    pub fn commit(&mut self, rows: u32) {
        for _ in 0..rows {
            self.insert();
        }
        self.ask("SELECT 1;");
    }

    fn insert(&mut self) {
        self.say("INSERT INTO written (said) VALUES (repeat('again ', 20));");
    }

    /// Lets `work` be done while a row is committed every 50 ms; and what that cost the server.
    pub fn beside<T>(&mut self, work: impl FnOnce() -> T) -> (T, f64) {
        let before = process_cpu(self.backend);
        let done = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.insert();
                    std::thread::sleep(PAUSE);
                }
            });
            let _ended = Ended(&done);
            work()
        });
        self.ask("SELECT 1;");
        (result, process_cpu(self.backend) - before)
    }
}

/// Ends the writing, however the work beside it ends.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
