//! How fast the storage is used: what stands under `[repository.traffic]`.
//!
//! A backup at noon must not take the office's line. Invariant: no limit is zero, which would be
//! a backup that never ends.

use std::num::{NonZeroU16, NonZeroU64};

use serde::Deserialize;

use crate::store::StoreOptions;

/// How many requests are under way at once.
const REQUESTS_MAX: NonZeroU16 = NonZeroU16::new(16).expect("16 is not zero");

/// Limits of traffic.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    requests_max: NonZeroU16,
    upload_mib_per_second: Option<NonZeroU64>,
    download_mib_per_second: Option<NonZeroU64>,
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            requests_max: REQUESTS_MAX,
            upload_mib_per_second: None,
            download_mib_per_second: None,
        }
    }
}

impl Traffic {
    /// `options` with these limits.
    pub fn limit(self, options: StoreOptions) -> StoreOptions {
        let bytes = |mib: NonZeroU64| mib.get().saturating_mul(1 << 20);
        StoreOptions {
            requests_max: usize::from(self.requests_max.get()),
            upload_max_bytes_per_second: self.upload_mib_per_second.map(bytes),
            download_max_bytes_per_second: self.download_mib_per_second.map(bytes),
            ..options
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_taken_over_and_zero_is_refused() {
        let read = |text: &str| toml::from_str::<Traffic>(text);
        let traffic = read("requests_max = 4\nupload_mib_per_second = 2").unwrap();
        let limited = traffic.limit(StoreOptions::default());
        assert_eq!(limited.requests_max, 4);
        assert_eq!(limited.upload_max_bytes_per_second, Some(2 << 20));
        assert_eq!(limited.download_max_bytes_per_second, None);
        let none = Traffic::default().limit(StoreOptions::default());
        assert_eq!(none.requests_max, StoreOptions::default().requests_max);
        for bad in [
            "requests_max = 0",
            "upload_mib_per_second = 0",
            "upload = 1",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
