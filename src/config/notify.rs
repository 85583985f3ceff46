//! `[notify]`: who hears of what needs a person, and what hears that all is well.
//!
//! Invariant: URLs may hold tokens and are kept as secrets; passwords and signing secrets stand in
//! files that nobody else may read, or are printed by commands.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use crate::clock::Clock;
use crate::config::reading::{Error, Reading};
use crate::config::secret::Origin;
use crate::failure::{AnyFailure, Class};
use crate::notify::Channel;
use crate::notify::command::Program;
use crate::notify::email::{Email, Options};
use crate::notify::heartbeat::Heartbeat;
use crate::notify::webhook::Webhook;

/// After so long, what lasts is told again.
const REPEAT: Duration = Duration::from_secs(24 * 3600);

/// Who hears of what.
#[derive(Clone, Debug)]
pub struct Notify {
    /// After so long, what lasts is told again.
    pub repeat: Duration,
    heartbeat: Option<SecretString>,
    webhooks: Vec<(SecretString, Option<Origin>)>,
    emails: Vec<Mail>,
    commands: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Mail {
    server: String,
    user: Option<String>,
    password: Option<Origin>,
    from: String,
    to: Vec<String>,
}

impl Default for Notify {
    fn default() -> Self {
        Notify {
            repeat: REPEAT,
            heartbeat: None,
            webhooks: Vec::new(),
            emails: Vec::new(),
            commands: Vec::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyText {
    repeat: Option<String>,
    heartbeat: Option<String>,
    #[serde(default)]
    webhook: Vec<WebhookText>,
    #[serde(default)]
    email: Vec<EmailText>,
    #[serde(default)]
    command: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookText {
    url: String,
    secret_file: Option<String>,
    secret_command: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EmailText {
    server: String,
    user: Option<String>,
    password_file: Option<String>,
    password_command: Option<Vec<String>>,
    from: String,
    to: Vec<String>,
}

impl Reading<'_> {
    pub(super) fn notify(&self, text: NotifyText) -> Result<Notify, Error> {
        let place = "notify";
        let webhook = |text: WebhookText| {
            let url = self.http(place, &text.url)?;
            let (file, command) = (text.secret_file, text.secret_command);
            Ok((
                url,
                self.secret("notify: webhook", "secret", (file, command))?,
            ))
        };
        let heartbeat = text.heartbeat.map(|url| self.http(place, &url));
        let webhooks = text.webhook.into_iter().map(webhook);
        let emails = text.email.into_iter().map(|text| self.mail(text));
        let commands = text.command.into_iter().map(|words| self.all(place, words));
        let notify = Notify {
            repeat: self.limit(place, ("repeat", text.repeat), REPEAT)?,
            heartbeat: heartbeat.transpose()?,
            webhooks: webhooks.collect::<Result<_, Error>>()?,
            emails: emails.collect::<Result<_, Error>>()?,
            commands: commands.collect::<Result<_, Error>>()?,
        };
        match notify.commands.iter().any(Vec::is_empty) {
            true => Err(self.wrong(place, "a command has no words".into(), None)),
            false => Ok(notify),
        }
    }

    /// A URL that may be a secret, and so is not shown.
    fn http(&self, place: &str, text: &str) -> Result<SecretString, Error> {
        let text = self.expand(place, text)?;
        match text.starts_with("https://") || text.starts_with("http://") {
            true => Ok(SecretString::from(text)),
            false => Err(self.wrong(
                place,
                "a URL does not begin with https://".into(),
                Some("write the whole URL".into()),
            )),
        }
    }

    fn mail(&self, text: EmailText) -> Result<Mail, Error> {
        let place = "notify: email";
        let mail = Mail {
            server: self.expand(place, &text.server)?,
            user: self.text(place, text.user)?,
            password: self.secret(
                place,
                "password",
                (text.password_file, text.password_command),
            )?,
            from: self.expand(place, &text.from)?,
            to: self.all(place, text.to)?,
        };
        if mail.to.is_empty() {
            return Err(self.wrong(place, "to names nobody".into(), None));
        }
        Email::new(mail.options(None)).map_err(|what| self.wrong(place, what, None))?;
        Ok(mail)
    }
}

impl Mail {
    fn options(&self, password: Option<SecretString>) -> Options {
        Options {
            server: self.server.clone(),
            user: self.user.clone(),
            password,
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }
}

fn refused(what: String) -> AnyFailure {
    AnyFailure::new(Class::Invalid, format!("notify: {what}"), None)
}

impl Notify {
    /// The ways that messages go.
    ///
    /// # Errors
    /// Invalid: a file of a secret that cannot be used.
    pub fn channels(&self, clock: &Arc<dyn Clock>) -> Result<Vec<Arc<dyn Channel>>, AnyFailure> {
        let mut channels: Vec<Arc<dyn Channel>> = Vec::new();
        for (url, secret) in &self.webhooks {
            let secret = secret.as_ref().map(|secret| secret.read("webhook secret"));
            let webhook = Webhook::new(url.clone(), secret.transpose()?, clock.clone());
            channels.push(Arc::new(webhook.map_err(refused)?));
        }
        for mail in &self.emails {
            let password = mail.password.as_ref();
            let password = password.map(|password| password.read("mail password"));
            let email = Email::new(mail.options(password.transpose()?));
            channels.push(Arc::new(email.map_err(refused)?));
        }
        for words in &self.commands {
            let words = words.clone();
            channels.push(Arc::new(Program { words }));
        }
        Ok(channels)
    }

    /// The programs that messages are handed to.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.commands
            .iter()
            .filter_map(|words| words.first().map(String::as_str))
    }

    /// What hears of each good backup.
    ///
    /// # Errors
    /// Invalid: TLS cannot be set up.
    pub fn heartbeat(&self) -> Result<Option<Arc<Heartbeat>>, AnyFailure> {
        let heartbeat = self.heartbeat.clone().map(Heartbeat::new);
        let heartbeat = heartbeat.transpose().map_err(refused)?;
        Ok(heartbeat.map(Arc::new))
    }
}
