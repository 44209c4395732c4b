//! From what a config or a command line names to what lies on this machine: folders and addresses stay, hub ids are downloaded.
//! Only whoever starts a run does this, before any worker: no worker ever sees the hub's token.

use std::path::{Path, PathBuf};

use remote::{HubId, Split};
use trainer::{Config, Places};

use crate::{Error, say, stores};

/// Finds everything `config` names, and pins in it what was found: a revision becomes its commit, so that ranks can agree
/// on it and a rerun means the same. `begun` is the config of the run so far, whose commits are kept.
///
/// # Errors
/// A base that is not here, or a repository that cannot be had.
pub fn find(mut config: Config, begun: Option<&Config>) -> Result<(Config, Places), Error> {
    let kept = |id: &HubId, known: Option<HubId>| known.filter(|known| same(known, id)).unwrap_or_else(|| id.clone());
    let mut places = Places::of(&config);
    if !places.model.is_dir() {
        let id = HubId::model(&config.model.path, config.model.revision.as_deref());
        let id = id.ok_or_else(|| Error::NoModel(config.model.path.clone()))?;
        let known = begun.and_then(|begun| HubId::model(&begun.model.path, begun.model.revision.as_deref()));
        let found = fetch(&kept(&id, known))?;
        config.model.path = id.name;
        config.model.revision = Some(found.commit);
        places.model = found.folder;
    }
    let known: Vec<HubId> = begun.map_or_else(Vec::new, |Config { data, .. }| {
        let eval = ids(data.eval.as_deref().unwrap_or_default(), Split::Eval);
        ids(&data.train, Split::Train).into_iter().chain(eval).collect()
    });
    let data = |names: &mut [String], split, places: &mut Vec<PathBuf>| -> Result<(), Error> {
        places.clear();
        for name in names {
            match HubId::dataset(name, split).filter(|_| !Path::new(name.as_str()).exists()) {
                None => {
                    stores::require(Path::new(name.as_str()))?;
                    places.push(name.as_str().into());
                }
                Some(id) => {
                    let found = fetch(&kept(&id, known.iter().find(|known| same(known, &id)).cloned()))?;
                    *name = id.at(&found.commit).to_string();
                    places.extend(found.files);
                }
            }
        }
        Ok(())
    };
    data(&mut config.data.train, Split::Train, &mut places.train)?;
    data(config.data.eval.as_deref_mut().unwrap_or_default(), Split::Eval, &mut places.eval)?;
    Ok((config, places))
}

/// Whether a run would have to ask the hub for the base, and for the rows.
pub fn remote(config: &Config) -> [bool; 2] {
    let model = &config.model;
    let base = !Path::new(&model.path).is_dir() && HubId::model(&model.path, model.revision.as_deref()).is_some();
    [base, config.data.train.iter().any(|name| is_hub_data(name))]
}

/// Whether an entry of `data.train` or `data.eval` is a hub id.
pub fn is_hub_data(name: &str) -> bool {
    !Path::new(name).exists() && HubId::dataset(name, Split::Train).is_some()
}

/// A folder of a model, or a hub id's.
///
/// # Errors
/// Neither, or a repository that cannot be had.
pub fn model(path: &Path) -> Result<PathBuf, Error> {
    let text = path.to_string_lossy();
    match HubId::model(&text, None).filter(|_| !path.exists()) {
        Some(id) => Ok(fetch(&id)?.folder),
        None => Ok(path.to_owned()),
    }
}

/// The rows of a benchmark's task where `data` is the benchmark's hub id: the parquet files of the folder of its name.
/// None where `data` is no hub id.
///
/// # Errors
/// A repository that cannot be had.
pub fn task_rows(data: &str, task: &str) -> Result<Option<Vec<PathBuf>>, Error> {
    match HubId::dataset(data, Split::Eval).filter(|_| !Path::new(data).exists()) {
        Some(id) => {
            let files = id.files.clone().unwrap_or_else(|| format!("{task}/*.parquet"));
            Ok(Some(fetch(&HubId { files: Some(files), ..id })?.files))
        }
        None => Ok(None),
    }
}

/// The folder of an adapter: itself, a run folder's newest good checkpoint, or a hub id's.
///
/// # Errors
/// None of them, or a repository that cannot be had.
pub fn adapter(path: &Path) -> Result<PathBuf, Error> {
    if path.is_dir() { adapter_folder(path) } else { model(path) }
}

/// As [`adapter`], of a folder.
///
/// # Errors
/// It has no adapter.
pub fn adapter_folder(path: &Path) -> Result<PathBuf, Error> {
    if path.join("adapter_config.json").exists() {
        return Ok(path.to_owned());
    }
    let (newest, damaged) = trainer::checkpoint::newest(path).map_err(trainer::Error::from)?;
    damaged.iter().for_each(|damaged| say(&damaged.to_string()));
    let checkpoint = newest.ok_or_else(|| Error::NoAdapter(path.to_owned()))?;
    say(&format!("adapter: {}", checkpoint.dir.display()));
    Ok(checkpoint.dir)
}

fn ids(names: &[String], split: Split) -> Vec<HubId> {
    names.iter().filter_map(|name| HubId::dataset(name, split)).collect()
}

/// Whether a run that began with `known` goes on with it when asked for `id`: a branch may have moved on, a run must not.
fn same(known: &HubId, id: &HubId) -> bool {
    let is_commit = id.revision.len() == 40 && id.revision.bytes().all(|b| b.is_ascii_hexdigit());
    (known.kind, &known.name, &known.files) == (id.kind, &id.name, &id.files) && !is_commit
}

/// A repository as files of this machine.
struct Found {
    commit: String,
    folder: PathBuf,
    files: Vec<PathBuf>,
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &HubId) -> Result<Found, Error> {
    Err(Error::NoHub(id.clone()))
}

#[cfg(feature = "hub")]
fn fetch(id: &HubId) -> Result<Found, Error> {
    use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

    let settings = remote::hub::Settings::from_variables(&|name| std::env::var_os(name));
    let hub = remote::hub::Hub::new(settings)?;
    let wanted = hub.look_up(id)?;
    let (all, missing) = (DecimalBytes(wanted.bytes()), wanted.missing_bytes);
    if let Some(reason) = &wanted.offline {
        say(&format!("{}: from the cache, at commit {} ({reason})", id.name, wanted.commit));
    } else {
        let to_come = if missing > 0 { format!(", {} to download", DecimalBytes(missing)) } else { String::new() };
        say(&format!("{}: {} files, {all}{to_come}, at commit {}", id.name, wanted.n_files(), wanted.commit));
    }
    let style = ProgressStyle::with_template("{bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    let bar = ProgressBar::new(missing).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let fetched = wanted.fetch(&|bytes| match u64::try_from(bytes) {
        Ok(bytes) => bar.inc(bytes),
        Err(_) => bar.set_position(bar.position().saturating_sub(bytes.unsigned_abs())),
    });
    bar.finish_and_clear();
    let (folder, files) = fetched?;
    Ok(Found { commit: wanted.commit, folder, files })
}

#[cfg(test)]
mod tests;
