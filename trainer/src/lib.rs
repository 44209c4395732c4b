//! One rank: resume, then loop over the training step.
