//! Format version 1: what is stored, to the byte; one file a chapter of docs/format.md.
//!
//! Pure over bytes: `read` and `write` are twins, nothing here seals, signs or stores. Invariant:
//! whatever `read` accepts means exactly what `write` would write, and an unknown version, kind
//! or required feature is refused by name.

pub mod filter;
pub mod index;
pub mod intent;
pub mod keyring;
pub mod keyslot;
pub mod lease;
pub mod ledger;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod repository;
pub mod run;
pub mod shadow;
