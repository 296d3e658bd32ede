//! Redirects, and the signed and expiring addresses that they lead to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use registry::{Client, HostOptions, Kind, Mirror, Options, Reference};

use crate::server::{Reply, Server};
use crate::{blob_on, blob_with, client, content, fast, image_on, impatient, read};

/// A store that serves `/blob?sig=N` only while N is the current signature, and a registry that redirects to
/// it.
async fn registry_with_store(expired: u16) -> (Server, Arc<Server>, Arc<AtomicUsize>) {
    let signature = Arc::new(AtomicUsize::new(1));
    let current = Arc::clone(&signature);
    let store = Server::start(move |request| {
        let valid = format!("/blob?sig=secret{}", current.load(Ordering::SeqCst));
        if request.target == valid {
            Reply::blob(request, &content(1000))
        } else {
            Reply::new(expired, "expired")
        }
    })
    .await;
    let store = Arc::new(store);
    let (current, target) = (Arc::clone(&signature), store.host_as("localhost"));
    let registry = Server::start(move |_| {
        Reply::redirect(307, format!("http://{target}/blob?sig=secret{}", current.load(Ordering::SeqCst)))
    })
    .await;
    (registry, store, signature)
}

#[tokio::test]
async fn a_redirected_location_is_used_directly_until_it_expires() {
    for expired in [400, 401, 403, 404, 410] {
        let (registry, store, signature) = registry_with_store(expired).await;
        let blob = blob_on(&registry);
        assert_eq!(blob.tail(10).await.unwrap().bytes, content(1000)[990..]);
        for start in 0..3 {
            assert_eq!(read(&blob, start..10).await.unwrap(), content(10)[start as usize..]);
        }
        assert_eq!((registry.count(), store.count()), (1, 4));
        signature.fetch_add(1, Ordering::SeqCst);
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10), "{expired}");
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
        assert_eq!((registry.count(), store.count()), (2, 7), "resolved again once");
        assert_eq!(registry.connections(), 1, "the connection of a redirect is used again");
    }
}

