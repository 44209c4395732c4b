"""A conversation answered by the real transformers + PEFT: chat template, image processor, greedy tokens.

usage: generate.py BASE ADAPTER MESSAGES.json MAX_NEW_TOKENS

Prints {"prompt_tokens", "new_tokens", "answer"} as JSON.
"""
import json, sys
import torch
from PIL import Image
from peft import PeftModel
from oracle import load
from tokenizer_oracle import build_processor, load_tokenizer

base, adapter, messages, max_new_tokens = sys.argv[1:]
messages = json.load(open(messages))
model = PeftModel.from_pretrained(load(base, torch.float32), adapter).eval()
config = model.config
processor = build_processor(load_tokenizer(base), config.vision_config.image_size, config.mm_tokens_per_image)

pages = [Image.open(part["image"]).convert("RGB") for message in messages for part in message["content"] if part["type"] == "image"]
text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
inputs = processor(text=text, images=pages or None, add_special_tokens=False, return_tensors="pt")
n = inputs["input_ids"].shape[1]
with torch.no_grad():
    tokens = model.generate(**inputs, max_new_tokens=int(max_new_tokens), do_sample=False)[0, n:].tolist()
ends = model.generation_config.eos_token_id
ends = set(ends if isinstance(ends, list) else [ends])
answer = [token for i, token in enumerate(tokens) if not ends & set(tokens[: i + 1])]
json.dump({"prompt_tokens": n, "new_tokens": len(answer), "answer": processor.tokenizer.decode(answer, skip_special_tokens=True)}, sys.stdout)
