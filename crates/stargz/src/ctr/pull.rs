//! `ctr-remote images rpull`.

use std::future::Future;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use containerd::{Client, Image, Labels};
use format::Digest;
use registry::{Descriptor, Platform, Reference};

use super::args::Rpull;
use super::labels::{self, Remote, TARGET};
use super::lease::{self, unique};
use super::store::UNCOMPRESSED;
use super::{check_name, registry as remote};

/// Pulls an image until `ended` ends.
pub async fn run(
    client: &Client,
    flags: &Rpull,
    ended: impl Future<Output = anyhow::Error>,
) -> anyhow::Result<()> {
    check_name(&flags.reference)?;
    let reference = Reference::parse(&flags.reference)?;
    let labels = image_labels(&flags.label)?;
    let registry = remote::client(flags, &reference)?;
    lease::under(client, |client| async move {
        let pull = Pull { client, registry, reference, flags };
        tokio::select! {
            result = pull.image(labels) => result,
            reason = ended => Err(reason),
        }
    })
    .await
}

fn image_labels(labels: &[String]) -> anyhow::Result<Labels> {
    let pair = |label: &String| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        if name.is_empty() {
            bail!("--label {label:?} has no name; write it as NAME=VALUE");
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    labels.iter().map(pair).collect()
}

struct Pull<'a> {
    client: Client,
    registry: registry::Client,
    reference: Reference,
    flags: &'a Rpull,
}

