// SPDX-License-Identifier: Apache-2.0
//! Sizes and spans of time in words, as docker says them.

/// Returns a size with four significant digits in powers of 1000: `3.6MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 999.95 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let digits: usize = match amount {
        _ if unit == 0 => 0,
        amount if amount < 10.0 => 2,
        amount if amount < 100.0 => 1,
        _ => 0,
    };
    format!("{amount:.digits$}{}", UNITS[unit])
}

/// Returns a span of time roughly, in words: `About a minute`, `3 days`.
pub(crate) fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let (hours, days) = (seconds / HOUR, seconds / DAY);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".into(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        HOUR..7200 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_docker_writes_them() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (3_640_000, "3.64MB"),
            (270_000_000, "270MB"),
            (12_345, "12.3kB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (150, "2 minutes"),
            (4000, "About an hour"),
            (90_000, "25 hours"),
            (200_000, "2 days"),
            (100 * 86_400, "3 months"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
