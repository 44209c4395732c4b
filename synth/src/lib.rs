//! Synthetic ECGs for the demo and the tests: signals, pages, questions, a small tokenizer and a random base.
