//! The daemon: runs jobs by schedule, each on its own, and remembers what became of them.
//!
//! What is due when stands on a board that knows no clock of its own; a loop moves it on and
//! starts jobs, each on a thread where a panic ends that job alone. What a job does is handed in
//! from above. Invariant: a planned run is known by its job and its instant, and is noted on disk
//! before it starts, so that neither a restart nor a stepped clock does it twice.

pub mod alerts;
pub mod archive;
pub mod board;
pub mod desk;
pub mod ground;
pub mod history;
pub mod http;
pub mod job;
pub mod metrics;
pub mod plan;
pub mod question;
pub mod runner;
pub mod serve;
