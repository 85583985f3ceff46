//! From object_store's errors to ours: what a status, an I/O error or a broken answer means.
//!
//! object_store keeps its own HTTP error private, so the status and the server's code are read
//! from its text; tests against a real server hold that reading. Invariant: whatever is not
//! understood counts as transient and unclear, which is retried in a budget and never believed.

use std::error::Error as StdError;
use std::io::ErrorKind;

use object_store::client::{HttpError, HttpErrorKind};

use crate::store::error::Trouble;

const REASON_LENGTH_MAX: usize = 300;
const CHAIN_LENGTH_MAX: usize = 16;

/// What `error` means for the request that it ended.
pub(crate) fn classify(error: &object_store::Error) -> Trouble {
    if let Some(answer) = Answer::of(error) {
        return match by_status(&answer) {
            trouble @ Trouble::Transient(_) => trouble,
            _ if asks_machine(error) => no_credentials(),
            trouble => trouble,
        };
    }
    if asks_machine(error) {
        return no_credentials();
    }
    match error {
        object_store::Error::NotFound { .. } => Trouble::Missing,
        object_store::Error::AlreadyExists { .. }
        | object_store::Error::Precondition { .. }
        | object_store::Error::NotModified { .. } => Trouble::Conflict,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Trouble::Denied(innermost(error)),
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            Trouble::NotSupported(innermost(error))
        }
        object_store::Error::InvalidPath { .. }
        | object_store::Error::UnknownConfigurationKey { .. } => Trouble::Invalid(innermost(error)),
        _ => by_cause(error),
    }
}

/// Whether the failed request asked the machine who it is, for want of credentials.
fn asks_machine(error: &object_store::Error) -> bool {
    let addresses = [
        "169.254.169.254",
        "169.254.170.2",
        "metadata.google.internal",
    ];
    chain(error).any(|cause| {
        let text = cause.to_string();
        addresses.iter().any(|address| text.contains(address))
    })
}

fn no_credentials() -> Trouble {
    let why = "no credentials were given, and the machine has none to give";
    Trouble::Denied(why.to_owned())
}

/// What a server answered.
struct Answer {
    status: u16,
    code: String,
    message: String,
}

impl Answer {
    fn of(error: &object_store::Error) -> Option<Answer> {
        chain(error)
            .map(|cause| cause.to_string())
            .find_map(|text| {
                let (_, rest) = text.split_once("non-2xx status code: ")?;
                Some(Answer {
                    status: rest.get(..3)?.parse().ok()?,
                    code: element(rest, "Code"),
                    message: element(rest, "Message"),
                })
            })
    }

    fn reason(&self) -> String {
        let mut reason = format!("HTTP {}", self.status);
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                reason.push(' ');
                reason.push_str(part);
            }
        }
        shorten(reason)
    }
}

/// What an answer to a request of our own means.
pub(crate) fn answered(status: u16, text: &str) -> Trouble {
    by_status(&Answer {
        status,
        code: element(text, "Code"),
        message: element(text, "Message"),
    })
}

/// What a request of our own means that had no answer.
pub(crate) fn unreached(error: &reqwest::Error) -> Trouble {
    // Its text may hold the signature of the request.
    match error.is_connect() {
        true => Trouble::Unreached("the server cannot be reached".into()),
        false => Trouble::Transient("the connection broke".into()),
    }
}

/// The text of the first XML element `name`; a server's message holds no nested element there.
fn element(text: &str, name: &str) -> String {
    let open = format!("<{name}>");
    let close = format!("</{name}>");
    let inside = text
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close))
        .map_or("", |(inside, _)| inside);
    inside.chars().filter(|c| !c.is_control()).collect()
}

fn by_status(answer: &Answer) -> Trouble {
    let reason = answer.reason();
    let code = answer.code.as_str();
    let full = ["QuotaExceeded", "StorageFull", "InsufficientStorage"];
    if full.iter().any(|part| code.contains(part)) {
        return Trouble::Full(reason);
    }
    match answer.status {
        300..=399 => Trouble::Invalid(format!("{reason}: the region or the endpoint is wrong")),
        400 => by_code(code, reason),
        401 | 403 | 407 => Trouble::Denied(reason),
        404 if code == "NoSuchBucket" || code == "ContainerNotFound" => Trouble::Invalid(reason),
        404 => Trouble::Missing,
        405 | 501 => Trouble::NotSupported(reason),
        409 | 412 => Trouble::Conflict,
        416 => Trouble::Misfit(reason),
        507 => Trouble::Full(reason),
        408 | 425 | 429 | 500..=599 => Trouble::Transient(reason),
        _ => Trouble::Invalid(reason),
    }
}

/// A bad request is our mistake, an expired token, or bytes that were lost on the way.
fn by_code(code: &str, reason: String) -> Trouble {
    match code {
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "InvalidAccessKeyId" => {
            Trouble::Denied(reason)
        }
        "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch" => {
            Trouble::Transient(reason)
        }
        _ => Trouble::Invalid(reason),
    }
}

