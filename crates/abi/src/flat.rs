//! The form in which what a program has by the thousand is saved, like connections: fields one behind the other, numbers in full and
//! little-endian. A taker reads all of them before the program runs, and numbered fields take ten times as long to read.
//!
//! The first byte is the version. Before it there were numbered fields; who reads finds out by the type and takes both.
//! Fields are added at the end, under a new version. What is read is hostile: nothing is taken that is not there, and every
//! value is one that could have been written; whether they fit together is for `validate` to say.
use crate::{errno::Errno, time::Nanos};
use alloc::{boxed::Box, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Deref, DerefMut},
};
use minicbor::{
    Decode, Encode,
    data::Type,
    decode::{self, Decoder},
    encode::{self, Encoder, Write},
};

/// The only version so far.
const VERSION: u8 = 1;

/// What is still to be read. It goes by value to code that is not inlined, so that it can stay in registers.
#[derive(Clone, Copy)]
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// All of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Source<'a> {
        Source(bytes)
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline(always)]
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }

    /// A run of bytes behind its length.
    #[inline(always)]
    pub fn run(&mut self) -> Option<&'a [u8]> {
        let length = u32::read(self)?;
        let (run, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(run)
    }
}

/// What has such a form.
pub trait Flat: Sized {
    /// Appends the form.
    fn write(&self, to: &mut Vec<u8>);
    /// Reads a value.
    fn read(from: &mut Source<'_>) -> Option<Self>;
    /// Reads a value into its place. A large structure is not moved about then. Without success something is there.
    #[inline(always)]
    fn read_into(&mut self, from: &mut Source<'_>) -> Option<()> {
        *self = Self::read(from)?;
        Some(())
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Flat for $number {
            #[inline(always)]
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
            #[inline(always)]
            fn read(from: &mut Source<'_>) -> Option<$number> {
                from.chunk().map(<$number>::from_le_bytes)
            }
        })*
    };
}
numbers!(u8, u16, u32, u64, i32);

