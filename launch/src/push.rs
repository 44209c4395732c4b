//! `ecg-train push`: an adapter or a model of this machine into a repository of the hub.
//! It never sends what belongs to a run and not to its model, unless asked; the protocol is `remote`'s.

use std::path::{Path, PathBuf};

use remote::HubId;
#[cfg(feature = "hub")]
use remote::hub::LocalFile;

use crate::cli::PushArgs;
use crate::{Error, places};

/// The files of a PEFT adapter, and the base it belongs to, which a merge compares.
const ADAPTER: [&str; 4] = ["adapter_config.json", "adapter_model.safetensors", "base_hashes.json", "README.md"];
/// Endings of a model's files.
const MODEL: [&str; 6] = ["safetensors", "json", "jinja", "model", "txt", "md"];
/// What a checkpoint and a run keep for themselves.
const OF_A_RUN: [&str; 3] = ["optimizer.safetensors", "trainer_state.json", "manifest.json"];

/// Shows what would be sent, or sends it.
///
/// # Errors
/// A folder that is no model, or a hub that does not take it.
#[cfg(feature = "hub")]
pub fn run(args: &PushArgs) -> Result<(), Error> {
    use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
    use remote::hub::{Hub, PushOptions, Settings};

    use crate::{print, say};

    let id = repository(args)?;
    let folder = folder(&args.dir)?;
    let files = files(&folder, args.all)?;
    let hashed = |name: &String| LocalFile::read_hashes(&folder.join(name), name);
    let files = files.iter().map(hashed).collect::<Result<Vec<_>, _>>()?;
    warn_of_what_is_missing(&folder, &files);
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let what = format!("{} files, {}, for {} at {}", files.len(), DecimalBytes(bytes), id.name, id.revision);
    if args.dry_run {
        for LocalFile { name, size, sha256, .. } in &files {
            print(format!("{sha256}  {size:>12}  {name}\n").as_bytes());
        }
        say(&format!("{what}; nothing was sent"));
        return Ok(());
    }
    say(&what);
    let hub = Hub::new(Settings::from_variables(&|name| std::env::var_os(name)))?;
    let style = ProgressStyle::with_template("{bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let options = PushOptions { private: args.private, message: args.message.clone() };
    let pushed = hub.push(&id, &files, &options, &|n| match u64::try_from(n) {
        Ok(n) => bar.inc(n),
        Err(_) => bar.set_position(bar.position().saturating_sub(n.unsigned_abs())),
    });
    bar.finish_and_clear();
    let pushed = pushed?;
    if args.private && !pushed.created {
        say("the repository was there already; --private changes nothing about it");
    }
    let changed = match pushed.changed {
        0 => "everything was there already".to_owned(),
        n => format!("{n} files sent, all {} verified", files.len()),
    };
    say(&format!("{changed}: {} at commit {}", pushed.url, pushed.commit));
    Ok(())
}

/// This build does not speak to the hub.
#[cfg(not(feature = "hub"))]
pub fn run(args: &PushArgs) -> Result<(), Error> {
    let id = repository(args)?;
    files(&folder(&args.dir)?, args.all)?;
    Err(Error::NoHub(id))
}

fn repository(args: &PushArgs) -> Result<HubId, Error> {
    HubId::model(&args.repo, Some(&args.revision)).ok_or_else(|| Error::NoRepository(args.repo.clone()))
}

/// The folder whose files are meant: of a run, its newest good checkpoint.
fn folder(dir: &Path) -> Result<PathBuf, Error> {
    match dir.join("config.json").exists() {
        true => Ok(dir.to_owned()),
        false => places::adapter_folder(dir),
    }
}

/// Names of the files that belong to an adapter or a model, in order.
fn files(folder: &Path, all: bool) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder, "list"))?;
    let entries = entries.flatten().filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let is_adapter = names.iter().any(|name| name == ADAPTER[0]);
    let belongs = |name: &String| {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        match (all, is_adapter) {
            _ if name.starts_with('.') => false,
            (true, _) => true,
            (false, true) => ADAPTER.contains(&name.as_str()),
            (false, false) => MODEL.contains(&ending) && !OF_A_RUN.contains(&name.as_str()),
        }
    };
    names.retain(belongs);
    let has_weights = |name: &String| name.ends_with(".safetensors") && !OF_A_RUN.contains(&name.as_str());
    match names.iter().any(has_weights) {
        true => Ok(names),
        false => Err(Error::NothingToPush(folder.to_owned())),
    }
}

/// What a stranger would miss.
#[cfg(feature = "hub")]
fn warn_of_what_is_missing(folder: &Path, files: &[LocalFile]) {
    use crate::say;

    if !files.iter().any(|file| file.name == "README.md") {
        say("note: there is no README.md, so the repository will have no card");
    }
    let config = std::fs::read(folder.join(ADAPTER[0])).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let base = config["base_model_name_or_path"].as_str().unwrap_or_default();
    if Path::new(base).is_absolute() || base.starts_with('.') {
        say(&format!(
            "note: adapter_config.json names its base as {base}, a path of this machine; write the base's hub id there"
        ));
    }
}

#[cfg(test)]
mod tests;
