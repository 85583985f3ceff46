//! The daemon's face to machines of this host: is it alive, is it ready, and its metrics.
//!
//! Without tokens there is nothing else, and only this host is listened to. Invariant: a request
//! that names another host than this one is refused, so that no page in a browser can ask by a
//! name that it made to point here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::clock::Clock;
use crate::daemon::metrics::Metrics;
use crate::failure::{AnyFailure, Class};

/// A loop that has not turned for so long is not ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The longest body of a request.
const BODY_BYTES_MAX: usize = 4096;
/// How long a request may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// What this host is called by itself.
const OUR_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What the loop shows.
pub struct Window {
    /// What is measured.
    pub metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// When the loop last turned, in milliseconds of the clock that never goes back.
    turned: AtomicU64,
}

impl Window {
    /// A window of a loop that turns now.
    pub fn new(clock: Arc<dyn Clock>) -> Window {
        let window = Window {
            metrics: Metrics::default(),
            clock,
            turned: AtomicU64::new(0),
        };
        window.turn();
        window
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

/// Listens at `address`, and answers until the runtime ends; gives where it listens.
///
/// # Errors
/// Invalid: it cannot be listened there.
pub async fn listen(address: SocketAddr, window: Arc<Window>) -> Result<SocketAddr, AnyFailure> {
    let refused = |error: std::io::Error| {
        AnyFailure::new(
            Class::Invalid,
            format!("http: cannot listen at {address}: {error}"),
            Some("choose another port for listen under [http]".into()),
        )
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router(window)).await {
            tracing::error!("http ended: {error}");
        }
    });
    Ok(address)
}

fn router(window: Arc<Window>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(window)
        .layer(middleware::from_fn(ours_only))
        .layer(RequestBodyLimitLayer::new(BODY_BYTES_MAX))
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

async fn ours_only(request: Request, next: Next) -> Response {
    match is_ours(request.headers()) {
        true => next.run(request).await,
        false => (
            StatusCode::MISDIRECTED_REQUEST,
            "ask for this host by its own name\n",
        )
            .into_response(),
    }
}

/// Whether the request names this host as itself.
fn is_ours(headers: &HeaderMap) -> bool {
    let named = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    named.is_some_and(|named| {
        let name = match named.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => named,
        };
        OUR_NAMES.iter().any(|ours| name.eq_ignore_ascii_case(ours))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_ours() {
        for (name, ours) in [
            ("localhost:7117", true),
            ("127.0.0.1:7117", true),
            ("[::1]:7117", true),
            ("LOCALHOST", true),
            ("evil.example:7117", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, name.parse().unwrap());
            assert_eq!(is_ours(&headers), ours, "{name}");
        }
        assert!(!is_ours(&HeaderMap::new()));
    }
}
