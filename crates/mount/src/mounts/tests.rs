use proptest::prelude::*;

use super::*;

#[test]
fn lines_of_mountinfo_are_read() {
    let plain = MountInfo {
        id: 36,
        parent: 35,
        device: (98, 0),
        root: "/mnt1".into(),
        mount_point: "/mnt2".into(),
        options: "rw,noatime".into(),
        fs_type: "ext3".into(),
        source: "/dev/root".into(),
        fs_options: "rw,errors=continue".into(),
    };
    let rows: [(&[u8], Option<MountInfo>); 9] = [
        (
            b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
            Some(plain.clone()),
        ),
        (b"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw,errors=continue", Some(plain.clone())),
        (
            b"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue",
            Some(plain.clone()),
        ),
        (
            br"36 35 98:0 /mnt1 /mnt\040\134\011\0122 rw,noatime - ext3 /dev/\043root rw,errors=continue",
            Some(MountInfo {
                mount_point: "/mnt \\\t\n2".into(),
                source: "/dev/#root".into(),
                ..plain.clone()
            }),
        ),
        // No escape that the kernel writes; taken as it is.
        (
            br"36 35 98:0 /mnt1 /mnt\9\77 rw,noatime - ext3 /dev/root rw,errors=continue",
            Some(MountInfo { mount_point: "/mnt\\9\\77".into(), ..plain.clone() }),
        ),
        (
            b"36 35 98:0 /mnt1 /mnt\xff2 rw,noatime - ext3 /dev/root rw,errors=continue",
            Some(MountInfo { mount_point: OsString::from_vec(b"/mnt\xff2".to_vec()).into(), ..plain }),
        ),
        (b"36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7", None),
        (b"36 35 980 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw", None),
        (b"", None),
    ];
    for (line, expected) in rows {
        assert_eq!(MountInfo::parse(line), expected, "{}", line.escape_ascii());
    }
}

#[test]
fn the_real_table_has_a_root() {
    let mounts = mounts_below(Path::new("/")).unwrap();
    assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
    assert!(mounts_below(Path::new("/no/such/place")).unwrap().is_empty());
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = MountInfo::parse(&line);
    }

    #[test]
    fn escaping_is_undone(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let escaped: Vec<u8> = bytes.iter().flat_map(|&byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            other => vec![other],
        }).collect();
        prop_assert_eq!(unescape(&escaped), OsString::from_vec(bytes));
    }
}
