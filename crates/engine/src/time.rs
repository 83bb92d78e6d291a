// SPDX-License-Identifier: Apache-2.0
//! Points in time, as docker writes them: RFC 3339 in UTC with nanoseconds.
//!
//! The calendar is computed here (days since 1970 to year, month, day by the 400-year cycle) because the local time zone is never needed
//! and a date library would be the largest dependency of the door.

use std::{fmt, time::SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A point in time, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// A text that is neither a point in time nor a span.
#[derive(Debug, Error)]
#[error("{0:?} is not a time: 2026-01-31T12:00:00Z, 1767225600 or a span as 10m")]
pub struct NotATime(String);

const DAY: i64 = 86_400;
const NANOSECONDS: u32 = 1_000_000_000;

impl Timestamp {
    /// Returns the present.
    pub fn now() -> Timestamp {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Timestamp {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: since.subsec_nanos(),
            },
            Err(_) => Timestamp::default(),
        }
    }

    /// Returns the whole seconds from `self` to `later`.
    pub fn seconds_until(self, later: Timestamp) -> i64 {
        later.seconds.saturating_sub(self.seconds)
    }

    /// Reads what docker takes for `--since`: RFC 3339 (also a date alone), seconds since 1970, or a span before `now`.
    pub fn parse(text: &str, now: Timestamp) -> Result<Timestamp, NotATime> {
        let bad = || NotATime(text.to_owned());
        if let Some(span) = parse_span(text) {
            return Ok(Timestamp {
                seconds: now.seconds.saturating_sub(span),
                ..now
            });
        }
        if let Some(timestamp) = parse_unix(text) {
            return Ok(timestamp);
        }
        parse_rfc3339(text).ok_or_else(bad)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.seconds.div_euclid(DAY));
        let second = self.seconds.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if self.nanoseconds > 0 {
            write!(out, ".{:09}", self.nanoseconds)?;
        }
        out.write_str("Z")
    }
}

/// Returns year, month and day of a day since 1970 (the Gregorian cycle of 146,097 days, years counted from March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Returns the day since 1970 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `1h30m`, `90s`, `10m`: Go's durations in whole seconds.
fn parse_span(text: &str) -> Option<i64> {
    let mut seconds: i64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let amount: i64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let scale = match unit.chars().next()? {
            _ if unit.starts_with("ms") => return None,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(amount.checked_mul(scale)?)?;
        rest = &unit[1..];
    }
    Some(seconds)
}

fn parse_unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    Some(Timestamp {
        seconds: seconds.parse().ok()?,
        nanoseconds: parse_fraction(fraction)?,
    })
}

fn parse_fraction(digits: &str) -> Option<u32> {
    if digits.len() > 9 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}")
        .parse()
        .ok()
        .filter(|value| *value < NANOSECONDS)
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute) = (clock.next()??, clock.next()??);
    let second = clock.next().unwrap_or(Some(0))?;
    let offset = match zone {
        "" | "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone[1..].split_once(':')?;
            sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60)
        }
    };
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && (0..10_000).contains(&year);
    valid
        .then(|| Timestamp {
            seconds: days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset,
            nanoseconds: 0,
        })
        .and_then(|whole| {
            Some(Timestamp {
                nanoseconds: parse_fraction(fraction)?,
                ..whole
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_back() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_827_696, 5, "2000-02-29T12:34:56.000000005Z"),
            (1_767_225_599, 999_999_999, "2025-12-31T23:59:59.999999999Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
        ] {
            let timestamp = Timestamp {
                seconds,
                nanoseconds,
            };
            assert_eq!(timestamp.to_string(), text);
            assert_eq!(
                Timestamp::parse(text, Timestamp::default()).unwrap(),
                timestamp
            );
        }
    }

    #[test]
    fn what_people_write_for_since() {
        let now = Timestamp {
            seconds: 10_000,
            nanoseconds: 7,
        };
        for (text, seconds) in [
            ("10m", 9400),
            ("1h30m", 4600),
            ("42", 42),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-02", 86_400),
            ("1970-01-01T00:01", 60),
        ] {
            assert_eq!(
                Timestamp::parse(text, now).unwrap().seconds,
                seconds,
                "{text}"
            );
        }
        for text in ["", "yesterday", "10x", "1970-13-01", "1970-01-01T99:00"] {
            assert!(Timestamp::parse(text, now).is_err(), "{text}");
        }
    }
}
