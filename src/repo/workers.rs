//! The CPU-bound work of a backup, on as many threads as there are cores.
//!
//! Whoever has work hands it to a worker that is free, and does it himself where none is: so nobody
//! waits, no more threads are busy than there is use for, and each holds its buffers once.
//! Invariant: work is done exactly once, and its result waits until it is asked for.

use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

/// Workers that several tables share.
pub struct Workers {
    runtime: Handle,
    free: Arc<Semaphore>,
}

/// Work that was begun.
pub enum Work<T> {
    /// Done by the one who had it.
    Done(T),
    /// With a worker.
    Begun(JoinHandle<T>),
}

impl Workers {
    /// One fewer than there are cores, since whoever hands work out works as well; but one. Their
    /// threads are those that `runtime` has for what blocks.
    pub fn new(runtime: Handle) -> Workers {
        let cores = available_parallelism().map_or(1, usize::from);
        Workers {
            runtime,
            free: Arc::new(Semaphore::new((cores - 1).max(1))),
        }
    }

    /// Begins `work`, which may block this thread until it is done.
    pub fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Work<T> {
        match self.free.clone().try_acquire_owned() {
            Ok(turn) => Work::Begun(self.runtime.spawn_blocking(move || {
                let done = work();
                drop(turn);
                done
            })),
            Err(_) => Work::Done(work()),
        }
    }

    /// What the work came to, when it is done. Blocks; call it on a thread of its own.
    ///
    /// # Errors
    /// The worker panicked.
    pub fn end<T>(&self, work: Work<T>) -> Result<T, JoinError> {
        match work {
            Work::Done(done) => Ok(done),
            Work::Begun(begun) => self.runtime.block_on(begun),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_that_finds_no_worker_free_is_done_by_the_one_who_has_it() {
        let workers = Arc::new(Workers::new(Handle::current()));
        let all = workers.free.available_permits();
        let hands = workers.clone();
        let own = move || {
            let (mut ends, mut begun) = (Vec::new(), Vec::new());
            for number in 0..all {
                let (end, ended) = oneshot::channel::<()>();
                ends.push(end);
                begun.push(hands.begin(move || {
                    let _ = ended.blocking_recv();
                    number
                }));
            }
            let here = thread::current().id();
            let mine = hands.begin(move || thread::current().id() == here);
            assert!(matches!(mine, Work::Done(true)));
            drop(ends);
            for (number, work) in begun.into_iter().enumerate() {
                assert!(matches!(work, Work::Begun(_)));
                assert_eq!(hands.end(work).unwrap(), number);
            }
        };
        tokio::task::spawn_blocking(own).await.unwrap();
        assert_eq!(workers.free.available_permits(), all);
    }

    #[tokio::test]
    async fn worker_that_panics_is_free_again_and_tells() {
        let workers = Arc::new(Workers::new(Handle::current()));
        let all = workers.free.available_permits();
        let hands = workers.clone();
        let own = move || {
            let work = hands.begin(|| -> u8 { panic!("as it is told to") });
            assert!(hands.end(work).unwrap_err().is_panic());
        };
        tokio::task::spawn_blocking(own).await.unwrap();
        assert_eq!(workers.free.available_permits(), all);
    }
}
