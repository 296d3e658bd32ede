//! The files of containerd's host directories: finding them, reading them, and noticing that they changed.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::hosts_toml::{self, HostSection, HostsToml};
use crate::cri::CriTls;
use crate::transport::Tls;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Certificates read from a directory without a `hosts.toml`.
const MAX_CERTIFICATES: usize = 64;

/// The directory for `host`: the first root decides that has one for it, or for all.
///
/// A port is written `host_5000_`, or `host:5000`.
pub(super) fn find(roots: &[PathBuf], host: &str) -> Result<Option<PathBuf>, String> {
    let escaped = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = escaped.iter().map(String::as_str).chain([host, "_default"]);
    for root in roots {
        for name in names.clone() {
            // Hosts of references hold no slash; what comes from elsewhere must not lead out of the root.
            if name.contains('/') || name.starts_with('.') {
                continue;
            }
            let dir = root.join(name);
            match std::fs::metadata(&dir) {
                Ok(_) => return Ok(Some(dir)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{}: {error}", dir.display())),
            }
        }
    }
    Ok(None)
}

/// The state of a file: none if it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The directory of a host, and the states of all files that its settings came from.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamps {
    dir: Option<PathBuf>,
    files: Vec<(PathBuf, Stamp)>,
}

impl Stamps {
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    pub fn are_current(&self) -> bool {
        self.files.iter().all(|(path, known)| stamp(path) == *known)
    }
}

/// Reads the files of one host, and keeps account of them.
#[derive(Debug)]
pub(super) struct Files {
    stamps: Stamps,
}

impl Files {
    pub fn new(dir: Option<PathBuf>) -> Files {
        Files { stamps: Stamps { dir, files: Vec::new() } }
    }

    /// What was read so far.
    pub fn stamps(self) -> Stamps {
        self.stamps
    }

