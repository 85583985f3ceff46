//! Certificates: a server that nobody vouches for is not spoken to, and not without TLS either.
//!
//! The authority and the server's key in `tests/it/tls/` were made for this and protect nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowvault::clock::SystemClock;
use rowvault::failure::{Class, Failure};
use rowvault::random::SystemRandom;
use rowvault::store::{ObjectPath, S3Credentials, S3Options, Store, StoreOptions};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\netag: \"1\"\r\n\
    last-modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n\r\nhere";

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/tls", name]
        .iter()
        .collect()
}

/// A TLS server with our authority's certificate; counts the requests that reached it.
fn server() -> (String, Arc<AtomicUsize>) {
    crate::install_tls();
    let certificate = CertificateDer::from_pem_file(file("leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("leaf.key")).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = requests.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, socket);
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|length| length > 0) {
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(ANSWER);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (endpoint, requests)
}

fn open(endpoint: String, ca_file: Option<PathBuf>) -> Store {
    let options = StoreOptions {
        s3: S3Options {
            endpoint: Some(endpoint),
            ca_file,
            credentials: Some(S3Credentials {
                access_key_id: "test".to_owned(),
                secret_access_key: "test-secret".to_owned().into(),
            }),
            ..S3Options::default()
        },
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::new());
    Store::open("s3://bucket", &options, clock, Arc::new(SystemRandom)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_refused_at_once() {
    let (endpoint, requests) = server();
    let store = open(endpoint, None);
    let error = store.get(&ObjectPath::Repository).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(store.requests().get, 1, "never retried");
    assert_eq!(requests.load(Ordering::SeqCst), 0, "no request was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_was_named_is_trusted() {
    let (endpoint, requests) = server();
    let store = open(endpoint, Some(file("ca.pem")));
    assert_eq!(store.get(&ObjectPath::Repository).await.unwrap(), "here");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let (endpoint, requests) = server();
    let other = endpoint.replace("127.0.0.1", "localhost");
    let store = open(other, Some(file("ca.pem")));
    let error = store.get(&ObjectPath::Repository).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 0, "no request was sent");
}
