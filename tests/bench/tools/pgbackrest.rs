//! pgBackRest: copies of a PostgreSQL server's files, and of its write-ahead log.
//!
//! It needs a server that hands its log over, which would cost the other tools: so it gets one of
//! its own, with the same rows and the same edits. The log is handed over from the first snapshot
//! on. Its later snapshots are incremental ones, of the files that changed.

use std::path::{Path, PathBuf};

use rowvault::sample::Sample;
use rowvault::sample::churn::Edit;

use super::{Place, Taken, Tool};
use crate::database::postgres::{Postgres, as_server_user_line};
use crate::database::{Copy, Database, shell};
use crate::measure::{Meter, version};

const SETTINGS: &str = "archive_mode = on\narchive_command = 'true'\n";

/// pgbackrest with two processes, encryption, and the compression that rowvault uses too.
pub struct Pgbackrest {
    meter: Meter,
    server: Postgres,
    noted: Vec<Vec<Edit>>,
    begun: bool,
    kind: &'static str,
}

impl Pgbackrest {
    /// Starts a server of its own; nothing where the program is not installed.
    pub fn new(directory: &Path) -> Option<Pgbackrest> {
        version("pgbackrest", "version")?;
        let base = directory.join("pgbackrest");
        std::fs::create_dir(&base).expect("the run's directory is writable");
        let server = Postgres::start_with(SETTINGS)?;
        let own = server.make_directory("pgbackrest");
        let (root, data) = (own.display(), server.data());
        let config = format!(
            "[global]\nrepo1-path={root}/repository\nlock-path={root}/lock\nlog-path={root}/log\n\
             spool-path={root}/spool\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=benchmark\n\
             compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\n\
             log-level-console=error\nlog-level-file=off\n\
             [crm]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            data.display(),
            server.sockets().display()
        );
        std::fs::write(own.join("config"), config).expect("the server's directory is ours");
        Some(Pgbackrest {
            meter: Meter::new(&base),
            server,
            noted: Vec::new(),
            begun: false,
            kind: "full",
        })
    }

    fn own(&self) -> PathBuf {
        self.server.sockets().join("pgbackrest")
    }

    fn line(&self, rest: &str) -> String {
        let config = self.own().join("config");
        format!(
            "{} pgbackrest --config={} --stanza=crm {rest}",
            as_server_user_line(),
            config.display()
        )
    }

    fn begin(&mut self) {
        self.meter.run(&self.line("stanza-create"));
        let push = format!(
            "pgbackrest --config={}/config --stanza=crm archive-push %p",
            self.own().display()
        );
        self.server.set("archive_command", &push);
        self.begun = true;
    }
}

impl Tool for Pgbackrest {
    fn name(&self) -> &'static str {
        "pgbackrest"
    }

    fn backup(&mut self, _url: &str, _dump: &str) -> Taken {
        let kind = std::mem::replace(&mut self.kind, "incr");
        let line = self.line(&format!("--type={kind} backup"));
        let place = Place::Directory(self.own().join("repository"));
        let mut taken = place.watch(|| self.meter.run(&line).0.into());
        taken.mode = kind.into();
        taken
    }

    /// Restores into a data directory beside, and starts a server on it: recovery is a part of it.
    fn restore(&mut self, copy: &Copy) -> Taken {
        let beside = self.server.make_directory(&copy.name);
        let (beside, ctl) = (shell(&beside), shell(&self.server.program("pg_ctl")));
        let user = as_server_user_line();
        let restore = self.line(&format!("--pg1-path={beside} restore"));
        let options = "-c archive_mode=off -c port=5433";
        let start =
            format!("{user} {ctl} -D {beside} -w -t 600 -l {beside}/log -o '{options}' start");
        // It counts as started as soon as it is consistent, before recovery has ended.
        let ask = format!(
            "{} -X -At -h {} -p 5433 -U postgres -c 'SELECT pg_is_in_recovery()'",
            shell(&self.server.program("psql")),
            shell(self.server.sockets())
        );
        let wait = format!("until [ \"$({ask})\" = f ]; do sleep 0.05; done");
        let line = format!("{restore} && {start} >&2 && {wait}");
        let taken = self.meter.run(&line).0.into();
        let stop = format!("{user} {ctl} -D {beside} -w -m fast stop && rm -rf {beside}");
        self.meter.run(&stop);
        taken
    }

    fn server(&self) -> Option<u32> {
        self.server.server()
    }

    fn fill(&mut self, sample: &Sample) {
        self.server.fill(sample);
    }

    fn note(&mut self, edits: &[Edit]) {
        self.noted.push(edits.to_vec());
    }

    fn prepare(&mut self) {
        if !self.begun {
            self.begin();
        }
        for edits in self.noted.drain(..) {
            self.server.apply(edits);
        }
    }
}
