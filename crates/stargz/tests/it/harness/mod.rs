//! One stage for each test: a registry, directories, the executable, and a clean end whatever happens.
//!
//! Every test runs under [`scene`], which bounds its time. When the time is over, or the test panics, all processes
//! that work in the scene's directory are killed first and its mounts are detached then: in this order nothing can
//! hang on a FUSE mount whose server is gone.

mod checksums;
pub mod containerd;
pub mod images;
mod process;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use testkit::Registry;

pub use checksums::Reader;
pub use process::{Running, Said, run};
pub use system::{
    in_user_namespace, kill, mounts_below, peak_memory, processes_that_name, state_of, wait_until,
};

/// The executable under test.
pub const STARGZ: &str = env!("CARGO_BIN_EXE_stargz");
/// Names the backend that all tests force; without it they take what the machine offers.
const BACKEND: &str = "STARGZ_TEST_BACKEND";
/// More than any command here takes on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// After a test's time is over and its processes are killed, it gets this long to notice.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Short waits, so that what is given up is given up within a few seconds.
pub const HASTY: &str = "
[resolver]
request_timeout_sec = 1
[blob]
fetching_timeout_sec = 4
max_retries = 3
min_wait_msec = 10
max_wait_msec = 1500
";

/// Whether layers are shown by the backend whose trees go with their server.
pub fn shows_trees() -> bool {
    in_user_namespace() || std::env::var(BACKEND).is_ok_and(|backend| backend == "fuse")
}

/// Where one test plays.
#[derive(Debug)]
pub struct Scene {
    /// The registry, empty and without faults at first.
    pub registry: Registry,
    /// Resolved, as the mount table has it.
    root: PathBuf,
    mount_points: Mutex<Vec<PathBuf>>,
    _root: TempDir,
}

/// Runs a test in a scene of its own, at most for so many seconds.
///
/// # Panics
/// When the test does, or its time is over.
pub fn scene(seconds: u64, test: impl FnOnce(&Scene) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let scene = Arc::new(Scene::new());
    let (done, ended) = mpsc::channel::<()>();
    let player = {
        let scene = scene.clone();
        thread::spawn(move || {
            // Dropped, and so told, after the scene, and also by a panic.
            let _done = done;
            let scene = scene;
            test(&scene);
        })
    };
    let timeout = ended.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout);
    if timeout {
        scene.tear_down();
        let _ = ended.recv_timeout(LAST_WORDS);
        panic!("the test did not end in {seconds} s");
    }
    if let Err(panic) = player.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::Builder::new().prefix("stargz-it-").tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it is there");
        let scene = Scene { registry: Registry::start(), root, mount_points: Mutex::default(), _root: dir };
        scene.write("config.toml", HASTY);
        scene
    }

    /// A path in the scene's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file in the scene's directory. `config.toml` asks for the backend that is being tested, if one is.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let backend =
            std::env::var(BACKEND).ok().filter(|_| name == "config.toml" && !text.contains("[mount]"));
        let backend = backend.map_or_else(String::new, |name| format!("\n[mount]\nbackend = {name:?}\n"));
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("parents can be made");
        fs::write(&path, format!("{text}{backend}")).expect("the file can be written");
        path
    }

    /// A directory to mount at, cleaned up at the end.
    pub fn mount_point(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).expect("the directory can be made");
        self.mount_points.lock().expect("no panics under this lock").push(dir.clone());
        dir
    }

    /// The executable under its own name, knowing nothing of the machine's credentials and services.
    pub fn stargz(&self) -> Command {
        let mut command = Command::new(STARGZ);
        self.isolate(&mut command);
        command
    }

    /// The executable as `name`, by a link as installations have it.
    pub fn called(&self, name: &str) -> Command {
        let link = self.path("bin").join(name);
        if !link.exists() {
            fs::create_dir_all(self.path("bin")).expect("the directory can be made");
            std::os::unix::fs::symlink(STARGZ, &link).expect("the link can be made");
        }
        let mut command = Command::new(link);
        self.isolate(&mut command);
        command
    }

    fn isolate(&self, command: &mut Command) {
        command.env("DOCKER_CONFIG", self.path("docker"));
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(name);
        }
    }

    /// `stargz mount` with short timeouts.
    pub fn mount_command(&self, reference: &str, dir: &Path) -> Command {
        let mut command = self.stargz();
        command.arg("mount").arg(reference).arg(dir).arg("--config").arg(self.path("config.toml"));
        command
    }

    /// Tries to mount an image in the background, as people do.
    pub fn try_mount(&self, reference: &str, dir: &Path) -> Said {
        run(&mut self.mount_command(reference, dir), COMMAND_LIMIT)
    }

    /// Mounts an image at a new directory.
    ///
    /// # Panics
    /// When that fails.
    pub fn mount(&self, reference: &str) -> PathBuf {
        let dir = self.mount_point("mnt");
        self.mount_at(reference, &dir, &[]);
        dir
    }

    /// Mounts an image at `dir` with more flags.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn mount_at(&self, reference: &str, dir: &Path, flags: &[&str]) {
        run(self.mount_command(reference, dir).args(flags), COMMAND_LIMIT).succeeded();
    }

    /// Starts to mount an image in the foreground.
    pub fn mount_in_foreground(&self, reference: &str, dir: &Path) -> Running {
        Running::start(self.mount_command(reference, dir).args(["--foreground", "--log-level=debug"]))
    }

    /// Runs `stargz umount`.
    pub fn umount(&self, dir: &Path, flags: &[&str]) -> Said {
        run(self.stargz().arg("umount").args(flags).arg(dir), COMMAND_LIMIT)
    }

    /// The process that serves what is mounted at `dir`.
    ///
    /// # Panics
    /// When there is not exactly one.
    #[track_caller]
    pub fn server_of(&self, dir: &Path) -> u32 {
        let serving = processes_that_name(dir);
        assert_eq!(serving.len(), 1, "processes for {}: {serving:?}", dir.display());
        serving[0]
    }

    /// Checks that nothing of a mount at `dir` is left: no mount, no state, no process.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_nothing_left(&self, dir: &Path) {
        let state = state_of(dir);
        // The process in the background ends after its state is gone.
        wait_until(Duration::from_secs(2), || processes_that_name(dir).is_empty());
        assert_eq!(processes_that_name(dir), Vec::<u32>::new(), "processes");
        assert_eq!((mounts_below(dir), mounts_below(&state)), (Vec::new(), Vec::new()), "mounts");
        for path in [&state, &state.with_extension("log"), &state.with_extension("lock")] {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }

    /// Kills what works in the scene, then detaches what is mounted, then removes state. Safe to call twice.
    fn tear_down(&self) {
        for pid in processes_that_name(&self.root) {
            kill(pid, rustix::process::Signal::KILL);
        }
        wait_until(Duration::from_secs(2), || processes_that_name(&self.root).is_empty());
        let points = self.mount_points.lock().expect("no panics under this lock").clone();
        let states: Vec<_> = points.iter().map(|dir| state_of(dir)).collect();
        for prefix in states.iter().chain([&self.root]) {
            for mounted in mounts_below(prefix).iter().rev() {
                // What fails is seen as a directory that cannot be removed.
                let _ = rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH);
            }
        }
        for state in states {
            let _ = fs::remove_dir_all(&state);
            let _ = fs::remove_file(state.with_extension("log"));
            let _ = fs::remove_file(state.with_extension("lock"));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tear_down();
    }
}
