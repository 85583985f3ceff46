//! rowvault: encrypted, row-aware backup and recovery for CRM databases.
//!
//! The map of the house, ground floor first. A file may use only what is listed above it; the
//! tidy test holds that order, and `docs/architecture.md` says why each wall stands.
//!
//! - ground: [`failure`], [`failpoint`], [`planted`], [`program`], [`clock`], [`random`], [`id`]
//! - pure, no I/O: [`row`], [`sample`], [`cut`], [`crypto`], [`format`], [`retention`], [`schedule`], [`unusual`]
//! - doors, each knows one thing outside: [`store`], [`recipient`], [`source`], [`state`], [`notify`]
//! - vault: [`repo`], where plaintext becomes sealed objects and back
//! - jobs, one file a verb: [`job`]
//! - what several faces print: [`document`]
//! - faces: [`config`], [`daemon`], [`cli`], [`demo`]

pub mod failpoint;
pub mod failure;
pub mod planted;
pub mod program;

pub mod clock;
pub mod random;

pub mod id;

pub mod row;
pub mod sample;

pub mod cut;

pub mod crypto;
pub mod format;

pub mod retention;
pub mod schedule;
pub mod unusual;

pub mod store;

pub mod recipient;
pub mod source;
pub mod state;

pub mod notify;

pub mod repo;

pub mod job;

pub mod document;

pub mod config;

pub mod daemon;

pub mod cli;
pub mod demo;
