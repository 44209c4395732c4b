//! Rendered chat text to token ids, with the control tokens of the template told apart from the same letters in a row.
//! It never lets words of a row become a control token: such words are escaped before rendering and encoded as words.

use std::collections::BTreeSet;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{AddedToken, Tokenizer};

use crate::{Error, Fault, Result};

/// A Unicode noncharacter; put behind the first letter of whatever could be a control token in a row's words.
pub(crate) const ESCAPE: char = '\u{fdd0}';

/// `str.strip()` of Python, which also takes the four separators 0x1c-0x1f for white space.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// A piece of rendered text.
pub(crate) enum Piece<'a> {
    /// A control token that the template wrote.
    Control(u32),
    /// Everything between two of them, still escaped.
    Words(&'a str),
}

/// The tokenizer of a model folder.
pub(crate) struct Text {
    /// Encodes control tokens as the letters they are written with: it is only given words.
    tokenizer: Tokenizer,
    control: AhoCorasick,
    /// The id of each pattern of `control`.
    ids: Vec<u32>,
    initials: BTreeSet<char>,
}

impl Text {
    /// Reads `tokenizer.json`; its special tokens are the control tokens.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::Model { file: file.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_file(file).map_err(|e| wrong(e.to_string()))?;
        tokenizer.set_encode_special_tokens(true);
        let special: Vec<(u32, AddedToken)> =
            tokenizer.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).collect();
        if let Some((_, odd)) =
            special.iter().find(|(_, t)| t.lstrip || t.rstrip || t.single_word || t.content.is_empty())
        {
            return Err(wrong(format!(
                "special token {:?} takes white space with it, which is not supported",
                odd.content
            )));
        }
        let control = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(special.iter().map(|(_, token)| &token.content))
            .map_err(|e| wrong(e.to_string()))?;
        let initials = special.iter().filter_map(|(_, token)| token.content.chars().next()).collect();
        Ok(Self { tokenizer, control, ids: special.into_iter().map(|(id, _)| id).collect(), initials })
    }

    /// The highest id and one.
    pub(crate) fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id of a control token.
    pub(crate) fn control_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token).filter(|id| self.ids.contains(id))
    }

    /// The letters of a control token.
    pub(crate) fn control_text(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id).filter(|_| self.ids.contains(&id))
    }

    /// Words of a row in a form in which no control token can be found, not even across two parts.
    pub(crate) fn escape(&self, words: &str) -> String {
        let breaks = |c: char| (c == ESCAPE || self.initials.contains(&c)).then_some(ESCAPE);
        words.chars().flat_map(|c| [Some(c), breaks(c)]).flatten().collect()
    }

    pub(crate) fn unescape(&self, words: &str) -> String {
        let (mut out, mut chars) = (String::with_capacity(words.len()), words.chars().peekable());
        while let Some(c) = chars.next() {
            out.push(c);
            if c == ESCAPE || self.initials.contains(&c) {
                chars.next_if_eq(&ESCAPE);
            }
        }
        out
    }

    /// Cuts rendered text at the template's control tokens.
    pub(crate) fn pieces<'a>(&'a self, rendered: &'a str) -> impl Iterator<Item = Piece<'a>> {
        let mut at = 0;
        let mut cut = move |start: usize, end: usize| {
            let words = &rendered[at..start];
            at = end;
            (!words.is_empty()).then_some(Piece::Words(words))
        };
        let controls = self.control.find_iter(rendered).map(|m| (m.start(), m.end(), Some(self.ids[m.pattern()])));
        controls
            .chain([(rendered.len(), rendered.len(), None)])
            .flat_map(move |(start, end, id)| [cut(start, end), id.map(Piece::Control)].into_iter().flatten())
    }

    /// Token ids of escaped words, each with the byte at which it starts.
    pub(crate) fn encode(&self, words: &str) -> std::result::Result<Vec<(u32, usize)>, Fault> {
        let encoding =
            self.tokenizer.encode(self.unescape(words), false).map_err(|e| Fault::Tokenizer(e.to_string()))?;
        let tokens: Vec<_> =
            encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().map(|o| o.0)).collect();
        match tokens.iter().find(|(id, _)| self.ids.contains(id)) {
            Some((id, _)) => Err(Fault::Control(*id)),
            None => Ok(tokens),
        }
    }

    /// Text of token ids, control tokens as they are written.
    pub(crate) fn spell(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }

    /// Text of token ids, without control tokens.
    pub(crate) fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }
}
