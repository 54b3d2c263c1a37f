//! Reading recorded vectors: JSON lines, numbers that are addresses or registers as `"0x..."` strings.
//!
//! The files in the project's `tests/data/vectors` are a selection; `TAGVISOR_VECTORS` may name a directory with complete ones.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use flate2::read::GzDecoder;

use serde_json::Value;

/// One row of a vector file.
pub(crate) struct Row(Value);

impl Row {
    /// Whether the row has this member.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    /// A number, written as an integer or as a hexadecimal string.
    pub(crate) fn num(&self, key: &str) -> u64 {
        self.num_or(key, || panic!("no {key} in {}", self.0))
    }

    /// A number, or what stands for a missing one.
    pub(crate) fn num_or(&self, key: &str, missing: impl FnOnce() -> u64) -> u64 {
        self.0.get(key).map_or_else(missing, number)
    }

    /// A string.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// An object or an element of an array as a row of its own.
    pub(crate) fn rows(&self, key: &str) -> Vec<Row> {
        match &self.0[key] {
            Value::Array(items) => items.iter().cloned().map(Row).collect(),
            object @ Value::Object(_) => vec![Row(object.clone())],
            other => panic!("{key} is {other}"),
        }
    }

    /// Pairs of numbers, such as addresses and words.
    pub(crate) fn pairs(&self, key: &str) -> Vec<(u64, u64)> {
        let pairs = self.0[key].as_array().expect("an array").iter();
        pairs.map(|pair| (number(&pair[0]), number(&pair[1]))).collect()
    }

    /// An array of numbers under a key.
    pub(crate) fn nums_of(&self, key: &str) -> Vec<u64> {
        self.0[key].as_array().expect("an array").iter().map(number).collect()
    }

    /// The members of an object of numbers.
    pub(crate) fn members(&self, key: &str) -> Vec<(String, u64)> {
        let object = self.0[key].as_object().expect("an object");
        object
            .iter()
            .map(|(name, value)| (name.clone(), number(value)))
            .collect()
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn number(value: &Value) -> u64 {
    match value {
        Value::String(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hexadecimal"),
        other => other.as_u64().expect("an integer"),
    }
}

/// The rows of a vector file; the header comes first.
pub(crate) fn vectors(name: &str) -> Vec<Row> {
    let bundled = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/vectors");
    let folder = std::env::var_os("TAGVISOR_VECTORS").map_or_else(bundled, PathBuf::from);
    let path = folder.join(format!("{name}.jsonl.gz"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    lines
        .map(|line| Row(serde_json::from_str(&line.expect("gzip")).expect("JSON")))
        .collect()
}
