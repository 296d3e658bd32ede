//! Redirects, and the signed and expiring addresses that they lead to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use registry::Kind;

use crate::server::{Reply, Server};
use crate::{blob_on, blob_with, client, content, image_on, read};

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