#[tokio::test]
async fn a_store_that_refuses_a_fresh_location_is_reported_without_the_signature() {
    let store = Server::start(|_| Reply::new(403, "")).await;
    let target = store.host_as("localhost");
    let registry =
        Server::start(move |_| Reply::redirect(307, format!("http://{target}/blob?sig=topsecret"))).await;
    let error = blob_on(&registry).read(0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    let text = format!("{error} {error:?}");
    assert!(text.contains("/blob: 403") && text.contains("the registry had sent us there"), "{text}");
    assert!(!text.contains("topsecret"), "{text}");
}

#[tokio::test]
async fn a_dead_store_is_replaced_by_the_one_that_the_registry_names_then() {
    let dying = Server::start(|request| match request.number {
        0 => Reply::blob(request, &content(100)),
        _ => Reply::hangup(),
    })
    .await;
    let living = Server::start(|request| Reply::blob(request, &content(100))).await;
    let places = [dying.host_as("localhost"), living.host_as("localhost")];
    let registry =
        Server::start(move |request| Reply::redirect(307, format!("http://{}/x", places[request.number])))
            .await;
    let blob = blob_on(&registry);
    for _ in 0..3 {
        assert_eq!(read(&blob, 0..10).await.unwrap(), content(10));
    }
    assert_eq!((registry.count(), living.count()), (2, 2));
}

#[tokio::test]
async fn relative_and_chained_redirects_are_followed() {
    let store = Server::start(|request| Reply::blob(request, &content(100))).await;
    let network_path = format!("//{}/four", store.host());
    let server = Server::start(move |request| match request.target.as_str() {
        "/one" => Reply::redirect(302, "two?x"),
        "/two?x" => Reply::redirect(303, "/three"),
        "/three" => Reply::redirect(308, network_path.clone()),
        _ => Reply::redirect(301, "/one"),
    })
    .await;
    assert_eq!(read(&blob_on(&server), 0..10).await.unwrap(), content(10));
    assert_eq!((server.count(), store.summary()), (4, vec!["GET /four bytes=0-9".to_owned()]));
}

#[tokio::test]
async fn endless_and_wrong_redirects_are_errors() {
    let endless = Server::start(|request| Reply::redirect(307, format!("/{}", request.number))).await;
    let error = blob_on(&endless).read(0..1).await.unwrap_err();
    assert!(
        error.kind() == Kind::Protocol && error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
    assert_eq!(endless.count(), 11);
    let rows = [
        (Reply::new(307, ""), "without a location"),
        (Reply::redirect(307, "http://[::"), "not a URL"),
        (Reply::redirect(307, "file:///etc/passwd"), "neither HTTP nor HTTPS"),
    ];
    for (reply, reason) in rows {
        let server = Server::start(move |_| reply.clone()).await;
        let error = blob_on(&server).read(0..1).await.unwrap_err();
        assert!(error.kind() == Kind::Protocol && error.to_string().contains(reason), "{error}");
        assert_eq!(server.count(), 1);
    }
    let circle = Server::start(|request| match request.target.as_str() {
        "/one" => Reply::redirect(307, "/two"),
        _ => Reply::redirect(307, "/one"),
    })
    .await;
    let error = blob_on(&circle).read(0..1).await.unwrap_err();
    assert!(error.kind() == Kind::Protocol && error.to_string().contains("in a circle"), "{error}");
    assert_eq!(circle.count(), 3);
    let long = Server::start(|_| Reply::redirect(307, format!("/{}", "x".repeat(20_000)))).await;
    assert!(blob_on(&long).read(0..1).await.unwrap_err().to_string().contains("too long"));
    let unchanged = Server::start(|_| Reply::new(304, "")).await;
    assert_eq!(client().manifest(&image_on(&unchanged)).await.unwrap_err().kind(), Kind::Protocol);
}

#[tokio::test]
async fn reads_in_parallel_share_what_was_learned() {
    let (registry, store, _) = registry_with_store(403).await;
    let blob = blob_with(&client(), &registry);
    blob.tail(1).await.unwrap();
    let reads: Vec<_> = (0..20)
        .map(|start| {
            let blob = blob.clone();
            tokio::spawn(async move { read(&blob, start..start + 10).await.unwrap() })
        })
        .collect();
    for (start, read) in reads.into_iter().enumerate() {
        assert_eq!(read.await.unwrap(), content(1000)[start..start + 10]);
    }
    assert_eq!((registry.count(), store.count()), (1, 21));
}

#[tokio::test]
async fn link_local_addresses_are_not_followed() {
    let places = [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://0xa9fea9fe/",
    ];
    for place in places {
        let server = Server::start(move |_| Reply::redirect(307, place)).await;
        let started = Instant::now();
        let error = blob_on(&server).read(0..1).await.unwrap_err();
        assert!(error.kind() == Kind::Protocol && error.to_string().contains("link-local"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(2) && server.count() == 1);
    }
    // Allowed, it is tried: nobody is there, or a proxy says so.
    let server = Server::start(|_| Reply::redirect(307, "http://169.254.254.253:1/")).await;
    let options =
        Options { allow_link_local: true, connect_timeout: Duration::from_millis(200), ..impatient() };
    let blob = blob_with(&Client::new(options, Vec::new()).unwrap(), &server);
    let error = blob.read(0..1).await.unwrap_err();
    assert!(error.kind() != Kind::Protocol && error.to_string().contains("169.254.254.253"), "{error}");
}

#[tokio::test]
async fn headers_are_bounded() {
    let server = Server::start(|request| {
        let reply = Reply::blob(request, &content(100));
        (0..60).fold(reply, |reply, i| reply.header(&format!("X-{i}"), "y".repeat(20_000)))
    })
    .await;
    let error = blob_on(&server).read(0..1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network, "{error}");
    let many = Server::start(|request| {
        (0..500).fold(Reply::blob(request, &content(100)), |reply, i| reply.header(&format!("X-{i}"), "y"))
    })
    .await;
    assert_eq!(blob_on(&many).read(0..1).await.unwrap_err().kind(), Kind::Network);
}

#[tokio::test]
async fn headers_of_a_mirror_stay_with_it() {
    let store = Server::start(|request| Reply::blob(request, &content(100))).await;
    let target = store.host_as("localhost");
    let mirror = Server::start(move |_| Reply::redirect(307, format!("http://{target}/x"))).await;
    let headers = vec![("X-Dragonfly".to_owned(), "topsecret".to_owned())];
    let mirrors = vec![Mirror { host: mirror.host(), headers, ..Mirror::default() }];
    let hosts = [("registry.test".to_owned(), HostOptions { mirrors })].into();
    let client = Client::new(Options { hosts, ..fast() }, Vec::new()).unwrap();
    let blob = client.blob(&Reference::parse("registry.test/a/b").unwrap(), &format::Digest::of(b"any"));
    for _ in 0..2 {
        read(&blob, 0..10).await.unwrap();
    }
    assert_eq!(mirror.requests()[0].header("x-dragonfly"), "topsecret");
    assert!(store.requests().iter().all(|request| request.header("x-dragonfly").is_empty()));
    assert_eq!((mirror.count(), store.count()), (1, 2), "one request for each read");
}
