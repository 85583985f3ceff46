//! Traffic: how many requests were made, and how fast bytes may move.
//!
//! Counters are what verbs print and tests compare; the limiter spreads bytes over time.
//! Invariant: a request is counted when it is sent, a retry again, so the figures are what a
//! provider would bill (a listing counts one request for each 1,000 names begun).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// The kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Names, lengths and times.
    List,
    /// Bytes down, whole or in part.
    Get,
    /// Length and time of one object.
    Head,
    /// Bytes up.
    Put,
    /// One object away.
    Delete,
}

/// What was asked of a storage so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Pages of listings.
    pub list: u64,
    /// Reads.
    pub get: u64,
    /// Looks at one object.
    pub head: u64,
    /// Writes, conditional ones included.
    pub put: u64,
    /// Deletions.
    pub delete: u64,
    /// Attempts that failed in a way worth another attempt.
    pub retried: u64,
    /// Bytes of bodies received.
    pub bytes_down: u64,
    /// Bytes of bodies sent.
    pub bytes_up: u64,
}

impl Requests {
    /// What was asked since `earlier`.
    pub fn since(&self, earlier: &Requests) -> Requests {
        Requests {
            list: self.list - earlier.list,
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            put: self.put - earlier.put,
            delete: self.delete - earlier.delete,
            retried: self.retried - earlier.retried,
            bytes_down: self.bytes_down - earlier.bytes_down,
            bytes_up: self.bytes_up - earlier.bytes_up,
        }
    }
}

/// The counters behind [`Requests`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    kinds: [AtomicU64; 5],
    retried: AtomicU64,
    bytes_down: AtomicU64,
    bytes_up: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, request: Request, count: u64) {
        self.kinds[request as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn down(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn up(&self, bytes: u64) {
        self.bytes_up.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Requests {
        let kind = |request: Request| self.kinds[request as usize].load(Ordering::Relaxed);
        Requests {
            list: kind(Request::List),
            get: kind(Request::Get),
            head: kind(Request::Head),
            put: kind(Request::Put),
            delete: kind(Request::Delete),
            retried: self.retried.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
        }
    }
}

/// A token bucket that may go into debt: a transfer waits until the ones before it are paid.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_per_second: Option<u64>,
    paid_until: Mutex<Duration>,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Limiter {
            bytes_per_second: bytes_per_second.map(|rate| rate.max(1)),
            paid_until: Mutex::new(Duration::ZERO),
        }
    }

    /// Books `bytes` now and gives how long to wait before they may move.
    pub(crate) fn book(&self, bytes: u64, clock: &dyn Clock) -> Duration {
        let Some(rate) = self.bytes_per_second else {
            return Duration::ZERO;
        };
        let now = clock.elapsed();
        let mut paid_until = self
            .paid_until
            .lock()
            .expect("no holder of this lock panics");
        let start = (*paid_until).max(now);
        *paid_until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn a_limit_spreads_bytes_over_time() {
        let clock = ManualClock::new(Timestamp::from_seconds(100));
        let limiter = Limiter::new(Some(1000));
        assert_eq!(limiter.book(5000, &clock), Duration::ZERO);
        assert_eq!(limiter.book(1000, &clock), Duration::from_secs(5));
        clock.advance(Duration::from_secs(4));
        assert_eq!(limiter.book(1, &clock), Duration::from_secs(2));
        clock.advance(Duration::from_secs(60));
        assert_eq!(limiter.book(1, &clock), Duration::ZERO);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let clock = ManualClock::new(Timestamp::from_seconds(0));
        let limiter = Limiter::new(None);
        assert_eq!(limiter.book(u64::MAX, &clock), Duration::ZERO);
        assert_eq!(limiter.book(u64::MAX, &clock), Duration::ZERO);
    }
}
