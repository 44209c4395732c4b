//! A page made of sections: one file with everything in it, for light and dark, narrow and wide screens.
//! It knows nothing of what the sections say, loads nothing from anywhere, and lets no text act as markup.

use std::fmt::{self, Write as _};

/// Part of a page, safe to be written into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

/// A chapter of the page, with a link to it at the top.
#[derive(Debug)]
pub(super) struct Section {
    pub title: String,
    pub parts: Vec<Html>,
}

/// One line of a chart of numbers from 0 to 100.
#[derive(Debug)]
pub(super) struct Dot {
    pub label: String,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
    pub is_ours: bool,
}

const STYLE: &str = include_str!("page.css");
/// Reads values off charts.
const SCRIPT: &str = include_str!("chart.js");

impl Html {
    /// Words as words.
    pub(super) fn text(words: impl AsRef<str>) -> Self {
        let mut html = String::new();
        for c in words.as_ref().chars() {
            match c {
                '&' => html.push_str("&amp;"),
                '<' => html.push_str("&lt;"),
                '>' => html.push_str("&gt;"),
                '"' => html.push_str("&quot;"),
                '\'' => html.push_str("&#39;"),
                c => html.push(c),
            }
        }
        Self(html)
    }

    /// A paragraph of words; `class` is one of the style sheet's, or empty.
    pub(super) fn paragraph(class: &str, words: impl AsRef<str>) -> Self {
        Self(format!("<p class=\"{class}\">{}</p>\n", Self::text(words).0))
    }

    /// A heading within a section.
    pub(super) fn heading(words: impl AsRef<str>) -> Self {
        Self(format!("<h3>{}</h3>\n", Self::text(words).0))
    }

    /// A table that scrolls by itself where it is too wide; the first cell of a row names it, `is_ours` marks a row.
    pub(super) fn table(class: &str, head: &[&str], rows: &[(bool, Vec<String>)]) -> Self {
        let mut html = format!("<div class=\"scroll\" tabindex=\"0\"><table class=\"{class}\"><thead><tr>");
        for name in head {
            html.push_str(&format!("<th scope=\"col\">{}</th>", Self::text(name).0));
        }
        html.push_str("</tr></thead><tbody>\n");
        for (is_ours, cells) in rows {
            html.push_str(if *is_ours { "<tr class=\"ours\">" } else { "<tr>" });
            for (i, cell) in cells.iter().enumerate() {
                let cell = Self::text(cell).0;
                html.push_str(&if i == 0 {
                    format!("<th scope=\"row\">{cell}</th>")
                } else {
                    format!("<td>{cell}</td>")
                });
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
        Self(html)
    }

    /// What is markup already.
    pub(super) fn raw(html: String) -> Self {
        Self(html)
    }

    /// Text in lines as they are.
    pub(super) fn verbatim(text: &str) -> Self {
        Self(format!("<div class=\"scroll\" tabindex=\"0\"><pre>{}</pre></div>\n", Self::text(text).0))
    }

    /// What is unfolded by a click on its title.
    pub(super) fn details(title: &str, inner: &Self) -> Self {
        Self(format!("<details><summary>{}</summary>\n{}</details>\n", Self::text(title).0, inner.0))
    }

    /// A PNG, in the page itself, with something beside it.
    pub(super) fn picture(png: &[u8], alt: &str, beside: &Self) -> Self {
        let (alt, png) = (Self::text(alt).0, base64(png));
        Self(format!(
            "<div class=\"picture\"><img alt=\"{alt}\" src=\"data:image/png;base64,{png}\">\n{}</div>\n",
            beside.0
        ))
    }

    /// One after the other.
    pub(super) fn joined(parts: &[Self]) -> Self {
        Self(parts.iter().map(|part| part.0.as_str()).collect())
    }

    /// Numbers from 0 to 100 as dots, with intervals as lines.
    pub(super) fn dots(dots: &[Dot]) -> Self {
        let mut html = String::from("<div class=\"dots\">\n");
        for Dot { label, value, interval, is_ours } in dots {
            let class = if *is_ours { "ours" } else { "" };
            let at = |value: f64| value.clamp(0.0, 100.0);
            let line = interval.map_or_else(String::new, |[low, high]| {
                format!("<b style=\"left:{:.2}%;width:{:.2}%\"></b>", at(low), at(high) - at(low))
            });
            let label = Self::text(label).0;
            // A String takes whatever is written.
            let _ = writeln!(
                html,
                "<span class=\"{class}\">{label}</span><span class=\"track {class}\">{line}<i style=\"left:{:.2}%\"></i></span>\
                 <span class=\"value {class}\">{value:.1}</span>",
                at(*value)
            );
        }
        html.push_str("</div>\n");
        Self(html)
    }
}

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            text.push(if i <= three.len() { letter } else { '=' });
        }
    }
    text
}

/// The whole file.
pub(super) fn page(title: &str, introduction: &[Html], sections: &[Section], notes: &[Html]) -> String {
    let joined = |parts: &[Html]| Html::joined(parts).0;
    let (mut links, mut body) = (String::new(), String::new());
    for (i, section) in sections.iter().enumerate() {
        let name = Html::text(&section.title).0;
        links.push_str(&format!("<a href=\"#s{i}\">{name}</a>\n"));
        body.push_str(&format!("<section id=\"s{i}\"><h2>{name}</h2>\n{}</section>\n", joined(&section.parts)));
    }
    let title = Html::text(title).0;
    // What the browser may load: nothing but what is in the file, of scripts this one alone, and of pictures data.
    let nonce = blake3::hash(body.as_bytes()).to_hex();
    let policy = format!("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}'");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{}<nav>\n{links}</nav>\n{body}\
         <footer>\n{}</footer>\n</main>\n<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n",
        joined(introduction),
        joined(notes)
    )
}

#[cfg(test)]
mod tests;
