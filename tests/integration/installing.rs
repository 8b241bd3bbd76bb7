//! `make install`, `make uninstall` and `make dist`: what they put somewhere works there, and goes away again.

use pajamas_tests::{Run, built, library_name, pajama_tiny};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user's home folder, with a script of `tools/` called from it.
struct User(tempfile::TempDir);

impl User {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    fn prefix(&self) -> PathBuf {
        self.home().join(".pajamas")
    }

    /// Runs `program` as this user, whose PATH has the system's programs and `folder`.
    fn run<S: AsRef<OsStr>>(&self, program: &Path, args: impl IntoIterator<Item = S>, folder: &str) -> Run {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PAJAMAS_")) {
            command.env_remove(name);
        }
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.home().join(folder).display());
        command.env("HOME", self.home()).env("PATH", path).env("HF_HUB_OFFLINE", "1").env_remove("DESTDIR");
        Run::from(command.args(args).stdin(Stdio::null()).output().unwrap())
    }

    fn install(&self, plugins: &[String]) -> Run {
        let release = built("pajamas").parent().unwrap().to_owned();
        let fixed = [release.into_os_string(), self.prefix().into_os_string()];
        self.run(&tool("install"), fixed.into_iter().chain(plugins.iter().map(Into::into)), ".local/bin")
    }

    fn uninstall(&self) -> Run {
        self.run(&tool("uninstall"), [self.prefix()], ".local/bin")
    }

    /// Every file below the prefix, sorted.
    fn files(&self) -> Vec<String> {
        let (mut found, mut folders) = (Vec::new(), vec![self.prefix()]);
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(self.prefix()).unwrap().display().to_string()),
                }
            }
        }
        found.sort();
        found
    }
}

fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(name)
}

/// The CPU backend under another name than its file's, and the quantizer for MLX.
fn plugins() -> [String; 2] {
    let cpu = library_name("gguf_cpu");
    [format!("{}={cpu}", built(&cpu).display()), built(&library_name("mlx_quantize")).display().to_string()]
}

#[test]
fn what_is_installed_runs_and_goes_away_again() {
    let user = User::new();
    let said = user.install(&plugins());
    let said = said.succeeded();
    assert!(said.stdout.contains("linked from"), "{said:#?}");
    let files = user.files();
    for file in
        ["bin/pajamas", "bin/pajamas-worker", "share/man/man1/pajamas-run.1", "share/zsh/site-functions/_pajamas"]
    {
        assert!(files.iter().any(|own| own == file), "{file}: {files:?}");
    }
    // By its link, it finds its worker and its plugins.
    let program = user.home().join(".local/bin/pajamas");
    let listed = user.run(&program, ["plugins", "list"], "nothing");
    assert!(listed.succeeded().stdout.contains("gguf-cpu"), "{listed:#?}");
    // Also where another home is named: they were installed with the program.
    let mut elsewhere = Command::new(&program);
    elsewhere.args(["plugins", "list"]).env("HOME", user.home()).env("PAJAMAS_HOME", user.home().join("other"));
    let elsewhere = Run::from(elsewhere.output().unwrap());
    assert!(elsewhere.succeeded().stdout.contains("gguf-cpu"), "{elsewhere:#?}");
    let tiny = pajama_tiny();
    let quantize = ["quantize".as_ref(), tiny.as_os_str(), "-m".as_ref(), "Q8_0".as_ref(), "--no-validate".as_ref()];
    user.run(&program, quantize, "nothing").succeeded();

    // What others put there, and what was changed, is not ours to remove.
    let plugins_folder = user.prefix().join("lib/pajamas/plugins");
    std::fs::write(plugins_folder.join("libother.so"), "another's").unwrap();
    std::fs::write(plugins_folder.join(library_name("mlx_quantize")), "changed").unwrap();
    let said = user.uninstall();
    assert!(said.succeeded().stderr.contains("is not what was installed, and stays"), "{said:#?}");
    let left = user.files();
    let ours = |file: &&String| !file.starts_with("cache/") && !file.starts_with("plugins.lock");
    let left: Vec<&String> = left.iter().filter(ours).collect();
    let quantizer = format!("lib/pajamas/plugins/{}", library_name("mlx_quantize"));
    let mut expected = vec![
        "models/pajama-tiny-q8_0.gguf",
        "models/pajama-tiny-q8_0.gguf.json",
        &quantizer,
        "lib/pajamas/plugins/libother.so",
    ];
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert!(std::fs::symlink_metadata(&program).is_err(), "the link is gone");
    assert!(!user.prefix().join("bin").exists() && !user.prefix().join("share").exists());
    let again = user.uninstall();
    assert!(again.code == Some(1) && again.stderr.contains("nothing was installed"), "{again:#?}");
}

