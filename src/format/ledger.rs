//! Format: ledger.
