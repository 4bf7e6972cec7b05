//! Numbers that outsiders cannot guess, from a key that moves with the stack.
use crate::{
    endpoint::{Endpoint, Tuple},
    tcp::Seq,
};
use core::{hash::Hasher, net::IpAddr};
use minicbor::{Decode, Encode};
use shimos_abi::time::Nanos;
use siphasher::sip::SipHasher13;

#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Secret {
    #[n(0)]
    key: (u64, u64),
    /// Counts the random numbers given.
    #[n(1)]
    count: u64,
}

impl Secret {
    pub fn new(seed: u64) -> Secret {
        let derive = |what| {
            let mut hasher = SipHasher13::new_with_keys(seed, what);
            hasher.write_u64(seed);
            hasher.finish()
        };
        Secret { key: (derive(1), derive(2)), count: 0 }
    }

    fn hash(&self, purpose: u64, tuple: Option<Tuple>) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1 ^ purpose);
        if let Some(tuple) = tuple {
            for end in [tuple.local, tuple.remote] {
                match end.address {
                    IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
                    IpAddr::V6(v6) => hasher.write(&v6.octets()),
                }
                hasher.write_u16(end.port);
            }
        }
        hasher.write_u64(if tuple.is_none() { self.count } else { 0 });
        hasher.finish()
    }

    /// The first sequence number of a connection (RFC 6528). It grows with time, so that a successor of the same name
    /// begins after its predecessor.
    pub fn sequence(&self, tuple: Tuple, now: Nanos) -> Seq {
        Seq(self.hash(1, Some(tuple)) as u32) + (now.0 >> 6) as u32
    }

    /// What the timestamps of a connection are ahead of the clock.
    pub fn offset(&self, tuple: Tuple) -> u32 {
        // By address only, so that timestamps also grow from one connection to the next (RFC 7323, appendix B.2).
        let mut pair = tuple;
        pair.local.port = 0;
        pair.remote.port = 0;
        self.hash(2, Some(pair)) as u32
    }

    /// Which of the listeners that share a port gets a connection.
    pub fn choice(&self, tuple: Tuple) -> u64 {
        self.hash(3, Some(tuple))
    }

    /// Where the search for a port of a new connection to `remote` begins (RFC 6056, algorithm 3).
    pub fn first_port(&self, local: IpAddr, remote: Endpoint) -> u64 {
        self.hash(5, Some(Tuple { local: Endpoint::new(local, 0), remote }))
    }

    /// What makes a SYN cookie of this connection and this number: nobody else can.
    pub fn cookie(&self, tuple: Tuple, number: u64) -> u32 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1 ^ 6);
        hasher.write_u64(self.hash(6, Some(tuple)));
        hasher.write_u64(number);
        hasher.finish() as u32
    }

    /// A random number.
    pub fn random(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        self.hash(4, None)
    }
}
