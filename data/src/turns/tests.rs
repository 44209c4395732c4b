use serde_json::json;

fn of(cell: &Value, keep_image_marker: bool) -> Result<Vec<Message>, Fault> {
    messages(turns_of(cell)?, keep_image_marker)
}

use super::*;

fn check(cell: serde_json::Value, expected: std::result::Result<&[(Role, bool, &str)], Fault>) {
    let turn = |m: Message| {
        let page = m.parts.contains(&Part::Image);
        let Some(Part::Text(text)) = m.parts.last() else { panic!("a turn without words") };
        (m.role, page, text.clone())
    };
    let ours = of(&cell, false).map(|turns| turns.into_iter().map(turn).collect::<Vec<_>>());
    let expected =
        expected.map(|turns| turns.iter().map(|&(role, page, text)| (role, page, text.to_owned())).collect());
    assert_eq!(ours, expected, "{cell}");
}

const Q: (Role, bool, &str) = (Role::User, true, "What?");
const A: (Role, bool, &str) = (Role::Assistant, false, "That.");

fn turn(from: &str, value: &str) -> serde_json::Value {
    json!({ "from": from, "value": value })
}

#[test]
fn every_layout_gives_the_same_turns() {
    check(json!([turn("human", "<image>\nWhat?"), turn("gpt", "That.")]), Ok(&[Q, A]));
    check(json!([turn("user", "What?"), turn("model", " That.\n")]), Ok(&[Q, A]));
    check(json!({ "from": ["human", "gpt"], "value": ["What?\n<image>", "That."] }), Ok(&[Q, A]));
    check(json!([{ "question": "What?", "answer": "That." }]), Ok(&[Q, A]));
    check(json!([turn("human", "What?"), turn("gpt", "That.")]).to_string().into(), Ok(&[Q, A]));
    check(json!([{ "role": "user", "content": "What?" }, { "role": "assistant", "content": "That." }]), Ok(&[Q, A]));
    let parts = json!([{ "type": "image", "text": null }, { "type": "text", "text": "What?" }]);
    check(json!([{ "role": "user", "content": parts }, { "role": "assistant", "content": "That." }]), Ok(&[Q, A]));
    let list = json!([turn("human", "What?"), { "from": "gpt", "value": ["a", "b"] }]);
    check(list, Ok(&[Q, (Role::Assistant, false, "a, b")]));
}

#[test]
fn the_page_stands_in_the_first_question_and_nowhere_else() {
    let system = (Role::System, false, "Be brief.");
    let cell = json!([turn("system", "Be brief."), turn("human", "What?"), turn("gpt", "That.")]);
    check(cell, Ok(&[system, Q, A]));
    let cell =
        json!([turn("human", "What?"), turn("gpt", "That."), turn("human", "<image>And?"), turn("gpt", "This.")]);
    check(cell, Ok(&[Q, A, (Role::User, false, "And?"), (Role::Assistant, false, "This.")]));
    check(json!([turn("human", "<image>\n<image>\nWhat?"), turn("gpt", "That.<image>")]), Ok(&[Q, A]));
    check(json!([turn("human", "<image>"), turn("gpt", "That.")]), Ok(&[(Role::User, true, ""), A]));
}

#[test]
fn the_marker_stays_where_the_published_script_is_to_be_reproduced() {
    let cell = json!([turn("human", "<image>\nWhat?"), turn("gpt", "That.")]);
    let turns = of(&cell, true).unwrap();
    assert_eq!(turns[0].parts, [Part::Image, Part::Text("<image>\nWhat?".into())]);
}

#[test]
fn what_cannot_be_trained_on_is_a_fault() {
    check(json!(null), Err(Fault::NoTurns));
    check(json!([]), Err(Fault::NoTurns));
    check(json!([turn("human", "What?")]), Err(Fault::NoAnswer));
    check(json!([turn("system", "Be brief.")]), Err(Fault::NoAnswer));
    check(json!([turn("gpt", "That."), turn("human", "What?")]), Err(Fault::Order(0)));
    check(json!([turn("human", "What?"), turn("human", "What?"), turn("gpt", "That.")]), Err(Fault::Order(1)));
    check(json!([turn("human", "What?"), turn("gpt", "That."), turn("gpt", "This.")]), Err(Fault::Order(2)));
    check(json!([turn("human", "What?"), turn("system", "no"), turn("gpt", "That.")]), Err(Fault::Order(1)));
    check(json!([turn("human", "What?"), turn("gpt", " <image>\n")]), Err(Fault::EmptyAnswer(1)));
    check(json!([turn("human", "What?"), { "from": "gpt", "value": null }]), Err(Fault::EmptyAnswer(1)));
    check(json!([turn("human", "What?"), turn("narrator", "That.")]), Err(Fault::UnknownRole(1)));
    let long = "x".repeat(MAX_TEXT);
    let bytes = MAX_TEXT + "What?".len();
    check(json!([turn("human", "What?"), turn("gpt", &long)]), Err(Fault::TooLong { bytes, max: MAX_TEXT }));
    check(json!([{ "from": 7, "value": "What?" }]), Err(Fault::UnknownRole(0)));
}

#[test]
fn an_unknown_layout_is_a_fault() {
    for cell in [
        json!(7),
        json!("no json"),
        json!("\"text in text\""),
        json!([["human", "What?"]]),
        json!([{ "speaker": "human", "says": "What?" }]),
        json!({ "from": ["human", "gpt"], "value": ["What?"] }),
        json!({ "from": "human", "value": "What?" }),
        json!([{ "role": "user", "content": [{ "type": "video", "text": "What?" }] }]),
        json!([{ "role": "user", "content": 7 }]),
    ] {
        assert!(matches!(of(&cell, false), Err(Fault::Layout(_))), "{cell}");
    }
}
