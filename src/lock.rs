//! Mutexes that are taken as they are, whatever became of another thread that held them.
//!
//! A thread that panics poisons the mutexes that it holds, so that others panic, too. That helps nobody here: the panic reaches the
//! caller where threads are joined, and ends the run, so nothing that stood behind such a mutex is ever told as an answer.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the mutex.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a mutex held that nobody needs any more.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
