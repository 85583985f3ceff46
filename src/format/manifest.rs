//! Format: manifest.
