//! Numbers in decimal digits, compared exactly, however long they are.
//!
//! Invariant: a number has one form here: no zeros before or after its digits, and no sign of zero.

use std::cmp::Ordering;

/// Exponents beyond this are no numbers that a server writes.
const EXPONENT_MAX: i64 = 100_000;

/// A number: 0.DIGITS × 10^exponent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decimal {
    /// NaN, which is equal to itself and above all, as in PostgreSQL.
    NotANumber,
    /// Above or below all numbers.
    Infinite {
        /// Below.
        negative: bool,
    },
    /// Any other number.
    Finite {
        /// Below zero.
        negative: bool,
        /// ASCII digits; empty for zero.
        digits: Vec<u8>,
        /// The power of ten.
        exponent: i64,
    },
}

impl Decimal {
    /// The number that `text` is; none where it is none.
    pub fn parse(text: &[u8]) -> Option<Decimal> {
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if let Some(special) = special(rest, negative) {
            return Some(special);
        }
        let mark = rest.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = match mark {
            None => (rest, 0),
            Some(at) => (
                &rest[..at],
                std::str::from_utf8(&rest[at + 1..]).ok()?.parse().ok()?,
            ),
        };
        if !(-EXPONENT_MAX..=EXPONENT_MAX).contains(&exponent) {
            return None;
        }
        let point = mantissa.iter().position(|byte| *byte == b'.');
        let (whole, fraction) = match point {
            None => (mantissa, &[][..]),
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        };
        let mut digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let zero = digits.is_empty();
        let exponent = whole.len() as i64 - zeros as i64 + exponent;
        Some(Decimal::Finite {
            negative: negative && !zero,
            digits,
            exponent: if zero { 0 } else { exponent },
        })
    }

    /// How it stands to `other`.
    pub fn compare(&self, other: &Decimal) -> Ordering {
        self.rank()
            .cmp(&other.rank())
            .then_with(|| match (self, other) {
                (
                    Decimal::Finite {
                        negative,
                        digits,
                        exponent,
                    },
                    Decimal::Finite {
                        digits: others,
                        exponent: other,
                        ..
                    },
                ) => {
                    let order = exponent.cmp(other).then_with(|| digits.cmp(others));
                    if *negative { order.reverse() } else { order }
                }
                _ => Ordering::Equal,
            })
    }

    /// Below, at or above zero, or beyond all numbers.
    fn rank(&self) -> i8 {
        match self {
            Decimal::NotANumber => 3,
            Decimal::Infinite { negative: true } => -2,
            Decimal::Infinite { negative: false } => 2,
            Decimal::Finite { digits, .. } if digits.is_empty() => 0,
            Decimal::Finite { negative: true, .. } => -1,
            Decimal::Finite { .. } => 1,
        }
    }

    /// The whole number that it is; none where it is none, or too large.
    pub(super) fn integer(&self) -> Option<i128> {
        let Decimal::Finite {
            negative,
            digits,
            exponent,
        } = self
        else {
            return None;
        };
        let zeros = exponent - digits.len() as i64;
        if digits.is_empty() {
            return Some(0);
        }
        if !(0..=38).contains(&zeros) || *exponent > 38 {
            return None;
        }
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(digits),
            "0".repeat(zeros as usize)
        );
        let value: i128 = text.parse().ok()?;
        Some(if *negative { -value } else { value })
    }

    /// The nearest number of 64 bits.
    pub(super) fn real(&self) -> f64 {
        match self {
            Decimal::NotANumber => f64::NAN,
            Decimal::Infinite { negative: true } => f64::NEG_INFINITY,
            Decimal::Infinite { negative: false } => f64::INFINITY,
            Decimal::Finite {
                negative,
                digits,
                exponent,
            } => {
                let sign = if *negative { "-" } else { "" };
                let digits = String::from_utf8_lossy(digits);
                let text = format!("{sign}0.{digits}0e{exponent}");
                text.parse().unwrap_or(f64::NAN)
            }
        }
    }
}

fn special(text: &[u8], negative: bool) -> Option<Decimal> {
    let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
    match () {
        () if is("nan") => Some(Decimal::NotANumber),
        () if is("inf") || is("infinity") => Some(Decimal::Infinite { negative }),
        () => None,
    }
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Decimal {
        Decimal::parse(value.to_string().as_bytes()).expect("a number's text is a number")
    }
}

impl From<f64> for Decimal {
    /// The number as its shortest text says it.
    fn from(value: f64) -> Decimal {
        Decimal::parse(format!("{value:?}").as_bytes()).expect("a number's text is a number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is no number"))
    }

    #[test]
    fn numbers_ascend_as_they_should() {
        let ascending = [
            "-inf",
            "-1e30",
            "-100.5",
            "-100",
            "-0.01",
            "-1e-9",
            "0",
            "1e-9",
            "0.0100",
            "0.02",
            "1",
            "1.00000000000000000000001",
            "9",
            "10",
            "99.9",
            "100",
            "1E+2000",
            "Infinity",
            "NaN",
        ];
        for (at, low) in ascending.iter().enumerate() {
            for high in &ascending[at + 1..] {
                assert_eq!(
                    decimal(low).compare(&decimal(high)),
                    Ordering::Less,
                    "{low} {high}"
                );
                assert_eq!(decimal(high).compare(&decimal(low)), Ordering::Greater);
            }
        }
    }

    #[test]
    fn equal_numbers_have_one_form() {
        for (a, b) in [
            ("1", "1.000"),
            ("-0", "0.00"),
            ("+5", "0005"),
            ("1e2", "100"),
            ("0.5", ".5"),
            ("12.5e-1", "1.25"),
        ] {
            assert_eq!(decimal(a), decimal(b));
        }
        assert_eq!(Decimal::from(1e21), decimal("1000000000000000000000"));
        assert_eq!(
            Decimal::from(i64::MIN).integer(),
            Some(i128::from(i64::MIN))
        );
        assert_eq!(decimal("1e3").integer(), Some(1000));
        assert_eq!(decimal("1.5").integer(), None);
        assert_eq!(decimal("-1.5e3").real(), -1500.0);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            ".",
            "-",
            "1e",
            "e5",
            "1,5",
            "0x10",
            "1 ",
            "1e999999999",
            "--1",
            "१",
        ] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
