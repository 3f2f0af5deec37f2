//! Times the record cache: `records FOLDER COUNT` adds so many records of 300 bytes in groups of 1,000
//! to a new store in FOLDER, opens it anew, and looks 100,000 of them up.

#![expect(clippy::print_stdout, reason = "a program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use okapi_cache::{Access, Digest, Durability, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, count] = &arguments[..] else { return Err("usage: records FOLDER COUNT".into()) };
    let count: u64 = count.parse()?;
    let open = || Store::open(Path::new(folder), Access::ReadWrite, Durability::Batch);
    let request = |number: u64| Digest::of(&number.to_le_bytes());
    let began = Instant::now();
    let store = open()?;
    for group in 0..count.div_ceil(1000) {
        let numbers = group * 1000..count.min((group + 1) * 1000);
        let records: Vec<_> = numbers.map(|number| (request(number), vec![b'x'; 300])).collect();
        store.records().add(&records)?;
    }
    println!("adding: {:.1} us a record", began.elapsed().as_secs_f64() * 1e6 / count as f64);
    drop(store);
    let began = Instant::now();
    let store = open()?;
    let found = store.records().lookup(&request(count / 2))?;
    println!("opening and the first look-up: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    assert!(found.is_some());
    for (what, from) in [("hits", 0), ("misses", count)] {
        let began = Instant::now();
        // A stride that shares no factor with the usual counts.
        for step in 0..100_000 {
            let found = store.records().lookup(&request(from + step * 7919 % count))?;
            assert_eq!(found.is_some(), from == 0);
        }
        println!("{what}: {:.1} us a look-up", began.elapsed().as_secs_f64() * 1e6 / 1e5);
    }
    Ok(())
}
