//! The wish to stop: SIGINT or SIGTERM, told to the verb that runs.
//!
//! A verb that is stopped is dropped where it stands, and what it made is taken away by whoever
//! holds it. Invariant: a stopped verb exits as failed, whatever it had done by then.

use std::future::Future;

use tokio::sync::watch;

use crate::failure::{AnyFailure, Class};

/// Told when somebody wants the process to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

/// What tells it.
pub type Stopper = watch::Sender<Option<&'static str>>;

impl Stop {
    /// A wish, and what tells it: the name of the signal.
    pub fn new() -> (Stopper, Stop) {
        let (told, heard) = watch::channel(None);
        (told, Stop(heard))
    }

    /// A wish that somebody else tells.
    pub fn hearing(heard: watch::Receiver<Option<&'static str>>) -> Stop {
        Stop(heard)
    }

    /// What hears the wish.
    pub fn heard(&self) -> watch::Receiver<Option<&'static str>> {
        self.0.clone()
    }

    /// Waits for the wish; for ever where nobody can tell it any more.
    pub async fn wait(&self) -> AnyFailure {
        let mut heard = self.0.clone();
        let signal = match heard.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or_default(),
            Err(_) => "",
        };
        if signal.is_empty() {
            std::future::pending::<()>().await;
        }
        AnyFailure::new(
            Class::Transient,
            format!("stopped by {signal} before the end"),
            Some("run the command again".into()),
        )
    }

    /// The outcome of `work`, or the failure that the wish is; `work` is then dropped.
    ///
    /// # Errors
    /// Those of `work`, and the wish.
    pub async fn or<T>(
        &self,
        work: impl Future<Output = Result<T, AnyFailure>>,
    ) -> Result<T, AnyFailure> {
        tokio::select! {
            outcome = work => outcome,
            stopped = self.wait() => Err(stopped),
        }
    }
}
