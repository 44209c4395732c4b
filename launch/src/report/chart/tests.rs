use proptest::prelude::*;

use super::*;

fn chart(points: Vec<(u64, f64)>) -> Option<String> {
    let curve = Curve { name: "<loss> & co".into(), points, ..Curve::default() };
    let mark = Mark { step: 3, text: "rank 1 was \"killed\"".into() };
    let chart = Chart { title: "loss".into(), lines: vec![curve], marks: vec![mark] };
    chart.html().map(|html| html.to_string())
}

#[test]
fn a_line_without_a_number_is_no_chart() {
    assert_eq!(chart(vec![]), None);
    assert_eq!(chart(vec![(1, f64::NAN), (2, f64::INFINITY)]), None);
    assert!(chart(vec![(1, f64::NAN), (2, 1.0)]).unwrap().contains("<circle"), "one point is a dot");
}

#[test]
fn names_and_marks_are_text() {
    let svg = chart(vec![(1, 1.0), (2, 2.0)]).unwrap();
    assert!(svg.contains("&lt;loss&gt; &amp; co") && !svg.contains("<loss>"), "{svg}");
    assert!(svg.contains("<title>step 3: rank 1 was &quot;killed&quot;</title>"), "{svg}");
}

#[test]
fn numbers_at_an_axis_are_round() {
    assert_eq!(ticks((0.0, 1.0), 4), [0.0, 0.5, 1.0]);
    assert_eq!(ticks((0.83, 1.31), 4), [1.0, 1.2]);
    assert_eq!(ticks((1.0, 6022.0), 6), [2000.0, 4000.0, 6000.0]);
    assert_eq!(ticks((0.0, 1.2e-5), 4).into_iter().map(shown).collect::<Vec<_>>(), ["0", "5e-6", "1e-5"]);
}

#[test]
fn of_many_points_none_is_lost_to_the_eye() {
    let mut points: Vec<(u64, f64)> = (1..=6022).map(|step| (step, 1.0)).collect();
    points[4000].1 = 9.0;
    let svg = chart(points).unwrap();
    assert!(svg.len() < 60_000, "{} bytes", svg.len());
    let band = svg.split("class=\"band").nth(1).unwrap();
    // The one step at 9 reaches the top of the drawing.
    assert!(band.contains(",10.0 "), "{band}");
}

proptest! {
    #[test]
    fn everything_drawn_is_within_the_drawing(values in prop::collection::vec(-1e9..1e9_f64, 1..900)) {
        let points: Vec<(u64, f64)> = (1..).zip(values).collect();
        let svg = chart(points).unwrap();
        for points in svg.split(" points=\"").skip(1) {
            for point in points.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                prop_assert!((MARGIN[0] - 0.1..=SIZE.0 - MARGIN[2] + 0.1).contains(&x), "{x}");
                prop_assert!((MARGIN[1] - 0.1..=SIZE.1 - MARGIN[3] + 0.1).contains(&y), "{y}");
            }
        }
    }
}
