//! `ctr-remote images optimize`.

use std::fs::{self, File};
use std::future::Future;
use std::io::BufWriter;
use std::path::Path;
use std::pin::pin;

use ::convert::record::{self, Entry, Wanted};
use ::convert::{List, Platform};
use anyhow::{Context as _, bail};
use containerd::Client;
use optimize::{Image, Names, Options, Workload};
use serde_json::Value;
use tokio::sync::watch;

use super::convert::{self, own_platform, tell};
use super::optimize_args::{Optimize, Words};
use super::{check_name, lease};

/// The largest manifest and configuration, in bytes.
const DOCUMENT_MAX: u64 = 8 << 20;
/// containerd's default snapshotter, which stacks layers by overlayfs.
const SNAPSHOTTER: &str = "overlayfs";
const RUNTIME: &str = "io.containerd.runc.v2";

/// Watches the image's workload and converts the image, until what `until` gives ends.
pub async fn run<F: Future<Output = anyhow::Error>>(
    client: &Client,
    flags: Optimize,
    until: impl Fn() -> F,
) -> anyhow::Result<()> {
    let mut options = convert::options(&flags.conversion())?;
    options.reuse = flags.reuse;
    check_name(&flags.target)?;
    if !flags.oci {
        tell(
            "warning: without --oci, Docker's media types have no place for what verifies a layer that is pulled lazily",
        );
    }
    let source = convert::find(client, &flags.source).await?;
    let mut ended = pin!(until());
    if !flags.no_optimize && wants_own_platform(&flags) {
        let chunk_size = options.layer.chunk_size;
        let Found { entries, manifest, stopped } = wanted(client, &flags, &source, &mut ended).await?;
        if stopped {
            // The next signal is for the conversion.
            ended.set(until());
        }
        let wanted = Wanted::of(&entries, Some(&manifest), chunk_size);
        let (files, parts) = (wanted.prioritized.len(), wanted.ranges.len());
        tell(&format!("{files} files are to be prefetched, and parts of {parts} large ones"));
        if let Some(path) = &flags.record_out {
            write_record(path, &entries)?;
        }
        (options.prioritized, options.ranges) = (wanted.prioritized, wanted.ranges);
    } else if flags.record_out.is_some() {
        bail!("--record-out has nothing to write: nothing is run, nor listed");
    }
    lease::under(client, |client| convert::convert(client, options, source, flags.target, ended)).await
}

fn wants_own_platform(flags: &Optimize) -> bool {
    let own = own_platform();
    flags.platform.is_empty() || flags.platform.iter().any(|platform| platform.accepts(&own))
}

/// What is wanted of an image.
struct Found {
    entries: Vec<Entry>,
    /// Digest of its manifest.
    manifest: format::Digest,
    /// Whether the workload was stopped by a signal that it was to wait for.
    stopped: bool,
}

/// What is wanted of the image for this machine.
async fn wanted(
    client: &Client,
    flags: &Optimize,
    source: &::convert::Descriptor,
    ended: &mut std::pin::Pin<&mut impl Future<Output = anyhow::Error>>,
) -> anyhow::Result<Found> {
    let image = image(client, source.digest).await?;
    let manifest = image.manifest;
    let (stop, stopped) = watch::channel(false);
    let listed = flags.prefetch_list.as_deref().map(list).transpose()?;
    let options = options(flags)?;
    let mut work = pin!(async {
        match listed {
            Some(list) => {
                let all = optimize::files(client, &image, &options, stopped).await?;
                let paths: Vec<&str> = all.iter().map(|entry| entry.path.as_str()).collect();
                let selected = list.select(&paths);
                if selected.is_empty() {
                    bail!("no file of the image is in the list");
                }
                let entry = |path: &&str| {
                    let place = all.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
                    Some(all[place].clone())
                };
                Ok(selected.iter().filter_map(entry).collect())
            }
            None => {
                let watched = optimize::watch(client, &image, &options, stopped).await?;
                report(&watched);
                Ok(watched.entries)
            }
        }
    });
    let (entries, stopped) = tokio::select! {
        entries = &mut work => (entries?, false),
        reason = ended.as_mut() => {
            stop.send_replace(true);
            // It takes away what it has made.
            let entries = work.await;
            match entries {
                Ok(entries) if flags.wait_on_signal => (entries, true),
                _ => return Err(reason),
            }
        }
    };
    Ok(Found { entries, manifest, stopped })
}

