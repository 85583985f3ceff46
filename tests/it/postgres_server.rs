//! A PostgreSQL server of the tests' own.
//!
//! Made in a temporary directory, reached by a Unix socket there, run as a user other than root,
//! ended by its process id when the last test that uses it is done.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rowvault::source::open::SourceUrl;

/// Debian's place for the server of the suite.
const DEBIAN: &str = "/usr/lib/postgresql/15/bin";

pub struct Server {
    directory: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    child: Mutex<Child>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// A command that runs as the user `postgres` where we are root, which the server refuses.
fn as_server_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--",
    ]);
    command.arg(program);
    command
}

fn owner() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Makes the server's user the owner of `path`, where that is not us.
pub fn give_to_server(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (user, group) = owner().expect("the user postgres is there");
        chown(path, Some(user), Some(group)).unwrap();
    }
}

impl Server {
    /// Debian's server, shared by all tests that run at the same time; none where there is none.
    pub fn shared() -> Option<Arc<Server>> {
        let mut shared = SHARED.lock().unwrap();
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Server::debian("")?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// A server of Debian's version, for one test alone.
    pub fn debian(settings: &str) -> Option<Server> {
        let bin = Path::new(DEBIAN);
        if !bin.join("postgres").is_file() {
            eprintln!("skipped: no PostgreSQL server in {DEBIAN}");
            return None;
        }
        Some(Server::start(bin, settings))
    }

    /// A server of Debian's version that is reached over TCP too, at the port that is returned;
    /// `access` is its whole pg_hba.conf, the first line of which should let us in by the socket.
    pub fn over_tcp(access: &str) -> Option<(Server, u16)> {
        let port = crate::mysql_server::free_port();
        let settings = format!("listen_addresses = '127.0.0.1'\nport = {port}");
        let bin = Path::new(DEBIAN);
        if !bin.join("postgres").is_file() {
            eprintln!("skipped: no PostgreSQL server in {DEBIAN}");
            return None;
        }
        let server = Server::start_on(bin, &settings, port);
        let file = server.directory.path().join("data/pg_hba.conf");
        std::fs::write(file, access).unwrap();
        server.ask("postgres", "SELECT pg_reload_conf()");
        Some((server, port))
    }

    /// A copy of this server that follows it, in recovery, for as long as both live.
    pub fn standby(&self) -> Server {
        let directory = Server::directory();
        let made = as_server_user(&self.bin.join("pg_basebackup"))
            .args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "-U",
                "postgres",
            ])
            .arg("-h")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()])
            .arg("-D")
            .arg(directory.path().join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let sockets = format!(
            "unix_socket_directories = '{}'\n",
            directory.path().display()
        );
        let config = directory.path().join("data/postgresql.conf");
        let mut config = std::fs::OpenOptions::new()
            .append(true)
            .open(config)
            .unwrap();
        config.write_all(sockets.as_bytes()).unwrap();
        Server::of(directory, &self.bin, self.port)
    }

    /// The directory of the server, where its user may write.
    pub fn place(&self) -> &Path {
        self.directory.path()
    }

    /// A server of PostgreSQL 18, from the directory that `ROWVAULT_PG18_BIN` names.
    pub fn eighteen(settings: &str) -> Option<Server> {
        match std::env::var_os("ROWVAULT_PG18_BIN") {
            Some(bin) => Some(Server::start(Path::new(&bin), settings)),
            None => {
                eprintln!("skipped: ROWVAULT_PG18_BIN names no PostgreSQL 18");
                None
            }
        }
    }

    /// A new cluster with `settings` added to its configuration.
    pub fn start(bin: &Path, settings: &str) -> Server {
        Server::start_on(bin, settings, 5432)
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::Builder::new().prefix("rvpg").tempdir().unwrap();
        give_to_server(directory.path());
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    fn start_on(bin: &Path, settings: &str, port: u16) -> Server {
        let directory = Server::directory();
        let path = directory.path();
        let made = as_server_user(&bin.join("initdb"))
            .arg("-D")
            .arg(path.join("data"))
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "-N",
            ])
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut config = std::fs::OpenOptions::new()
            .append(true)
            .open(path.join("data/postgresql.conf"))
            .unwrap();
        write!(
            config,
            "listen_addresses = ''\nfsync = off\nfull_page_writes = off\nmax_connections = 60\n\
             max_locks_per_transaction = 300\nunix_socket_directories = '{}'\n\
             lc_messages = 'C'\n{settings}\n",
            path.display()
        )
        .unwrap();
        Server::of(directory, bin, port)
    }

    /// The server whose cluster stands in `directory`.
    fn of(directory: tempfile::TempDir, bin: &Path, port: u16) -> Server {
        let child = Server::run(bin, directory.path());
        let server = Server {
            directory,
            bin: bin.to_owned(),
            port,
            child: Mutex::new(child),
        };
        server.wait();
        server
    }

    fn run(bin: &Path, path: &Path) -> Child {
        let log = std::fs::File::create(path.join("server.log")).unwrap();
        as_server_user(&bin.join("postgres"))
            .arg("-D")
            .arg(path.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait(&self) {
        for _ in 0..600 {
            let ready = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h"])
                .arg(self.directory.path())
                .args(["-p", &self.port.to_string()])
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start: {}", self.log());
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Kills the server as a power cut would, and starts it again.
    pub fn crash_and_restart(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        let pid_file = self.directory.path().join("data/postmaster.pid");
        // Its children end by themselves when they see that it is gone; a new one refuses
        // to start before that.
        for _ in 0..600 {
            *child = Server::run(&self.bin, self.directory.path());
            std::thread::sleep(Duration::from_millis(100));
            if child.try_wait().unwrap().is_none() {
                break;
            }
        }
        drop(child);
        assert!(pid_file.exists());
        self.wait();
    }

    /// Stops the server cleanly, does `work` in its directory as its user, and starts it again.
    pub fn stopped(&self, work: &str) {
        let mut child = self.child.lock().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(child.wait().unwrap().success());
        let done = as_server_user(Path::new("/bin/sh"))
            .args(["-e", "-c", work])
            .current_dir(self.directory.path())
            .env("BIN", &self.bin)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        *child = Server::run(&self.bin, self.directory.path());
        drop(child);
        self.wait();
    }

    /// Kills one process of the server, which then recovers by itself as from a crash.
    pub fn crash_backend(&self, backend: i32) {
        let recovered = "all server processes terminated; reinitializing";
        let times = |log: &str| log.matches(recovered).count();
        let before = times(&self.log());
        let pid = rustix::process::Pid::from_raw(backend).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        for _ in 0..600 {
            if times(&self.log()) > before {
                return self.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not recover: {}", self.log());
    }

    /// The directory of the client tools of the same version.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The address of `database`, as `role`.
    pub fn url_as(&self, database: &str, role: &str) -> SourceUrl {
        let mut url = url::Url::parse("postgres:///").unwrap();
        url.set_path(database);
        url.query_pairs_mut()
            .append_pair("host", self.directory.path().to_str().unwrap())
            .append_pair("port", &self.port.to_string())
            .append_pair("user", role);
        url.as_str().parse().unwrap()
    }

    /// The address of `database`, as the superuser.
    pub fn url(&self, database: &str) -> SourceUrl {
        self.url_as(database, "postgres")
    }

    fn client(&self, tool: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(tool));
        command
            .env("PGHOST", self.directory.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database)
            .env("LC_ALL", "C");
        command
    }

    /// The libpq variables that reach `database`, for scripts.
    pub fn environment(&self, database: &str) -> Vec<(String, String)> {
        vec![
            (
                "PGHOST".into(),
                self.directory.path().to_str().unwrap().into(),
            ),
            ("PGPORT".into(), self.port.to_string()),
            ("PGUSER".into(), "postgres".into()),
            ("PGDATABASE".into(), database.into()),
        ]
    }

    /// Runs a script of statements; fails the test where one fails.
    pub fn sql(&self, database: &str, script: &str) {
        self.script(database, script.as_bytes());
    }

    /// As `sql`, for scripts that are no UTF-8.
    pub fn script(&self, database: &str, script: &[u8]) {
        let mut child = self
            .client("psql", database)
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = script.to_vec();
        let feed = std::thread::spawn(move || {
            let _ = stdin.write_all(&bytes);
        });
        let output = child.wait_with_output().unwrap();
        feed.join().unwrap();
        assert!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The answer to one statement, unaligned.
    pub fn ask(&self, database: &str, sql: &str) -> String {
        let output = self
            .client("psql", database)
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// Makes an empty database.
    pub fn create(&self, database: &str) {
        let quoted = database.replace('"', "\"\"");
        self.sql(
            "postgres",
            &format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0;"),
        );
    }

    /// What `pg_dump` writes, sorted where its order is the server's, without what must differ.
    pub fn dump(&self, database: &str, arguments: &[&str]) -> String {
        let output = self
            .client("pg_dump", database)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "pg_dump: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        normalised(&text)
    }
}

/// `dump` with the rows of each COPY sorted (a heap has no order) and random tokens left out.
fn normalised(dump: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut rows: Option<Vec<&str>> = None;
    for line in dump.split('\n') {
        if line.starts_with("\\restrict") || line.starts_with("\\unrestrict") {
            continue;
        }
        match &mut rows {
            Some(waiting) if line == "\\." => {
                waiting.sort_unstable();
                out.append(waiting);
                out.push(line);
                rows = None;
            }
            Some(waiting) => waiting.push(line),
            None => {
                out.push(line);
                if line.starts_with("COPY ") {
                    rows = Some(Vec::new());
                }
            }
        }
    }
    out.join("\n")
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self
            .child
            .get_mut()
            .unwrap_or_else(|poison| poison.into_inner());
        let pid = rustix::process::Pid::from_child(child);
        // An immediate shutdown ends its children too; nothing here is kept.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = child.wait();
    }
}
