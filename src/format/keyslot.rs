//! Format: keyslot.
