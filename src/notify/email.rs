//! E-mail: a message in words, by SMTP.
//!
//! Invariant: the connection is by TLS, from the first byte (`smtps://`) or before the login
//! (`smtp://`), unless the server is this host itself.

use futures::future::BoxFuture;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncTransport, Message as Mail, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};

use crate::notify::{Channel, DELIVERY_MAX, Message};

/// Where mail is handed over, and between whom.
pub struct Options {
    /// `smtps://HOST[:PORT]` or `smtp://HOST[:PORT]`.
    pub server: String,
    /// Who logs in, where anybody does.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The sender.
    pub from: String,
    /// Who gets it.
    pub to: Vec<String>,
}

/// A mail server that messages are handed to.
pub struct Email {
    host: String,
    from: Mailbox,
    to: Vec<Mailbox>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Email {
    /// Hands mail over to the server of `options`; nothing is connected yet.
    ///
    /// # Errors
    /// A sentence: a server or an address that cannot be meant.
    pub fn new(options: Options) -> Result<Email, String> {
        let url = url::Url::parse(&options.server).ok();
        let url = url.filter(|url| matches!(url.scheme(), "smtp" | "smtps"));
        let url = url.ok_or("the server must be smtps://HOST or smtp://HOST")?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]");
        let builder = match (url.scheme(), local) {
            ("smtps", _) => AsyncSmtpTransport::<Tokio1Executor>::relay(&host),
            (_, true) => Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(
                &host,
            )),
            (_, false) => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&host),
        };
        let mut builder = builder.map_err(|error| error.to_string())?;
        builder = builder.timeout(Some(DELIVERY_MAX));
        if let Some(port) = url.port() {
            builder = builder.port(port);
        }
        if let (Some(user), Some(password)) = (options.user, options.password) {
            let password = password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(user, password));
        }
        let address = |text: &String| {
            let parsed: Result<Mailbox, _> = text.parse();
            parsed.map_err(|error| format!("{text:?} is no address: {error}"))
        };
        Ok(Email {
            host,
            from: address(&options.from)?,
            to: options.to.iter().map(address).collect::<Result<_, _>>()?,
            transport: builder.build(),
        })
    }
}

impl Channel for Email {
    fn name(&self) -> String {
        format!("the mail server {}", self.host)
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let mut mail = Mail::builder()
                .from(self.from.clone())
                .subject(message.subject())
                .header(ContentType::TEXT_PLAIN);
            for to in &self.to {
                mail = mail.to(to.clone());
            }
            let mail = mail
                .body(message.text())
                .map_err(|error| error.to_string())?;
            let sent = self.transport.send(mail).await;
            sent.map(drop).map_err(|error| error.to_string())
        })
    }
}
