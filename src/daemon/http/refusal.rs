//! Refusals of HTTP: why a request got nothing, as a status and a document.
//!
//! Invariant: a refusal tells nobody without a token what there is, and shows no token.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::token::Role;
use crate::document::FailureDocument;
use crate::failure::{AnyFailure, Class};

/// Why a request got nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names another host.
    AnotherHost,
    /// It brings no token.
    NoToken,
    /// Its token is none of ours.
    WrongToken,
    /// Its token may less.
    Role(Role),
    /// It comes too often; how long to wait.
    TooOften(Duration),
    /// It is longer than any request need be.
    TooLong,
    /// There is nothing by that name.
    Unknown,
    /// It cannot be meant: the sentence.
    Meaning(String),
    /// A failure: its class, and its words.
    Failed(Class, String, Option<String>),
}

impl From<AnyFailure> for Refusal {
    fn from(failure: AnyFailure) -> Refusal {
        Refusal::Failed(failure.class(), failure.to_string(), failure.hint())
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::AnotherHost => StatusCode::MISDIRECTED_REQUEST,
            Refusal::NoToken | Refusal::WrongToken => StatusCode::UNAUTHORIZED,
            Refusal::Role(_) => StatusCode::FORBIDDEN,
            Refusal::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Unknown => StatusCode::NOT_FOUND,
            Refusal::Meaning(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Failed(class, ..) => match class {
                Class::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                Class::Missing => StatusCode::NOT_FOUND,
                Class::Conflict => StatusCode::CONFLICT,
                Class::Denied => StatusCode::FORBIDDEN,
                Class::Busy | Class::Transient | Class::Unsettled => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                Class::Corrupt | Class::Bug => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn failure(self) -> AnyFailure {
        let of =
            |class, what: &str, hint: &str| AnyFailure::new(class, what, Some(hint.to_owned()));
        match self {
            Refusal::AnotherHost => of(
                Class::Invalid,
                "the request names another host",
                "ask for this host by its own name, or one of names under [http]",
            ),
            Refusal::NoToken => of(
                Class::Denied,
                "the request brings no token",
                "send 'Authorization: Bearer TOKEN'",
            ),
            Refusal::WrongToken => of(
                Class::Denied,
                "the token is not known here",
                "'rowvault key token' makes one",
            ),
            Refusal::Role(role) => of(
                Class::Denied,
                &format!("this takes the role {}", role.name()),
                "ask with a token of that role",
            ),
            Refusal::TooOften(_) => of(
                Class::Busy,
                "too many requests, or wrong tokens, from this address",
                "wait as long as Retry-After says",
            ),
            Refusal::TooLong => of(
                Class::Invalid,
                "the body of the request is too long",
                "docs/openapi.json says what is expected",
            ),
            Refusal::Unknown => of(
                Class::Missing,
                "there is nothing here by that name",
                "docs/openapi.json lists what there is",
            ),
            Refusal::Meaning(what) => of(
                Class::Invalid,
                &what,
                "docs/openapi.json says what is expected",
            ),
            Refusal::Failed(class, what, hint) => AnyFailure::new(class, what, hint),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let extra = match &self {
            Refusal::NoToken | Refusal::WrongToken => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Refusal::TooOften(wait) => Some((
                header::RETRY_AFTER,
                HeaderValue::from(wait.as_secs().max(1)),
            )),
            _ => None,
        };
        let document = FailureDocument::new(&self.failure());
        let mut response = (status, Json(document)).into_response();
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
