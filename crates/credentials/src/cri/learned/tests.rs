use super::*;
use registry::Secret;

const DAY: u64 = 86400;

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn lesson(user: &str, server: &str) -> Lesson {
    let credential = Credential::Password { user: user.into(), secret: Secret::new("hunter2".into()) };
    Lesson { server: server.into(), credential }
}

#[track_caller]
fn check(learned: &mut Learned, host: &str, image: &str, now: Time, want: &[&str]) {
    let (candidates, _) = learned.candidates(host, &reference(image), now);
    let users: Vec<_> = candidates
        .iter()
        .map(|credential| match credential {
            Credential::Password { user, .. } => user.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(users, want);
}

#[test]
fn an_image_then_its_neighbours() {
    let mut learned = Learned::new(10, 30 * DAY);
    learned.learn(&reference("reg.io/a:1"), lesson("one", ""), 5);
    learned.learn(&reference("reg.io/a:2"), lesson("two", ""), 6);
    learned.learn(&reference("reg.io/b:1"), lesson("other", ""), 7);
    check(&mut learned, "reg.io", "reg.io/a:1", 8, &["one", "two"]);
    check(&mut learned, "reg.io", "reg.io/a:3", 8, &["two", "one"]);
    check(&mut learned, "reg.io", "other.io/a:1", 8, &[]);
}

#[test]
fn a_digest_says_all() {
    let mut learned = Learned::new(10, 30 * DAY);
    let digest = format!("sha256:{}", "a".repeat(64));
    learned.learn(&reference(&format!("x:1@{digest}")), lesson("u", ""), 5);
    assert_eq!(learned.images().next().unwrap().0, &format!("docker.io/library/x@{digest}"));
    assert!(learned.forget(Some(&key_of(&reference(&format!("x@{digest}")))), "x"));
}

#[test]
fn a_server_address_must_be_the_host() {
    let mut learned = Learned::new(10, 30 * DAY);
    learned.learn(&reference("x:1"), lesson("hub", host_of("https://index.docker.io/v1/")), 5);
    learned.learn(&reference("reg.io/a"), lesson("reg", host_of("reg.io")), 5);
    check(&mut learned, "docker.io", "x:1", 6, &["hub"]);
    check(&mut learned, "registry-1.docker.io", "x:1", 6, &["hub"]);
    check(&mut learned, "mirror.local:5000", "x:1", 6, &[]);
    check(&mut learned, "reg.io:5000", "reg.io/a", 6, &[]);
}

#[test]
fn what_worked_comes_first_and_what_failed_last() {
    let mut learned = Learned::new(10, 30 * DAY);
    let image = reference("reg.io/a:1");
    let (good, bad, worse) = (lesson("good", ""), lesson("bad", ""), lesson("worse", ""));
    learned.learn(&image, good.clone(), 5);
    learned.succeeded(&image, Some(&good), "sha256:1".into());
    learned.learn(&image, bad.clone(), 6);
    check(&mut learned, "reg.io", "reg.io/a:1", 6, &["bad", "good"]);
    learned.learn(&image, worse.clone(), 6);
    learned.failed(&image, &bad);
    learned.failed(&image, &worse);
    check(&mut learned, "reg.io", "reg.io/a:1", 6, &["good", "bad", "worse"]);
    learned.succeeded(&image, Some(&worse), "sha256:1".into());
    check(&mut learned, "reg.io", "reg.io/a:1", 6, &["worse", "good", "bad"]);
    for user in ["1", "2", "3", "4", "5"] {
        learned.learn(&image, lesson(user, ""), 7);
    }
    check(&mut learned, "reg.io", "reg.io/a:1", 7, &["5", "4", "3", "2"]);
}

#[test]
fn removal_by_name_and_by_id() {
    let mut learned = Learned::new(10, 30 * DAY);
    for image in ["reg.io/a:1", "reg.io/a:2", "reg.io/b:1"] {
        learned.learn(&reference(image), lesson("u", ""), 5);
    }
    learned.succeeded(&reference("reg.io/a:1"), None, "sha256:1".into());
    learned.succeeded(&reference("reg.io/b:1"), None, "sha256:1".into());
    assert!(!learned.forget(None, ""));
    assert!(learned.forget(Some("reg.io/a:2"), "reg.io/a:2"));
    assert!(learned.forget(None, "sha256:1"));
    assert_eq!(learned.images().count(), 0);
}

#[test]
fn time_and_number_are_bounded() {
    let mut learned = Learned::new(3, 30 * DAY);
    for number in 0..5 {
        learned.learn(&reference(&format!("reg.io/a{number}:1")), lesson("u", ""), number);
    }
    assert_eq!(learned.images().count(), 3);
    check(&mut learned, "reg.io", "reg.io/a1:1", 5, &[]);
    check(&mut learned, "reg.io", "reg.io/a4:1", 20 * DAY, &["u"]);
    // The use has been noted: it is from now on that the days count.
    check(&mut learned, "reg.io", "reg.io/a4:1", 45 * DAY, &["u"]);
    check(&mut learned, "reg.io", "reg.io/a3:1", 45 * DAY, &[]);
    check(&mut learned, "reg.io", "reg.io/a4:1", 80 * DAY, &[]);
    assert_eq!(learned.images().count(), 0);
}

#[test]
fn debug_shows_no_secret() {
    let mut learned = Learned::new(3, DAY);
    learned.learn(&reference("reg.io/a:1"), lesson("u", ""), 5);
    assert!(!format!("{learned:?}").contains("hunter2"));
}
