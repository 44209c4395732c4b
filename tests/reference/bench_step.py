#!/usr/bin/env python3
"""ecg-train's training step beside PyTorch's (transformers + PEFT, fp32, sdpa), same shape, interleaved in one run: ratios.

usage: bench_step.py [--rounds N] [--program ecg-train] [--json OUT]

Each variant of each side runs in a process of its own: `bench_torch_cpu.py --one` and `ecg-train bench step`. A ratio compares
medians of steps of one round, and least times over all rounds. Needs a Python with requirements.txt (environment.sh).
"""
import argparse, json, os, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
VARIANTS = {"none": "fp32_sdpa_nogc", "block": "fp32_sdpa_gc"}


def torch(variant):
    out = subprocess.run([sys.executable, os.path.join(HERE, "bench_torch_cpu.py"), "--one", VARIANTS[variant]], check=True, capture_output=True, text=True).stdout
    r = json.loads(out.splitlines()[-1])
    return dict(ms=1e3 * r["wall_median"], least=1e3 * r["wall_min"], cpu=1e3 * r["cpu_median"], gflops=r["gflops_wall"], peak=r["peak_rss_mib"], above=r["peak_rss_mib"] - r["rss_before_steps_mib"])


def ours(program, variant):
    out = subprocess.run([program, "bench", "step", "--checkpointing", variant, "--threads", "2", "--json"], check=True, capture_output=True, text=True).stdout
    r = json.loads(out)[0]
    return dict(ms=r["wall_ms_median"], least=r["wall_ms_min"], cpu=r["cpu_ms_median"], gflops=r["gflop_per_second"], peak=r["peak_mib"], above=r["peak_above_start_mib"])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=2)
    ap.add_argument("--program", default="ecg-train")
    ap.add_argument("--json")
    a = ap.parse_args()
    rounds = [{v: dict(ours=ours(a.program, v), torch=torch(v)) for v in VARIANTS} for _ in range(a.rounds)]
    print(f"{'checkpointing':14}{'':8}{'ms':>8}{'least':>8}{'CPU ms':>8}{'GFLOP/s':>9}{'peak MiB':>10}{'above start':>12}")
    for variant in VARIANTS:
        for r in rounds:
            for side in ("ours", "torch"):
                f = r[variant][side]
                print(f"{variant:14}{side:8}{f['ms']:8.0f}{f['least']:8.0f}{f['cpu']:8.0f}{f['gflops']:9.1f}{f['peak']:10.0f}{f['above']:12.0f}")
            f = {k: r[variant]["ours"][k] / r[variant]["torch"][k] for k in r[variant]["ours"]}
            print(f"{variant:14}{'ratio':8}{f['ms']:8.2f}{f['least']:8.2f}{f['cpu']:8.2f}{f['gflops']:9.2f}{f['peak']:10.2f}{f['above']:12.2f}")
    if a.json:
        with open(a.json, "w") as f:
            json.dump(rounds, f, indent=1)


if __name__ == "__main__":
    main()
