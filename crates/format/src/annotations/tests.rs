use super::*;

const CHECKSUM_TEXT: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn read(annotations: &[(&str, &str)]) -> Result<ChunkedAnnotations, FormatError> {
    ChunkedAnnotations::read(|key| annotations.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
}

#[test]
fn both_prefixes_are_known_and_the_new_one_counts() {
    let position = |offset| Some(ChunkedPosition { offset, size: 2, json_size: 3, toc_type: 1 });
    let old = ("io.containers.zstd-chunked.manifest-position", "10:2:3:1");
    let new = ("io.github.containers.zstd-chunked.manifest-position", "20:2:3:1");
    assert_eq!(read(&[old]).unwrap().position, position(10));
    assert_eq!(read(&[new]).unwrap().position, position(20));
    assert_eq!(read(&[old, new]).unwrap().position, position(20));
    for prefix in PREFIXES {
        let checksum = read(&[(&format!("{prefix}manifest-checksum"), CHECKSUM_TEXT)]).unwrap().checksum;
        assert_eq!(checksum, Some(Digest::of(b"abc")));
    }
}

#[test]
fn a_layer_without_them_has_none() {
    let others = [("io.containers.zstd-chunked.tarsplit-position", "x"), ("manifest-position", "1:2:3:1")];
    assert_eq!(read(&others).unwrap(), ChunkedAnnotations::default());
}

#[test]
fn what_has_another_form_is_refused() {
    let largest = format!("{}:1:1:1", u64::MAX);
    assert_eq!(
        read(&[(&format!("{}manifest-position", PREFIXES[0]), &largest)]).unwrap().position.unwrap().offset,
        u64::MAX
    );
    for text in [
        "",
        "1",
        "1:2:3",
        "1:2:3:1:",
        "1:2:3:1:5",
        "1:2:3:",
        ":::",
        "-1:2:3:1",
        "+1:2:3:1",
        " 1:2:3:1",
        "1:2:3:x",
        "0x1:2:3:1",
        "18446744073709551616:2:3:1",
    ] {
        let error = read(&[(&format!("{}manifest-position", PREFIXES[1]), text)]).unwrap_err();
        assert!(matches!(&error, FormatError::Annotation { value, .. } if value == text), "{text:?} {error}");
    }
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    for text in ["", "abc", "sha256:12", &sha512, &"x".repeat(10_000)] {
        let error = read(&[(&format!("{}manifest-checksum", PREFIXES[0]), text)]).unwrap_err();
        assert!(matches!(&error, FormatError::Annotation { value, .. } if value.len() < 300), "{error}");
    }
}
