//! A MariaDB server of our own for tests, and what they all do with it.
//!
//! It lives in a temporary directory, listens on a socket and a free loopback port, and is ended
//! by the process that was started. Tests that leave it whole share one and take databases of
//! their own in it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::StreamExt;
use rowvault::failure::AnyFailure;
use rowvault::row::schema::{Structure, Table};
use rowvault::source::address::{SourceOptions, SourceUrl, TargetOptions};
use rowvault::source::{
    Order, PIECES_WAITING_MAX, Piece, PieceReceiver, Published, Source, Target, open,
};
use tokio::sync::mpsc;

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// The server that tests share; it ends with the last of them that holds it.
pub fn shared() -> Arc<Server> {
    let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(Server::start(&["--max-allowed-packet=64M"]));
    *shared = Arc::downgrade(&server);
    server
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn server_command(program: &str, dir: &Path) -> Command {
    let sbin = Path::new("/usr/sbin").join(program);
    let mut command = match sbin.exists() {
        true => Command::new(sbin),
        false => Command::new(program),
    };
    // Native AIO is a resource of the whole machine, and runs out where many servers start;
    // temporary tables of two servers in one directory get in each other's way.
    command.args(["--no-defaults", "--innodb-use-native-aio=0"]);
    command.env("TMPDIR", dir.join("tmp"));
    if is_root() {
        command.arg("--user=mysql");
    }
    command
}

impl Server {
    /// Starts a server with `options` besides the usual ones.
    pub fn start(options: &[&str]) -> Self {
        Server::start_in(&std::env::temp_dir(), options)
    }

    /// Starts a server that keeps everything below `place`.
    pub fn start_in(place: &Path, options: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rowvault-mariadb-")
            .tempdir_in(place)
            .unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["data", "tmp"] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            if is_root() {
                let status = Command::new("chown").arg("mysql").arg(&path).status();
                assert!(status.unwrap().success(), "chown mysql");
            }
        }
        let made = server_command("mariadb-install-db", dir.path())
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .output()
            .expect("mariadb-install-db must be installed (apt-get install mariadb-server)");
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        let child = run_server(dir.path(), port, options);
        let mut server = Server { child, port, dir };
        server.wait();
        server
    }

    fn wait(&mut self) {
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(self.dir.path().join("data/error.log"));
                panic!("mariadbd ended with {status}: {}", log.unwrap_or_default());
            }
            if self.try_sql("", "SELECT 1").is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("mariadbd did not answer within 60 s");
    }

    /// Ends the server at once, as a crash would, and starts it again.
    pub fn crash(&mut self, options: &[&str]) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run_server(self.dir.path(), self.port, options);
        self.wait();
    }

    pub fn socket(&self) -> String {
        self.dir.path().join("data/s.sock").display().to_string()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of `database`, as root over the socket.
    pub fn url(&self, database: &str) -> SourceUrl {
        self.url_as("root", database)
    }

    pub fn url_as(&self, user: &str, database: &str) -> SourceUrl {
        let database: String = url::form_urlencoded::byte_serialize(database.as_bytes()).collect();
        let database = database.replace('+', "%20");
        format!(
            "mysql://{user}@localhost/{database}?socket={}",
            self.socket()
        )
        .parse()
        .unwrap()
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--no-defaults", "-uroot", "--default-character-set=utf8mb4"])
            .args(["--max-allowed-packet=1G", "-S", &self.socket()]);
        command
    }

    /// Runs a script, and returns what it prints: tab-separated, without headings.
    pub fn try_sql(&self, database: &str, script: &str) -> Result<String, String> {
        let mut command = self.client("mariadb");
        command.args(["-N", "-B", "--local-infile=1"]);
        if !database.is_empty() {
            command.args(["-D", database]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the mariadb client must be installed");
        let mut input = child.stdin.take().unwrap();
        let script = script.as_bytes().to_vec();
        let writer = std::thread::spawn(move || input.write_all(&script));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn sql(&self, database: &str, script: &str) -> String {
        match self.try_sql(database, script) {
            Ok(out) => out,
            Err(error) => panic!("{error}"),
        }
    }

    /// An empty database of this name, without whatever was in it.
    pub fn fresh(&self, database: &str, script: &str) {
        let name = quoted(database);
        self.sql(
            "",
            &format!(
                "DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4"
            ),
        );
        self.sql(database, script);
    }

    pub fn databases(&self) -> Vec<String> {
        let all = self.sql("", "SELECT schema_name FROM information_schema.schemata");
        all.lines().map(str::to_owned).collect()
    }

    /// `mariadb-dump` of structure and rows, without the database's name and the time.
    pub fn dump(&self, database: &str) -> String {
        let output = self
            .client("mariadb-dump")
            .args(["--routines", "--events", "--triggers", "--hex-blob"])
            .args(["--skip-comments", "--skip-dump-date", "--order-by-primary"])
            .arg(database)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Old versions of rows in no key order are compared apart.
        text.replace(&quoted(database), "`DATABASE`")
    }

    /// Every row of every table, each column in hexadecimal, FLOAT by its exact value; sorted.
    pub fn rows(&self, database: &str) -> BTreeMap<String, Vec<String>> {
        let name = database.replace('\'', "''");
        let columns = self.sql(
            "",
            &format!(
                "SELECT HEX(c.table_name), HEX(c.column_name), c.data_type, t.table_type \
                 FROM information_schema.columns c JOIN information_schema.tables t \
                 USING (table_schema, table_name) WHERE c.table_schema = '{name}' \
                 AND t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY ordinal_position"
            ),
        );
        let mut selects: BTreeMap<String, (Vec<String>, bool)> = BTreeMap::new();
        for line in columns.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let column = quoted(&unhex(fields[1]));
            let expression = match fields[2] {
                "float" => format!("CAST({column} * 1e0 AS CHAR)"),
                "enum" | "set" => format!("CONCAT({column} + 0, ':', HEX({column}))"),
                _ => format!("HEX({column})"),
            };
            let entry = selects.entry(unhex(fields[0])).or_default();
            entry.0.push(format!("COALESCE({expression}, 'NULL')"));
            entry.1 |= fields[3] == "SYSTEM VERSIONED";
        }
        let mut found = BTreeMap::new();
        for (table, (columns, versioned)) in selects {
            let history = if versioned {
                " FOR SYSTEM_TIME ALL"
            } else {
                ""
            };
            let sql = format!(
                "SET time_zone = '+00:00'; SELECT CONCAT_WS(',', {}) FROM {}{history}",
                columns.join(", "),
                quoted(&table)
            );
            let mut rows: Vec<String> = self
                .sql(database, &sql)
                .lines()
                .map(str::to_owned)
                .collect();
            rows.sort();
            found.insert(table, rows);
        }
        found
    }
}

fn run_server(dir: &Path, port: u16, options: &[&str]) -> Child {
    let data = dir.join("data");
    server_command("mariadbd", dir)
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", data.join("s.sock").display()))
        .arg(format!("--log-error={}", data.join("error.log").display()))
        .arg(format!("--pid-file={}", data.join("pid").display()))
        .args(["--bind-address=127.0.0.1", &format!("--port={port}")])
        .args([
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
        ])
        .args([
            "--innodb-doublewrite=0",
            "--performance-schema=0",
            "--skip-log-bin",
        ])
        .args(["--event-scheduler=ON", "--character-set-server=utf8mb4"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mariadbd must be installed (apt-get install mariadb-server)")
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn unhex(text: &str) -> String {
    let bytes = (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..][..2], 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// What a copy from a source straight into a target gave.
pub struct Copied {
    pub structure: Structure,
    pub published: Published,
    pub rows: u64,
}

/// The number of rows, and an order-free sum over their bytes, large cells included.
pub async fn digest(mut rows: PieceReceiver) -> (u64, u128) {
    let (mut count, mut sum) = (0, 0u128);
    let mut slices = blake3::Hasher::new();
    while let Some(piece) = rows.recv().await {
        match piece {
            Piece::Slice { column, bytes } => {
                slices.update(&[column as u8]);
                slices.update(&bytes);
            }
            Piece::Rows(batch) => {
                for row in batch.iter() {
                    let mut hasher = std::mem::take(&mut slices);
                    hasher.update(row);
                    let hash = hasher.finalize();
                    let half: [u8; 16] = hash.as_bytes()[..16].try_into().unwrap();
                    sum = sum.wrapping_add(u128::from_le_bytes(half));
                    count += 1;
                }
            }
        }
    }
    (count, sum)
}

async fn one_table(
    source: &dyn Source,
    target: &dyn Target,
    table: &Table,
) -> Result<u64, AnyFailure> {
    let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
    let (read, loaded) = tokio::join!(
        source.read(table, Order::Key, send),
        target.load(table, receive)
    );
    let read = read?;
    assert_eq!(read, loaded?, "rows of {}", table.name);
    Ok(read)
}

async fn read_back(target: &dyn Target, table: &Table) -> Result<(u64, u128), AnyFailure> {
    let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
    let (back, digest) = tokio::join!(target.read_back(table, send), digest(receive));
    assert_eq!(back?, digest.0);
    Ok(digest)
}

async fn through(
    source: &mut dyn Source,
    target: &mut dyn Target,
) -> Result<(Structure, Published, u64), AnyFailure> {
    let structure = source.begin().await?;
    target.prepare(&structure).await?;
    let tables: Vec<&Table> = structure.tables.iter().filter(|t| t.with_rows).collect();
    let (from, to) = (&*source, &*target);
    let counts: Vec<Result<u64, AnyFailure>> = futures::stream::iter(&tables)
        .map(|table| one_table(from, to, table))
        .buffer_unordered(source.parallel().min(target.parallel()))
        .collect()
        .await;
    let mut rows = 0;
    for count in counts {
        rows += count?;
    }
    target.finish(&structure).await?;
    for table in tables {
        let (send, receive) = mpsc::channel(PIECES_WAITING_MAX);
        let (read, expected) = tokio::join!(source.read(table, Order::Key, send), digest(receive));
        assert_eq!(read?, expected.0);
        let found = read_back(target, table).await?;
        assert_eq!(found, expected, "read-back of {}", table.name);
    }
    source.end().await?;
    let published = target.publish().await?;
    Ok((structure, published, rows))
}

/// Copies a database; a target that failed is discarded.
pub async fn copy_with(
    from: &SourceUrl,
    to: &SourceUrl,
    source: &SourceOptions,
    target: &TargetOptions,
) -> Result<Copied, AnyFailure> {
    let mut source = open::source(from, source)?;
    let mut target = open::target(to, target)?;
    match through(source.as_mut(), target.as_mut()).await {
        Ok((structure, published, rows)) => Ok(Copied {
            structure,
            published,
            rows,
        }),
        Err(error) => {
            target.discard().await?;
            Err(error)
        }
    }
}

pub async fn copy(from: &SourceUrl, to: &SourceUrl) -> Result<Copied, AnyFailure> {
    copy_with(
        from,
        to,
        &SourceOptions::default(),
        &TargetOptions::default(),
    )
    .await
}
