//! Mutexes whose content holds whatever became of another thread that had it.
//!
//! A thread that panics poisons the mutexes that it holds. Here nobody leaves anything half changed behind a lock, and the panic itself
//! reaches the caller where threads are joined, so the content is taken as it is.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for the mutex.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a mutex held that nobody needs any more.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
