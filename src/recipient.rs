//! age recipients and their plugins: a door for the root secret to whoever holds an identity.
//!
//! The root is wrapped as an `age` file, with repository and slot beside it, so that a file moved
//! to another slot is noticed. Anybody can wrap *some* root to a recipient: the caller compares
//! the owner's key of the opened root with the repository's before it believes anything.
//! Plugins are programs on this machine; both calls may block as long as a plugin does.
//! Source: age-encryption.org/v1.

use crate::crypto::key::RootSecret;
use crate::failure::{Class, Failure};
use crate::id::{RepositoryId, SlotId};

/// Why a root could not be wrapped or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// This program was built without the feature.
    #[error("this rowvault was built without age recipients")]
    NotBuilt,
    /// Not the form of a recipient.
    #[error("{text:?} is not an age recipient")]
    Recipient {
        /// What was given.
        text: String,
    },
    /// A secret where a public name belongs; what was given is not shown.
    #[error("an age identity was given where a recipient is expected")]
    IdentityGiven,
    /// The identities' text has something else in it.
    #[error("the age identities cannot be read: {why}")]
    Identities {
        /// Which line; never what it holds.
        why: String,
    },
    /// The program of a plugin is not there.
    #[error("the age plugin {program:?} was not found")]
    PluginMissing {
        /// Its file name.
        program: String,
    },
    /// A plugin said no, or wanted to ask a person something.
    #[error("the age plugin failed: {why}")]
    Plugin {
        /// What it said.
        why: String,
    },
    /// No identity fits.
    #[error("no age identity in the key file opens this key slot")]
    NoMatch,
    /// The bytes are no whole `age` file.
    #[error("the key slot's age file is damaged or was altered")]
    Damaged,
    /// A whole file that was made for another slot.
    #[error("the age file was made for another repository or key slot")]
    Misplaced,
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::NotBuilt
            | Error::Recipient { .. }
            | Error::IdentityGiven
            | Error::Identities { .. } => Class::Invalid,
            Error::PluginMissing { .. } => Class::Missing,
            Error::Plugin { .. } | Error::NoMatch => Class::Denied,
            Error::Damaged | Error::Misplaced => Class::Corrupt,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NotBuilt => "use a build with the feature 'age', or another kind of key slot",
            Error::Recipient { .. } => "a recipient starts with age1; age-keygen -y prints it",
            Error::IdentityGiven => {
                "the identity stays with its holder; age-keygen -y prints its recipient"
            }
            Error::Identities { .. } => "give the file that age-keygen or the plugin wrote",
            Error::PluginMissing { .. } => "install it where PATH leads",
            Error::Plugin { .. } => "try the plugin by age itself; rowvault answers no questions",
            Error::NoMatch => "give the identity of one of the repository's recipients",
            Error::Damaged | Error::Misplaced => {
                "open the repository by another key slot or the recovery sheet"
            }
        };
        Some(hint.to_owned())
    }
}

/// Wraps `root` for the holder of the identity that belongs to `recipient` (`age1…`, a plugin's
/// included), as the file of this slot.
///
/// # Errors
/// [`Error`]: not a recipient, a plugin that is missing or fails, no such feature in this build.
pub fn wrap(
    recipient: &str,
    root: &RootSecret,
    repository: RepositoryId,
    slot: SlotId,
) -> Result<Vec<u8>, Error> {
    let upper = recipient.trim().to_ascii_uppercase();
    if upper.starts_with("AGE-SECRET-KEY-") || upper.starts_with("AGE-PLUGIN-") {
        return Err(Error::IdentityGiven);
    }
    door::wrap(recipient.trim(), root, repository, slot)
}

/// Opens the file of this slot with the identities in the text of an identity file.
///
/// # Errors
/// [`Error::NoMatch`] where no identity fits; [`Error::Damaged`] and [`Error::Misplaced`] for
/// what was altered or moved; a plugin that is missing or fails; no such feature in this build.
pub fn unwrap(
    identities: &str,
    file: &[u8],
    repository: RepositoryId,
    slot: SlotId,
) -> Result<RootSecret, Error> {
    door::unwrap(identities, file, repository, slot)
}

#[cfg(not(feature = "age"))]
mod door {
    //! No way through: this build knows no age.

    use super::{Error, RepositoryId, RootSecret, SlotId};

    pub(super) fn wrap(
        _: &str,
        _: &RootSecret,
        _: RepositoryId,
        _: SlotId,
    ) -> Result<Vec<u8>, Error> {
        Err(Error::NotBuilt)
    }

    pub(super) fn unwrap(
        _: &str,
        _: &[u8],
        _: RepositoryId,
        _: SlotId,
    ) -> Result<RootSecret, Error> {
        Err(Error::NotBuilt)
    }
}

#[cfg(feature = "age")]
mod door {
    //! The way through the age crate.

