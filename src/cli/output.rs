//! What goes to stdout, and how failures are told.
//!
//! A reader of stdout that went away ends the output and is no failure. Invariant: with `--json`
//! stdout gets one document and nothing else; a failure has three lines at most.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::document::FailureDocument;
use crate::failure::AnyFailure;

/// Whether results are for people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Standard output.
#[derive(Clone, Debug)]
pub struct Output {
    style: Style,
    quiet: bool,
    closed: Arc<AtomicBool>,
}

impl Output {
    /// Standard output in this style; with `quiet`, what went well is not told in words.
    pub fn new(style: Style, quiet: bool) -> Output {
        Output {
            style,
            quiet,
            closed: Arc::default(),
        }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Prints what was asked for, as a text that ends with a newline.
    ///
    /// # Errors
    /// Where stdout cannot be written, a full disk behind it for one.
    pub fn text(&self, text: &str) -> Result<(), AnyFailure> {
        let mut out = self.clone();
        Ok(out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(crate::repo::value::Error::from)?)
    }

    /// Prints what was done, unless `--quiet` asks for silence.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn done(&self, text: &str) -> Result<(), AnyFailure> {
        match self.quiet {
            true => Ok(()),
            false => self.text(text),
        }
    }

    /// Prints the one document.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn document(&self, document: &impl Serialize) -> Result<(), AnyFailure> {
        let text = serde_json::to_string(document).expect("outcomes are plain data");
        self.text(&format!("{text}\n"))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed() {
            return Ok(bytes.len());
        }
        match io::stdout().write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(bytes.len())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other,
        }
    }
}

/// The lines that tell a failure: what and where, then what to do.
pub fn failure_text(failure: &AnyFailure, style: Style) -> String {
    if style == Style::Json {
        let document = FailureDocument::new(failure);
        let text = serde_json::to_string(&document).expect("a failure is plain data");
        return format!("{text}\n");
    }
    let mut text = format!("{}{}\n", label("error"), one_line(&failure.to_string()));
    if let Some(hint) = failure.hint() {
        text.push_str(&format!("{}{}\n", label("hint"), one_line(&hint)));
    }
    text
}

/// `word: `, in colour where a person's terminal shows it.
fn label(word: &str) -> String {
    let coloured = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    match (coloured, word) {
        (true, "error") => "\x1b[1;31merror\x1b[0m: ".into(),
        (true, word) => format!("\x1b[1m{word}\x1b[0m: "),
        (false, word) => format!("{word}: "),
    }
}

/// Servers answer in several lines; and no text of theirs moves a person's cursor.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let joined = lines.join("; ");
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    joined.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;

    fn failure() -> AnyFailure {
        AnyFailure::new(Class::Busy, "a\nb \x1b[2J", Some("wait".into()))
    }

    #[test]
    fn failures_are_two_lines_without_control_characters() {
        let text = failure_text(&failure(), Style::Text);
        assert_eq!(text, "error: a; b  [2J\nhint: wait\n");
    }

    #[test]
    fn failures_for_programs_have_class_message_and_hint() {
        let text = failure_text(&failure(), Style::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["error"]["class"], "busy");
        assert_eq!(value["error"]["hint"], "wait");
        assert_eq!(value["error"].as_object().unwrap().len(), 3);
    }
}