fn report(watched: &optimize::Watched) {
    match watched.exit {
        Some(0) | None => {}
        Some(code) => tell(&format!("warning: the workload ended with exit code {code}")),
    }
    if watched.overflows > 0 {
        tell("warning: files were touched faster than they could be recorded; some may be missing");
    }
    if watched.kept_in_cache > 0 {
        let count = watched.kept_in_cache;
        tell(&format!(
            "warning: {count} large files were in use, of which more than was touched may be prefetched"
        ));
    }
}

fn list(path: &Path) -> anyhow::Result<List> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the list {}", path.display()))?;
    List::parse(&text).with_context(|| format!("cannot use the list {}", path.display()))
}

fn write_record(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let write = || record::write(entries, BufWriter::new(File::create(path)?));
    write().with_context(|| format!("cannot write the record {}", path.display()))
}

fn options(flags: &Optimize) -> anyhow::Result<Options> {
    let mut env = Vec::new();
    if let Some(path) = &flags.env_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        env.extend(lines.map(str::to_owned));
    }
    env.extend(flags.env.iter().cloned());
    let words = |words: &Option<Words>| words.as_ref().map(|words| words.0.clone());
    Ok(Options {
        snapshotter: SNAPSHOTTER.to_owned(),
        runtime: RUNTIME.to_owned(),
        workload: Workload {
            user: flags.user.clone(),
            cwd: flags.cwd.clone(),
            entrypoint: words(&flags.entrypoint),
            args: words(&flags.args),
            env,
            terminal: flags.terminal,
            mounts: flags.mount.clone(),
            host_network: flags.net_host,
            network: None,
        },
        names: Names {
            of_host: flags.net_host,
            nameservers: flags.dns_nameservers.clone(),
            search: flags.dns_search_domains.clone(),
            options: flags.dns_options.clone(),
            hosts: flags.add_hosts.clone(),
        },
        until: flags.until(),
        echo: true,
    })
}

/// The image for this machine.
async fn image(client: &Client, digest: format::Digest) -> anyhow::Result<Image> {
    let mut digest = digest;
    // Indexes of indexes are rare, and of more than a few nobody has heard.
    for _ in 0..4 {
        let document = document(client, &digest.to_string()).await?;
        let Some(manifests) = document["manifests"].as_array() else {
            let config =
                document["config"]["digest"].as_str().context("the manifest names no configuration")?;
            let config = self::document(client, config).await?;
            let layers = document["layers"].as_array().into_iter().flatten().map(layer);
            let layers =
                layers.collect::<Option<Vec<_>>>().context("the manifest's layers have no digests")?;
            return Ok(Image { manifest: digest, config, layers });
        };
        let own = own_platform();
        let fits = |manifest: &&Value| {
            let platform: Result<Platform, _> = serde_json::from_value(manifest["platform"].clone());
            platform.is_ok_and(|platform| own.accepts(&platform))
        };
        let found = manifests.iter().find(fits).with_context(|| {
            format!("the image is not for {own}, so its workload cannot be run here; see --no-optimize")
        })?;
        digest = found["digest"].as_str().context("the index names no manifest")?.parse()?;
    }
    bail!("the image's indexes are nested too deeply")
}

async fn document(client: &Client, digest: &str) -> anyhow::Result<Value> {
    let bytes = client.content().read_all(digest, DOCUMENT_MAX).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("{digest} is not JSON"))
}

fn layer(layer: &Value) -> Option<containerd::Descriptor> {
    Some(containerd::Descriptor {
        media_type: layer["mediaType"].as_str().unwrap_or_default().to_owned(),
        digest: layer["digest"].as_str()?.to_owned(),
        size: layer["size"].as_i64()?,
        annotations: Default::default(),
    })
}
