//! A large file on its way out, in parts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::{Error as StoreSays, MultipartUpload, PutPayload};
use okapi_cache::Digest;

/// The least that a part has. All services take parts of this size.
const PART: u64 = 8 << 20;
/// No service takes more parts than this.
const MOST_PARTS: u64 = 9_000;
/// How many parts of one file are under way, and in memory, at once.
const AT_ONCE: usize = 3;

/// Sends all parts of a file, and says what its bytes hash to; nothing is completed. The outer error is the remote's,
/// the inner one the file's.
pub(crate) async fn send(
    upload: &mut dyn MultipartUpload,
    file: &Path,
    size: u64,
    expected: &Digest,
) -> Result<io::Result<Digest>, StoreSays> {
    let part_size = part_size(size);
    let mut hasher = Digest::hasher();
    let mut under_way = FuturesUnordered::new();
    let mut file = match File::open(file) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let mut part = Vec::with_capacity(part_size as usize);
        if let Err(error) = (&mut file).take(part_size).read_to_end(&mut part) {
            return Ok(Err(error));
        }
        if part.is_empty() {
            break;
        }
        hasher.update(&part);
        under_way.push(upload.put_part(PutPayload::from(part)));
        if under_way.len() == AT_ONCE {
            under_way.next().await.transpose()?;
        }
    }
    let found = hasher.finish();
    // What is damaged here need not arrive there.
    if found == *expected {
        while under_way.next().await.transpose()?.is_some() {}
    }
    Ok(Ok(found))
}

/// How much of a file of this size is in memory while it is sent.
pub(crate) fn in_memory(size: u64) -> u64 {
    size.min(part_size(size).saturating_mul(AT_ONCE as u64))
}

/// The size of parts with which a file of this size fits.
fn part_size(size: u64) -> u64 {
    size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_in_few_enough_parts() {
        for size in [1, PART, PART + 1, 70 << 30, 5 << 40] {
            let parts = size.div_ceil(part_size(size));
            assert!(parts <= MOST_PARTS, "{size}: {parts}");
            assert!(part_size(size) >= PART);
        }
        assert_eq!(part_size(20 << 20), PART);
        assert_eq!((in_memory(20 << 20), in_memory(1 << 30)), (20 << 20, 24 << 20));
    }
}