impl Flat for bool {
    #[inline(always)]
    fn write(&self, to: &mut Vec<u8>) {
        to.push(u8::from(*self));
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<bool> {
        match u8::read(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Flat> Flat for Option<T> {
    #[inline]
    fn write(&self, to: &mut Vec<u8>) {
        self.is_some().write(to);
        if let Some(value) = self {
            value.write(to);
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Option<T>> {
        if bool::read(from)? { T::read(from).map(Some) } else { Some(None) }
    }
}

impl<T: Flat + Default> Flat for Box<T> {
    fn write(&self, to: &mut Vec<u8>) {
        (**self).write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Box<T>> {
        let (value, rest) = read_boxed(*from)?;
        *from = rest;
        Some(value)
    }
}

#[inline(never)]
fn read_boxed<T: Flat + Default>(mut from: Source<'_>) -> Option<(Box<T>, Source<'_>)> {
    let mut value = Box::<T>::default();
    T::read_into(&mut value, &mut from)?;
    Some((value, from))
}

impl<A: Flat, B: Flat> Flat for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<(A, B)> {
        Some((A::read(from)?, B::read(from)?))
    }
}

impl<T: Flat> Flat for Vec<T> {
    fn write(&self, to: &mut Vec<u8>) {
        (self.len() as u32).write(to);
        self.iter().for_each(|value| value.write(to));
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Vec<T>> {
        match u32::read(from)? {
            0 => Some(Vec::new()),
            count => {
                let (all, rest) = read_many(count, *from)?;
                *from = rest;
                Some(all)
            }
        }
    }
}

/// Memory is taken for what is there, not for what is promised.
#[inline(never)]
fn read_many<T: Flat>(count: u32, mut from: Source<'_>) -> Option<(Vec<T>, Source<'_>)> {
    let all = (0..count).map(|_| T::read(&mut from)).collect::<Option<_>>()?;
    Some((all, from))
}

impl Flat for Nanos {
    #[inline(always)]
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Nanos> {
        u64::read(from).map(Nanos)
    }
}

impl Flat for Errno {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<Errno> {
        u16::read(from).map(Errno)
    }
}

impl Flat for IpAddr {
    #[inline]
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            IpAddr::V4(v4) => {
                to.push(4);
                to.extend_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                to.push(6);
                to.extend_from_slice(&v6.octets());
            }
        }
    }
    #[inline(always)]
    fn read(from: &mut Source<'_>) -> Option<IpAddr> {
        match u8::read(from)? {
            4 => from.chunk().map(|octets| Ipv4Addr::from_octets(octets).into()),
            6 => from.chunk().map(|octets| Ipv6Addr::from_octets(octets).into()),
            _ => None,
        }
    }
}

/// A structure whose fields lie one behind the other. All that are saved must be named, in the order in which they lie; those
/// after the semicolon are not saved. A structure that is `rare`ly other than it was at first is one byte as long as it is not.
#[macro_export]
macro_rules! flat {
    ($name:ident { $($field:tt),* $(,)? $(; $($fresh:ident),*)? }) => {
        impl $crate::flat::Flat for $name {
            fn write(&self, to: &mut alloc::vec::Vec<u8>) {
                $(self.$field.write(to);)*
            }
            #[inline(always)]
            fn read(from: &mut $crate::flat::Source<'_>) -> Option<$name> {
                Some($name { $($field: $crate::flat::Flat::read(from)?,)* $($($fresh: Default::default(),)*)? })
            }
            #[inline(always)]
            fn read_into(&mut self, from: &mut $crate::flat::Source<'_>) -> Option<()> {
                $($crate::flat::Flat::read_into(&mut self.$field, from)?;)*
                $($(self.$fresh = Default::default();)*)?
                Some(())
            }
        }
    };
    (rare $name:ident { $($field:tt),* $(,)? }) => {
        impl $crate::flat::Flat for $name {
            fn write(&self, to: &mut alloc::vec::Vec<u8>) {
                let changed = *self != $name::default();
                changed.write(to);
                if changed {
                    $(self.$field.write(to);)*
                }
            }
            #[inline(always)]
            fn read(from: &mut $crate::flat::Source<'_>) -> Option<$name> {
                #[inline(never)]
                fn changed(mut from: $crate::flat::Source<'_>) -> Option<($name, $crate::flat::Source<'_>)> {
                    let value = $name { $($field: $crate::flat::Flat::read(&mut from)?,)* };
                    Some((value, from))
                }
                if !bool::read(from)? {
                    return Some($name::default());
                }
                let (value, rest) = changed(*from)?;
                *from = rest;
                Some(value)
            }
        }
    };
}

/// Appends a part that has numbered fields all the same.
pub fn write_numbered<T: Encode<()>>(value: &T, to: &mut Vec<u8>) {
    let bytes = minicbor::to_vec(value).unwrap_or_default();
    (bytes.len() as u32).write(to);
    to.extend_from_slice(&bytes);
}

/// The same back.
#[inline(always)]
pub fn read_numbered<T: for<'b> Decode<'b, ()>>(from: &mut Source<'_>) -> Option<T> {
    minicbor::decode(from.run()?).ok()
}

/// A value that is saved in this form.
#[derive(Clone, Debug)]
pub struct Flatly<T>(Box<T>);

impl<T> From<T> for Flatly<T> {
    fn from(value: T) -> Flatly<T> {
        Flatly(Box::new(value))
    }
}

impl<T> Deref for Flatly<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Flatly<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<C, T: Flat> Encode<C> for Flatly<T> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let mut bytes = Vec::with_capacity(512);
        VERSION.write(&mut bytes);
        self.0.write(&mut bytes);
        e.bytes(&bytes)?.ok()
    }
}

impl<'b, C, T: Flat + Default + Decode<'b, C>> Decode<'b, C> for Flatly<T> {
    /// Reads either form.
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Flatly<T>, decode::Error> {
        if d.datatype()? != Type::Bytes {
            return T::decode(d, ctx).map(Flatly::from);
        }
        let mut from = Source(d.bytes()?);
        if u8::read(&mut from) != Some(VERSION) {
            return Err(decode::Error::message("of another version"));
        }
        match read_boxed(from) {
            Some((value, rest)) if rest.is_empty() => Ok(Flatly(value)),
            _ => Err(decode::Error::message("no such structure")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Encode, Decode)]
    struct Pair {
        #[n(0)]
        a: u32,
        #[n(1)]
        b: Option<u16>,
        #[n(2)]
        c: Vec<(u8, bool)>,
        #[cbor(skip)]
        fresh: bool,
    }
    flat!(Pair { a, b, c; fresh });

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Old(#[n(0)] Pair);
    #[derive(Debug, Encode, Decode)]
    struct New(#[n(0)] Flatly<Pair>);

    fn pair() -> Pair {
        Pair { a: 0x0102_0304, b: Some(7), c: [(1, true), (2, false)].to_vec(), fresh: false }
    }

    #[test]
    fn both_forms_are_read() {
        let bytes = minicbor::to_vec(New(pair().into())).unwrap();
        assert_eq!(bytes, [0x81, 0x50, 1, 4, 3, 2, 1, 1, 7, 0, 2, 0, 0, 0, 1, 1, 2, 0]);
        assert_eq!(*minicbor::decode::<New>(&bytes).unwrap().0, pair());
        let old = minicbor::to_vec(Old(pair())).unwrap();
        assert_eq!(*minicbor::decode::<New>(&old).unwrap().0, pair());
    }

    #[test]
    fn what_is_short_long_or_no_value_is_refused() {
        let form = |bytes: &[u8]| {
            let mut all = [0x81, 0x40 + bytes.len() as u8].to_vec();
            all.extend_from_slice(bytes);
            minicbor::decode::<New>(&all).map(|found| *found.0.0)
        };
        let good = [1, 4, 3, 2, 1, 1, 7, 0, 2, 0, 0, 0, 1, 1, 2, 0];
        assert_eq!(form(&good).unwrap(), pair());
        for short in 0..good.len() {
            assert!(form(&good[..short]).is_err(), "{short} bytes");
        }
        assert!(form(&[&good[..], &[0]].concat()).is_err());
        // Another version, an option that is neither, a truth that is neither, more than there is.
        for (at, value) in [(0, 2), (5, 2), (13, 2), (8, 255), (11, 255)] {
            let mut bad = good;
            bad[at] = value;
            assert!(form(&bad).is_err(), "{value} at {at}");
        }
        let mut seed = 7_u32;
        for _ in 0..50_000 {
            let mut wild = good;
            for byte in &mut wild {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if seed >> 28 == 0 {
                    *byte = (seed >> 16) as u8;
                }
            }
            let _ = form(&wild);
        }
    }
}
