//! Secrets: in files that nobody else may read, or from a command that prints them.
//!
//! Passphrases, key files and passwords of databases come through here, from the configuration
//! and from the command line, whole and within a limit. Invariant: a regular file that others may
//! read is refused (pipes, descriptors and a service's own credentials are no such files), and
//! nothing that a command prints, and none of its arguments, is ever shown.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::failure::{Class, Failure};
use crate::program;

/// The longest secret; a passphrase may have 1 MiB and a newline.
const SECRET_BYTES_MAX: u64 = (1 << 20) + 2;

/// How long a command may take to print a secret, and then to end.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked whether the command has ended.
const END_LOOKS: u32 = 200;
const END_LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// A command prints it: its words.
    Command(Vec<String>),
}

impl Origin {
    /// The secret; one newline at its end does not count.
    ///
    /// # Errors
    /// [`Error`]: unreadable, readable by others, empty, too long, no text; a command that cannot
    /// be started, fails, or takes too long.
    pub fn read(&self, what: &'static str) -> Result<SecretString, Error> {
        match self {
            Origin::File(path) => read(what, path),
            Origin::Command(words) => {
                let program = words.first().map_or("", String::as_str);
                let asking = Asking { what, program };
                let bytes = asking.ask(&words[1.min(words.len())..], COMMAND_DEADLINE)?;
                text(what, Path::new(program), &bytes).map_err(|error| match error {
                    Error::Empty { .. } => asking.failed(Class::Invalid, "prints nothing"),
                    _ => asking.failed(Class::Invalid, "prints no UTF-8"),
                })
            }
        }
    }
}

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
    /// A command did not give it.
    #[error("the command for the {what}, {program}, {why}")]
    Command {
        /// What it should print.
        what: &'static str,
        /// Its first word; the others may be secret.
        program: String,
        /// What happened.
        why: String,
        /// Whether it may work another time.
        class: Class,
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
            Error::Command { class, .. } => *class,
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Open { path, .. } => Some(format!("run: chmod 600 {}", path.display())),
            Error::Long { .. } => Some("check the path: this is another file".into()),
            Error::Command { .. } => Some(
                "run it by hand as this user: it must print the secret alone, and exit 0".into(),
            ),
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
    text(what, path, &read_bytes(what, path)?)
}

fn text(what: &'static str, path: &Path, bytes: &[u8]) -> Result<SecretString, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Text {
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

/// A command that is asked for a secret.
struct Asking<'a> {
    what: &'static str,
    program: &'a str,
}

impl Asking<'_> {
    fn failed(&self, class: Class, why: impl Into<String>) -> Error {
        Error::Command {
            what: self.what,
            program: self.program.to_owned(),
            why: why.into(),
            class,
        }
    }

    fn ask(&self, arguments: &[String], deadline: Duration) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut child = program::named(self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // With all that it starts it can be ended.
            .process_group(0)
            .spawn()
            .map_err(|error| self.failed(Class::Invalid, format!("cannot be started: {error}")))?;
        let (done, read) = mpsc::channel();
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let mut bytes = Zeroizing::new(Vec::new());
            let stdout = stdout.into_iter();
            let read: io::Result<usize> = stdout
                .map(|out| out.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes))
                .sum();
            // Nobody listens any more where it took too long.
            let _ = done.send(read.map(|_| bytes));
        });
        let read = read.recv_timeout(deadline);
        let status = if read.is_ok() {
            ended(&mut child)
        } else {
            None
        };
        let Some(status) = status else {
            end(&mut child);
            let why = format!("took longer than {} s", deadline.as_secs());
            return Err(self.failed(Class::Transient, why));
        };
        let bytes = match read {
            Ok(Ok(bytes)) if bytes.len() as u64 <= SECRET_BYTES_MAX => bytes,
            _ => return Err(self.failed(Class::Invalid, "prints more than any secret has")),
        };
        match status.success() {
            true => Ok(bytes),
            false => Err(self.failed(Class::Transient, format!("ended with {status}"))),
        }
    }
}

/// How a command ended that has closed its output, if it does.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    for _ in 0..END_LOOKS {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(END_LOOK_EVERY);
    }
    None
}

/// Ends a command with all that it started.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself in this moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
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

    fn command(line: &[&str]) -> Origin {
        Origin::Command(line.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_a_command_prints_is_the_secret() {
        let origin = command(&["printf", "correct horse\n"]);
        let secret = origin.read("passphrase").unwrap();
        assert_eq!(secret.expose_secret(), "correct horse");
    }

    #[test]
    fn commands_that_do_not_print_a_secret_are_told_without_what_they_print() {
        for (line, class, word) in [
            (
                &["/no/such/program"][..],
                Class::Invalid,
                "cannot be started",
            ),
            (
                &["sh", "-c", "echo hunter2; exit 3"],
                Class::Transient,
                "exit status: 3",
            ),
            (&["true"], Class::Invalid, "prints nothing"),
            (
                &["head", "-c", "2000000", "/dev/zero"],
                Class::Invalid,
                "more than",
            ),
            (&[], Class::Invalid, "cannot be started"),
        ] {
            let error = command(line).read("passphrase").unwrap_err();
            assert_eq!(error.class(), class, "{error}");
            let told = format!("{error} {error:?} {:?}", error.hint());
            assert!(told.contains(word), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn command_that_hangs_is_ended_with_all_that_it_started() {
        let what = "passphrase";
        let asking = Asking {
            what,
            program: "sh",
        };
        let mark = tempfile::NamedTempFile::new().unwrap();
        let path = mark.path().display();
        let script = format!("(sleep 1; echo late > {path}) & sleep 60");
        let arguments = ["-c".to_owned(), script];
        let error = asking
            .ask(&arguments, Duration::from_millis(300))
            .unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        thread::sleep(Duration::from_millis(1200));
        assert_eq!(fs::read_to_string(mark.path()).unwrap(), "");
    }
}
