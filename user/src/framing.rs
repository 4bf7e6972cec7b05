//! Messages of the control protocol: one CBOR item behind its length.
use shimos_abi::control::MAX_MESSAGE;

/// Bytes of the length in front of a message.
pub const PREFIX: usize = 4;

/// A message that cannot be a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong(pub usize);

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a message of {} bytes; the most is {MAX_MESSAGE}", self.0)
    }
}

/// Length of the whole first message in `bytes` with its prefix, once all of it is there.
pub fn complete(bytes: &[u8]) -> Result<Option<usize>, TooLong> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MAX_MESSAGE {
        return Err(TooLong(length));
    }
    Ok((bytes.len() >= PREFIX + length).then_some(PREFIX + length))
}

/// Puts the length in front of an encoded item.
pub fn frame(item: &[u8]) -> Result<Vec<u8>, TooLong> {
    if item.len() > MAX_MESSAGE {
        return Err(TooLong(item.len()));
    }
    let mut bytes = Vec::with_capacity(PREFIX + item.len());
    bytes.extend_from_slice(&(item.len() as u32).to_le_bytes());
    bytes.extend_from_slice(item);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_complete_when_all_of_it_is_there() {
        let bytes = frame(b"hello").expect("short");
        for have in 0..bytes.len() {
            assert_eq!(complete(&bytes[..have]), Ok(None));
        }
        assert_eq!(complete(&bytes), Ok(Some(9)));
        let mut two = bytes.clone();
        two.extend_from_slice(&bytes);
        assert_eq!(complete(&two), Ok(Some(9)));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused() {
        assert_eq!(complete(&u32::MAX.to_le_bytes()), Err(TooLong(u32::MAX as usize)));
        assert!(frame(&vec![0; MAX_MESSAGE + 1]).is_err());
    }
}
