//! Files in the plugin folders that must not be loaded: each is a row with its reason, none of its code ran, and the host
//! and the plugin beside it go on.

use pajamas_tests::hostile::{self, Hostile, MARKER, Marker};
use pajamas_tests::{Home, Run, build_dir, built_library, library_name};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A home with a plugin that behaves, `sound`, and a record of whose code ran.
pub struct Farm {
    pub home: Home,
    pub marker: Marker,
}

impl Farm {
    pub fn new() -> Self {
        let farm = Self { home: Home::new(), marker: Marker::new() };
        Hostile::new("well-cpu").name("sound").install(&farm.home);
        farm
    }

    /// Adds lines to the settings.
    pub fn set(&self, lines: &str) {
        let path = self.home.path().join("config.toml");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{text}{lines}\n")).unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env(MARKER, self.marker.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::from(self.command(arguments).output().unwrap())
    }

    /// The rows of `plugins list`, among which `sound` must be, available.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        sound(self.run(&["plugins", "list", "--json"]))
    }

    /// Status and reason of the row called `name`.
    #[track_caller]
    pub fn row(&self, name: &str) -> (String, String) {
        status(&self.rows(), name)
    }

    /// Asserts that the row called `name` is refused for a reason that begins with `reason`, and that `sound` was the only
    /// one whose code ran.
    #[track_caller]
    pub fn refused(&self, name: &str, reason: &str) {
        let (status, found) = self.row(name);
        assert!(status == "refused" && found.starts_with(reason), "{status}: {found}");
        assert_eq!(self.marker.runs(), self.marker.runs_of("well-cpu"), "code ran that must not");
    }
}

#[track_caller]
pub fn sound(run: Run) -> Vec<Value> {
    let rows = run.json().as_array().unwrap().clone();
    assert_eq!(status(&rows, "sound"), ("available".into(), String::new()));
    rows
}

