//! `pg_dump` and `pg_restore`: found, chosen by version, run.
//!
//! They write and read the archive that holds the structure; rows never pass through them.
//! Invariant: no password stands in an argument, in the environment or in a file of theirs: it
//! is handed over through memory that only this user's processes can open.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{MemfdFlags, Mode};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::client::connect_options;
use super::error::Error;
use super::quote;
use crate::failure::Class;
use crate::source::address::ServerUrl;

/// How many bytes of an archive are taken at most.
const ARCHIVE_BYTES_MAX: u64 = 1 << 30;
/// How many bytes of complaints are kept.
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;

/// A tool that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its file.
    pub path: PathBuf,
    /// Its major version.
    pub major: u32,
    /// Its version as it prints it.
    pub version: String,
}

/// Bytes as a file that a tool can open and seek in, without a file on a disk.
pub struct InMemory(File);

impl InMemory {
    /// A file of `bytes`, as long as this lives.
    ///
    /// # Errors
    /// Transient: the system has no memory for it.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        let made = rustix::fs::memfd_create("rowvault-archive", MemfdFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .and_then(|memory| {
                let mut file = File::from(memory);
                file.write_all(bytes).map(|()| InMemory(file))
            });
        made.map_err(|error| {
            let what = format!("the structure cannot be handed to a client tool: {error}");
            Error::stated(Class::Transient, what, "")
        })
    }

    /// Where the tool finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// The `name` (`pg_dump`, `pg_restore`) that fits best: of major version `wanted`, else the
/// smallest above it that is at least `least`.
///
/// # Errors
/// Missing: none is new enough; the package is named.
pub async fn find(
    name: &str,
    wanted: u32,
    least: u32,
    only_in: Option<&Path>,
) -> Result<Tool, Error> {
    let mut found = Vec::new();
    for place in places(only_in) {
        let path = place.join(name);
        if path.is_file()
            && let Some((major, version)) = version_of(&path).await
        {
            found.push(Tool {
                path,
                major,
                version,
            });
        }
    }
    let least = least.max(wanted);
    let best = found.iter().filter(|tool| tool.major >= least);
    best.min_by_key(|tool| tool.major)
        .cloned()
        .ok_or_else(|| missing(name, least, &found))
}

fn missing(name: &str, least: u32, found: &[Tool]) -> Error {
    let newest = found.iter().max_by_key(|tool| tool.major);
    Error::Tool {
        class: Class::Missing,
        tool: name.to_owned(),
        what: match newest {
            Some(tool) => format!(
                "version {least} or newer is needed, and the newest found is {} ({})",
                tool.version,
                tool.path.display()
            ),
            None => format!("not found, and version {least} or newer is needed"),
        },
        hint: Some(format!(
            "install the package postgresql-client-{least}, or name its directory in PATH, or as pg_bin_dir under [tools]"
        )),
    }
}

fn places(only_in: Option<&Path>) -> Vec<PathBuf> {
    if let Some(place) = only_in {
        return vec![place.to_owned()];
    }
    let mut places = Vec::new();
    for (root, inner) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr", "bin"),
        ("/opt", "bin"),
    ] {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut versions: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                root.ends_with("postgresql") || name.starts_with("pgsql-")
            })
            .map(|path| path.join(inner))
            .collect();
        versions.sort();
        places.extend(versions);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places
}

async fn version_of(path: &Path) -> Option<(u32, String)> {
    let run = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(20), run).await;
    let text = String::from_utf8(output.ok()?.ok()?.stdout).ok()?;
    let version = text.split_whitespace().nth(2)?.to_owned();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((digits.parse().ok()?, version))
}

/// A password as a file in memory, gone when this is dropped.
struct PasswordFile {
    memory: std::fs::File,
}

impl PasswordFile {
    fn new(password: &SecretString) -> Result<Self, Error> {
        let failed = |error: std::io::Error| {
            Error::stated(
                Class::Transient,
                format!("the password cannot be handed to a client tool: {error}"),
                "",
            )
        };
        let memory = rustix::fs::memfd_create("rowvault-pgpass", MemfdFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?;
        rustix::fs::fchmod(&memory, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed(error.into()))?;
        let mut memory = std::fs::File::from(memory);
        let mut line = zeroize::Zeroizing::new(String::from("*:*:*:*:"));
        for c in password.expose_secret().chars() {
            if matches!(c, ':' | '\\') {
                line.push('\\');
            }
            line.push(c);
        }
        line.push('\n');
        memory.write_all(line.as_bytes()).map_err(failed)?;
        Ok(PasswordFile { memory })
    }

    /// A path that a child of the same user can open while this lives.
    fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.memory.as_raw_fd()
        )
    }
}

