//! systemd's journal, with the fields of a line as fields of the journal: systemd.journal-fields(7), and the native
//! protocol of <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::line::Line;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// The journal, if standard error is connected to it: `JOURNAL_STREAM` has its device and inode.
    pub fn of_stderr() -> Option<Journal> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
        if (device.parse(), inode.parse()) != (Ok(stderr.st_dev), Ok(stderr.st_ino)) {
            return None;
        }
        Journal::connect(Path::new(SOCKET)).ok()
    }

    fn connect(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Journal(socket))
    }

    /// Sends a line with this message.
    pub fn send(&self, line: &Line, message: &str) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(512);
        put(&mut datagram, "MESSAGE", message);
        put(&mut datagram, "PRIORITY", &line.priority().to_string());
        put(&mut datagram, "SYSLOG_IDENTIFIER", "stargz-snapshotter");
        for (name, value) in line.fields() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            put(&mut datagram, &field_name(name), &text);
        }
        self.0.send(&datagram).map(|_| ())
    }
}

/// Fields of ours begin with `STARGZ_`, so that they are not taken for somebody else's.
fn field_name(name: &str) -> String {
    let name = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "STARGZ_".chars().chain(name).take(64).collect()
}

fn put(datagram: &mut Vec<u8>, name: &str, value: &str) {
    datagram.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        datagram.push(b'=');
    }
    datagram.extend_from_slice(value.as_bytes());
    datagram.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_arrive_with_names_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let line = super::super::line::example(
            "m",
            &[("remote-snapshot-prepared", true.into()), ("error", "a\nb".into())],
        );
        Journal::connect(&path).unwrap().send(&line, "{}").unwrap();
        let mut bytes = [0; 1024];
        let len = receiver.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
        assert!(text.starts_with("MESSAGE={}\nPRIORITY=4\nSYSLOG_IDENTIFIER=stargz-snapshotter\n"), "{text}");
        assert!(text.contains("STARGZ_REMOTE_SNAPSHOT_PREPARED=true\n"), "{text}");
        assert!(text.contains("STARGZ_ERROR\n\u{3}\0\0\0\0\0\0\0a\nb\n"), "{text:?}");
    }
}
