use super::*;

#[test]
fn words_are_words_wherever_they_stand() {
    let evil = "<script>alert('\"&')</script>";
    let row = vec![evil.to_owned(), evil.to_owned()];
    let dot = Dot { label: evil.to_owned(), value: 1.0, interval: None, is_ours: true };
    let parts = vec![
        Html::paragraph("", evil),
        Html::heading(evil),
        Html::table("", &[evil], &[(true, row)]),
        Html::dots(&[dot]),
    ];
    let page = page(evil, &[], &[Section { title: evil.to_owned(), parts }], &[]);
    assert_eq!(page.matches("<script").count(), 1, "the one that reads charts: {page}");
    assert_eq!(page.matches("&lt;script&gt;").count(), 10);
}

#[test]
fn pictures_are_in_the_page() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text, "RFC 4648, section 10");
    }
    let html = Html::picture(&[0xff; 3], "a \"page\"", &Html::text("beside")).0;
    assert!(html.contains("alt=\"a &quot;page&quot;\" src=\"data:image/png;base64,////\""), "{html}");
}

#[test]
fn numbers_stay_on_their_track() {
    let dot = Dot { label: "x".into(), value: 120.0, interval: Some([-5.0, 50.0]), is_ours: false };
    let html = Html::dots(&[dot]).0;
    assert!(html.contains("left:100.00%") && html.contains("left:0.00%;width:50.00%"), "{html}");
}
