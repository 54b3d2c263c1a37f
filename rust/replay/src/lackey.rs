//! The importer: text of valgrind's lackey, joined with heap events, to event columns.
//!
//! Models the stream that `tagvisor record` produces. lackey prints a line per access (` L addr,size`,
//! ` S addr,size`, ` M addr,size`, and `I  addr,size` for instructions); the preloaded heap wrapper
//! (`python/tagvisor/trace/preload.c`, where the protocol is described) stores to a window of addresses that
//! nothing else uses, so its messages arrive as `S` lines between the accesses they belong to.
//!
//! Leaves out instruction lines, and the accesses that the recorded program's allocator makes for itself:
//! replay puts another allocator in its place. An `M` line, a read-modify-write, becomes a load and a store.
//!
//! Invariant: the text may arrive cut anywhere; the events are the same however it is cut. A line that is
//! neither an access nor a message of valgrind is an error with its number, never skipped.

use crate::record::{ADDR_LIMIT, Columns, Event, MAX_ACCESS, Op};
use rustc_hash::FxHashSet;
use thiserror::Error;

/// First address of the window that heap events are sent to. Low, because the largest address that valgrind
/// gives to a program differs between its versions; between a program's heap and valgrind's own image.
pub const WINDOW: u64 = 0x5eed_0000;
/// Lanes of 64 KiB in the window: commit, three for the pointer, four for the size, three for the old pointer.
pub const LANES: u64 = 11;

const WINDOW_END: u64 = WINDOW + (LANES << 16);
const MESSAGES_KEPT: usize = 32;
const MESSAGE_CHARS: usize = 200;

/// A line that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LackeyError {
    /// Neither an access, nor an instruction, nor a message of valgrind.
    #[error("line {line}: {text:?} is not lackey output")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// The line, shortened.
        text: String,
    },
    /// A heap event of an unknown kind: wrapper and importer are of different versions.
    #[error("line {line}: heap event {op} is unknown")]
    HeapEvent {
        /// Its number, from 1.
        line: u64,
        /// The operation that was committed.
        op: u64,
    },
}

/// What has been imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines of text, messages included.
    pub lines: u64,
    /// Loads that became events.
    pub loads: u64,
    /// Stores that became events.
    pub stores: u64,
    /// Allocations.
    pub mallocs: u64,
    /// Releases.
    pub frees: u64,
    /// Allocations resized.
    pub reallocs: u64,
    /// Accesses left out because the program's allocator made them.
    pub allocator_accesses: u64,
}

impl Tally {
    /// Loads and stores.
    pub fn accesses(&self) -> u64 {
        self.loads + self.stores
    }
}

/// The streaming importer: text in, columns out.
#[derive(Clone, Debug, Default)]
pub struct Importer {
    /// The unfinished line at the end of the text so far.
    carry: Vec<u8>,
    columns: Columns,
    tally: Tally,
    max_accesses: Option<u64>,
    pointer: u64,
    size: u64,
    old_pointer: u64,
    in_allocator: bool,
    hello: bool,
    pages: FxHashSet<u64>,
    last_page: Option<u64>,
    messages: Vec<String>,
}

impl Importer {
    /// An importer that stops taking events after `max_accesses` accesses, if given.
    pub fn new(max_accesses: Option<u64>) -> Self {
        Self {
            max_accesses,
            ..Self::default()
        }
    }

