//! Heartbeats: a URL that is fetched after each good backup, for a service that misses it.
//!
//! What tells of a daemon that stopped cannot be the daemon. Invariant: the URL, which is a secret
//! of its kind, is never told.

use secrecy::{ExposeSecret, SecretString};

use crate::notify::DELIVERY_MAX;

/// A URL that waits to be fetched.
pub struct Heartbeat {
    url: SecretString,
    http: reqwest::Client,
}

impl Heartbeat {
    /// Fetches `url`.
    ///
    /// # Errors
    /// A sentence: TLS cannot be set up.
    pub fn new(url: SecretString) -> Result<Heartbeat, String> {
        let http = reqwest::Client::builder().timeout(DELIVERY_MAX).build();
        let http = http.map_err(|error| error.without_url().to_string())?;
        Ok(Heartbeat { url, http })
    }

    /// Fetches it once; what fails is logged, since the service tells of it anyway.
    pub async fn beat(&self) {
        let answer = self.http.get(self.url.expose_secret()).send().await;
        let why = match answer {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => format!("it answered {}", answer.status()),
            Err(error) => error.without_url().to_string(),
        };
        tracing::warn!("the heartbeat URL was not reached: {why}");
    }
}
