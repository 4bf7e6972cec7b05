//! Values that keep their encoded form until they are changed: what a checkpoint finds unchanged it only copies.
use crate::sealed::Sealed;
use core::{
    cell::RefCell,
    fmt,
    ops::{Deref, DerefMut},
};
use minicbor::{
    Decode, Encode,
    decode::{self, Decoder},
    encode::{self, Encoder, Write},
};

/// A form that is longer is not kept: the memory would be used twice for what is copied anyway.
const LONGEST: usize = 4096;

/// A value and, if it was encoded since it last could change, its encoded form. Whoever borrows it to change it makes the
/// form void, so it must not change in any other way.
pub struct Kept<T> {
    value: T,
    /// Empty if there is none: no value has an empty form.
    form: RefCell<Sealed>,
}

impl<T> Kept<T> {
    /// Of a value.
    pub const fn new(value: T) -> Kept<T> {
        Kept { value, form: RefCell::new(Sealed::new()) }
    }
    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Kept<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // The memory stays: it will be needed again.
        self.form.get_mut().clear();
        &mut self.value
    }
}

impl<T> From<T> for Kept<T> {
    fn from(value: T) -> Kept<T> {
        Kept::new(value)
    }
}

impl<T: Default> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept::new(T::default())
    }
}

impl<T: Clone> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept::new(self.value.clone())
    }
}

impl<T: PartialEq> PartialEq for Kept<T> {
    fn eq(&self, other: &Kept<T>) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Kept<T> {}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<C, T: Encode<C>> Encode<C> for Kept<T> {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
        let Ok(mut form) = self.form.try_borrow_mut() else { return self.value.encode(e, ctx) };
        if form.is_empty() {
            let mut bytes = form.take_memory();
            if Encoder::new(&mut bytes).encode_with(&self.value, ctx).is_err() {
                return self.value.encode(e, ctx);
            }
            *form = Sealed::of(bytes);
        } else {
            #[cfg(feature = "verify")]
            {
                let mut bytes = alloc::vec::Vec::new();
                let _ = Encoder::new(&mut bytes).encode_with(&self.value, ctx);
                assert!(bytes == form.get(), "a kept form is not that of its value");
            }
        }
        let bytes = form.get();
        let written = e.writer_mut().write_all(bytes).map_err(encode::Error::write);
        if bytes.len() > LONGEST {
            *form = Sealed::new();
        }
        written
    }

    fn is_nil(&self) -> bool {
        self.value.is_nil()
    }
}

impl<'b, C, T: Decode<'b, C>> Decode<'b, C> for Kept<T> {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Kept<T>, decode::Error> {
        T::decode(d, ctx).map(Kept::new)
    }

    fn nil() -> Option<Kept<T>> {
        T::nil().map(Kept::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use core::cell::Cell;

    /// Counts how often it is encoded.
    #[derive(Default)]
    struct Counted(Vec<u64>, Cell<u32>);

    impl<C> Encode<C> for Counted {
        fn encode<W: Write>(&self, e: &mut Encoder<W>, ctx: &mut C) -> Result<(), encode::Error<W::Error>> {
            self.1.set(self.1.get() + 1);
            self.0.encode(e, ctx)
        }
    }

    #[test]
    fn a_form_is_made_anew_only_after_a_change() {
        let mut kept = Kept::new(Counted(vec![1, 2, 3], Cell::new(0)));
        let plain = minicbor::to_vec(vec![1_u64, 2, 3]).unwrap_or_default();
        for _ in 0..3 {
            assert_eq!(minicbor::to_vec(&kept).unwrap_or_default(), plain);
        }
        // Where forms are compared with their values, those are encoded more often.
        assert!(kept.1.get() == 1 || cfg!(feature = "verify"));
        kept.0.push(4);
        let encoded = minicbor::to_vec(&kept).unwrap_or_default();
        assert_eq!(encoded, minicbor::to_vec(vec![1_u64, 2, 3, 4]).unwrap_or_default());
        assert!(kept.1.get() == 2 || cfg!(feature = "verify"));
        assert_eq!(
            minicbor::decode::<Kept<Vec<u64>>>(&encoded).map(Kept::into_inner).unwrap_or_default(),
            [1, 2, 3, 4]
        );
    }

    #[test]
    fn long_forms_are_not_kept_but_right() {
        let kept = Kept::new(Counted((0..10_000).collect(), Cell::new(0)));
        let plain = minicbor::to_vec(&kept.0).unwrap_or_default();
        assert_eq!(minicbor::to_vec(&kept).unwrap_or_default(), plain);
        assert_eq!(minicbor::to_vec(&kept).unwrap_or_default(), plain);
        assert_eq!(kept.1.get(), 2);
        // The form of a copy is its own.
        let mut first = Kept::new(vec![1_u64]);
        let _ = minicbor::to_vec(&first);
        let second = first.clone();
        first.push(2);
        assert_eq!(minicbor::to_vec(&second).unwrap_or_default(), minicbor::to_vec(vec![1_u64]).unwrap_or_default());
    }
}
