use super::*;
use crate::Layout;

/// The linears of google/medgemma-4b-it.
fn medgemma_4b() -> Vec<Module> {
    let shape = |tensor: &str| match tensor.rsplit('.').nth(1).unwrap_or_default() {
        "q_proj" if tensor.starts_with("language") => [2048, 2560],
        "k_proj" | "v_proj" if tensor.starts_with("language") => [1024, 2560],
        "o_proj" => [2560, 2048],
        "gate_proj" | "up_proj" => [10240, 2560],
        "down_proj" => [2560, 10240],
        "fc1" => [4304, 1152],
        "fc2" => [1152, 4304],
        _ => [1152, 1152],
    };
    let tensors: Vec<_> = names::all(34, 27).into_iter().map(|t| (shape(&t), t)).collect();
    all_linear(tensors.iter().map(|(shape, name)| (&**name, &shape[..])))
}

#[test]
fn all_linear_of_medgemma_is_400_modules_and_76_995_584_numbers_at_rank_32() {
    let modules = medgemma_4b();
    assert_eq!(modules.len(), 400);
    assert_eq!(Layout::new(modules.clone(), 32).len(), 76_995_584);
    assert_eq!(
        suffixes(&modules),
        ["down_proj", "fc1", "fc2", "gate_proj", "k_proj", "o_proj", "out_proj", "q_proj", "up_proj", "v_proj"]
    );
}

fn check_suffix(suffix: &str, n_modules: usize) {
    let selected = Targets::Suffixes(vec![suffix.to_owned()]).select(&medgemma_4b()).unwrap();
    assert_eq!(selected.len(), n_modules, "{suffix}");
}

#[test]
fn suffixes_match_as_in_peft() {
    check_suffix("q_proj", 34 + 27);
    check_suffix("o_proj", 34); // not out_proj: a suffix begins at a dot
    check_suffix("mlp.fc1", 27);
    check_suffix("layers.3.self_attn.k_proj", 2);
    check_suffix("encoder.layers.3.self_attn.k_proj", 1);
    check_suffix("language_model.model.layers.0.mlp.up_proj", 1);
    check_suffix("model.language_model.layers.0.mlp.up_proj", 1);
    check_suffix("model.vision_tower.encoder.layers.0.mlp.fc2", 1);
    check_suffix("model.vision_tower.vision_model.encoder.layers.0.mlp.fc2", 1);
    let two = Targets::Suffixes(vec!["q_proj".to_owned(), "self_attn.q_proj".to_owned()]);
    assert_eq!(two.select(&medgemma_4b()).unwrap().len(), 34 + 27, "a module is adapted once");
    assert_eq!(Targets::AllLinear.select(&medgemma_4b()).unwrap(), medgemma_4b());
}

#[test]
fn suffixes_that_match_nothing_are_named_together() {
    let targets = Targets::Suffixes(["q_proj", "lm_head", "proj"].map(str::to_owned).to_vec());
    let message = targets.select(&medgemma_4b()).unwrap_err().to_string();
    assert!(message.contains("lm_head, proj matches no linear") && message.contains("down_proj, fc1"), "{message}");
}

#[test]
fn a_layout_places_a_then_b_of_each_module() {
    let module = |name: &str, in_features, out_features| Module { name: name.to_owned(), in_features, out_features };
    let layout = Layout::new(vec![module("x", 5, 7), module("y", 2, 3)], 4);
    assert_eq!((layout.a(0), layout.b(0), layout.a(1), layout.b(1)), (0..20, 20..48, 48..56, 56..68));
    assert_eq!((layout.len(), layout.index("y"), layout.index("z")), (68, Some(1), None));
}
