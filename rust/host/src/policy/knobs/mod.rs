//! The knobs: one enum per decision, each with its kernel function, its values and where that is known from.
//!
//! **Models** the rows of the policy matrix that some step of this crate asks. The lists are in [`tags`], [`kvm`] and [`mm`],
//! each a macro that hands its own, behind what came before, to the next; what comes of all of them is here. **Leaves out**
//! rows with nothing to decide here, which are listed in [`super`].
//!
//! **Keeps**: names and documentation of a knob stand beside its values, so lists, errors and reports cannot drift.

mod kvm;
mod mm;
mod tags;

use std::borrow::Cow;

use super::{Knob, KnobValue};
use kvm::kvm_knobs;
use mm::mm_knobs;
use tags::tag_knobs;

macro_rules! knobs {
    (; $($(#[doc = $doc:literal])+ $id:literal $field:ident: $enum:ident, $title:literal, $source:literal {
        $($(#[doc = $vdoc:literal])+ $variant:ident = $name:literal,)+
    })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
            pub enum $enum { $($(#[doc = $vdoc])+ $variant,)+ }

            impl $enum {
                /// The value's name on the command line and in reports.
                pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }

                fn parse(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)+ _ => None } }
            }
        )+

        /// Every decision of the host, as one plain value.
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub struct Policy {
            /// Profile name, with the replaced knobs behind it.
            pub name: Cow<'static, str>,
            $($(#[doc = $doc])+ pub $field: $enum,)+
        }

        pub(super) static KNOBS: &[Knob] = &[$(Knob {
            id: $id,
            field: stringify!($field),
            title: $title,
            doc: concat!($($doc),+),
            source: $source,
            values: &[$(KnobValue { name: $name, doc: concat!($($vdoc),+) },)+],
        },)+];

        impl Policy {
            /// The value's name of the knob `id` (`K1`) or field name; `None` for an unknown knob.
            pub fn get(&self, knob: &str) -> Option<&'static str> {
                let knob = super::canonical(knob);
                $(if knob == $id || knob == stringify!($field) { return Some(self.$field.name()); })+
                None
            }

            pub(super) fn set(&mut self, knob: &Knob, value: &str) -> Option<()> {
                $(if knob.id == $id { self.$field = $enum::parse(value)?; })+
                Some(())
            }
        }
    };
}

tag_knobs! { kvm_knobs mm_knobs knobs; }

impl CheckedAt {
    /// Are the rules applied when a memslot is added?
    pub const fn at_slot(self) -> bool {
        matches!(self, Self::Slot | Self::SlotAndFault)
    }

    /// Are the rules applied at fault time?
    pub const fn at_fault(self) -> bool {
        matches!(self, Self::Fault | Self::SlotAndFault)
    }
}
