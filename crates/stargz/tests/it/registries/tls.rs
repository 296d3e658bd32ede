//! TLS before a registry that has none, with an authority that nobody knows.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Passes on what comes by TLS, until it is dropped.
pub struct Front {
    port: u16,
    authority: String,
    _runtime: Runtime,
}

impl Front {
    /// A front before the server at `to`.
    pub fn before(to: SocketAddr) -> Front {
        let (acceptor, authority) = acceptor();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Clients that do not trust us are gone here.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut server = TcpStream::connect(to).await.expect("the registry listens");
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Front { port, authority, _runtime: runtime }
    }

    /// Where it is, by an address that is this machine's but not of the loopback network, which is spoken to without
    /// TLS.
    pub fn host(&self) -> String {
        format!("0.0.0.0:{}", self.port)
    }

    /// The certificate of the authority, PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

fn acceptor() -> (TlsAcceptor, String) {
    let new_key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, new_key()).expect("it can sign");
    let key = new_key();
    let params = CertificateParams::new(vec!["0.0.0.0".to_owned()]).expect("an address");
    let certificate = params.signed_by(&key, &authority).expect("it can sign");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has all")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("they belong together");
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}
