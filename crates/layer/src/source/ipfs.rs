//! A layer in IPFS as a [`BlobSource`].

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::registry::IpfsBlob;
use async_trait::async_trait;

use crate::error::{Error, Kind};
use crate::source::registry::{Body, of_tail};
use crate::source::{BlobBody, BlobSource, RegistryLayer, Tail};

/// A layer whose manifest says where it is in IPFS. Whatever the node of IPFS does not give comes from the layer's
/// registry.
#[derive(Debug)]
pub struct IpfsLayer {
    blob: IpfsBlob,
    registry: RegistryLayer,
    /// So that an outage is logged once, not with every read.
    failing: AtomicBool,
}

impl IpfsLayer {
    /// The layer `blob`, which `registry` has as well, perhaps.
    pub fn new(blob: IpfsBlob, registry: RegistryLayer) -> IpfsLayer {
        IpfsLayer { blob, registry, failing: AtomicBool::new(false) }
    }

    /// What IPFS gives, or else the registry.
    async fn either<T>(
        &self,
        ipfs: impl Future<Output = ::registry::Result<T>>,
        registry: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let error = match ipfs.await {
            Ok(found) => {
                self.failing.store(false, Ordering::Relaxed);
                return Ok(found);
            }
            Err(error) => error,
        };
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a layer cannot be read from IPFS, so its registry is asked");
        }
        registry.await.map_err(|second| {
            let kind = if second.kind() == Kind::Timeout { Kind::Timeout } else { Kind::Source };
            Error::new(kind, format!("{error}; and {second}"))
        })
    }
}

#[async_trait]
impl BlobSource for IpfsLayer {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        let ipfs = async { self.blob.tail(len).await.map(of_tail) };
        self.either(ipfs, self.registry.tail(len)).await
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        let ipfs = async { self.blob.read(range.clone()).await.map(Body::boxed) };
        self.either(ipfs, self.registry.read(range.clone())).await
    }

    async fn annotations(&self) -> Result<BTreeMap<String, String>, Error> {
        self.registry.annotations().await
    }

    async fn external_toc(&self) -> Result<Option<Arc<dyn BlobSource>>, Error> {
        self.registry.external_toc().await
    }

    async fn check(&self) -> Result<(), Error> {
        self.either(self.blob.check(), self.registry.check()).await
    }

    fn place(&self) -> String {
        "ipfs".into()
    }
}
