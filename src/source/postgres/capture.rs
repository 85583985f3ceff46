//! The postgres engine: capture.
