//! A real S3 server for the suite: moto, from its Python package.
//!
//! Found through `ROWVAULT_MOTO`, the path of `moto_server`; without it the tests that need it say
//! so and pass. Each server gets a free port from the system and ends with its value.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rowvault::store::{S3Credentials, S3Options};

/// Moto, with its conditional requests one at a time. By itself it looks whether there is an object
/// and stores it in two steps: under load two of sixteen racers were told that they had created it.
const ATOMIC: &str = "
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication as App
from moto.server import main
turn, plain = threading.Lock(), App.__call__
def call(app, environ, start_response):
    if 'HTTP_IF_NONE_MATCH' in environ or 'HTTP_IF_MATCH' in environ:
        with turn:
            return plain(app, environ, start_response)
    return plain(app, environ, start_response)
App.__call__ = call
sys.exit(main())
";

/// A running server.
pub struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    /// Starts a server; none, with a word on stderr, where no program for it was named.
    pub fn start() -> Option<Moto> {
        let Some(program) = std::env::var_os("ROWVAULT_MOTO") else {
            eprintln!("skipped: ROWVAULT_MOTO names no moto_server");
            return None;
        };
        let mut child = Command::new(Path::new(&program).with_file_name("python3"))
            .args(["-c", ATOMIC, "-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ROWVAULT_MOTO can be started");
        let stderr = child.stderr.take().expect("its stderr is a pipe");
        let mut lines = BufReader::new(stderr).lines();
        let endpoint = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on ")?.1.trim().to_owned()))
            .expect("the server says where it listens");
        // It logs every request; a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Moto { child, endpoint })
    }

    /// What a store needs to be told to use this server.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            credentials: Some(S3Credentials {
                access_key_id: "test".to_owned(),
                secret_access_key: "test-secret".to_owned().into(),
            }),
            ..S3Options::default()
        }
    }

    /// Makes a bucket.
    pub async fn make_bucket(&self, name: &str) {
        crate::install_tls();
        self.put(name).await;
    }

    /// Makes a bucket whose objects may be locked.
    pub async fn make_locked_bucket(&self, name: &str) {
        crate::install_tls();
        let url = format!("{}/{name}", self.endpoint);
        let request = reqwest::Client::new()
            .put(url)
            .header("x-amz-bucket-object-lock-enabled", "true");
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// Puts an empty object behind the store's back.
    pub async fn put_object(&self, bucket: &str, name: &str) {
        self.put(&format!("{bucket}/{name}")).await;
    }

    async fn put(&self, path: &str) {
        let url = format!("{}/{path}", self.endpoint);
        let answer = reqwest::Client::new().put(url).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
