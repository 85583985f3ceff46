//! Stderr: progress bars, and the lines of the log above them.
//!
//! A bar shows bytes, rows, rate and time left while a job runs. Invariant: a line is never drawn
//! into a bar, and without a terminal there is no bar.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::global::{Globals, LogFormat, When};
use crate::cli::render;
use crate::job::Progress;

const KNOWN: &str = "{msg:<22} {wide_bar} {bytes}/{total_bytes} {prefix} {bytes_per_sec} {eta}";
const OPEN: &str = "{msg:<22} {spinner} {bytes} {prefix} {bytes_per_sec} {elapsed}";
const IDLE: &str = "{msg:<22} {spinner} {elapsed}";
const TICK: Duration = Duration::from_millis(120);

/// What stderr shows.
#[derive(Clone)]
pub struct Screen {
    drawn: bool,
    bar: Arc<Mutex<Option<ProgressBar>>>,
    rows: Arc<AtomicU64>,
}

impl Screen {
    /// A screen as the options ask for.
    pub fn new(globals: &Globals) -> Screen {
        let drawn = match globals.progress.unwrap_or_default() {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                io::stderr().is_terminal() && !globals.quiet && !globals.json && !dumb
            }
        };
        Screen {
            drawn,
            bar: Arc::default(),
            rows: Arc::default(),
        }
    }

    fn bar(&self) -> Option<ProgressBar> {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.clone()
    }

    /// Writes to stderr, above the bar.
    pub fn print(&self, text: &str) {
        let write = || {
            // Nobody can be told that stderr is closed.
            let _ = io::stderr().write_all(text.as_bytes());
        };
        match self.bar() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        let mut held = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = std::mem::replace(&mut *held, bar) {
            old.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .progress_chars("=> ")
}

impl Progress for Screen {
    fn stage(&self, name: &str, bytes: Option<u64>) {
        tracing::info!("{name}");
        if !self.drawn {
            return;
        }
        let template = if bytes.is_some() { KNOWN } else { IDLE };
        self.rows.store(0, Ordering::Relaxed);
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(bytes, target).with_style(style(template));
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(TICK);
        self.replace(Some(bar));
    }

    fn advance(&self, bytes: u64, rows: u64) {
        let Some(bar) = self.bar() else { return };
        let rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        if rows > 0 {
            bar.set_prefix(render::counted(rows, "row"));
        }
        match bar.length() {
            // What was expected is a guess.
            Some(length) => bar.set_length(length.max(bar.position() + bytes)),
            None if bar.position() == 0 => bar.set_style(style(OPEN)),
            None => {}
        }
        bar.inc(bytes);
    }

    fn end(&self) {
        self.replace(None);
    }

    fn warn(&self, sentence: &str) {
        tracing::warn!("{sentence}");
    }
}

/// Lines for people: `warning: a sentence`.
struct ForPeople;

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let word = match *event.metadata().level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        write!(writer, "{word}: ")?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

/// One line on its way to the screen.
pub struct Line(Screen);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.print(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log, which goes to the screen.
pub fn start_log(globals: &Globals, screen: &Screen) {
    let ours = match (globals.quiet, globals.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let others = match globals.verbose {
        0..=2 => LevelFilter::ERROR,
        _ => LevelFilter::DEBUG,
    };
    let filter = Targets::new()
        .with_target("rowvault", ours)
        .with_default(others);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(screen.clone())
        .with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (tests) keeps the first.
    let _ = match globals.log_format.unwrap_or_default() {
        LogFormat::Text => registry.with(layer.event_format(ForPeople)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
}
