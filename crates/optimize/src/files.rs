//! Files that a container gets from outside of its image: its hosts(5) and its resolv.conf(5).

use crate::spec::Mount;

/// Where names are found.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Use the host's own files.
    pub of_host: bool,
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Domains that short names are looked for in.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
    /// `HOST:ADDRESS`.
    pub hosts: Vec<String>,
}

const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                           ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

impl Names {
    /// The text of /etc/hosts.
    pub fn hosts_file(&self) -> String {
        let added = self.hosts.iter().filter_map(|host| host.split_once(':'));
        let lines = added.map(|(name, address)| format!("{}\t{name}\n", address.trim_matches(['[', ']'])));
        std::iter::once(LOCAL_HOSTS.to_owned()).chain(lines).collect()
    }

    /// The text of /etc/resolv.conf.
    pub fn resolv_conf(&self) -> String {
        let mut text: String =
            self.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect();
        for (key, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                text.push_str(&format!("{key} {}\n", values.join(" ")));
            }
        }
        text
    }
}

/// One of them, bound.
pub(crate) fn bound(source: &std::path::Path, destination: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: source.display().to_string(),
        destination: destination.to_owned(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_what_was_said() {
        let names = Names {
            nameservers: vec!["8.8.8.8".into(), "1.1.1.1".into()],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:2".into()],
            hosts: vec!["db:10.0.0.1".into(), "six:[::5]".into()],
            ..Names::default()
        };
        let expected =
            "nameserver 8.8.8.8\nnameserver 1.1.1.1\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(names.resolv_conf(), expected);
        assert!(names.hosts_file().starts_with("127.0.0.1\tlocalhost\n"));
        assert!(names.hosts_file().ends_with("10.0.0.1\tdb\n::5\tsix\n"));
    }
}
