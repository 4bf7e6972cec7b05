//! The machine's policy: a text that tools bring, read and carry out. A kernel only keeps it, as a part of the program that
//! the machine is asked through, so that it outlives kernels as that program does.
use crate::kernel::Kernel;
use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use minicbor::{Decode, Encode};
use shimos_abi::{
    control::Response,
    ids::ProgramId,
    policy::{MAX_POLICY, PART, Part},
};
use shimos_hal::Machine;

/// A policy's text, and the next one as far as it has come.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Policy {
    #[cbor(n(0), with = "minicbor::bytes")]
    text: Vec<u8>,
    #[n(1)]
    coming: Option<Coming>,
}

/// A text of which parts have come.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct Coming {
    #[n(0)]
    total: u32,
    #[n(1)]
    checksum: u32,
    #[cbor(n(2), with = "minicbor::bytes")]
    bytes: Vec<u8>,
}

impl Policy {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.coming.is_none()
    }

    /// Takes a part of a new text; with the last one it takes the place of the old one. A part may come twice.
    fn take(&mut self, part: &Part) -> Result<(), &'static str> {
        let (total, from) = (part.total as usize, part.from as usize);
        if total > MAX_POLICY || from.saturating_add(part.bytes.len()) > total {
            return Err("the policy is too long, or a part of it lies behind its end");
        }
        let last = from + part.bytes.len() == total;
        if last && self.is(part) {
            return Ok(());
        }
        let same = |coming: &Coming| (coming.total, coming.checksum) == (part.total, part.checksum);
        let mut coming = match self.coming.take().filter(same) {
            Some(coming) if from > 0 => coming,
            _ => Coming { total: part.total, checksum: part.checksum, bytes: Vec::new() },
        };
        if from > coming.bytes.len() {
            return Err("another policy was brought at the same time: try again");
        }
        coming.bytes.truncate(from);
        coming.bytes.extend_from_slice(&part.bytes);
        if !last {
            self.coming = Some(coming);
        } else if crc32fast::hash(&coming.bytes) == part.checksum {
            self.text = coming.bytes;
        } else {
            return Err("the policy's checksum is wrong");
        }
        Ok(())
    }

    /// Whether this is the text that a part is of.
    fn is(&self, part: &Part) -> bool {
        self.text.len() == part.total as usize && crc32fast::hash(&self.text) == part.checksum
    }

    /// A part of the text, from a place on.
    fn part(&self, from: u32) -> Part {
        let rest = self.text.get(from as usize..).unwrap_or_default();
        Part {
            total: self.text.len() as u32,
            checksum: crc32fast::hash(&self.text),
            from,
            bytes: rest.iter().take(PART).copied().collect(),
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Takes a part of the machine's policy.
    pub(crate) fn set_policy(&mut self, part: &Part) -> Response {
        let Some(resident) = self.residents.get_mut(&ProgramId::DAEMON) else { return on_its_way() };
        match resident.program.policy.take(part) {
            Ok(()) => Response::Done,
            Err(why) => Response::Failed(why.to_string()),
        }
    }

    /// Tells a part of the machine's policy.
    pub(crate) fn policy_part(&self, from: u32) -> Response {
        match self.residents.get(&ProgramId::DAEMON) {
            Some(resident) => Response::Policy(resident.program.policy.part(from)),
            None => on_its_way(),
        }
    }
}

fn on_its_way() -> Response {
    Response::Again(String::from("the program that keeps the policy is on its way to another kernel: try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &[u8]) -> Vec<Part> {
        let (total, checksum) = (text.len() as u32, crc32fast::hash(text));
        let mut from = 0;
        let mut parts = Vec::new();
        for bytes in text.chunks(PART) {
            parts.push(Part { total, checksum, from, bytes: bytes.to_vec() });
            from += bytes.len() as u32;
        }
        parts
    }

    fn text(length: usize, letter: u8) -> Vec<u8> {
        core::iter::repeat_n(letter, length).collect()
    }

    #[test]
    fn parts_make_a_text_and_may_come_twice() {
        let mut policy = Policy::default();
        let wanted = text(2 * PART + 9, b'a');
        for part in parts(&wanted) {
            assert_eq!(policy.take(&part), Ok(()));
            assert_eq!(policy.take(&part), Ok(()));
        }
        assert_eq!((&policy.text, &policy.coming), (&wanted, &None));
        assert_eq!(policy.part(2 * PART as u32).bytes.len(), 9);
        assert_eq!(policy.part(u32::MAX).bytes.len(), 0);
        // None at all.
        let nothing = Part { total: 0, checksum: 0, from: 0, bytes: Vec::new() };
        assert_eq!(policy.take(&nothing), Ok(()));
        assert!(policy.is_empty());
    }

    #[test]
    fn the_old_text_counts_until_the_new_one_is_whole() {
        let mut policy = Policy::default();
        let (old, new) = (text(10, b'o'), text(3 * PART, b'n'));
        assert_eq!(policy.take(&parts(&old)[0]), Ok(()));
        let new = parts(&new);
        assert_eq!(policy.take(&new[0]), Ok(()));
        assert_eq!(policy.text, old);
        // A part is missing, or another text comes between.
        assert!(policy.clone().take(&new[2]).is_err());
        let mut other = policy.clone();
        assert_eq!(other.take(&parts(&text(2 * PART, b'x'))[0]), Ok(()));
        assert!(other.take(&new[1]).is_err());
        let mut wrong = parts(&text(5, b'w'));
        wrong[0].checksum ^= 1;
        assert!(policy.take(&wrong[0]).is_err());
        assert_eq!(policy.text, old);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut policy = Policy::default();
        for (total, from, length) in
            [(MAX_POLICY as u32 + 1, 0, 1), (10, 0, 11), (10, 11, 0), (10, u32::MAX, 5), (u32::MAX, 0, 0)]
        {
            let part = Part { total, checksum: 0, from, bytes: text(length, b'x') };
            assert!(policy.take(&part).is_err(), "{total} {from} {length}");
            assert!(policy.is_empty());
        }
    }
}
