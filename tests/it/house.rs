//! The line through the house: a repository in a directory, opened by a key file of its own.
//!
//! Other tests make their repositories with it, so that they look at one thing each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rowvault::clock::{Clock, SystemClock};
use rowvault::format::keyslot::text::KeyFile;
use rowvault::id::SourceName;
use rowvault::job::{self, Opened, Silent};
use rowvault::random::{Random, SystemRandom};
use rowvault::repo::catalog::Snapshot;
use rowvault::repo::intent::Whoami;
use rowvault::repo::keys::create::{Draft, create};
use rowvault::repo::keys::slot::Keeping;
use rowvault::repo::keys::{self, Opening, Unlock};
use rowvault::source::open::{self, SourceOptions, SourceUrl, TargetOptions};
use rowvault::state::State;
use rowvault::store::{Root, Store, StoreOptions};

/// A repository, and what opens it.
pub struct House {
    /// The repository, opened.
    pub opened: Opened,
}

/// Makes a repository at `url` with chunks of about `chunk` bytes, and its state under `state`.
pub async fn make(url: &str, state: &Path, chunk: u32) -> House {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let options = StoreOptions {
        root: Root::Create,
        ..StoreOptions::default()
    };
    let store = Store::open(url, &options, clock.clone(), random.clone()).unwrap();
    make_in(store, state, chunk).await
}

/// Makes a repository in `store`.
pub async fn make_in(store: Store, state: &Path, chunk: u32) -> House {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let opening = Opening {
        store,
        clock,
        random,
    };
    let mut draft = Draft::draw(&opening);
    let key = draft.add_key(Keeping::KeyFile, "test");
    create(opening.clone(), draft, chunk).await.unwrap();
    let unlock = Unlock::KeyFile(KeyFile::Slot(key));
    let opened = open(opening, &unlock, state).await;
    House { opened }
}

/// Opens a repository.
pub async fn open(opening: Opening, unlock: &Unlock, state: &Path) -> Opened {
    let (vault, keyring) = keys::open(opening, unlock).await.unwrap();
    let state = State::open(state, &vault.realm.repository).unwrap();
    Opened {
        vault: Arc::new(vault),
        keyring,
        state,
        whoami: Whoami::ask(),
        progress: Arc::new(Silent),
    }
}

/// Takes a snapshot of a SQLite file under the name `crm`.
pub async fn backup(house: &House, file: &Path) -> job::backup::Outcome {
    backup_as(house, file, "crm").await
}

/// Takes a snapshot of a SQLite file under this name.
pub async fn backup_as(house: &House, file: &Path, name: &str) -> job::backup::Outcome {
    let url: SourceUrl = format!("sqlite:{}", file.display()).parse().unwrap();
    let mut source = open::source(&url, &SourceOptions::default()).unwrap();
    let request = job::backup::Request {
        name: name.parse().unwrap(),
        tags: Vec::new(),
        lasting: Duration::from_secs(3600),
        reading: job::backup::Reading::Changes,
    };
    job::backup::run(&house.opened, source.as_mut(), &request)
        .await
        .unwrap()
}

/// The newest snapshot of `crm`.
pub async fn newest(house: &House) -> Snapshot {
    newest_of(house, "crm").await
}

/// The newest snapshot of this source.
pub async fn newest_of(house: &House, name: &str) -> Snapshot {
    let name: SourceName = name.parse().unwrap();
    let catalog = house.opened.catalog().await.unwrap();
    catalog.at(&name, None).unwrap().clone()
}

/// Restores a snapshot into a new SQLite file.
pub async fn restore(
    house: &House,
    snapshot: &Snapshot,
    file: &Path,
) -> Result<job::restore::Outcome, rowvault::failure::AnyFailure> {
    let url: SourceUrl = format!("sqlite:{}", file.display()).parse().unwrap();
    let mut target = open::target(&url, &TargetOptions::default()).unwrap();
    job::restore::run(&house.opened, snapshot, target.as_mut()).await
}
