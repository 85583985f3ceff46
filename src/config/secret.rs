//! Files that hold secrets: read whole, within a limit, and only where nobody else may read them.
//!
//! Passphrases, key files and passwords of databases come through here, from the configuration
//! and from the command line. Invariant: a regular file that others may read is refused; pipes,
//! descriptors and a service's own credentials are not files that others could read.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::failure::{Class, Failure};

/// The longest secret; a passphrase may have 1 MiB and a newline.
const SECRET_BYTES_MAX: u64 = (1 << 20) + 2;

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot read the {what} in {}", path.display())]
    Io {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("the {what} in {} can be read by others (mode {mode:03o})", path.display())]
    Open {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Far longer than any secret.
    #[error("the {what} in {} is longer than {SECRET_BYTES_MAX} bytes", path.display())]
    Long {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("the {what} in {} is empty", path.display())]
    Empty {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are no text.
    #[error("the {what} in {} is not UTF-8", path.display())]
    Text {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Class::Denied
            }
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Open { path, .. } => Some(format!("run: chmod 600 {}", path.display())),
            Error::Long { .. } => Some("check the path: this is another file".into()),
            Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("check the path; relative paths in a configuration start at its file".into())
            }
            _ => None,
        }
    }
}

/// The text of a secret file; one newline at its end does not count.
///
/// # Errors
/// [`Error`]: unreadable, readable by others, empty, too long, no text.
pub fn read(what: &'static str, path: &Path) -> Result<SecretString, Error> {
    let bytes = read_bytes(what, path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::Text {
        what,
        path: path.to_owned(),
    })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Error::Empty {
            what,
            path: path.to_owned(),
        });
    }
    Ok(SecretString::from(text))
}

fn read_bytes(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let refused = |source| Error::Io {
        what,
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    check_mode(what, path, &metadata)?;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes);
    if read.map_err(refused)? as u64 > SECRET_BYTES_MAX {
        return Err(Error::Long {
            what,
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

/// Refuses a file that others than its owner may read.
///
/// # Errors
/// [`Error::Open`].
pub fn check_mode(what: &'static str, path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 && !is_guarded(path) {
        return Err(Error::Open {
            what,
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Whether something else than the file's mode keeps others out: an open descriptor of our own,
/// or the credentials that the service manager hands over.
fn is_guarded(path: &Path) -> bool {
    let descriptor = ["/dev/fd", "/proc/self/fd", "/dev/stdin"]
        .iter()
        .any(|place| path.starts_with(place));
    descriptor
        || std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|place| {
            let (Ok(place), Ok(path)) = (fs::canonicalize(place), fs::canonicalize(path)) else {
                return false;
            };
            path.starts_with(place)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn file(text: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn one_newline_at_the_end_does_not_count() {
        for (text, secret) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
        ] {
            let file = file(text.as_bytes(), 0o600);
            assert_eq!(
                read("passphrase", file.path()).unwrap().expose_secret(),
                secret
            );
        }
    }

    #[test]
    fn what_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let file = file(b"a", mode);
            let error = read("passphrase", file.path()).unwrap_err();
            assert_eq!(error.class(), Class::Invalid);
            assert!(error.hint().unwrap().starts_with("run: chmod 600 /"));
        }
    }

    #[test]
    fn nothing_too_much_and_no_text_are_refused() {
        let cases: [(&[u8], &str); 4] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (&[0xff], "UTF-8"),
            (&[b'a'; (1 << 20) + 3], "longer"),
        ];
        for (text, word) in cases {
            let file = file(text, 0o600);
            let error = read("passphrase", file.path()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
