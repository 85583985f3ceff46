//! The door of HTTP: who may connect, how many at once, for how long, and by which TLS.
//!
//! Before a byte of a request is read, its address is looked at and a place is taken. Invariant: a
//! connection lives a bounded time, whatever its other end does, and one address cannot take all
//! places.

use std::collections::HashMap;
use std::future::{Future, Ready, ready};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::config::http::Tls;
use crate::config::secret;
use crate::failure::{AnyFailure, Class};

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long one may live.
    pub lifetime: Duration,
    /// How many there may be.
    pub connections: usize,
    /// How many there may be of one address.
    pub of_one: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            lifetime: Duration::from_secs(30),
            connections: 128,
            of_one: 32,
        }
    }
}

/// Places taken, by address.
#[derive(Default)]
struct Places {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// What lets connections in.
#[derive(Clone)]
pub struct Door {
    allow: Arc<RwLock<Vec<IpNet>>>,
    bounds: Bounds,
    places: Arc<Mutex<Places>>,
}

impl Door {
    /// A door within `bounds`, open to this host alone.
    pub fn new(bounds: Bounds) -> Door {
        Door {
            allow: Arc::default(),
            bounds,
            places: Arc::default(),
        }
    }

    /// Lets these networks in too, and no others any more.
    pub fn allow(&self, networks: Vec<IpNet>) {
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = networks;
    }

    fn may_enter(&self, address: IpAddr) -> bool {
        let allow = self.allow.read().unwrap_or_else(PoisonError::into_inner);
        address.is_loopback() || allow.iter().any(|network| network.contains(&address))
    }

    fn enter(&self, stream: TcpStream) -> io::Result<Guest> {
        let refused = |why: &'static str| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let address = address_of(stream.peer_addr()?);
        if !self.may_enter(address) {
            tracing::warn!("http: a connection of {address} was refused: it is not in allow");
            return Err(refused("not allowed"));
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.by_address.get(&address).copied().unwrap_or_default();
        if places.all >= self.bounds.connections || taken >= self.bounds.of_one {
            return Err(refused("no place"));
        }
        places.all += 1;
        places.by_address.insert(address, taken + 1);
        drop(places);
        Ok(Guest {
            stream,
            until: Box::pin(tokio::time::sleep(self.bounds.lifetime)),
            _place: Place {
                address,
                places: self.places.clone(),
            },
        })
    }
}

/// The address of the other end, an IPv4 one in its own form.
pub fn address_of(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

impl<S> Accept<TcpStream, S> for Door {
    type Stream = Guest;
    type Service = S;
    type Future = Ready<io::Result<(Guest, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.enter(stream).map(|guest| (guest, service)))
    }
}

/// A place, given back when it is dropped.
struct Place {
    address: IpAddr,
    places: Arc<Mutex<Places>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.all = places.all.saturating_sub(1);
        if let Some(taken) = places.by_address.get_mut(&self.address) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                places.by_address.remove(&self.address);
            }
        }
    }
}

/// A connection that was let in, which ends by itself.
pub struct Guest {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    _place: Place,
}

impl Guest {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.until.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Reads the files of TLS, of which nobody else may read the key.
///
/// # Errors
/// Invalid: a file that cannot be read or used; a key that others may read.
pub fn read_tls(files: &Tls) -> Result<Arc<ServerConfig>, AnyFailure> {
    let refused = |what: String| {
        AnyFailure::new(
            Class::Invalid,
            format!("http: tls: {what}"),
            Some("give certificate and key as PEM files".into()),
        )
    };
    let certificate = files.certificate.display();
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused(format!("{certificate}: {error}")))?;
    let key = secret::read("key of TLS", &files.key)?;
    let key = secrecy::ExposeSecret::expose_secret(&key).as_bytes();
    let name = files.key.display();
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| refused(format!("{name}: {error}")))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| refused(format!("{certificate}: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn address_has_so_many_places_and_gets_them_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::new(Bounds {
            lifetime: Duration::from_secs(60),
            connections: 8,
            of_one: 2,
        });
        let mut guests = Vec::new();
        let mut others = Vec::new();
        for expected in [true, true, false] {
            let (ours, theirs) = pair(&listener).await;
            let entered = door.enter(theirs);
            assert_eq!(entered.is_ok(), expected);
            guests.extend(entered.ok());
            others.push(ours);
        }
        guests.pop();
        let (_ours, theirs) = pair(&listener).await;
        assert!(door.enter(theirs).is_ok());
    }

    #[tokio::test]
    async fn connection_ends_though_its_other_end_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::new(Bounds {
            lifetime: Duration::from_millis(50),
            ..Bounds::default()
        });
        let (_ours, theirs) = pair(&listener).await;
        let mut guest = door.enter(theirs).unwrap();
        let ended = guest.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_this_host_and_named_networks_enter() {
        let door = Door::new(Bounds::default());
        let may = |text: &str| door.may_enter(text.parse().unwrap());
        assert!(may("127.0.0.1") && may("::1") && !may("10.1.2.3"));
        door.allow(vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ]);
        assert!(may("10.1.2.3") && may("fd12::1") && !may("11.0.0.1") && !may("fe80::1"));
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert!(door.may_enter(address_of(mapped)));
    }
}
