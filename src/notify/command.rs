//! Commands: a message as JSON on the standard input of a program of the site.
//!
//! Invariant: the program gets no secret of rowvault's environment, and is ended when it takes
//! longer than a delivery may.

use std::process::Stdio;

use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::notify::{Channel, Message};
use crate::program;

/// A program that gets messages.
pub struct Program {
    /// The program and its arguments.
    pub words: Vec<String>,
}

impl Channel for Program {
    fn name(&self) -> String {
        let program = self.words.first().map_or("", String::as_str);
        format!("the command {program}")
    }

    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let (program, arguments) = self.words.split_first().ok_or("there is none")?;
            let mut child = Command::from(program::named(program))
                .args(arguments)
                .env("ROWVAULT_SUBJECT", message.subject())
                .env("ROWVAULT_TEXT", message.text())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| error.to_string())?;
            if let Some(mut input) = child.stdin.take() {
                let body = serde_json::to_vec(message).expect("it is plain data");
                // A program that reads nothing has the environment.
                let _ = input.write_all(&body).await;
            }
            let status = child.wait().await.map_err(|error| error.to_string())?;
            match status.success() {
                true => Ok(()),
                false => Err(format!("it ended with {status}")),
            }
        })
    }
}
