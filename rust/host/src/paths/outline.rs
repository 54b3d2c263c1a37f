//! How a path's table is written in a source file: as an outline of the kernel function.
//!
//! **Keeps**: a table is data; nothing here decides anything.

/// A static [`crate::step::Path`]: a name, and each step's name with its action.
macro_rules! outline {
    ($(#[doc = $doc:literal])+ $vis:vis $table:ident = $name:literal { $($step:literal => $run:expr,)+ }) => {
        $(#[doc = $doc])+
        $vis static $table: $crate::step::Path = $crate::step::Path {
            name: $name,
            steps: &[$($crate::step::Step { name: $step, run: $run },)+],
        };
    };
}

pub(super) use outline;
