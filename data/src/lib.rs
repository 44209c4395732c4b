//! Rows in, batches out: parquet, pages, chat template, tokens, labels, order, loader.
