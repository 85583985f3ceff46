//! MySQL and MariaDB: captured at one instant, and made again beside.
//!
//! Rows are the bytes that the server prints under fixed settings; definitions are what
//! `SHOW CREATE` says. MariaDB 10.11 is what the suite runs; where MySQL 8 differs, the code says
//! so at the place, and that is untried. Invariant: nothing but `target`, `live` and `swap`
//! with what serves it ever writes to a server.

use crate::failure::{AnyFailure, Class};
use crate::source::address::{SourceOptions, SourceUrl, TargetOptions};
use crate::source::{Live, Source, Swap, Target};

pub mod error;

pub mod quote;

pub mod session;

pub mod rights;

pub mod types;

pub mod structure;

pub mod inspect;

pub mod rows;

pub mod load;

pub mod program;

pub mod fitness;

pub mod answers;

pub mod capture;

pub mod target;

pub mod live;

pub mod scratch;

pub mod fence;

pub mod handover;

pub mod beside;

pub mod swap;

/// The database at `url`, to be read.
///
/// # Errors
/// Invalid: `url` is not one of MySQL or MariaDB.
pub fn source(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Source>, AnyFailure> {
    match url {
        SourceUrl::Mysql(server) => Ok(Box::new(capture::Capture::new(
            server.clone(),
            options.clone(),
        ))),
        _ => Err(foreign()),
    }
}

/// The database at `url`, to be made.
///
/// # Errors
/// Invalid: `url` is not one of MySQL or MariaDB.
pub fn target(url: &SourceUrl, options: &TargetOptions) -> Result<Box<dyn Target>, AnyFailure> {
    match url {
        SourceUrl::Mysql(server) => Ok(Box::new(target::Restore::new(
            server.clone(),
            options.clone(),
        ))),
        _ => Err(foreign()),
    }
}

/// The database at `url`, in use.
///
/// # Errors
/// Invalid: `url` is not one of MySQL or MariaDB.
pub fn live(url: &SourceUrl) -> Result<Box<dyn Live>, AnyFailure> {
    match url {
        SourceUrl::Mysql(server) => Ok(Box::new(live::MysqlLive::new(server.clone()))),
        _ => Err(foreign()),
    }
}

/// The database at `url`, to be exchanged.
///
/// # Errors
/// Invalid: `url` is not one of MySQL or MariaDB.
pub fn swap(url: &SourceUrl, options: &SourceOptions) -> Result<Box<dyn Swap>, AnyFailure> {
    match url {
        SourceUrl::Mysql(server) => Ok(Box::new(swap::MysqlSwap::new(server.clone(), options))),
        _ => Err(foreign()),
    }
}

fn foreign() -> AnyFailure {
    AnyFailure::new(
        Class::Invalid,
        "the address is not one of MySQL or MariaDB",
        Some("write mysql://USER@HOST/DATABASE".into()),
    )
}
