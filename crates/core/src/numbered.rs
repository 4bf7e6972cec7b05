//! Descriptors by their numbers. The small numbers, which nearly all calls name, are found without a search.
use crate::files::Descriptor;
use alloc::{collections::BTreeMap, vec::Vec};
use minicbor::{Decode, Decoder, Encode, Encoder, data::Type, decode, encode};
use shimos_abi::flat::{Flat, Source};

/// Numbers below this are places of an array.
const SMALL: u32 = 256;

/// A map from numbers to descriptors. It is encoded as one run of bytes, in order; before, it was encoded as a map.
#[derive(Clone, Debug, Default)]
pub struct Numbered {
    small: Vec<Option<Descriptor>>,
    large: BTreeMap<u32, Descriptor>,
    count: usize,
}

impl Numbered {
    fn of(all: Vec<(u32, Descriptor)>) -> Numbered {
        let mut numbered = Numbered::default();
        // The large ones are in order nearly always: their map is made at once.
        let (small, large): (Vec<_>, Vec<_>) = all.into_iter().partition(|(number, _)| *number < SMALL);
        for (number, descriptor) in small {
            numbered.insert(number, descriptor);
        }
        numbered.large = large.into_iter().collect();
        numbered.count += numbered.large.len();
        numbered
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }
    /// The descriptor of a number.
    #[inline]
    pub fn get(&self, number: u32) -> Option<Descriptor> {
        match self.small.get(number as usize) {
            Some(descriptor) => *descriptor,
            None => self.large.get(&number).copied(),
        }
    }
    /// The descriptor of a number, to change.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Descriptor> {
        match self.small.get_mut(number as usize) {
            Some(descriptor) => descriptor.as_mut(),
            None => self.large.get_mut(&number),
        }
    }
    /// Puts a descriptor in; returns what was there.
    pub fn insert(&mut self, number: u32, descriptor: Descriptor) -> Option<Descriptor> {
        let old = if number < SMALL {
            let place = number as usize;
            if place >= self.small.len() {
                self.small.resize(place + 1, None);
            }
            self.small.get_mut(place).and_then(|old| old.replace(descriptor))
        } else {
            self.large.insert(number, descriptor)
        };
        self.count += usize::from(old.is_none());
        old
    }
    /// Takes a descriptor out.
    pub fn remove(&mut self, number: u32) -> Option<Descriptor> {
        let old = match self.small.get_mut(number as usize) {
            Some(place) => place.take(),
            None => self.large.remove(&number),
        };
        self.count -= usize::from(old.is_some());
        old
    }
    /// The lowest number from `from` on that is free.
    pub fn free_from(&self, from: u64) -> u64 {
        let mut number = from;
        while let Some(Some(_)) = usize::try_from(number).ok().and_then(|number| self.small.get(number)) {
            number += 1;
        }
        if number < u64::from(SMALL) {
            return number;
        }
        for taken in self.large.range(number.min(u64::from(u32::MAX)) as u32..).map(|(taken, _)| u64::from(*taken)) {
            if taken != number {
                break;
            }
            number += 1;
        }
        number
    }
    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Descriptor)> + '_ {
        let small = self.small.iter().zip(0..).filter_map(|(descriptor, number)| Some((number, (*descriptor)?)));
        small.chain(self.large.iter().map(|(number, descriptor)| (*number, *descriptor)))
    }
}

impl<C> Encode<C> for Numbered {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let mut bytes = Vec::with_capacity(self.count * 9);
        self.iter().for_each(|pair| pair.write(&mut bytes));
        e.bytes(&bytes)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Numbered {
    /// Reads either form.
    fn decode(d: &mut Decoder<'b>, cx: &mut C) -> Result<Numbered, decode::Error> {
        if d.datatype()? == Type::Map {
            return d.map_iter_with(cx)?.collect::<Result<Vec<_>, _>>().map(Numbered::of);
        }
        let mut from = Source::new(d.bytes()?);
        let mut all = Vec::new();
        while !from.is_empty() {
            all.push(Flat::read(&mut from).ok_or_else(|| decode::Error::message("no descriptor"))?);
        }
        Ok(Numbered::of(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{DescriptionId, OnExec};
    use alloc::vec;

    #[test]
    fn it_does_what_a_tree_does_and_is_read_from_either_form() {
        let (mut numbered, mut tree) = (Numbered::default(), BTreeMap::new());
        let mut state = 3_u32;
        for step in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = state >> 16 & 511;
            let descriptor = Descriptor { description: DescriptionId(step), on_exec: OnExec::Keep };
            match state >> 26 & 3 {
                0 | 1 => assert_eq!(numbered.insert(number, descriptor), tree.insert(number, descriptor)),
                2 => assert_eq!(numbered.remove(number), tree.remove(&number)),
                _ => assert_eq!(numbered.get(number), tree.get(&number).copied()),
            }
            assert_eq!(numbered.len(), tree.len());
            let free = (u64::from(number)..).find(|free| !tree.contains_key(&(*free as u32)));
            assert_eq!(Some(numbered.free_from(number.into())), free);
        }
        assert!(numbered.iter().eq(tree.iter().map(|(number, descriptor)| (*number, *descriptor))));
        for form in [minicbor::to_vec(&numbered).unwrap(), minicbor::to_vec(&tree).unwrap()] {
            let back: Numbered = Decoder::new(&form).decode().unwrap();
            assert!(back.iter().eq(numbered.iter()));
            assert_eq!(back.len(), numbered.len());
        }
        let cut = minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![1, 0, 0, 0, 1, 0, 0, 0])).unwrap();
        assert!(Decoder::new(&cut).decode::<Numbered>().is_err());
    }
}
