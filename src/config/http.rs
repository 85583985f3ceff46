//! `[http]`: where the daemon answers requests, to which addresses, and who may ask for what.
//!
//! Tokens stand here as hashes alone. Invariant: what other hosts can reach has tokens, says which
//! addresses may come, and is spoken by TLS unless the file says that something before it does that.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::reading::{Error, Reading};
use crate::config::token::{Role, Token};

/// The most tokens; each is compared with what a request brings.
const TOKENS_MAX: usize = 64;
/// The longest name of a token.
const NAME_CHARACTERS_MAX: usize = 64;

/// How the daemon answers requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Where; read when the daemon begins.
    pub listen: SocketAddr,
    /// Which addresses may come, beside this host.
    pub allow: Vec<IpNet>,
    /// By which names this host may be asked, beside its own of the loopback.
    pub names: Vec<String>,
    /// What TLS is spoken with.
    pub tls: Option<Tls>,
    /// Who may ask for more than whether the daemon lives.
    pub tokens: Vec<Token>,
}

/// Files of TLS, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpText {
    listen: Option<String>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    tls: Option<TlsText>,
    #[serde(default)]
    plain_http: bool,
    #[serde(default)]
    token: Vec<TokenText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsText {
    certificate: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenText {
    name: String,
    role: RoleText,
    hash: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleText {
    Viewer,
    Operator,
    Admin,
}

impl From<RoleText> for Role {
    fn from(text: RoleText) -> Role {
        match text {
            RoleText::Viewer => Role::Viewer,
            RoleText::Operator => Role::Operator,
            RoleText::Admin => Role::Admin,
        }
    }
}

const PLACE: &str = "http";

impl Reading<'_> {
    pub(super) fn http_face(&self, text: HttpText) -> Result<Option<Http>, Error> {
        let Some(listen) = self.text(PLACE, text.listen)? else {
            return Ok(None);
        };
        let listen: SocketAddr = listen.parse().map_err(|_| {
            let what = format!("listen: {listen:?} is no address with a port");
            self.http_wrong(what, "write it as 127.0.0.1:7117")
        })?;
        let tls = text.tls.map(|tls| {
            let file = |key, text| self.file(&format!("http: tls: {key}"), Some(text));
            let both = (file("certificate", tls.certificate)?, file("key", tls.key)?);
            Ok::<_, Error>(both)
        });
        let http = Http {
            listen,
            allow: self.networks(text.allow)?,
            names: self.host_names(text.names)?,
            tls: match tls.transpose()? {
                Some((Some(certificate), Some(key))) => Some(Tls { certificate, key }),
                _ => None,
            },
            tokens: self.tokens(text.token)?,
        };
        if !listen.ip().is_loopback() {
            self.check_reach(&http, text.plain_http)?;
        }
        Ok(Some(http))
    }

    fn http_wrong(&self, what: String, hint: &str) -> Error {
        self.wrong(PLACE, what, Some(hint.into()))
    }

    /// What other hosts can reach is not left open.
    fn check_reach(&self, http: &Http, plain_http: bool) -> Result<(), Error> {
        let lack = if http.tokens.is_empty() {
            Some((
                "no token",
                "'rowvault key token' makes one; or listen at 127.0.0.1",
            ))
        } else if http.allow.is_empty() {
            Some((
                "no allow",
                "say which addresses may come, such as allow = [\"10.0.0.0/8\"]",
            ))
        } else if http.tls.is_none() && !plain_http {
            Some((
                "no tls",
                "tokens must not be overheard: give tls its files, or say plain_http = true where a proxy does TLS",
            ))
        } else {
            None
        };
        let Some((lack, hint)) = lack else {
            return Ok(());
        };
        let what = format!("other hosts reach {}, and there is {lack}", http.listen);
        Err(self.http_wrong(what, hint))
    }

    fn networks(&self, texts: Vec<String>) -> Result<Vec<IpNet>, Error> {
        let texts = self.all("http: allow", texts)?;
        let network = |text: String| {
            let one: Option<IpNet> = text.parse().ok();
            let one = one.or_else(|| text.parse().ok().map(|ip: IpAddr| ip.into()));
            one.ok_or_else(|| {
                let what = format!("allow: {text:?} is no network");
                self.http_wrong(what, "write it as 10.0.0.0/8 or fd00::/8")
            })
        };
        texts.into_iter().map(network).collect()
    }

    fn host_names(&self, texts: Vec<String>) -> Result<Vec<String>, Error> {
        let texts = self.all("http: names", texts)?;
        let is_name = |text: &String| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            !text.is_empty() && text.len() <= 253 && text.bytes().all(letter)
        };
        match texts.iter().find(|text| !is_name(text)) {
            Some(text) => {
                let what = format!("names: {text:?} is no name of a host");
                Err(self.http_wrong(what, "write it as backup.example.org, without a port"))
            }
            None => Ok(texts),
        }
    }

    fn tokens(&self, texts: Vec<TokenText>) -> Result<Vec<Token>, Error> {
        if texts.len() > TOKENS_MAX {
            let what = format!("there are more than {TOKENS_MAX} tokens");
            return Err(self.http_wrong(what, "give one to each who asks"));
        }
        let mut tokens: Vec<Token> = Vec::new();
        for text in texts {
            let name = self.expand("http: token: name", &text.name)?;
            let letters = name.chars().all(|letter| !letter.is_control());
            if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX || !letters {
                let what = format!("token: {name:?} is no name");
                let hint = format!("1 to {NAME_CHARACTERS_MAX} letters, for the ledger");
                return Err(self.http_wrong(what, &hint));
            }
            if tokens.iter().any(|other| other.name == name) {
                let what = format!("there is another token {name:?}");
                return Err(self.http_wrong(what, "name each once, since the ledger shows it"));
            }
            let hash = self.expand("http: token: hash", &text.hash)?;
            let hash = hash.parse().map_err(|()| {
                // A token in its place must not be shown.
                let what = format!("the hash of token {name:?} cannot be read");
                self.http_wrong(what, "'rowvault key token' prints the line to write here")
            })?;
            tokens.push(Token {
                name,
                role: text.role.into(),
                hash,
            });
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Result<Option<Http>, String> {
        let text: HttpText = toml::from_str(text).map_err(|error| error.to_string())?;
        let reading = Reading {
            path: Path::new("/etc/rowvault/rowvault.toml"),
            environment: &|_| None,
        };
        reading.http_face(text).map_err(|error| error.to_string())
    }

    const HASH: &str = "rvh_0000000000000000000000000000000000000000000000000000000000000000";

    fn token(name: &str, role: &str) -> String {
        format!("[[token]]\nname = '{name}'\nrole = '{role}'\nhash = '{HASH}'\n")
    }

    #[test]
    fn this_host_alone_needs_neither_tokens_nor_tls() {
        assert_eq!(read(""), Ok(None));
        let http = read("listen = '127.0.0.1:7117'").unwrap().unwrap();
        assert_eq!((http.tokens.len(), http.tls), (0, None));
        assert!(read("listen = '[::1]:7117'").is_ok());
    }

    #[test]
    fn what_other_hosts_reach_needs_tokens_networks_and_tls() {
        let (open, token) = ("listen = '0.0.0.0:7117'\n", token("ops", "admin"));
        let allow = "allow = ['10.0.0.0/8', 'fd00::1']\n";
        for (text, lack) in [
            (open.to_owned(), "no token"),
            (format!("{open}{token}"), "no allow"),
            (format!("{open}{allow}{token}"), "no tls"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(lack), "{refused}");
        }
        let tls = "tls = { certificate = 'cert.pem', key = '/key.pem' }\n";
        let http = read(&format!("{open}{allow}{tls}{token}"))
            .unwrap()
            .unwrap();
        let tls = http.tls.unwrap();
        assert_eq!(tls.certificate, Path::new("/etc/rowvault/cert.pem"));
        assert_eq!((http.allow.len(), http.tokens[0].role), (2, Role::Admin));
        assert!(read(&format!("{open}{allow}plain_http = true\n{token}")).is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_no_hash_is_shown() {
        let here = "listen = '127.0.0.1:7117'\n";
        let twice = token("ops", "admin") + &token("ops", "viewer");
        for (text, word) in [
            ("listen = 'localhost'\n".to_owned(), "no address"),
            (format!("{here}allow = ['10.0.0.0/33']\n"), "no network"),
            (format!("{here}names = ['a b']\n"), "no name of a host"),
            (format!("{here}names = ['a:80']\n"), "no name of a host"),
            (format!("{here}{twice}"), "another token"),
            (format!("{here}{}", token("", "admin")), "no name"),
            (format!("{here}{}", token("ops", "root")), "unknown variant"),
            (format!("{here}tokens = []\n"), "unknown field"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        let wrong = here.to_owned() + &token("ops", "admin").replace(HASH, "rvt_secret");
        let refused = read(&wrong).unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
    }
}
