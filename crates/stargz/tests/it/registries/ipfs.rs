//! Layers in IPFS, from a small double of a node.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use testkit::estargz::Blob;

use crate::harness::images::Model;
use crate::harness::{HASTY, Scene, scene};

/// The HTTP API of a node that has some layers. Its threads end with the process.
struct Node {
    asked: Arc<AtomicUsize>,
    blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

/// What a layer goes by.
fn cid(blob: &Blob) -> String {
    format!("bafy{}", &blob.digest.hex()[..40])
}

impl Node {
    /// A node that announces itself in the directory `ipfs` of the scene.
    fn start(scene: &Scene, model: &Model) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        scene.write("ipfs/api", &format!("/ip4/127.0.0.1/tcp/{port}"));
        let blobs = model.blobs.iter().map(|blob| (cid(blob), blob.bytes.to_vec())).collect();
        let node = Node { asked: Arc::default(), blobs: Arc::new(Mutex::new(blobs)) };
        let (asked, blobs) = (node.asked.clone(), node.blobs.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (asked, blobs) = (asked.clone(), blobs.clone());
                thread::spawn(move || serve(client, &asked, &blobs));
            }
        });
        node
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Loses all that it has.
    fn forget(&self) {
        self.blobs.lock().expect("no panics under this lock").clear();
    }
}

/// Answers the requests of one connection.
fn serve(mut client: TcpStream, asked: &AtomicUsize, blobs: &Mutex<HashMap<String, Vec<u8>>>) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?).lines();
    loop {
        let target = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
        // No request has a body.
        while !lines.next()?.ok()?.is_empty() {}
        asked.fetch_add(1, Ordering::Relaxed);
        let (path, query) = target.split_once('?')?;
        let query: HashMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let content = query["arg"].strip_prefix("%2Fipfs%2F")?;
        let content = blobs.lock().expect("no panics under this lock").get(content).cloned();
        let number = |name: &str| query[name].parse::<usize>().expect("a number");
        let (status, body) = match (path, content) {
            ("/api/v0/files/stat", Some(bytes)) => {
                (200, format!("{{\"Size\":{},\"Type\":\"file\"}}", bytes.len()).into_bytes())
            }
            ("/api/v0/cat", Some(bytes)) => {
                let (start, len) = (number("offset"), number("length"));
                (200, bytes[start.min(bytes.len())..(start + len).min(bytes.len())].to_vec())
            }
            _ => (500, b"{\"Message\":\"merkledag: not found\"}".to_vec()),
        };
        write!(client, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len()).ok()?;
        client.write_all(&body).ok()?;
    }
}

/// The label that clients make of the URLs in a manifest.
fn urls(blob: &Blob) -> Vec<(&'static str, String)> {
    vec![("containerd.io/snapshot/remote/urls", format!("ipfs://{}", cid(blob)))]
}

#[test]
fn layers_are_read_from_ipfs_and_from_the_registry_when_it_has_them_not() {
    scene(60, |scene| {
        let model = Model::usual();
        scene.write(
            "config.toml",
            &format!("ipfs = true\nnoprefetch = true\nno_background_fetch = true\n{HASTY}"),
        );
        let node = Node::start(scene, model);
        // The registry has nothing yet.
        let reference = scene.registry.reference("app:1");
        let daemon = scene.daemon_with(&[("IPFS_PATH", scene.path("ipfs"))]);
        daemon.pull_with(&reference, model, urls);
        let container = daemon.stack();
        assert!(node.asked() >= model.blobs.len(), "{}", node.asked());
        super::read(model, &container, "etc/motd");
        // Now it has, and the node has nothing any more.
        scene.registry.push("app", "1", &model.image);
        node.forget();
        model.assert_at(&container);
        assert!(daemon.process.stderr().contains("cannot be read from IPFS"), "it is said why");
    });
}

#[test]
fn without_the_key_labels_of_ipfs_mean_nothing() {
    scene(40, |scene| {
        let model = Model::usual();
        let node = Node::start(scene, model);
        let reference = scene.registry.push("app", "1", &model.image);
        let daemon = scene.daemon_with(&[("IPFS_PATH", scene.path("ipfs"))]);
        daemon.pull_with(&reference, model, urls);
        model.assert_at(&daemon.stack());
        assert_eq!(node.asked(), 0);
    });
}
