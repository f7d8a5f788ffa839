//! Eight writers at full speed, each of whom keeps a record of what it wrote last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::store::{Keys, Store, key};

const WRITERS: usize = 8;

/// Keys of each writer. Nobody else but the rewrite writes them, so its own record says what they hold.
const KEYS: u64 = 60;

/// What a writer wrote last.
pub struct Last {
    pub data: String,
    pub lease: i64,
}

/// Nothing where the key was deleted.
pub type Record = HashMap<Vec<u8>, Option<Last>>;

pub struct Crowd {
    ends: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Record>>,
}

impl Crowd {
    pub fn start(endpoint: &str, keys: &Keys) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let writer = |number: usize| {
            let (endpoint, keys, ends) = (endpoint.to_owned(), keys.clone(), ends.clone());
            thread::spawn(move || write(&endpoint, &keys, number, &ends))
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { ends, writers }
    }

    /// What they wrote last.
    pub fn stop(self) -> Record {
        self.ends.store(true, Ordering::Relaxed);
        self.writers.into_iter().flat_map(|writer| writer.join().expect("the writer ends")).collect()
    }
}

fn write(endpoint: &str, keys: &Keys, number: usize, ends: &AtomicBool) -> Record {
    let store = Store::connect(endpoint);
    let leases = [0, store.grant(86_400), store.grant(86_400)];
    // Any sequence will do that is not regular.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut record = Record::new();
    let mut count = 0_u64;
    while !ends.load(Ordering::Relaxed) {
        count += 1;
        let key = key(&format!("w{number}-{}", random(KEYS)));
        if random(5) == 0 {
            // What may or may not have been done is done once more.
            while store.delete(&key).is_err() {
                thread::sleep(Duration::from_millis(10));
            }
            record.insert(key, None);
            continue;
        }
        let data = format!("{number}-{count}");
        let lease = leases[random(3) as usize];
        let value = if random(2) == 0 { keys.sealed_new(&key, &data) } else { keys.sealed_old(&key, &data) };
        while store.put_sealed(&key, value.clone(), lease).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        record.insert(key, Some(Last { data, lease }));
    }
    record
}
