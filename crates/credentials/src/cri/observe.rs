//! An answer that is passed on as it comes, while somebody wants to know how it ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

/// Most of an answer that is kept for the one who wants to know.
const MAX_KEPT: usize = 64 << 10;

/// How a call has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Well, with these frames; empty if there were too many.
    Done(Vec<u8>),
    /// With an error.
    Failed,
}

type Tell = Box<dyn FnOnce(End) + Send>;

/// A body that tells how it ended. One that is dropped before its end tells nothing.
pub(super) struct Observed {
    inner: Body,
    kept: Vec<u8>,
    tell: Option<Tell>,
}

/// Wraps the answer to a call, so that `tell` is told how the call ended.
pub(super) fn observed(
    response: http::Response<Body>,
    tell: impl FnOnce(End) + Send + 'static,
) -> http::Response<Body> {
    // An answer without a body has its status in the headers.
    if let Some(status) = status_in(response.headers()) {
        tell(if status == Code::Ok { End::Done(Vec::new()) } else { End::Failed });
        return response;
    }
    response.map(|inner| Body::new(Observed { inner, kept: Vec::new(), tell: Some(Box::new(tell)) }))
}

fn status_in(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref()
                && this.kept.len() <= MAX_KEPT
            {
                this.kept.extend_from_slice(&data[..data.len().min(MAX_KEPT + 1)]);
            }
            if let Some(status) = frame.trailers_ref().and_then(status_in)
                && let Some(tell) = this.tell.take()
            {
                let kept = std::mem::take(&mut this.kept);
                let kept = if kept.len() > MAX_KEPT { Vec::new() } else { kept };
                tell(if status == Code::Ok { End::Done(kept) } else { End::Failed });
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
