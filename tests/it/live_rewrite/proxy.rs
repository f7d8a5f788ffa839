//! A proxy that cuts what goes through it, again and again.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long a connection lives at most.
const LIFE: Duration = Duration::from_millis(150);

pub struct Proxy {
    endpoint: String,
    cuts: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Proxy {
    /// Stands before the server at an endpoint.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let (cuts, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (server, opened) = (server.to_owned(), open.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(behind) = TcpStream::connect(&server) else { continue };
                let clones = [client.try_clone(), behind.try_clone()].into_iter().flatten();
                opened.lock().expect("nobody panics").extend(clones);
                let (Ok(from), Ok(to)) = (client.try_clone(), behind.try_clone()) else { continue };
                thread::spawn(move || copy(from, to));
                thread::spawn(move || copy(behind, client));
            }
        });
        let (counted, end) = (cuts.clone(), ends.clone());
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                thread::sleep(LIFE);
                for stream in open.lock().expect("nobody panics").drain(..) {
                    // What is closed already needs no cut.
                    if stream.shutdown(Shutdown::Both).is_ok() {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { endpoint, cuts, ends }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// How many connections it cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    let mut next = || -> io::Result<usize> {
        let read = from.read(&mut buffer)?;
        to.write_all(buffer.get(..read).unwrap_or_default())?;
        Ok(read)
    };
    while next().is_ok_and(|read| read > 0) {}
}
