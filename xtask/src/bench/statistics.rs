// SPDX-License-Identifier: Apache-2.0
//! Medians, and how far a ratio of medians can be trusted.
//!
//! A shared machine makes single timings jump by half; medians of runs taken in turns hold still. The interval is a
//! bootstrap: both lists are drawn from again, with replacement, and the middle 95 % of the ratios is kept. The generator
//! is seeded with a constant, so the same raw data gives the same interval.

/// How often the lists are drawn from again: the ends of the interval then hold still to about one percent.
const RESAMPLES: usize = 4_000;

/// A ratio of medians and the interval in which it lies with 95 % probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Returns the median; 0 of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(middle), 1) => *middle,
        (Some(middle), _) => f64::midpoint(*middle, sorted[sorted.len() / 2 - 1]),
    }
}

/// Returns the smallest value; 0 of nothing.
pub(super) fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
}

/// Returns the ratio of the medians of two lists, neither of them empty.
pub(super) fn ratio(ours: &[f64], theirs: &[f64]) -> Ratio {
    let mut generator = Generator(0x9E37_79B9_7F4A_7C15);
    let mut draw = |from: &[f64]| -> f64 {
        let drawn: Vec<f64> = from
            .iter()
            .map(|_| from[generator.below(from.len())])
            .collect();
        median(&drawn)
    };
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| draw(ours) / draw(theirs)).collect();
    ratios.sort_by(f64::total_cmp);
    Ratio {
        value: median(ours) / median(theirs),
        low: ratios[RESAMPLES / 40],
        high: ratios[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

/// Marsaglia's xorshift of 64 bits: good enough to draw lots.
struct Generator(u64);

impl Generator {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let high = self.0 >> 33;
        usize::try_from(high).unwrap_or(0) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::float_cmp, reason = "these are exact")]
    #[test]
    fn medians_and_minima() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!(minimum(&[4.0, 1.0, 2.0]), 1.0);
    }

    #[test]
    fn the_interval_holds_the_ratio_and_widens_with_the_noise() {
        let steady: Vec<f64> = (0..21).map(|n| 100.0 + f64::from(n % 3)).collect();
        let half: Vec<f64> = steady.iter().map(|value| value / 2.0).collect();
        let noisy: Vec<f64> = (0..21).map(|n| 20.0 + 5.0 * f64::from(n)).collect();
        let tight = ratio(&half, &steady);
        assert!((tight.value - 0.5).abs() < 1e-9);
        assert!(tight.low <= 0.5 && 0.5 <= tight.high, "{tight:?}");
        assert!(tight.high - tight.low < 0.02, "{tight:?}");
        let wide = ratio(&noisy, &steady);
        assert!(wide.high - wide.low > 0.2, "{wide:?}");
        assert_eq!(ratio(&noisy, &steady), wide);
    }
}