fn by_cause(error: &object_store::Error) -> Trouble {
    let reason = innermost(error);
    let text = chain(error)
        .map(|cause| cause.to_string())
        .collect::<Vec<_>>()
        .join(": ");
    if let Some(trouble) = by_words(&text, &reason) {
        return trouble;
    }
    for cause in chain(error) {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && let Some(trouble) = by_io(io.kind(), &reason)
        {
            return trouble;
        }
        if let Some(http) = cause.downcast_ref::<HttpError>()
            && http.kind() == HttpErrorKind::Connect
        {
            return Trouble::Unreached(reason);
        }
    }
    Trouble::Transient(reason)
}

/// What only the text tells.
fn by_words(text: &str, reason: &str) -> Option<Trouble> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let misfit = [
        "non-partial response",
        "Content-Range header",
        "Requested range was invalid",
        "Wanted range starting",
        "Out of range of file",
        ", got ",
    ];
    if has(&["redirect without LOCATION"]) {
        let why = "the storage redirects without saying where; the region is probably wrong";
        Some(Trouble::Invalid(why.to_owned()))
    } else if has(&["certificate", "UnknownIssuer", "NotValidForName"]) {
        Some(Trouble::Invalid(format!(
            "the server's certificate is not trusted: {reason}"
        )))
    } else if has(&misfit) {
        Some(Trouble::Misfit(reason.to_owned()))
    } else {
        None
    }
}

fn by_io(kind: ErrorKind, reason: &str) -> Option<Trouble> {
    let reason = reason.to_owned();
    match kind {
        ErrorKind::NotFound => Some(Trouble::Missing),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Some(Trouble::Denied(reason))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Some(Trouble::Full(reason))
        }
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidFilename => {
            Some(Trouble::Invalid(reason))
        }
        ErrorKind::Unsupported => Some(Trouble::NotSupported(reason)),
        _ => None,
    }
}

/// The error and its causes, outermost first.
fn chain<'a>(error: &'a object_store::Error) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let first: &'a (dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |cause: &&'a (dyn StdError + 'static)| {
        (*cause).source()
    })
    .take(CHAIN_LENGTH_MAX)
}

fn innermost(error: &object_store::Error) -> String {
    shorten(
        chain(error)
            .last()
            .map(|cause| cause.to_string())
            .unwrap_or_default(),
    )
}

fn shorten(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(REASON_LENGTH_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Trouble {
        let text = format!(
            "Server returned non-2xx status code: {status} Some Words: \
             <Error><Code>{code}</Code><Message>m</Message></Error>"
        );
        classify(&object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        })
    }

    #[test]
    fn statuses_and_codes_mean_what_the_caller_must_do() {
        use Trouble::*;
        let said = |status: u16, code: &str| format!("HTTP {status} {code} m");
        for (status, code, expected) in [
            (403, "AccessDenied", Denied(said(403, "AccessDenied"))),
            (400, "ExpiredToken", Denied(said(400, "ExpiredToken"))),
            (
                400,
                "InvalidBucketName",
                Invalid(said(400, "InvalidBucketName")),
            ),
            (404, "NoSuchBucket", Invalid(said(404, "NoSuchBucket"))),
            (404, "NoSuchKey", Missing),
            (409, "ConditionalRequestConflict", Conflict),
            (412, "PreconditionFailed", Conflict),
            (416, "InvalidRange", Misfit(said(416, "InvalidRange"))),
            (429, "SlowDown", Transient(said(429, "SlowDown"))),
            (500, "InternalError", Transient(said(500, "InternalError"))),
            (
                501,
                "NotImplemented",
                NotSupported(said(501, "NotImplemented")),
            ),
            (503, "SlowDown", Transient(said(503, "SlowDown"))),
            (
                507,
                "XMinioStorageFull",
                Full(said(507, "XMinioStorageFull")),
            ),
        ] {
            assert_eq!(answer(status, code), expected);
        }
    }

    #[test]
    fn a_certificate_error_is_never_retried() {
        let error = object_store::Error::Generic {
            store: "S3",
            source: "invalid peer certificate: UnknownIssuer".into(),
        };
        assert!(matches!(classify(&error), Trouble::Invalid(_)));
    }

    #[test]
    fn what_a_disk_says_is_understood() {
        let said = |kind: ErrorKind| {
            classify(&object_store::Error::Generic {
                store: "directory",
                source: Box::new(std::io::Error::from(kind)),
            })
        };
        assert!(matches!(said(ErrorKind::StorageFull), Trouble::Full(_)));
        assert!(matches!(said(ErrorKind::QuotaExceeded), Trouble::Full(_)));
        assert!(matches!(
            said(ErrorKind::ReadOnlyFilesystem),
            Trouble::Denied(_)
        ));
        assert!(matches!(
            said(ErrorKind::PermissionDenied),
            Trouble::Denied(_)
        ));
        assert!(matches!(said(ErrorKind::TimedOut), Trouble::Transient(_)));
        assert_eq!(said(ErrorKind::NotFound), Trouble::Missing);
    }

    #[test]
    fn an_unknown_error_is_transient_and_unclear() {
        let error = object_store::Error::Generic {
            store: "S3",
            source: "something new".into(),
        };
        let trouble = classify(&error);
        assert!(!trouble.is_definite());
        assert!(matches!(trouble, Trouble::Transient(_)));
    }

    #[test]
    fn a_long_answer_is_cut() {
        let error = object_store::Error::Generic {
            store: "S3",
            source: "é".repeat(10_000).into(),
        };
        assert!(classify(&error).reason().chars().count() <= REASON_LENGTH_MAX + 1);
    }
}