impl Pull<'_> {
    async fn image(&self, labels: Labels) -> anyhow::Result<()> {
        let (root, root_bytes) = self.registry.manifest(&self.reference).await?;
        let pinned = self.reference.with_digest(root.digest);
        let image = self.registry.image(&pinned, &Platform::host()).await?;
        self.document(&root, root_bytes).await?;
        if image.manifest.digest != root.digest {
            let (manifest, bytes) =
                self.registry.manifest(&self.reference.with_digest(image.manifest.digest)).await?;
            self.document(&manifest, bytes).await?;
        }
        self.document(&image.config, image.config_bytes.clone()).await?;
        let top = self.unpack(&image).await?;
        if let Some(top) = top {
            // The snapshots are needed as long as the image is.
            let name = format!("containerd.io/gc.ref.snapshot.{}", self.flags.snapshotter);
            let config = image.config.digest.to_string();
            self.client.content().set_labels(&config, &Labels::from([(name, top)])).await?;
        }
        let target = containerd::Descriptor {
            media_type: root.media_type,
            digest: root.digest.to_string(),
            size: root.size.cast_signed(),
            ..containerd::Descriptor::default()
        };
        let name = self.flags.reference.clone();
        self.client.images().put(Image { name, labels, target: Some(target), ..Image::default() }).await?;
        Ok(())
    }

    /// Makes a snapshot of each layer. Returns the name of the topmost.
    async fn unpack(&self, image: &registry::Image) -> anyhow::Result<Option<String>> {
        #[derive(serde::Deserialize)]
        struct Config {
            rootfs: RootFs,
        }
        #[derive(serde::Deserialize)]
        struct RootFs {
            diff_ids: Vec<Digest>,
        }
        let config: Config = serde_json::from_slice(&image.config_bytes)
            .with_context(|| format!("the config {} of the image", image.config.digest))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != image.layers.len() {
            bail!("the image has {} layers, but {} diff IDs", image.layers.len(), diff_ids.len());
        }
        let manifest = image.manifest.digest.to_string();
        let remote = Remote {
            reference: &self.flags.reference,
            manifest: &manifest,
            layers: &image.layers,
            containerd_names: self.flags.use_containerd_labels,
            skip_verify: self.flags.skip_content_verify,
        };
        let mut parent: Option<String> = None;
        for (number, (layer, diff_id)) in image.layers.iter().zip(&diff_ids).enumerate() {
            let chain = match &parent {
                None => diff_id.to_string(),
                Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()).to_string(),
            };
            let below = parent.as_deref().unwrap_or_default();
            self.layer(layer, diff_id, below, &chain, remote.of(number)).await?;
            parent = Some(chain);
        }
        Ok(parent)
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: &str,
        chain: &str,
        mut labels: Labels,
    ) -> anyhow::Result<()> {
        let snapshots = self.client.snapshots(&self.flags.snapshotter);
        match snapshots.stat(chain).await {
            Ok(_) => {
                // Another image has it: this one's lease keeps it from now on.
                return Ok(self.keep_snapshot(chain).await?);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        labels.insert(TARGET.to_owned(), chain.to_owned());
        let key = format!("{} {chain}", unique("extract"));
        let mounts = match snapshots.prepare(&key, parent, &labels).await {
            Ok(mounts) => mounts,
            Err(error) if error.is_already_exists() => {
                snapshots.stat(chain).await.with_context(|| {
                    format!("the snapshotter said that it has the layer {}", layer.digest)
                })?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let unpacked = async {
            self.download(layer).await?;
            let descriptor = containerd::Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: layer.size.cast_signed(),
                ..containerd::Descriptor::default()
            };
            let applied = self.client.diff().apply(descriptor, mounts).await?;
            if applied.digest != diff_id.to_string() {
                bail!(
                    "the layer {} is not what the image's config says: its diff ID is {}, not {diff_id}",
                    layer.digest,
                    applied.digest
                );
            }
            let uncompressed = Labels::from([(UNCOMPRESSED.to_owned(), applied.digest)]);
            self.client.content().set_labels(&layer.digest.to_string(), &uncompressed).await?;
            match snapshots.commit(chain, &key, &labels).await {
                Err(error) if !error.is_already_exists() => Err(error.into()),
                // Somebody else was faster.
                Err(_) => Ok(snapshots.remove(&key).await?),
                Ok(()) => Ok(()),
            }
        };
        let result: anyhow::Result<()> = unpacked.await;
        if result.is_err()
            && let Err(error) = snapshots.remove(&key).await
        {
            tracing::debug!(%error, "a snapshot is left to the garbage collector");
        }
        result
    }

    async fn keep_snapshot(&self, chain: &str) -> Result<(), containerd::Error> {
        let Some(lease) = self.client.lease() else { return Ok(()) };
        let kind = format!("snapshots/{}", self.flags.snapshotter);
        self.client.leases().add(lease, &kind, chain).await
    }

    /// Writes what is in memory.
    async fn document(&self, what: &Descriptor, bytes: Bytes) -> anyhow::Result<()> {
        fetching(what);
        let mut labels = labels::of_children(&what.media_type, &bytes);
        labels.extend(self.origin());
        let digest = what.digest.to_string();
        let content = self.client.content();
        let name = unique("ctr-remote-document");
        let written = async {
            let mut ingest = content.write(&name, Some(what.size), Some(&digest)).await?;
            ingest.restart();
            ingest.write(bytes).await?;
            ingest.commit(Some(&digest), &labels).await
        };
        match written.await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => self.have(&digest, &labels).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn download(&self, layer: &Descriptor) -> anyhow::Result<()> {
        fetching(layer);
        let digest = layer.digest.to_string();
        let labels = self.origin();
        let content = self.client.content();
        let name = unique("ctr-remote-layer");
        let mut ingest = match content.write(&name, Some(layer.size), Some(&digest)).await {
            Ok(ingest) => ingest,
            Err(error) if error.is_already_exists() => return self.have(&digest, &labels).await,
            Err(error) => return Err(error.into()),
        };
        if ingest.offset() < layer.size {
            ingest.restart();
            let mut body = self.registry.blob(&self.reference, &layer.digest).read(0..layer.size).await?;
            while let Some(part) = body.next().await? {
                ingest.write(part).await?;
            }
        }
        match ingest.commit(Some(&digest), &labels).await {
            Err(error) if error.is_already_exists() => self.have(&digest, &labels).await,
            other => Ok(other.map(drop)?),
        }
    }

    async fn have(&self, digest: &str, labels: &Labels) -> anyhow::Result<()> {
        if let Some(lease) = self.client.lease() {
            self.client.leases().add(lease, "content", digest).await?;
        }
        self.client.content().set_labels(digest, labels).await?;
        Ok(())
    }

    /// Where blobs can be mounted from when the image is pushed.
    fn origin(&self) -> Labels {
        let name = format!("containerd.io/distribution.source.{}", self.reference.host());
        Labels::from([(name, self.reference.repository().to_owned())])
    }
}

fn fetching(what: &Descriptor) {
    let digest = what.digest.to_string();
    crate::print(&format!("fetching {}... {}", &digest[..15], what.media_type));
}
