//! Where a thread seals a chunk and opens it again.
//!
//! From the allocator, buffers of this size would come as fresh pages for each chunk. Invariant: what
//! a large chunk needed is given back after it.

use std::cell::RefCell;

use crate::repo::blob::Opened;

/// A thread keeps buffers of this size; most chunks are smaller.
const SPACE_BYTES_MAX: usize = 512 << 10;

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct Space {
    pub(super) sealed: Vec<u8>,
    pub(super) opened: Opened,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
}

/// Lends this thread's buffers to `work`, which lends them to nobody.
pub(super) fn with_space<T>(work: impl FnOnce(&mut Space) -> T) -> T {
    SPACE.with_borrow_mut(|space| {
        let done = work(space);
        let largest = space.sealed.capacity().max(space.opened.raw.capacity());
        if largest > SPACE_BYTES_MAX {
            *space = Space::default();
        }
        done
    })
}
