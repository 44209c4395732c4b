//! Where each adapter lies in the one flat buffer that is trained, all-reduced and saved.
//! It never holds a number, only places.

use std::collections::BTreeMap;
use std::ops::Range;

/// One linear that can be adapted: `y = W x`, `W [out_features, in_features]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Hub name without `.weight`, e.g. `language_model.model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Width of its input.
    pub in_features: usize,
    /// Width of its output.
    pub out_features: usize,
}

/// For each module in order: `A [r, in]`, then `B [out, r]`, both row-major, in one flat f32 buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    modules: Vec<Module>,
    r: usize,
    /// Where each module begins; one more entry than modules.
    starts: Vec<usize>,
    by_name: BTreeMap<String, usize>,
}

impl Layout {
    /// Places the adapters of rank `r` of these modules one after another. Names must differ.
    #[must_use]
    pub fn new(modules: Vec<Module>, r: usize) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for module in &modules {
            end += r * (module.in_features + module.out_features);
            starts.push(end);
        }
        let by_name = modules.iter().enumerate().map(|(i, m)| (m.name.clone(), i)).collect();
        Self { modules, r, starts, by_name }
    }

    /// How many numbers are trained.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts[self.modules.len()]
    }

    /// Whether nothing is trained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The adapted linears, in the order of the buffer.
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Which module has this hub name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The adapters' rank.
    #[must_use]
    pub fn r(&self) -> usize {
        self.r
    }

    /// Place of `A [r, in]` of a module, by its index.
    #[must_use]
    pub fn a(&self, module: usize) -> Range<usize> {
        self.starts[module]..self.b(module).start
    }

    /// Place of `B [out, r]` of a module, by its index.
    #[must_use]
    pub fn b(&self, module: usize) -> Range<usize> {
        let end = self.starts[module + 1];
        end - self.r * self.modules[module].out_features..end
    }
}
