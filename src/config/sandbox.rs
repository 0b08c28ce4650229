//! `[sandbox]`: provisional.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[sandbox]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// Calls a second.
    pub rate_per_second: u32,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { rate_per_second: 20 }
    }
}
