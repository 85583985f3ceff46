//! The sample CRM, from a seed.
