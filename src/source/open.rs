//! Which engine an address means, and the source or target that it gives.
//!
//! The one place that knows all engines. Nothing is read or connected here: that begins with
//! `begin` and `prepare`.

use std::path::Path;

use crate::failure::{AnyFailure, Class};
use crate::row::schema::{Engine, Structure};
use crate::source::beside::Beside;
use crate::source::mysql::beside::MysqlBeside;
use crate::source::mysql::scratch::MysqlScratch;
use crate::source::postgres::{PostgresBeside, PostgresScratch};
use crate::source::scratch::{Scratch, server};
use crate::source::sqlite::beside::SqliteBeside;
use crate::source::sqlite::capture::SqliteSource;
use crate::source::sqlite::live::SqliteLive;
use crate::source::sqlite::scratch::SqliteScratch;
use crate::source::sqlite::swap::SqliteSwap;
use crate::source::sqlite::target::SqliteTarget;
use crate::source::{Live, Source, Swap, Target};

pub use super::address::{
    Aim, Ownership, ServerUrl, SourceOptions, SourceUrl, TablePattern, TargetOptions,
};

/// The database at `url`, to be read.
///
/// # Errors
/// Invalid: the address or the options cannot be meant.
pub fn source(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Source>, AnyFailure> {
    match url {
        SourceUrl::Sqlite(path) => Ok(Box::new(SqliteSource::new(path, options))),
        SourceUrl::Postgres(_) => super::postgres::source(url, options),
        SourceUrl::Mysql(_) => super::mysql::source(url, options),
    }
}

/// The database at `url`, to be made.
///
/// # Errors
/// Invalid: the address or the options cannot be meant.
pub fn target(url: &SourceUrl, options: &TargetOptions) -> Result<Box<dyn Target>, AnyFailure> {
    match url {
        SourceUrl::Sqlite(path) => Ok(Box::new(SqliteTarget::new(path, options))),
        SourceUrl::Postgres(_) => super::postgres::target(url, options),
        SourceUrl::Mysql(_) => super::mysql::target(url, options),
    }
}

/// Tables to be put into the database in use at `url`, beside its own.
pub fn tables_beside(url: &SourceUrl, options: &TargetOptions, beside: Beside) -> Box<dyn Target> {
    match url {
        SourceUrl::Sqlite(path) => Box::new(SqliteBeside::new(path, beside)),
        SourceUrl::Postgres(server) => {
            Box::new(PostgresBeside::new(server.clone(), options, beside))
        }
        SourceUrl::Mysql(server) => Box::new(MysqlBeside::new(server.clone(), options, beside)),
    }
}

/// The database at `url`, to be looked at and written to while it is in use.
///
/// # Errors
/// Invalid: the address or the options cannot be meant.
pub fn live(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Live>, AnyFailure> {
    match url {
        SourceUrl::Sqlite(path) => Ok(Box::new(SqliteLive::new(path, options))),
        SourceUrl::Postgres(_) => super::postgres::live(url),
        SourceUrl::Mysql(_) => super::mysql::live(url),
    }
}

/// A scratch place for a database of `engine`: at `at`, or one of its own on this host.
///
/// # Errors
/// Invalid: the address is another engine's.
pub fn scratch(
    engine: Engine,
    at: Option<&SourceUrl>,
    options: &TargetOptions,
) -> Result<Box<dyn Scratch>, AnyFailure> {
    match (engine, at) {
        (Engine::Sqlite, None) => Ok(Box::new(SqliteScratch::new(None, options))),
        (Engine::Sqlite, Some(SourceUrl::Sqlite(path))) => {
            Ok(Box::new(SqliteScratch::new(Some(path), options)))
        }
        (Engine::Postgres, Some(SourceUrl::Postgres(server))) => {
            Ok(Box::new(PostgresScratch::new(Some(server), options)))
        }
        (Engine::Mysql, Some(SourceUrl::Mysql(server))) => {
            Ok(Box::new(MysqlScratch::new(Some(server), options)))
        }
        (engine, Some(url)) => Err(AnyFailure::new(
            Class::Invalid,
            format!("a snapshot of {engine} cannot be drilled at {url}"),
            Some(format!(
                "give --scratch the address of a {engine} place, or leave it out"
            )),
        )),
        (Engine::Postgres, None) => Ok(Box::new(PostgresScratch::new(None, options))),
        (Engine::Mysql, None) => Ok(Box::new(MysqlScratch::new(None, options))),
    }
}

/// The live database at `url`, to be exchanged for one beside it.
///
/// # Errors
/// Invalid: the address cannot be meant.
pub fn swap(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Swap>, AnyFailure> {
    match url {
        SourceUrl::Sqlite(path) => Ok(Box::new(SqliteSwap::new(path, options))),
        SourceUrl::Postgres(server) => Ok(Box::new(super::postgres::swap(server, options))),
        SourceUrl::Mysql(_) => super::mysql::swap(url, options),
    }
}

/// The address of the database that stands beside the one at `url` and is called `name`.
pub fn beside(url: &SourceUrl, name: &str) -> SourceUrl {
    match url {
        SourceUrl::Sqlite(path) => {
            // Through all links, as the exchange goes.
            let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            SourceUrl::Sqlite(real.with_file_name(name))
        }
        SourceUrl::Postgres(server) => SourceUrl::Postgres(server.with_database(name)),
        SourceUrl::Mysql(server) => SourceUrl::Mysql(server.with_database(name)),
    }
}

/// A program of this host that a database is captured, restored or drilled with.
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its file and version, or what to install.
    pub found: Result<String, AnyFailure>,
}

/// The programs that a database of this structure takes; `rehearsed`: drills here are planned.
pub async fn programs(structure: &Structure, rehearsed: bool) -> Vec<Program> {
    let mut programs = Vec::new();
    match structure.engine {
        Engine::Sqlite => {}
        Engine::Postgres => {
            let number = structure.facts.get("server_version_num");
            let number: u32 = number.and_then(|text| text.parse().ok()).unwrap_or(0);
            let rehearsal: &[&str] = if rehearsed { &["postgres"] } else { &[] };
            for name in ["pg_dump", "pg_restore"].iter().chain(rehearsal) {
                let found = super::postgres::program(name, number / 10_000).await;
                programs.push(Program {
                    name,
                    found: match found {
                        Ok((path, version)) => Ok(told(&path, &version)),
                        Err(error) => Err(error.into()),
                    },
                });
            }
        }
        Engine::Mysql if rehearsed => {
            for name in ["mariadbd", "mariadb-install-db"] {
                let found = server::program(&[name]).ok_or_else(|| {
                    AnyFailure::new(
                        Class::Missing,
                        format!("no {name} was found on this host"),
                        Some("install the package mariadb-server, or drill with --scratch".into()),
                    )
                });
                let found = found.map(|path| path.display().to_string());
                programs.push(Program { name, found });
            }
        }
        Engine::Mysql => {}
    }
    programs
}

fn told(path: &Path, version: &str) -> String {
    format!("{version} ({})", path.display())
}