    use std::io::{Read, Write};

    use age::plugin::{RecipientPluginV1, ResolveError};
    use age::{DecryptError, Decryptor, EncryptError, Encryptor, IdentityFile, NoCallbacks};
    use zeroize::Zeroizing;

    use super::{Error, RepositoryId, RootSecret, SlotId};

    /// Root, repository, slot.
    const PAYLOAD_BYTES: usize = 32 + 16 + 8;
    const WHY_CHARS_MAX: usize = 300;

    pub(super) fn wrap(
        recipient: &str,
        root: &RootSecret,
        repository: RepositoryId,
        slot: SlotId,
    ) -> Result<Vec<u8>, Error> {
        let recipient = parse_recipient(recipient)?;
        let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD_BYTES));
        payload.extend(root.expose());
        payload.extend(place(repository, slot));
        let encryptor =
            Encryptor::with_recipients(std::iter::once(&*recipient)).map_err(encrypt_error)?;
        let mut file = Vec::new();
        let mut writer = encryptor
            .wrap_output(&mut file)
            .map_err(|error| encrypt_error(EncryptError::Io(error)))?;
        writer
            .write_all(&payload)
            .and_then(|()| writer.finish())
            .map_err(|error| encrypt_error(EncryptError::Io(error)))?;
        Ok(file)
    }

    pub(super) fn unwrap(
        identities: &str,
        file: &[u8],
        repository: RepositoryId,
        slot: SlotId,
    ) -> Result<RootSecret, Error> {
        let identities = IdentityFile::from_buffer(identities.as_bytes())
            .map_err(|error| Error::Identities { why: plain(&error) })?
            .into_identities()
            .map_err(decrypt_error)?;
        let opened = Decryptor::new_buffered(file)
            .and_then(|decryptor| {
                decryptor.decrypt(identities.iter().map(|identity| &**identity as _))
            })
            .map_err(decrypt_error)?;
        let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD_BYTES + 1));
        opened
            .take(PAYLOAD_BYTES as u64 + 1)
            .read_to_end(&mut payload)
            .map_err(|_| Error::Damaged)?;
        if payload.len() != PAYLOAD_BYTES {
            return Err(Error::Damaged);
        }
        let (found, rest) = payload.split_at(32);
        if rest != place(repository, slot) {
            return Err(Error::Misplaced);
        }
        let mut root = Zeroizing::new([0; 32]);
        root.copy_from_slice(found);
        Ok(RootSecret::from_bytes(*root))
    }

    fn place(repository: RepositoryId, slot: SlotId) -> [u8; 24] {
        let mut out = [0; 24];
        out[..16].copy_from_slice(&repository.0);
        out[16..].copy_from_slice(&slot.to_bytes());
        out
    }

    /// The recipient of one of age's own kinds, or of a plugin.
    fn parse_recipient(text: &str) -> Result<Box<dyn age::Recipient>, Error> {
        if let Ok(recipient) = text.parse::<age::x25519::Recipient>() {
            return Ok(Box::new(recipient));
        }
        if let Ok(recipient) = text.parse::<age::tag::Recipient>() {
            return Ok(Box::new(recipient));
        }
        if let Ok(recipient) = text.parse::<age::tagpq::Recipient>() {
            return Ok(Box::new(recipient));
        }
        let recipient = text
            .parse::<age::plugin::Recipient>()
            .map_err(|_| Error::Recipient {
                text: text.chars().take(WHY_CHARS_MAX).collect(),
            })?;
        let name = recipient.plugin().to_owned();
        let plugin =
            RecipientPluginV1::new(&name, &[recipient], &[], NoCallbacks).map_err(resolve_error)?;
        Ok(Box::new(plugin))
    }

    fn encrypt_error(error: EncryptError) -> Error {
        match error {
            EncryptError::PluginResolve(error) => resolve_error(error),
            error => Error::Plugin { why: plain(&error) },
        }
    }

    fn decrypt_error(error: DecryptError) -> Error {
        match error {
            DecryptError::NoMatchingKeys => Error::NoMatch,
            DecryptError::PluginResolve(error) => resolve_error(error),
            DecryptError::Plugin(_) => Error::Plugin { why: plain(&error) },
            _ => Error::Damaged,
        }
    }

    fn resolve_error(error: ResolveError) -> Error {
        Error::PluginMissing {
            program: match error {
                ResolveError::InvalidPluginName { name } => name,
                ResolveError::MissingPlugin { binary_name } => binary_name,
                other => plain(&other),
            },
        }
    }

    /// One line of bounded length, whatever a plugin says; without the marks that the age crate
    /// puts around names for scripts that run from right to left.
    fn plain(error: &dyn std::fmt::Display) -> String {
        let text = error.to_string();
        let shown = text
            .chars()
            .filter(|c| !('\u{2066}'..='\u{2069}').contains(c));
        let line = shown.map(|c| if c.is_control() { ' ' } else { c });
        line.take(WHY_CHARS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId([1; 16]);
    #[cfg(not(feature = "age"))]
    const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    fn slot() -> SlotId {
        "k3ysloot".parse().unwrap()
    }

    fn root() -> RootSecret {
        RootSecret::from_bytes([9; 32])
    }

    #[test]
    fn identity_given_for_a_recipient_is_refused_and_not_shown() {
        for text in [" AGE-SECRET-KEY-1XYZ", "age-plugin-yubikey-1xyz"] {
            let refused = wrap(text, &root(), REPOSITORY, slot()).unwrap_err();
            assert_eq!(refused, Error::IdentityGiven);
            assert!(!format!("{refused} {:?}", refused.hint()).contains("1X"));
        }
    }

    #[cfg(not(feature = "age"))]
    #[test]
    fn build_without_age_says_so() {
        let wrapped = wrap(RECIPIENT, &root(), REPOSITORY, slot());
        assert_eq!(wrapped, Err(Error::NotBuilt));
        let opened = unwrap("AGE-SECRET-KEY-1", b"", REPOSITORY, slot());
        assert_eq!(opened.err(), Some(Error::NotBuilt));
    }

    #[cfg(feature = "age")]
    mod with_age {
        use age::secrecy::ExposeSecret;
        use age::x25519::Identity;

        use super::*;

        fn opened(identity: &Identity, file: &[u8]) -> Result<RootSecret, Error> {
            let text = format!("# made by hand\n{}\n", identity.to_string().expose_secret());
            unwrap(&text, file, REPOSITORY, slot())
        }

        fn wrapped(identity: &Identity) -> Vec<u8> {
            let recipient = identity.to_public().to_string();
            wrap(&recipient, &root(), REPOSITORY, slot()).unwrap()
        }

        #[test]
        fn holder_of_the_identity_opens_and_nobody_else() {
            let identity = Identity::generate();
            let file = wrapped(&identity);
            assert!(opened(&identity, &file) == Ok(root()));
            let other = opened(&Identity::generate(), &file);
            assert_eq!(other.err(), Some(Error::NoMatch));
        }

        #[test]
        fn file_moved_to_another_slot_or_repository_is_refused() {
            let identity = Identity::generate();
            let file = wrapped(&identity);
            let text = identity.to_string();
            let text = text.expose_secret();
            let moved = unwrap(text, &file, REPOSITORY, "aaaaaaaa".parse().unwrap());
            assert_eq!(moved.err(), Some(Error::Misplaced));
            let moved = unwrap(text, &file, RepositoryId([2; 16]), slot());
            assert_eq!(moved.err(), Some(Error::Misplaced));
        }

        #[test]
        fn every_cut_and_every_altered_byte_are_refused() {
            let identity = Identity::generate();
            let file = wrapped(&identity);
            for end in 0..file.len() {
                assert!(opened(&identity, &file[..end]).is_err(), "cut at {end}");
            }
            for place in 0..file.len() {
                let mut altered = file.clone();
                altered[place] ^= 1;
                assert!(opened(&identity, &altered).is_err(), "byte {place}");
            }
            let mut longer = file;
            longer.push(0);
            assert!(opened(&identity, &longer).is_err());
        }

        #[test]
        fn payload_of_another_length_is_refused() {
            let identity = Identity::generate();
            for length in [0, 55, 57, 1 << 20] {
                let file = age::encrypt(&identity.to_public(), &vec![1; length]).unwrap();
                assert_eq!(opened(&identity, &file).err(), Some(Error::Damaged));
            }
        }

        #[test]
        fn missing_plugin_is_named() {
            let recipient = "age1rowvaultmissing1qypqx477n2e";
            let refused = wrap(recipient, &root(), REPOSITORY, slot()).unwrap_err();
            assert!(
                refused.to_string().contains("age-plugin-rowvaultmissing"),
                "{refused}"
            );
            let identity = "AGE-PLUGIN-FOOBAR-1QVHULF";
            let refused = unwrap(identity, b"", REPOSITORY, slot()).err();
            assert!(
                matches!(refused, Some(Error::PluginMissing { .. })),
                "{refused:?}"
            );
        }

        #[test]
        fn text_that_is_neither_is_refused_without_showing_secrets() {
            let refused = wrap("ssh-ed25519 AAAA", &root(), REPOSITORY, slot());
            assert!(matches!(refused, Err(Error::Recipient { .. })));
            let refused = unwrap("canary-secret", b"", REPOSITORY, slot());
            let said = refused.err().map(|error| error.to_string()).unwrap();
            assert!(
                said.contains("line 1") && !said.contains("canary"),
                "{said}"
            );
        }
    }
}
