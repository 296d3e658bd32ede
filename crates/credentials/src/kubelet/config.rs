//! The kubelet's `CredentialProviderConfig`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::protocol::{self, Image};
use crate::files::{self, Stamp, unusable};
use crate::pattern::Pattern;
use crate::{Error, ProgramError, go_duration, yaml};

/// API group of the configuration; every version of it has the same form for what is used here.
const CONFIG_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// Most files of a directory that are read.
const MAX_FILES: usize = 100;

/// All plugins, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub plugins: Vec<Arc<Plugin>>,
}

/// A plugin as the configuration describes it.
#[derive(PartialEq, Eq)]
pub(super) struct Plugin {
    pub name: String,
    pub api_version: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub default_cache_duration: Duration,
    match_images: Vec<Pattern>,
    wants_service_account: bool,
}

// Plugins are told apart by name: `load` refuses two of the same.
impl std::hash::Hash for Plugin {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Plugin {
    /// Arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Plugin {
    /// Whether the plugin is to be asked for `image`.
    pub fn speaks_for(&self, image: &Image) -> bool {
        self.match_images.iter().any(|pattern| image.is_matched_by(pattern))
    }

    /// Whether the plugin can be run from here at all.
    pub fn check(&self) -> Result<(), ProgramError> {
        if self.wants_service_account {
            return Err(ProgramError::Unsupported(
                "it wants the service account token of a pod (tokenAttributes), which only the kubelet has"
                    .into(),
            ));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// Reads the configuration at `path`, or gives back what is `known` if nothing has changed.
pub(super) fn load(path: &Path, known: Option<(Stamp, Arc<Config>)>) -> Result<(Stamp, Arc<Config>), Error> {
    let files = files_of(path)?;
    let stamp = Stamp::of([path].into_iter().chain(files.iter().map(PathBuf::as_path)));
    if let Some((known_stamp, config)) = known
        && known_stamp == stamp
    {
        return Ok((stamp, config));
    }
    let mut plugins: Vec<Arc<Plugin>> = Vec::new();
    for file in &files {
        let text = files::read_text(file)?;
        for plugin in parse(&text).map_err(|problem| unusable(file, problem))? {
            if plugins.iter().any(|known| known.name == plugin.name) {
                return Err(unusable(file, format!("provider {:?} is configured twice", plugin.name)));
            }
            plugins.push(Arc::new(plugin));
        }
    }
    Ok((stamp, Arc::new(Config { plugins })))
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).map_err(|error| unusable(path, format!("cannot be read: {error}")))?;
    let is_config = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
    };
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(is_config).take(MAX_FILES).collect();
    files.sort();
    Ok(files)
}

fn parse(text: &str) -> Result<Vec<Plugin>, String> {
    let file: File = yaml::parse(text)?;
    if file.kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&file.api_version.as_str()) {
        return Err(format!(
            "is a {:?} of {:?}, not a \"CredentialProviderConfig\" of {:?}",
            file.kind, file.api_version, CONFIG_VERSIONS[0]
        ));
    }
    file.providers.into_iter().map(plugin).collect()
}

fn plugin(entry: Entry) -> Result<Plugin, String> {
    let Entry { name, api_version, .. } = entry;
    // The name becomes a part of a path.
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(format!("{name:?} is not the name of a program"));
    }
    if !protocol::VERSIONS.contains(&api_version.as_str()) {
        return Err(format!(
            "provider {name:?}: apiVersion {api_version:?} is not one of {:?}",
            protocol::VERSIONS
        ));
    }
    let default_cache_duration = go_duration::parse(&entry.default_cache_duration).ok_or_else(|| {
        format!(
            "provider {name:?}: defaultCacheDuration {:?} is not a duration",
            entry.default_cache_duration
        )
    })?;
    let pattern = |key: &String| {
        Pattern::parse(key).ok_or_else(|| format!("provider {name:?}: {key:?} in matchImages names no host"))
    };
    let match_images = entry.match_images.iter().map(pattern).collect::<Result<_, _>>()?;
    let variables = entry.env.unwrap_or_default().into_iter();
    let env: Vec<_> = variables.map(|variable| (variable.name, variable.value)).collect();
    if env.iter().any(|(key, value)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0')) {
        return Err(format!("provider {name:?}: env has a name that is empty or has a \"=\""));
    }
    Ok(Plugin {
        api_version,
        args: entry.args.unwrap_or_default(),
        env,
        default_cache_duration,
        match_images,
        wants_service_account: entry.token_attributes.is_some(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
# the kubelet's
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"
      - public.ecr.aws/team
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: [get-credentials, --v=4]
    env:
      - {name: AWS_PROFILE, value: hunter2}
  - name: other
    matchImages: ["reg.io"]
    defaultCacheDuration: 0s
    apiVersion: credentialprovider.kubelet.k8s.io/v1beta1
    args: null
    tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}
"#;

    #[test]
    fn a_configuration_of_the_kubelet() {
        let plugins = parse(GOOD).unwrap();
        assert_eq!(plugins.len(), 2);
        assert_eq!(plugins[0].args, ["get-credentials", "--v=4"]);
        assert_eq!(plugins[0].env, [("AWS_PROFILE".to_owned(), "hunter2".to_owned())]);
        assert_eq!(plugins[0].default_cache_duration, Duration::from_secs(12 * 3600));
        assert!(plugins[0].speaks_for(&Image::new("1.dkr.ecr.eu.amazonaws.com", "a/b")));
        assert!(plugins[0].speaks_for(&Image::new("public.ecr.aws", "team/b")));
        assert!(!plugins[0].speaks_for(&Image::new("public.ecr.aws", "other")));
        assert!(plugins[0].check().is_ok() && plugins[1].check().is_err());
        assert!(!format!("{plugins:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        #[track_caller]
        fn check(from: &str, to: &str, want: &str) {
            let error = parse(&GOOD.replace(from, to)).err().unwrap();
            assert!(error.contains(want), "{error}");
        }
        check("kind: Cred", "kind: Bed", "BedentialProviderConfig");
        check("kubelet.config.k8s.io/v1\n", "kubelet.config.k8s.io/v9\n", "v9");
        check("\"12h\"", "12", "defaultCacheDuration \"12\"");
        check("v1beta1", "v2", "apiVersion \"credentialprovider.kubelet.k8s.io/v2\"");
        check("name: other", "name: ../other", "\"../other\" is not the name of a program");
        check("[\"reg.io\"]", "[\"/x\"]", "\"/x\" in matchImages");
        check("AWS_PROFILE", "\"A=B\"", "env has a name");
        check("providers:", "providers: [", "line");
    }

    #[test]
    fn a_directory_is_taken_together_and_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let one = |name: &str| {
            GOOD.split("  - name: other").next().unwrap().replace("ecr-credential-provider", name)
        };
        std::fs::write(dir.path().join("b.yaml"), one("second")).unwrap();
        std::fs::write(dir.path().join("a.json"), one("first")).unwrap();
        std::fs::write(dir.path().join("ignored.txt"), "garbage").unwrap();
        let names =
            |config: &Config| config.plugins.iter().map(|plugin| plugin.name.clone()).collect::<Vec<_>>();
        let loaded = load(dir.path(), None).unwrap();
        assert_eq!(names(&loaded.1), ["first", "second"]);
        let again = load(dir.path(), Some(loaded.clone())).unwrap();
        assert!(Arc::ptr_eq(&loaded.1, &again.1));
        std::fs::write(dir.path().join("c.yml"), one("first")).unwrap();
        let error = load(dir.path(), Some(loaded.clone())).unwrap_err();
        assert!(error.to_string().contains("configured twice"), "{error}");
        std::fs::remove_file(dir.path().join("b.yaml")).unwrap();
        std::fs::remove_file(dir.path().join("c.yml")).unwrap();
        assert_eq!(names(&load(dir.path(), Some(loaded)).unwrap().1), ["first"]);
        assert!(load(&dir.path().join("missing"), None).is_err());
    }
}
