//! One run of the program: options and configuration brought together, ready for a verb.
//!
//! The only place that reads the environment for the faces. Invariant: nothing is opened before a
//! verb asks for it, and a secret that was read is never printed.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono_tz::Tz;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::cli::global::Globals;
use crate::cli::output::{Output, Style};
use crate::cli::screen::Screen;
use crate::cli::stop::Stop;
use crate::clock::{Clock, SystemClock};
use crate::config::secret::Origin;
use crate::config::{self, Config};
use crate::failure::{AnyFailure, Class};
use crate::format::keyslot::text::KeyFile;
use crate::id::SourceName;
use crate::job::{Context, Opened};
use crate::random::{Random, SystemRandom};
use crate::repo::catalog::{Catalog, Snapshot};
use crate::repo::keys::{Opening, Unlock};
use crate::repo::select;
use crate::row::closure::relation::Relations;
use crate::row::schema::Table;
use crate::store::{Root, Store, StoreOptions};

/// Where a configuration is looked for when none is named.
const CONFIG_PLACES: [&str; 2] = ["rowvault.toml", "/etc/rowvault/rowvault.toml"];

/// The value of an environment variable that is set to something.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn path_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// One run of the program.
#[derive(Clone)]
pub struct Session {
    /// What the command line says for every verb.
    pub globals: Globals,
    /// What the configuration says.
    pub config: Arc<Config>,
    /// Standard output.
    pub output: Output,
    /// Stderr.
    pub screen: Screen,
    /// Whether somebody wants us to stop.
    pub stop: Stop,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
}

fn invalid(what: impl Into<String>, hint: &str) -> AnyFailure {
    AnyFailure::new(Class::Invalid, what, Some(hint.into()))
}

impl Session {
    /// Reads the configuration, if there is one.
    ///
    /// # Errors
    /// Invalid or Denied: the configuration.
    pub fn new(globals: Globals, screen: Screen, stop: Stop) -> Result<Session, AnyFailure> {
        let named = globals.config.clone();
        let named = named.or_else(|| path_variable("ROWVAULT_CONFIG"));
        let places = || CONFIG_PLACES.iter().map(PathBuf::from);
        let path = named.or_else(|| places().find(|path| path.exists()));
        let config = match path {
            Some(path) => config::load(&path, &variable)?,
            None => Config::default(),
        };
        let style = if globals.json {
            Style::Json
        } else {
            Style::Text
        };
        Ok(Session {
            output: Output::new(style, globals.quiet),
            globals,
            config: Arc::new(config),
            screen,
            stop,
            clock: Arc::new(SystemClock::new()),
            random: Arc::new(SystemRandom),
        })
    }

