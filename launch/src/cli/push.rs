//! The options of `ecg-train push`.
//! It never acts: it only says what was asked for, and no option ever holds a token.

use std::path::PathBuf;

use clap::Args;

/// `ecg-train push`.
#[derive(Debug, Args)]
#[command(
    after_help = "The token comes from HF_TOKEN or `hf auth login`, never from the command line.\n\nExamples:\n  ecg-train push runs/x --repo you/medgemma-ecg-lora --dry-run\n  ecg-train push merged --repo you/medgemma-ecg --private --message \"Step 6022\""
)]
pub struct PushArgs {
    /// Folder of an adapter, of a merged model, or of a run, whose newest good checkpoint is taken
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The repository; it is made if it is not there
    #[arg(long, value_name = "OWNER/NAME")]
    pub repo: String,
    /// Its branch; it is made if it is not there
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub revision: String,
    /// A repository that is made now is private
    #[arg(long)]
    pub private: bool,
    /// First line of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload with ecg-train")]
    pub message: String,
    /// Every file of the folder, also optimizer state and what else a checkpoint keeps for its run
    #[arg(long)]
    pub all: bool,
    /// Show files, sizes and hashes; send nothing and ask nobody
    #[arg(long)]
    pub dry_run: bool,
}
