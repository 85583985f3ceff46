//! The integration tests, in one binary, because one links faster than twenty.
//!
//! One module a topic; each starts what servers it needs on free ports or sockets of its own and
//! ends them by the process id that it started. Long proofs are `#[ignore]`d tests whose names
//! begin with `long_`; `tests/long.sh` runs them by name.

mod canary;
mod cli_desk;
mod cli_help;
mod cli_refusals;
mod cli_retain;
mod cli_stop;
mod cli_verbs;
mod config_files;
mod config_reference;
mod daemon;
mod daemon_clock;
mod daemon_hour;
mod daemon_http;
mod daemon_life;
mod daemon_tells;
mod demo;
mod deploy;
mod dictionary;
mod doctor;
mod documents;
mod drill;
mod drill_servers;
mod engine_refusals;
mod engine_walk;
mod failpoints;
mod golden_keys;
mod golden_objects;
mod golden_repository;
mod growth;
mod heaps;
mod hostile_objects;
mod hostile_repository;
mod house;
mod index_sorted;
mod init;
mod keys;
mod kill;
mod ledger_rights;
mod moto;
mod mysql_driver;
mod mysql_faults;
mod mysql_large;
mod mysql_rights;
mod mysql_roundtrip;
mod mysql_samples;
mod mysql_server;
mod notify_ways;
mod postgres_facts;
mod postgres_faults;
mod postgres_histories;
mod postgres_pipe;
mod postgres_proof;
mod postgres_ranges;
mod postgres_reach;
mod postgres_restore;
mod postgres_round_trip;
mod postgres_server;
mod property;
mod published_schemas;
mod recipient_plugin;
mod record_export;
mod records;
mod records_reach;
mod related;
mod restore_blame;
mod restore_tables;
mod rollback_refused;
mod rollback_servers;
mod rollback_sqlite;
mod runbook;
mod s3_life;
mod s3_lock;
mod schedule;
mod shadow_faults;
mod shadow_inputs;
mod shadow_model;
mod small_disk;
mod sqlite_copy;
mod sqlite_large;
mod sqlite_random;
mod sqlite_round_trip;
mod sqlite_samples;
mod sqlite_source;
mod sqlite_target;
mod store;
mod store_directory;
mod store_faults;
mod store_s3;
mod store_tls;
mod tiny;
mod undelete_cli;
mod undelete_engines;
mod undelete_scene;
mod undelete_seeds;
mod undelete_servers;
mod undelete_sqlite;
mod whole_line;

/// Installs the one TLS provider of the crate; call it before the first TLS connection of a test.
/// Calling it again changes nothing.
pub fn install_tls() {
    // Another test of this process may have been first; both install the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
mod maintain_care;
mod maintain_crash;
mod maintain_garbage;
mod maintain_life;
mod maintain_rig;
mod simulation;