    /// The same options with the configuration as it is now.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn again(&self) -> Result<Session, AnyFailure> {
        let (globals, screen) = (self.globals.clone(), self.screen.clone());
        Session::new(globals, screen, self.stop.clone())
    }

    /// The same for one job, which stops when `wish` says so.
    pub fn hearing(&self, wish: watch::Receiver<Option<&'static str>>) -> Session {
        Session {
            stop: Stop::hearing(wish),
            ..self.clone()
        }
    }

    /// Where the repository is.
    ///
    /// # Errors
    /// Invalid: nobody said.
    pub fn repository(&self) -> Result<String, AnyFailure> {
        let said = self.globals.repo.clone();
        said.or_else(|| variable("ROWVAULT_REPO"))
            .or_else(|| self.config.repository.url.clone())
            .ok_or_else(|| {
                invalid(
                    "no repository was named",
                    "give --repo URL, set ROWVAULT_REPO, or write url under [repository] in the configuration",
                )
            })
    }

    fn store_options(&self, root: Root) -> StoreOptions {
        let repository = &self.config.repository;
        repository.traffic.limit(StoreOptions {
            root,
            lock: repository.lock,
            s3: repository.s3.clone(),
            ..StoreOptions::default()
        })
    }

    /// The storage of the repository, which may not be one yet.
    ///
    /// # Errors
    /// Invalid: the URL or the options.
    pub fn opening(&self, root: Root) -> Result<Opening, AnyFailure> {
        let options = self.store_options(root);
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let url = self.repository()?;
        Ok(Opening {
            store: Store::open(&url, &options, clock.clone(), random.clone())?,
            clock,
            random,
        })
    }

    /// Where local state stands.
    pub fn state_root(&self) -> PathBuf {
        let said = self.globals.state_dir.clone();
        said.or_else(|| path_variable("ROWVAULT_STATE_DIR"))
            .or_else(|| self.config.repository.state_dir.clone())
            .or_else(|| path_variable("STATE_DIRECTORY"))
            .or_else(|| path_variable("XDG_STATE_HOME").map(|home| home.join("rowvault")))
            .or_else(|| path_variable("HOME").map(|home| home.join(".local/state/rowvault")))
            .unwrap_or_else(|| PathBuf::from("/var/lib/rowvault"))
    }

    /// What it takes to open the repository.
    ///
    /// # Errors
    /// Invalid: the URL, no key, a key file that others may read.
    pub fn context(&self) -> Result<Context, AnyFailure> {
        Ok(Context {
            repository: self.repository()?,
            store: self.store_options(Root::MustExist),
            unlock: self.unlock()?,
            state_root: self.state_root(),
            clock: self.clock.clone(),
            random: self.random.clone(),
            progress: Arc::new(self.screen.clone()),
        })
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// As [`Session::context`] and [`Context::open`].
    pub async fn open(&self) -> Result<Opened, AnyFailure> {
        self.context()?.open().await
    }

    fn unlock(&self) -> Result<Unlock, AnyFailure> {
        match self.key_place()? {
            Place::Key(origin) => Ok(Unlock::KeyFile(read_key(&origin)?)),
            Place::PassphraseIn(origin) => Ok(Unlock::Passphrase(origin.read("passphrase")?)),
            Place::Passphrase(passphrase) => {
                tracing::warn!(
                    "ROWVAULT_PASSPHRASE is seen by every program that is started from here; a passphrase file is not"
                );
                Ok(Unlock::Passphrase(passphrase))
            }
            Place::Nowhere => Ok(Unlock::Passphrase(ask("Passphrase: ")?)),
        }
    }

    /// Where the first layer that names a key or passphrase says it is.
    ///
    /// # Errors
    /// Invalid: one layer names several.
    pub fn key_place(&self) -> Result<Place, AnyFailure> {
        let flags = (
            self.globals.key_file.clone().map(Origin::File),
            self.globals.passphrase_file.clone().map(Origin::File),
        );
        let environment = (
            path_variable("ROWVAULT_KEY_FILE").map(Origin::File),
            path_variable("ROWVAULT_PASSPHRASE_FILE").map(Origin::File),
        );
        let repository = &self.config.repository;
        let config = (repository.key.clone(), repository.passphrase.clone());
        for (layer, place) in [
            ("", flags),
            ("environment: ", environment),
            ("config: ", config),
        ] {
            match place {
                (Some(_), Some(_)) => {
                    return Err(invalid(
                        format!("{layer}a key file and a passphrase file are both given"),
                        "give one of them",
                    ));
                }
                (Some(origin), None) => return Ok(Place::Key(origin)),
                (None, Some(origin)) => return Ok(Place::PassphraseIn(origin)),
                (None, None) => {}
            }
            // The passphrase itself belongs to the layer of the environment.
            if layer.starts_with("environment")
                && let Some(text) = variable("ROWVAULT_PASSPHRASE")
            {
                return Ok(Place::Passphrase(SecretString::from(text)));
            }
        }
        Ok(Place::Nowhere)
    }

    /// The zone of a source's days.
    pub fn zone(&self, name: &SourceName) -> Tz {
        let source = self.config.sources.iter().find(|one| one.name == *name);
        source.map_or(Tz::UTC, |source| source.timezone)
    }

    /// The relations of a source with these tables that no foreign key declares.
    pub fn relations(&self, name: &SourceName, tables: &[Table]) -> Relations {
        let source = self.config.sources.iter().find(|one| one.name == *name);
        let own = source
            .map(|source| source.relations.clone())
            .unwrap_or_default();
        config::relations::choose(tables, &own)
    }

    /// The snapshot that `text` names.
    ///
    /// # Errors
    /// Missing or Invalid, with what to say instead.
    pub fn snapshot<'a>(
        &self,
        catalog: &'a Catalog,
        text: &str,
    ) -> Result<&'a Snapshot, AnyFailure> {
        Ok(select::select(catalog, text, &|name| self.zone(name))?)
    }
}

/// Where a key or passphrase is.
pub enum Place {
    /// In a key file, or printed as one.
    Key(Origin),
    /// In a passphrase file, or printed.
    PassphraseIn(Origin),
    /// In the environment.
    Passphrase(SecretString),
    /// Nowhere: a person is asked.
    Nowhere,
}

/// Reads a key file, which others may not read.
///
/// # Errors
/// Invalid, Denied.
pub fn read_key_file(path: &Path) -> Result<KeyFile, AnyFailure> {
    read_key(&Origin::File(path.to_owned()))
}

fn read_key(origin: &Origin) -> Result<KeyFile, AnyFailure> {
    use secrecy::ExposeSecret;
    let text = origin.read("key file")?;
    Ok(KeyFile::parse(text.expose_secret())?)
}

/// Asks a person at the terminal.
///
/// # Errors
/// Invalid: there is none, or nothing was typed.
pub fn ask(prompt: &str) -> Result<SecretString, AnyFailure> {
    if !io::stdin().is_terminal() {
        return Err(invalid(
            "no key and no passphrase was given, and there is no terminal to ask at",
            "give --key-file FILE or --passphrase-file FILE",
        ));
    }
    let typed = rpassword::prompt_password(prompt).map_err(|error| {
        invalid(
            format!("the terminal cannot be read: {error}"),
            "give --passphrase-file FILE",
        )
    })?;
    if typed.is_empty() {
        return Err(invalid(
            "the passphrase is empty",
            "type it, or press Ctrl-C",
        ));
    }
    Ok(SecretString::from(typed))
}

/// Asks twice for a new passphrase.
///
/// # Errors
/// As [`ask`]; Invalid: the two differ.
pub fn ask_new() -> Result<SecretString, AnyFailure> {
    use secrecy::ExposeSecret;
    let (first, second) = (ask("New passphrase: ")?, ask("Again: ")?);
    if first.expose_secret() != second.expose_secret() {
        return Err(invalid("the two passphrases differ", "type the same twice"));
    }
    Ok(first)
}
