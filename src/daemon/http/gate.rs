//! The gate of HTTP: what each request must show before anything is done for it.
//!
//! A request names this host, comes no oftener than it may, and brings a token whose role is
//! enough; the three plain answers are for this host without one. Invariant: what a token may not
//! is refused before its body is read, and after so many wrong tokens none of that address is
//! looked at for a while.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::SecretString;

use crate::clock::Clock;
use crate::config::token::{Role, Token, find};
use crate::daemon::http::door::address_of;
use crate::daemon::http::rate::Rate;
use crate::daemon::http::refusal::Refusal;

/// What this host is called by itself.
const OUR_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// So many requests of an address at once, then one each.
const REQUESTS: (u32, Duration) = (100, Duration::from_millis(100));
/// So many wrong tokens of an address at once, then one each.
const GUESSES: (u32, Duration) = (20, Duration::from_secs(10));

/// What the configuration says of who may ask.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Names of this host beside its own.
    pub names: Vec<String>,
    /// Whether it may be asked for by its address, too: others than this host reach it.
    pub by_address: bool,
    /// Who may ask.
    pub tokens: Vec<Token>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token.
    pub name: String,
    /// What it may.
    pub role: Role,
    /// Where it asks from.
    pub address: IpAddr,
}

/// What requests are held against.
pub struct Gate {
    rules: RwLock<Arc<Rules>>,
    requests: Mutex<Rate>,
    guesses: Mutex<Rate>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    /// A gate with no token.
    pub fn new(clock: Arc<dyn Clock>) -> Gate {
        Gate {
            rules: RwLock::default(),
            requests: Mutex::new(Rate::new(REQUESTS.0, REQUESTS.1)),
            guesses: Mutex::new(Rate::new(GUESSES.0, GUESSES.1)),
            clock,
        }
    }

    /// Puts other rules in place of those before.
    pub fn replace(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    /// Who asks from `address` with these headers.
    fn caller(&self, address: IpAddr, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let brought = bearer(headers).ok_or(Refusal::NoToken)?;
        let now = self.clock.elapsed();
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !guesses.has(address, now) {
            return Err(Refusal::TooOften(guesses.each()));
        }
        let rules = self.rules();
        let Some(token) = find(&rules.tokens, &brought) else {
            guesses.take(address, now);
            tracing::warn!("http: {address} brought a token that is none of ours");
            return Err(Refusal::WrongToken);
        };
        Ok(Caller {
            name: token.name.clone(),
            role: token.role,
            address,
        })
    }

    fn count(&self, address: IpAddr) -> Result<(), Refusal> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        match requests.take(address, self.clock.elapsed()) {
            true => Ok(()),
            false => Err(Refusal::TooOften(Duration::from_secs(1))),
        }
    }
}

/// The token that a request brings.
fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else {
        return None;
    };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| SecretString::from(token.trim().to_owned()))
}

/// Whether a request names this host, and no other beside.
fn is_ours(rules: &Rules, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Some(host) = host.to_str().ok().and_then(|text| text.parse().ok()) else {
        return false;
    };
    is_our_name(rules, &host)
        && uri
            .authority()
            .is_none_or(|named| is_our_name(rules, named))
}

fn is_our_name(rules: &Rules, authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let same = |ours: &str| name.eq_ignore_ascii_case(ours);
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    OUR_NAMES.into_iter().any(same)
        || rules.names.iter().any(|ours| same(ours))
        // No page in a browser can make a bare address point elsewhere.
        || (rules.by_address && literal.parse::<IpAddr>().is_ok())
}

/// Where a request comes from.
fn address(request: &Request) -> Result<IpAddr, Refusal> {
    let peer: Option<&ConnectInfo<SocketAddr>> = request.extensions().get();
    peer.map(|peer| address_of(peer.0)).ok_or(Refusal::Unknown)
}

/// Lets through what names this host.
pub async fn ours_only(gate: Arc<Gate>, request: Request, next: Next) -> Result<Response, Refusal> {
    match is_ours(&gate.rules(), request.uri(), request.headers()) {
        true => Ok(next.run(request).await),
        false => Err(Refusal::AnotherHost),
    }
}

/// What a proxy adds to a request that it hands on.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "via",
];

