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
    assert!(!page.contains("<script"), "{page}");
    assert_eq!(page.matches("&lt;script&gt;").count(), 10);
}

#[test]
fn numbers_stay_on_their_track() {
    let dot = Dot { label: "x".into(), value: 120.0, interval: Some([-5.0, 50.0]), is_ours: false };
    let html = Html::dots(&[dot]).0;
    assert!(html.contains("left:100.00%") && html.contains("left:0.00%;width:50.00%"), "{html}");
}
