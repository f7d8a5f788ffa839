#![forbid(unsafe_code)]
//! scratch
use atrest::source::{Snapshot, check::*, snapshot::PassOptions};
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let digest = std::env::args().nth(2).is_none();
    let mut s = Snapshot::open(std::fs::File::open(&path).unwrap()).unwrap();
    let at = match std::env::var("AT") {
        Ok(v) => HashKvAt::Revision(v.parse().unwrap()),
        Err(_) => HashKvAt::Not,
    };
    let r = check(&mut s, PassOptions { digest, threads: 0, progress: &|_| () }, at).unwrap();
    println!("{r:#?}");
}
