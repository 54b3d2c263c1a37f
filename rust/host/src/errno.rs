//! What a refused system call or a faulting user access looks like to user space.
//!
//! Names and numbers are the kernel's (`include/uapi/asm-generic/errno-base.h`, `errno.h`); signal codes are those of
//! `siginfo_t` on arm64.

use std::fmt;

use tagvisor_arch::Va;

macro_rules! errnos {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// An error number returned by a system call or an ioctl.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Errno { $($(#[$doc])* $variant = $number,)* }

        impl Errno {
            /// The symbolic name, e.g. `EINVAL`.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }

            /// The error in a kernel return value, if it is one.
            pub const fn from_ret(ret: i64) -> Option<Self> {
                match -ret { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

errnos! {
    /// No such file or directory.
    Enoent = 2, "ENOENT";
    /// Interrupted by a signal.
    Eintr = 4, "EINTR";
    /// Input/output error.
    Eio = 5, "EIO";
    /// Bad file descriptor: the VM was destroyed.
    Ebadf = 9, "EBADF";
    /// Try again.
    Eagain = 11, "EAGAIN";
    /// Out of memory.
    Enomem = 12, "ENOMEM";
    /// Permission denied.
    Eacces = 13, "EACCES";
    /// Bad address.
    Efault = 14, "EFAULT";
    /// Device or resource busy.
    Ebusy = 16, "EBUSY";
    /// File exists.
    Eexist = 17, "EEXIST";
    /// No such device.
    Enodev = 19, "ENODEV";
    /// Invalid argument.
    Einval = 22, "EINVAL";
    /// Function not implemented.
    Enosys = 38, "ENOSYS";
    /// Operation not supported.
    Eopnotsupp = 95, "EOPNOTSUPP";
    /// State not recoverable.
    Enotrecoverable = 131, "ENOTRECOVERABLE";
}

impl Errno {
    /// The negative value a kernel function returns.
    pub const fn ret(self) -> i64 {
        -(self as i64)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Errno {}

/// The signal a user access ended in; `addr` is `si_addr`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// `SIGSEGV`, no mapping at the address.
    SegvMapErr {
        /// Faulting address.
        addr: Va,
    },
    /// `SIGSEGV`, the mapping does not allow the access.
    SegvAccErr {
        /// Faulting address.
        addr: Va,
    },
    /// `SIGSEGV`, synchronous tag check fault (`SEGV_MTESERR`).
    SegvMteSerr {
        /// Faulting address.
        addr: Va,
    },
    /// `SIGBUS`: the memory could not be brought in, or lies beyond the end of the file.
    SigBus {
        /// Faulting address.
        addr: Va,
    },
    /// `SIGBUS`, `BUS_MCEERR_AR`: the page is poisoned.
    SigBusMce {
        /// Faulting address.
        addr: Va,
    },
}

impl Signal {
    /// Signal and code in words, as recorded scenarios print them.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::SegvMapErr { .. } => "SIGSEGV SEGV_MAPERR(1)",
            Self::SegvAccErr { .. } => "SIGSEGV SEGV_ACCERR(2)",
            Self::SegvMteSerr { .. } => "SIGSEGV SEGV_MTESERR(9)",
            Self::SigBus { .. } => "SIGBUS (2)",
            Self::SigBusMce { .. } => "SIGBUS (4)",
        }
    }

    /// The faulting address.
    pub const fn addr(self) -> Va {
        match self {
            Self::SegvMapErr { addr }
            | Self::SegvAccErr { addr }
            | Self::SegvMteSerr { addr }
            | Self::SigBus { addr }
            | Self::SigBusMce { addr } => addr,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.describe(), self.addr())
    }
}

impl std::error::Error for Signal {}
