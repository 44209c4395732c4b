//! A small tokenizer of Gemma's parts that has one token for each word of the demo; other text goes through its bytes.
//! It never sees a row: its vocabulary is that of [`Question::ALL`], whatever is asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::questions::Question;

/// Ids of Gemma for the first four; all of these are special, and left out when an answer is read.
const SPECIAL: [&str; 7] = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"];
/// Runs of newlines and of spaces; these are text.
const RUNS: [&str; 7] = ["\n", "\n\n", "\n\n\n", "\n\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁"];
const IMAGE: [&str; 2] = ["<start_of_image>", "<end_of_image>"];
const SOFT_TOKEN: &str = "<image_soft_token>";
const TURN_WORDS: &str = "user model";
const SPACE: &str = "▁";

/// Vocabulary and merges; a token's id is its place.
pub(crate) struct Tokenizer {
    tokens: Vec<String>,
    merges: Vec<[String; 2]>,
}

impl Tokenizer {
    /// Learns one token for each word of the demo, and one for it with a space before.
    pub fn new() -> Self {
        let texts = || Question::ALL.iter().flat_map(|q| q.answers().iter().copied().chain([q.text(), TURN_WORDS]));
        let words: BTreeSet<&str> = texts()
            .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
            .filter(|word| !word.is_empty())
            .collect();
        let mut merges = learn_merges(&words);
        merges.extend(words.iter().map(|word| [SPACE.to_owned(), (*word).to_owned()]));

        let letters: BTreeSet<char> = texts().flat_map(str::chars).filter(|&c| c != ' ').collect();
        let mut tokens: Vec<String> = SPECIAL.iter().chain(&RUNS).map(|&token| token.to_owned()).collect();
        tokens.extend((0..=255_u8).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(letters.into_iter().map(String::from).chain([SPACE.to_owned()]));
        for merged in merges.iter().map(|pair| pair.concat()) {
            if !tokens.contains(&merged) {
                tokens.push(merged);
            }
        }
        tokens.extend(IMAGE.iter().chain([&SOFT_TOKEN]).map(|&token| token.to_owned()));
        Self { tokens, merges }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Id of one of the special tokens of this file.
    pub fn id(&self, token: &str) -> usize {
        self.tokens.iter().position(|known| known == token).expect("every special token is in the vocabulary")
    }

    /// The file `tokenizer.json`. The soft token is added past the vocabulary of the BPE, as in Gemma.
    pub fn json(&self) -> Value {
        let vocab: serde_json::Map<String, Value> =
            self.tokens[..self.len() - 1].iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        let added = SPECIAL.iter().chain(&RUNS).chain(&IMAGE).chain([&SOFT_TOKEN]).map(|token| {
            json!({"id": self.id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": !RUNS.contains(token)})
        });
        let sequence = |id: &str, type_id: u8| json!({"Sequence": {"id": id, "type_id": type_id}});
        let bos = |type_id: u8| json!({"SpecialToken": {"id": "<bos>", "type_id": type_id}});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": {
                "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos(0), sequence("A", 0)],
                "pair": [bos(0), sequence("A", 0), bos(1), sequence("B", 1)],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [self.id("<bos>")], "tokens": ["<bos>"]}},
            },
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ]},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": self.merges,
            },
        })
    }
}

/// The file `tokenizer_config.json`, in the hub's spelling.
pub(crate) fn config() -> Value {
    let image = json!({"boi_token": IMAGE[0], "eoi_token": IMAGE[1], "image_token": SOFT_TOKEN});
    json!({
        "add_bos_token": true, "add_eos_token": false,
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
        "boi_token": IMAGE[0], "eoi_token": IMAGE[1], "image_token": SOFT_TOKEN, "extra_special_tokens": image,
        "clean_up_tokenization_spaces": false, "spaces_between_special_tokens": false, "model_max_length": 4096,
        "processor_class": "Gemma3Processor", "tokenizer_class": "GemmaTokenizer",
    })
}

/// Byte pair encoding (Gage 1994; Sennrich et al. 2016) until every word is one token: the commonest pair first, among
/// equals the first of the alphabet. Encoding replays the merges in this order, so a word becomes its token again.
fn learn_merges(words: &BTreeSet<&str>) -> Vec<[String; 2]> {
    let mut split: Vec<Vec<String>> = words.iter().map(|word| word.chars().map(String::from).collect()).collect();
    let mut merges = Vec::new();
    loop {
        let mut counts: BTreeMap<[&String; 2], usize> = BTreeMap::new();
        for pair in split.iter().flat_map(|pieces| pieces.windows(2)) {
            *counts.entry([&pair[0], &pair[1]]).or_default() += 1;
        }
        let commonest = counts.into_iter().rev().max_by_key(|&(_, count)| count);
        let Some((pair, _)) = commonest else { return merges };
        let pair = pair.map(String::clone);
        split.iter_mut().for_each(|pieces| merge(pieces, &pair));
        merges.push(pair);
    }
}

/// Joins the pair wherever it stands, from left to right.
fn merge(pieces: &mut Vec<String>, pair: &[String; 2]) {
    let mut i = 0;
    while i + 1 < pieces.len() {
        if pieces[i..i + 2] == *pair {
            let second = pieces.remove(i + 1);
            pieces[i].push_str(&second);
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests;
