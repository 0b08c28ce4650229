//! How long a call is made to wait: always the same, or drawn from a distribution.
//!
//! Apart from `kinds` because it is arithmetic and no trouble of its own. Draws come from the generator of the faults,
//! so one seed is one sequence of waits. Nothing waits longer than an hour.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

const LONGEST_MS: f64 = 3_600_000.0;
/// The 99th percentile of the standard normal distribution.
const Z99: f64 = 2.326_347_874;

/// One of: `ms` alone; `min_ms` and `max_ms` (uniform); `mean_ms` (exponential); `p50_ms` and `p99_ms` (log-normal, the
/// shape of most services: a narrow hump and a long tail).
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Latency {
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<u64>,
}

/// What the fields mean together.
enum Shape {
    Same(u64),
    Uniform(u64, u64),
    Exponential(u64),
    LogNormal(u64, u64),
}

impl Latency {
    /// Refuses fields that are no distribution together.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.shape() {
            None => Err(
                "a latency needs ms, or min_ms and max_ms, or mean_ms, or p50_ms and p99_ms, and nothing more"
                    .to_owned(),
            ),
            Some(Shape::Uniform(min, max)) if min > max => Err("max_ms: less than min_ms".to_owned()),
            Some(Shape::LogNormal(p50, p99)) if p50 == 0 || p50 > p99 => {
                Err("p99_ms: less than p50_ms, or p50_ms is 0".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    /// One wait.
    #[allow(clippy::cast_precision_loss)] // Milliseconds of at most an hour.
    pub(super) fn draw(&self, rng: &mut StdRng) -> Duration {
        // (0, 1], so that its logarithm is finite.
        let mut unit = || 1.0 - rng.random::<f64>();
        let ms = match self.shape() {
            None => 0.0,
            Some(Shape::Same(ms)) => ms as f64,
            Some(Shape::Uniform(min, max)) => min as f64 + unit() * (max - min) as f64,
            Some(Shape::Exponential(mean)) => -unit().ln() * mean as f64,
            Some(Shape::LogNormal(p50, p99)) => {
                let sigma = (p99 as f64 / p50 as f64).ln() / Z99;
                // Box and Muller's normal number out of two uniform ones.
                let normal = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
                p50 as f64 * (sigma * normal).exp()
            }
        };
        Duration::from_secs_f64(ms.min(LONGEST_MS) / 1000.0)
    }

    fn shape(&self) -> Option<Shape> {
        let Self {
            ms,
            min_ms,
            max_ms,
            mean_ms,
            p50_ms,
            p99_ms,
        } = self;
        match (ms, min_ms, max_ms, mean_ms, p50_ms, p99_ms) {
            (Some(ms), None, None, None, None, None) => Some(Shape::Same(*ms)),
            (None, Some(min), Some(max), None, None, None) => Some(Shape::Uniform(*min, *max)),
            (None, None, None, Some(mean), None, None) => Some(Shape::Exponential(*mean)),
            (None, None, None, None, Some(p50), Some(p99)) => Some(Shape::LogNormal(*p50, *p99)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]
mod tests {
    use rand::SeedableRng;
    use serde_json::{Value, json};

    use super::*;

    fn latency(fields: Value) -> Latency {
        let latency: Latency = serde_json::from_value(fields).unwrap();
        latency.check().unwrap();
        latency
    }

    /// The 1st, 50th and 99th of a hundred parts of many draws, in milliseconds.
    fn parts(fields: Value) -> [u128; 3] {
        let (latency, mut rng) = (latency(fields), StdRng::seed_from_u64(7));
        let mut draws: Vec<_> = (0..10_000).map(|_| latency.draw(&mut rng).as_millis()).collect();
        draws.sort_unstable();
        [100, 5_000, 9_900].map(|n| draws[n])
    }

    #[test]
    fn each_distribution_has_its_shape() {
        assert_eq!(parts(json!({"ms": 40})), [40; 3]);
        let [low, middle, high] = parts(json!({"min_ms": 100, "max_ms": 200}));
        assert!((100..103).contains(&low) && (145..155).contains(&middle) && (197..=200).contains(&high));
        // ln 2 and ln 100 of the mean.
        let [low, middle, high] = parts(json!({"mean_ms": 1000}));
        assert!(low < 20 && (660..730).contains(&middle) && (4_200..5_000).contains(&high));
        let [low, middle, high] = parts(json!({"p50_ms": 100, "p99_ms": 1000}));
        assert!((7..14).contains(&low) && (95..105).contains(&middle) && (850..1_150).contains(&high));
    }

    #[test]
    fn nothing_waits_longer_than_an_hour() {
        assert_eq!(parts(json!({"ms": u64::MAX})), [3_600_000; 3]);
    }

    #[test]
    fn fields_that_are_no_distribution_together_are_refused() {
        for (fields, why) in [
            (json!({}), "needs"),
            (json!({"ms": 1, "mean_ms": 2}), "needs"),
            (json!({"min_ms": 1}), "needs"),
            (json!({"min_ms": 2, "max_ms": 1}), "max_ms"),
            (json!({"p50_ms": 0, "p99_ms": 1}), "p50_ms"),
        ] {
            let latency: Latency = serde_json::from_value(fields).unwrap();
            let error = latency.check().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
