//! The folder of a run before its first step: which config it gets, and whether it may be used.
//! It never replaces the config of a run that has checkpoints.

use std::path::{Path, PathBuf};

use serde_json::json;
use trainer::{Config, Places, checkpoint};

use crate::cli::RunArgs;
use crate::{Error, places};

/// The config with the command line's replacements, checked, and where what it names lies; hub ids are downloaded.
///
/// # Errors
/// Every problem of the file, a base that is not here, or a repository that cannot be had.
pub fn load(config: &Path, args: &RunArgs) -> Result<(Config, Places), Error> {
    let config = read(config, args)?;
    let begun = match checkpoint::newest(&config.output_dir).map_err(trainer::Error::from)? {
        (Some(_), _) => Config::load(&config.output_dir.join("config.toml"), &[]).ok(),
        _ => None,
    };
    places::find(config, begun.as_ref())
}

/// The config with the command line's replacements, checked; nothing it names is looked at.
///
/// # Errors
/// Every problem of the file.
pub fn read(config: &Path, args: &RunArgs) -> Result<Config, Error> {
    let mut overrides = args.set.clone();
    if let Some(dir) = &args.output_dir {
        overrides.push(format!("output_dir={}", json!(dir.to_string_lossy()))); // A JSON string is a TOML string.
    }
    Ok(Config::load(config, &overrides).map_err(trainer::Error::from)?)
}

/// The step of the checkpoint that a run of `config` goes on from; none for a new run.
///
/// # Errors
/// The folder has checkpoints of another config, or has some and is not to.
pub fn accepts(config: &Config, from_scratch: bool) -> Result<Option<u64>, Error> {
    let (Some(checkpoint), _) = checkpoint::newest(&config.output_dir).map_err(trainer::Error::from)? else {
        return Ok(None);
    };
    checkpoint.require_fingerprint(&config.fingerprint()).map_err(trainer::Error::from)?;
    if from_scratch {
        return Err(trainer::Error::NotFromScratch(checkpoint.dir).into());
    }
    Ok(Some(checkpoint.state.step))
}

/// The config in the run folder, as run.
fn resolved(config: &Config) -> PathBuf {
    config.output_dir.join("config.toml")
}

/// Where node 0 writes the config before it meets this node. The folder may not be there yet.
///
/// # Errors
/// It cannot be made.
pub fn resolved_by_node_0(config: &Config) -> Result<PathBuf, Error> {
    let dir = &config.output_dir;
    storage::create_dir(dir)?;
    Ok(resolved(config))
}

/// Makes the run folder and writes the resolved config into it; returns where that is.
///
/// # Errors
/// The folder has checkpoints of another config, or has some and is not to; its config is then left as it is.
pub fn open(config: &Config, from_scratch: bool) -> Result<PathBuf, Error> {
    let dir = &config.output_dir;
    accepts(config, from_scratch)?;
    storage::create_dir(dir)?;
    let resolved = resolved(config);
    storage::publish_file(&resolved, config.to_toml().as_bytes())?;
    Ok(resolved)
}

#[cfg(test)]
mod tests;
