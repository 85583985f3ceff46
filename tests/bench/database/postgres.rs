//! A PostgreSQL server with the sample, run as the user `postgres` where we are root.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rowvault::row::schema::Engine;
use rowvault::sample::churn::Edit;
use rowvault::sample::{Sample, Table, text};

use super::neighbour::Neighbour;
use super::{Copy, Database, script, shell};
use crate::measure::version;
use crate::tools::Tool;
use crate::tools::pgbackrest::Pgbackrest;

/// Debian's places, the newest first.
const PLACES: [&str; 5] = ["18", "17", "16", "15", "14"];
/// As little waiting for the disk as may be: what is compared is the work. `fsync` stays on, since
/// without it no server's word on what changed is to be believed. Nor does the server clean up by
/// itself while somebody's CPU is counted.
const SETTINGS: &str = "listen_addresses = ''\nsynchronous_commit = off\nfull_page_writes = off\n\
    shared_buffers = 512MB\nmaintenance_work_mem = 256MB\nmax_wal_size = 4GB\njit = off\n\
    autovacuum = off\n";

/// The server.
pub struct Postgres {
    directory: tempfile::TempDir,
    bin: PathBuf,
    child: Child,
}

fn as_server_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(program);
    command
}

/// The same for a line of shell.
pub fn as_server_user_line() -> &'static str {
    match rustix::process::geteuid().is_root() {
        true => "setpriv --reuid=postgres --regid=postgres --clear-groups",
        false => "",
    }
}

fn user() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Gives a path to the server's user.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = user().expect("the package made its user");
        chown(path, Some(uid), Some(gid)).expect("we are root");
    }
}

impl Postgres {
    /// Starts a server; nothing where none is installed.
    pub fn start() -> Option<Postgres> {
        Postgres::start_with("")
    }

