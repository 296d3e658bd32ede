//! Who a process is: names of the image's own passwd(5) and group(5).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::spec::SpecError;

/// What is read of a file of users, in bytes.
const SIZE_MAX: u64 = 8 << 20;

/// The numbers of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional: Vec<u32>,
    pub home: Option<String>,
}

/// Who `text`, `USER[:GROUP]` in names or numbers, is for an image.
pub(crate) fn resolve(text: &str, passwd: &str, group: &str) -> Result<User, SpecError> {
    let (user, group_name) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|e| e.len() >= 6);
    let entry = entries().find(|entry| entry[0] == user).or_else(|| entries().find(|entry| entry[2] == user));
    let number = |text: &str| text.parse::<u32>().ok();
    let uid = match &entry {
        Some(entry) => number(entry[2]),
        None => number(user),
    };
    let uid = uid.ok_or_else(|| SpecError::NoUser(user.to_owned()))?;
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|e| e.len() >= 3);
    let (gid, additional) = match group_name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let found = groups().find(|entry| entry[0] == name).and_then(|entry| number(entry[2]));
            let gid = found.or_else(|| number(name)).ok_or_else(|| SpecError::NoGroup(name.to_owned()))?;
            (gid, Vec::new())
        }
        None => {
            let gid = entry.as_ref().and_then(|entry| number(entry[3])).unwrap_or(0);
            let name = entry.as_ref().map(|entry| entry[0]);
            let member = |entry: &Vec<&str>| {
                let members = entry.get(3).copied().unwrap_or_default();
                name.is_some_and(|name| members.split(',').any(|member| member == name))
            };
            (gid, groups().filter(member).filter_map(|entry| number(entry[2])).collect())
        }
    };
    let home = entry.map(|entry| entry[5].to_owned()).filter(|home| !home.is_empty());
    Ok(User { uid, gid, additional, home })
}

/// A file below the root of an image, wherever links in the image lead; empty if there is none.
pub(crate) fn text_of(root: &Path, name: &str) -> String {
    let mut text = Vec::new();
    let Ok(root) = File::open(root) else { return String::new() };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let resolve = rustix::fs::ResolveFlags::IN_ROOT;
    let file = rustix::fs::openat2(&root, name, flags, rustix::fs::Mode::empty(), resolve).map(File::from);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        // What cannot be read has no names.
        let _ = file.take(SIZE_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\nbroken:x\n7:x:9:9::/:\n";
        let group = "root:x:0:\nweb:x:34:\nlogs:x:50:root,www\n99:x:100:\n";
        let rows = [
            ("", (0, 0, vec![50])),
            ("www", (33, 34, vec![50])),
            ("33", (33, 34, vec![50])),
            ("www:logs", (33, 50, vec![])),
            ("1000", (1000, 0, vec![])),
            ("1000:1001", (1000, 1001, vec![])),
            ("7", (9, 9, vec![])),
        ];
        for (text, (uid, gid, additional)) in rows {
            let user = resolve(text, passwd, group).unwrap();
            assert_eq!((user.uid, user.gid, &user.additional), (uid, gid, &additional), "{text}");
        }
        assert!(matches!(resolve("nobody", passwd, group), Err(SpecError::NoUser(name)) if name == "nobody"));
        assert!(matches!(resolve("www:none", passwd, group), Err(SpecError::NoGroup(_))));
    }
}
