//! Plugins of the kubelet: shell scripts that do what plugins do, and what they should not.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use credentials::{KubeletOptions, KubeletPlugins};
use registry::Keychain as _;
use tempfile::TempDir;

use crate::{LONG, SECRET, logs, reference, until_users, users, write_script};

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A plugin called `plugin` for all of `*.io`, which notes its requests in the file `requests`.
struct Node {
    dir: TempDir,
}

impl Node {
    fn new(script: &str) -> Node {
        logs::record();
        let node = Node { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(node.path().join("bin")).unwrap();
        node.script(script);
        node.config("*.io", "1h");
        node
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn script(&self, script: &str) {
        let requests = self.path().join("requests");
        let text =
            format!("#!/bin/sh\nread -r request; echo \"$request\" >> {}\n{script}\n", requests.display());
        write_script(&self.path().join("bin/plugin"), &text);
    }

    fn config(&self, images: &str, keep: &str) {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  \
             matchImages: ['{images}']\n  defaultCacheDuration: {keep}\n  apiVersion: {VERSION}\n  \
             args: [first, 'second one']\n  env: [{{name: PLUGIN_SECRET, value: {SECRET}}}]\n"
        );
        std::fs::write(self.path().join("config.yaml"), text).unwrap();
    }

    fn plugins(&self) -> KubeletPlugins {
        KubeletPlugins::new(self.options())
    }

    fn options(&self) -> KubeletOptions {
        let options = KubeletOptions::new(self.path().join("config.yaml"), self.path().join("bin"));
        KubeletOptions { timeout: Duration::from_secs(10), failure_pause: Duration::from_secs(3), ..options }
    }

    /// The requests, without newline.
    fn requests(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join("requests")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A script that answers with these fields and this map of users.
fn answer(fields: &str, users: &[(&str, &str)]) -> String {
    let auth: Vec<_> = users
        .iter()
        .map(|(key, user)| format!(r#""{key}":{{"username":"{user}","password":"'"$PLUGIN_SECRET"'"}}"#))
        .collect();
    let auth = auth.join(",");
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"{VERSION}",{fields},"auth":{{{auth}}}}}'"#
    )
}

async fn error(plugins: &KubeletPlugins, image: &str) -> String {
    let reference = reference(image);
    let error = plugins.credentials(reference.host(), &reference).await.unwrap_err().to_string();
    assert!(!error.contains(SECRET), "{error}");
    logs::assert_clean();
    error
}

#[tokio::test]
async fn a_good_plugin_is_asked_once_for_a_registry() {
    let node = Node::new(&answer(
        r#""cacheKeyType":"Registry","cacheDuration":"6h""#,
        &[("*.io", "glob"), ("reg.io/team", "team"), ("reg.io", "host"), ("other.com", "other")],
    ));
    let plugins = node.plugins();
    assert_eq!(users(&plugins, "reg.io/team/app:1").await, ["team", "host", "glob"]);
    assert_eq!(users(&plugins, "reg.io/app:1").await, ["host", "glob"]);
    assert_eq!(users(&plugins, "reg.io/app:2").await, ["host", "glob"]);
    assert_eq!(users(&plugins, "second.io/app").await, ["glob"]);
    assert!(users(&plugins, "reg.com/app").await.is_empty());
    let requests = node.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    let request: serde_json::Value = serde_json::from_str(&requests[0]).unwrap();
    let want = serde_json::json!(
        {"kind": "CredentialProviderRequest", "apiVersion": VERSION, "image": "reg.io/team/app"});
    assert_eq!(request, want);
    assert!(!format!("{plugins:?}").contains(SECRET));
    logs::assert_clean();
}

#[tokio::test]
async fn answers_are_kept_as_they_say() {
    let runs = |key_type: &'static str, duration: &'static str, default: &'static str| async move {
        let node = Node::new(&answer(&format!(r#""cacheKeyType":"{key_type}"{duration}"#), &[("*.io", "u")]));
        node.config("*.io", default);
        let plugins = node.plugins();
        for image in ["reg.io/a", "reg.io/a:2", "reg.io/b", "other.io/a"] {
            assert_eq!(users(&plugins, image).await, ["u"]);
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(users(&plugins, "reg.io/a").await, ["u"]);
        node.requests().len()
    };
    assert_eq!(runs("Image", "", "1h").await, 3);
    assert_eq!(runs("Registry", "", "1h").await, 2);
    assert_eq!(runs("Global", "", "1h").await, 1);
    assert_eq!(runs("Global", r#","cacheDuration":"1h""#, "0s").await, 1);
    assert_eq!(runs("Global", r#","cacheDuration":"0s""#, "1h").await, 5);
    assert_eq!(runs("Global", "", "0s").await, 5);
    // How many of the first questions come within that time is the machine's business.
    assert!(runs("Global", r#","cacheDuration":"300ms""#, "1h").await >= 2);
}

#[tokio::test]
async fn one_run_for_all_who_wait() {
    let node = Node::new(&format!("sleep 0.3; {}", answer(r#""cacheKeyType":"Global""#, &[("*.io", "u")])));
    let plugins = Arc::new(node.plugins());
    let ask = |image: String| {
        let plugins = Arc::clone(&plugins);
        tokio::spawn(async move { users(&*plugins, &image).await })
    };
    let tasks: Vec<_> = (0..20).map(|number| ask(format!("reg.io/a{number}"))).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), ["u"]);
    }
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn one_run_for_each_image_if_the_plugin_wants_that() {
    let node = Node::new(&answer(r#""cacheKeyType":"Image","cacheDuration":"0s""#, &[("*.io", "u")]));
    let plugins = Arc::new(node.plugins());
    let ask = |number: usize| {
        let plugins = Arc::clone(&plugins);
        tokio::spawn(async move { users(&*plugins, &format!("reg.io/a{number}")).await })
    };
    let tasks: Vec<_> = (0..12).map(|number| ask(number % 6)).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), ["u"]);
    }
    let requests = node.requests();
    for number in 0..6 {
        let image = format!("\"reg.io/a{number}\"");
        assert!(requests.iter().any(|request| request.contains(&image)), "{requests:?}");
    }
}

#[tokio::test]
async fn who_stops_to_wait_leaves_the_answer_to_the_next() {
    let node = Node::new(&format!("sleep 0.5; {}", answer(r#""cacheKeyType":"Image""#, &[("*.io", "u")])));
    let plugins = node.plugins();
    let impatient = tokio::time::timeout(Duration::from_millis(50), users(&plugins, "reg.io/a")).await;
    assert!(impatient.is_err());
    assert_eq!(users(&plugins, "reg.io/a").await, ["u"]);
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn what_plugins_do_wrong() {
    let check = |script: String, want: &'static str| async move {
        let node = Node::new(&script);
        let text = error(&node.plugins(), "reg.io/a").await;
        assert!(text.contains(want) && text.contains("\"plugin\""), "{text}");
    };
    let good = r#""cacheKeyType":"Image""#;
    check(format!("echo {SECRET}"), "not the JSON of a CredentialProviderResponse (line 1").await;
    check(format!("echo '{{\"kind\":\"{SECRET}\"'"), "not the JSON").await;
    check("true".into(), "is empty").await;
    check(
        format!("echo '{{\"password\":\"{SECRET}\"}}'; echo no role >&2; exit 2"),
        "(exit status: 2): no role",
    )
    .await;
    check(answer(good, &[]).replace("ProviderResponse", SECRET), "not of the kind").await;
    check(answer(good, &[]).replace("k8s.io/v1", "k8s.io/v1beta1"), "not of the version").await;
    check(answer(r#""cacheKeyType":"Some""#, &[]), "not the JSON").await;
    check(answer(r#""cacheKeyType":"Image","cacheDuration":"soon""#, &[]), "cacheDuration").await;
    check(format!("yes {SECRET} | head -c 3000000"), "says more than 1048576 bytes").await;
    check("kill -9 $$".into(), "signal: 9").await;
}

#[tokio::test]
async fn one_that_hangs_is_ended_and_left_alone_for_a_while() {
    let node = Node::new("sleep 600");
    let plugins = KubeletPlugins::new(KubeletOptions { timeout: Duration::from_secs(1), ..node.options() });
    let started = Instant::now();
    let text = error(&plugins, "reg.io/a").await;
    assert!(text.ends_with("no answer within 1s"), "{text}");
    assert!(started.elapsed() < LONG);
    // Its failure is remembered a short while,
    error(&plugins, "reg.io/a").await;
    error(&plugins, "reg.io/b").await;
    assert_eq!(node.requests().len(), 1);
    // and no longer.
    node.script(&answer(r#""cacheKeyType":"Image""#, &[("*.io", "u")]));
    until_users(&plugins, "reg.io/a", &["u"]).await;
}

#[tokio::test]
async fn programs_and_files_that_are_not_there() {
    let node = Node::new("true");
    std::fs::remove_file(node.path().join("bin/plugin")).unwrap();
    let text = error(&node.plugins(), "reg.io/a").await;
    assert!(text.contains("\"plugin\": cannot start"), "{text}");
    let plugins = node.plugins();
    std::fs::remove_file(node.path().join("config.yaml")).unwrap();
    let text = error(&plugins, "reg.io/a").await;
    assert!(text.contains("config.yaml: "), "{text}");
    // The file appears.
    node.script(&answer(r#""cacheKeyType":"Image""#, &[("*.io", "u")]));
    node.config("*.io", "1h");
    assert_eq!(users(&plugins, "reg.io/a").await, ["u"]);
    // The file changes: what was cached under the old one is gone.
    node.config("other.io", "1h");
    assert!(users(&plugins, "reg.io/a").await.is_empty());
    std::fs::write(node.path().join("config.yaml"), format!("providers: [{SECRET}")).unwrap();
    assert!(error(&plugins, "reg.io/a").await.contains("line 1"));
}
