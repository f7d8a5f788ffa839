//! A proxy that stands between the program and a server, and does something to the connection after so many bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens when a connection has brought so many bytes from the server.
pub type Trick = Box<dyn FnMut(usize) -> Next + Send>;

/// What the proxy does then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Goes on.
    Pass,
    /// Cuts the connection.
    Cut,
    /// Cuts it, and takes no further one.
    Refuse,
}

pub struct Proxy {
    port: u16,
    closed: Arc<AtomicBool>,
    /// Connections that were taken.
    pub connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Passes everything on to a port. The trick is told how many bytes have come from the server over all connections, each
    /// time some come.
    pub fn start(to: u16, trick: impl FnMut(usize) -> Next + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (closed, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let trick: Arc<Mutex<Trick>> = Arc::new(Mutex::new(Box::new(trick)));
        let seen = Arc::new(AtomicUsize::new(0));
        let (is_closed, taken) = (closed.clone(), connections.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_closed.load(Ordering::SeqCst) {
                    return;
                }
                taken.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(from, into));
                let (trick, seen, closed) = (trick.clone(), seen.clone(), is_closed.clone());
                thread::spawn(move || back(server, client, &trick, &seen, &closed));
            }
        });
        Self { port, closed, connections }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream) {
    let _ = std::io::copy(&mut from, &mut into);
    let _ = into.shutdown(Shutdown::Both);
}

fn back(mut server: TcpStream, mut client: TcpStream, trick: &Mutex<Trick>, seen: &AtomicUsize, closed: &AtomicBool) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = server.read(&mut bytes) {
        let all = seen.fetch_add(count, Ordering::SeqCst) + count;
        let next = (trick.lock().unwrap())(all);
        if next == Next::Refuse {
            closed.store(true, Ordering::SeqCst);
        }
        if next != Next::Pass || client.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
