//! S3 over HTTP: the contract on a real server, and servers that are not as they should be.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use rowvault::clock::SystemClock;
use rowvault::failure::{Class, Failure};
use rowvault::id::{ObjectId, SourceHash};
use rowvault::random::SystemRandom;
use rowvault::store::{
    Budget, Created, ObjectPath, Prefix, S3Credentials, S3Options, Store, StoreOptions,
};

use crate::moto::Moto;
use crate::store::contract;

fn open(url: &str, s3: S3Options, budget: Budget) -> Store {
    crate::install_tls();
    let options = StoreOptions {
        s3,
        budget,
        deadline_base: Duration::from_secs(10),
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::new());
    Store::open(url, &options, clock, Arc::new(SystemRandom)).unwrap()
}

fn once() -> Budget {
    Budget {
        attempts_max: 1,
        ..Budget::default()
    }
}

fn at(endpoint: String) -> S3Options {
    S3Options {
        endpoint: Some(endpoint),
        credentials: Some(S3Credentials {
            access_key_id: "test".to_owned(),
            secret_access_key: "test-secret".to_owned().into(),
        }),
        ..S3Options::default()
    }
}

fn pack() -> ObjectPath {
    ObjectPath::Pack(ObjectId(*blake3::hash(b"pack").as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_keeps_the_contract() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-backup").await;
    let store = open(
        "s3://acme-backup/crm/one",
        moto.options(),
        Budget::default(),
    );
    contract(&store).await;
    let asked = store.requests();
    // The three ranges beyond an object's end were asked for twice.
    assert_eq!(asked.retried, 3, "{asked:?}");
    println!("the contract on S3: {asked:?}");
    contract(&open("s3://acme-backup", moto.options(), Budget::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_several_pages_is_whole_and_prefixes_do_not_mix() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-backup").await;
    let store = open("s3://acme-backup/crm", moto.options(), Budget::default());
    let other = open("s3://acme-backup/crm2", moto.options(), Budget::default());
    let source = SourceHash([3; 16]);
    let writes = (0..1050).map(|number| {
        let store = store.clone();
        async move {
            let path = ObjectPath::Ledger(source, number, None);
            store.create(&path, "entry".into(), b"entry").await
        }
    });
    for created in futures::future::join_all(writes).await {
        assert_eq!(created.unwrap(), Created::Ours);
    }
    other.put(&pack(), "pack".into()).await.unwrap();
    let before = store.requests();
    let listing = store.list(Prefix::All).await.unwrap();
    assert_eq!(listing.objects.len(), 1050);
    assert_eq!(store.requests().since(&before).list, 2);
    assert_eq!(other.list(Prefix::All).await.unwrap().objects.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_said_and_not_retried() {
    let Some(moto) = Moto::start() else { return };
    let store = open("s3://no-such-bucket/crm", moto.options(), Budget::default());
    for error in [
        store.list(Prefix::All).await.unwrap_err(),
        store.get(&pack()).await.unwrap_err(),
        store.put(&pack(), "pack".into()).await.unwrap_err(),
        store
            .create(&ObjectPath::Repository, "x".into(), b"x")
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(
            error.to_string().contains("s3://no-such-bucket/crm"),
            "{error}"
        );
        assert!(error.to_string().contains("bucket"), "{error}");
    }
    assert_eq!(store.requests().retried, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_changes_nothing_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let budget = Budget {
        attempts_max: 3,
        pause_first: Duration::from_millis(1),
        ..Budget::default()
    };
    let store = open("s3://bucket", at(endpoint), budget);
    let created = store
        .create(&ObjectPath::Repository, "x".into(), b"x")
        .await;
    let error = created.unwrap_err();
    assert_eq!(
        error.class(),
        Class::Transient,
        "definitely not written: {error}"
    );
    assert!(error.to_string().contains("3 attempts"), "{error}");
    assert_eq!(store.requests().put, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_left_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    crate::install_tls();
    let options = StoreOptions {
        s3: at(endpoint),
        budget: once(),
        deadline_base: Duration::from_secs(1),
        ..StoreOptions::default()
    };
    let clock = Arc::new(SystemClock::new());
    let store = Store::open("s3://bucket", &options, clock, Arc::new(SystemRandom)).unwrap();
    let error = store.get(&pack()).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert!(
        error.to_string().contains("no answer within 1 s"),
        "{error}"
    );
}

/// Answers every connection with these bytes.
fn answering(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut connection, &mut head);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    endpoint
}

fn http(status: &str, code: &str) -> String {
    let body = format!("<Error><Code>{code}</Code><Message>said</Message></Error>");
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_is_read_from_its_status_and_code() {
    for (status, code, class, tries) in [
        ("403 Forbidden", "SignatureDoesNotMatch", Class::Denied, 1),
        ("400 Bad Request", "ExpiredToken", Class::Denied, 1),
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            Class::Invalid,
            1,
        ),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            Class::Invalid,
            1,
        ),
        ("501 Not Implemented", "NotImplemented", Class::Invalid, 1),
        (
            "507 Insufficient Storage",
            "XMinioStorageFull",
            Class::Transient,
            1,
        ),
        ("503 Service Unavailable", "SlowDown", Class::Transient, 3),
        (
            "500 Internal Server Error",
            "InternalError",
            Class::Transient,
            3,
        ),
        ("429 Too Many Requests", "SlowDown", Class::Transient, 3),
    ] {
        let budget = Budget {
            attempts_max: 3,
            pause_first: Duration::from_millis(1),
            ..Budget::default()
        };
        let store = open("s3://bucket", at(answering(http(status, code))), budget);
        let put = store.put(&pack(), "pack".into()).await.unwrap_err();
        let listed = store.list(Prefix::Packs).await.unwrap_err();
        let asked = store.requests();
        for error in [put, listed] {
            assert_eq!(error.class(), class, "{status} {code}: {error}");
        }
        assert_eq!((asked.put, asked.list), (tries, tries), "{status} {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_body_for_a_range_is_never_believed() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\netag: \"1\"\r\n\
         last-modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n\r\npack";
    let store = open(
        "s3://bucket",
        at(answering(answer.to_owned())),
        Budget::default(),
    );
    let error = store.get_range(&pack(), 1..3).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert_eq!(store.requests().get, 2, "asked again once");
    assert_eq!(store.get(&pack()).await.unwrap(), "pack");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_length_beyond_all_bounds_is_refused_unread() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\netag: \"1\"\r\n\
         last-modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n\r\npack";
    let store = open("s3://bucket", at(answering(answer.to_owned())), once());
    let error = store.get(&pack()).await.unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains("999999999999"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_short_is_retried_and_then_an_error() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 400\r\netag: \"1\"\r\n\
         last-modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n\r\npack";
    let budget = Budget {
        attempts_max: 2,
        pause_first: Duration::from_millis(1),
        ..Budget::default()
    };
    let store = open("s3://bucket", at(answering(answer.to_owned())), budget);
    let error = store.get(&pack()).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(store.requests().get, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_named_apart_and_impossible_names_are_an_error() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-backup").await;
    let store = open("s3://acme-backup/crm", moto.options(), Budget::default());
    store.put(&pack(), "pack".into()).await.unwrap();
    for name in ["crm/packs/", "crm/packs/notes.txt", "crm2/packs/x", "top"] {
        moto.put_object("acme-backup", name).await;
    }
    let listing = store.list(Prefix::All).await.unwrap();
    assert_eq!(listing.objects.len(), 1);
    assert_eq!(listing.foreign, ["packs", "packs/notes.txt"]);

    moto.put_object("acme-backup", "crm/index/a//b").await;
    let error = store.list(Prefix::Indexes).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert!(error.to_string().contains("a//b"), "{error}");
    assert_eq!(store.list(Prefix::Packs).await.unwrap().objects.len(), 1);
}

/// Runs in a process of its own, since its variables are the test.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test below runs it with variables set"]
async fn child_uses_the_variables() {
    let store = open("s3://acme-backup/crm", S3Options::default(), once());
    store.put(&pack(), "pack".into()).await.unwrap();
    assert_eq!(store.get(&pack()).await.unwrap(), "pack");
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_variables_are_read_endpoint_included() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("acme-backup").await;
    for endpoint in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store_s3::child_uses_the_variables", "--ignored"])
            .env(endpoint, moto.options().endpoint.unwrap())
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test-secret")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
    let options = moto.options();
    let store = open("s3://acme-backup/crm", options, once());
    assert_eq!(store.list(Prefix::Packs).await.unwrap().objects.len(), 1);
}

#[test]
fn google_and_azure_are_opened_or_refused_with_a_reason() {
    crate::install_tls();
    for url in ["gs://acme-backup/crm", "az://acme-backup/crm"] {
        let clock = Arc::new(SystemClock::new());
        let random = Arc::new(SystemRandom);
        match Store::open(url, &StoreOptions::default(), clock, random) {
            Ok(store) => assert_eq!(store.url(), url),
            Err(error) => {
                assert_eq!(error.class(), Class::Invalid, "{error}");
                println!("{error}");
            }
        }
    }
}
