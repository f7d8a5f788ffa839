//! The progress bar: on standard error, and only on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::GlobalArgs;

/// A bar over what is done and what is left.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar over bytes that are read.
    pub fn bytes(global: &GlobalArgs, message: &'static str, total: u64) -> Self {
        Self::new(global, message, total, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// A bar that shows itself on a terminal unless it was asked not to.
    fn new(global: &GlobalArgs, message: &'static str, total: u64, style: &str) -> Self {
        let bar = if global.quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10))
        };
        // The templates are constants; were one wrong, the default style would do.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(message);
        Self(bar)
    }

    /// A bar over things that are counted.
    #[cfg(any(feature = "kms", feature = "live"))]
    pub fn count(global: &GlobalArgs, message: &'static str, total: u64) -> Self {
        Self::new(global, message, total, "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
    }

    /// So many altogether.
    #[cfg(feature = "kms")]
    pub fn set(&self, all: u64) {
        self.0.set_position(all);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.inc(more);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
