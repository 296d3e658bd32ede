//! Names that strangers choose, and the addresses that they must not lead to.

use std::net::IpAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Whether an address is valid on its link only: there live the metadata services of clouds, which hand out
/// the machine's own credentials.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            let embedded = address.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local());
            // fe80::/10, and the metadata address of AWS over IPv6.
            let own = address.segments()[0] & 0xffc0 == 0xfe80
                || address.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
            embedded || own
        }
    }
}

/// Whether a URL holds such an address itself.
pub(crate) fn names_link_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_link_local(address.into()),
        Some(Host::Ipv6(address)) => is_link_local(address.into()),
        Some(Host::Domain(_)) | None => false,
    }
}

/// The system's resolver without link-local addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|address| !is_link_local(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name leads to link-local addresses only, which are refused".into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_known_in_all_forms() {
        let rows = [
            ("http://169.254.169.254/", true),
            ("http://0xa9.0xfe.1.1/", true),
            ("http://2852039166/", true),
            ("http://[fe80::1]/", true),
            ("http://[febf::1]/", true),
            ("http://[::ffff:169.254.1.1]/", true),
            ("http://[fd00:ec2::254]/", true),
            ("http://[fec0::1]/", false),
            ("http://[fd00:ec2::1]/", false),
            ("http://169.253.1.1/", false),
            ("http://10.0.0.1/", false),
            ("http://127.0.0.1/", false),
            ("http://registry.test/", false),
        ];
        for (url, expected) in rows {
            assert_eq!(names_link_local(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn other_names_resolve() {
        let found = PublicOnly.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(found.count() > 0);
        assert!(PublicOnly.resolve("169.254.169.254".parse().unwrap()).await.is_err());
    }
}