/// Whether a request comes from this host, as far as it shows: a proxy on this host hands on what
/// others ask, and says so. What a stranger adds to his request can only take this away.
fn is_near(address: IpAddr, headers: &HeaderMap) -> bool {
    address.is_loopback() && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// Lets through what comes from this host, or brings any token.
pub async fn near_or_known(
    gate: Arc<Gate>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let address = address(&request)?;
    if !is_near(address, request.headers()) {
        gate.count(address)?;
        gate.caller(address, request.headers())?;
    }
    Ok(next.run(request).await)
}

/// Lets through what brings a token, and says whose; without tokens there is nothing here.
pub async fn known(gate: Arc<Gate>, mut request: Request, next: Next) -> Result<Response, Refusal> {
    if gate.rules().tokens.is_empty() {
        return Err(Refusal::Unknown);
    }
    let address = address(&request)?;
    gate.count(address)?;
    let caller = gate.caller(address, request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Lets through whose role is enough.
pub async fn at_least(role: Role, request: Request, next: Next) -> Result<Response, Refusal> {
    let caller: Option<&Caller> = request.extensions().get();
    match caller {
        Some(caller) if caller.role >= role => Ok(next.run(request).await),
        _ => Err(Refusal::Role(role)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::{ManualClock, Timestamp};
    use crate::config::token::{TokenHash, draw_token};
    use crate::random::SeededRandom;
    use secrecy::ExposeSecret;

    fn hosts(names: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(header::HOST, name.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_host_are_ours() {
        let rules = Rules {
            names: vec!["backup.example".into()],
            ..Rules::default()
        };
        let path = Uri::from_static("/metrics");
        for (names, ours) in [
            (&["localhost:7117"][..], true),
            (&["127.0.0.1:7117"], true),
            (&["[::1]:7117"], true),
            (&["LOCALHOST"], true),
            (&["Backup.Example:443"], true),
            (&["evil.example:7117"], false),
            (&["127.0.0.1.evil.example"], false),
            (&["localhost@evil.example"], false),
            (&["evil@localhost"], false),
            (&["10.1.2.3:7117"], false),
            (&[""], false),
            (&[], false),
            (&["localhost", "evil.example"], false),
        ] {
            assert_eq!(is_ours(&rules, &path, &hosts(names)), ours, "{names:?}");
        }
        let whole = Uri::from_static("http://evil.example/metrics");
        assert!(!is_ours(&rules, &whole, &hosts(&["localhost"])));
        let reached = Rules {
            by_address: true,
            ..rules
        };
        assert!(is_ours(&reached, &path, &hosts(&["10.1.2.3:7117"])));
        assert!(is_ours(&reached, &path, &hosts(&["[fd00::1]:7117"])));
        assert!(!is_ours(&reached, &path, &hosts(&["evil.example"])));
    }

    #[test]
    fn what_a_proxy_hands_on_is_not_near() {
        let [here, there] = ["127.0.0.1", "10.1.2.3"].map(|text| text.parse().unwrap());
        assert!(is_near(here, &hosts(&["localhost"])));
        assert!(!is_near(there, &hosts(&["localhost"])));
        for name in FORWARDED {
            let mut headers = hosts(&["localhost"]);
            headers.insert(name, "127.0.0.1".parse().unwrap());
            assert!(!is_near(here, &headers), "{name}");
        }
    }

    #[test]
    fn after_many_wrong_tokens_the_right_one_waits_too() {
        let clock = Arc::new(ManualClock::new(Timestamp::default()));
        let gate = Gate::new(clock.clone());
        let random = SeededRandom::new(3);
        let (right, wrong) = (draw_token(&random), draw_token(&random));
        gate.replace(Rules {
            tokens: vec![Token {
                name: "ops".into(),
                role: Role::Admin,
                hash: TokenHash::of(right.expose_secret()).unwrap(),
            }],
            ..Rules::default()
        });
        let with = |token: &SecretString| {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer {}", token.expose_secret());
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            headers
        };
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let ask = |token| gate.caller(one, &with(token));
        assert_eq!(ask(&right).map(|caller| caller.name), Ok("ops".into()));
        for _ in 0..GUESSES.0 {
            assert_eq!(ask(&wrong), Err(Refusal::WrongToken));
        }
        let wait = Refusal::TooOften(GUESSES.1);
        assert_eq!(ask(&wrong), Err(wait.clone()));
        assert_eq!(ask(&right), Err(wait));
        let other = gate.caller("10.0.0.2".parse().unwrap(), &with(&right));
        assert!(other.is_ok());
        // An hour of guessing gets no more than 360 of 2 to the 256.
        clock.advance(GUESSES.1);
        assert!(ask(&right).is_ok());
        assert_eq!(gate.caller(one, &HeaderMap::new()), Err(Refusal::NoToken));
    }
}
