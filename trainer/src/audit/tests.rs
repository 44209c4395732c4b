use lora::Module;

use super::*;

fn layout() -> Layout {
    let module = |name: &str| Module { name: name.into(), in_features: 1, out_features: 1 };
    Layout::new(vec![module("vision_tower.x"), module("language_model.x")], 1) // Numbers: A, B, A, B.
}

fn dead(params: [f32; 4], grads: [f32; 4], pages: bool) -> Vec<String> {
    match Audit::new().check(1, &layout(), &params, &grads, pages) {
        Err(Error::DeadAdapters { modules, .. }) => modules,
        other => other.map(|()| Vec::new()).unwrap(),
    }
}

#[test]
fn at_the_start_every_b_must_have_a_gradient() {
    assert!(dead([1.0, 0.0, 1.0, 0.0], [0.0, 0.5, 0.0, 0.5], true).is_empty());
    assert_eq!(dead([1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5], true), ["vision_tower.x.lora_B"]);
    assert_eq!(dead([1.0, 0.0, 1.0, 0.0], [0.0, f32::NAN, 0.0, 0.5], true), ["vision_tower.x.lora_B"]);
}

#[test]
fn once_b_has_moved_every_a_must_have_one_too() {
    assert!(dead([1.0, 2.0, 1.0, 2.0], [0.1, 0.5, 0.1, 0.5], true).is_empty());
    assert_eq!(dead([1.0, 2.0, 1.0, 2.0], [0.1, 0.5, 0.0, 0.5], true), ["language_model.x.lora_A"]);
}

#[test]
fn a_step_without_pages_says_nothing_about_the_tower() {
    assert!(dead([1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5], false).is_empty());
}

#[test]
fn the_audit_ends_when_every_adapter_was_seen_to_train() {
    let mut audit = Audit::new();
    let silent = [0.0; 4];
    audit.check(1, &layout(), &[1.0, 0.0, 1.0, 0.0], &[0.0, 0.5, 0.0, 0.5], true).unwrap();
    assert!(audit.check(2, &layout(), &[1.0, 0.1, 1.0, 0.1], &silent, true).is_err(), "A was not seen yet");
    audit.check(2, &layout(), &[1.0, 0.1, 1.0, 0.1], &[0.1; 4], true).unwrap();
    audit.check(3, &layout(), &[1.0, 0.1, 1.0, 0.1], &silent, true).unwrap();
}
