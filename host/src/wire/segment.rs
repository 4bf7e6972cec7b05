//! TCP segments in Ethernet frames, as far as a checker needs them.

/// Flags of a segment.
pub const FIN: u8 = 1;
/// Opens.
pub const SYN: u8 = 2;
/// Ends at once.
pub const RST: u8 = 4;
/// The acknowledgement counts.
pub const ACK: u8 = 16;

/// One segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Who sends it.
    pub from: ([u8; 4], u16),
    /// Who is to get it.
    pub to: ([u8; 4], u16),
    /// Number of its first byte.
    pub seq: u32,
    /// The next byte that is expected from the other side.
    pub ack: u32,
    /// [`FIN`] and so on.
    pub flags: u8,
    /// As it is written, not scaled.
    pub window: u16,
    /// The sender's time.
    pub time: Option<u32>,
    /// What the sender's windows are to be shifted by; only where a connection opens.
    pub scale: Option<u8>,
    /// What it carries.
    pub data: &'a [u8],
}

impl Segment<'_> {
    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// The segment in a frame, if it is one of TCP over IPv4 in one piece.
pub fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    if frame.get(12..14)? != [8, 0] || packet.first()? >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    // A piece of a packet.
    if half(packet, 6)? & 0x3fff != 0 {
        return None;
    }
    let packet = packet.get(..usize::from(half(packet, 2)?))?;
    let tcp = packet.get(usize::from(packet.first()? & 15) * 4..)?;
    let offset = usize::from(tcp.get(12)? >> 4) * 4;
    let (mut time, mut scale) = (None, None);
    let mut options = tcp.get(20..offset)?;
    while let [kind, rest @ ..] = options {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(*rest.first()?).max(2),
        };
        match (kind, length) {
            (3, 3) => scale = rest.get(1).copied(),
            (8, 10) => time = word(rest, 1),
            _ => {}
        }
        options = options.get(length..)?;
    }
    Some(Segment {
        from: (packet.get(12..16)?.try_into().ok()?, half(tcp, 0)?),
        to: (packet.get(16..20)?.try_into().ok()?, half(tcp, 2)?),
        seq: word(tcp, 4)?,
        ack: word(tcp, 8)?,
        flags: *tcp.get(13)?,
        window: half(tcp, 14)?,
        time,
        scale,
        data: tcp.get(offset..)?,
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_apart_and_a_short_one_refused() {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[8, 0]);
        let tcp: Vec<u8> = [
            &[0, 80, 4, 1, 0, 0, 0, 9, 0, 0, 0, 5, 0x90, SYN | ACK, 1, 2, 0, 0, 0, 0][..],
            &[1, 3, 3, 7, 8, 10, 0, 0, 0, 77, 0, 0, 0, 0, 1, 1][..],
            b"hello",
        ]
        .concat();
        let length = 20 + tcp.len() as u8;
        frame.extend_from_slice(&[0x45, 0, 0, length, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 77, 1, 2, 10, 77, 0, 2]);
        frame.extend_from_slice(&tcp);
        // Ethernet fills short frames up.
        frame.extend_from_slice(&[0; 3]);
        let segment = parse(&frame).expect("a segment");
        assert_eq!((segment.from, segment.to), (([10, 77, 1, 2], 80), ([10, 77, 0, 2], 1025)));
        assert_eq!((segment.seq, segment.ack, segment.window), (9, 5, 258));
        assert_eq!((segment.time, segment.scale, segment.data), (Some(77), Some(7), &b"hello"[..]));
        assert!(segment.has(SYN | ACK) && !segment.has(FIN));
        for end in 0..frame.len() - 3 {
            assert_eq!(parse(&frame[..end]), None, "{end}");
        }
    }
}
