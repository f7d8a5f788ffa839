//! How fast to write, and how long to wait for a server that does not answer.
//!
//! etcd logs every change that took it longer than 100 ms, and turns requests away when 5,000 are committed and not applied. A
//! rewrite is never urgent: it slows down long before that, and finds its way back when the server has time again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::lock;

use super::keyspace::Fault;

/// What a transaction may take, and what each of its changes may add, until it counts as slow.
const SLOW: Duration = Duration::from_millis(100);
const SLOW_FOR_EACH: Duration = Duration::from_millis(2);

/// Committed and not yet applied requests that count as too many; the server's own limit is 5,000.
pub const MAX_BACKLOG: u64 = 1000;

/// It is never slowed down more than so many times.
const MAX_FACTOR: f64 = 64.0;

/// The longest pause after one transaction.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The speed, without clock and without waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Objects a second; 0 = as many as go.
    rate: u64,
    /// How many times slower it goes.
    factor: f64,
    /// When the next transaction is due.
    due: Duration,
}

impl Speed {
    /// So many objects a second; 0 = as many as go.
    pub fn new(rate: u64) -> Self {
        Self { rate, factor: 1.0, due: Duration::ZERO }
    }

    /// How long to wait until so many objects may be written.
    pub fn claim(&mut self, now: Duration, objects: usize) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let start = self.due.max(now);
        self.due = start + Duration::from_secs_f64(objects as f64 * self.factor / self.rate as f64);
        start - now
    }

    /// So many objects were written and it took so long: gives how long to leave the server alone.
    pub fn written(&mut self, objects: usize, took: Duration) -> Duration {
        let patient = SLOW + SLOW_FOR_EACH * u32::try_from(objects).unwrap_or(u32::MAX);
        self.factor = if took > patient { self.factor * 1.5 } else { self.factor * 0.9 }.clamp(1.0, MAX_FACTOR);
        match self.rate {
            0 => took.mul_f64(self.factor - 1.0).min(MAX_PAUSE),
            _ => Duration::ZERO,
        }
    }

    /// The server has too much to do.
    pub fn trouble(&mut self) {
        self.factor = (self.factor * 2.0).min(MAX_FACTOR);
    }

    /// How many times slower than it was asked to it goes.
    pub fn factor(&self) -> f64 {
        self.factor
    }
}

/// The speed that all writers share.
#[derive(Debug)]
pub struct Pace {
    speed: Mutex<Speed>,
    begin: Instant,
    slowest: Mutex<f64>,
}

impl Pace {
    /// So many objects a second; 0 = as many as go.
    pub fn new(rate: u64) -> Self {
        Self { speed: Mutex::new(Speed::new(rate)), begin: Instant::now(), slowest: Mutex::new(1.0) }
    }

    /// Waits until so many objects may be written. An interrupt ends the wait.
    pub fn claim(&self, objects: usize, interrupted: &AtomicBool) {
        let wait = self.change(|speed| speed.claim(self.begin.elapsed(), objects));
        rest(wait, interrupted);
    }

    /// So many objects were written and it took so long.
    pub fn written(&self, objects: usize, took: Duration, interrupted: &AtomicBool) {
        rest(self.change(|speed| speed.written(objects, took)), interrupted);
    }

    /// The server has too much to do.
    pub fn trouble(&self) {
        self.change(Speed::trouble);
    }

    /// How many times slower it went at worst.
    pub fn slowest(&self) -> f64 {
        *lock(&self.slowest)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Speed) -> T) -> T {
        let mut speed = lock(&self.speed);
        let answer = change(&mut speed);
        let mut slowest = lock(&self.slowest);
        *slowest = slowest.max(speed.factor());
        answer
    }
}

/// Sleeps, but not through an interrupt.
fn rest(wait: Duration, interrupted: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(100);
    let begin = Instant::now();
    while let Some(left) = wait.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        if interrupted.load(Ordering::Relaxed) {
            return;
        }
        thread::sleep(left.min(STEP));
    }
}

/// How long a server may be silent, counted from its last answer.
#[derive(Debug)]
pub struct Patience<'p> {
    limit: Duration,
    begin: Instant,
    /// Milliseconds since the beginning.
    last: AtomicU64,
    /// Ends every wait.
    pub interrupted: &'p AtomicBool,
}

impl<'p> Patience<'p> {
    /// So long.
    pub fn new(limit: Duration, interrupted: &'p AtomicBool) -> Self {
        Self { limit, begin: Instant::now(), last: AtomicU64::new(0), interrupted }
    }

    /// The server answered.
    pub fn answered(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// Waits longer than the last time, which it gives.
    ///
    /// # Errors
    ///
    /// The fault, when it was waited long enough or somebody interrupts.
    pub fn wait(&self, waited: Duration, fault: Fault) -> Result<Duration, Fault> {
        let silent = self.begin.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
        if silent > self.limit || self.interrupted.load(Ordering::Relaxed) {
            return Err(fault);
        }
        let wait = (waited * 2).clamp(Duration::from_millis(20), Duration::from_secs(1));
        rest(wait, self.interrupted);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn objects_are_spread_over_the_second() {
        let mut speed = Speed::new(200);
        let waits: Vec<_> = (0..3).map(|_| speed.claim(SECOND, 20)).collect();
        assert_eq!(waits, [0, 100, 200].map(Duration::from_millis));
        // What was not used is not made up for.
        assert_eq!(speed.claim(10 * SECOND, 20), Duration::ZERO);
        assert_eq!(speed.claim(10 * SECOND, 20), Duration::from_millis(100));
        assert_eq!(Speed::new(0).claim(SECOND, 1_000_000), Duration::ZERO);
    }

    #[test]
    fn a_slow_or_busy_server_is_left_alone_until_it_is_quick_again() {
        let (mut speed, mut free) = (Speed::new(200), Speed::new(0));
        for speed in [&mut speed, &mut free] {
            speed.trouble();
            speed.written(20, SECOND);
            assert!((speed.factor() - 3.0).abs() < 1e-9);
        }
        speed.claim(SECOND, 20);
        assert_eq!(speed.claim(SECOND, 20), Duration::from_millis(300));
        assert!(free.written(20, SECOND) > 3 * SECOND);
        for speed in [&mut speed, &mut free] {
            (0..40).for_each(|_| {
                speed.written(128, Duration::from_millis(300));
            });
            assert!((speed.factor() - 1.0).abs() < 1e-9);
        }
        (0..100).for_each(|_| free.trouble());
        assert!((free.factor() - MAX_FACTOR).abs() < 1e-9 && free.written(1, 60 * SECOND) == MAX_PAUSE);
    }
}
