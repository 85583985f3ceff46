//! What the daemon stands on, and what the configuration makes of it.
//!
//! Handed in from above, so that the loop knows no file and no verb. Invariant: a setup is whole:
//! it is put in place of the one before at once, or not at all.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::daemon::board::Bounds;
use crate::daemon::http::Plan;
use crate::daemon::job::Job;
use crate::daemon::runner::Worker;
use crate::notify::Channel;
use crate::notify::heartbeat::Heartbeat;
use crate::random::Random;
use crate::state::State;

/// What the configuration makes of the daemon.
pub struct Setup {
    /// What is done.
    pub jobs: Vec<Job>,
    /// Bounds over all jobs.
    pub bounds: Bounds,
    /// How long a job may show no progress.
    pub stall: Duration,
    /// After so long, what lasts is told again.
    pub repeat: Duration,
    /// Who is told.
    pub channels: Vec<Arc<dyn Channel>>,
    /// How requests are answered.
    pub http: Option<Plan>,
    /// What hears of each good backup.
    pub heartbeat: Option<Arc<Heartbeat>>,
    /// What does it.
    pub worker: Arc<dyn Worker>,
}

/// What the daemon stands on.
pub struct Ground {
    /// Its own directory of local state.
    pub state: State,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}
