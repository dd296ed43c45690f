//! How far a run is: a bar with the time that is left on a terminal, a line per turn elsewhere.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The bar; vanishes when dropped. On standard error, so that standard output holds results only.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    label: String,
}

impl Progress {
    /// Of `steps` steps that take about as long as each other.
    pub(crate) fn new(steps: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let style = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {wide_msg} {left}")
            .expect("the template is well formed")
            .with_key("left", left);
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, is_terminal, label: String::new() }
    }

    /// A new turn begins; worth a line of its own.
    pub(crate) fn turn(&mut self, label: &str) {
        label.clone_into(&mut self.label);
        self.bar.set_message(self.label.clone());
        if !self.is_terminal {
            eprintln!("{label}");
        }
    }

    /// A step of the turn begins.
    pub(crate) fn step(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.label));
    }

    /// Steps are over, done or not.
    pub(crate) fn advance(&self, steps: usize) {
        self.bar.inc(steps as u64);
    }

    /// Says something that stays.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

/// The time that is left; before the first step is over nobody knows.
fn left(state: &ProgressState, out: &mut dyn fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, "{:#} left", HumanDuration(state.eta()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
