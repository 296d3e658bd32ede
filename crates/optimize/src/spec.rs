//! The OCI runtime specification of a workload.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::users;

/// How a process of an image is run. What is not said is what the image says.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// `USER[:GROUP]`, in names or numbers.
    pub user: Option<String>,
    /// The working directory.
    pub cwd: Option<String>,
    /// Replaces the image's Entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's Cmd.
    pub args: Option<Vec<String>>,
    /// `NAME=VALUE`, or `NAME` to take the variable away. Later ones win, and all win over the image's.
    pub env: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// What is mounted besides the usual.
    pub mounts: Vec<Mount>,
    /// Whether it uses the network of the host; otherwise it has one of its own, in the namespace below.
    pub host_network: bool,
    /// A network namespace that is there already, by its path.
    pub network: Option<PathBuf>,
}

/// Something mounted into a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// As `bind` or `tmpfs`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where.
    pub destination: String,
    /// Options of mount(8).
    pub options: Vec<String>,
}

/// A workload cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Neither the image nor anybody says what to run.
    #[error("the image has neither an entrypoint nor a command; name one with --args or --entrypoint")]
    NoCommand,
    /// The image has no such user.
    #[error("the image has no user {0:?} in its /etc/passwd; give a number, or another user with --user")]
    NoUser(String),
    /// The image has no such group.
    #[error("the image has no group {0:?} in its /etc/group; give a number, or another group with --user")]
    NoGroup(String),
    /// A mount is not described as it has to be.
    #[error("the mount {0:?}: {1}")]
    Mount(String, &'static str),
}

/// What a container of ordinary rights may do: the set that Docker and containerd give.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// What of /proc and /sys would tell about the host, or change it.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl std::str::FromStr for Mount {
    type Err = SpecError;

    /// Parses `type=KIND,source=PATH,destination=PATH,options=A:B`, with `src` and `dst` as short forms.
    fn from_str(text: &str) -> Result<Mount, SpecError> {
        let wrong = |problem| SpecError::Mount(text.to_owned(), problem);
        let mut mount = Mount::default();
        for field in text.split(',') {
            let (key, value) =
                field.split_once('=').ok_or_else(|| wrong("each field has to be KEY=VALUE"))?;
            match key.trim() {
                "type" => mount.kind = value.to_owned(),
                "source" | "src" => mount.source = value.to_owned(),
                "destination" | "dst" => mount.destination = value.to_owned(),
                "options" => mount.options = value.split(':').map(str::to_owned).collect(),
                _ => return Err(wrong("the keys are type, source (src), destination (dst) and options")),
            }
        }
        if !mount.destination.starts_with('/') {
            return Err(wrong("it needs a destination that begins with /"));
        }
        Ok(mount)
    }
}

