//! The Internet checksum, eight bytes at a time.
use core::net::Ipv4Addr;
use smoltcp::wire::IpProtocol;

/// A ones' complement sum in progress. Sums of native words fold to the same 16 bits as sums of network words do, with
/// the bytes swapped (RFC 1071), so nothing is swapped until the end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// The sum over the pseudo header of TCP and UDP.
    pub fn pseudo(source: Ipv4Addr, target: Ipv4Addr, protocol: IpProtocol, length: usize) -> Sum {
        let mut header = [0; 12];
        header[..4].copy_from_slice(&source.octets());
        header[4..8].copy_from_slice(&target.octets());
        header[9] = protocol.into();
        header[10..].copy_from_slice(&(length as u16).to_be_bytes());
        Sum::default().add(&header)
    }

    /// Adds bytes that begin at an even place.
    pub fn add(self, bytes: &[u8]) -> Sum {
        let mut sum = self.0;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            sum = add(sum, u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Sum(add(sum, u64::from_ne_bytes(last)))
    }

    /// The checksum to store, as its two bytes. Zero when the bytes summed up include a right one.
    pub fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_ne_bytes()
    }

    /// Whether the bytes summed up, which include their checksum, are whole.
    pub fn is_valid(self) -> bool {
        self.finish() == [0, 0]
    }
}

fn add(sum: u64, word: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(word);
    sum + u64::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn agrees_with_the_definition() {
        let bytes: Vec<u8> = (0..1500u32).map(|i| ((i * 37) ^ (i >> 3)) as u8).collect();
        for length in [0, 1, 2, 7, 8, 9, 63, 1499, 1500] {
            let mut sum = 0u32;
            for pair in bytes[..length].chunks(2) {
                sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(Sum::default().add(&bytes[..length]).finish(), (!(sum as u16)).to_be_bytes(), "{length}");
        }
    }
}
