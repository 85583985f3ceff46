//! The `rowvault` binary: parse, run, failure class to exit code.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use rowvault::cli::session::Session;
use rowvault::cli::stop::{Stop, Stopper};
use rowvault::cli::{self, Cli, Verb};
use rowvault::demo;
use rowvault::failpoint;
use rowvault::failure::AnyFailure;
use rowvault::program;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// How long what was started may take to end once the verb is done.
const SHUTDOWN: Duration = Duration::from_secs(10);
const FAILED: u8 = 1;

fn main() -> ExitCode {
    report_panics();
    failpoint::arm();
    let code = match cli::parse(std::env::args_os()) {
        Ok(cli) => {
            if let Some(heaps) = heaps(&cli.verb) {
                program::begin_anew(heaps);
            }
            run(cli)
        }
        Err(code) => code,
    };
    ExitCode::from(code)
}

/// How many heaps a verb has, where that is not left to the allocator: each keeps the most that it
/// ever held. Each job of a daemon brings threads of its own; rows that are read or written go
/// through the hands of a few.
fn heaps(verb: &Verb) -> Option<&'static str> {
    match verb {
        Verb::Daemon(_) => Some("1"),
        Verb::Backup(_) | Verb::Restore(_) | Verb::Drill(_) => Some("2"),
        _ => None,
    }
}

fn run(cli: Cli) -> u8 {
    // The provider is the process's; nothing else installs one, and a second is no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match runtime(&cli.verb) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return FAILED;
        }
    };
    let (stopper, stop) = Stop::new();
    let work = || {
        runtime.block_on(async {
            tokio::spawn(listen(stopper));
            cli::run(cli, stop, tell_demo).await
        })
    };
    // A panic has been told by its hook.
    let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(FAILED);
    runtime.shutdown_timeout(SHUTDOWN);
    code
}

/// The demo stands above the command line, and so is handed to it here.
fn tell_demo<'a>(
    session: &'a Session,
    arguments: &'a cli::Demo,
) -> LocalBoxFuture<'a, Result<(), AnyFailure>> {
    Box::pin(async move {
        let (clock, random) = (session.clock.clone(), session.random.clone());
        let mut out = session.output.clone();
        demo::run(arguments.keep.as_deref(), clock, random, &mut out).await
    })
}

/// A backup reads all its rows in one task: on the thread that watches the sockets, nobody has to be
/// woken for it. What needs a processor for long has threads of its own.
fn runtime(verb: &Verb) -> std::io::Result<Runtime> {
    if matches!(verb, Verb::Backup(_)) {
        return Builder::new_current_thread().enable_all().build();
    }
    let workers = std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
}

/// Tells the verb of the first signal; the second ends the process where it stands.
async fn listen(stopper: Stopper) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    for count in 0.. {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if count > 0 {
            std::process::exit(i32::from(FAILED));
        }
        stopper.send_replace(Some(name));
    }
}

/// A panic is a mistake of this program: one line, and nothing of what it was working on.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), ToString::to_string);
        let version = env!("CARGO_PKG_VERSION");
        eprintln!("error: rowvault {version} has a mistake at {place}; please report this line");
    }));
}
