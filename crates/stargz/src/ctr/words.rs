//! Which command was typed: one of ours, or one that only `ctr` has.

use std::ffi::OsString;

/// Global flags that take a value.
const WITH_VALUE: [&str; 6] = ["address", "a", "timeout", "connect-timeout", "namespace", "n"];
/// Commands of `images` that are here.
const OURS: [&str; 4] = ["convert", "optimize", "rpull", "get-toc-digest"];

/// Whether `ctr` is to be asked: the command has a name, and it is none of ours.
pub fn is_of_ctr(args: &[OsString]) -> bool {
    let mut words = Vec::new();
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        let Some(text) = arg.to_str() else { return true };
        match text.strip_prefix('-') {
            None => words.push(text),
            Some(flag) => {
                let flag = flag.trim_start_matches('-');
                if matches!(flag, "h" | "help" | "v" | "version") && words.len() < 2 {
                    return false;
                }
                if WITH_VALUE.contains(&flag) && words.is_empty() {
                    rest.next();
                }
            }
        }
        if words.len() == 2 {
            break;
        }
    }
    match words.as_slice() {
        [] => false,
        ["images" | "image" | "i"] => false,
        ["images" | "image" | "i", verb, ..] => {
            !OURS.contains(verb) || args.iter().any(|arg| arg == "--uncompress" || arg == "-uncompress")
        }
        _ => true,
    }
}

/// Flags as Go programs take them to how they are taken here: long ones with one dash, switches with a value.
pub fn normal(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut new = Vec::new();
    for arg in args {
        let Some(flag) = arg.to_str().and_then(|text| text.strip_prefix('-')) else {
            new.push(arg);
            continue;
        };
        let name = flag.strip_prefix('-').unwrap_or(flag);
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let dashes = if name.len() > 1 { "--" } else { "-" };
        match value {
            // The value of a switch; others have no such values.
            Some("true") => new.push(format!("{dashes}{name}").into()),
            Some("false") => {}
            Some(value) => new.push(format!("{dashes}{name}={value}").into()),
            None if name.is_empty() => new.push(arg),
            None => new.push(format!("{dashes}{name}").into()),
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn commands_that_are_not_here_are_those_of_ctr() {
        for ours in [
            "ctr-remote",
            "ctr-remote --help",
            "ctr-remote images",
            "ctr-remote i -h",
            "ctr-remote -n k8s.io -a /x image convert --oci a b",
            "ctr-remote --namespace=k8s.io i rpull --user u:p x",
        ] {
            assert!(!is_of_ctr(&args(ours)), "{ours}");
        }
        for ctr in [
            "ctr-remote run -t x y",
            "ctr-remote --address images images ls",
            "ctr-remote i pull --help",
            "ctr-remote c rm x",
            "ctr-remote i convert --uncompress a b",
        ] {
            assert!(is_of_ctr(&args(ctr)), "{ctr}");
        }
    }

    #[test]
    fn flags_are_written_as_in_go() {
        let normal =
            normal(args("-oci --estargz=true -platform=linux/arm64 --uncompress=false -n x -k - a=true"));
        assert_eq!(normal, args("--oci --estargz --platform=linux/arm64 -n x -k - a=true"));
    }
}
