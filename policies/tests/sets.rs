//! Directories of policies: what they may hold, what extends what, and that one mistake refuses all.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use policies::{DIRECTORY_FILES_MAX, Error, Policy, PolicySet};

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    directory
}

fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

fn refused(files: &[(&str, &str)]) -> Vec<String> {
    let directory = directory(files);
    PolicySet::load(directory.path()).unwrap_err().iter().map(ToString::to_string).collect()
}

const SMALL: &str = "version = 1\n[limits]\nmemory = \"64MiB\"\n";

#[test]
fn policies_of_a_directory_extend_each_other_and_only_narrow() {
    let directory = directory(&[
        // In no order: what is extended comes later in the alphabet.
        ("a.toml", "version = 1\nextends = \"b\"\n[wasi]\nrandom = false\n"),
        ("b.toml", "version = 1\nextends = \"small\"\n[limits]\nmemory = \"32MiB\"\n"),
        ("small.toml", SMALL),
        (".hidden.toml", "no policy"),
        ("README", "no policy"),
    ]);
    std::fs::create_dir(directory.path().join("more")).unwrap();
    let set = PolicySet::load(directory.path()).unwrap();
    let names: Vec<&str> = set.iter().map(|policy| policy.name()).collect();
    assert_eq!(names, ["a", "b", "compute", "default", "small", "wasi", "wasi-direct"]);
    let policy = set.get("a").unwrap();
    assert_eq!(
        (policy.extends(), policy.limits().memory, policy.wasi().random),
        (Some("b"), 32 << 20, false)
    );
    assert!(set.get("b").unwrap().wasi().random);
    assert_eq!(**set.get("compute").unwrap(), Policy::builtin("compute").unwrap());
    assert!(set.get("smal").unwrap_err().to_string().contains("did you mean \"small\"?"));
    // A text may extend them too, and be held to them.
    assert_eq!(set.parse("version = 1\nextends = \"b\"", "my.toml").unwrap().limits().memory, 32 << 20);
    let error =
        set.parse("version = 1\nextends = \"b\"\n[limits]\nmemory = \"64MiB\"", "my.toml").unwrap_err();
    assert!(error.to_string().contains("widens the policy \"b\", which has 32MiB"), "{error}");
}

#[test]
fn dangers_are_inherited() {
    let wide =
        "version = 1\nallow_dangerous = true\ndangerous_reason = \"big data\"\n[limits]\nmemory = \"8GiB\"\n";
    let directory = directory(&[("wide.toml", wide), ("user.toml", "version = 1\nextends = \"wide\"\n")]);
    let set = PolicySet::load(directory.path()).unwrap();
    let policy = set.get("user").unwrap();
    assert_eq!(policy.limits().memory, 8 << 30);
    assert_eq!(policy.dangerous_reason(), None, "it is not its own");
    assert_eq!(policy.dangers().len(), 1);
    assert_eq!((&*policy.dangers()[0].policy, &*policy.dangers()[0].reason), ("wide", "big data"));
    assert!(policy.explain().contains("MAY WIDEN what it extends (wide): big data"));
}

#[test]
fn one_mistake_refuses_all_and_every_file_s_is_told() {
    let errors = refused(&[
        ("good.toml", SMALL),
        ("key.toml", "version = 1\n[limits]\nmemroy = 1\n"),
        ("above.toml", "version = 1\nextends = \"key\"\n"),
        ("text.toml", "version = \n"),
        ("base.toml", "version = 1\nextends = \"god\"\n"),
    ]);
    assert_eq!(errors.len(), 4, "{errors:?}");
    for piece in [
        "key.toml:3:1: unknown key",
        "above.toml:2:11: it extends the policy \"key\", which has a mistake",
        "text.toml:1:1",
        "base.toml:2:11: extends has the unknown value \"god\"; did you mean \"good\"?",
    ] {
        assert!(errors.iter().any(|error| error.contains(piece)), "{piece}: {errors:?}");
    }
}

