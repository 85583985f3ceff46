//! Cryptography over bytes: no I/O, no format, no ambient randomness.
//!
//! Each file wraps one primitive so that a caller can use it in one way only, and says what must
//! never repeat. Invariant: no secret has a `Debug`, stands in an error, or outlives its owner.
//! Why these primitives: docs/format.md, chapter "Keys".

pub mod envelope;
pub mod key;
pub mod keyslot;
pub mod seal;
pub mod sign;

use crate::failure::{Class, Failure};

/// Why bytes could not be opened, or a key could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Wrong key, wrong associated data, or altered bytes.
    #[error("sealed bytes failed authentication")]
    Tampered,
    /// Sealed to another reader, for another purpose, or altered.
    #[error("a sealed session key failed authentication")]
    Session,
    /// The public key is no point that anything may be sealed to.
    #[error("the reader's public key is not valid")]
    ReaderKey,
    /// Not signed by this signer, for this purpose, over these bytes.
    #[error("the signature by {signer} does not match")]
    Signature {
        /// Who should have signed.
        signer: crate::id::SignerId,
    },
    /// The passphrase is not the one that the slot was made with.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// The secret of a key file is not the one that the slot was made with.
    #[error("the key file does not belong to this key slot")]
    WrongKeyFile,
    /// The secret was right and the slot still does not open: it was altered.
    #[error("the key slot was altered")]
    SlotAltered,
    /// A passphrase of no bytes.
    #[error("the passphrase is empty")]
    PassphraseEmpty,
    /// A passphrase beyond any that a person or a generator makes.
    #[error("the passphrase has {bytes} bytes, the most is {most}")]
    PassphraseLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// A parameter of the passphrase's cost that is too cheap to write.
    #[error("passphrase cost: {parameter} is {value}, the least is {least}")]
    CostLow {
        /// Which one.
        parameter: &'static str,
        /// What it is.
        value: u32,
        /// What it must be at least.
        least: u32,
    },
    /// A parameter of the passphrase's cost that would exhaust the machine.
    #[error("passphrase cost: {parameter} is {value}, the most is {most}")]
    CostHigh {
        /// Which one.
        parameter: &'static str,
        /// What it is.
        value: u32,
        /// What it may be at most.
        most: u32,
    },
    /// The machine has not the memory that the passphrase's cost asks for.
    #[error("no memory for the passphrase's cost of {memory_kib} KiB")]
    Memory {
        /// What is asked for.
        memory_kib: u32,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Tampered | Error::Session | Error::Signature { .. } | Error::SlotAltered => {
                Class::Corrupt
            }
            Error::WrongPassphrase | Error::WrongKeyFile => Class::Denied,
            Error::ReaderKey
            | Error::PassphraseEmpty
            | Error::PassphraseLong { .. }
            | Error::CostLow { .. }
            | Error::CostHigh { .. } => Class::Invalid,
            Error::Memory { .. } => Class::Transient,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::WrongPassphrase => "try again, or use another key slot or the recovery sheet",
            Error::WrongKeyFile => "give the key file that this repository was given",
            Error::SlotAltered => "open the repository by another key slot or the recovery sheet",
            Error::PassphraseEmpty => "give a passphrase of some length; a file may have one line",
            Error::Memory { .. } => "free memory, or use a key file, which needs none",
            Error::CostHigh { .. } => "the key slot was not written by rowvault; use another one",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