    /// Takes the next piece of text, cut anywhere.
    pub fn feed(&mut self, text: &[u8]) -> Result<(), LackeyError> {
        let mut rest = text;
        if !self.carry.is_empty() {
            let Some(end) = rest.iter().position(|&b| b == b'\n') else {
                self.carry.extend_from_slice(rest);
                return Ok(());
            };
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&rest[..end]);
            self.line(&line)?;
            rest = &rest[end + 1..];
        }
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            self.line(&rest[..end])?;
            rest = &rest[end + 1..];
        }
        self.carry.extend_from_slice(rest);
        Ok(())
    }

    /// The events since the last call.
    pub fn drain(&mut self) -> Columns {
        std::mem::take(&mut self.columns)
    }

    /// What has been imported so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// True when `max_accesses` are reached: what follows is ignored.
    pub fn is_full(&self) -> bool {
        self.max_accesses.is_some_and(|max| self.tally.accesses() >= max)
    }

    /// True once the heap wrapper has reported: the program is one that can be preloaded.
    pub fn heap_seen(&self) -> bool {
        self.hello
    }

    /// Distinct 4 KiB pages that the events touch, heap events that are coloured included.
    pub fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// valgrind's own messages, the first few.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    fn line(&mut self, line: &[u8]) -> Result<(), LackeyError> {
        self.tally.lines += 1;
        match line {
            [b'I', b' ', ..] => Ok(()),
            [b' ', kind @ (b'L' | b'S' | b'M'), b' ', rest @ ..] => {
                let (addr, size) = parse_access(rest).ok_or_else(|| self.malformed(line))?;
                if (WINDOW..WINDOW_END).contains(&addr) {
                    // The wrapper only stores; a load there is a program's wild read and nothing to record.
                    if *kind == b'S' {
                        self.heap_message(addr - WINDOW)
                    } else {
                        Ok(())
                    }
                } else {
                    self.access(*kind, addr, size);
                    Ok(())
                }
            }
            [b'=', b'=', ..] | [b'-', b'-', ..] | [b'*', b'*', ..] | [] => {
                self.message(line);
                Ok(())
            }
            _ if line.starts_with(b"valgrind:") => {
                self.message(line);
                Ok(())
            }
            _ => Err(self.malformed(line)),
        }
    }

    #[inline]
    fn access(&mut self, kind: u8, addr: u64, size: u32) {
        if self.in_allocator {
            self.tally.allocator_accesses += 1;
            return;
        }
        if kind != b'S' && !self.is_full() {
            self.columns.push(Event {
                addr,
                size,
                op: Op::Load,
            });
            self.tally.loads += 1;
            self.touch(addr, u64::from(size));
        }
        if kind != b'L' && !self.is_full() {
            self.columns.push(Event {
                addr,
                size,
                op: Op::Store,
            });
            self.tally.stores += 1;
            self.touch(addr, u64::from(size));
        }
    }

    fn heap_message(&mut self, offset: u64) -> Result<(), LackeyError> {
        let (lane, payload) = (offset >> 16, offset & 0xffff);
        match lane {
            1..=3 => self.pointer |= payload << (16 * (lane - 1)),
            4..=7 => self.size |= payload << (16 * (lane - 4)),
            8..=10 => self.old_pointer |= payload << (16 * (lane - 8)),
            _ => return self.commit(payload),
        }
        Ok(())
    }

    fn commit(&mut self, op: u64) -> Result<(), LackeyError> {
        let addr = std::mem::take(&mut self.pointer);
        let size = u32::try_from(std::mem::take(&mut self.size)).unwrap_or(u32::MAX);
        let old = std::mem::take(&mut self.old_pointer);
        match op {
            1 => self.hello = true,
            2 => self.in_allocator = true,
            3 => {
                self.tally.mallocs += u64::from(!self.is_full());
                self.heap_event(&[Event {
                    addr,
                    size,
                    op: Op::Malloc,
                }]);
                self.in_allocator = false;
            }
            4 => {
                self.tally.frees += u64::from(!self.is_full());
                self.heap_event(&[Event {
                    addr,
                    size: 0,
                    op: Op::Free,
                }]);
                self.in_allocator = true;
            }
            5 => {
                self.tally.reallocs += u64::from(!self.is_full());
                self.heap_event(&[
                    Event {
                        addr: old,
                        size: 0,
                        op: Op::ReallocFrom,
                    },
                    Event {
                        addr,
                        size,
                        op: Op::Realloc,
                    },
                ]);
                self.in_allocator = false;
            }
            6 => self.in_allocator = false,
            _ => {
                return Err(LackeyError::HeapEvent {
                    line: self.tally.lines,
                    op,
                });
            }
        }
        Ok(())
    }

    fn heap_event(&mut self, events: &[Event]) {
        if self.is_full() {
            return;
        }
        for &event in events {
            self.columns.push(event);
            if u64::from(event.size) <= crate::heap::LARGEST_COLOURED && event.size > 0 {
                self.touch(event.addr.saturating_sub(16), u64::from(event.size) + 32);
            }
        }
    }

    #[inline]
    fn touch(&mut self, addr: u64, bytes: u64) {
        for page in addr >> 12..=(addr + bytes - 1) >> 12 {
            if self.last_page != Some(page) {
                self.last_page = Some(page);
                self.pages.insert(page);
            }
        }
    }

    fn message(&mut self, line: &[u8]) {
        if self.messages.len() < MESSAGES_KEPT {
            self.messages.push(shorten(line));
        }
    }

    fn malformed(&self, line: &[u8]) -> LackeyError {
        LackeyError::Line {
            line: self.tally.lines,
            text: shorten(line),
        }
    }
}

fn shorten(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(MESSAGE_CHARS).collect()
}

/// `addr,size`: hexadecimal without prefix, decimal.
#[inline]
fn parse_access(text: &[u8]) -> Option<(u64, u32)> {
    let mut addr = 0_u64;
    let mut at = 0;
    while let Some(digit) = text.get(at).and_then(|&b| hex_digit(b)) {
        if addr >> 60 != 0 {
            return None;
        }
        addr = addr << 4 | u64::from(digit);
        at += 1;
    }
    if at == 0 || addr >= ADDR_LIMIT || text.get(at) != Some(&b',') {
        return None;
    }
    let digits = &text[at + 1..];
    if digits.is_empty() || digits.len() > 4 {
        return None;
    }
    let mut size = 0_u32;
    for &b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        size = size * 10 + u32::from(b - b'0');
    }
    (1..=MAX_ACCESS).contains(&size).then_some((addr, size))
}

#[inline]
fn hex_digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
