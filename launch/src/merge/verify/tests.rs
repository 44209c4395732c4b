use super::*;

fn distances(merged: &[f32], base: &[f32], adapted: &[f32]) -> Result<String, Error> {
    judge(distance(merged, adapted, 2), distance(base, adapted, 2))
}

#[test]
fn a_merge_is_judged_by_how_far_the_base_is() {
    let adapted = [1.0, 2.0, 4.0, 3.0];
    let said = distances(&[1.0, 2.5, 4.0, 3.0], &[3.0, 2.0, 4.0, 3.0], &adapted).unwrap();
    for text in ["2.5e-1 from base + adapter", "largest 5.0e-1", "base alone 1.0e0", "100.0 %", "(base alone: 50.0 %)"]
    {
        assert!(said.contains(text), "{text:?} is not in: {said}");
    }
    assert!(distances(&adapted, &adapted, &adapted).is_ok(), "an adapter that changes nothing is merged exactly");
    let lost = distances(&[3.0, 2.0, 4.0, 3.0], &[3.0, 2.0, 4.0, 3.0], &adapted).unwrap_err();
    assert_eq!(lost.exit_code(), 4);
    assert!(lost.to_string().contains("rounding has taken"), "{lost}");
    assert!(distances(&[f32::NAN, 2.0, 4.0, 3.0], &adapted, &adapted).is_err());
}
