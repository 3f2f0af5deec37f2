//! What the content of a file must be, and whether it is that.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use okapi_cache::Written;
use sha2::Digest as _;

/// What a file's content must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    Sha256(String),
    Blake3(String),
    /// Git's name for the content: SHA-1 of `blob`, a space, the length, a zero byte, and the bytes.
    GitBlob {
        oid: String,
        /// The length, where it is known before the content.
        size: Option<u64>,
    },
}

impl Pin {
    /// Reads `sha256:<hex>`, `blake3:<hex>` or `git:<hex>`.
    pub(crate) fn parse(text: &str) -> Result<Pin, String> {
        match text.split_once(':') {
            Some(("sha256", hex)) if is_hex(hex, 64) => Ok(Pin::Sha256(hex.to_owned())),
            Some(("blake3", hex)) if is_hex(hex, 64) => Ok(Pin::Blake3(hex.to_owned())),
            Some(("git", hex)) if is_hex(hex, 40) => {
                Ok(Pin::GitBlob { oid: hex.to_owned(), size: None })
            }
            _ => Err(format!(
                "`digest` must be `sha256:` or `blake3:` and 64 lower-case hex digits, or `git:` and 40, not `{text}`"
            )),
        }
    }

    /// Whether it stands for a digest that is to be filled in: all zeros, which no content has.
    pub(crate) fn is_placeholder(&self) -> bool {
        match self {
            Pin::Sha256(hex) | Pin::Blake3(hex) => is_zeros(hex),
            Pin::GitBlob { oid, .. } => is_zeros(oid),
        }
    }

    /// Begins to hash a file's content, beside BLAKE3.
    pub(crate) fn hasher(&self) -> PinHasher {
        match self {
            Pin::Sha256(_) => PinHasher::Sha256(sha2::Sha256::new()),
            Pin::Blake3(_) => PinHasher::Blake3,
            Pin::GitBlob { size: Some(size), .. } => PinHasher::GitBlob(git_hasher(*size)),
            Pin::GitBlob { size: None, .. } => PinHasher::GitBlobWhenWhole,
        }
    }

    /// What a file holds, as a pin of this kind is shown.
    pub(crate) fn of_file(&self, path: &Path, written: Written) -> io::Result<String> {
        let mut hasher = self.hasher();
        if !matches!(hasher, PinHasher::Blake3 | PinHasher::GitBlobWhenWhole) {
            read_all(path, |bytes| hasher.update(bytes))?;
        }
        hasher.finish(path, written)
    }
}

/// Begins git's name for so many bytes.
fn git_hasher(size: u64) -> sha1::Sha1 {
    sha1::Sha1::new_with_prefix(format!("blob {size}\0"))
}

fn read_all(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => take(&buffer[..count]),
        }
    }
}

/// Whether a digest or commit is nothing but zeros.
pub(crate) fn is_zeros(hex: &str) -> bool {
    hex.bytes().all(|digit| digit == b'0')
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Sha256(hex) => write!(f, "sha256:{hex}"),
            Pin::Blake3(hex) => write!(f, "blake3:{hex}"),
            Pin::GitBlob { oid, .. } => write!(f, "git:{oid}"),
        }
    }
}

/// Hashes what arrives.
pub(crate) enum PinHasher {
    Sha256(sha2::Sha256),
    /// Whoever writes the file has it anyway.
    Blake3,
    GitBlob(sha1::Sha1),
    /// The length comes first, and is not known before the end.
    GitBlobWhenWhole,
}

impl PinHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            PinHasher::Sha256(hasher) => hasher.update(bytes),
            PinHasher::Blake3 | PinHasher::GitBlobWhenWhole => {}
            PinHasher::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// The content's name, as a [`Pin`] is shown. It is all at `path` by now.
    pub(crate) fn finish(self, path: &Path, written: Written) -> io::Result<String> {
        Ok(match self {
            PinHasher::Sha256(hasher) => format!("sha256:{:x}", hasher.finalize()),
            PinHasher::Blake3 => format!("blake3:{}", written.digest),
            PinHasher::GitBlob(hasher) => format!("git:{:x}", hasher.finalize()),
            PinHasher::GitBlobWhenWhole => {
                let mut hasher = git_hasher(written.size);
                read_all(path, |bytes| hasher.update(bytes))?;
                format!("git:{:x}", hasher.finalize())
            }
        })
    }
}

/// Whether a text is so many lower-case hex digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use okapi_cache::Digest;

    use super::*;

    #[test]
    fn pins_are_read_strictly() {
        let hex = "0".repeat(64);
        assert_eq!(Pin::parse(&format!("sha256:{hex}")).unwrap(), Pin::Sha256(hex.clone()));
        let oid = "1".repeat(40);
        assert_eq!(Pin::parse(&format!("git:{oid}")).unwrap(), Pin::GitBlob { oid, size: None });
        let upper = format!("sha256:{}", "A".repeat(64));
        for bad in [&hex, &format!("md5:{hex}"), &upper, &format!("git:{hex}"), "git:", ""] {
            assert!(Pin::parse(bad).is_err(), "{bad}");
        }
    }

    /// `printf 'hello world' | git hash-object --stdin`, and of nothing.
    #[test]
    fn git_names_content_with_its_length() {
        for (content, oid) in [
            ("hello world", "95d09f2b10159347eece71399a7e2e907ea3df4f"),
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        ] {
            let size = content.len() as u64;
            let written = Written { digest: Digest::of(b""), size };
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            for size in [Some(size), None] {
                let pin = Pin::GitBlob { oid: oid.to_owned(), size };
                let mut hasher = pin.hasher();
                hasher.update(content.as_bytes());
                assert_eq!(hasher.finish(file.path(), written).unwrap(), pin.to_string());
                assert_eq!(pin.of_file(file.path(), written).unwrap(), pin.to_string());
            }
        }
    }
}
