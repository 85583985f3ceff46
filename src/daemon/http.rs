//! The daemon's face to machines: is it alive, is it ready, its metrics, and the API.
//!
//! The door counts connections, the gate looks at each request, the API answers those with a token.
//! Invariant: without tokens there is nothing but the three plain answers, and they are for this
//! host alone; a request that names another host than this one gets nothing, so that no page in a
//! browser can ask by a name that it made to point here.

pub mod api;
pub mod documents;
pub mod door;
pub mod gate;
pub mod rate;
pub mod refusal;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Server;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::clock::Clock;
use crate::config::http::Http;
use crate::daemon::archive::{Archive, Opener};
use crate::daemon::http::api::{Face, PREFIX};
use crate::daemon::http::door::{Bounds, Door};
use crate::daemon::http::gate::{Gate, Rules};
use crate::daemon::metrics::Metrics;
use crate::daemon::question::Question;
use crate::failure::{AnyFailure, Class};

/// A loop that has not turned for so long is not ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The longest body of a request.
const BODY_BYTES_MAX: usize = 4096;
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a request may take, its body included; a connection lives longer than one.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// How many questions may wait for the loop.
const QUESTIONS_MAX: usize = 64;

/// What the loop shows, and where it is asked.
pub struct Window {
    /// What is measured.
    pub metrics: Metrics,
    /// Where questions to the loop go.
    pub questions: mpsc::Sender<Question>,
    clock: Arc<dyn Clock>,
    /// When the loop last turned, in milliseconds of the clock that never goes back.
    turned: AtomicU64,
}

impl Window {
    /// A window of a loop that turns now, and the questions that come in by it.
    pub fn new(clock: Arc<dyn Clock>) -> (Window, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let window = Window {
            metrics: Metrics::default(),
            questions,
            clock,
            turned: AtomicU64::new(0),
        };
        window.turn();
        (window, asked)
    }

    /// The loop has turned.
    pub fn turn(&self) {
        let now = self.clock.elapsed().as_millis() as u64;
        self.turned.store(now, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        self.clock.elapsed().saturating_sub(turned) < READY_WITHIN
    }
}

/// What the configuration makes of HTTP.
pub struct Plan {
    http: Http,
    tls: Option<Arc<ServerConfig>>,
    opener: Arc<dyn Opener>,
}

impl Plan {
    /// Reads the files of TLS.
    ///
    /// # Errors
    /// Invalid: a file that cannot be read or used; a key that others may read.
    pub fn new(http: Http, opener: Arc<dyn Opener>) -> Result<Plan, AnyFailure> {
        let tls = http.tls.as_ref().map(door::read_tls).transpose()?;
        Ok(Plan { http, tls, opener })
    }

    /// Whether others come to this host by a name, and to us by something between.
    fn is_behind_proxy(&self) -> bool {
        self.http.listen.ip().is_loopback() && !self.http.names.is_empty()
    }

    fn rules(&self) -> Rules {
        Rules {
            names: self.http.names.clone(),
            by_address: !self.http.listen.ip().is_loopback(),
            tokens: self.http.tokens.clone(),
        }
    }
}

/// HTTP that listens until the runtime ends.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    asked: SocketAddr,
    gate: Arc<Gate>,
    door: Door,
    tls: Option<RustlsConfig>,
    archive: Arc<Archive>,
}

impl Listening {
    /// Listens as `plan` says, and answers what `window` shows.
    ///
    /// # Errors
    /// Invalid: it cannot be listened there.
    pub async fn open(plan: &Plan, window: Arc<Window>) -> Result<Listening, AnyFailure> {
        let asked = plan.http.listen;
        let refused = |error: std::io::Error| {
            AnyFailure::new(
                Class::Invalid,
                format!("http: cannot listen at {asked}: {error}"),
                Some("choose another port for listen under [http]".into()),
            )
        };
        let listener = TcpListener::bind(asked).await.map_err(refused)?;
        let clock = window.clock.clone();
        let listening = Listening {
            address: listener.local_addr().map_err(refused)?,
            asked,
            gate: Arc::new(Gate::new(clock.clone())),
            door: Door::new(Bounds::default()),
            tls: plan.tls.clone().map(RustlsConfig::from_config),
            archive: Arc::new(Archive::new(plan.opener.clone(), clock)),
        };
        listening.replace(Some(plan));
        let face = Arc::new(Face {
            window,
            archive: listening.archive.clone(),
        });
        let router = router(&face, &listening.gate);
        let (door, tls) = (listening.door.clone(), listening.tls.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(listener, router, door, tls).await {
                tracing::error!("http ended: {error}");
            }
        });
        Ok(listening)
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Puts another configuration in force; where it is listened, and whether by TLS, stays.
    pub fn replace(&self, plan: Option<&Plan>) {
        let Some(plan) = plan else {
            self.gate.replace(Rules::default());
            self.door.allow(Vec::new());
            tracing::warn!(
                "http: it is listened until the daemon begins anew, for this host alone"
            );
            return;
        };
        self.gate.replace(plan.rules());
        self.door.allow(plan.http.allow.clone());
        self.archive.replace(plan.opener.clone());
        if plan.is_behind_proxy() {
            tracing::warn!(
                "http: names say that a proxy on this host hands requests on: unless it adds \
                 X-Forwarded-For to each, /metrics is open to all whom it serves"
            );
        }
        if let (Some(ours), Some(theirs)) = (&self.tls, &plan.tls) {
            ours.reload_from_config(theirs.clone());
        }
        if plan.http.listen != self.asked || plan.tls.is_some() != self.tls.is_some() {
            tracing::warn!(
                "http: listen, and whether TLS is spoken, change when the daemon begins anew"
            );
        }
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    door: Door,
    tls: Option<RustlsConfig>,
) -> std::io::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let mut server = Server::<SocketAddr>::from_listener(listener).http1_only();
    let mut http = server.http_builder().http1();
    // One request, one connection: none is cut off within one, and none is held for nothing.
    http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    match tls {
        None => server.acceptor(door).serve(service).await,
        Some(tls) => {
            let acceptor = RustlsAcceptor::new(tls).acceptor(door);
            server.acceptor(acceptor).serve(service).await
        }
    }
}

fn router(face: &Arc<Face>, gate: &Arc<Gate>) -> Router {
    let (near, known, ours) = (gate.clone(), gate.clone(), gate.clone());
    let plain = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(face.window.clone())
        .route_layer(from_fn(move |request, next| {
            gate::near_or_known(near.clone(), request, next)
        }));
    let api = api::router(face.clone()).layer(from_fn(move |request, next| {
        gate::known(known.clone(), request, next)
    }));
    Router::new()
        .nest(PREFIX, api)
        .merge(plain)
        .layer(RequestBodyLimitLayer::new(BODY_BYTES_MAX))
        .layer(from_fn(move |request, next| {
            gate::ours_only(ours.clone(), request, next)
        }))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            REQUEST_MAX,
        ))
}

async fn ready(State(window): State<Arc<Window>>) -> (StatusCode, &'static str) {
    match window.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the loop hangs\n"),
    }
}

async fn metrics(State(window): State<Arc<Window>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], window.metrics.text()).into_response()
}
