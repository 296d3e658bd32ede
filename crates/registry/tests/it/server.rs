//! A small HTTP/1.1 server with scripted answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    /// Number of the request at its server, from 0.
    pub number: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Close the connection after so many bytes of the body.
    Cut(usize),
    /// Send nothing more after so many bytes of the body.
    Stall(usize),
    /// Close the connection without any answer.
    Hangup,
    /// Pause before each byte of the body.
    Drip(Duration),
}

#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
    fault: Fault,
    delay: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        let body = body.into();
        Reply { status, headers: Vec::new(), body, chunked: false, fault: Fault::None, delay: Duration::ZERO }
    }

    pub fn hangup() -> Reply {
        Reply { fault: Fault::Hangup, ..Reply::new(200, "") }
    }

    /// Answers as a good server does, ranges included.
    pub fn blob(request: &Request, data: &[u8]) -> Reply {
        let Some(range) = request.header("range").strip_prefix("bytes=") else {
            return Reply::new(200, data);
        };
        let size = data.len();
        let (first, last) = range.split_once('-').unwrap();
        let (start, end) = if first.is_empty() {
            (size.saturating_sub(last.parse().unwrap()), size)
        } else {
            (first.parse().unwrap(), size.min(last.parse::<usize>().unwrap().saturating_add(1)))
        };
        if start >= end {
            return Reply::new(416, "").header("Content-Range", format!("bytes */{size}"));
        }
        Reply::part(start, end, size, &data[start..end])
    }

    pub fn part(start: usize, end: usize, size: usize, bytes: &[u8]) -> Reply {
        Reply::new(206, bytes).header("Content-Range", format!("bytes {start}-{}/{size}", end - 1))
    }

    /// Answers as a server does that knows several ranges.
    pub fn blob_by_parts(request: &Request, data: &[u8]) -> Reply {
        let Some(ranges) = request.header("range").strip_prefix("bytes=") else {
            return Reply::new(200, data);
        };
        if !ranges.contains(',') {
            return Reply::blob(request, data);
        }
        let parts = ranges.split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap();
            let (start, end) = (first.parse().unwrap(), last.parse::<usize>().unwrap() + 1);
            (start < data.len()).then(|| (start, end.min(data.len())))
        });
        Reply::parts(&parts.collect::<Vec<_>>(), data)
    }

    /// These parts of a blob, each from its start to its end.
    pub fn parts(parts: &[(usize, usize)], data: &[u8]) -> Reply {
        let mut body = Vec::new();
        for &(start, end) in parts {
            let head = format!(
                "\r\n--THE_BOUNDARY\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/{}\r\n\r\n",
                end - 1,
                data.len()
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(&data[start..end]);
        }
        body.extend_from_slice(b"\r\n--THE_BOUNDARY--\r\n");
        Reply::new(206, body).header("Content-Type", "multipart/byteranges; boundary=THE_BOUNDARY")
    }

    pub fn redirect(status: u16, location: impl Into<String>) -> Reply {
        Reply::new(status, "<a>elsewhere</a>").header("Location", location)
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cut(self, after: usize) -> Reply {
        Reply { fault: Fault::Cut(after), ..self }
    }

    pub fn stall(self, after: usize) -> Reply {
        Reply { fault: Fault::Stall(after), ..self }
    }

    pub fn drip(self, pause: Duration) -> Reply {
        Reply { fault: Fault::Drip(pause), ..self }
    }

    pub fn delay(self, delay: Duration) -> Reply {
        Reply { delay, ..self }
    }

    /// Without a Content-Length.
    pub fn chunked(self) -> Reply {
        Reply { chunked: true, ..self }
    }
}

#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    pub async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, shared_log, count) = (Arc::new(script), Arc::clone(&log), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&shared_log)));
            }
        });
        Server { address, log, connections, accepting }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The same server by another name.
    pub fn host_as(&self, name: &str) -> String {
        format!("{name}:{}", self.address.port())
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// `METHOD target range` of each request.
    pub fn summary(&self) -> Vec<String> {
        let line = |r: &Request| format!("{} {} {}", r.method, r.target, r.header("range")).trim().to_owned();
        self.requests().iter().map(line).collect()
    }

    pub fn count(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(
    stream: TcpStream,
    script: Arc<impl Fn(&Request) -> Reply>,
    log: Arc<Mutex<Vec<Request>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = read_request(&mut stream).await?;
        {
            let mut log = log.lock().unwrap();
            request.number = log.len();
            log.push(request.clone());
        }
        let reply = script(&request);
        tokio::time::sleep(reply.delay).await;
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&match reply.chunked {
            true => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            false => format!("Content-Length: {}\r\n\r\n", reply.body.len()),
        });
        let body: &[u8] = if request.method == "HEAD" { b"" } else { &reply.body };
        let body = match reply.fault {
            Fault::Hangup => return None,
            Fault::Cut(after) | Fault::Stall(after) => &body[..after],
            _ => body,
        };
        stream.write_all(head.as_bytes()).await.ok()?;
        if let Fault::Drip(pause) = reply.fault {
            for byte in body {
                tokio::time::sleep(pause).await;
                stream.write_all(&[*byte]).await.ok()?;
            }
        } else if reply.chunked {
            for chunk in body.chunks(10_000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.ok()?;
                stream.write_all(chunk).await.ok()?;
                stream.write_all(b"\r\n").await.ok()?;
            }
            stream.write_all(b"0\r\n\r\n").await.ok()?;
        } else {
            stream.write_all(body).await.ok()?;
        }
        match reply.fault {
            Fault::Cut(_) => return None,
            Fault::Stall(_) => tokio::time::sleep(Duration::from_secs(60)).await,
            _ => {}
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body: String::from_utf8(body).unwrap(), number: 0 })
}