    /// The settings in the directory; none if there is no directory. One without a usable `hosts.toml` may hold
    /// certificates for the host itself, as Docker has them.
    pub fn hosts_toml(&mut self) -> Result<Option<HostsToml>, String> {
        let Some(dir) = self.stamps.dir.clone() else { return Ok(None) };
        self.note(&dir);
        let path = dir.join("hosts.toml");
        self.note(&path);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Zeroizing::default(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        if !text.is_empty() {
            let parsed = std::str::from_utf8(&text)
                .map_err(|_| "it is not text".to_owned())
                .and_then(|text| hosts_toml::parse(text, &dir));
            match parsed {
                Ok(file) => return Ok(Some(file)),
                Err(reason) => {
                    tracing::error!(file = %path.display(), reason, "not usable; only certificates beside it are");
                }
            }
        }
        Ok(Some(HostsToml { hosts: Vec::new(), server: certificates(&dir)? }))
    }

    /// Reads the certificates that a section names.
    pub fn tls(&mut self, section: &HostSection) -> Result<Tls, String> {
        let mut ca = Vec::new();
        for path in &section.ca {
            ca.push(self.read(path)?.to_vec());
        }
        if section.client.len() > 1 {
            let used = section.client[0].0.display();
            tracing::warn!(certificate = %used, "of several client certificates only the first one is used");
        }
        let identity = match section.client.first() {
            Some((certificate, key)) => Some(self.identity(certificate, key.as_deref())?),
            None => None,
        };
        Ok(Tls { ca, identity, skip_verify: section.skip_verify })
    }

    /// Reads the certificates that CRI's settings name.
    pub fn cri_tls(&mut self, config: &CriTls) -> Result<Tls, String> {
        let ca = match &config.ca_file {
            Some(path) => vec![self.read(path)?.to_vec()],
            None => Vec::new(),
        };
        let identity = match (&config.cert_file, &config.key_file) {
            (Some(certificate), key) => Some(self.identity(certificate, key.as_deref())?),
            (None, None) => None,
            (None, Some(key)) => {
                return Err(format!("there is a key file {} without a cert file", key.display()));
            }
        };
        Ok(Tls { ca, identity, skip_verify: config.insecure_skip_verify })
    }

    fn identity(&mut self, certificate: &Path, key: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut pem = self.read(certificate)?;
        if let Some(key) = key {
            let key = self.read(key)?;
            // Growing would leave a copy behind.
            let mut both = Zeroizing::new(Vec::with_capacity(pem.len() + key.len() + 1));
            both.extend_from_slice(&key);
            both.push(b'\n');
            both.extend_from_slice(&pem);
            pem = both;
        }
        Ok(pem)
    }

    fn read(&mut self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        self.note(path);
        read(path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Before it is read: what changes meanwhile is noticed the next time.
    fn note(&mut self, path: &Path) {
        self.stamps.files.push((path.to_owned(), stamp(path)));
    }
}

/// The certificates in a directory: `*.crt` are authorities, `*.cert` client certificates with `*.key` beside.
fn certificates(dir: &Path) -> Result<HostSection, String> {
    let wrong = |error: io::Error| format!("{}: {error}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(wrong)?.take(MAX_CERTIFICATES * 4) {
        paths.push(entry.map_err(wrong)?.path());
    }
    paths.sort();
    let with = |extension: &str| {
        let paths = paths.iter().filter(|path| path.extension().is_some_and(|found| found == extension));
        paths.take(MAX_CERTIFICATES).cloned().collect::<Vec<_>>()
    };
    let client = with("cert").into_iter().map(|certificate| {
        let key = certificate.with_extension("key");
        let key = paths.contains(&key).then_some(key);
        (certificate, key)
    });
    Ok(HostSection { client: client.collect(), ca: with("crt"), ..HostSection::default() })
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    // May hold a key: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_found_by_containerds_rules() {
        let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths: Vec<_> = roots.iter().map(|root| root.path().to_owned()).collect();
        let find = |host: &str| {
            let found = find(&paths, host).unwrap()?;
            let root = paths.iter().position(|root| found.starts_with(root)).unwrap();
            Some(format!("{root}/{}", found.file_name().unwrap().to_str().unwrap()))
        };
        let make = |root: usize, name: &str| std::fs::create_dir(paths[root].join(name)).unwrap();
        assert_eq!(find("a.test:5000"), None);
        make(1, "_default");
        assert_eq!(find("a.test:5000").as_deref(), Some("1/_default"));
        make(1, "a.test:5000");
        assert_eq!(find("a.test:5000").as_deref(), Some("1/a.test:5000"));
        make(1, "a.test_5000_");
        assert_eq!(find("a.test:5000").as_deref(), Some("1/a.test_5000_"));
        assert_eq!(find("a.test").as_deref(), Some("1/_default"));
        make(0, "a.test");
        assert_eq!(find("a.test").as_deref(), Some("0/a.test"));
        make(0, "_default");
        assert_eq!(find("a.test:5000").as_deref(), Some("0/_default"), "the first root decides");
        make(0, "[::1]_5000_");
        assert_eq!(find("[::1]:5000").as_deref(), Some("0/[::1]_5000_"));
        assert_eq!(find("..").as_deref(), Some("0/_default"));
    }

    #[test]
    fn certificates_alone_are_settings_too() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b.crt", "a.crt", "one.cert", "one.key", "two.cert", "other.txt"] {
            std::fs::write(at(name), name).unwrap();
        }
        let mut files = Files::new(Some(dir.path().to_owned()));
        let HostsToml { hosts, server } = files.hosts_toml().unwrap().unwrap();
        assert!(hosts.is_empty() && server.address.is_none());
        assert_eq!(server.ca, [at("a.crt"), at("b.crt")]);
        assert_eq!(server.client, [(at("one.cert"), Some(at("one.key"))), (at("two.cert"), None)]);
        let tls = files.tls(&server).unwrap();
        assert_eq!(tls.identity.unwrap().as_slice(), b"one.key\none.cert");
        // Also beside a hosts.toml that is not usable.
        std::fs::write(at("hosts.toml"), "server = ").unwrap();
        let again = Files::new(Some(dir.path().to_owned())).hosts_toml().unwrap().unwrap();
        assert_eq!(again.server, server);
    }

    #[test]
    fn changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(dir.path().join("hosts.toml"), "ca = \"ca.pem\"").unwrap();
        std::fs::write(&ca, "one").unwrap();
        let load = || {
            let mut files = Files::new(Some(dir.path().to_owned()));
            let server = files.hosts_toml().unwrap().unwrap().server;
            files.tls(&server).unwrap();
            files.stamps()
        };
        let stamps = load();
        assert!(stamps.are_current() && stamps.dir() == Some(dir.path()));
        std::fs::write(&ca, "other").unwrap();
        assert!(!stamps.are_current());
        let stamps = load();
        std::fs::remove_file(dir.path().join("hosts.toml")).unwrap();
        assert!(!stamps.are_current());
        let mut files = Files::new(Some(dir.path().to_owned()));
        let missing = HostSection { ca: vec![dir.path().join("missing")], ..HostSection::default() };
        assert!(files.tls(&missing).unwrap_err().contains("missing"));
        let large = dir.path().join("large");
        std::fs::write(&large, vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        let large = HostSection { ca: vec![large], ..HostSection::default() };
        assert!(files.tls(&large).unwrap_err().contains("larger than"));
    }
}
