//! Ends a FUSE session for good: whoever waits for it gets an error.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

/// Aborts the FUSE connection with this number, whoever else still holds its descriptor.
///
/// The control file system need not be mounted. Without it, unmounting by force aborts as well (umount(2)): it does
/// even where the answer is that the mount is busy.
pub(crate) fn abort(connection: u32) -> io::Result<()> {
    match fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1") {
        Ok(()) => Ok(()),
        Err(_) => match mount_point(connection)? {
            Some(path) => {
                // Busy or not, it is aborted.
                let _ = unmount(Path::new(&path), UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
                Ok(())
            }
            // Nobody has it mounted: it ends with its last descriptor.
            None => Ok(()),
        },
    }
}

/// Where the FUSE filesystem with this minor device number is mounted.
fn mount_point(connection: u32) -> io::Result<Option<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let device = format!("0:{connection}");
    let mut lines = table.lines().map(|line| line.split(' '));
    Ok(lines.find_map(|mut fields| (fields.nth(2)? == device).then(|| fields.nth(1)).flatten()).map(unescape))
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escaped = part
            .split_at_checked(3)
            .and_then(|(digits, rest)| Some((char::from(u8::from_str_radix(digits, 8).ok()?), rest)));
        match escaped {
            Some((byte, rest)) => text.extend([byte.to_string().as_str(), rest]),
            None => text.extend(["\\", part]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_without_their_escapes() {
        assert_eq!(unescape(r"/mnt/a\040b\134"), r"/mnt/a b\");
        assert_eq!(unescape(r"/mnt/\99x"), r"/mnt/\99x");
        assert_eq!(unescape("/plain"), "/plain");
    }
}
