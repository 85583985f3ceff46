//! PostgreSQL, 14 to 18: rows through COPY in text form, structure through `pg_dump` archives.
//!
//! All connections of a capture share one exported snapshot; every table is locked in ACCESS
//! SHARE before that snapshot is taken, so that no rewrite can slip between the two. Invariant:
//! a connection whose COPY was not read to its end is closed, never used again.

mod error;
mod quote;
mod types;

mod archive;
mod client;
mod tools;

mod text;

mod catalog;
mod structure;

mod answers;
mod facts;
mod state;

mod rows;
mod slices;

mod ranges;

mod proof;

mod part;

mod capture;

mod empty;
mod listing;
mod load;
mod settle;

mod needs;

mod target;

mod beside;

mod live;
mod swap;

mod scratch;

pub use beside::PostgresBeside;
pub use capture::source;
pub use error::Error;
pub use live::live;
pub use quote::{identifier, literal};
pub use scratch::PostgresScratch;
pub use swap::swap;
pub use target::target;

/// The program of PostgreSQL's that fits a server of version `major`: its file and its version.
///
/// # Errors
/// Missing: none is new enough; the package is named.
pub async fn program(name: &str, major: u32) -> Result<(std::path::PathBuf, String), Error> {
    let tool = tools::find(name, major, major, None).await?;
    Ok((tool.path, tool.version))
}
