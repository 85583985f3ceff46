//! Rates: how often an address may do something, as buckets that fill again with time.
//!
//! Pure: time comes by argument. Invariant: however many addresses ask, no more than a fixed
//! number of buckets is kept; those that find no place share one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How many addresses are told apart.
const ADDRESSES_MAX: usize = 4096;
/// Whoever has a network of IPv6 has all of its lower half.
const IPV6_SHARED_BITS: u32 = 64;

struct Bucket {
    left: f64,
    at: Duration,
}

/// So many at once, and one more each time that an interval has passed.
pub struct Rate {
    most: f64,
    each: Duration,
    buckets: HashMap<IpAddr, Bucket>,
    shared: Bucket,
    /// When full buckets were last thrown away.
    swept_at: Option<Duration>,
}

impl Rate {
    /// `most` at once, then one each `each`.
    pub fn new(most: u32, each: Duration) -> Rate {
        let most = f64::from(most);
        Rate {
            most,
            each,
            buckets: HashMap::new(),
            shared: Bucket {
                left: most,
                at: Duration::ZERO,
            },
            swept_at: None,
        }
    }

    fn fill(most: f64, each: Duration, bucket: &mut Bucket, now: Duration) {
        let passed = now.saturating_sub(bucket.at).as_secs_f64() / each.as_secs_f64();
        bucket.left = (bucket.left + passed).min(most);
        bucket.at = now;
    }

    fn bucket(&mut self, address: IpAddr, now: Duration) -> &mut Bucket {
        let (most, each) = (self.most, self.each);
        let address = shared_address(address);
        let is_swept = self
            .swept_at
            .is_some_and(|at| now.saturating_sub(at) < self.each);
        if self.buckets.len() >= ADDRESSES_MAX && !is_swept {
            self.swept_at = Some(now);
            self.buckets.retain(|_, bucket| {
                Rate::fill(most, each, bucket, now);
                bucket.left < most
            });
        }
        let bucket = match self.buckets.len() >= ADDRESSES_MAX {
            true if !self.buckets.contains_key(&address) => &mut self.shared,
            _ => self.buckets.entry(address).or_insert(Bucket {
                left: most,
                at: now,
            }),
        };
        Rate::fill(most, each, bucket, now);
        bucket
    }

    /// Whether `address` has one left, which is not taken.
    pub fn has(&mut self, address: IpAddr, now: Duration) -> bool {
        self.bucket(address, now).left >= 1.0
    }

    /// Takes one of `address`; whether it had one.
    pub fn take(&mut self, address: IpAddr, now: Duration) -> bool {
        let bucket = self.bucket(address, now);
        let had = bucket.left >= 1.0;
        if had {
            bucket.left -= 1.0;
        }
        had
    }

    /// How long until there is one more, at most.
    pub fn each(&self) -> Duration {
        self.each
    }
}

fn shared_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(own) => {
            let bits = own.to_bits() >> IPV6_SHARED_BITS << IPV6_SHARED_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn address_has_so_many_at_once_and_then_one_each_interval() {
        let mut rate = Rate::new(3, seconds(10));
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let taken: Vec<bool> = (0..5).map(|_| rate.take(one, seconds(5))).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(rate.take(other, seconds(5)));
        assert!(!rate.has(one, seconds(14)) && rate.has(one, seconds(15)));
        assert!(rate.take(one, seconds(15)) && !rate.take(one, seconds(15)));
        // A clock that went back gives nothing.
        assert!(!rate.take(one, seconds(1)));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let mut rate = Rate::new(1, seconds(10));
        assert!(rate.take("fd00::1".parse().unwrap(), seconds(0)));
        assert!(!rate.take("fd00::2:1".parse().unwrap(), seconds(0)));
        assert!(rate.take("fd00:0:0:1::1".parse().unwrap(), seconds(0)));
    }

    #[test]
    fn flood_of_addresses_takes_bounded_memory() {
        let mut rate = Rate::new(1, seconds(10));
        let address = |at: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(at));
        let taken = (0..20_000).filter(|at| rate.take(address(*at), seconds(0)));
        assert_eq!(taken.count(), ADDRESSES_MAX + 1);
        assert!(rate.buckets.len() <= ADDRESSES_MAX);
        // Those that are full again make place.
        assert!(rate.take(address(1 << 30), seconds(60)));
        assert!(rate.buckets.len() <= ADDRESSES_MAX);
    }
}
