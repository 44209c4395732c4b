//! One test binary: every promise is a module.
