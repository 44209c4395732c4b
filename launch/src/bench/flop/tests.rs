use super::*;

#[test]
fn the_count_is_that_of_pytorchs_side() {
    let model = ModelConfig::parse("cpu-mid.json".into(), include_str!("../cpu-mid.json")).unwrap();
    assert_eq!((useful(&model, 4, 256) / 1e8).round() / 10.0, 204.9);
}
