//! Values of the configuration: text in, what is meant out, or which key is wrong and why.
//!
//! Invariant: every refusal names the file and the place in it, and shows no line of the file,
//! since it may hold a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono_tz::Tz;

use crate::config::secret::{self, Origin};
use crate::failure::{Class, Failure};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file says something that cannot be meant.
    #[error("{}, line {line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A value that cannot be meant.
    #[error("{}: {place}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        place: String,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file of a secret, or this one, is readable by others.
    #[error(transparent)]
    Secret(#[from] secret::Error),
}

impl Failure for Error {
    fn class(&self) -> Class {
        match self {
            Error::Secret(error) => error.class(),
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Class::Denied
            }
            _ => Class::Invalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Error::Secret(error) => error.hint(),
            Error::Line { hint, .. } | Error::Value { hint, .. } => hint.clone(),
            Error::Io { .. } => Some("--config names the file".into()),
        }
    }
}

/// Where variables of the environment come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What reads the values of one file.
pub(super) struct Reading<'a> {
    pub(super) path: &'a Path,
    pub(super) environment: Environment<'a>,
}

impl Reading<'_> {
    pub(super) fn wrong(&self, place: &str, what: String, hint: Option<String>) -> Error {
        Error::Value {
            path: self.path.to_owned(),
            place: place.to_owned(),
            what,
            hint,
        }
    }

    /// `text` with each `${NAME}` replaced.
    pub(super) fn expand(&self, place: &str, text: &str) -> Result<String, Error> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, after) = rest.split_at(at);
            out.push_str(before);
            let Some((name, behind)) = after[2..].split_once('}') else {
                return Err(self.wrong(place, "a ${ has no }".into(), None));
            };
            let value = (self.environment)(name).ok_or_else(|| {
                let what = format!("the environment has no variable {name:?}");
                self.wrong(place, what, Some(format!("set {name}, or write the value")))
            })?;
            out.push_str(&value);
            rest = behind;
        }
        out.push_str(rest);
        Ok(out)
    }

    pub(super) fn all(&self, place: &str, texts: Vec<String>) -> Result<Vec<String>, Error> {
        let expanded = texts.iter().map(|text| self.expand(place, text));
        expanded.collect()
    }

    pub(super) fn text(&self, place: &str, text: Option<String>) -> Result<Option<String>, Error> {
        text.map(|text| self.expand(place, &text)).transpose()
    }

    /// A path, from the configuration's own directory on.
    pub(super) fn file(&self, place: &str, text: Option<String>) -> Result<Option<PathBuf>, Error> {
        let text = self.text(place, text)?;
        Ok(text.map(|text| self.beside(Path::new(&text))))
    }

    /// A secret, from a file or from a command; not from both.
    pub(super) fn secret(
        &self,
        place: &str,
        key: &str,
        (file, command): (Option<String>, Option<Vec<String>>),
    ) -> Result<Option<Origin>, Error> {
        let file = self.file(&format!("{place}: {key}_file"), file)?;
        let Some(command) = command else {
            return Ok(file.map(Origin::File));
        };
        let wrong = |what: String, hint: &str| Err(self.wrong(place, what, Some(hint.into())));
        if file.is_some() {
            let what = format!("{key}_file and {key}_command are both given");
            return wrong(what, "keep one of them");
        }
        let words = words(self.all(&format!("{place}: {key}_command"), command)?);
        if words.is_empty() {
            let what = format!("{key}_command has no words");
            return wrong(what, "write it as [\"/usr/local/bin/show-secret crm\"]");
        }
        Ok(Some(Origin::Command(words)))
    }

    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        let directory = self.path.parent().unwrap_or(Path::new(""));
        directory.join(path)
    }

    /// A span of time, such as 30d.
    pub(super) fn span(&self, place: &str, key: &str, text: &str) -> Result<Duration, Error> {
        let text = self.expand(place, text)?;
        humantime::parse_duration(&text).map_err(|_| {
            let what = format!("{key}: {text:?} is no span of time");
            self.wrong(place, what, Some("write it as 36h or 30d".into()))
        })
    }

    pub(super) fn zone(&self, place: &str, text: Option<String>, default: Tz) -> Result<Tz, Error> {
        let Some(text) = self.text(place, text)? else {
            return Ok(default);
        };
        text.parse().map_err(|_| {
            let what = format!("{text:?} is not a time zone");
            self.wrong(place, what, Some("write it as Europe/Warsaw or UTC".into()))
        })
    }
}

/// A command's words: one text is split at its blanks, several are the words as they are.
pub(super) fn words(texts: Vec<String>) -> Vec<String> {
    match texts.as_slice() {
        [line] => line.split_whitespace().map(str::to_owned).collect(),
        _ => texts,
    }
}
