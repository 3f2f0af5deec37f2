//! Filters texts by novelty: `novelty POOL CANDIDATES THREADS`, each file one text a line.
//!
//! Prints a line per candidate (`novel`, or the place of the nearest earlier text and the score) and,
//! to stderr, the seconds that deciding took. `benches/novelty.py` compares it with `rouge_score`.

#![expect(clippy::print_stderr, reason = "a program")]

use std::error::Error;
use std::io::Write;
use std::time::Instant;

use okapi_data::novelty::{NoveltyFilter, Verdict};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pool, candidates, threads] = &arguments[..] else {
        return Err("usage: novelty POOL CANDIDATES THREADS".into());
    };
    let (pool, candidates) = (std::fs::read_to_string(pool)?, std::fs::read_to_string(candidates)?);
    let pool: Vec<&str> = pool.lines().collect();
    let candidates: Vec<&str> = candidates.lines().collect();
    let began = Instant::now();
    let mut filter = NoveltyFilter::new(&pool, 0.7);
    let verdicts = filter.admit(&candidates, threads.parse()?);
    eprintln!("{}", began.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    for verdict in verdicts {
        match verdict {
            Verdict::Novel => writeln!(out, "novel")?,
            Verdict::TooClose { neighbour, score } => writeln!(out, "{neighbour} {score}")?,
        }
    }
    Ok(())
}
