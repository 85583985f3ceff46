//! HTTP of the real daemon: who gets what, what is written down of it, and what hostile clients get.
//!
//! `docs/openapi.json` is held against the routes, and each answer of the daemon against its schema.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rowvault::daemon::http::api::{PREFIX, ROUTES};
use serde_json::{Value, json};

use crate::cli_desk::Desk;
use crate::daemon::Daemon;

/// Tokens of the three roles, in this order.
const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: impl Read) -> Answer {
        let mut bytes = Vec::new();
        // An end that is cut off by what was not read of us is an end.
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.unwrap_or_default(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// A daemon that answers, and the tokens of the roles.
struct Scene<'a> {
    daemon: Daemon<'a>,
    address: String,
    tokens: Vec<String>,
}

/// Makes a token of each role; gives them, and their lines for the configuration.
fn tokens(desk: &Desk) -> (Vec<String>, String) {
    let mut tokens = Vec::new();
    let mut lines = String::new();
    for role in ROLES {
        let made = desk.run(&["key", "token", "--name", role, "--role", role]);
        assert_eq!(made.code, 0, "{made:?}");
        let (token, rest) = made.out.split_once('\n').unwrap();
        let (_, toml) = rest.split_once("gets:\n").unwrap();
        assert!(!toml.contains(token), "{toml}");
        tokens.push(token.to_owned());
        lines.push_str(toml);
    }
    (tokens, lines)
}

impl<'a> Scene<'a> {
    fn start(desk: &'a Desk, http: &str, rest: &str) -> Scene<'a> {
        let (tokens, lines) = tokens(desk);
        let text = format!("[http]\nlisten = '127.0.0.1:0'\n{http}\n{lines}{rest}");
        desk.write("rowvault.toml", &text);
        let daemon = Daemon::start(desk, "log");
        daemon.until(&["listening at http"]);
        let told = daemon.told();
        let address = told.split("listening at ").nth(1).unwrap();
        let address = address.lines().next().unwrap();
        let address = address.split("://").nth(1).unwrap().to_owned();
        Scene {
            daemon,
            address,
            tokens,
        }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(token) = token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            let length = body.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .write_all(format!("{head}\r\n{body}").as_bytes())
            .unwrap();
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Some(&self.tokens[0]), "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Waits until a run of `task` ended well.
    fn until_done(&self, task: &str) -> Value {
        let path = format!("{PREFIX}/runs?task={task}");
        for _ in 0..600 {
            let runs = self.get(&path);
            if let Some(run) = runs["runs"].as_array().unwrap().first() {
                assert_eq!(run["ok"], true, "{run}");
                return runs;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("no {task}: {}", self.daemon.told());
    }
}

fn described() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Holds `value` against `schema`.
fn check(all: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let named = all.pointer(reference.trim_start_matches('#'));
        return check(all, named.expect(reference), value, place);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let null = either.iter().any(|one| one["type"] == "null");
        return match value.is_null() && null {
            true => {}
            false => check(all, &either[0], value, place),
        };
    }
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let may = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    assert!(may.contains(&json!(is)), "{place} is {value}, not {may:?}");
    match value {
        Value::String(text) if schema["format"] == "date-time" => {
            chrono::DateTime::parse_from_rfc3339(text).expect(place);
        }
        Value::Array(values) => {
            for value in values {
                check(all, &schema["items"], value, &format!("{place}[]"));
            }
        }
        Value::Object(fields) => {
            for required in schema["required"].as_array().unwrap() {
                assert!(
                    fields.contains_key(required.as_str().unwrap()),
                    "{place}: {required}"
                );
            }
            for (name, value) in fields {
                let place = format!("{place}.{name}");
                let property = &schema["properties"][name];
                assert!(!property.is_null(), "{place} is not described");
                check(all, property, value, &place);
            }
        }
        _ => {}
    }
}

/// Holds an answer against what is described of it, under its status.
fn fits(all: &Value, method: &str, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap();
    let operation = &all["paths"][path][method.to_ascii_lowercase()];
    let response = &operation["responses"][answer.status.to_string()];
    let place = format!("{method} {path} {}", answer.status);
    assert!(response.is_object(), "{place} is not described");
    let schema = &response["content"]["application/json"]["schema"];
    check(all, schema, &answer.json(), &place);
}

#[test]
fn description_has_the_routes_that_there_are_with_their_roles() {
    let all = described();
    let mut told = BTreeSet::new();
    for (path, operations) in all["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let role = operation["x-role"].as_str().unwrap_or("none");
            told.insert((method.to_ascii_uppercase(), path.clone(), role.to_owned()));
        }
    }
    let routes = ROUTES.iter().map(|route| {
        let path = format!("{PREFIX}{}", route.path);
        (route.method.to_owned(), path, route.role.name().to_owned())
    });
    let plain = ["/healthz", "/readyz", "/metrics"];
    let plain = plain.map(|path| ("GET".to_owned(), path.to_owned(), "none".to_owned()));
    assert_eq!(told, routes.chain(plain).collect());
}

#[test]
fn endpoints_are_held_to_roles_and_answers_to_their_description() {
    let desk = Desk::with_repository();
    // Nothing is scheduled, and all of it can be asked for.
    let scene = Scene::start(&desk, "", "[[source]]\nurl = 'sqlite:crm.db'\n");
    let all = described();
    let body = |path: &str| match path {
        "/thaws" => r#"{"source":"crm","reason":"looked"}"#,
        _ => r#"{"source":"crm"}"#,
    };
    let wrong = format!("rvt_{}", "A".repeat(43));
    for route in ROUTES {
        let path = format!("{PREFIX}{}", route.path);
        let body = if route.method == "POST" {
            body(route.path)
        } else {
            ""
        };
        for token in [None, Some(wrong.as_str())] {
            let answer = scene.ask(route.method, &path, token, body);
            assert_eq!(answer.status, 401, "{path}: {answer:?}");
            assert!(
                answer.head.contains("www-authenticate: bearer"),
                "{answer:?}"
            );
            fits(&all, route.method, &path, &answer);
        }
        // By GET nothing is started, whatever the role.
        if !ROUTES
            .iter()
            .any(|one| (one.method, one.path) == ("GET", route.path))
        {
            let answer = scene.ask("GET", &path, Some(&scene.tokens[2]), "");
            assert_eq!(answer.status, 405, "{path}: {answer:?}");
        }
        for (role, token) in ROLES.iter().zip(&scene.tokens) {
            let may = ROLES.iter().position(|one| one == role)
                >= ROLES.iter().position(|one| *one == route.role.name());
            // What may be done is done below.
            if may && route.method == "POST" {
                continue;
            }
            let answer = scene.ask(route.method, &path, Some(token), body);
            let expected = if may { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{role} {path}: {answer:?}");
            fits(&all, route.method, &path, &answer);
        }
    }
    let unknown = scene.ask("GET", &format!("{PREFIX}/secrets"), None, "");
    assert_eq!(unknown.status, 401, "{unknown:?}");
    let unknown = scene.ask(
        "GET",
        &format!("{PREFIX}/secrets"),
        Some(&scene.tokens[0]),
        "",
    );
    assert_eq!(unknown.status, 404, "{unknown:?}");
    start_and_look(&scene, &all);
    assert_eq!(scene.daemon.end(), Some(0));
}

/// Starts a backup and a drill, and looks at what came of them.
fn start_and_look(scene: &Scene<'_>, all: &Value) {
    let [viewer, operator, admin] = [0, 1, 2].map(|at| scene.tokens[at].as_str());
    for (path, token, body, expected) in [
        ("backups", operator, r#"{"source":"crm"}"#, 202),
        ("backups", operator, r#"{"source":"shop"}"#, 404),
        ("backups", operator, r#"{"source":"../x"}"#, 422),
        ("backups", operator, r#"{"source":"crm","more":1}"#, 422),
        ("backups", operator, "{", 422),
        ("thaws", admin, r#"{"source":"shop"}"#, 404),
    ] {
        let path = format!("{PREFIX}/{path}");
        let answer = scene.ask("POST", &path, Some(token), body);
        assert_eq!(answer.status, expected, "{path} {body}: {answer:?}");
        fits(all, "POST", &path, &answer);
    }
    scene.until_done("backup");
    let path = format!("{PREFIX}/drills");
    let drill = scene.ask("POST", &path, Some(admin), r#"{"source":"crm"}"#);
    assert_eq!(drill.status, 202, "{drill:?}");
    fits(all, "POST", &path, &drill);
    scene.until_done("drill");
    let path = format!("{PREFIX}/thaws");
    let thaw = scene.ask("POST", &path, Some(admin), r#"{"source":"crm"}"#);
    assert_eq!(thaw.status, 409, "{thaw:?}");
    fits(all, "POST", &path, &thaw);
    // What is shown may be some seconds old.
    let path = format!("{PREFIX}/drills?source=crm");
    let told = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(200));
        let drills = scene.get(&path);
        (drills["drills"] != json!([])).then_some(drills)
    });
    assert_eq!(told.unwrap()["drills"][0]["ok"], true);
    for (path, list, least) in [
        ("sources", "sources", 1),
        ("snapshots?source=crm", "snapshots", 1),
        ("runs?limit=5", "runs", 3),
        ("next", "jobs", 3),
        ("drills", "drills", 1),
        ("ledger?source=crm&limit=50", "entries", 4),
    ] {
        let path = format!("{PREFIX}/{path}");
        let answer = scene.ask("GET", &path, Some(viewer), "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        fits(all, "GET", &path, &answer);
        let found = answer.json()[list].as_array().unwrap().len();
        assert!(found >= least, "{path}: {answer:?}");
    }
    let ledger = scene.get(&format!("{PREFIX}/ledger?source=crm"));
    let requests: Vec<&str> = ledger["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["event"] == "requested")
        .map(|entry| entry["detail"].as_str().unwrap())
        .collect();
    assert_eq!(
        requests,
        [
            "drill crm, asked for by admin at 127.0.0.1",
            "backup crm, asked for by operator at 127.0.0.1"
        ]
    );
    for refused in ["snapshots?source=shop", "runs?limit=-1", "ledger?whose=crm"] {
        let answer = scene.ask("GET", &format!("{PREFIX}/{refused}"), Some(viewer), "");
        assert!([404, 422].contains(&answer.status), "{refused}: {answer:?}");
    }
    let told = scene.daemon.told();
    for token in &scene.tokens {
        assert!(!told.contains(token), "{told}");
    }
}

/// The most memory that the daemon has had, in KiB.
fn memory(daemon: &Daemon<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends a body of 1 GiB as far as it is taken; gives how many bytes went, and the answer.
fn flood(scene: &Scene<'_>, length: &str) -> (u64, Answer) {
    let mut stream = TcpStream::connect(&scene.address).unwrap();
    let (host, token) = (&scene.address, &scene.tokens[1]);
    write!(
        stream,
        "POST {PREFIX}/backups HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\n{length}\r\n\r\n"
    )
    .unwrap();
    let is_chunked = length.starts_with("Transfer");
    let piece = match is_chunked {
        true => [b"10000\r\n".to_vec(), vec![b' '; 1 << 16], b"\r\n".to_vec()].concat(),
        false => vec![b' '; 1 << 16],
    };
    let mut sent = 0;
    while sent < 1 << 30 && stream.write_all(&piece).is_ok() {
        sent += piece.len() as u64;
    }
    (sent, Answer::read(stream))
}

/// What a proxy on this host hands on, for whoever asks it, is not this host's own.
fn behind_a_proxy(scene: &Scene<'_>) {
    let ask = |path: &str, more: &str| {
        let mut stream = TcpStream::connect(&scene.address).unwrap();
        let host = "Host: vault.example\r\nX-Forwarded-Host: vault.example\r\n";
        write!(
            stream,
            "GET {path} HTTP/1.1\r\n{host}X-Forwarded-For: 127.0.0.1\r\n{more}\r\n"
        )
        .unwrap();
        Answer::read(stream).status
    };
    let right = format!("Authorization: Bearer {}\r\n", scene.tokens[0]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(path, ""), 401, "{path}");
        assert_eq!(ask(path, &right), 200, "{path}");
        let near = scene.ask("GET", path, None, "");
        assert_eq!(near.status, 200, "{path}");
    }
}

#[test]
fn hostile_clients_get_nothing_and_hold_nobody_up() {
    let desk = Desk::with_repository();
    let scene = Scene::start(
        &desk,
        "names = ['vault.example']",
        "[[source]]\nurl = 'sqlite:crm.db'\n",
    );
    let health = || {
        let asked = Instant::now();
        assert_eq!(scene.ask("GET", "/healthz", None, "").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5));
    };
    // A slow client: a byte now and then, for ever.
    let slow = TcpStream::connect(&scene.address).unwrap();
    let begun = Instant::now();
    let ended = std::thread::spawn(move || drip(slow, begun));
    health();
    // DNS rebinding: a page's own name, made to point here.
    let token = &scene.tokens[2];
    let path = format!("{PREFIX}/sources");
    let whole = format!("http://evil.example{path}");
    let (path, whole) = (path.as_str(), whole.as_str());
    for (target, host, expected) in [
        (path, "evil.example", 421),
        (path, "127.0.0.1.evil.example:7117", 421),
        (whole, "localhost", 421),
        ("/metrics", "evil.example", 421),
        (path, "vault.example", 200),
        (path, "localhost", 200),
    ] {
        let mut stream = TcpStream::connect(&scene.address).unwrap();
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        .unwrap();
        let answer = Answer::read(stream);
        assert_eq!(answer.status, expected, "{target} {host}: {answer:?}");
    }
    scene.daemon.until(&["adds X-Forwarded-For to each"]);
    behind_a_proxy(&scene);
    // Bodies without end, announced and not.
    let before = memory(&scene.daemon);
    for length in ["Content-Length: 1073741824", "Transfer-Encoding: chunked"] {
        let (sent, answer) = flood(&scene, length);
        assert!(sent < 64 << 20, "{length}: {sent} bytes were taken");
        // The end may be cut off before the answer is read.
        assert!([413, 0].contains(&answer.status), "{length}: {answer:?}");
    }
    let grown = memory(&scene.daemon) - before;
    assert!(grown < 32 << 10, "{grown} KiB more");
    health();
    // Guessing.
    let mut refused = 0;
    for guess in 0..40 {
        let wrong = format!("rvt_{guess:0>43}");
        match scene.ask("GET", path, Some(&wrong), "").status {
            401 => {}
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!((10..=20).contains(&refused), "{refused} of 40");
    let right = scene.ask("GET", path, Some(token), "");
    assert_eq!(right.status, 429, "{right:?}");
    assert!(right.head.contains("retry-after: 10"), "{right:?}");
    health();
    let lasted = ended.join().unwrap();
    assert!(lasted < Duration::from_secs(60), "{lasted:?}");
    assert_eq!(scene.daemon.end(), Some(0));
}

/// Sends a request a byte at a time until the other end has enough; gives how long that took.
fn drip(mut stream: TcpStream, begun: Instant) -> Duration {
    let pause = Some(Duration::from_millis(500));
    stream.set_read_timeout(pause).unwrap();
    let mut one = [0];
    for _ in 0..240 {
        let _ = stream.write_all(b"G");
        match stream.read(&mut one) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_tokens_are_others_after_a_reload() {
    crate::install_tls();
    let desk = Desk::with_repository();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    desk.write("cert.pem", &made.cert.pem());
    desk.write("key.pem", &made.signing_key.serialize_pem());
    let tls = "tls = { certificate = 'cert.pem', key = 'key.pem' }";
    let scene = Scene::start(&desk, tls, "");
    let port = scene.address.rsplit(':').next().unwrap().to_owned();
    let authority = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let status = async |token: &str| {
        let url = format!("https://localhost:{port}{PREFIX}/next");
        let asked = client.get(url).bearer_auth(token).send().await;
        asked.unwrap().status().as_u16()
    };
    assert_eq!(status(&scene.tokens[0]).await, 200);
    // Without TLS there is no answer.
    let mut plain = TcpStream::connect(&scene.address).unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_ne!(Answer::read(plain).status, 200);
    // Tokens are taken away and given by a reload; one that cannot be meant changes nothing.
    let (others, lines) = tokens(&desk);
    let new = format!("[http]\nlisten = '127.0.0.1:0'\n{tls}\n{lines}");
    desk.write(
        "rowvault.toml",
        &new.replace("'viewer'\nhash", "'root'\nhash"),
    );
    scene.daemon.reload();
    scene.daemon.until(&["is refused, and the old one stays"]);
    assert_eq!(status(&scene.tokens[0]).await, 200);
    desk.write("rowvault.toml", &new);
    scene.daemon.reload();
    scene.daemon.until(&["was read anew"]);
    assert_eq!(status(&scene.tokens[0]).await, 401);
    assert_eq!(status(&others[0]).await, 200);
    assert_eq!(scene.daemon.end(), Some(0));
}
