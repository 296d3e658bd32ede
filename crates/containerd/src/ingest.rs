//! Writing a blob: each message is answered before the next one is sent, so that its place is certain.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::Labels;
use crate::client::{Client, stub};
use crate::content::next;
use crate::error::Error;
use crate::proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};

/// Bytes in a message, at most.
pub const CHUNK: usize = 1 << 20;

/// A blob that is being written. Dropped, what was written stays under its name, for another [`crate::Content::write`] or
/// for [`crate::Content::abort`].
#[derive(Debug)]
pub struct Ingest {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    reference: String,
    offset: u64,
    deadline: Duration,
}

const WRITING: &str = "writing to the content store as";

impl Ingest {
    pub(crate) async fn begin(
        client: &Client,
        reference: &str,
        size: Option<u64>,
        digest: Option<&str>,
    ) -> Result<Ingest, Error> {
        let (requests, outgoing) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: size.unwrap_or(0).cast_signed(),
            expected: digest.unwrap_or_default().to_owned(),
            ..WriteContentRequest::default()
        };
        // There is room for one, and it is not received yet.
        let _ = requests.send(first).await;
        let mut stub = stub!(client, content::content_client::ContentClient);
        let outgoing = ReceiverStream::new(outgoing);
        let answers = client.call(WRITING, reference, stub.write(outgoing)).await?;
        let reference = reference.to_owned();
        let mut ingest = Ingest { requests, answers, reference, offset: 0, deadline: client.deadline };
        ingest.offset = ingest.answer(ingest.deadline).await?.offset.cast_unsigned();
        Ok(ingest)
    }

    /// Bytes that are there: where the next ones belong.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Forgets what is there.
    pub fn restart(&mut self) {
        self.offset = 0;
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When containerd does not take them.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let data = data.split_to(data.len().min(CHUNK));
            let size = data.len() as u64;
            let request = WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: self.offset.cast_signed(),
                data,
                ..WriteContentRequest::default()
            };
            self.send(request).await;
            let there = self.answer(self.deadline).await?.offset.cast_unsigned();
            self.offset += size;
            if there != self.offset {
                let problem = "it took another number of bytes than was sent";
                return Err(Error::Answer { action: WRITING, subject: self.reference.clone(), problem });
            }
        }
        Ok(())
    }

    /// Makes it a blob with these labels. Returns its digest.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is a blob of this digest, which is as good but has other labels;
    /// [`crate::ErrorKind::FailedPrecondition`] if it has another size or digest than `digest`.
    pub async fn commit(mut self, digest: Option<&str>, labels: &Labels) -> Result<String, Error> {
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: self.offset.cast_signed(),
            expected: digest.unwrap_or_default().to_owned(),
            offset: self.offset.cast_signed(),
            labels: labels.clone(),
            ..WriteContentRequest::default()
        };
        self.send(request).await;
        // The disk has to have everything first.
        Ok(self.answer(self.deadline * 10).await?.digest)
    }

    /// If the stream has ended, its answer says why.
    async fn send(&self, request: WriteContentRequest) {
        let _ = tokio::time::timeout(self.deadline, self.requests.send(request)).await;
    }

    async fn answer(&mut self, limit: Duration) -> Result<WriteContentResponse, Error> {
        let answer = next(limit, WRITING, &self.reference, &mut self.answers).await?;
        let problem = "it ended too early";
        answer.ok_or_else(|| Error::Answer { action: WRITING, subject: self.reference.clone(), problem })
    }
}
