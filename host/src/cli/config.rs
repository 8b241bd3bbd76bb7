//! `pajamas config`: every setting, its value and where that came from; and changing the settings file.

use super::output;
use crate::config::keys::{self, Key};
use crate::config::settings::{self, Setting};
use crate::config::{self, Config, Origin, edit};
use crate::env_vars;
use crate::error::Error;
use crate::{pipeline, plugins};
use serde::Serialize;
use std::path::PathBuf;

/// What `pajamas config` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show every setting, its value and where that came from (the default); with -v, what each is for.
    List,
    /// Print the value of a setting; a list, one line each.
    Get {
        /// The setting's name.
        key: String,
    },
    /// Set a setting in the settings file.
    Set {
        /// The setting's name.
        key: String,
        /// Its value; for `plugin_dirs`, any number of folders.
        #[arg(required = true, allow_negative_numbers = true)]
        value: Vec<String>,
    },
    /// Take a setting out of the settings file.
    Unset {
        /// The setting's name; also one that the file should not have.
        key: String,
    },
    /// Print where the settings file is.
    Path,
}

/// What `config list` shows.
#[derive(Debug, Serialize)]
struct List {
    path: PathBuf,
    home: Folder,
    settings: Vec<Setting>,
    plugin_dirs: Vec<Folder>,
    environment: Vec<Variable>,
}

#[derive(Debug, Serialize)]
struct Folder {
    path: PathBuf,
    origin: Origin,
}

#[derive(Debug, Serialize)]
struct Variable {
    name: &'static str,
    value: Option<String>,
    help: &'static str,
}

/// Runs the command. The settings are read here and not before, so that a damaged file can be mended.
pub fn execute(args: &Args, common: &super::Common) -> anyhow::Result<()> {
    let load = || Config::load(&common.flags());
    match args.action.as_ref().unwrap_or(&Action::List) {
        Action::List => list(&load()?, common),
        Action::Get { key } => get(find(key)?, &load()?, common),
        Action::Set { key, value } => set(find(key)?, value, common),
        Action::Unset { key } => unset(key),
        Action::Path => path(common),
    }
}

fn find(name: &str) -> Result<&'static Key, Error> {
    keys::find(name).map_err(|hint| Error::Usage { message: format!("unknown setting `{name}`"), hint })
}

fn file() -> Result<PathBuf, Error> {
    Ok(config::home()?.0.join(config::FILE_NAME))
}

fn list(config: &Config, common: &super::Common) -> anyhow::Result<()> {
    let folder = |(path, origin): (&PathBuf, &Origin)| Folder { path: path.clone(), origin: origin.clone() };
    let list = List {
        path: config.file(),
        home: folder((&config.home, &config.origins.home)),
        settings: settings::all(config),
        plugin_dirs: config.plugin_dirs.iter().zip(&config.origins.plugin_dirs).map(folder).collect(),
        environment: env_vars::ALL.iter().map(variable).collect(),
    };
    if common.json {
        return output::json(&list);
    }
    print(&list, common.verbose > 0);
    Ok(())
}

fn variable(variable: &env_vars::Variable) -> Variable {
    let value = env_vars::value(variable.name).map(|value| {
        if env_vars::is_secret(variable.name) { "(hidden)".into() } else { value.to_string_lossy().into_owned() }
    });
    Variable { name: variable.name, value, help: variable.help }
}

fn print(list: &List, with_help: bool) {
    let file_is = if list.path.exists() { "" } else { " (not there)" };
    output::fields(&[
        ("home", Some(format!("{} ({})", list.home.path.display(), list.home.origin))),
        ("file", Some(format!("{}{file_is}", list.path.display()))),
    ]);
    let row = |cells: [&str; 3], help: &str| {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.extend(with_help.then(|| help.to_owned()));
        row
    };
    output::print("");
    let mut rows = vec![row(["KEY", "VALUE", "FROM"], "WHAT FOR")];
    rows.extend(list.settings.iter().map(|setting| {
        let value = setting.lines().filter(|lines| !lines.is_empty()).map(|lines| lines.join(", "));
        // The whole path of the file stands above.
        let from = if matches!(setting.origin, Origin::File(_)) { "file".into() } else { setting.origin.to_string() };
        row([setting.key, value.as_deref().unwrap_or(setting.default), &from], setting.help)
    }));
    output::table(&rows);
    output::print("\nPlugin folders, in order of search");
    let dir = |dir: &Folder| vec![dir.path.display().to_string(), dir.origin.to_string()];
    output::table(&list.plugin_dirs.iter().map(dir).collect::<Vec<_>>());
    output::print("\nEnvironment");
    let variable = |variable: &Variable| {
        let mut row = vec![variable.name.to_owned(), variable.value.clone().unwrap_or_else(|| "-".into())];
        row.extend(with_help.then(|| variable.help.to_owned()));
        row
    };
    output::table(&list.environment.iter().map(variable).collect::<Vec<_>>());
}

fn get(key: &Key, config: &Config, common: &super::Common) -> anyhow::Result<()> {
    let setting = Setting::of(key, config);
    if common.json {
        return output::json(&setting);
    }
    match setting.lines() {
        Some(lines) => lines.iter().for_each(|line| output::print(&output::one_line(line))),
        None => output::say(&format!("`{}` is not set; its default: {}", key.name, key.default)),
    }
    Ok(())
}

fn set(key: &Key, value: &[String], common: &super::Common) -> anyhow::Result<()> {
    let path = file()?;
    edit::set(&path, key, value)?;
    output::say(&output::one_line(&format!("set `{}` in {}", key.name, path.display())));
    if key.name == "backend" && env_vars::value(env_vars::PAJAMAS_BACKEND).is_some() {
        output::say(&format!("note: {} is set and comes before the file", env_vars::PAJAMAS_BACKEND));
    }
    if let Ok(config) = Config::load(&common.flags()) {
        note_unknown(key, &value.join(" "), &config);
    }
    Ok(())
}

/// Says where no plugin has what was set. That is no error: its plugin may be installed later.
fn note_unknown(key: &Key, value: &str, config: &Config) {
    let unknown = match key.name {
        // No plugin is asked for that: a name is in its file.
        "backend" => {
            let usable = plugins::inventory(config).into_iter().filter(|plugin| plugin.manifest.is_some());
            let mut installed: Vec<String> = usable.map(|plugin| plugin.name()).collect();
            installed.dedup();
            let known = installed.iter().any(|name| name == value);
            (!known).then(|| Error::UnknownBackend { name: value.into(), installed })
        }
        "method" => pipeline::is_known(value, &plugins::survey(config)).err(),
        _ => None,
    };
    if let Some(unknown) = unknown {
        let hint = unknown.hint().map_or_else(String::new, |hint| format!("; {hint}"));
        output::say(&output::one_line(&format!("note: {unknown}{hint}")));
    }
}

fn unset(name: &str) -> anyhow::Result<()> {
    let path = file()?;
    if edit::unset(&path, name)? {
        output::say(&output::one_line(&format!("took `{name}` out of {}", path.display())));
        return Ok(());
    }
    let key = find(name)?;
    output::say(&format!("`{}` was not set", key.name));
    Ok(())
}

fn path(common: &super::Common) -> anyhow::Result<()> {
    let path = file()?;
    if common.json {
        return output::json(&serde_json::json!({ "path": path }));
    }
    output::print(&path.display().to_string());
    Ok(())
}
