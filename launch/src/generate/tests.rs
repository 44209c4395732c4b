use data::Part;

use super::conversation::{Markers, parts};

#[test]
fn pages_stand_where_the_markers_are_or_before_the_text() {
    let words = |text: &str| Part::Text(text.to_owned());
    let check = |text, n, expected: &[Part]| assert_eq!(parts(text, n).unwrap(), expected, "{text}");
    check("What?", 0, &[words("What?")]);
    check("What?", 2, &[Part::Image, Part::Image, words("What?")]);
    check("<image>\nWhat?", 1, &[Part::Image, words("What?")]);
    check("First <image>, then <image>", 2, &[words("First"), Part::Image, words(", then"), Part::Image]);
    check("", 1, &[Part::Image, words("")]);
    assert_eq!(parts("<image><image>", 1), Err(Markers { found: 2, pages: 1 }));
    assert_eq!(parts("<image>", 0), Err(Markers { found: 1, pages: 0 }));
}
