//! Which database a person means: a name of the configuration, or a URL.
//!
//! Invariant: a password in an argument is taken with a warning, and no message repeats it.

use crate::cli::session::Session;
use crate::config;
use crate::failure::{AnyFailure, Class};
use crate::id::SourceName;
use crate::source::address::{Ownership, SourceOptions, SourceUrl, TablePattern, TargetOptions};

/// A database that is to be read.
pub struct Chosen<'a> {
    /// Its name in the repository.
    pub name: SourceName,
    /// Its address.
    pub url: SourceUrl,
    /// What the configuration says of it.
    pub config: Option<&'a config::Source>,
}

impl Chosen<'_> {
    /// How it is captured; `exclude` adds to what the configuration leaves out.
    pub fn options(&self, session: &Session, exclude: &[String]) -> SourceOptions {
        let mut options = SourceOptions {
            clock: session.clock.clone(),
            random: session.random.clone(),
            pg_bin_dir: session.config.pg_bin_dir.clone(),
            ..SourceOptions::default()
        };
        if let Some(config) = self.config {
            options.exclude_tables = config.exclude_tables.clone();
            options.exclude_data = config.exclude_data.clone();
            options.parallel = config.parallel;
            options.questions = config.drill.expected.questions();
        }
        let more = exclude.iter().map(|text| TablePattern::new(text.as_str()));
        options.exclude_tables.extend(more);
        options
    }
}

fn looks_like_url(text: &str) -> bool {
    text.contains(':')
}

fn parse(text: &str) -> Result<SourceUrl, AnyFailure> {
    let url: SourceUrl = text.parse()?;
    if url.has_password() {
        tracing::warn!(
            "a password in an argument is seen by everybody on this host; password_file in the configuration is not"
        );
    }
    Ok(url)
}

/// The database that `text` names, to be read; `name` is what it is called in the repository.
///
/// # Errors
/// Invalid: no such name in the configuration, no URL, or no name that could be used.
pub fn source<'a>(
    session: &'a Session,
    text: &str,
    name: Option<&SourceName>,
) -> Result<Chosen<'a>, AnyFailure> {
    if !looks_like_url(text) {
        let config = configured(session, text)?;
        return Ok(Chosen {
            name: name.unwrap_or(&config.name).clone(),
            url: config.address()?,
            config: Some(config),
        });
    }
    let url = parse(text)?;
    let default = || {
        url.default_name().ok_or_else(|| {
            AnyFailure::new(
                Class::Invalid,
                format!("{url} has no name that a source could have"),
                Some("name it: --name NAME, 1 to 64 of a-z, 0-9, '.', '_' and '-'".into()),
            )
        })
    };
    let name = name.cloned().map_or_else(default, Ok)?;
    Ok(Chosen {
        name,
        url,
        config: None,
    })
}

fn configured<'a>(session: &'a Session, text: &str) -> Result<&'a config::Source, AnyFailure> {
    let sources = &session.config.sources;
    if let Some(found) = sources.iter().find(|one| one.name.as_str() == text) {
        return Ok(found);
    }
    let names: Vec<&str> = sources.iter().map(|one| one.name.as_str()).collect();
    let hint = match names.is_empty() {
        true => format!("to read a file, say sqlite:{text}; a server is postgres://… or mysql://…"),
        false => format!(
            "it has {}; a database has a URL, such as sqlite:PATH",
            names.join(", ")
        ),
    };
    Err(AnyFailure::new(
        Class::Invalid,
        format!("the configuration has no source {text:?}"),
        Some(hint),
    ))
}

/// The place that `text` names, to be made.
///
/// # Errors
/// As [`source`].
pub fn target(session: &Session, text: &str) -> Result<SourceUrl, AnyFailure> {
    match looks_like_url(text) {
        true => parse(text),
        false => configured(session, text)?.address(),
    }
}

/// How a target is made.
pub fn target_options(
    session: &Session,
    parallel: Option<usize>,
    ownership: Ownership,
) -> TargetOptions {
    let default = TargetOptions::default();
    TargetOptions {
        parallel: parallel.unwrap_or(default.parallel),
        ownership,
        clock: session.clock.clone(),
        random: session.random.clone(),
        pg_bin_dir: session.config.pg_bin_dir.clone(),
        ..default
    }
}
