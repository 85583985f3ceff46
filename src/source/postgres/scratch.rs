//! A place for rehearsed restores on PostgreSQL: a server of our own, or a database on another.
//!
//! What is restored may be hostile, so that it is made by a role without superuser rights, which
//! is a member of nothing but the roles that the snapshot names, made here without login.
//! Invariant: the database of the drill, its roles and our own server are gone in the end.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::answers;
use super::client::Client;
use super::error::Error;
use super::needs::source_major;
use super::quote::{identifier, literal};
use super::structure::State;
use super::tools;
use crate::failure::{AnyFailure, Class, Failure};
use crate::id::hex;
use crate::random::{Random, draw};
use crate::row::schema::Structure;
use crate::source::address::{Extent, ServerUrl, SourceUrl, TargetOptions};
use crate::source::scratch::server::{Ending, Own};
use crate::source::scratch::{Broken, Ready, Scratch};

/// How often a server that starts is asked whether it answers.
const START_STEPS: u32 = 600;
const START_STEP: Duration = Duration::from_millis(50);

/// Settings of a server that keeps nothing: no sync, little log, nothing from outside.
const SETTINGS: &str = "\
listen_addresses = ''
unix_socket_permissions = 0700
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
min_wal_size = 8MB
max_wal_size = 64MB
maintenance_work_mem = 256MB
max_locks_per_transaction = 512
autovacuum = off
jit = off
log_statement = none
";

/// A scratch place for a PostgreSQL database.
pub struct PostgresScratch {
    asked: Option<ServerUrl>,
    options: TargetOptions,
    own: Option<Own>,
    made: Option<Made>,
}

/// What was made, and must go.
struct Made {
    /// Whoever made it.
    admin: ServerUrl,
    /// The database, as whoever fills and asks it.
    database: ServerUrl,
    roles: Vec<String>,
}

fn secret(random: &dyn Random) -> SecretString {
    hex(&draw::<24>(random)).into()
}

impl PostgresScratch {
    /// A place on the server of `asked`, or on one of our own.
    pub fn new(asked: Option<&ServerUrl>, options: &TargetOptions) -> Self {
        PostgresScratch {
            asked: asked.cloned(),
            options: options.clone(),
            own: None,
            made: None,
        }
    }

    fn made(&self) -> Result<&Made, Error> {
        let made = self.made.as_ref();
        made.ok_or_else(|| Error::stated(Class::Bug, "the scratch place was not started", ""))
    }

