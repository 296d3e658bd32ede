//! `[cache]`: how much of the disk layers may take.

use layer::CacheBudget;
use serde::Deserialize;

/// How much of the disk layers may take.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Bytes that all layers together may take. 0 means no limit, and that layers go when nobody uses them any more.
    pub max_bytes: i64,
    /// Room is made above this part of `max_bytes`. 0 means 0.9.
    pub high_watermark: f64,
    /// Room is made down to this part of `max_bytes`. 0 means 0.8.
    pub low_watermark: f64,
    /// Bytes of the file system to leave free. 0 means 64 MiB.
    pub min_free_bytes: i64,
}

impl Cache {
    /// What the layers obey.
    pub fn budget(&self) -> CacheBudget {
        let default = CacheBudget::default();
        let bytes = |value: i64| u64::try_from(value).ok().filter(|&value| value > 0);
        let part = |value: f64, default: f64| if value > 0.0 { value } else { default };
        CacheBudget {
            max_bytes: bytes(self.max_bytes),
            high: part(self.high_watermark, default.high),
            low: part(self.low_watermark, default.low),
            min_free: bytes(self.min_free_bytes).unwrap_or(default.min_free),
        }
    }
}
