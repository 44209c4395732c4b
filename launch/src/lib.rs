//! The program `ecg-train`: command line, supervisor, workers, demo.
