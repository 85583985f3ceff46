//! Webhooks: a message as JSON, posted, signed as the Standard Webhooks specification says.
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; receivers
//! check it with the libraries of that specification. Invariant: neither the URL, which may hold a
//! token, nor the secret stands in what is told of a failure.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::clock::Clock;
use crate::notify::{Channel, DELIVERY_MAX, Message};

/// What secrets begin with that are written in base64.
const SECRET_PREFIX: &str = "whsec_";

/// A place that messages are posted to.
pub struct Webhook {
    url: SecretString,
    secret: Option<SecretString>,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
}

impl Webhook {
    /// Posts to `url`, signed with `secret`.
    ///
    /// # Errors
    /// A sentence: TLS cannot be set up.
    pub fn new(
        url: SecretString,
        secret: Option<SecretString>,
        clock: Arc<dyn Clock>,
    ) -> Result<Webhook, String> {
        let http = reqwest::Client::builder()
            .timeout(DELIVERY_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Webhook {
            url,
            secret,
            http: http.map_err(|error| error.without_url().to_string())?,
            clock,
        })
    }
}

impl Channel for Webhook {
    fn name(&self) -> String {
        let host = url::Url::parse(self.url.expose_secret()).ok();
        let host = host.and_then(|url| url.host_str().map(str::to_owned));
        format!("the webhook at {}", host.unwrap_or_default())
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let body = serde_json::to_string(message).expect("it is plain data");
            let time = self.clock.now().seconds().to_string();
            let mut request = self
                .http
                .post(self.url.expose_secret())
                .header("content-type", "application/json")
                .header("webhook-id", &message.id)
                .header("webhook-timestamp", &time);
            if let Some(secret) = &self.secret {
                let signature = sign(secret.expose_secret(), &message.id, &time, &body);
                request = request.header("webhook-signature", signature);
            }
            let answer = request.body(body).send().await;
            let answer = answer.map_err(|error| error.without_url().to_string())?;
            match answer.status().is_success() {
                true => Ok(()),
                false => Err(format!("it answered {}", answer.status())),
            }
        })
    }
}

/// The signature of a body.
fn sign(secret: &str, id: &str, time: &str, body: &str) -> String {
    let decoded = secret
        .strip_prefix(SECRET_PREFIX)
        .and_then(|text| STANDARD.decode(text).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{time}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_the_specification() {
        // The example that the libraries of the specification test themselves with.
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
