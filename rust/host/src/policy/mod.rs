//! Policies: every decision that kernel versions made differently, as data.
//!
//! **Models** the policy matrix. A [`Policy`] is a plain value with one enum per row ([`knobs`]); a path asks the field at
//! the decision, once, and never compares version numbers. [`profiles`] tells which kernel took which value.
//! **Leaves out** K8 as a knob of its own (K7 says on which side of `swap_free` tags are restored, and answers to both
//! names).
//!
//! **Keeps**: a knob's names and documentation stand beside its values, so lists, errors and reports cannot drift.

mod knobs;
mod profiles;

use thiserror::Error;

use knobs::KNOBS;
pub use knobs::*;
use profiles::PROFILES;

/// One value a knob can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnobValue {
    /// The value's name, e.g. `slot-free`.
    pub name: &'static str,
    /// What the kernel does with it, and which kernels did.
    pub doc: &'static str,
}

/// One decision: a row of the policy matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knob {
    /// Row of the matrix, e.g. `K1`.
    pub id: &'static str,
    /// Field name, e.g. `saved_tags_erased`.
    pub field: &'static str,
    /// The decision in one line.
    pub title: &'static str,
    /// Which kernel function decides, and why it matters.
    pub doc: &'static str,
    /// Where it is known from: file, commits and versions.
    pub source: &'static str,
    /// Every value, in the order of the documentation.
    pub values: &'static [KnobValue],
}

/// A named policy: one column of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Name, e.g. `linux-6.12`.
    pub name: &'static str,
    /// What it stands for.
    pub summary: &'static str,
}

/// No profile of that name.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown profile {name:?}; known: {}", Policy::profile_names())]
pub struct UnknownProfile {
    /// The name asked for.
    pub name: String,
}

/// A replacement that does not name a knob or one of its values.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum KnobError {
    /// No knob of that id or field name.
    #[error("unknown knob {knob:?}; known: {}", Policy::knob_names())]
    UnknownKnob {
        /// The knob asked for.
        knob: String,
    },
    /// The knob has no such value.
    #[error("unknown value {value:?} of {knob}; one of: {expected}")]
    UnknownValue {
        /// The knob's id.
        knob: &'static str,
        /// The value asked for.
        value: String,
        /// Its values.
        expected: String,
    },
}

/// The knob's own name for what a row of the matrix is called: one knob holds K7 and K8.
fn canonical(knob: &str) -> &str {
    if knob == "K8" { "K7" } else { knob }
}

impl Policy {
    /// The named columns of the matrix that can be built.
    pub fn profiles() -> &'static [Profile] {
        PROFILES
    }

    /// Every knob with its values and documentation.
    pub fn knobs() -> &'static [Knob] {
        KNOBS
    }

    /// The policy of a profile; `6.12` is short for `linux-6.12`.
    pub fn profile(name: &str) -> Result<Self, UnknownProfile> {
        let known = PROFILES
            .iter()
            .find(|p| p.name == name || p.name.strip_prefix("linux-") == Some(name));
        known
            .and_then(|p| profiles::build(p.name))
            .ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }

    /// This policy with one knob (by id or field name) replaced; the name records it.
    pub fn with(&self, knob: &str, value: &str) -> Result<Self, KnobError> {
        let name = canonical(knob);
        let Some(known) = KNOBS.iter().find(|k| k.id == name || k.field == name) else {
            return Err(KnobError::UnknownKnob { knob: knob.to_owned() });
        };
        let mut policy = self.clone();
        policy.set(known, value).ok_or_else(|| KnobError::UnknownValue {
            knob: known.id,
            value: value.to_owned(),
            expected: known.values.iter().map(|v| v.name).collect::<Vec<_>>().join(", "),
        })?;
        policy.name = format!("{} {}={value}", self.name, known.id).into();
        Ok(policy)
    }

    fn profile_names() -> String {
        PROFILES.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
    }

    fn knob_names() -> String {
        KNOBS.iter().map(|k| k.id).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_named_is_built_under_its_name() {
        for profile in Policy::profiles() {
            assert_eq!(Policy::profile(profile.name).unwrap().name, profile.name);
        }
    }

    #[test]
    fn every_value_of_every_knob_can_be_set_by_id_and_read_by_field() {
        let base = Policy::profile("6.12").unwrap();
        for knob in Policy::knobs() {
            for value in knob.values {
                let policy = base.with(knob.id, value.name).unwrap();
                assert_eq!(policy.get(knob.field), Some(value.name));
            }
        }
    }

    #[test]
    fn unknown_names_say_what_exists() {
        let base = Policy::profile("linux-6.12").unwrap();
        assert!(base.with("K99", "x").unwrap_err().to_string().contains("K22"));
        assert!(base.with("K1", "never").unwrap_err().to_string().contains("slot-free"));
        assert!(
            Policy::profile("linux-9.9")
                .unwrap_err()
                .to_string()
                .contains("v10-series")
        );
    }

    #[test]
    fn profiles_differ_in_the_rows_the_matrix_says() {
        let (v10, v514, v612) = (
            Policy::profile("v10-series").unwrap(),
            Policy::profile("5.14").unwrap(),
            Policy::profile("6.12").unwrap(),
        );
        assert_eq!((v10.get("K22"), v10.get("K23")), (Some("cacheable"), Some("never")));
        assert_eq!(
            (v514.get("K18"), v514.get("K21")),
            (Some("test-clear-set"), Some("refused"))
        );
        assert_eq!((v612.get("K18"), v612.get("mmu_lock")), (Some("lock"), Some("read")));
    }

    /// Knobs in which two profiles differ.
    fn differing(one: &str, other: &str) -> Vec<&'static str> {
        let (one, other) = (Policy::profile(one).unwrap(), Policy::profile(other).unwrap());
        let differs = |k: &&Knob| one.get(k.id) != other.get(k.id);
        KNOBS.iter().filter(differs).map(|k| k.id).collect()
    }

    #[test]
    fn a_point_release_differs_in_what_was_backported() {
        assert_eq!(differing("6.1.38", "6.1.39"), ["K7"]);
        assert_eq!(differing("5.15.81", "5.15.82"), ["K4", "K11"]);
        assert_eq!(differing("6.2", "6.3"), ["K24"]);
        assert_eq!(
            differing("6.8", "6.10"),
            ["K3", "K12", "K20", "pageout_references", "zswap_load"]
        );
        assert_eq!(differing("v14-series", "v15-series"), ["K5"]);
    }

    #[test]
    fn the_row_k8_is_held_by_the_knob_k7() {
        let policy = Policy::profile("6.12").unwrap().with("K8", "after-free").unwrap();
        assert_eq!(policy.get("K7"), Some("after-free"));
        assert_eq!(policy.get("K8"), policy.get("restore_at"));
    }

    #[test]
    fn every_knob_has_a_source_and_every_value_a_reason() {
        for knob in Policy::knobs() {
            assert!(!knob.source.is_empty() && !knob.doc.is_empty(), "{}", knob.id);
            assert!(knob.values.iter().all(|v| !v.doc.is_empty()), "{}", knob.id);
        }
    }
}