#[track_caller]
pub fn status(rows: &[Value], name: &str) -> (String, String) {
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no `{name}`: {rows:#?}"));
    (row["status"].as_str().unwrap().into(), row["reason"].as_str().unwrap().into())
}

/// What would write to the marker if it were loaded.
fn well() -> Hostile {
    Hostile::new("well").name("bad")
}

/// A file of the name `libx.so` in the plugin folder.
fn path(farm: &Farm) -> PathBuf {
    farm.home.plugins().join(library_name("x"))
}

#[track_caller]
fn bytes_are_refused(bytes: &[u8], reason: &str) {
    let farm = Farm::new();
    fs::write(path(&farm), bytes).unwrap();
    farm.refused(&library_name("x"), reason);
}

#[test]
fn an_empty_file() {
    bytes_are_refused(b"", "the file is empty");
}

#[test]
fn a_text() {
    bytes_are_refused(b"I am a sheep.\n", "it is not a shared library");
}

#[test]
fn a_linker_script() {
    bytes_are_refused(b"/* GNU ld script */\nGROUP ( /lib/libc.so.6 )\n", "it is a linker script");
}

#[test]
fn a_library_truncated_at_ten_places() {
    let whole = well();
    let length = whole.bytes().len();
    for tenth in 0..10 {
        // The first cut is inside the header, the last loses one byte.
        let cut = if tenth == 9 { length - 1 } else { 40 + length * tenth / 10 };
        bytes_are_refused(&whole.bytes()[..cut], "the file is truncated");
    }
}

#[test]
fn a_library_of_another_architecture() {
    let farm = Farm::new();
    well().with(hostile::elf_other_architecture).install(&farm.home);
    farm.refused(&library_name("bad"), "it was built for Elf on ");
}

#[test]
fn a_valid_library_that_is_no_plugin() {
    let farm = Farm::new();
    // What the loader itself is: a library on every system that runs this.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc.so"));
    fs::copy(libc.expect("libc"), path(&farm)).unwrap();
    farm.refused(&library_name("x"), "it is no pajamas plugin: it has no manifest");
}

/// The loader finds these out, in the worker, before it runs anything of the file's.
#[test]
fn a_library_that_needs_one_which_is_not_there() {
    let farm = Farm::new();
    well().with(hostile::missing_library).install(&farm.home);
    let (status, reason) = farm.row("bad");
    let expected = format!("it needs the library `{}`, which is not here", hostile::MISSING_LIBRARY);
    assert_eq!((status.as_str(), reason), ("failed", expected));
    assert_eq!(farm.marker.runs_of("well"), 0);
}

#[test]
fn a_library_with_an_undefined_symbol() {
    let farm = Farm::new();
    well().with(hostile::undefined_symbol).install(&farm.home);
    let (status, reason) = farm.row("bad");
    assert!(status == "failed" && reason.starts_with("it needs the function `getloadav"), "{status}: {reason}");
    assert_eq!(farm.marker.runs_of("well"), 0);
}

#[test]
fn an_older_minor_version_of_the_api_is_fine() {
    let farm = Farm::new();
    well().api("1.0.0").install(&farm.home);
    assert_eq!(farm.row("bad").0, "available");
}

#[test]
fn a_newer_minor_version_whose_minimum_is_met_is_fine() {
    let farm = Farm::new();
    well().api("1.99.0").minimum("1.0.0").install(&farm.home);
    assert_eq!(farm.row("bad").0, "available");
}

#[test]
fn a_newer_minor_version_whose_minimum_is_not_met() {
    let farm = Farm::new();
    well().api("1.99.0").minimum("1.99.0").install(&farm.home);
    farm.refused("bad", "needs plugin API 1.99.0 or newer, this pajamas has ");
}

#[test]
fn other_major_versions() {
    let farm = Farm::new();
    Hostile::new("well").name("old").api("0.9.0").minimum("0.9.0").install(&farm.home);
    Hostile::new("well").name("new").api("2.0.0").minimum("2.0.0").install(&farm.home);
    farm.refused("old", "built for plugin API 0.9.0, this pajamas has ");
    farm.refused("new", "built for plugin API 2.0.0, this pajamas has ");
    let advice = |name: &str| farm.row(name).1;
    assert!(advice("old").ends_with("ask the plugin's author for a build against the current API"));
    assert!(advice("new").ends_with("update pajamas"));
}

#[test]
fn cpu_features_that_are_missing() {
    let farm = Farm::new();
    well().cpu_features("abacus,slide-rule").install(&farm.home);
    farm.refused("bad", "this CPU lacks abacus, slide-rule, which the plugin was built for");
}

#[test]
fn a_manifest_that_is_none() {
    let farm = Farm::new();
    well().manifest("version", "x").install(&farm.home);
    farm.refused(&library_name("bad"), "the manifest cannot be read");
}

/// Only the loaded library can tell, so its constructors run, in the worker.
#[test]
fn another_binary_interface() {
    for change in [hostile::other_abi_stable as fn(&mut [u8]), hostile::other_layout] {
        let farm = Farm::new();
        well().with(change).install(&farm.home);
        let (status, reason) = farm.row("bad");
        assert!(status == "failed" && reason.starts_with("its binary interface differs from this"), "{reason}");
        let row = farm.rows().into_iter().find(|row| row["name"] == "bad").unwrap();
        assert_eq!(row["remedy"], "rebuild the plugin against the current pajamas-plugin-api");
    }
}

#[test]
fn a_backend_of_a_name_that_is_taken() {
    let farm = Farm::new();
    let second = farm.home.plugins().join(library_name("zzz"));
    Hostile::new("well").name("sound").write(&second);
    let rows = farm.rows();
    let row = rows.iter().find(|row| row["status"] == "shadowed").expect("a shadowed row");
    assert!(row["reason"].as_str().unwrap().starts_with("another `sound` comes first: `"), "{row}");
    assert_eq!((farm.marker.runs_of("well"), farm.marker.runs_of("well-cpu")), (0, 1));
}

#[test]
fn a_backend_of_a_name_whose_owner_is_broken_takes_its_place() {
    let farm = Farm::new();
    Hostile::new("abort-at-load").name("twin").install(&farm.home);
    Hostile::new("well").name("twin").write(&farm.home.plugins().join(library_name("zzz")));
    let rows = farm.rows();
    let statuses: Vec<_> = rows.iter().filter(|row| row["name"] == "twin").map(|row| &row["status"]).collect();
    assert_eq!(statuses, ["available", "failed"]);
}

#[test]
fn a_link_to_a_plugin_that_is_there_already() {
    // Whichever of the two names comes first.
    for link in ["a", "z"].map(library_name) {
        let farm = Farm::new();
        let link = farm.home.plugins().join(link);
        symlink(library_name("sound"), &link).unwrap();
        let rows = farm.rows();
        let row = rows.iter().find(|row| row["status"] == "shadowed").expect("a shadowed row");
        let file = farm.home.plugins().join(library_name("sound"));
        assert_eq!(row["reason"], format!("`{}` comes first", file.display()));
        assert_eq!(farm.marker.runs(), 1);
        // By its own name it is removed alone.
        farm.run(&["plugins", "remove", link.file_name().unwrap().to_str().unwrap()]).succeeded();
        assert!(!link.is_symlink() && file.exists());
    }
}

#[test]
fn a_file_that_is_refused_hides_no_other_of_its_name() {
    let farm = Farm::new();
    let earlier = tempfile::tempdir().unwrap();
    fs::write(earlier.path().join(library_name("sound")), "").unwrap();
    let run = farm.run(&["plugins", "list", "--json", "--plugin-dir", earlier.path().to_str().unwrap()]);
    assert_eq!(sound(run).len(), 2);
}

#[test]
fn a_link_into_another_folder_is_the_file_there() {
    let (farm, elsewhere) = (Farm::new(), tempfile::tempdir().unwrap());
    let target = elsewhere.path().canonicalize().unwrap().join("real.so");
    well().write(&target);
    symlink(&target, path(&farm)).unwrap();
    let rows = farm.rows();
    let row = rows.iter().find(|row| row["name"] == "bad").unwrap();
    assert_eq!((row["status"].as_str(), row["path"].as_str()), (Some("available"), target.to_str()));
    // What is removed is the link.
    farm.run(&["plugins", "remove", "bad"]).succeeded();
    assert!(target.exists() && !path(&farm).is_symlink());
    // Whoever can change the folder that a link lies in decides what is loaded.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), Permissions::from_mode(0o777)).unwrap();
    symlink(&target, open.path().join(library_name("x"))).unwrap();
    let run = farm.run(&["plugins", "list", "--json", "--plugin-dir", open.path().to_str().unwrap()]);
    let (status, reason) = status(&sound(run), "bad");
    assert!(status == "refused" && reason.ends_with("can be written by every user"), "{reason}");
}

#[test]
fn links_in_a_circle() {
    let farm = Farm::new();
    symlink(library_name("y"), path(&farm)).unwrap();
    symlink(library_name("x"), farm.home.plugins().join(library_name("y"))).unwrap();
    farm.refused(&library_name("x"), "it is a link that leads nowhere");
}

#[test]
fn a_link_to_nothing() {
    let farm = Farm::new();
    symlink("gone.so", path(&farm)).unwrap();
    farm.refused(&library_name("x"), "it is a link to `gone.so`, which is not there");
}

#[test]
fn a_pipe() {
    let farm = Farm::new();
    let name = std::ffi::CString::new(path(&farm).to_str().unwrap()).unwrap();
    // SAFETY: the path ends with a zero and lives during the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    farm.refused(&library_name("x"), "it is not a regular file");
}

#[test]
fn a_device() {
    let farm = Farm::new();
    // Reading from it would never end.
    symlink("/dev/zero", path(&farm)).unwrap();
    let rows = farm.rows();
    let row = rows.iter().find(|row| row["status"] == "refused").expect("a refused row");
    assert_eq!(row["reason"], "it is not a regular file");
}

#[test]
fn a_folder_of_a_librarys_name() {
    let farm = Farm::new();
    fs::create_dir(path(&farm)).unwrap();
    farm.refused(&library_name("x"), "it is a folder, not a library");
}

#[test]
fn a_bundle_that_names_what_is_not_in_it() {
    let farm = Farm::new();
    let bundle = farm.home.plugins().join("bundle");
    fs::create_dir(&bundle).unwrap();
    well().write(&farm.home.path().join("outside.so"));
    fs::write(bundle.join("plugin.toml"), "library = '../../outside.so'").unwrap();
    farm.refused("bundle", "its `plugin.toml` names `../../outside.so`, which is not a file of its own folder");
}

#[test]
fn a_file_and_a_folder_that_everybody_can_write_to() {
    let farm = Farm::new();
    let file = well().install(&farm.home);
    fs::set_permissions(&file, Permissions::from_mode(0o777)).unwrap();
    farm.refused("bad", "it can be written by every user");
    let row = farm.rows().into_iter().find(|row| row["name"] == "bad").unwrap();
    assert_eq!(row["remedy"], format!("chmod o-w {}", file.canonicalize().unwrap().display()));
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), Permissions::from_mode(0o777)).unwrap();
    Hostile::new("well").name("open").write(&open.path().join(library_name("open")));
    let run = farm.run(&["plugins", "list", "--json", "--plugin-dir", open.path().to_str().unwrap()]);
    let (status, reason) = status(&sound(run), "open");
    assert_eq!((status.as_str(), reason.as_str()), ("refused", "its folder can be written by every user"));
    // The file beside the sound one is fine by now, and was asked.
    assert_eq!(farm.marker.runs_of("well"), 1);
}

