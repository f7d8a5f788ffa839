//! Work side by side, results in order.
//!
//! One thread brings items, workers make something of each, and the caller takes the results in the order of the items. Only
//! a few are under way at a time, so memory is bounded whoever is slow.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::lock::lock;

/// Items that are under way at a time.
const WINDOW: usize = 4;

/// Lets `next` bring items until there are none, `work` make results with a worker of each thread, and `take` have them in the
/// order of the items, until it says that it wants no more.
pub fn ordered<I: Send, O: Send, W>(
    threads: usize,
    mut next: impl FnMut() -> Option<I> + Send,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, I) -> O + Sync,
    mut take: impl FnMut(O) -> bool,
) {
    let (permits, returned) = sync_channel::<()>(WINDOW);
    let (items, waiting) = sync_channel::<(u64, I)>(WINDOW);
    let (results, done) = sync_channel::<(u64, O)>(WINDOW);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever does not listen any more wants no more.
            for number in 0.. {
                if permits.send(()).is_err() {
                    break;
                }
                let Some(item) = next() else { break };
                if items.send((number, item)).is_err() {
                    break;
                }
            }
        });
        for _ in 0..threads.max(1) {
            let (results, waiting, worker, work) = (results.clone(), &waiting, &worker, &work);
            scope.spawn(move || {
                let mut own = worker();
                while let Some((number, item)) = receive(waiting) {
                    if results.send((number, work(&mut own, item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let (mut early, mut due) = (BTreeMap::new(), 0);
        let mut wanted = true;
        while let Ok((number, result)) = done.recv() {
            early.insert(number, result);
            while let Some(result) = early.remove(&due) {
                due += 1;
                wanted = wanted && take(result);
                if wanted {
                    let _ = returned.recv();
                }
            }
            if !wanted {
                break;
            }
        }
        drop((returned, done));
        // What still waits is dropped, so that who sends it does not wait for ever.
        while receive(&waiting).is_some() {}
    });
}

fn receive<T>(waiting: &Mutex<Receiver<T>>) -> Option<T> {
    lock(waiting).recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_items_and_end_when_no_more_are_wanted() {
        for threads in [1, 3] {
            for wanted in [0, 1, 7, 100, 1000] {
                let (mut left, mut taken) = (100, Vec::new());
                let next = || {
                    left -= 1;
                    (left >= 0).then_some(99 - left)
                };
                let work = |made: &mut u32, item: i32| {
                    *made += 1;
                    if item % 5 == 0 {
                        thread::sleep(std::time::Duration::from_micros(300));
                    }
                    item * 2
                };
                ordered(
                    threads,
                    next,
                    || 0,
                    work,
                    |result| {
                        taken.push(result);
                        taken.len() < wanted
                    },
                );
                let expected: Vec<_> = (0..100).map(|item| item * 2).take(wanted.max(1)).collect();
                assert_eq!(taken, expected);
            }
        }
    }
}
