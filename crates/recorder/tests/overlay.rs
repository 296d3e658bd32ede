//! Recordings of what processes do on an overlay, as that of a container is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder::{Options, Recorder, Recording};

const MIB: u64 = 1 << 20;

/// An overlay on a directory.
struct Overlay {
    dir: tempfile::TempDir,
}

impl Overlay {
    /// `None`, with a reason printed, where it cannot be made.
    fn new() -> Option<Overlay> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        // Not on tmpfs, whose pages cannot be dropped.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Some(Overlay { dir })
    }

    fn lower(&self, name: &str) -> PathBuf {
        self.dir.path().join("lower").join(name)
    }

    fn mounted(&self) -> Option<PathBuf> {
        let at = |name| self.dir.path().join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let merged = self.dir.path().join("merged");
        let status =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status();
        if !status.unwrap().success() {
            eprintln!("skipped: an overlay cannot be mounted on {}", self.dir.path().display());
            return None;
        }
        Some(merged)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let merged = self.dir.path().join("merged");
        let _ = rustix::mount::unmount(merged, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs a script with the mount as its working directory.
fn run(merged: &Path, script: &str) {
    let status = Command::new("sh").args(["-c", script]).current_dir(merged).status().unwrap();
    assert!(status.success(), "{script}");
}

fn paths(recording: &Recording) -> Vec<&str> {
    recording.files.iter().map(|file| file.path.as_str()).collect()
}

#[test]
fn files_are_recorded_once_in_the_order_of_their_first_touch() {
    let Some(overlay) = Overlay::new() else { return };
    for name in ["a", "b", "c", "untouched", "own"] {
        fs::write(overlay.lower(name), name).unwrap();
    }
    fs::create_dir(overlay.lower("dir")).unwrap();
    fs::write(overlay.lower("dir/deep"), "x").unwrap();
    std::os::unix::fs::symlink("dir/deep", overlay.lower("link")).unwrap();
    let Some(merged) = overlay.mounted() else { return };
    let recorder = Recorder::start(&merged, Options::default()).unwrap();
    fs::read(merged.join("own")).unwrap();
    run(&merged, "cat c link a c b dir/deep >/dev/null; ls dir >/dev/null; test -e untouched; echo n >new");
    run(&merged, "echo x >gone; rm gone");
    let recording = recorder.finish().unwrap();
    let files: Vec<_> =
        paths(&recording).into_iter().filter(|path| *path != "new" && *path != "gone").collect();
    assert_eq!(files, ["c", "dir/deep", "a", "b"]);
    assert_eq!((recording.overflows, recording.files[0].ranges.clone()), (0, None));
}

#[test]
fn another_mount_of_the_same_overlay_is_seen_with_paths_from_its_root() {
    let Some(overlay) = Overlay::new() else { return };
    fs::create_dir(overlay.lower("usr")).unwrap();
    fs::write(overlay.lower("usr/file"), "x").unwrap();
    let Some(merged) = overlay.mounted() else { return };
    let other = overlay.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let recorder =
        Recorder::start(&merged, Options { prefixes: vec![other.clone()], ..Options::default() }).unwrap();
    let script = format!("mount --bind {} {o} && cat {o}/usr/file", merged.display(), o = other.display());
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(paths(&recorder.finish().unwrap()), ["usr/file"]);
}

#[test]
fn of_large_files_the_touched_parts_are_recorded_whether_read_or_mapped() {
    let Some(overlay) = Overlay::new() else { return };
    let block: Vec<u8> = (0..MIB as usize).map(|number| number as u8).collect();
    for name in ["read", "mapped", "untouched"] {
        let mut file = File::create(overlay.lower(name)).unwrap();
        for _ in 0..64 {
            std::io::Write::write_all(&mut file, &block).unwrap();
        }
    }
    let Some(merged) = overlay.mounted() else { return };
    let recorder = Recorder::start(&merged, Options::default()).unwrap();
    run(&merged, "dd if=read of=/dev/null bs=4096 skip=2560 count=2 2>/dev/null; exec 3<untouched");
    // The mapping is Python's, so that faults and nothing else touch the file.
    let python = "import mmap,os\nf=os.open('mapped',os.O_RDONLY)\nm=mmap.mmap(f,0,prot=mmap.PROT_READ)\n\
                  print(m[5<<20],m[40<<20])";
    let has_python = Command::new("python3").arg("-V").output().is_ok();
    if has_python {
        let status = Command::new("python3").args(["-c", python]).current_dir(&merged).output().unwrap();
        assert!(status.status.success());
    } else {
        eprintln!("skipped in part: python3 is missing");
    }
    let recording = recorder.finish().unwrap();
    let ranges = |name: &str| {
        let file = recording.files.iter().find(|file| file.path == name).unwrap();
        assert_eq!(file.size, 64 * MIB);
        file.ranges.clone().unwrap()
    };
    let check = |name: &str, touched: &[u64]| {
        let ranges = ranges(name);
        // The kernel reads ahead; how far is a setting of the disk.
        assert!(ranges.bytes() <= 24 * MIB, "{name}: {ranges}");
        for at in touched {
            assert!(ranges.as_slice().iter().any(|range| range.contains(at)), "{name}: {ranges}");
        }
    };
    check("read", &[10 * MIB, 10 * MIB + 8191]);
    if has_python {
        check("mapped", &[5 * MIB, 40 * MIB]);
    }
    assert!(ranges("untouched").is_empty());
    assert_eq!(recording.kept_in_cache, 0);
}
