//! A proxy that looks into HTTP/2 and closes single streams, as balancers do: the request went through, and where its answer
//! should come stands the end of the stream. The connection lives on.
//!
//! A frame has nine bytes before its payload: its length (3), type (1), flags (1) and stream (4). See RFC 9113.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
/// The error code of a stream that is not needed any more.
const CANCEL: u32 = 8;

/// The first streams go through: by then headers that come with every answer are known to both sides, so that leaving some out
/// breaks nothing.
const SPARED: u64 = 20;

pub struct Streams {
    endpoint: String,
    closed: Arc<AtomicU64>,
}

impl Streams {
    /// Stands before the server at an endpoint, and closes every so many-th stream that an answer comes in.
    pub fn start(server: &str, every: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let (server, closed) = (server.to_owned(), Arc::new(AtomicU64::new(0)));
        let counted = closed.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(behind) = TcpStream::connect(&server) else { continue };
                let (Ok(requests), Ok(answers)) = (client.try_clone(), behind.try_clone()) else { continue };
                let behind = Arc::new(Mutex::new(behind));
                let (to_server, counted) = (behind.clone(), counted.clone());
                thread::spawn(move || forward(requests, &behind));
                thread::spawn(move || answer(answers, client, &to_server, every, &counted));
            }
        });
        Self { endpoint, closed }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// How many streams it closed.
    pub fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }
}

struct Frame(Vec<u8>);

impl Frame {
    fn read(from: &mut TcpStream) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header)?;
        let [a, b, c, ..] = header;
        let mut bytes = header.to_vec();
        bytes.resize(HEADER_BYTES + u32::from_be_bytes([0, a, b, c]) as usize, 0);
        from.read_exact(&mut bytes[HEADER_BYTES..])?;
        Ok(Self(bytes))
    }

    fn new(kind: u8, stream: u32, payload: u32) -> Self {
        Self([&[0, 0, 4, kind, 0][..], &stream.to_be_bytes(), &payload.to_be_bytes()].concat())
    }

    fn kind(&self) -> u8 {
        self.0[3]
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes(self.0[5..9].try_into().expect("four bytes")) & 0x7fff_ffff
    }
}

fn forward(mut client: TcpStream, server: &Mutex<TcpStream>) {
    let mut pass = || -> io::Result<()> {
        let mut preface = [0; PREFACE_BYTES];
        client.read_exact(&mut preface)?;
        server.lock().expect("nobody panics").write_all(&preface)?;
        loop {
            let frame = Frame::read(&mut client)?;
            server.lock().expect("nobody panics").write_all(&frame.0)?;
        }
    };
    // One of the two has hung up.
    let _ = pass();
    let _ = server.lock().expect("nobody panics").shutdown(std::net::Shutdown::Both);
}

fn answer(mut server: TcpStream, mut client: TcpStream, to_server: &Mutex<TcpStream>, every: u64, closed: &AtomicU64) {
    let (mut open, mut shut, mut answers) = (HashSet::new(), HashSet::new(), 0_u64);
    let mut pass = || -> io::Result<()> {
        loop {
            let frame = Frame::read(&mut server)?;
            let (kind, stream) = (frame.kind(), frame.stream());
            if kind == DATA && open.insert(stream) {
                answers += 1;
                if answers > SPARED && answers.is_multiple_of(every) {
                    shut.insert(stream);
                    closed.fetch_add(1, Ordering::Relaxed);
                    client.write_all(&Frame::new(RST_STREAM, stream, CANCEL).0)?;
                }
            }
            if !shut.contains(&stream) {
                client.write_all(&frame.0)?;
            } else if kind == DATA && frame.0.len() > HEADER_BYTES {
                // The client does not see these bytes, so it does not make room for others either.
                let bytes = u32::try_from(frame.0.len() - HEADER_BYTES).expect("a frame is short");
                to_server.lock().expect("nobody panics").write_all(&Frame::new(WINDOW_UPDATE, 0, bytes).0)?;
            }
        }
    };
    let _ = pass();
    let _ = client.shutdown(std::net::Shutdown::Both);
}
