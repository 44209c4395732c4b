//! What a shell and `man` want to know of the command line, made from its definition. It never says more than `--help`.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{Cli, ManArgs};
use crate::{Error, print, say};

/// A completion script on stdout.
pub fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ecg-train", &mut script);
    print(&script);
}

/// The manual: `ecg-train.1` on stdout, or a page for each command in a folder.
///
/// # Errors
/// The folder cannot be made or written.
pub fn man(args: &ManArgs) -> Result<(), Error> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(dir) = &args.dir else {
        print(&page(command)?);
        return Ok(());
    };
    storage::create_dir(dir)?;
    let mut n_pages = 1;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("ecg-train-{}", command.get_name());
        write(dir, &name, command.clone())?;
        n_pages += 1;
    }
    write(dir, "ecg-train", command)?;
    say(&format!("{n_pages} pages in {0}; read one with `man -l {0}/ecg-train.1`", dir.display()));
    Ok(())
}

fn write(dir: &Path, name: &str, command: Command) -> Result<(), Error> {
    Ok(storage::publish_file(&dir.join(format!("{name}.1")), &page(command)?)?)
}

fn page(command: Command) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    Man::new(command).render(&mut bytes).map_err(Error::file(Path::new("ecg-train.1"), "render"))?;
    Ok(bytes)
}
