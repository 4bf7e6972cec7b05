//! The Internet checksum, eight bytes at a time.
use core::net::IpAddr;

/// A ones' complement sum in progress. Sums of native words fold to the same 16 bits as sums of network words do, with
/// the bytes swapped (RFC 1071), so nothing is swapped until the end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u128);

impl Sum {
    /// The sum over the pseudo header of TCP, UDP and ICMPv6.
    pub fn pseudo(source: IpAddr, target: IpAddr, protocol: u8, length: usize) -> Sum {
        let sum = match (source, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => Sum::default().add(&source.octets()).add(&target.octets()),
            (source, target) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                Sum::default().add(&octets(source)).add(&octets(target))
            }
        };
        let [.., a, b, c, d] = (length as u64).to_be_bytes();
        sum.add(&[a, b, c, d, 0, 0, 0, protocol])
    }

    /// Adds bytes that begin at an even place.
    pub fn add(self, bytes: &[u8]) -> Sum {
        // So wide a sum never carries over: nothing is folded until the end.
        let mut sum = self.0;
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for word in words {
                sum += u128::from(u64::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            sum += u128::from(u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Sum(sum + u128::from(u64::from_ne_bytes(last)))
    }

    /// The checksum to store, as its two bytes. Zero when the bytes summed up include a right one.
    pub fn finish(self) -> [u8; 2] {
        // A number and the sum of its halves are the same modulo 2^16 - 1.
        let folded = (self.0 as u64).overflowing_add((self.0 >> 64) as u64);
        let mut sum = folded.0 >> 32;
        sum += folded.0 & 0xffff_ffff;
        sum += u64::from(folded.1);
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
