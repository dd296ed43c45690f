//! A machine that belongs to no network and has no token: it runs, and goes on looking for what it is to be.

use std::pin::Pin;
use std::time::Duration;

use skynet_core::time::Instant;

use super::agent::sleep_until;
use crate::boot::Places;
use crate::clock;
use crate::config::{BootMetadata, BootSettings, Config};

/// A metadata service may be there only after the machine's network is,
const OFTEN: Duration = Duration::from_secs(5);
/// which does not take longer than this;
const OFTEN_FOR: Duration = Duration::from_secs(300);
/// and somebody may give the machine an attribute at any time.
const SELDOM: Duration = Duration::from_secs(60);

/// What `status` says meanwhile.
pub(super) const WAITS: &str = "no join token yet: none is configured, and the cloud's metadata have none; looking again and \
                                again. The cure: skynet-agent up --token skj1.…, or user-data (docs/IMAGES.md)";

/// The search.
pub(super) struct Search {
    mode: BootMetadata,
    begun: Instant,
    due: Option<Instant>,
    look: Option<Pin<Box<dyn Future<Output = Vec<BootSettings>>>>>,
}

impl Search {
    /// Begins if the configuration has nothing to join with.
    pub(super) fn new(config: &Config, has_nothing: bool) -> Self {
        let now = clock::monotonic();
        let searches = has_nothing && config.boot_metadata != BootMetadata::Never;
        let due = searches.then_some(now + OFTEN);
        Self { mode: config.boot_metadata, begun: now, due, look: None }
    }

    /// Somebody has told this machine what it is, or will never.
    pub(super) fn end(&mut self) {
        self.due = None;
        self.look = None;
    }

    pub(super) fn is_on(&self) -> bool {
        self.due.is_some()
    }

    /// Settings that were found. Loses nothing if dropped while waiting.
    pub(super) async fn next(&mut self) -> Vec<BootSettings> {
        loop {
            if self.look.is_none() {
                sleep_until(self.due).await;
                let mode = self.mode;
                self.look = Some(Box::pin(async move { Places::default().look(mode).await }));
            }
            let Some(look) = &mut self.look else { continue };
            let found = look.await;
            self.look = None;
            let now = clock::monotonic();
            let pause = if now.saturating_since(self.begun) < OFTEN_FOR { OFTEN } else { SELDOM };
            self.due = self.due.map(|_| now + pause);
            if self.due.is_some() && found.iter().any(|settings| settings.text.contains("token")) {
                return found;
            }
        }
    }
}
