//! Chance that can be repeated, and how much of it.

use std::env;
use std::ops::{Deref, DerefMut};

/// Whether the full counts are asked for: `SOAK=1`.
pub fn soak() -> bool {
    env::var_os("SOAK").is_some_and(|value| value == "1")
}

/// The count for this kind of run: the first, or the second with `SOAK=1`.
pub fn count(short: usize, full: usize) -> usize {
    if soak() { full } else { short }
}

/// A generator that says its seed when the test fails.
pub struct Seeded {
    rng: fastrand::Rng,
    seed: u64,
}

impl Seeded {
    /// The seed from the environment (`SEED=N`), else this one.
    pub fn from_env_or(fixed: u64) -> Self {
        let told = env::var("SEED").ok().and_then(|text| text.parse().ok());
        Self::with_seed(told.unwrap_or(fixed))
    }

    /// This seed, whatever the environment says: one of several that come of one.
    pub fn with_seed(seed: u64) -> Self {
        Seeded { rng: fastrand::Rng::with_seed(seed), seed }
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.rng.usize(..items.len())]
    }
}

impl Deref for Seeded {
    type Target = fastrand::Rng;

    fn deref(&self) -> &fastrand::Rng {
        &self.rng
    }
}

impl DerefMut for Seeded {
    fn deref_mut(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with SEED={}", self.seed);
        }
    }
}
