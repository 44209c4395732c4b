"""What ecg-train wrote, loaded by the real transformers + PEFT; and an adapter that PEFT writes, for ecg-train to read.

usage: interop.py CASE_DIR WORK_DIR

CASE_DIR   base/, adapter_final/, forward.safetensors (the batch), train.safetensors (the pages), generate.json; made by oracle.py
WORK_DIR   adapter/                 adapter_final as ecg-train writes it
           merged_f32/ merged_bf16/ made from it by `ecg-train merge`
           logits.safetensors       [rows, seq, vocab] of ecg-train's engine: "adapter", "merged_f32"
           peft_adapter/            written here, by PEFT, under the newest generation of names
Ends with an AssertionError at the first difference; prints how near each number is.
"""
import json, sys
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Gemma3ForConditionalGeneration
from oracle import hub_adapter_key, inputs_of, load

LOGITS = 1e-4  # absolute; the library differs from itself by 9e-6 between adapter and merged weights (trace.json, notes), at a deviation of 2
WEIGHTS = 1e-6  # absolute, f32: another BLAS may sum B A in another order


def near(what, found, expected, tolerance):
    diff = float((found.float() - expected.float()).abs().max())
    print(f"  {what}: max difference {diff:.1e} (allowed {tolerance:.0e})")
    assert found.shape == expected.shape and diff <= tolerance, what


def adapted(base, adapter, dtype=torch.float32):
    """Base + adapter; every matrix in the model is the file's and every matrix in the file is in the model."""
    model = PeftModel.from_pretrained(load(base, dtype), adapter).eval()
    stored = load_file(f"{adapter}/adapter_model.safetensors")
    loaded = {hub_adapter_key(name.replace(".default.weight", ".weight")): p for name, p in model.named_parameters() if ".lora_" in name}
    assert loaded.keys() == stored.keys(), loaded.keys() ^ stored.keys()
    for key, value in stored.items():
        assert torch.equal(loaded[key], value), f"{key} was left at its initial value"
        assert value.abs().max() > 0, f"{key} is zero: this adapter tests nothing"
    return model


def merged(folder, dtype):
    """A merged folder, in the dtype that its own config.json names; it must fit the library's model key by key."""
    model, info = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype="auto", attn_implementation="eager", output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], (folder, problem, info[problem])
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr(), "the head is not tied"
    assert {p.dtype for p in model.parameters()} == {dtype}
    card = ModelCard.load(f"{folder}/README.md")
    assert card.data.library_name == "transformers" and "Not a medical device" in card.text
    return model.eval()


def logits(model, batch):
    with torch.no_grad():
        return model(**inputs_of(batch)).logits[batch["attention_mask"] == 1]


def answers(model, expected, pool):
    ids = torch.tensor(expected["input_ids_left_padded"])
    batch = dict(input_ids=ids, attention_mask=torch.tensor(expected["attention_mask"]), token_type_ids=(ids == model.config.image_token_id).long(),
                 pixel_values=pool[[i for row in expected["image_index"] for i in row]])
    length = len(expected["new_tokens"][0])
    return model.generate(**batch, max_new_tokens=length, do_sample=False, eos_token_id=-1)[:, ids.shape[1]:].tolist()


def main(case, work):
    batch, ours = load_file(f"{case}/forward.safetensors"), load_file(f"{work}/logits.safetensors")
    attended = {name: values[batch["attention_mask"] == 1] for name, values in ours.items()}
    base, adapter = f"{case}/base", f"{work}/adapter"

    model = adapted(base, adapter)
    with_adapter = logits(model, batch)
    with model.disable_adapter():
        effect = float((with_adapter - logits(model, batch)).abs().max())
    assert effect > 100 * LOGITS, "the adapter changes nothing"
    near(f"logits with our adapter (which changes them by {effect:.2f})", attended["adapter"], with_adapter, LOGITS)
    near("logits with PEFT's own adapter_final", logits(adapted(base, f"{case}/adapter_final"), batch), with_adapter, 0)
    model.save_pretrained(f"{work}/peft_adapter")
    names = sorted(load_file(f"{work}/peft_adapter/adapter_model.safetensors"))
    print(f"  PEFT writes {len(names)} matrices, the last is {names[-1]}")

    for name, dtype, tolerance in (("merged_f32", torch.float32, WEIGHTS), ("merged_bf16", torch.bfloat16, 0)):
        found, expected = merged(f"{work}/{name}", dtype), adapted(base, adapter, dtype).merge_and_unload()
        state = expected.state_dict()
        assert found.state_dict().keys() == state.keys()
        pairs = [(value.flatten(), state[key].flatten()) for key, value in found.state_dict().items()]
        near(f"{name}: weights and merge_and_unload", *map(torch.cat, zip(*pairs)), tolerance)
        if dtype == torch.float32:
            near(f"{name}: transformers' logits, merged and adapted", logits(found, batch), with_adapter, LOGITS)
            near(f"{name}: ecg-train's logits and transformers'", attended[name], with_adapter, LOGITS)
            greedy = json.load(open(f"{case}/generate.json"))["merged"]
            assert answers(found, greedy, load_file(f"{case}/train.safetensors")["pool.pixel_values"]) == greedy["new_tokens"]
            print(f"  {name}: {sum(map(len, greedy['new_tokens']))} greedy tokens are equal")


if __name__ == "__main__":
    main(*sys.argv[1:3])
