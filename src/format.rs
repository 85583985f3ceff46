//! Format version 1: what is stored, to the byte; read and write twins.

pub mod intent;

pub mod keyring;

pub mod keyslot;

pub mod lease;

pub mod ledger;

pub mod manifest;

pub mod object;

pub mod pack;

pub mod index;

pub mod repository;

pub mod run;

pub mod shadow;
