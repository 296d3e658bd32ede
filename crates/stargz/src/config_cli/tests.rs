use std::collections::BTreeSet;

use super::*;
use crate::config::reference::{KEYS, markdown, markdown_without_effect};

#[test]
fn the_installed_file_names_every_key_with_its_default_and_nothing_else() {
    let uncommented: String = DEFAULT_FILE
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.contains(['=', '[']) && !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let loaded = config::parse(&uncommented, Path::new("config.toml")).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(config::parse(DEFAULT_FILE, Path::new("c")).unwrap().config, config::Config::default());
    let named: BTreeSet<&str> =
        loaded.values.keys().filter_map(|key| config::reference::find(key)).map(|key| key.name).collect();
    let all: BTreeSet<&str> = KEYS.iter().filter(|key| key.when != When::Never).map(|key| key.name).collect();
    assert_eq!(
        all.difference(&named).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "missing in dist/config.toml"
    );
}

/// Where the text between two markers of a document begins and ends.
fn between(text: &str, name: &str) -> std::ops::Range<usize> {
    let start = format!("<!-- keys {name} -->\n");
    let from = text.find(&start).unwrap_or_else(|| panic!("no marker for {name}")) + start.len();
    let len = text[from..].find("<!-- end -->").unwrap_or_else(|| panic!("no end for {name}"));
    from..from + len
}

#[test]
fn the_tables_of_the_documentation_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let mut text = std::fs::read_to_string(path).unwrap();
    let tables: BTreeSet<&str> = KEYS
        .iter()
        .filter(|key| key.when != When::Never)
        .map(|key| {
            if key.name.starts_with("registry.") {
                "registry"
            } else {
                key.name.rsplit_once('.').map_or("", |(table, _)| table)
            }
        })
        .collect();
    let mut wanted: Vec<(String, String)> =
        tables.iter().map(|table| (format!("[{table}]"), markdown(table))).collect();
    wanted.push(("without effect".to_owned(), markdown_without_effect()));
    let mut differ = Vec::new();
    for (name, table) in &wanted {
        let range = between(&text, name);
        if text[range.clone()] != **table {
            differ.push(name.clone());
            text.replace_range(range, table);
        }
    }
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, text).unwrap();
        return;
    }
    assert!(differ.is_empty(), "docs/configuration.md differs in {differ:?}; WRITE_DOCS=1 writes it");
}

#[test]
fn a_file_of_stargz_snapshotter_loses_only_what_does_nothing() {
    let text = "metadata_store = \"db\"\nmax_retries = 9\nprefetch_size = 5\n[fuse]\npassthrough = true\n\
        [cri_keychain]\nenable_keychain = true\n[[resolver.host.\"docker.io\".mirrors]]\nhost = \"m.test\"\n";
    let migrated = migrate::migrate(text, Path::new("c.toml")).unwrap();
    let loaded = config::parse(&migrated.text, Path::new("c.toml")).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!((loaded.config.prefetch_size, loaded.config.blob.max_retries), (5, 9));
    assert!(loaded.config.cri_keychain.enable_keychain);
    assert_eq!(loaded.config.resolver.host["docker.io"].mirrors[0].host, "m.test");
    let remarks = migrated.remarks.join("\n");
    for part in [
        "metadata_store is left out: metadata",
        "fuse.passthrough is left out",
        "max_retries belongs into [blob]",
    ] {
        assert!(remarks.contains(part), "{part}: {remarks}");
    }
}

#[test]
fn the_plugin_of_containerd_becomes_a_daemon() {
    let text = "version = 2\n[plugins.\"io.containerd.snapshotter.v1.stargz\"]\nroot_path = \"/r\"\nnoprefetch = true\n\
        cri_keychain_image_service_path = \"/run/x.sock\"\n\
        [plugins.\"io.containerd.snapshotter.v1.stargz\".cri_keychain]\nenable_keychain = true\n\
        [plugins.\"io.containerd.snapshotter.v1.stargz\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    let migrated = migrate::migrate(text, Path::new("c.toml")).unwrap();
    let loaded = config::parse(&migrated.text, Path::new("c.toml")).unwrap();
    assert!(loaded.config.noprefetch && loaded.warnings.is_empty());
    assert_eq!(loaded.config.cri_keychain.listen_path, Path::new("/run/x.sock"));
    assert_eq!(loaded.config.registry.config_path, "/etc/containerd/certs.d");
    assert!(migrated.remarks.iter().any(|remark| remark.contains("--root=/r")), "{:?}", migrated.remarks);
    let other = migrate::migrate("[plugins]\nx = 1\n", Path::new("c.toml")).unwrap_err();
    assert!(other.to_string().contains("has no [plugins"), "{other}");
}
