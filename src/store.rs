//! Object storage: a repository's objects in a directory, a bucket or memory.
//!
//! The one door to storages. It knows names, bytes and requests, and nothing of what the bytes
//! mean: no key and no format. Invariant: an error never looks like an answer: a failed listing
//! is not an empty one, a lost acknowledgement is not a failure, a short read is not an object.

pub mod error;
pub mod layout;
pub mod options;
pub mod retry;
pub mod traffic;

mod classify;
mod wire;

mod local;
mod lock;
mod objects;
mod open;
mod s3;
mod settle;

pub mod fault;
pub mod probe;

pub use error::{Error, Place};
pub use layout::{ObjectPath, Prefix};
pub use objects::{Condition, Conditions, Listed, Listing, ObjectFacts, Store, Tail};
pub use options::{Addressing, PlainHttp, Root, S3Credentials, S3Options, StoreOptions};
pub use retry::Budget;
pub use settle::{Created, Replaced, Versioned};
pub use traffic::Requests;
pub use wire::Version;
