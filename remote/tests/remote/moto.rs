//! An S3 server on loopback: moto, if it is installed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server, with the bucket `okapi`. Ended when dropped.
pub(crate) struct Moto {
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Moto {
    /// Starts it; `None`, and a word of it, if it is not installed.
    #[expect(clippy::print_stderr, reason = "a test that did not run says so")]
    pub(crate) fn start() -> Option<Moto> {
        let Some(program) = find("moto_server") else {
            eprintln!(
                "did not run: there is no moto_server in PATH or target/moto-venv \
                 (python3 -m venv target/moto-venv && target/moto-venv/bin/pip install 'moto[server]' wsgidav cheroot)"
            );
            return None;
        };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Moto { address, process };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !moto.make_bucket() {
            assert!(Instant::now() < deadline, "moto did not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(moto)
    }

    fn make_bucket(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        let request = format!(
            "PUT /okapi HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program in the path, or among those that were installed for tests.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let root = env!("CARGO_MANIFEST_DIR");
    let beside =
        [format!("{root}/target/moto-venv/bin"), format!("{root}/../target/moto-venv/bin")];
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(path.split(':').map(str::to_owned));
    folders.map(|folder| PathBuf::from(folder).join(name)).find(|program| program.is_file())
}