#[test]
fn a_file_of_another_user() {
    if !is_root() {
        return not_run("a_file_of_another_user", "it takes root to give a file away");
    }
    let farm = Farm::new();
    let file = well().install(&farm.home);
    std::os::unix::fs::chown(&file, Some(NOBODY), None).unwrap();
    farm.refused("bad", "it belongs to another user (uid 65534)");
}

#[test]
fn a_file_that_cannot_be_read() {
    let farm = Unprivileged::new();
    let file = Hostile::new("well").name("bad").install(&farm.farm.home);
    farm.own();
    fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
    let rows = sound(farm.run(&["plugins", "list", "--json"]));
    let row = rows.iter().find(|row| row["name"] == library_name("bad").as_str()).unwrap();
    assert_eq!(
        (row["status"].as_str(), row["reason"].as_str()),
        (Some("refused"), Some("it may not be read by this user"))
    );
    assert_eq!(row["remedy"], format!("chmod u+r {}", file.canonicalize().unwrap().display()));
}

#[test]
fn folders_that_cannot_be_read_or_are_not_there() {
    let farm = Unprivileged::new();
    let closed = farm.farm.home.path().join("closed");
    fs::create_dir(&closed).unwrap();
    farm.farm.set(&format!("plugin_dirs = ['{}', '/none/such']", closed.display()));
    farm.own();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    sound(farm.run(&["plugins", "list", "--json"]));
    let doctor = farm.run(&["doctor"]);
    assert_eq!(doctor.code, Some(1));
    let closed = format!("`{}` (", closed.display());
    assert!(doctor.stdout.contains(&closed) && doctor.stdout.contains("cannot be read, so its plugins"), "{doctor:#?}");
    assert!(
        doctor.stdout.contains("-> chmod u+rx ") && doctor.stdout.contains("-> mkdir -p /none/such"),
        "{doctor:#?}"
    );
}

