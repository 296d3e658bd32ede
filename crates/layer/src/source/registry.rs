//! A registry's blob as a [`BlobSource`].

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, Kind};
use crate::source::{BlobBody, BlobSource, Tail};

fn of_registry(error: ::registry::Error) -> Error {
    let kind = match error.kind() {
        ::registry::Kind::Timeout => Kind::Timeout,
        _ => Kind::Source,
    };
    // Its text is whole: method, address, cause, attempts.
    Error::new(kind, error.to_string())
}

#[async_trait]
impl BlobSource for ::registry::Blob {
    async fn tail(&self, len: u64) -> Result<Tail, Error> {
        let tail = ::registry::Blob::tail(self, len).await.map_err(of_registry)?;
        Ok(Tail { blob_size: tail.blob_size, bytes: tail.bytes })
    }

    async fn read(&self, range: Range<u64>) -> Result<Box<dyn BlobBody>, Error> {
        let body = ::registry::Blob::read(self, range).await.map_err(of_registry)?;
        Ok(Box::new(body))
    }
}

#[async_trait]
impl BlobBody for ::registry::RangeBody {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn whole(&self) -> bool {
        self.whole
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        ::registry::RangeBody::next(self).await.map_err(of_registry)
    }
}
