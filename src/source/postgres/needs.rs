//! What a snapshot needs of the server that takes it: a version, roles, extensions, tablespaces.
//!
//! All of it is asked before anything is made, so that a restore is refused at once and whole.
//! Invariant: nothing here writes; what can be done without is told and not refused.

use super::client::Client;
use super::error::Error;
use super::settle;
use super::structure::State;
use crate::failure::Class;
use crate::row::schema::Structure;
use crate::source::address::Ownership;

/// A snapshot, and how it is to be made again.
pub struct Needs<'n> {
    /// Its structure.
    pub structure: &'n Structure,
    /// What its archive leaves out.
    pub state: &'n State,
    /// Whom things will belong to.
    pub ownership: &'n Ownership,
}

impl Needs<'_> {
    /// Everything of the server of `client` that can be known to stand in the way.
    ///
    /// # Errors
    /// Invalid: it is older. Conflict: roles are missing. Missing: extensions are.
    pub async fn check(&self, client: &mut Client) -> Result<(), Error> {
        let major = server_major(client).await?;
        let source = source_major(self.structure)?;
        if major < source {
            return Err(Error::stated(
                Class::Invalid,
                format!(
                    "the snapshot is of PostgreSQL {source}, and the target is older ({major})"
                ),
                format!("restore into PostgreSQL {source} or newer"),
            ));
        }
        self.roles(client).await?;
        self.extensions(client).await
    }

    async fn roles(&self, client: &mut Client) -> Result<(), Error> {
        let ownership = self.ownership;
        let sql = "SELECT rolname::text FROM pg_catalog.pg_roles";
        let there = client.rows(sql, "checking the target's roles").await?;
        let missing: Vec<&str> = self
            .state
            .roles
            .iter()
            .filter(|(_, used)| {
                (used.owns && !ownership.no_owner)
                    || (used.granted && !ownership.no_privileges)
                    || used.policy
            })
            .map(|(name, _)| settle::mapped(name, ownership))
            .filter(|name| !there.iter().any(|row| row[0].as_deref() == Some(name)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::stated(
            Class::Conflict,
            format!("the target server has no role {}", missing.join(", ")),
            "make the roles there, or use --role-map OLD=NEW, or --no-owner and --no-privileges",
        ))
    }

    async fn extensions(&self, client: &mut Client) -> Result<(), Error> {
        let sql = "SELECT name::text FROM pg_catalog.pg_available_extensions";
        let available = client.rows(sql, "checking the target's extensions").await?;
        let extensions = self.structure.facts.get("extensions");
        let missing: Vec<&str> = extensions
            .map_or("", String::as_str)
            .split(", ")
            .filter_map(|extension| extension.rsplit_once(' ').map(|(name, _)| name))
            .filter(|name| !available.iter().any(|row| row[0].as_deref() == Some(name)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::stated(
            Class::Missing,
            format!("the target server has no extension {}", missing.join(", ")),
            "install the extension's package on the target server",
        ))
    }

    /// Tablespaces of the snapshot that the server has not, or not for this role. Whatever lay in
    /// them can lie elsewhere.
    pub async fn tablespaces(&self, client: &mut Client) -> Result<Vec<&str>, Error> {
        let sql = "SELECT spcname::text FROM pg_catalog.pg_tablespace WHERE spcname = 'pg_default' \
             OR pg_catalog.has_tablespace_privilege(oid, 'CREATE')";
        let usable = client
            .rows(sql, "checking the target's tablespaces")
            .await?;
        let wanted = self.state.tablespaces.iter().map(String::as_str);
        Ok(wanted
            .filter(|name| !usable.iter().any(|row| row[0].as_deref() == Some(name)))
            .collect())
    }
}

/// The major version of a server.
pub async fn server_major(client: &mut Client) -> Result<u32, Error> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')";
    let number = client.value(sql, "asking for the server's version").await?;
    Ok(number.parse::<u32>().unwrap_or_default() / 10_000)
}

/// The major version of the server that a snapshot is of.
///
/// # Errors
/// Corrupt: the snapshot does not say it.
pub fn source_major(structure: &Structure) -> Result<u32, Error> {
    let number = structure.facts.get("server_version_num");
    let number = number.and_then(|number| number.parse::<u32>().ok());
    number.map(|number| number / 10_000).ok_or_else(|| {
        Error::stated(
            Class::Corrupt,
            "the snapshot does not say of which PostgreSQL version it is",
            "take another snapshot",
        )
    })
}
