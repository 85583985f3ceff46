//! Cryptography over bytes: no I/O, no format, no ambient randomness.

pub mod envelope;

pub mod key;

pub mod keyslot;

pub mod seal;

pub mod sign;
