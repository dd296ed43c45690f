//! Log lines, for people or for programs, and never more than anybody reads: each place in the code has a rate, and what
//! is left out is counted and told.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use skynet_core::time::Instant;
use skynet_relay::clock::Clock;
use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber, warn};
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Lines at once from one place in the code.
const BURST: u32 = 20;
/// And one more each.
const EACH: Duration = Duration::from_millis(500);
/// Between two reports of what was left out.
const REPORT: Duration = Duration::from_secs(60);

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

static CAP: OnceLock<Cap> = OnceLock::new();

/// Begins to log to standard error; `SKYNET_LOG` chooses what.
pub(crate) fn start(format: Format) {
    let cap = CAP.get_or_init(|| Cap { clock: Clock::new(), places: Mutex::default() });
    let filter = EnvFilter::try_from_env("SKYNET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines.with_filter(cap)).init();
}

/// Says for ever, once a minute, what was left out.
pub(super) async fn tell_left_out() {
    loop {
        tokio::time::sleep(REPORT).await;
        for (place, lines) in CAP.get().map(Cap::take_left_out).unwrap_or_default() {
            warn!(place, lines, "log lines left out, more than {BURST} at once of one kind");
        }
    }
}

struct Cap {
    clock: Clock,
    /// As many as there are places in the code that log.
    places: Mutex<HashMap<Identifier, Place>>,
}

struct Place {
    name: &'static str,
    lines: u32,
    since: Instant,
    left_out: u64,
}

impl Cap {
    /// Whether a line of that place may be written at `now`.
    fn allows(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Place { name: metadata.name(), lines: BURST, since: now, left_out: 0 };
        let place = places.entry(metadata.callsite()).or_insert_with(new);
        let earned = now.saturating_since(place.since).as_nanos() / EACH.as_nanos();
        if earned > 0 {
            place.lines = place.lines.saturating_add(earned.try_into().unwrap_or(u32::MAX)).min(BURST);
            place.since = now;
        }
        let is_allowed = place.lines > 0;
        place.lines = place.lines.saturating_sub(1);
        place.left_out += u64::from(!is_allowed);
        is_allowed
    }

    /// What was left out since the last time, by place.
    fn take_left_out(&self) -> Vec<(&'static str, u64)> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out: Vec<_> =
            places.values_mut().map(|place| (place.name, std::mem::take(&mut place.left_out))).collect();
        left_out.retain(|(_, lines)| *lines > 0);
        left_out.sort_unstable();
        left_out
    }
}

impl<S: Subscriber> Filter<S> for &'static Cap {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.allows(event.metadata(), self.clock.now().mono)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tracing::subscriber::with_default;

    #[test]
    fn a_place_that_says_too_much_is_cut_and_others_are_not() {
        let cap: &'static Cap = Box::leak(Box::new(Cap { clock: Clock::new(), places: Mutex::default() }));
        let writer = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&writer);
        let layer = fmt::layer().json().with_writer(move || Sink(Arc::clone(&sink)));
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(cap));
        with_default(subscriber, || {
            (0..1_000).for_each(|n| warn!(n, "again"));
            warn!("something else");
        });
        let text = String::from_utf8(writer.lock().unwrap().clone()).unwrap();
        let parsed: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let count = |message: &str| parsed.iter().filter(|line| line["fields"]["message"] == message).count();
        // A slow machine may earn one or two more.
        assert!((20..30).contains(&count("again")), "{}", count("again"));
        assert_eq!(count("something else"), 1);
        let left_out = cap.take_left_out();
        assert_eq!(left_out.iter().map(|(_, n)| *n).sum::<u64>() as usize, 1_000 - count("again"));
        assert!(cap.take_left_out().is_empty());
    }

    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
