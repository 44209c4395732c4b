#!/usr/bin/env python3
"""A random new configuration through the oracle and through ecg-train: parity as a property, not as a list.

usage: compare.py --seed N [--keep DIR]

Makes a case folder as case_a and case_b were made (oracle.py), of sizes, layers, windows, rotary bases, heads, rank and pages
drawn from the seed, and runs the test `a_case_made_elsewhere_is_followed_as_well` on it: intermediates, losses, LoRA gradients,
all traces, merges, greedy tokens, and interop.py. Needs a Python with requirements.txt (environment.sh) and cargo.
"""
import argparse, json, os, random, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TOKENIZER = os.path.join(ROOT, "tests", "fixtures", "tokenizer")


def draw(seed):
    """A case as in oracle.CASES. Never drawn: what ecg-train refuses by name (odd head sizes, other rope types, ...), and a page of one patch."""
    r = random.Random(seed)
    layers, kv = r.randint(2, 8), r.randint(1, 3)
    heads = kv * r.randint(1, 3)  # the library wants hidden_size to be a multiple of them, although head_dim is free
    text = dict(vocab_size=r.randint(701, 800), hidden_size=heads * r.randint(36 // heads, 96 // heads), intermediate_size=r.randint(40, 160), num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=kv, head_dim=2 * r.randint(5, 16), query_pre_attn_scalar=r.randint(8, 40),
                sliding_window=r.randint(3, 24), max_position_embeddings=512, rms_norm_eps=r.choice([1e-6, 1e-5]), rope_theta=r.choice([1e4, 5e4, 1e6]),
                rope_local_base_freq=r.choice([1e3, 1e4]))
    if r.random() < 0.5:
        text["rope_scaling"] = {"factor": r.choice([2.0, 4.0, 8.0]), "rope_type": "linear"}
    if r.random() < 0.7:
        text["layer_types"] = [r.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]
    heads, side = r.randint(1, 5), r.randint(1, 4)
    vision = dict(hidden_size=heads * r.randint(5, 18), intermediate_size=r.randint(30, 120), num_hidden_layers=r.randint(1, 4), num_attention_heads=heads,
                  image_size=14 * max(2, side * r.randint(1, 3)), layer_norm_eps=r.choice([1e-6, 1e-5]))
    images = [1] + [r.randint(0, 2) for _ in range(r.randint(1, 3))]
    return dict(text=text, vision=vision, mm_tokens=side * side, lora=dict(r=r.randint(1, 9), lora_alpha=r.randint(1, 16)), batch_images=images,
                weight_decay=r.choice([0.0, 0.005, 0.05]), lr=r.choice([1e-3, 4e-3, 1e-2]), shard=r.choice(["300KB", "5MB"]))


def make(name, case, folder):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.dont_write_bytecode = True  # the checkout stays as it is
    import oracle  # slow: only once the arguments are known to be right
    oracle.CASES[name] = case
    oracle.main(name, TOKENIZER, folder)
    subprocess.run([sys.executable, f"{HERE}/model_folder.py", folder, TOKENIZER], check=True)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--seed", type=int, required=True, help="which configuration")
    args.add_argument("--keep", metavar="DIR", help="make the case folder here, and keep it")
    args = args.parse_args()
    case, name = draw(args.seed), f"seed_{args.seed}"
    print(f"{name}: {json.dumps(case)}", flush=True)
    scratch = tempfile.mkdtemp(prefix="ecg-train-compare-")
    try:
        folder = os.path.abspath(args.keep or os.path.join(scratch, name))
        make(name, case, folder)
        test = ["cargo", "test", "--workspace", "--test", "it", "--", "--nocapture", "a_case_made_elsewhere"]
        env = dict(os.environ, ECG_TRAIN_CASE_DIR=folder, ECG_TRAIN_PYTHON=sys.executable)
        ended = subprocess.run(test, cwd=ROOT, env=env).returncode
    finally:
        shutil.rmtree(scratch)
    print(f"{name}: {'ecg-train follows the reference' if ended == 0 else 'DIFFERENT; --keep DIR keeps the case'}")
    sys.exit(ended)


if __name__ == "__main__":
    main()
