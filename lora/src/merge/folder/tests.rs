use super::*;

#[test]
fn only_the_dtype_of_a_config_changes() {
    for (text, expected) in [
        (r#"{"torch_dtype": "float32", "x": "dtype"}"#, r#"{"torch_dtype": "bfloat16", "x": "dtype"}"#),
        ("{\"dtype\" :\n\t\"float16\",\"a\":1e-6}", "{\"dtype\" :\n\t\"bfloat16\",\"a\":1e-6}"),
        (
            r#"{"text_config":{"dtype":"float32"},"dtype":"float32"}"#,
            r#"{"text_config":{"dtype":"bfloat16"},"dtype":"bfloat16"}"#,
        ),
        (r#"{"dtype": null, "torch_dtype": 1}"#, r#"{"dtype": null, "torch_dtype": 1}"#),
        (r#"{"my_dtype": "float32", "rope": {"é": "dtype"}}"#, r#"{"my_dtype": "float32", "rope": {"é": "dtype"}}"#),
        (r#"{"dtype": "#, r#"{"dtype": "#),
    ] {
        assert_eq!(with_dtype(text.to_owned(), "bfloat16"), expected);
    }
}

#[test]
fn what_is_of_the_base_alone_is_not_copied() {
    for name in [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "x.gguf",
        "adapter_config.json",
        "README.md",
    ] {
        assert!(is_of_the_base_alone(Path::new("base").join(name).as_path()), "{name}");
    }
    for name in ["config.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "LICENSE", ".gitattributes"]
    {
        assert!(!is_of_the_base_alone(Path::new("base").join(name).as_path()), "{name}");
    }
}
