//! Blobs by their digest.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost_types::FieldMask;
use tonic::Streaming;

use crate::client::{Client, refused, stub};
use crate::error::Error;
use crate::proto::content::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
    ReadContentRequest, ReadContentResponse, Status, StatusRequest, UpdateRequest,
};
use crate::{Ingest, Labels};

/// The content store. Made by [`Client::content`].
#[derive(Clone, Copy, Debug)]
pub struct Content<'a>(pub(crate) &'a Client);

impl Client {
    /// Blobs.
    pub fn content(&self) -> Content<'_> {
        Content(self)
    }
}

impl Content<'_> {
    /// Describes the blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not there.
    pub async fn info(&self, digest: &str) -> Result<Info, Error> {
        let request = InfoRequest { digest: digest.to_owned() };
        let action = "looking up the blob";
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        let answer = self.0.call(action, digest, stub.info(request)).await?;
        present(action, digest, answer.info)
    }

    /// Lists the blobs that one of the filters matches, or all.
    ///
    /// # Errors
    /// When the list breaks off.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Info>, Error> {
        let action = "listing";
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        let request = ListContentRequest { filters: filters.to_vec() };
        let mut parts = self.0.call(action, "blobs", stub.list(request)).await?;
        let mut all = Vec::new();
        while let Some(part) = next(self.0.deadline, action, "blobs", &mut parts).await? {
            all.extend(part.info);
        }
        Ok(all)
    }

    /// Reads `size` bytes from byte `offset` on; all that follow if `size` is 0.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not there; then, or while it is read.
    pub async fn read(&self, digest: &str, offset: u64, size: u64) -> Result<Reading, Error> {
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            offset: offset.cast_signed(),
            size: size.cast_signed(),
        };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        let parts = self.0.call(READING, digest, stub.read(request)).await?;
        Ok(Reading { parts, digest: digest.to_owned(), deadline: self.0.deadline })
    }

    /// Reads all of a small blob.
    ///
    /// # Errors
    /// As [`Content::read`]; [`Error::Answer`] if there are more than `most` bytes.
    pub async fn read_all(&self, digest: &str, most: u64) -> Result<Vec<u8>, Error> {
        let mut reading = self.read(digest, 0, 0).await?;
        let mut all = Vec::new();
        while let Some(part) = reading.next().await? {
            if all.len() as u64 + part.len() as u64 > most {
                let problem = "it has more bytes than such a blob may have";
                return Err(Error::Answer { action: READING, subject: digest.to_owned(), problem });
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }

    /// Sets labels of the blob; an empty value removes the label. Others stay.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not there.
    pub async fn set_labels(&self, digest: &str, labels: &Labels) -> Result<Info, Error> {
        let action = "setting labels of the blob";
        let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
        let request = UpdateRequest {
            info: Some(Info { digest: digest.to_owned(), labels: HashMap::clone(labels), ..Info::default() }),
            update_mask: Some(FieldMask { paths }),
        };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        let answer = self.0.call(action, digest, stub.update(request)).await?;
        present(action, digest, answer.info)
    }

    /// Removes the blob.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if it is not there.
    pub async fn delete(&self, digest: &str) -> Result<(), Error> {
        let request = DeleteContentRequest { digest: digest.to_owned() };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        self.0.call("removing the blob", digest, stub.delete(request)).await
    }

    /// Begins to write, or goes on with what was left under `reference`. `size` and `digest` are those of the whole, if
    /// they are known.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is a blob of this digest; [`crate::ErrorKind::Unavailable`] if somebody
    /// else is writing under this name.
    pub async fn write(
        &self,
        reference: &str,
        size: Option<u64>,
        digest: Option<&str>,
    ) -> Result<Ingest, Error> {
        Ingest::begin(self.0, reference, size, digest).await
    }

    /// How far the write is that was begun under this name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn status(&self, reference: &str) -> Result<Status, Error> {
        let action = "looking up the write";
        let request = StatusRequest { r#ref: reference.to_owned() };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        let answer = self.0.call(action, reference, stub.status(request)).await?;
        present(action, reference, answer.status)
    }

    /// What is being written, or was left.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn statuses(&self, filters: &[String]) -> Result<Vec<Status>, Error> {
        let request = ListStatusesRequest { filters: filters.to_vec() };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        Ok(self.0.call("listing", "writes", stub.list_statuses(request)).await?.statuses)
    }

    /// Gives up what was written under this name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is nothing.
    pub async fn abort(&self, reference: &str) -> Result<(), Error> {
        let request = AbortRequest { r#ref: reference.to_owned() };
        let mut stub = stub!(self.0, content::content_client::ContentClient);
        self.0.call("giving up the write", reference, stub.abort(request)).await
    }
}

const READING: &str = "reading the blob";

/// Bytes of a blob as they arrive.
#[derive(Debug)]
pub struct Reading {
    parts: Streaming<ReadContentResponse>,
    digest: String,
    deadline: Duration,
}

impl Reading {
    /// The next bytes; `None` at the end. containerd sends at most 1 MiB at once.
    ///
    /// # Errors
    /// When reading breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let part = next(self.deadline, READING, &self.digest, &mut self.parts).await?;
        Ok(part.map(|part| part.data))
    }
}

/// The next message of a stream.
pub(crate) async fn next<T>(
    limit: Duration,
    action: &'static str,
    subject: &str,
    stream: &mut Streaming<T>,
) -> Result<Option<T>, Error> {
    match tokio::time::timeout(limit, stream.message()).await {
        Ok(answer) => answer.map_err(|status| refused(action, subject, status)),
        Err(_) => Err(Error::Deadline { action, subject: subject.to_owned(), limit }),
    }
}

/// What an answer must have.
pub(crate) fn present<T>(action: &'static str, subject: &str, value: Option<T>) -> Result<T, Error> {
    let problem = "what was asked for is missing in it";
    value.ok_or_else(|| Error::Answer { action, subject: subject.to_owned(), problem })
}
