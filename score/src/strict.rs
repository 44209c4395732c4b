//! How an answer is read without the published script's traps: whole words, the stated answer, one letter or none.
//! It never takes a letter or label out of the middle of a word, and never guesses.

use crate::parity::bits;

/// What announces an answer; the second says that a letter follows, so that an `A` there is no article.
const MARKERS: [(&str, bool); 5] =
    [("answer:", false), ("answer is", false), ("option is", true), ("option", true), ("answer", false)];

/// Labels of an answer as bits, in the order of `space`: those that stand as words of their own behind the last `Answer:`,
/// or anywhere where nothing is announced so.
pub(crate) fn labels(space: &[&str], text: &str) -> u32 {
    let begin = find_all(text, "answer:").last().unwrap_or(0);
    let words: Vec<&str> = words(&text[begin..]).collect();
    bits(space, |label| words.contains(&label))
}

/// The one letter that an answer gives: announced (`Answer: B`, `the correct option is (B)`), else the only one that is
/// written as a letter of an option (`B.`, `(B)`, `B`). Two of them are none.
pub(crate) fn letter(letters: &[char], text: &str) -> Option<char> {
    let mut announced: Vec<(usize, bool)> = Vec::new();
    for (marker, is_letter) in MARKERS {
        announced.extend(find_all(text, marker).map(|end| (end, is_letter)));
    }
    announced.sort_unstable();
    let announced = announced.iter().rev().find_map(|&(end, is_letter)| first_letter(letters, &text[end..], is_letter));
    announced.or_else(|| {
        let mut found = written_letters(letters, text);
        found.sort_unstable();
        found.dedup();
        if let [only] = found[..] { Some(only) } else { None }
    })
}

/// The options of an answer, longest first: what one option has taken is not looked at for a shorter one (`lead I` is
/// not in `lead II`, nor `sinus rhythm` in `no sinus rhythm` where both are options).
pub(crate) fn options<'a>(options: &[&'a str], text: &str) -> Vec<&'a str> {
    let mut text = text.to_lowercase();
    let mut longest_first: Vec<&str> = options.iter().copied().filter(|option| !option.is_empty()).collect();
    longest_first.sort_by_key(|option| std::cmp::Reverse(option.len()));
    let mut found = Vec::new();
    for option in longest_first {
        let small = option.to_lowercase();
        let whole = |at: usize| {
            let before = text[..at].chars().next_back();
            let after = text[at + small.len()..].chars().next();
            ![before, after].into_iter().flatten().any(char::is_alphanumeric)
        };
        let places: Vec<usize> = text.match_indices(&small).map(|(at, _)| at).filter(|&at| whole(at)).collect();
        if !places.is_empty() {
            found.push(option);
        }
        for at in places {
            text.replace_range(at..at + small.len(), &"\u{1}".repeat(small.len()));
        }
    }
    found
}

/// Words: letters, digits and the hyphens between them, so that `non-AF` is not `AF` and `I-AVB` is one word.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '-').map(|word| word.trim_matches('-'))
}

/// A letter that the text begins with, if it is no article, no part of a word, and not one of two (`A and B`).
fn first_letter(letters: &[char], text: &str, is_letter: bool) -> Option<char> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || "(*\"':[".contains(c));
    let letter = alone(letters, text)?;
    let rest = &text[letter.len_utf8()..];
    let words = rest.trim_start();
    // Only an article is followed by a word: "Answer: A normal ECG".
    let article = letter == 'A' && !is_letter && rest.len() > words.len() && !words.is_empty();
    let joined = ["and ", "or ", ",", "/", "&"].iter().find_map(|joint| words.strip_prefix(joint));
    let second = joined.and_then(|second| alone(letters, second.trim_start()));
    (!article && second.is_none()).then_some(letter)
}

/// The letter that is the text's first word.
fn alone(letters: &[char], text: &str) -> Option<char> {
    let mut chars = text.chars();
    let letter = chars.next().filter(|letter| letters.contains(letter))?;
    chars.next().is_none_or(|next| !next.is_alphanumeric() && next != '-').then_some(letter)
}

/// Letters that stand alone and are written as an option's: in brackets, before `.`, `)` or `:`, or as a whole line.
fn written_letters(letters: &[char], text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    for (i, &letter) in chars.iter().enumerate().filter(|(_, c)| letters.contains(c)) {
        let before = i.checked_sub(1).map(|i| chars[i]);
        let after = chars.get(i + 1).copied();
        let line_begins = before.is_none_or(|c| c == '\n');
        let line_ends = after.is_none_or(|c| c == '\n');
        let alone = !before.is_some_and(|c| c.is_alphanumeric() || c == '-');
        if alone && (after.is_some_and(|c| ".):".contains(c)) || (line_begins && line_ends)) {
            found.push(letter);
        }
    }
    found
}

/// Ends of every place of `marker`, whatever its capitals.
fn find_all<'a>(text: &'a str, marker: &'a str) -> impl Iterator<Item = usize> + 'a {
    let n = marker.len();
    (n..=text.len()).filter(move |&end| {
        text.is_char_boundary(end - n) && text.is_char_boundary(end) && text[end - n..end].eq_ignore_ascii_case(marker)
    })
}