#[test]
fn circles_and_long_rows_are_refused() {
    let errors = refused(&[
        ("a.toml", "version = 1\nextends = \"b\"\n"),
        ("b.toml", "version = 1\nextends = \"a\"\n"),
        ("self.toml", "version = 1\nextends = \"self\"\n"),
    ]);
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(
        errors.iter().any(|error| error.contains("extend each other: a extends b extends a")),
        "{errors:?}"
    );
    let row: Vec<(String, String)> = (0..20)
        .map(|n| {
            let base = if n == 0 { "default".to_owned() } else { format!("p{}", n - 1) };
            (format!("p{n}.toml"), format!("version = 1\nextends = \"{base}\"\n"))
        })
        .collect();
    let files: Vec<(&str, &str)> = row.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert!(refused(&files).iter().any(|error| error.contains("more than 16 policies extend each other")));
}

#[test]
fn names_that_are_taken_or_no_names_are_refused() {
    for name in [
        "default.toml",
        "compute.toml",
        "zygote.toml",
        "wasi-direct.toml",
        "a b.toml",
        ".toml.toml",
        "é.toml",
    ] {
        if name.starts_with('.') {
            continue;
        }
        let errors = refused(&[(name, SMALL)]);
        assert!(errors[0].contains("the name of the file cannot be that of a policy"), "{errors:?}");
    }
    assert!(refused(&[("big.toml", &"#".repeat(300 << 10))])[0].contains("larger than"));
}

#[test]
fn what_another_user_could_write_is_refused() {
    let directory = directory(&[("small.toml", SMALL)]);
    let file = directory.path().join("small.toml");
    for (path, mode) in [
        (file.as_path(), 0o664),
        (file.as_path(), 0o646),
        (directory.path(), 0o775),
        (directory.path(), 0o777),
    ] {
        let before = std::fs::metadata(path).unwrap().permissions();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let errors = PolicySet::load(directory.path()).unwrap_err();
        assert!(matches!(&errors[..], [Error::Exposed { .. }]), "{mode:o}: {errors:?}");
        std::fs::set_permissions(path, before).unwrap();
    }
    PolicySet::load(directory.path()).unwrap();
    // A link counts as what it leads to; what is no regular file is none.
    symlink(&file, directory.path().join("link.toml")).unwrap();
    assert!(PolicySet::load(directory.path()).unwrap().get("link").is_ok());
    symlink("/dev/null", directory.path().join("null.toml")).unwrap();
    assert!(PolicySet::load(directory.path()).unwrap_err()[0].to_string().contains("not a regular file"));
    assert!(matches!(&PolicySet::load(Path::new("/nonexistent")).unwrap_err()[..], [Error::Read { .. }]));
}

#[test]
fn a_directory_is_bounded() {
    let directory = directory(&[]);
    for n in 0..=DIRECTORY_FILES_MAX {
        write(directory.path(), &format!("p{n}.toml"), "version = 1\n");
    }
    let errors = PolicySet::load(directory.path()).unwrap_err();
    assert!(matches!(&errors[..], [Error::TooManyFiles { .. }]), "{errors:?}");
}

#[test]
fn a_control_of_speculation_is_not_switched_off_again() {
    let closed = "version = 1\n[speculation]\nindirect_branch = \"disable\"\nstore_bypass = \"disable\"\n\
                  core_scheduling = true\ntimestamp_counter = false\n";
    for (text, was) in [
        ("indirect_branch = \"host\"", "\"disable\""),
        ("store_bypass = \"host\"", "\"disable\""),
        ("core_scheduling = false", "true"),
        ("timestamp_counter = true", "false"),
    ] {
        let open = format!("version = 1\nextends = \"closed\"\n[speculation]\n{text}\n");
        let errors = refused(&[("closed.toml", closed), ("open.toml", &open)]);
        let expected = format!("speculation.{text} widens the policy \"closed\", which has {was}");
        assert!(errors.len() == 1 && errors[0].contains(&expected), "{errors:?}");
    }
}
