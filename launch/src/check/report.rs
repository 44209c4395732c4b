//! The findings as a page of at most 80 columns, or as JSON. It decides nothing.

use serde_json::{Value, json};

use super::Finding;

/// Columns of the page.
const WIDTH: usize = 80;
/// Where the text of a finding begins.
const INDENT: usize = 20;

type Found<'a> = [(&'a str, Vec<Finding>)];

/// Sections on the left, how each finding stands beside it, the text wrapped on the right.
pub(super) fn text(found: &Found) -> String {
    let mut page = String::new();
    for (section, findings) in found {
        let mut section = *section;
        for finding in findings {
            let place = finding.place.iter().map(|place| format!("{place}: ")).collect::<String>();
            let next = finding.next.iter().map(|next| format!("\n-> {next}")).collect::<String>();
            let lines = wrapped(&format!("{place}{}{next}", finding.what), WIDTH - INDENT);
            let mut head = format!("{section:<11} {:<8}", finding.name());
            for line in lines {
                page.push_str(format!("{head}{line}").trim_end());
                page.push('\n');
                head = " ".repeat(INDENT);
            }
            section = "";
        }
    }
    page
}

/// Lines of at most `width` characters, broken between words; what is short enough stays as it is.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        while rest.chars().count() > width {
            let limit = rest.char_indices().nth(width + 1).map_or(rest.len(), |(at, _)| at);
            let at = rest[..limit].rfind(' ').filter(|&at| !rest[..at].trim().is_empty()).or_else(|| rest.find(' '));
            let Some(at) = at.filter(|&at| at > 0) else { break }; // One long word, such as a path, stays whole.
            lines.push(rest[..at].to_owned());
            rest = &rest[at + 1..];
        }
        lines.push(rest.to_owned());
    }
    lines
}

/// `{"ok", "sections": [{"name", "findings": [{"level", "what", "where", "next"}]}]}`.
pub(super) fn json(found: &Found) -> String {
    let finding = |f: &Finding| json!({ "level": f.name(), "exit_code": f.exit_code(), "what": f.what, "where": f.place, "next": f.next });
    let sections: Vec<Value> = found
        .iter()
        .map(|(name, findings)| json!({ "name": name, "findings": findings.iter().map(finding).collect::<Vec<_>>() }))
        .collect();
    let ok = found.iter().flat_map(|(_, findings)| findings).all(|f| f.exit_code().is_none());
    format!("{:#}\n", json!({ "ok": ok, "sections": sections }))
}

#[cfg(test)]
mod tests;
