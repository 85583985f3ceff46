//! The vault: where plaintext becomes sealed objects, and back.
//!
//! A [`vault::Vault`] is an opened repository; the rooms below write chunks into packs, read them
//! back, keep ledgers and intents. Invariant: nothing here knows a database engine. The order of
//! writing, reading and deleting is in docs/format.md.

pub mod blob;
pub mod catalog;
pub mod check;
pub mod index;
pub mod intent;
pub mod kept;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod owed;
pub mod prune;
pub mod reader;
pub mod records;
pub mod select;
pub mod shadow;
pub mod sweep;
pub mod table;
pub mod value;
pub mod vault;
pub mod verdict;
pub mod workers;
pub mod writer;