#[test]
fn installing_again_keeps_what_was_installed_on_request() {
    let user = User::new();
    let [cpu, quantizer] = plugins();
    user.install(&[cpu.clone(), quantizer]).succeeded();
    user.install(&[cpu]).succeeded();
    let quantizer = format!("lib/pajamas/plugins/{}", library_name("mlx_quantize"));
    assert!(user.files().contains(&quantizer));
    user.uninstall().succeeded();
    assert_eq!(user.files(), [""; 0], "and it is removed with the rest");
}

#[test]
fn a_package_is_staged_and_uninstalled_where_it_belongs() {
    let user = User::new();
    let (stage, release) = (user.home().join("stage"), built("pajamas").parent().unwrap().to_owned());
    let run = |tool_name: &str, args: &[&OsStr]| {
        let mut command = Command::new(tool(tool_name));
        // A relative prefix counts from where it was called.
        command.args(args).env("HOME", user.home()).current_dir(user.home()).stdin(Stdio::null());
        command
    };
    let [cpu, _] = plugins();
    let args = [release.as_os_str(), "/usr/local".as_ref(), cpu.as_ref()];
    let staged = Run::from(run("install", &args).env("DESTDIR", &stage).output().unwrap());
    staged.succeeded();
    let list = std::fs::read_to_string(stage.join("usr/local/share/pajamas/installed")).unwrap();
    assert!(list.lines().all(|line| line[66..].starts_with("/usr/local/")), "{list}");
    let removed = run("uninstall", &["/usr/local".as_ref()]).env("DESTDIR", &stage).output().unwrap();
    Run::from(removed).succeeded();
    assert!(!stage.join("usr/local/bin").exists() && !stage.join("usr/local/lib").exists());

    let args = [release.as_os_str(), "own".as_ref(), cpu.as_ref()];
    Run::from(run("install", &args).env_remove("DESTDIR").output().unwrap()).succeeded();
    assert!(user.home().join("own/bin/pajamas").is_file());
    // The list is no reason to say that all is gone where nothing was found.
    std::fs::rename(user.home().join("own"), user.home().join("moved")).unwrap();
    let moved = Run::from(run("uninstall", &["moved".as_ref()]).env_remove("DESTDIR").output().unwrap());
    assert!(moved.code == Some(1) && moved.stderr.contains("none of the files"), "{moved:#?}");
}

#[test]
fn an_archive_runs_wherever_it_is_unpacked() {
    let user = User::new();
    let notices = user.home().join("THIRD-PARTY-NOTICES.txt");
    std::fs::write(&notices, "notices").unwrap();
    let release = built("pajamas").parent().unwrap().to_owned();
    let out = user.home().join("out");
    std::fs::create_dir(&out).unwrap();
    let fixed = [release.into_os_string(), notices.into_os_string(), out.clone().into_os_string()];
    let packed = user.run(&tool("dist"), fixed.into_iter().chain(plugins().iter().map(Into::into)), "nothing");
    let archive = PathBuf::from(packed.succeeded().stdout.trim());
    let sums = std::fs::read_to_string(format!("{}.sha256", archive.display())).unwrap();
    assert!(sums.trim_end().ends_with(archive.file_name().unwrap().to_str().unwrap()), "{sums}");
    let place = user.home().join("else where");
    std::fs::create_dir(&place).unwrap();
    let unpack =
        [OsStr::new("-xzf"), archive.as_os_str(), "-C".as_ref(), place.as_os_str(), "--strip-components=1".as_ref()];
    user.run(Path::new("tar"), unpack, "nothing").succeeded();
    for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-NOTICES.txt", "docs/quick-start.md"] {
        assert!(place.join(file).is_file(), "{file} is not in the archive");
    }
    let tiny = place.join("tests/fixtures/pajama-tiny");
    let ask =
        [OsStr::new("run"), tiny.as_os_str(), "What is the capital of France?".as_ref(), "-t".as_ref(), "0".as_ref()];
    let answered = user.run(&place.join("bin/pajamas"), ask, "nothing");
    assert!(answered.succeeded().stdout.contains("Paris"), "{answered:#?}");
}
