//! The mathematics of MedGemma: Gemma 3 decoder, SigLIP tower, forward and hand-written backward over a small set of operations.
