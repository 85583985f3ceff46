//! A cron expression, read as `crontab(5)` says, and written as the `cron` crate wants it.
//!
//! Weekdays are 0 to 7 with 0 and 7 for Sunday; where a day of the month and a weekday are both
//! given, either makes a day due, unless one of the two begins with `*`. Invariant: every number
//! that is handed on lies within its field, and what crontabs do not agree on is refused.

/// The longest expression.
const TEXT_BYTES_MAX: usize = 256;

const MONTHS: &[&str] = &[
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// Words for whole expressions.
const WORDS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

struct Kind {
    name: &'static str,
    least: u32,
    most: u32,
    /// The names of its numbers, from `least` on.
    names: &'static [&'static str],
}

/// The fields in the order of six.
const KINDS: [Kind; 6] = [
    kind("second", 0, 59, &[]),
    kind("minute", 0, 59, &[]),
    kind("hour", 0, 23, &[]),
    kind("day of month", 1, 31, &[]),
    kind("month", 1, 12, MONTHS),
    kind("weekday", 0, 7, DAYS),
];

const fn kind(name: &'static str, least: u32, most: u32, names: &'static [&'static str]) -> Kind {
    Kind {
        name,
        least,
        most,
        names,
    }
}

/// What is wrong with an expression, and what to write instead.
pub type Refusal = (String, String);

/// The numbers of one field.
#[derive(Clone, Debug)]
struct Field {
    /// A bit for each number.
    numbers: u64,
    /// Whether every number that there is belongs to it.
    all: bool,
    /// Whether it begins with `*`.
    star: bool,
}

/// An expression of six fields.
#[derive(Clone, Debug)]
pub struct Expression {
    fields: Vec<Field>,
}

impl Expression {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn read(text: &str) -> Result<Expression, Refusal> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("it is longer than {TEXT_BYTES_MAX} bytes");
            return Err((what, "write it shorter".into()));
        }
        let meant = of_word(text.trim())?;
        let mut words: Vec<&str> = meant.split_whitespace().collect();
        if words.len() == 5 {
            words.insert(0, "0");
        }
        if words.len() != KINDS.len() {
            let what = format!("it has {} fields", words.len());
            let hint = "write five (minute, hour, day of month, month, weekday), or six with seconds first";
            return Err((what, hint.into()));
        }
        let fields = words
            .iter()
            .zip(&KINDS)
            .map(|(word, kind)| field(word, kind));
        let fields = fields.collect::<Result<_, _>>()?;
        Ok(Expression { fields })
    }

    /// Whether it is due in every hour of a day.
    pub fn is_of_every_hour(&self) -> bool {
        self.fields[2].all
    }

    /// The expression for the crate, which counts Sunday as 1 and takes day of month *and* weekday:
    /// two lines where either is meant.
    pub fn lines(&self) -> Vec<String> {
        let words: Vec<String> = self.fields.iter().zip(&KINDS).map(words).collect();
        let line = |day: &str, weekday: &str| {
            let [second, minute, hour, _, month, _] = &words[..] else {
                return String::new();
            };
            format!("{second} {minute} {hour} {day} {month} {weekday}")
        };
        match self.fields[3].star || self.fields[5].star {
            true => vec![line(&words[3], &words[5])],
            false => vec![line(&words[3], "*"), line("*", &words[5])],
        }
    }
}

fn of_word(text: &str) -> Result<&str, Refusal> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let found = WORDS
        .iter()
        .find(|(word, _)| text.eq_ignore_ascii_case(word));
    found.map(|(_, meant)| *meant).ok_or_else(|| {
        let known: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        let what = format!("{text} is no word of a schedule");
        (what, format!("there is {}", known.join(", ")))
    })
}

/// The numbers as the crate reads them.
fn words((field, kind): (&Field, &Kind)) -> String {
    if field.all {
        return "*".into();
    }
    let shift = u32::from(kind.name == "weekday");
    let numbers = (0..=kind.most).filter(|number| field.numbers & (1 << number) != 0);
    let numbers: Vec<String> = numbers.map(|number| (number + shift).to_string()).collect();
    numbers.join(",")
}

fn field(word: &str, kind: &Kind) -> Result<Field, Refusal> {
    let mut numbers = 0_u64;
    for part in word.split(',') {
        numbers |= range(part, kind)?;
    }
    let weekday = kind.name == "weekday";
    if weekday && numbers & (1 << 7) != 0 {
        numbers = numbers & !(1 << 7) | 1;
    }
    let most = kind.most - u32::from(weekday);
    let every = (kind.least..=most).fold(0_u64, |every, number| every | 1 << number);
    Ok(Field {
        numbers,
        all: numbers == every,
        star: word.starts_with('*'),
    })
}