    /// Starts a server of the snapshot's version, or the next one, and gives its superuser.
    async fn start_server(&mut self, major: u32) -> Result<(ServerUrl, String), AnyFailure> {
        let found = tools::find("postgres", major, major, self.options.pg_bin_dir.as_deref()).await;
        let tool = found.map_err(|error| {
            let hint = format!("install the package postgresql-{major}, or give --scratch URL");
            AnyFailure::new(error.class(), error.to_string(), Some(hint))
        })?;
        let bin = tool.path.parent().unwrap_or(Path::new("/"));
        let mut own = Own::new("postgres", Ending::Quit)?;
        let random = self.options.random.clone();
        let admin = format!("rowvault_admin_{}", hex(&draw::<4>(random.as_ref())));
        let password = secret(random.as_ref());
        let file = own.write("password", password.expose_secret())?;
        let data = own.path().join("data");
        let mut initdb = own.command(&bin.join("initdb"));
        initdb.arg("-D").arg(&data).arg("-U").arg(&admin);
        initdb.args(["-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "-N"]);
        // Rows are not logged here; what is kept of the log would only take room.
        initdb.arg("--wal-segsize=4");
        initdb.arg(format!("--pwfile={}", file.display()));
        let made = own.run(initdb, "making a scratch server with initdb").await;
        let _ = std::fs::remove_file(&file);
        made?;
        let mut server = own.command(&tool.path);
        server.arg("-D").arg(&data);
        for line in SETTINGS.lines() {
            server
                .arg("-c")
                .arg(line.replace(" = ", "=").replace('\'', ""));
        }
        let socket = own.path().display().to_string();
        server
            .arg("-c")
            .arg(format!("unix_socket_directories={socket}"));
        own.start(server)?;
        let mut url = url::Url::parse("postgres:///postgres").expect("this is a URL");
        url.query_pairs_mut()
            .append_pair("host", &socket)
            .append_pair("port", "5432")
            .append_pair("user", &admin);
        let mut url: SourceUrl = url.as_str().parse()?;
        url.set_password(password);
        let SourceUrl::Postgres(server) = url else {
            return Err(Error::stated(Class::Bug, "not a PostgreSQL address", "").into());
        };
        self.own = Some(own);
        self.wait(&server).await?;
        Ok((server, tool.version))
    }

    async fn wait(&mut self, server: &ServerUrl) -> Result<(), AnyFailure> {
        for step in 0..START_STEPS {
            if let Some(own) = &mut self.own {
                own.check_running()?;
            }
            match Client::connect(server).await {
                Ok(client) => {
                    client.close().await;
                    return Ok(());
                }
                Err(error) if step + 1 == START_STEPS => return Err(error.into()),
                Err(_) => tokio::time::sleep(START_STEP).await,
            }
        }
        Ok(())
    }

    /// Makes the role that restores, and those that the snapshot names; gives the role's address.
    async fn make_roles(
        &mut self,
        client: &mut Client,
        state: &State,
        ready: &mut Ready,
    ) -> Result<(), Error> {
        let doing = "making the roles of a drill";
        let random = self.options.random.clone();
        let made = self
            .made
            .as_mut()
            .ok_or_else(|| Error::stated(Class::Bug, "roles were made before their place", ""))?;
        let worker = format!("rowvault_drill_{}", hex(&draw::<4>(random.as_ref())));
        let password = secret(random.as_ref());
        let sql = format!(
            "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEROLE CREATEDB BYPASSRLS PASSWORD {}",
            identifier(&worker),
            literal(password.expose_secret())
        );
        client.run(&sql, doing).await?;
        made.roles.push(worker.clone());
        let there = "SELECT rolname::text FROM pg_catalog.pg_roles";
        let there = client.rows(there, doing).await?;
        let is_there = |name: &str| there.iter().any(|row| row[0].as_deref() == Some(name));
        for (role, _) in &state.roles {
            if role.starts_with("pg_") {
                continue;
            }
            // A role of that name may have rights here: ours stands for it.
            if is_there(role) {
                let map = &mut ready.options.ownership.role_map;
                map.push((role.clone(), worker.clone()));
                continue;
            }
            let name = identifier(role);
            client
                .run(&format!("CREATE ROLE {name} NOLOGIN"), doing)
                .await?;
            made.roles.push(role.clone());
            let grant = format!("GRANT {name} TO {}", identifier(&worker));
            client.run(&grant, doing).await?;
        }
        made.database = made.database.with_user(&worker, password);
        Ok(())
    }

    /// What a role without superuser rights needs in the database that is to be made, on a server
    /// of our own: pages of large objects, and extensions that only a superuser may make.
    async fn prepare_template(
        &self,
        client: &mut Client,
        structure: &Structure,
        worker: &str,
    ) -> Result<Vec<String>, Error> {
        let doing = "preparing the scratch server";
        let open = |on: bool| format!("ALTER DATABASE template0 ALLOW_CONNECTIONS {on}");
        client.run(&open(true), doing).await?;
        let admin = &self.made()?.admin;
        let mut template = Client::connect(&admin.with_database("template0")).await?;
        let grant = format!(
            "GRANT SELECT ON pg_catalog.pg_largeobject TO {}",
            identifier(worker)
        );
        template.run(&grant, doing).await?;
        template.run("SET search_path = public", doing).await?;
        let sql = "SELECT name::text FROM pg_catalog.pg_available_extension_versions WHERE trusted";
        let trusted = template.rows(sql, doing).await?;
        let extensions = structure.facts.get("extensions").map_or("", String::as_str);
        let names = extensions
            .split(", ")
            .filter_map(|one| one.rsplit_once(' '));
        let mut warnings = Vec::new();
        for (name, _) in names {
            if trusted.iter().any(|row| row[0].as_deref() == Some(name)) {
                continue;
            }
            let sql = format!(
                "CREATE EXTENSION IF NOT EXISTS {} CASCADE",
                identifier(name)
            );
            if let Err(error) = template.run(&sql, doing).await {
                warnings.push(format!("extension {name} could not be made: {error}"));
            }
        }
        template.close().await;
        client.run(&open(false), doing).await?;
        Ok(warnings)
    }

    async fn settle(
        &mut self,
        structure: &Structure,
        (admin, version): (ServerUrl, Option<String>),
    ) -> Result<Ready, AnyFailure> {
        let random = self.options.random.clone();
        let name = format!("rowvault_drill_{}", hex(&draw::<4>(random.as_ref())));
        let own = version.is_some();
        let place = match &version {
            Some(version) => format!("a temporary PostgreSQL {version} of its own"),
            None => format!(
                "{}, a database for the while",
                SourceUrl::Postgres(admin.clone())
            ),
        };
        self.made = Some(Made {
            database: admin.with_database(&name),
            admin: admin.clone(),
            roles: Vec::new(),
        });
        let mut options = self.options.clone();
        options.extent = Extent::WithoutSuperuser;
        // Only a superuser can give objects to a role that could not have made them itself.
        options.ownership.no_owner = true;
        let mut ready = Ready {
            url: SourceUrl::Postgres(admin.with_database(&name)),
            options,
            place,
            warnings: Vec::new(),
        };
        let state = State::of(structure)?;
        let mut client = Client::connect(&admin).await?;
        let sql = "SELECT rolsuper::text FROM pg_catalog.pg_roles WHERE rolname = current_user";
        let is_super = client.value(sql, "asking for the role's rights").await?;
        if is_super == "true" {
            self.make_roles(&mut client, &state, &mut ready).await?;
        } else {
            ready.options.ownership.no_privileges = true;
        }
        if own {
            let worker = self.made()?.roles.first().cloned().unwrap_or_default();
            let prepared = self
                .prepare_template(&mut client, structure, &worker)
                .await?;
            ready.warnings.extend(prepared);
        }
        client.close().await;
        ready.url = SourceUrl::Postgres(self.made()?.database.clone());
        Ok(ready)
    }

    async fn answer(&self, sql: &str, limit: Duration) -> Result<Option<String>, Error> {
        let mut client = Client::connect(&self.made()?.database).await?;
        client.run("BEGIN READ ONLY", "a check").await?;
        let answer = answers::value(&mut client, sql, limit).await;
        client.close().await;
        answer
    }
}

/// Drops what was made on a server that stays.
async fn take_away(made: &Made) -> Result<(), Error> {
    let doing = "taking away what a drill made";
    let mut client = Client::connect(&made.admin).await?;
    let name = made.database.database();
    let sql = format!(
        "SELECT datname::text FROM pg_catalog.pg_database WHERE datname = {0} \
         OR pg_catalog.starts_with(datname::text, {0} || '_rowvault_')",
        literal(&name)
    );
    for row in client.rows(&sql, doing).await? {
        let name = identifier(row[0].as_deref().unwrap_or_default());
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        client.run(&sql, doing).await?;
    }
    for role in made.roles.iter().rev() {
        let sql = format!("DROP ROLE IF EXISTS {}", identifier(role));
        client.run(&sql, doing).await?;
    }
    client.close().await;
    Ok(())
}

#[async_trait]
impl Scratch for PostgresScratch {
    async fn start(&mut self, structure: &Structure) -> Result<Ready, AnyFailure> {
        let server = match &self.asked {
            Some(asked) => (asked.clone(), None),
            None => {
                let major = source_major(structure)?;
                let (server, version) = self.start_server(major).await?;
                (server, Some(version))
            }
        };
        self.settle(structure, server).await
    }

    async fn ask(&mut self, sql: &str, limit: Duration) -> Result<Option<String>, AnyFailure> {
        Ok(self.answer(sql, limit).await?)
    }

    /// The server checked each key when it was made; those that are NOT VALID claim nothing.
    async fn broken_references(&mut self, _: &Structure) -> Result<Vec<Broken>, AnyFailure> {
        Ok(Vec::new())
    }

    fn bytes(&self) -> Option<u64> {
        self.own.as_ref().map(Own::bytes)
    }

    async fn end(&mut self) -> Result<(), AnyFailure> {
        let made = self.made.take();
        if let Some(own) = self.own.take() {
            return own.end().await;
        }
        match made {
            Some(made) => Ok(take_away(&made).await?),
            None => Ok(()),
        }
    }
}
