//! The one door between Python and the machine.
//!
//! Every call that does more than read a constant passes [`enter`], so that no call site can forget any of three things:
//!
//! * **The GIL is released** for the whole call. Locks are taken inside: a thread that waited for a machine while it
//!   held the GIL would stop the thread that has the machine from ever coming back for the GIL.
//! * **A panic is our bug, not the user's crash.** PyO3 would make it a `PanicException`, which is a `BaseException` that
//!   `except Exception` misses. Here it becomes `tagvisor.InternalError`, with the place in the source.
//! * **Errors are mapped in one place**, [`Refusal`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once};

use pyo3::prelude::*;

use crate::errors::{InternalError, Refusal};

thread_local! {
    /// Is this thread behind the door?
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic behind the door happened.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work` without the GIL; its error, or its panic, becomes a Python exception.
///
/// A panic leaves `work`'s data as it was when it happened. That data must therefore lie behind a lock that remembers
/// (std's `Mutex` is poisoned), as [`Machine`](crate::machine::Machine)'s does.
pub(crate) fn enter<T, F>(py: Python<'_>, work: F) -> PyResult<T>
where
    F: FnOnce() -> Result<T, Refusal> + Send,
    T: Send,
{
    match py.detach(|| catch(work)) {
        Ok(answer) => answer.map_err(PyErr::from),
        Err(message) => Err(InternalError::new_err(message)),
    }
}

/// Runs short work on what `mutex` guards, with the GIL if nobody else has the guarded thing: giving the GIL up and taking
/// it back costs more than the work. Whoever has the thing may need the GIL before it lets go, so waiting is done without.
#[inline]
pub(crate) fn quick<D: Send, T: Send>(
    py: Python<'_>,
    mutex: &Mutex<D>,
    work: impl FnOnce(&mut D) -> T + Send,
) -> PyResult<T> {
    let Ok(mut guard) = mutex.try_lock() else {
        return enter(py, || {
            let mut guard = mutex.lock().map_err(|_| Refusal::Poisoned)?;
            Ok(work(&mut guard))
        });
    };
    // The guard goes into the closure, so that a panic poisons what it guards.
    catch(move || work(&mut guard)).map_err(InternalError::new_err)
}

/// For work behind the door that takes long: an error once the user has pressed Ctrl-C (or a signal handler has raised).
///
/// Call it every few milliseconds; it takes the GIL for a moment.
pub(crate) fn check_signals() -> Result<(), Refusal> {
    Python::attach(|py| py.check_signals().map_err(Refusal::Python))
}

fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = INSIDE.replace(true);
    let answer = panic::catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    answer.map_err(|payload| {
        let place = PLACE.take().unwrap_or_else(|| "an unknown place".to_owned());
        format!("panic at {place}: {}", words(payload.as_ref()))
    })
}

fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Behind the door a panic's place is kept for the exception and nothing is printed; elsewhere the hook that was there
/// before does its work. The hook belongs to this module's own copy of the standard library, not to the process.
pub(crate) fn install_panic_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if INSIDE.get() {
                PLACE.set(info.location().map(ToString::to_string));
            } else {
                before(info);
            }
        }));
    });
}