#[test]
fn a_cache_that_cannot_be_written() {
    let farm = Unprivileged::new();
    let cache = farm.farm.home.path().join("cache");
    fs::create_dir(&cache).unwrap();
    farm.own();
    fs::set_permissions(&cache, Permissions::from_mode(0o555)).unwrap();
    for _ in 0..2 {
        let run = farm.run(&["plugins", "list", "--json"]);
        assert_eq!(run.stderr, "");
        sound(run);
    }
    assert_eq!(farm.farm.marker.runs(), 2, "asked anew each time, for nothing is remembered");
}

#[test]
fn with_more_rights_than_its_user_the_environment_is_ignored() {
    const TEST: &str = "with_more_rights_than_its_user_the_environment_is_ignored";
    if !is_root() {
        return not_run(TEST, "it takes root to make a setuid program");
    }
    let farm = Unprivileged::new();
    let hidden = tempfile::tempdir().unwrap();
    Hostile::new("well").name("bad").write(&hidden.path().join(library_name("bad")));
    let system = farm.bin.path().join("lib/pajamas/plugins");
    fs::create_dir_all(&system).unwrap();
    Hostile::new("well-cpu").name("sound").write(&system.join(library_name("sound")));
    let bin = farm.bin.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["pajamas", "pajamas-worker"] {
        fs::copy(build_dir().join(name), bin.join(name)).unwrap();
    }
    farm.own();
    let program = bin.join("pajamas");
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let mut command = Command::new(&program);
    command.env(MARKER, farm.farm.marker.path()).env("HOME", "/none");
    command.env("PAJAMAS_HOME", farm.farm.home.path()).env("PAJAMAS_PLUGIN_PATH", hidden.path());
    command.env("PAJAMAS_WORKER", "/bin/true");
    let run = Run::from(command.args(["plugins", "list", "--json"]).output().unwrap());
    if run.stderr.contains("asked for by setuid is ignored") {
        return not_run(TEST, "this file system has no setuid programs");
    }
    let rows = sound(run);
    assert!(rows.iter().all(|row| row["name"] != "bad"), "{rows:#?}");
    assert_eq!(rows[0]["path"], system.join(library_name("sound")).canonicalize().unwrap().to_str().unwrap());
    let run = Run::from(command.args(["--plugin-dir", hidden.path().to_str().unwrap()]).output().unwrap());
    assert!(run.code == Some(1) && run.stderr.contains("with more rights than its user"), "{run:#?}");
}