impl Workload {
    /// The specification: for the image whose configuration is `config` and whose files are mounted at `root`.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn spec(&self, config: &Value, root: &Path, cgroup: &str) -> Result<Value, SpecError> {
        let image = &config["config"];
        let user = self.user.as_deref().or(image["User"].as_str()).unwrap_or_default();
        let [passwd, group] = ["etc/passwd", "etc/group"].map(|name| users::text_of(root, name));
        let user = users::resolve(user, &passwd, &group)?;
        let args = self.command(image)?;
        let cwd = self.cwd.as_deref().or(image["WorkingDir"].as_str()).filter(|cwd| !cwd.is_empty());
        let capabilities = json!(CAPABILITIES);
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": self.terminal,
                "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional },
                "args": args,
                "env": self.environment(image, user.home.as_deref()),
                "cwd": cwd.unwrap_or("/"),
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "noNewPrivileges": true,
            },
            "root": { "path": root },
            "mounts": usual_mounts(),
            "linux": {
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "cgroupsPath": cgroup,
                "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        });
        if let (Some(namespaces), false) = (spec["linux"]["namespaces"].as_array_mut(), self.host_network) {
            namespaces.push(match &self.network {
                Some(path) => json!({ "type": "network", "path": path }),
                None => json!({ "type": "network" }),
            });
        }
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.extend(self.mounts.iter().map(|mount| {
                json!({
                    "type": mount.kind, "source": mount.source,
                    "destination": mount.destination, "options": mount.options,
                })
            }));
        }
        Ok(spec)
    }

    fn command(&self, image: &Value) -> Result<Vec<String>, SpecError> {
        let entrypoint = self.entrypoint.clone().unwrap_or_else(|| strings(&image["Entrypoint"]));
        let args = match &self.args {
            Some(args) => args.clone(),
            None => strings(&image["Cmd"]),
        };
        let command: Vec<String> = entrypoint.into_iter().chain(args).collect();
        if command.is_empty() { Err(SpecError::NoCommand) } else { Ok(command) }
    }

    fn environment(&self, image: &Value, home: Option<&str>) -> Vec<String> {
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let mut all: Vec<String> = vec![PATH.to_owned()];
        all.extend(home.map(|home| format!("HOME={home}")));
        all.extend(self.terminal.then(|| "TERM=xterm".to_owned()));
        for variable in strings(&image["Env"]).into_iter().chain(self.env.iter().cloned()) {
            all.retain(|other| name(other) != name(&variable));
            if variable.contains('=') {
                all.push(variable);
            }
        }
        all
    }
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn usual_mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {
            "destination": "/run", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(workload: &Workload, image: Value) -> Result<Value, SpecError> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "www:x:33:34::/var/www:/bin/sh\n").unwrap();
        workload.spec(&json!({ "config": image }), root.path(), "/optimize/x")
    }

    #[test]
    fn what_is_not_said_is_what_the_image_says() {
        let image = json!({
            "User": "www", "WorkingDir": "/srv", "Entrypoint": ["/entry"], "Cmd": ["a", "b"],
            "Env": ["PATH=/bin", "A=1", "B=2"],
        });
        let found = spec(&Workload::default(), image.clone()).unwrap();
        let process = &found["process"];
        assert_eq!(process["args"], json!(["/entry", "a", "b"]));
        assert_eq!(process["env"], json!(["HOME=/var/www", "PATH=/bin", "A=1", "B=2"]));
        assert_eq!((&process["cwd"], &process["user"]["uid"]), (&json!("/srv"), &json!(33)));
        let has_network = |spec: &Value| {
            spec["linux"]["namespaces"].as_array().unwrap().iter().any(|space| space["type"] == "network")
        };
        assert!(has_network(&found));

        let said = Workload {
            user: Some("5:6".into()),
            cwd: Some("/tmp".into()),
            args: Some(vec!["c".into()]),
            env: vec!["A=3".into(), "B".into(), "C=4=5".into()],
            host_network: true,
            mounts: vec!["type=bind,src=/a,dst=/b,options=rbind:ro".parse().unwrap()],
            ..Workload::default()
        };
        let found = spec(&said, image).unwrap();
        let process = &found["process"];
        assert_eq!(process["args"], json!(["/entry", "c"]));
        assert_eq!(process["env"], json!(["PATH=/bin", "A=3", "C=4=5"]));
        assert_eq!((&process["cwd"], &process["user"]["gid"]), (&json!("/tmp"), &json!(6)));
        assert!(!has_network(&found));
        let last = found["mounts"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["destination"], &last["options"]), (&json!("/b"), &json!(["rbind", "ro"])));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        assert_eq!(spec(&Workload::default(), json!({})), Err(SpecError::NoCommand));
        let stranger = Workload { user: Some("stranger".into()), ..Workload::default() };
        assert_eq!(spec(&stranger, json!({ "Cmd": ["x"] })), Err(SpecError::NoUser("stranger".into())));
        for mount in ["type=bind", "bind", "type=bind,dst=b", "dst=/b,mode=ro"] {
            assert!(matches!(mount.parse::<Mount>(), Err(SpecError::Mount(..))), "{mount}");
        }
    }
}
