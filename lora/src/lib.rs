//! What is trained, as names and files: targets, PEFT adapters, tensor names, merge.
