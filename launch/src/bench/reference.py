"""Times Pillow and transformers' Gemma 3 image processor on pages that come over stdin: `ecg-train bench data` runs it.

stdin: for each page its length (u64, little-endian) and bytes, then a length of 0; after that one page number a line.
stdout: names and versions; then for each number the CPU milliseconds of decoding to RGB and of the processor.
"""
import io, os, struct, sys, time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import PIL.Image
import transformers

size, stdin = int(sys.argv[1]), sys.stdin.buffer
pages = []
while n := struct.unpack("<Q", stdin.read(8))[0]:
    pages.append(stdin.read(n))
make = getattr(transformers, "Gemma3ImageProcessorPil", None) or transformers.Gemma3ImageProcessor
processor = make(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2, do_convert_rgb=True)
print(f"{make.__name__} of transformers {transformers.__version__}, Pillow {PIL.__version__}", flush=True)
for line in stdin:
    began = time.thread_time()
    image = PIL.Image.open(io.BytesIO(pages[int(line)])).convert("RGB")
    decoded = time.thread_time()
    processor(images=[image], return_tensors="np")
    print(f"{1e3 * (decoded - began):.3f} {1e3 * (time.thread_time() - decoded):.3f}", flush=True)
