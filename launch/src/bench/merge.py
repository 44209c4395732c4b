# PEFT's own merge of a base and an adapter: load, merge_and_unload, save_pretrained; prints its times and its peak of memory.
import json, resource, sys, time

start = time.perf_counter()
import peft, torch, transformers
from peft import PeftModel
from transformers import Gemma3ForConditionalGeneration

base, adapter, out, shard = sys.argv[1:5]
marks, cpu = [time.perf_counter()], time.process_time()
model = Gemma3ForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
marks.append(time.perf_counter())
model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
marks.append(time.perf_counter())
model.save_pretrained(out, max_shard_size=shard)
marks.append(time.perf_counter())
load, merge, save = (later - earlier for earlier, later in zip(marks, marks[1:]))
print(json.dumps({
    "packages": f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    "import_s": marks[0] - start, "load_s": load, "merge_s": merge, "save_s": save, "seconds": marks[-1] - marks[0], "cpu_seconds": time.process_time() - cpu,
    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
