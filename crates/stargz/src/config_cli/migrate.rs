//! A file of stargz-snapshotter, or of its plugin in containerd, in our words.

use std::path::Path;

use anyhow::Context as _;
use toml::{Table, Value};

use crate::config;
use crate::config::reference::{self, When};

/// Where containerd's file has the settings of the plugin.
const PLUGIN: &str = "io.containerd.snapshotter.v1.stargz";
/// Tables whose keys stargz-snapshotter also finds at the top level when the table is not there.
const EMBEDDED: [&str; 8] = [
    "blob",
    "directory_cache",
    "fuse",
    "resolver",
    "kubeconfig_keychain",
    "cri_keychain",
    "snapshotter",
    "fuse_manager",
];

/// A file for us, and what became of what is not in it.
#[derive(Debug)]
pub struct Migrated {
    /// The file.
    pub text: String,
    /// What a person should know, one line each.
    pub remarks: Vec<String>,
}

/// Translates a text, which came from `path`.
///
/// # Errors
/// It is not TOML, or what comes out is not usable.
pub fn migrate(text: &str, path: &Path) -> anyhow::Result<Migrated> {
    let mut table: Table = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    let mut remarks = Vec::new();
    if let Some(plugins) = table.get("plugins") {
        let plugin = plugins.get(PLUGIN).and_then(Value::as_table).cloned();
        table = plugin.with_context(|| format!("{} has no [plugins.{PLUGIN:?}]", path.display()))?;
        of_plugin(&mut table, &mut remarks);
    }
    lower(&mut table, &mut remarks);
    table = without_idle("", table, &mut remarks);
    let text = toml::to_string_pretty(&table)?;
    // What comes out is held against the same rules as any file.
    let loaded = config::parse(&text, path)?;
    remarks.extend(loaded.warnings);
    Ok(Migrated { text, remarks })
}

/// What only the plugin has, in the daemon's words.
fn of_plugin(table: &mut Table, remarks: &mut Vec<String>) {
    if let Some(root) = table.remove("root_path") {
        remarks.push(format!("root_path is a flag of the daemon: --root={}", shown(&root)));
    }
    if let Some(path) = table.remove("cri_keychain_image_service_path") {
        remarks.push(format!("cri_keychain_image_service_path is now cri_keychain.listen_path = {path}"));
        if let Some(cri) = inner(table, "cri_keychain") {
            cri.insert("listen_path".to_owned(), path);
        }
    }
}

/// Puts keys that stand above their table into it.
fn lower(table: &mut Table, remarks: &mut Vec<String>) {
    let strays: Vec<String> = table.keys().filter(|key| reference::find(key).is_none()).cloned().collect();
    for key in strays {
        let place = EMBEDDED.iter().find(|place| {
            !table.contains_key(**place)
                && reference::KEYS.iter().any(|known| known.name == format!("{place}.{key}"))
        });
        let Some(place) = place else { continue };
        remarks.push(format!("{key} belongs into [{place}]"));
    }
    for place in EMBEDDED.iter().filter(|place| !table.contains_key(**place)).collect::<Vec<_>>() {
        let mine = |key: &str| {
            reference::find(key).is_none()
                && reference::KEYS.iter().any(|known| known.name == format!("{place}.{key}"))
        };
        let keys: Vec<String> = table.keys().filter(|key| mine(key)).cloned().collect();
        for key in keys {
            if let Some(value) = table.remove(&key)
                && let Some(into) = inner(table, place)
            {
                into.insert(key, value);
            }
        }
    }
}

fn inner<'a>(table: &'a mut Table, name: &str) -> Option<&'a mut Table> {
    table.entry(name).or_insert_with(|| Value::Table(Table::new())).as_table_mut()
}

fn without_idle(name: &str, table: Table, remarks: &mut Vec<String>) -> Table {
    let mut kept = Table::new();
    for (key, value) in table {
        let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        match value {
            Value::Table(inner) => {
                let inner = without_idle(&full, inner, remarks);
                if !inner.is_empty() {
                    kept.insert(key, Value::Table(inner));
                }
            }
            value => match reference::find(&full).filter(|known| known.when == When::Never) {
                Some(known) => {
                    remarks.push(format!("{full} is left out: {}", known.text.replace('`', "")));
                }
                None => drop(kept.insert(key, value)),
            },
        }
    }
    kept
}

/// A value without quotes.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
