//! Imports between rooms go downwards only (ARCHITECTURE.md), whatever a manifest says today.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Which rooms each room may import, beside `storage`, which everybody may.
const EDGES: [(&str, &[&str]); 9] = [
    ("launch", &["trainer", "model", "data", "lora", "synth", "score", "remote"]),
    ("trainer", &["model", "data", "lora"]),
    ("model", &["lora"]),
    ("data", &[]),
    ("lora", &[]),
    ("synth", &[]),
    ("score", &[]),
    ("remote", &[]),
    ("storage", &[]),
];

#[test]
fn imports_go_downwards_only() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest])
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let room = package["name"].as_str().unwrap();
        let Some(below) = allowed.get(room) else {
            assert_eq!(room, "tests", "a room without a place in ARCHITECTURE.md");
            continue;
        };
        seen.insert(room);
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let ok = !allowed.contains_key(name) || name == "storage" || below.contains(&name);
            assert!(ok, "{room} must not import {name}");
        }
    }
    assert_eq!(seen.len(), EDGES.len(), "every room is there");
}
