//! Messages over the wire: a webhook's post and its signature, an e-mail to a server of this host,
//! and the heartbeat.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rowvault::clock::SystemClock;
use rowvault::notify::email::{Email, Options};
use rowvault::notify::heartbeat::Heartbeat;
use rowvault::notify::webhook::Webhook;
use rowvault::notify::{Kind, Message, send};
use sha2::Sha256;

fn message() -> Message {
    Message {
        id: "msg_1".into(),
        kind: Kind::Unusual,
        host: "db-1".into(),
        job: "backup crm".into(),
        source: Some("crm".into()),
        what: "5000 of 20000 rows of contacts were deleted".into(),
        to_do: vec!["rowvault undelete abc --into crm --table contacts --missing".into()],
        since: "2026-11-20T10:00:00Z".into(),
        time: "2026-11-20T10:00:01Z".into(),
        repeated: false,
    }
}

/// A server that lets `serve` speak to so many clients, one after the other.
fn server(
    clients: usize,
    serve: impl Fn(usize, TcpStream) -> String + Send + 'static,
) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = move || {
        let serve_one = |at| serve(at, listener.accept().unwrap().0);
        (0..clients).map(serve_one).collect()
    };
    (port, std::thread::spawn(clients))
}

/// Reads a request of HTTP and answers with `status`; gives the whole of it.
fn http(stream: TcpStream, status: &str) -> String {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        text.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    text.push_str(&String::from_utf8(body).unwrap());
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_is_posted_signed_and_again_after_a_refusal() {
    crate::install_tls();
    let (port, served) = server(2, |at, stream| {
        http(
            stream,
            if at == 0 {
                "503 Not Now"
            } else {
                "204 No Content"
            },
        )
    });
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let url = format!("http://127.0.0.1:{port}/hook?token=hidden");
    let webhook = Webhook::new(
        url.into(),
        Some(secret.into()),
        Arc::new(SystemClock::new()),
    );
    send(&webhook.unwrap(), &message()).await;
    let requests = served.join().unwrap();
    for request in requests {
        assert!(
            request.starts_with("POST /hook?token=hidden HTTP/1.1"),
            "{request}"
        );
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} is not in {head}"))
                .trim()
                .to_owned()
        };
        let (id, time) = (field("webhook-id:"), field("webhook-timestamp:"));
        let key = STANDARD
            .decode(secret.trim_start_matches("whsec_"))
            .unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{id}.{time}.{body}").as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        assert_eq!(field("webhook-signature:"), expected);
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["kind"], &body["job"]),
            (&"unusual".into(), &"backup crm".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_fetches_its_url_once_and_survives_a_refusal() {
    crate::install_tls();
    let (port, served) = server(2, |at, stream| {
        http(stream, if at == 0 { "200 OK" } else { "500 No" })
    });
    let url = format!("http://127.0.0.1:{port}/ping/hidden");
    let heartbeat = Heartbeat::new(url.into()).unwrap();
    heartbeat.beat().await;
    heartbeat.beat().await;
    for request in served.join().unwrap() {
        assert!(
            request.starts_with("GET /ping/hidden HTTP/1.1"),
            "{request}"
        );
    }
}

/// Speaks SMTP with one client; gives what it said.
fn smtp(stream: TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let say = |reader: &mut BufReader<TcpStream>, line: &str| {
        reader
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .unwrap();
    };
    say(&mut reader, "220 mail.example ready");
    let (mut heard, mut in_data) = (String::new(), false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return heard;
        }
        heard.push_str(&line);
        match line.trim_end() {
            "." if in_data => {
                in_data = false;
                say(&mut reader, "250 taken");
            }
            _ if in_data => {}
            "DATA" => {
                in_data = true;
                say(&mut reader, "354 go on");
            }
            "QUIT" => {
                say(&mut reader, "221 bye");
                return heard;
            }
            _ => say(&mut reader, "250 mail.example"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn email_goes_to_everybody_with_what_to_do() {
    crate::install_tls();
    let (port, served) = server(1, |_, stream| smtp(stream));
    let email = Email::new(Options {
        server: format!("smtp://127.0.0.1:{port}"),
        user: None,
        password: None,
        from: "rowvault@example.org".into(),
        to: vec!["ops@example.org".into(), "Chief <chief@example.org>".into()],
    });
    let email = email.unwrap();
    send(&email, &message()).await;
    drop(email);
    let heard = served.join().unwrap().remove(0);
    for words in [
        "MAIL FROM:<rowvault@example.org>",
        "RCPT TO:<ops@example.org>",
        "RCPT TO:<chief@example.org>",
        "Subject: rowvault on db-1: backup crm UNUSUAL CHANGE",
        "5000 of 20000 rows of contacts were deleted",
        "rowvault undelete abc --into crm --table contacts --missing",
    ] {
        assert!(heard.contains(words), "{words} is not in {heard}");
    }
}
