//! What can be wrong with a model folder.

use std::path::PathBuf;

/// A model folder or an input that cannot be computed exactly as the reference computes it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}; expected the config.json of a Gemma 3 image-text model", path = path.display())]
    ConfigFile { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}", path = path.display())]
    GenerationConfigFile { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}", path = path.display())]
    ConfigSyntax { path: PathBuf, source: serde_json::Error },
    #[error("{path}: {}; only models computed exactly as the reference does are accepted", problems.join("; "), path = path.display())]
    Unsupported { path: PathBuf, problems: Vec<String> },
    #[error("{n_soft} soft image tokens in the text, but {n_pages} pages of {per_page} tokens each")]
    SoftTokens { n_soft: usize, n_pages: usize, per_page: usize },
    #[error("the rows show the pages {shown:?} of {n_pages}; each of them must be shown, and no other")]
    Shown { n_pages: usize, shown: Vec<u32> },
    #[error("token id {id} is outside the vocabulary of {vocab_size}; the tokenizer does not belong to this model")]
    TokenId { id: u32, vocab_size: usize },
    #[error("a prompt without a token has no next one; the chat template wrote nothing")]
    EmptyPrompt,
    #[error("token {nth} of prompt {row} cannot be chosen: the logits are not finite; the weights may be damaged")]
    NotFinite { row: usize, nth: usize },
    #[error(transparent)]
    Lora(#[from] lora::Error),
}
