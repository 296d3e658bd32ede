//! What an executable was built for, read from its ELF header; packages are named after that, not after this machine.

/// Names of an architecture, and what the executable needs of the C library.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// As releases of container tools are named: `amd64`.
    pub go: &'static str,
    /// As Debian names it.
    pub deb: &'static str,
    /// As RPM names it.
    pub rpm: &'static str,
    /// The newest version of glibc that a symbol is asked from, `2.34`; none for a static executable.
    pub glibc: Option<String>,
}

/// `e_machine` (ELF specification; `elf.h`), the word size 64 and little endian or not, and the names for it.
const MACHINES: [(u16, bool, [&str; 3]); 5] = [
    (62, true, ["amd64", "amd64", "x86_64"]),
    (183, true, ["arm64", "arm64", "aarch64"]),
    (243, true, ["riscv64", "riscv64", "riscv64"]),
    (21, true, ["ppc64le", "ppc64el", "ppc64le"]),
    (22, false, ["s390x", "s390x", "s390x"]),
];

impl Target {
    /// Reads the header of an executable.
    pub fn of(file: &[u8]) -> Result<Target, &'static str> {
        let header = file.get(..20).filter(|header| header.starts_with(b"\x7fELF"));
        let header = header.ok_or("not an ELF executable")?;
        let little = header[5] == 1;
        let machine = [header[18], header[19]];
        let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
        let known = MACHINES.iter().find(|known| known.0 == machine && known.1 == little && header[4] == 2);
        let [go, deb, rpm] = known.ok_or("an architecture without a name here")?.2;
        Ok(Target { go, deb, rpm, glibc: newest_glibc(file) })
    }
}

/// The greatest `GLIBC_2.N` among the names of versions, which are whole strings of the dynamic string table.
fn newest_glibc(file: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\0GLIBC_2.";
    let mut newest = None;
    let mut rest = file;
    while let Some(at) = rest.iter().position(|&byte| byte == 0) {
        rest = &rest[at..];
        let Some(after) = rest.strip_prefix(NAME) else {
            rest = &rest[1..];
            continue;
        };
        let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // Versions such as 2.2.5 are older than any that matters.
        if after.get(digits) == Some(&0)
            && let Ok(minor) = String::from_utf8_lossy(&after[..digits]).parse::<u32>()
        {
            newest = newest.max(Some(minor));
        }
        rest = after;
    }
    newest.map(|minor| format!("2.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data]);
        file[18..20].copy_from_slice(&machine);
        file
    }

    #[test]
    fn architectures_are_told_by_the_header() {
        assert_eq!(Target::of(&header(2, 1, [62, 0])).unwrap().rpm, "x86_64");
        assert_eq!(Target::of(&header(2, 1, [183, 0])).unwrap().go, "arm64");
        assert_eq!(Target::of(&header(2, 2, [0, 22])).unwrap().deb, "s390x");
        assert!(Target::of(&header(2, 2, [0, 21])).is_err(), "ppc64, big endian");
        assert!(Target::of(&header(1, 1, [62, 0])).is_err(), "x32");
        assert!(Target::of(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn the_newest_version_of_the_c_library_is_found() {
        let mut file = header(2, 1, [62, 0]);
        assert_eq!(Target::of(&file).unwrap().glibc, None);
        file.extend_from_slice(b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_2.99x\0GLIBC_ABI_DT_RELR\0");
        assert_eq!(Target::of(&file).unwrap().glibc.as_deref(), Some("2.34"));
    }
}
