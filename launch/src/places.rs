//! From what a config or a command line names to what lies on this machine: folders and addresses stay, hub ids are downloaded.
//! Only whoever starts a run does this, before any worker: no worker ever sees the hub's token.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::Pinned;
#[cfg(feature = "hub")]
use indicatif::DecimalBytes;
use remote::{HubId, Split};
use trainer::{Config, Places};

#[cfg(feature = "hub")]
use crate::counted;
use crate::{Error, say, stores};

/// Finds everything `config` names, and pins in it what was found: a revision becomes its commit, so that ranks can agree
/// on it and a rerun means the same. `begun` is the config of the run so far, whose commits are kept.
///
/// # Errors
/// A base that is not here, or a repository that cannot be had.
pub fn find(mut config: Config, begun: Option<&Config>) -> Result<(Config, Places), Error> {
    let mut places = Places::of(&config);
    places.model = base(&mut config, begun)?;
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
                    let found = fetch(&kept(id.clone(), known.iter().find(|known| same(known, &id)).cloned()))?;
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

/// Where the base of `config` lies, and its commit pinned there, as [`find`] does.
///
/// # Errors
/// As there.
pub fn base(config: &mut Config, begun: Option<&Config>) -> Result<PathBuf, Error> {
    let folder = Places::of(config).model;
    if folder.is_dir() {
        return Ok(folder);
    }
    let id = HubId::model(&config.model.path, config.model.revision.as_deref());
    let id = id.ok_or_else(|| Error::NoModel(config.model.path.clone()))?;
    let known = begun.and_then(|begun| HubId::model(&begun.model.path, begun.model.revision.as_deref()));
    let found = fetch(&kept(id.clone(), known))?;
    config.model.path = id.name;
    config.model.revision = Some(found.commit);
    Ok(found.folder)
}

fn kept(id: HubId, known: Option<HubId>) -> HubId {
    known.filter(|known| same(known, &id)).unwrap_or(id)
}

/// What `prepare` is to read.
pub struct ToPrepare {
    pub files: Vec<PathBuf>,
    /// Where the archives of the one file come from, if they are not beside it.
    pub archives: Option<Arc<dyn data::Fetch>>,
    pub pinned: Option<Pinned>,
}

/// The rows that paths and hub ids name, which may be JSON with archives if it is one id alone.
///
/// # Errors
/// A repository that cannot be had.
pub fn to_prepare(names: &[PathBuf]) -> Result<ToPrepare, Error> {
    let id = |name: &PathBuf| match name.exists() {
        true => None,
        false => HubId::dataset(name.to_str()?, Split::Train),
    };
    if let [only] = names
        && let Some(id) = id(only)
    {
        return fetch_rows(&id);
    }
    let mut files = Vec::new();
    for name in names {
        match id(name) {
            Some(id) => files.extend(fetch(&id)?.files),
            None => {
                stores::require(name)?;
                files.push(name.clone());
            }
        }
    }
    Ok(ToPrepare { files, archives: None, pinned: None })
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

#[cfg(not(feature = "hub"))]
fn fetch_rows(id: &HubId) -> Result<ToPrepare, Error> {
    Err(Error::NoHub(id.clone()))
}

#[cfg(feature = "hub")]
fn hub() -> Result<remote::hub::Hub, Error> {
    let settings = remote::hub::Settings::from_variables(&|name| std::env::var_os(name));
    Ok(remote::hub::Hub::new(settings)?)
}

#[cfg(feature = "hub")]
fn fetch(id: &HubId) -> Result<Found, Error> {
    download(id, &hub()?.look_up(id)?)
}

#[cfg(feature = "hub")]
fn fetch_rows(id: &HubId) -> Result<ToPrepare, Error> {
    use crate::archives::Archives;

    let wanted = hub()?.look_up_rows(id)?;
    let commit = wanted.commit.clone();
    let pinned = Some(Pinned { name: id.at(&commit).to_string(), revision: commit.clone() });
    if wanted.names().all(|name| name.ends_with(".parquet")) {
        return Ok(ToPrepare { files: download(id, &wanted)?.files, archives: None, pinned });
    }
    let from = wanted.offline.as_ref().map_or(String::new(), |reason| format!(", from the cache ({reason})"));
    let archives = Archives::new(wanted);
    say(&format!(
        "{}: JSON rows with {}, {} in all, at commit {commit}{from}; each is downloaded when its turn comes and removed when its rows are in finished shards, {} at a time",
        id.name,
        counted(data::Fetch::n_files(&archives), "archive"),
        DecimalBytes(archives.all_bytes()),
        DecimalBytes(archives.bytes_at_a_time()),
    ));
    Ok(ToPrepare { files: vec![archives.json()?], archives: Some(Arc::new(archives)), pinned })
}

#[cfg(feature = "hub")]
fn download(id: &HubId, wanted: &remote::hub::Wanted) -> Result<Found, Error> {
    use indicatif::{ProgressBar, ProgressStyle};

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
    Ok(Found { commit: wanted.commit.clone(), folder, files })
}

#[cfg(test)]
mod tests;