/// A user who is nobody in particular.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

fn not_run(test: &str, why: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("not run, because {why}: {test}\n"));
}

/// A farm for a process that is not root's, because root may read and write what modes forbid.
struct Unprivileged {
    farm: Farm,
    /// Copies of the programs: those that were built may lie where nobody else may look.
    bin: tempfile::TempDir,
}

impl Unprivileged {
    fn new() -> Self {
        let bin = tempfile::tempdir().unwrap();
        for name in ["pajamas", "pajamas-worker"] {
            fs::copy(build_dir().join(name), bin.path().join(name)).unwrap();
        }
        Self { farm: Farm::new(), bin }
    }

    /// Gives everything to the user that it is for.
    fn own(&self) {
        if !is_root() {
            return;
        }
        let marker = self.farm.marker.path();
        for root in [self.farm.home.path(), self.bin.path(), marker.parent().unwrap()] {
            give_away(root);
        }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.path().join("pajamas"));
        command.args(arguments).env("PAJAMAS_HOME", self.farm.home.path()).env(MARKER, self.farm.marker.path());
        command.env_remove("PAJAMAS_PLUGIN_PATH").env_remove("RUST_LOG").current_dir("/");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        Run::from(command.output().unwrap())
    }
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        // What cannot be entered cannot be removed by its owner.
        for name in ["closed", "cache"] {
            let _ = fs::set_permissions(self.farm.home.path().join(name), Permissions::from_mode(0o755));
        }
    }
}

fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

#[test]
fn nothing_there_at_all_says_what_to_do() {
    let home = Home::new();
    let list = home.run(["plugins", "list"]);
    list.succeeded();
    assert!(list.stderr.contains("no plugins in") && list.stderr.contains("hint: no plugin is installed"), "{list:#?}");
    let model = home.path().join("m.gguf");
    fs::write(&model, "GGUF").unwrap();
    let run = home.run(["run".as_ref(), model.as_os_str(), "-p".as_ref(), "x".as_ref()]);
    assert!(run.code == Some(1) && run.stderr.contains("no backend can run GGUF models"), "{run:#?}");
    // Nor with what is there and broken.
    Hostile::new("abort-at-load").name("bad").install(&home);
    let run = home.run(["run".as_ref(), model.as_os_str(), "-p".as_ref(), "x".as_ref()]);
    assert!(
        run.code == Some(1) && run.stderr.contains("bad: the worker process crashed (abort, signal 6)"),
        "{run:#?}"
    );
    let doctor = home.run(["doctor"]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains("no installed backend runs models"), "{doctor:#?}");
    assert!(built_library("misbehaving").is_file());
}
