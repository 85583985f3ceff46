//! A MariaDB server with the sample, run as the user `mysql` where we are root.

use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rowvault::row::schema::Engine;
use rowvault::sample::churn::Edit;
use rowvault::sample::{Sample, Table, text};

use super::{Copy, Database, script, shell};
use crate::measure::version;
use crate::tools::Tool;
use crate::tools::mydumper::Mydumper;

const SERVER: &str = "/usr/sbin/mariadbd";

/// The server.
pub struct Mysql {
    directory: tempfile::TempDir,
    child: Child,
}

fn server_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--no-defaults", "--innodb-use-native-aio=0"]);
    if rustix::process::geteuid().is_root() {
        command.arg("--user=mysql");
    }
    command
}

impl Mysql {
    /// Starts a server; nothing where none is installed.
    pub fn start() -> Option<Mysql> {
        if !Path::new(SERVER).is_file() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("rvbench").tempdir();
        let directory = directory.expect("temporary files can be made");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everybody).expect("the directory is ours");
        let data = directory.path().join("data");
        std::fs::create_dir(&data).expect("the directory is ours");
        if rustix::process::geteuid().is_root() {
            let given = Command::new("chown").arg("mysql").arg(&data).status();
            assert!(given.expect("chown runs").success());
        }
        let made = server_command(Path::new("mariadb-install-db"))
            .arg(format!("--datadir={}", data.display()))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .output()
            .expect("mariadb-install-db runs");
        assert!(made.status.success(), "{made:?}");
        let child = server_command(Path::new(SERVER))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", data.join("s.sock").display()))
            .args(["--skip-networking", "--innodb-buffer-pool-size=512M"])
            .args(["--innodb-log-file-size=512M", "--innodb-doublewrite=0"])
            // Neither side waits for the disk: what is compared is the work.
            .args(["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"])
            .args(["--max-allowed-packet=256M", "--local-infile=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd runs");
        let server = Mysql { directory, child };
        server.wait();
        Some(server)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("data/s.sock")
    }

    fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "-uroot", "--default-character-set=utf8mb4"])
            .args(["--local-infile=1", "-S"])
            .arg(self.socket());
        command
    }

    fn wait(&self) {
        for _ in 0..600 {
            let mut asked = self.client();
            asked.args(["-e", "SELECT 1"]).stderr(Stdio::null());
            asked.stdout(Stdio::null());
            if asked.status().expect("mariadb runs").success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server did not start within 60 s");
    }

    fn sql(&self, database: &str, script: &str) {
        let mut command = self.client();
        if !database.is_empty() {
            command.args(["-D", database]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("mariadb runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin
            .write_all(script.as_bytes())
            .expect("mariadb reads to the end");
        drop(stdin);
        assert!(child.wait().expect("mariadb ends").success());
    }

    fn load(&self, sample: &Sample, table: Table) {
        let path = self.directory.path().join("rows");
        let file = std::fs::File::create(&path).expect("the directory is ours");
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        for row in sample.rows(table) {
            line.clear();
            text::to_copy_text(&row, Engine::Mysql, &mut line);
            file.write_all(&line).expect("the disk has room");
        }
        file.flush().expect("the disk has room");
        let load = format!(
            "SET foreign_key_checks = 0, unique_checks = 0;
             LOAD DATA LOCAL INFILE '{}' INTO TABLE `{}` CHARACTER SET binary;",
            path.display(),
            table.name()
        );
        self.sql("crm", &load);
        std::fs::remove_file(&path).expect("it was just made");
    }

    fn url_of(&self, database: &str) -> String {
        let socket = self.socket().display().to_string();
        format!("mysql://root@localhost/{database}?socket={socket}")
    }

    /// The options of the server's programs that reach it.
    fn reach(&self) -> String {
        format!(
            "--no-defaults -uroot --default-character-set=utf8mb4 --max-allowed-packet=256M -S {}",
            shell(&self.socket())
        )
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

impl Database for Mysql {
    fn name(&self) -> &'static str {
        "MariaDB"
    }

    fn version(&self) -> String {
        version(SERVER, "--version").unwrap_or_default()
    }

    fn fill(&mut self, sample: &Sample) {
        let ddl = Sample::ddl(Engine::Mysql);
        self.sql("", "CREATE DATABASE crm CHARACTER SET utf8mb4;");
        self.sql("crm", &format!("{};", ddl.before.join(";\n")));
        for table in Table::ALL {
            self.load(sample, table);
        }
        let after = ddl.after.join(";\n");
        self.sql("crm", &format!("SET foreign_key_checks = 0;\n{after};"));
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        self.sql("crm", &script(&edits, Engine::Mysql));
    }

    fn url(&self) -> String {
        self.url_of("crm")
    }

    fn dump(&self) -> String {
        format!(
            "mariadb-dump {} --single-transaction --routines --events --triggers --hex-blob crm",
            self.reach()
        )
    }

    fn copy(&mut self, name: &str) -> Copy {
        let reach = self.reach();
        Copy {
            name: name.into(),
            url: self.url_of(name),
            load: format!(
                "( mariadb {reach} -e 'CREATE DATABASE {name} CHARACTER SET utf8mb4' </dev/null \
                 && mariadb {reach} {name} )"
            ),
            parallel: None,
        }
    }

    fn discard(&mut self, copy: &Copy) {
        self.sql("", &format!("DROP DATABASE {};", copy.name));
    }

    fn server(&self) -> Option<u32> {
        Some(self.child.id())
    }

    fn own_tool(&self, directory: &Path) -> Option<Box<dyn Tool>> {
        let tool = Mydumper::new(directory, shell(&self.socket()))?;
        Some(Box::new(tool))
    }
}