/// What a tool connects with.
pub struct Connection {
    environment: Vec<(&'static str, OsString)>,
    database: String,
    /// Held so that the path in the environment stays good.
    _password: Option<PasswordFile>,
}

impl Connection {
    /// What connects a tool to the database of `server`.
    pub fn new(server: &ServerUrl) -> Result<Self, Error> {
        let options = connect_options(server)?;
        let mut environment: Vec<(&'static str, OsString)> = Vec::new();
        for kept in [
            "PATH",
            "HOME",
            "LD_LIBRARY_PATH",
            "PGSSLROOTCERT",
            "PGSSLCERT",
            "PGSSLKEY",
            "PGPASSFILE",
            "PGSYSCONFDIR",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "TMPDIR",
        ] {
            if let Some(value) = std::env::var_os(kept) {
                environment.push((kept, value));
            }
        }
        let host = match options.get_socket() {
            Some(socket) => socket.clone().into_os_string(),
            None => options.get_host().into(),
        };
        environment.push(("PGHOST", host));
        environment.push(("PGPORT", options.get_port().to_string().into()));
        environment.push(("PGUSER", options.get_username().into()));
        environment.push(("PGAPPNAME", "rowvault".into()));
        environment.push(("PGCONNECT_TIMEOUT", "30".into()));
        environment.push(("PGCLIENTENCODING", "UTF8".into()));
        environment.push(("LC_ALL", "C".into()));
        for (name, variable) in [
            ("sslrootcert", "PGSSLROOTCERT"),
            ("sslcert", "PGSSLCERT"),
            ("sslkey", "PGSSLKEY"),
        ] {
            if let Some(value) = server.parameter(name) {
                environment.retain(|(kept, _)| *kept != variable);
                environment.push((variable, value.into()));
            }
        }
        let mode = server
            .parameter("sslmode")
            .or_else(|| std::env::var("PGSSLMODE").ok());
        if let Some(mode) = mode {
            environment.push(("PGSSLMODE", mode.into()));
        }
        let from_environment = || std::env::var("PGPASSWORD").ok().map(SecretString::from);
        let password = server.password().cloned().or_else(from_environment);
        let password = password.as_ref().map(PasswordFile::new).transpose()?;
        if let Some(file) = &password {
            environment.retain(|(name, _)| *name != "PGPASSFILE");
            environment.push(("PGPASSFILE", file.path().into()));
        }
        Ok(Connection {
            environment,
            database: server.database(),
            _password: password,
        })
    }

    /// The database as an argument, safe whatever its name.
    pub fn argument(&self) -> String {
        format!("--dbname=dbname={}", quote::conninfo(&self.database))
    }
}

/// What a tool gave.
pub struct Output {
    /// Its output.
    pub bytes: Vec<u8>,
    /// Its complaints, line by line.
    pub complaints: Vec<String>,
}

/// Runs `tool` with `arguments`, and fails where it fails.
///
/// # Errors
/// What the tool said on its error stream, with the class that its words mean.
pub async fn run(
    tool: &Tool,
    connection: Option<&Connection>,
    arguments: &[String],
    input: Option<&[u8]>,
) -> Result<Output, Error> {
    let name = tool.path.file_name().unwrap_or_default().to_string_lossy();
    let failed = |what: String| Error::Tool {
        class: Class::Transient,
        tool: name.clone().into_owned(),
        what,
        hint: None,
    };
    let mut command = Command::new(&tool.path);
    command.args(arguments).env_clear().kill_on_drop(true);
    match connection {
        Some(connection) => command.envs(connection.environment.iter().cloned()),
        None => command.env("LC_ALL", "C"),
    };
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A tool that has seen enough closes its end; its exit code tells.
            let _ = stdin.write_all(input).await;
        }
    };
    let (_, bytes, complaints) = tokio::join!(
        feed,
        all_of(stdout, ARCHIVE_BYTES_MAX),
        all_of(stderr, COMPLAINT_BYTES_MAX)
    );
    let status = child
        .wait()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let complaints = complaints.map_err(|error| failed(error.to_string()))?;
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    let complaints = String::from_utf8_lossy(&complaints).into_owned();
    if !status.success() {
        return Err(complaint(&name, &complaints, status));
    }
    if bytes.len() as u64 >= ARCHIVE_BYTES_MAX {
        return Err(failed(format!("gave more than {ARCHIVE_BYTES_MAX} bytes")));
    }
    Ok(Output {
        bytes,
        complaints: complaints.lines().map(str::to_owned).collect(),
    })
}

/// Up to `most` bytes; the rest is read and dropped, so that the tool does not wait for us.
async fn all_of(
    stream: Option<impl tokio::io::AsyncRead + Unpin>,
    most: u64,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(most).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

fn complaint(name: &str, complaints: &str, status: std::process::ExitStatus) -> Error {
    let lines: Vec<&str> = complaints.lines().filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|l| l.contains("error"))
        .collect();
    let chosen = if errors.is_empty() { &lines } else { &errors };
    let mut what: String = chosen
        .iter()
        .take(3)
        .copied()
        .collect::<Vec<_>>()
        .join("; ");
    if what.is_empty() {
        what = format!("ended with {status}");
    }
    if let Some((end, _)) = what.char_indices().nth(800) {
        what.truncate(end);
    }
    let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
    let class = if says(&[
        "permission denied",
        "must be owner",
        "must be superuser",
        "authentication failed",
    ]) {
        Class::Denied
    } else if says(&[
        "lock timeout",
        // What --lock-wait-timeout of pg_dump ends in.
        "statement timeout",
        "cache lookup failed",
        "could not open relation",
        "deadlock detected",
    ]) {
        Class::Busy
    } else if says(&[
        "server closed the connection",
        "connection to server",
        "terminating connection",
        "canceling statement",
        "No space left on device",
    ]) {
        Class::Transient
    } else {
        Class::Conflict
    };
    let hint = if says(&["out of shared memory"]) {
        Some("raise max_locks_per_transaction of the server")
    } else if says(&["No space left on device"]) {
        Some("free space on the server's disk")
    } else if says(&["is not available", "could not open extension control file"]) {
        Some("install the extension's package on the target server")
    } else {
        None
    };
    Error::Tool {
        class,
        tool: name.to_owned(),
        what,
        hint: hint.map(str::to_owned),
    }
}