    /// Starts a server with these settings as well.
    pub fn start_with(settings: &str) -> Option<Postgres> {
        let places = PLACES.map(|version| format!("/usr/lib/postgresql/{version}/bin"));
        let bin = places.iter().map(Path::new);
        let bin = bin.into_iter().find(|bin| bin.join("initdb").is_file())?;
        let directory = tempfile::Builder::new().prefix("rvbench").tempdir();
        let directory = directory.expect("temporary files can be made");
        let path = directory.path();
        give(path);
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, everybody).expect("the directory is ours");
        let made = as_server_user(&bin.join("initdb"))
            .arg("-D")
            .arg(path.join("data"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"])
            .arg("--locale=C.UTF-8")
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{made:?}");
        let sockets = format!("unix_socket_directories = '{}'\n", path.display());
        let mut config = std::fs::OpenOptions::new()
            .append(true)
            .open(path.join("data/postgresql.conf"))
            .expect("initdb made it");
        config
            .write_all(format!("{SETTINGS}{sockets}{settings}").as_bytes())
            .expect("the disk has room");
        let child = as_server_user(&bin.join("postgres"))
            .arg("-D")
            .arg(path.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres runs");
        let server = Postgres {
            bin: bin.into(),
            child,
            directory,
        };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        for _ in 0..600 {
            let ready = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h"])
                .arg(self.directory.path())
                .status()
                .expect("pg_isready runs");
            if ready.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start within 30 s");
    }

    /// Where its sockets are, and whatever else belongs to it.
    pub fn sockets(&self) -> &Path {
        self.directory.path()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Makes a directory beside its data, for its user alone.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let made = self.directory.path().join(name);
        std::fs::create_dir(&made).expect("the directory is ours");
        give(&made);
        let own = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&made, own).expect("the directory is ours");
        made
    }

    /// Changes a setting while it runs.
    pub fn set(&self, name: &str, value: &str) {
        let set = format!("ALTER SYSTEM SET {name} = '{value}'");
        self.statements("postgres", &[set, "SELECT pg_reload_conf()".into()]);
    }

    fn client(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-X", "-q", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.directory.path())
            .args(["-d", database]);
        command
    }

    fn psql(&self, database: &str, arguments: &[&str], input: impl FnOnce(&mut dyn Write)) {
        let mut child = self
            .client(database)
            .args(["-o", "/dev/null"])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdin = std::io::BufWriter::with_capacity(1 << 20, stdin);
        input(&mut stdin);
        stdin.flush().expect("psql reads to the end");
        drop(stdin);
        assert!(child.wait().expect("psql ends").success());
    }

    fn copy_in(&self, sample: &Sample, table: Table) {
        let copy = format!("COPY {} FROM STDIN", table.name());
        self.psql("crm", &["-c", &copy], |input| {
            let mut line = Vec::new();
            for row in sample.rows(table) {
                line.clear();
                text::to_copy_text(&row, Engine::Postgres, &mut line);
                input.write_all(&line).expect("psql reads to the end");
            }
        });
    }

    fn statements(&self, database: &str, statements: &[String]) {
        self.psql(database, &[], |input| {
            for statement in statements {
                writeln!(input, "{statement};").expect("psql reads to the end");
            }
        });
    }

    /// The options of libpq's programs that reach this server.
    fn reach(&self) -> String {
        format!("-h {} -U postgres", shell(self.directory.path()))
    }

    fn url_of(&self, database: &str) -> String {
        let host = self.directory.path().display().to_string();
        let host = host.replace('/', "%2F");
        format!("postgres:///{database}?host={host}&user=postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The process is setpriv become postgres; an interrupt is a fast, clean end.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
    }
}

impl Database for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL"
    }

    fn version(&self) -> String {
        let server = self.bin.join("postgres");
        version(&server.display().to_string(), "--version").unwrap_or_default()
    }

    fn fill(&mut self, sample: &Sample) {
        let ddl = Sample::ddl(Engine::Postgres);
        self.statements("postgres", &["CREATE DATABASE crm".into()]);
        self.statements("crm", &ddl.before);
        for table in Table::ALL {
            self.copy_in(sample, table);
        }
        self.statements("crm", &ddl.after);
        self.statements("crm", &["VACUUM ANALYZE".into(), "CHECKPOINT".into()]);
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        let sql = script(&edits, Engine::Postgres);
        self.psql("crm", &[], |input| {
            input
                .write_all(sql.as_bytes())
                .expect("psql reads to the end");
        });
        // What the edits left to be written is written before anybody's turn.
        self.statements("crm", &["CHECKPOINT".into()]);
    }

    fn url(&self) -> String {
        self.url_of("crm")
    }

    fn dump(&self) -> String {
        let program = shell(&self.bin.join("pg_dump"));
        format!("{program} {} crm", self.reach())
    }

    fn copy(&mut self, name: &str) -> Copy {
        let (bin, reach) = (self.bin.display(), self.reach());
        let dump = self.directory.path().join(format!("{name}.dump"));
        let dump = shell(&dump);
        let create = format!("'{bin}/createdb' {reach} {name}");
        Copy {
            name: name.into(),
            url: self.url_of(name),
            load: format!(
                "( {create} && '{bin}/psql' {reach} -X -q -v ON_ERROR_STOP=1 -o /dev/null -d {name} )"
            ),
            parallel: Some((
                format!("'{bin}/pg_dump' {reach} -Fd -j2 -f {dump} crm"),
                format!("{create} && '{bin}/pg_restore' {reach} -j2 -d {name} {dump}"),
            )),
        }
    }

    fn discard(&mut self, copy: &Copy) {
        let drop = format!("DROP DATABASE {}", copy.name);
        self.statements("postgres", &[drop]);
    }

    fn server(&self) -> Option<u32> {
        Some(self.child.id())
    }

    fn neighbour(&self) -> Option<Neighbour> {
        self.statements("postgres", &["CREATE DATABASE neighbour".into()]);
        Some(Neighbour::new(&mut self.client("neighbour")))
    }

    fn own_tool(&self, directory: &Path) -> Option<Box<dyn Tool>> {
        let tool = Pgbackrest::new(directory)?;
        Some(Box::new(tool))
    }
}
