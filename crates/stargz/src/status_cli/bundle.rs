//! `stargz debug bundle`: one archive for somebody who is to help.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::Value;
use toml::Value as Toml;

use super::args::{Bundle, Debug, DebugVerb};
use super::{FOR_PROGRAMS, PATIENCE, say};
use crate::control::Client;
use crate::watch::status::{Question, STATUS};
use crate::watch::{METRICS, RECENT_LINES};

/// Longest file that is taken in, bytes.
const FILE_MAX: usize = 4 << 20;
/// What stands for a secret.
const MASK: &str = "(masked)";

/// Does what was typed.
///
/// # Errors
/// The archive can't be written.
pub fn run(flags: &Debug) -> anyhow::Result<()> {
    let DebugVerb::Bundle(flags) = &flags.verb;
    let files = collect(flags);
    if flags.file == Path::new("-") {
        return write(std::io::stdout().lock(), &files);
    }
    let path = flags.file.display();
    let file = File::create_new(&flags.file).with_context(|| format!("cannot make {path}"))?;
    write(file, &files).with_context(|| format!("cannot write {path}"))?;
    say(&format!("{path}: {} files; read it before you give it away", files.len()))
}

/// Names and contents. What can't be had is in there with the reason.
fn collect(flags: &Bundle) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let mut config = flags.config.clone();
    match Client::connect(&flags.root) {
        Ok(Some(mut client)) => {
            let question = Question { only: String::new(), map: FOR_PROGRAMS };
            let status = client.ask::<Value>(STATUS, question, PATIENCE);
            if let Some(path) = status.as_ref().ok().and_then(|status| status["daemon"]["config"].as_str()) {
                config = path.into();
            }
            files.push(("status.json", text(status.map(|status| format!("{status:#}")))));
            files.push(("metrics.txt", text(client.ask::<String>(METRICS, Value::Null, PATIENCE))));
            let lines = client.ask::<Vec<String>>(RECENT_LINES, Value::Null, PATIENCE);
            files.push(("log.jsonl", text(lines.map(|lines| lines.join("\n")))));
        }
        Ok(None) => files.push(("daemon.txt", format!("no daemon answers in {}\n", flags.root.display()))),
        Err(error) => files.push(("daemon.txt", format!("the daemon cannot be asked: {error}\n"))),
    }
    files.push(("config.toml", text(fs::read_to_string(&config).map(|text| masked(&text)))));
    files.push(("version.txt", format!("{}\n", crate::cli::VERSION)));
    for (name, path) in [
        ("mountinfo.txt", "/proc/self/mountinfo"),
        ("kernel/version.txt", "/proc/version"),
        ("kernel/filesystems.txt", "/proc/filesystems"),
        ("kernel/meminfo.txt", "/proc/meminfo"),
        ("kernel/pressure-io.txt", "/proc/pressure/io"),
        ("os-release.txt", "/etc/os-release"),
    ] {
        files.push((name, text(fs::read_to_string(path))));
    }
    files.push(("kernel/options.txt", options_of_kernel()));
    files.push(("disk.txt", disk(&flags.root)));
    files
}

fn text<E: std::fmt::Display>(result: Result<String, E>) -> String {
    result.unwrap_or_else(|error| format!("not to be had: {error}\n"))
}

/// The options that decide how layers can be shown.
fn options_of_kernel() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let found = fs::read_to_string(format!("/boot/config-{release}")).or_else(|_| {
        let zcat = Command::new("zcat").arg("/proc/config.gz").output()?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&zcat.stdout).into_owned())
    });
    let all = found.unwrap_or_default();
    let ours = all.lines().filter(|line| {
        ["EROFS", "FUSE", "OVERLAY_FS", "BLK_DEV_LOOP"].iter().any(|part| line.contains(part))
    });
    let ours: Vec<&str> = ours.collect();
    if ours.is_empty() {
        "the kernel's options are not to be had here\n".to_owned()
    } else {
        ours.join("\n") + "\n"
    }
}

fn disk(root: &Path) -> String {
    match rustix::fs::statvfs(root) {
        Ok(disk) => format!(
            "{}: {} of {} bytes free, {} of {} inodes free\n",
            root.display(),
            disk.f_bavail * disk.f_frsize,
            disk.f_blocks * disk.f_frsize,
            disk.f_favail,
            disk.f_files
        ),
        Err(error) => format!("{}: {error}\n", root.display()),
    }
}

/// A configuration without its secrets. What is not TOML could hold them anywhere, and is left out.
fn masked(text: &str) -> String {
    let Ok(mut table) = text.parse::<toml::Table>() else {
        return "# the file is not TOML, and left out because secrets in it could not be found\n".to_owned();
    };
    for (key, value) in &mut table {
        mask(key, value);
    }
    toml::to_string_pretty(&table).unwrap_or_default()
}

fn mask(key: &str, value: &mut Toml) {
    let secret = matches!(key, "password" | "auth" | "identitytoken" | "username");
    match value {
        Toml::Table(table) => {
            let header = key == "header";
            for (key, value) in table.iter_mut() {
                if header { *value = MASK.into() } else { mask(key, value) }
            }
        }
        Toml::Array(items) => items.iter_mut().for_each(|item| mask(key, item)),
        Toml::String(_) if secret => *value = MASK.into(),
        // User and password of a URL.
        Toml::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, host)) = rest.split_once('@')
            {
                *text = format!("{scheme}://{MASK}@{host}");
            }
        }
        _ => {}
    }
}

fn write(to: impl Write, files: &[(&str, String)]) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(to);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for (name, text) in files {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..FILE_MAX).unwrap_or(bytes);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, Path::new("stargz-debug").join(name), bytes)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_in_a_masked_configuration() {
        let text = "noprefetch = true\n[registry.configs.\"a.test\".auth]\nusername = \"hush1\"\npassword = \"hush2\"\n\
            auth = \"hush3\"\nidentitytoken = \"hush4\"\n[registry.mirrors.\"b\"]\nendpoint = [\"https://u:hush5@m.test/v2\"]\n\
            [[resolver.host.\"c\".mirrors]]\nhost = \"m\"\n[resolver.host.\"c\".mirrors.header]\nAuthorization = [\"hush6\"]\nX = \"hush7\"\n";
        let masked = masked(text);
        assert!(!masked.contains("hush"), "{masked}");
        assert!(masked.contains("noprefetch = true") && masked.contains("@m.test/v2"), "{masked}");
        assert!(!super::masked("password = \"hush\nx").contains("hush"));
    }
}