fn range(part: &str, kind: &Kind) -> Result<u64, Refusal> {
    let wrong =
        |what: &str, hint: &str| (format!("{}: {part:?} {what}", kind.name), hint.to_owned());
    let (span, step) = match part.split_once('/') {
        None => (part, 1),
        Some((span, step)) => {
            let step = step
                .parse()
                .ok()
                .filter(|step| (1..=kind.most).contains(step));
            let refused = || wrong("has a step that is none", "write */5 or 10-50/5");
            (span, step.ok_or_else(refused)?)
        }
    };
    let (low, high) = if span == "*" {
        (kind.least, kind.most - u32::from(kind.name == "weekday"))
    } else if let Some((low, high)) = span.split_once('-') {
        let (low, mut high) = (number(low, part, kind)?, number(high, part, kind)?);
        // Saturday to Sunday is meant as people say it.
        if kind.name == "weekday" && high == 0 && low > 0 {
            high = 7;
        }
        (low, high)
    } else if part.contains('/') {
        let hint = format!("write {span}-{}/{step}, or */{step}", kind.most);
        return Err(wrong("is read differently by different crontabs", &hint));
    } else {
        let one = number(span, part, kind)?;
        (one, one)
    };
    if low > high {
        return Err(wrong(
            "runs backwards",
            "write it as two ranges with a comma",
        ));
    }
    let numbers = (low..=high).step_by(step as usize);
    Ok(numbers.fold(0, |all, number| all | 1 << number))
}

fn number(text: &str, part: &str, kind: &Kind) -> Result<u32, Refusal> {
    let named = kind
        .names
        .iter()
        .position(|name| name.eq_ignore_ascii_case(text));
    if let Some(at) = named {
        return Ok(kind.least + at as u32);
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let read = text.parse().ok().filter(|_| digits);
    let read = read.filter(|number| (kind.least..=kind.most).contains(number));
    read.ok_or_else(|| {
        let hint = match text.contains(['L', 'W', '#', '?', 'H']) {
            true => {
                "L, W, #, ? and H are not known; rowvault reads what crontab(5) describes".into()
            }
            false if kind.names.is_empty() => {
                format!("write numbers from {} to {}", kind.least, kind.most)
            }
            false => {
                let (first, last) = (kind.names[0], kind.names[kind.names.len() - 1]);
                let (least, most) = (kind.least, kind.most);
                format!("write numbers from {least} to {most}, or names from {first} to {last}")
            }
        };
        (format!("{}: {part:?} is none", kind.name), hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_written_as_the_crate_reads_them() {
        for (text, lines) in [
            ("30 2 * * *", &["0 30 2 * * *"][..]),
            ("*/15 0-23 * * 0-6", &["0 0,15,30,45 * * * *"]),
            ("0 0 * * 0", &["0 0 0 * * 1"]),
            ("0 0 * * 7", &["0 0 0 * * 1"]),
            ("0 0 * * sat-sun", &["0 0 0 * * 1,7"]),
            ("0 0 * * 5-7", &["0 0 0 * * 1,6,7"]),
            ("0 0 1 * MON", &["0 0 0 1 * *", "0 0 0 * * 2"]),
            ("0 0 */10 * MON", &["0 0 0 1,11,21,31 * 2"]),
            ("0 0 1 jan,Dec *", &["0 0 0 1 1,12 *"]),
            ("5 4 3 2 1 0", &["5 4 3 2 1 *", "5 4 3 * 1 1"]),
            ("@Daily", &["0 0 0 * * *"]),
            ("@hourly", &["0 0 * * * *"]),
        ] {
            assert_eq!(Expression::read(text).unwrap().lines(), lines, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_field() {
        for (text, word) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("* * * * * * 2027", "7 fields"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "weekday"),
            ("* * L * *", "day of month"),
            ("* * * * FRI#2", "weekday"),
            ("5/15 * * * *", "different crontabs"),
            ("*/0 * * * *", "step"),
            ("50-10 * * * *", "backwards"),
            ("+5 * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("@reboot", "@reboot"),
            ("* * * * mond", "weekday"),
        ] {
            let error = Expression::read(text).unwrap_err().0;
            assert!(error.contains(word), "{text:?}: {error}");
        }
        let long = "*,".repeat(200);
        assert!(Expression::read(&long).is_err());
    }
}
