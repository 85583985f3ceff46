//! The archive: the repository as the daemon's faces look things up in it.
//!
//! It stays open between requests, since opening it may take a second and much memory, and its
//! catalog is kept for a moment. Invariant: what a new configuration says opens it anew, and one
//! request at a time reads the storage.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;

use crate::clock::Clock;
use crate::failure::{AnyFailure, Class};
use crate::format::ledger::{Event, Head};
use crate::id::SourceName;
use crate::job::{Opened, freeze};
use crate::repo::catalog::Catalog;

/// How long a catalog is shown before it is read again.
const CATALOG_AGE_MAX: Duration = Duration::from_secs(5);

/// What opens the repository of a configuration.
pub trait Opener: Send + Sync {
    /// Opens it.
    fn open(&self) -> BoxFuture<'_, Result<Opened, AnyFailure>>;
}

#[derive(Default)]
struct Kept {
    /// By which opener it was opened.
    generation: u64,
    opened: Option<Arc<Opened>>,
    catalog: Option<(Duration, Arc<Catalog>)>,
}

/// The repository, as it is looked at.
pub struct Archive {
    opener: RwLock<(u64, Arc<dyn Opener>)>,
    kept: Arc<Mutex<Kept>>,
    clock: Arc<dyn Clock>,
}

impl Archive {
    /// An archive that nothing was asked of.
    pub fn new(opener: Arc<dyn Opener>, clock: Arc<dyn Clock>) -> Archive {
        Archive {
            opener: RwLock::new((1, opener)),
            kept: Arc::default(),
            clock,
        }
    }

    /// Opens it by `opener` from now on.
    pub fn replace(&self, opener: Arc<dyn Opener>) {
        let mut place = self.opener.write().unwrap_or_else(PoisonError::into_inner);
        *place = (place.0 + 1, opener);
    }

    async fn opened(&self, kept: &mut Kept) -> Result<(Arc<Opened>, bool), AnyFailure> {
        let (generation, opener) = {
            let opener = self.opener.read().unwrap_or_else(PoisonError::into_inner);
            opener.clone()
        };
        if kept.generation != generation {
            *kept = Kept {
                generation,
                ..Kept::default()
            };
        }
        if let Some(opened) = &kept.opened {
            return Ok((opened.clone(), true));
        }
        let opened = Arc::new(opener.open().await?);
        kept.opened = Some(opened.clone());
        Ok((opened, false))
    }

    /// What lives in the repository, as it was a moment ago at most.
    ///
    /// # Errors
    /// The storage's; Denied: the key; Corrupt: a ledger that cannot be believed.
    pub async fn catalog(self: &Arc<Self>) -> Result<Arc<Catalog>, AnyFailure> {
        let (archive, mut kept) = self.taken().await;
        apart(move || async move { archive.read_catalog(&mut kept).await }).await
    }

    async fn read_catalog(&self, kept: &mut Kept) -> Result<Arc<Catalog>, AnyFailure> {
        let (opened, was_open) = self.opened(kept).await?;
        let now = self.clock.elapsed();
        if let Some((at, catalog)) = &kept.catalog
            && now.saturating_sub(*at) < CATALOG_AGE_MAX
        {
            return Ok(catalog.clone());
        }
        let catalog = match opened.catalog().await {
            // Who may write, and the key itself, may be others by now.
            Err(_) if was_open => {
                kept.opened = None;
                let (opened, _) = self.opened(kept).await?;
                opened.catalog().await?
            }
            other => other?,
        };
        let catalog = Arc::new(catalog);
        kept.catalog = Some((self.clock.elapsed(), catalog.clone()));
        Ok(catalog)
    }

    /// Adds an entry to the ledger of a source.
    ///
    /// # Errors
    /// The storage's.
    pub async fn record(
        self: &Arc<Self>,
        source: SourceName,
        event: Event,
    ) -> Result<Head, AnyFailure> {
        let (archive, mut kept) = self.taken().await;
        apart(move || async move {
            let (opened, _) = archive.opened(&mut kept).await?;
            kept.catalog = None;
            opened.record(&source, event).await
        })
        .await
    }

    /// Ends a freeze; why it was frozen.
    ///
    /// # Errors
    /// Conflict: it is not frozen; Denied: the daemon's key may not forget; the storage's.
    pub async fn thaw(
        self: &Arc<Self>,
        source: SourceName,
        reason: String,
    ) -> Result<String, AnyFailure> {
        let (archive, mut kept) = self.taken().await;
        apart(move || async move {
            let (opened, _) = archive.opened(&mut kept).await?;
            kept.catalog = None;
            freeze::thaw(&opened, &source, reason).await
        })
        .await
    }

    async fn taken(self: &Arc<Self>) -> (Arc<Archive>, OwnedMutexGuard<Kept>) {
        (self.clone(), self.kept.clone().lock_owned().await)
    }
}

/// Does work on a thread of its own, to its end, though who asked may go before.
async fn apart<T, W>(work: impl FnOnce() -> W + Send + 'static) -> Result<T, AnyFailure>
where
    T: Send + 'static,
    W: Future<Output = Result<T, AnyFailure>>,
{
    let runtime = Handle::current();
    let done = spawn_blocking(move || runtime.block_on(work())).await;
    done.unwrap_or_else(|_| {
        let what = "looking into the repository met a mistake of rowvault";
        Err(AnyFailure::new(Class::Bug, what, None))
    })
}
