//! The one source of randomness, as an argument.
//!
//! Nonces, keys, salts and ulids all come from a [`Random`]; production hands in the operating
//! system's generator, tests a seeded one. Invariant: nothing else in the crate draws random bytes.

use std::sync::Mutex;

/// Where random bytes come from.
pub trait Random: Send + Sync {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

/// Draws `N` random bytes.
pub fn draw<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut out = [0; N];
    random.fill(&mut out);
    out
}

/// The operating system's generator.
#[derive(Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system gives random bytes after it has booted");
    }
}

/// A repeatable stream from a seed: BLAKE3 in extendable-output mode. Never for real secrets.
pub struct SeededRandom {
    stream: Mutex<blake3::OutputReader>,
}

impl SeededRandom {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rowvault seeded random stream");
        hasher.update(&seed.to_le_bytes());
        SeededRandom {
            stream: Mutex::new(hasher.finalize_xof()),
        }
    }

    /// A number in `0..bound`; `bound` must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        u64::from_le_bytes(draw(self)) % bound
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) {
        let mut stream = self.stream.lock().expect("no holder of this lock panics");
        stream.fill(out);
    }
}
