//! Retries: whether a failed request is tried again, and after which pause.
//!
//! The only such mechanism in the crate; object_store's own is switched off, because it retries a
//! conditional put without asking whose object it found. Invariant: denied, invalid and
//! unsupported requests are never tried again, and every loop ends: by attempts, and by time
//! counted from the first failure.

use std::time::Duration;

use crate::clock::Clock;
use crate::planted;
use crate::random::{Random, draw};
use crate::store::error::Trouble;

/// How much trying is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most attempts, the first one counted; at least 1.
    pub attempts_max: u32,
    /// No attempt begins later than this after the first failure.
    pub time_max: Duration,
    /// The longest first pause; each further one may be twice as long.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            attempts_max: 10,
            time_max: Duration::from_secs(180),
            pause_first: Duration::from_millis(200),
            pause_max: Duration::from_secs(20),
        }
    }
}

/// The attempts of one request.
pub(crate) struct Attempts<'a> {
    budget: &'a Budget,
    clock: &'a dyn Clock,
    random: &'a dyn Random,
    failed: u32,
    misfits: u32,
    first_failure: Option<Duration>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(budget: &'a Budget, clock: &'a dyn Clock, random: &'a dyn Random) -> Self {
        Attempts {
            budget,
            clock,
            random,
            failed: 0,
            misfits: 0,
            first_failure: None,
        }
    }

    /// How many attempts failed so far.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Notes a failed attempt; gives the pause before the next one, or none if there is no next.
    pub(crate) fn again(&mut self, trouble: &Trouble) -> Option<Duration> {
        self.failed += 1;
        let elapsed = self.clock.elapsed();
        let first = *self.first_failure.get_or_insert(elapsed);
        let worth_it = match trouble {
            Trouble::Transient(_) | Trouble::Unreached(_) | Trouble::Conflict => true,
            Trouble::Misfit(_) => {
                self.misfits += 1;
                self.misfits == 1
            }
            Trouble::Denied(_) => planted::is("retry on 403 for ever"),
            _ => false,
        };
        let pause = self.pause();
        let in_time = elapsed.saturating_sub(first) + pause <= self.budget.time_max;
        (worth_it && self.failed < self.budget.attempts_max && in_time).then_some(pause)
    }

    /// Between half and the whole of the pause that is due: doubling, with jitter.
    fn pause(&self) -> Duration {
        let doublings = self.failed.saturating_sub(1).min(16);
        let whole = self
            .budget
            .pause_first
            .saturating_mul(1 << doublings)
            .min(self.budget.pause_max);
        let share = u16::from_le_bytes(draw(self.random));
        whole / 2 + (whole / 2).mul_f64(f64::from(share) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::random::SeededRandom;

    fn pauses(trouble: &Trouble, budget: &Budget) -> Vec<Duration> {
        let clock = ManualClock::new(Timestamp::from_seconds(0));
        let random = SeededRandom::new(3);
        let mut attempts = Attempts::new(budget, &clock, &random);
        std::iter::from_fn(|| {
            let pause = attempts.again(trouble)?;
            clock.advance(pause);
            Some(pause)
        })
        .take(1000)
        .collect()
    }

    #[test]
    fn transient_trouble_is_retried_until_the_attempts_are_used_up() {
        let all = pauses(&Trouble::Transient("503".into()), &Budget::default());
        assert_eq!(all.len(), 9);
        assert!(all[0] >= Duration::from_millis(100) && all[0] <= Duration::from_millis(200));
        assert!(all.iter().all(|p| *p <= Duration::from_secs(20)));
    }

    #[test]
    fn the_time_of_the_budget_ends_the_retries_before_the_attempts_do() {
        let budget = Budget {
            time_max: Duration::from_secs(2),
            attempts_max: 1000,
            ..Budget::default()
        };
        let all = pauses(&Trouble::Transient("503".into()), &budget);
        assert!(all.iter().sum::<Duration>() <= budget.time_max);
        assert!((3..20).contains(&all.len()), "{all:?}");
    }

    #[test]
    fn denied_invalid_full_and_unsupported_are_never_retried() {
        for trouble in [
            Trouble::Denied("403".into()),
            Trouble::Invalid("bucket".into()),
            Trouble::NotSupported("501".into()),
            Trouble::Full("507".into()),
            Trouble::Missing,
        ] {
            assert_eq!(pauses(&trouble, &Budget::default()), [], "{trouble:?}");
        }
    }

    #[test]
    fn a_misfit_is_retried_once() {
        let all = pauses(&Trouble::Misfit("short".into()), &Budget::default());
        assert_eq!(all.len(), 1);
    }
}
