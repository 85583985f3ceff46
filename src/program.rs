//! Programs that the user names, with the environment that the user gave.
//!
//! A verb may begin anew, as the same process, with a word to glibc's allocator that nobody else is
//! to hear; secrets may stand in the environment too. Invariant: neither reaches a program of the
//! user's, and what the user said to the allocator stays as it is, here and there.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What tells glibc's allocator how many heaps it may have.
const HEAPS: &str = "MALLOC_ARENA_MAX";
/// What says that [`HEAPS`] is of this process's own making.
const OWN_HEAPS: &str = "ROWVAULT_OWN_HEAPS";
/// Where a passphrase may stand.
const PASSPHRASE: &str = "ROWVAULT_PASSPHRASE";

/// The user's `program`, not yet started.
pub fn named(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove(PASSPHRASE);
    if std::env::var_os(OWN_HEAPS).is_some() {
        command.env_remove(OWN_HEAPS).env_remove(HEAPS);
    }
    command
}

/// Begins this process anew, as the same one, with so many heaps, unless the user has said how many.
/// glibc would give its threads up to eight for each core, and how many there may be is read when a
/// process begins. It comes back where that cannot be done: more memory is taken then.
pub fn begin_anew(heaps: &str) {
    let mut arguments = std::env::args_os();
    let (Some(called), Ok(program)) = (arguments.next(), std::env::current_exe()) else {
        return;
    };
    if cfg!(target_env = "gnu") && std::env::var_os(HEAPS).is_none() {
        let _ = Command::new(program)
            .arg0(called)
            .args(arguments)
            .env(HEAPS, heaps)
            .env(OWN_HEAPS, heaps)
            .exec();
    }
}
