//! INIT, the first request of a session, and our answer to it.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::{Negotiated, SessionOptions};
use crate::device::Device;
use crate::request::{Operation, Request};
use crate::wire::{self, InitOut, flag};

/// The kernel sends INIT when the filesystem is created, before anything else. It has it ready at once.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Answers INIT, which must be the first request.
pub(super) fn shake_hands(
    device: &Device,
    wanted: u64,
    options: &SessionOptions,
) -> Result<Negotiated, String> {
    let mut buf = [0; wire::REQUEST_BUFFER];
    let message = first_message(device, &mut buf)?;
    let request = Request::parse(message).map_err(|malformed| malformed.to_string())?;
    let Operation::Init { hello, flags } = request.operation else {
        return Err("the first request is not INIT, the session was in use already".to_owned());
    };
    if hello.major != wire::MAJOR || hello.minor < wire::MINOR_OLDEST {
        return Err(format!(
            "the kernel speaks FUSE {}.{}, at least {}.{} (Linux 5.4) is needed",
            hello.major,
            hello.minor,
            wire::MAJOR,
            wire::MINOR_OLDEST
        ));
    }
    let (answer, negotiated) = agree(hello, flags & (wanted | ALWAYS), options);
    device
        .answer(request.unique, 0, answer.as_bytes())
        .map_err(|errno| format!("the kernel refused our answer to INIT: {errno}"))?;
    Ok(negotiated)
}

/// What every server of ours wants.
const ALWAYS: u64 = flag::MAX_PAGES | flag::INIT_EXT | flag::HAS_RESEND;

/// Our half of the handshake; `flags` are those that both sides want.
fn agree(hello: wire::InitIn, flags: u64, options: &SessionOptions) -> (InitOut, Negotiated) {
    // With pages of 4 KiB that is the limit that `fs.fuse.max_pages_limit` has out of the box.
    const MAX_READ: usize = 1 << 20;
    // Without the flag the kernel ignores our number and stays at 32.
    let max_pages = match flags & flag::MAX_PAGES {
        0 => 32,
        _ => u16::try_from(MAX_READ / rustix::param::page_size()).unwrap_or(u16::MAX).max(1),
    };
    let max_background = options.max_waiting.max(1);
    let answer = InitOut {
        major: wire::MAJOR,
        minor: wire::MINOR,
        max_readahead: hello.max_readahead,
        flags: flags as u32,
        max_background,
        congestion_threshold: max_background - max_background / 4,
        max_write: 4096,
        time_gran: 1,
        max_pages,
        flags2: (flags >> 32) as u32,
        ..InitOut::default()
    };
    let negotiated = Negotiated {
        major: wire::MAJOR,
        minor: hello.minor,
        flags,
        max_pages,
        max_readahead: hello.max_readahead,
    };
    (answer, negotiated)
}

fn first_message<'b>(device: &Device, buf: &'b mut [u8]) -> Result<&'b [u8], String> {
    let give_up = Instant::now() + HANDSHAKE_DEADLINE;
    let len = loop {
        match device.read(buf).map(<[u8]>::len) {
            Ok(len) => break len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot read INIT: {errno}")),
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("the kernel sent no INIT within {} s", HANDSHAKE_DEADLINE.as_secs()));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let fd = device.fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot wait for INIT: {errno}")),
        }
    };
    Ok(buf.get(..len).unwrap_or_default())
}
