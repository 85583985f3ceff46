//! S3 and its relatives: from options and `AWS_*` variables to a client.
//!
//! Options come before variables. Invariant: without a word that names it, plain http goes to this
//! machine only, certificates are always verified, and nothing is retried here.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path as FilePath;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::{BackoffConfig, Certificate, ClientOptions, HeaderMap, RetryConfig};

use secrecy::ExposeSecret;

use crate::store::options::{Addressing, PlainHttp, S3Options, StoreOptions};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const OWN_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CA_FILE_BYTES_MAX: u64 = 4 << 20;

/// A client for this bucket, or what is wrong with the options.
pub(crate) fn open(bucket: &str, options: &StoreOptions) -> Result<AmazonS3, String> {
    open_with(bucket, options, None)
}

/// A client whose every request carries these headers.
pub(crate) fn open_with(
    bucket: &str,
    options: &StoreOptions,
    headers: Option<HeaderMap>,
) -> Result<AmazonS3, String> {
    let s3 = &options.s3;
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(s3.addressing == Addressing::VirtualHost)
        .with_disable_bulk_delete(true)
        .with_retry(no_retries());
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(own) = &s3.credentials {
        builder = builder
            .with_access_key_id(&own.access_key_id)
            .with_secret_access_key(own.secret_access_key.expose_secret());
    }
    let endpoint = endpoint(s3, &builder);
    let plain_http = match &endpoint {
        Some(endpoint) => plain_http(endpoint, s3)?,
        None => false,
    };
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint.clone())
            .with_endpoint(endpoint);
    }
    let mut client = client(s3.ca_file.as_deref(), plain_http)?;
    if let Some(headers) = headers {
        client = client.with_default_headers(headers);
        // A lock is refused without a checksum of the body.
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    builder
        .with_client_options(client)
        .build()
        .map_err(|error| error.to_string())
}

/// object_store's own retries off: the budget of `retry` is the only one.
pub(crate) fn no_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

/// How any client connects; deadlines are reckoned per request, so it has none of its own.
pub(crate) fn client(
    ca_file: Option<&FilePath>,
    plain_http: bool,
) -> Result<ClientOptions, String> {
    let mut client = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(plain_http);
    if let Some(path) = ca_file {
        for certificate in certificates(path)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// A client for requests of our own.
pub(crate) fn http(ca_file: Option<&FilePath>) -> Result<reqwest::Client, String> {
    let mut client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(OWN_REQUEST_TIMEOUT);
    if let Some(path) = ca_file {
        let pem = std::fs::read(path).map_err(|error| error.to_string())?;
        let found = reqwest::Certificate::from_pem_bundle(&pem);
        for certificate in found.map_err(|error| error.to_string())? {
            client = client.add_root_certificate(certificate);
        }
    }
    client.build().map_err(|error| error.to_string())
}

fn certificates(path: &FilePath) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("the CA file {shown} cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut pem = Vec::new();
    file.take(CA_FILE_BYTES_MAX)
        .read_to_end(&mut pem)
        .map_err(failed)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("the CA file {shown} holds no certificate")),
        Err(error) => Err(format!("the CA file {shown} is not PEM: {error}")),
    }
}

/// The server's URL: the option, then the variable for S3, then the one for all of AWS.
fn endpoint(s3: &S3Options, builder: &AmazonS3Builder) -> Option<String> {
    let set = |key| {
        builder
            .get_config_value(&key)
            .filter(|text| !text.is_empty())
    };
    s3.endpoint
        .clone()
        .or_else(|| set(AmazonS3ConfigKey::S3Endpoint))
        .or_else(|| set(AmazonS3ConfigKey::Endpoint))
}

/// Whether this endpoint may be spoken to without TLS.
fn plain_http(endpoint: &str, s3: &S3Options) -> Result<bool, String> {
    let url = url::Url::parse(endpoint)
        .map_err(|error| format!("the endpoint {endpoint:?} is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the endpoint must not hold credentials".to_owned());
    }
    let named = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|word| word == "true" || word == "1");
    match url.scheme() {
        "https" => Ok(false),
        "http" if is_loopback(&url) => Ok(true),
        "http" if s3.plain_http == PlainHttp::Anywhere || named => Ok(true),
        "http" => Err(format!(
            "the endpoint {endpoint} has no TLS; plain http beyond this machine must be allowed by name"
        )),
        _ => Err(format!("the endpoint {endpoint} is neither https nor http")),
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(endpoint: &str, plain_http: PlainHttp) -> Result<bool, String> {
        let s3 = S3Options {
            plain_http,
            ..S3Options::default()
        };
        super::plain_http(endpoint, &s3)
    }

    #[test]
    fn plain_http_leaves_the_machine_only_when_allowed_by_name() {
        let only = PlainHttp::LoopbackOnly;
        assert_eq!(allowed("https://s3.example", only), Ok(false));
        assert_eq!(allowed("http://127.0.0.1:9000", only), Ok(true));
        assert_eq!(allowed("http://[::1]:9000", only), Ok(true));
        assert_eq!(allowed("http://localhost:9000", only), Ok(true));
        assert!(allowed("http://s3.example", only).is_err());
        assert!(allowed("http://127.0.0.1.example", only).is_err());
        assert_eq!(allowed("http://s3.example", PlainHttp::Anywhere), Ok(true));
        assert!(allowed("ftp://s3.example", PlainHttp::Anywhere).is_err());
        assert!(allowed("https://key:secret@s3.example", only).is_err());
    }

    #[test]
    fn a_bad_ca_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let said = certificates(path).unwrap_err();
        assert!(said.contains(&path.display().to_string()), "{said}");
        assert!(certificates(FilePath::new("/nowhere/ca.pem")).is_err());
    }
}
