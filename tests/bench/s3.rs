//! An S3 server of the run's own, which tells how often it was asked.
//!
//! It is moto, found through `ROWVAULT_MOTO` as the suite's is; it writes a line for each request,
//! and keeps everything in memory. Invariant: a request is counted whoever made it, and whatever
//! came of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::measure::Meter;
use crate::tools::Place;

/// A running server.
pub struct S3 {
    child: Child,
    address: String,
    lines: Arc<AtomicU64>,
}

impl S3 {
    /// Starts a server; nothing where none was named.
    pub fn start() -> Option<Rc<S3>> {
        let program = std::env::var_os("ROWVAULT_MOTO")?;
        let mut child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ROWVAULT_MOTO can be started");
        let stderr = child.stderr.take().expect("its stderr is a pipe");
        let mut said = BufReader::new(stderr).lines().map_while(Result::ok);
        let address = said
            .find_map(|line| Some(line.split_once("http://")?.1.trim().to_owned()))
            .expect("the server says where it listens");
        let lines = Arc::new(AtomicU64::new(0));
        let counted = lines.clone();
        std::thread::spawn(move || {
            for line in said {
                counted.fetch_add(u64::from(line.contains(" HTTP/1.1\"")), Ordering::Relaxed);
            }
        });
        Some(Rc::new(S3 {
            child,
            address,
            lines,
        }))
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket, and lets the commands of `meter` reach it.
    pub fn place(self: &Rc<S3>, bucket: &'static str, meter: &mut Meter) -> Place {
        meter.set("AWS_ENDPOINT_URL", self.endpoint());
        meter.set("AWS_ALLOW_HTTP", "true");
        meter.set("AWS_REGION", "us-east-1");
        meter.set("AWS_DEFAULT_REGION", "us-east-1");
        meter.set("AWS_ACCESS_KEY_ID", "test");
        meter.set("AWS_SECRET_ACCESS_KEY", "test-secret");
        self.ask("PUT", &format!("/{bucket}"));
        Place::Bucket(self.clone(), bucket)
    }

    /// How many bytes the objects of a bucket have.
    pub fn bytes(&self, bucket: &str) -> u64 {
        let mut bytes = 0;
        let mut after = String::new();
        loop {
            let page = self.ask(
                "GET",
                &format!("/{bucket}?list-type=2&max-keys=1000&start-after={after}"),
            );
            let sizes = between(&page, "<Size>", "</Size>");
            bytes += sizes
                .filter_map(|size| size.parse::<u64>().ok())
                .sum::<u64>();
            match between(&page, "<Key>", "</Key>").last() {
                Some(last) if page.contains("<IsTruncated>true") => after = last.into(),
                _ => return bytes,
            }
        }
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> f64 {
        // A line is written when a request has been answered: the last ones may be on their way.
        let mut seen = self.lines.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.lines.load(Ordering::Relaxed);
            if now == seen {
                return now as f64;
            }
            seen = now;
        }
    }

    /// A request of our own, which is not counted; and its answer.
    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the server listens");
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            self.address
        );
        let mut answer = Vec::new();
        let asked = stream.write_all(request.as_bytes());
        let asked = asked.and_then(|()| stream.read_to_end(&mut answer));
        asked.expect("the server answers");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(status, "200", "{method} {path}: {answer}");
        answer
    }
}

/// What stands between the two words, each time that they come.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = text.split(before).skip(1);
    parts.filter_map(move |part| Some(part.split_once(after)?.0))
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
