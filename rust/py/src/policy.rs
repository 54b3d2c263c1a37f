//! Policies as plain data: a name, and one value's name per knob.
//!
//! Python keeps a policy as such pairs (`tagvisor.Policy`), so that it compares, hashes and pickles without this module.

use pyo3::prelude::*;
use tagvisor_host::{Knob, Policy};

use crate::errors::Refusal;

/// Knob id and value's name, for every knob, in the order of the knobs.
type Values = Vec<(&'static str, &'static str)>;
/// Id, field, title, documentation, source, and each value's name and documentation.
type KnobFields = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    Values,
);

fn parts(policy: &Policy) -> (String, Values) {
    let value = |knob: &Knob| policy.get(knob.id).expect("a knob that exists has a value");
    (
        policy.name.to_string(),
        Policy::knobs().iter().map(|k| (k.id, value(k))).collect(),
    )
}

/// The policy of that name and those values.
pub(crate) fn policy_of(name: String, values: &[(String, String)]) -> Result<Policy, Refusal> {
    // Every knob is set, so any profile serves as the base. A policy pickled before a knob existed gets 6.12's value.
    let mut policy = Policy::profile("linux-6.12")?;
    for (knob, value) in values {
        policy = policy.with(knob, value)?;
    }
    policy.name = name.into();
    Ok(policy)
}

/// Name and summary of every profile.
#[pyfunction]
pub(crate) fn policy_profiles() -> Vec<(&'static str, &'static str)> {
    Policy::profiles().iter().map(|p| (p.name, p.summary)).collect()
}

/// Id, field, title, documentation, source and values of every knob.
#[pyfunction]
pub(crate) fn policy_knobs() -> Vec<KnobFields> {
    let values = |knob: &Knob| knob.values.iter().map(|v| (v.name, v.doc.trim())).collect();
    Policy::knobs()
        .iter()
        .map(|k| (k.id, k.field, k.title, k.doc.trim(), k.source, values(k)))
        .collect()
}

/// Name and values of a profile.
#[pyfunction]
pub(crate) fn policy_profile(name: &str) -> PyResult<(String, Values)> {
    Ok(parts(&Policy::profile(name).map_err(Refusal::from)?))
}

/// Name and values of a policy with one knob, by id or field name, replaced.
#[pyfunction]
pub(crate) fn policy_replace(
    name: String,
    values: Vec<(String, String)>,
    knob: &str,
    value: &str,
) -> PyResult<(String, Values)> {
    let policy = policy_of(name, &values)?;
    Ok(parts(&policy.with(knob, value).map_err(Refusal::from)?))
}
