//! Descriptions of runs that this host keeps, so that finding a record asks the storage for rows alone.
//!
//! They lie as the storage has them, sealed with the metadata key, under the names of their chunks.
//! Invariant: what is kept is only as good as its seal; what is damaged or gone is fetched again, and
//! nothing that checks the storage reads from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::ChunkId;
use crate::random::Random;
use crate::state::State;

const FOLDER: &str = "runs";
/// How many bytes are kept; the oldest go first.
const BYTES_MAX: u64 = 64 << 20;
/// After so many new bytes it is looked whether there are too many.
const TRIM_EVERY_BYTES: u64 = 8 << 20;
/// A larger description is not kept.
const ONE_BYTES_MAX: usize = 8 << 20;

/// What is kept of one repository.
pub struct KeptRuns {
    state: State,
    random: Arc<dyn Random>,
    /// New bytes since the last look; at first nobody knows.
    fresh: AtomicU64,
}

fn file(name: &ChunkId) -> String {
    format!("{FOLDER}/{name}")
}

impl KeptRuns {
    /// What `state` keeps.
    pub fn new(state: State, random: Arc<dyn Random>) -> KeptRuns {
        KeptRuns {
            state,
            random,
            fresh: AtomicU64::new(TRIM_EVERY_BYTES),
        }
    }

    /// The sealed bytes of a description; none where they are not here.
    pub fn get(&self, name: &ChunkId) -> Option<Vec<u8>> {
        // A state directory that cannot be read is one that keeps nothing.
        self.state.read(&file(name)).ok().flatten()
    }

    /// Keeps a description, if that can be done.
    pub fn put(&self, name: &ChunkId, sealed: &[u8]) {
        if sealed.len() > ONE_BYTES_MAX {
            return;
        }
        let kept = self.state.keep(&file(name), sealed, self.random.as_ref());
        let bytes = sealed.len() as u64;
        let fresh = self.fresh.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if kept.is_ok() && fresh > TRIM_EVERY_BYTES {
            self.fresh.store(0, Ordering::Relaxed);
            let _ = self.state.trim(FOLDER, BYTES_MAX);
        }
    }

    /// Drops a description that does not open.
    pub fn forget(&self, name: &ChunkId) {
        let _ = self.state.remove(&file(name));
    }
}
