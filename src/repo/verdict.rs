//! What this client found out about the storage, kept so that it need not probe at every run.
//!
//! Invariant: what cannot be read is found out anew, since a verdict that is wrong loses data and
//! one that is missing costs thirty small requests.

use crate::format::object::{Kind, read_body};
use crate::repo::vault::{self, Vault};
use crate::state::{self, State};
use crate::store::probe::{Verdict, probe};

const PROBE_FILE: &str = "probe";

/// The verdict that this client keeps; none where there is none that can be read.
///
/// # Errors
/// The state directory's.
pub fn kept(vault: &Vault, state: &State) -> Result<Option<Verdict>, state::Error> {
    let Some(bytes) = state.read(PROBE_FILE)? else {
        return Ok(None);
    };
    let opened = vault.open(Kind::State, PROBE_FILE, &bytes).ok();
    Ok(opened.and_then(|(_, body)| read_body(&body, "verdict").ok()))
}

/// Keeps a verdict.
///
/// # Errors
/// The state directory's.
pub fn keep(vault: &Vault, state: &State, verdict: &Verdict) -> Result<(), state::Error> {
    let sealed = vault.seal_state(PROBE_FILE, verdict);
    state.write(PROBE_FILE, &sealed, vault.random.as_ref())
}

/// Finds out what the storage can carry, and keeps it. Writes to the storage, and cleans up.
///
/// # Errors
/// The storage's: it cannot be used at all. That the verdict cannot be kept is no error.
pub async fn renew(vault: &Vault, state: &State) -> Result<Verdict, vault::Error> {
    let verdict = probe(&vault.store).await?;
    // It is found out again where it was not kept.
    let _ = keep(vault, state, &verdict);
    Ok(verdict)
}
