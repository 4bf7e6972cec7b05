//! Answers to questions of rtnetlink(7).
use super::{
    Manners, NetlinkSocket,
    attributes::{Builder, Request},
};
use alloc::{vec, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use shimos_abi::{errno::Errno, time::Nanos};
use shimos_net::{CARD_INDEX, Config, Freshness, INTERFACES, LOOPBACK_INDEX, Stack, Traffic};

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Types below this are no questions.
const FIRST: u16 = 16;
/// Types up to here are known to Linux.
const LAST: u16 = 119;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;

const REQUEST: u16 = 1;
const MULTI: u16 = 2;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CAPPED: u16 = 0x100;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const SCOPE_GLOBAL: u8 = 0;
const SCOPE_SITE: u8 = 200;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const FOREVER: u32 = u32::MAX;

/// What a question is answered from.
struct Scene<'a> {
    net: &'a Stack,
    config: Config,
    now: Nanos,
    port: u32,
    manners: Manners,
}

/// Answers all messages of a datagram.
pub fn answer(net: &Stack, now: Nanos, socket: &mut NetlinkSocket, mut bytes: &[u8]) {
    let scene = Scene { net, config: net.config(), now, port: socket.port, manners: socket.manners };
    while let Some((request, rest)) = Request::parse(bytes) {
        bytes = rest;
        if request.flags & REQUEST == 0 {
            continue;
        }
        let outcome = if request.kind < FIRST { Ok(Vec::new()) } else { scene.answer(&request) };
        match outcome {
            Ok(messages) if request.flags & DUMP == DUMP && request.kind >= FIRST => socket.push(messages),
            Ok(mut messages) => {
                if request.flags & ACK != 0 {
                    messages.push(scene.verdict(&request, None));
                }
                socket.push(messages);
            }
            Err(error) => socket.push(vec![scene.verdict(&request, Some(error))]),
        }
    }
}

impl Scene<'_> {
    /// An error, or the acknowledgement that there was none.
    fn verdict(&self, request: &Request<'_>, error: Option<Errno>) -> Vec<u8> {
        let code = error.map_or(0, |error| -i32::from(error.0));
        let whole = error.is_some() && !self.manners.contains(Manners::SHORT_ERRORS);
        let flags = if whole { 0 } else { CAPPED };
        let quoted = if whole { request.whole } else { request.whole.get(..super::HEADER).unwrap_or_default() };
        Builder::new(ERROR, flags, request.sequence, self.port).bytes(&code.to_le_bytes()).bytes(quoted).finish()
    }

    fn answer(&self, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        const GET: u16 = 2;
        if request.kind > LAST {
            return Err(Errno::EOPNOTSUPP);
        }
        if request.kind & 3 != GET {
            return Err(Errno::EPERM);
        }
        let dump = request.flags & DUMP == DUMP;
        let messages = match (request.kind, dump) {
            (GET_LINK, true) => INTERFACES.iter().map(|(index, _)| self.link(request, *index)).collect(),
            (GET_LINK, false) => return self.one_link(request),
            (GET_ADDRESS, true) => self.addresses(request)?,
            (GET_ROUTE, true) => self.routes(request),
            (GET_ROUTE, false) => return self.one_route(request),
            (GET_NEIGHBOUR, true) => self.neighbours(request),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        Ok(self.finish_dump(request, messages))
    }

    /// Marks messages as parts of one answer, and ends it.
    fn finish_dump(&self, request: &Request<'_>, mut messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for message in &mut messages {
            if let Some(flags) = message.get_mut(6) {
                *flags |= MULTI as u8;
            }
        }
        let done = Builder::new(DONE, MULTI, request.sequence, self.port).bytes(&0_i32.to_le_bytes());
        messages.push(done.finish());
        messages
    }

    fn message(&self, request: &Request<'_>, kind: u16) -> Builder {
        Builder::new(kind, 0, request.sequence, self.port)
    }

    fn one_link(&self, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        const FIXED: usize = 16;
        const NAME: u16 = 3;
        const ALTERNATIVE_NAME: u16 = 53;
        if request.payload().len() < FIXED {
            return Err(Errno::EINVAL);
        }
        let index = request.word(4);
        let name = request.attribute(FIXED, NAME).or(request.attribute(FIXED, ALTERNATIVE_NAME));
        let name = name.map(|name| name.split(|byte| *byte == 0).next().unwrap_or_default());
        let found = match (index, name) {
            (0, None) => return Err(Errno::EINVAL),
            (0, Some(name)) => INTERFACES.iter().find(|(_, known)| known.as_bytes() == name),
            (index, _) => INTERFACES.iter().find(|(known, _)| *known == index),
        };
        let (index, _) = found.ok_or(Errno::ENODEV)?;
        Ok(vec![self.link(request, *index)])
    }

    fn link(&self, request: &Request<'_>, index: u32) -> Vec<u8> {
        const ETHERNET: u16 = 1;
        const LOOPBACK: u16 = 772;
        let card = index == CARD_INDEX;
        let (hardware, flags) = if card { (ETHERNET, 0x1_1043_u32) } else { (LOOPBACK, 0x1_0049) };
        let name = INTERFACES.iter().find(|(known, _)| *known == index).map_or("", |(_, name)| name);
        let (mtu, least, most) = if card { (1500, 68, 65535) } else { (65536, 0, 0) };
        let (address, broadcast) = if card { (self.config.mac, [0xff; 6]) } else { ([0; 6], [0; 6]) };
        let counters = self.net.counters();
        let traffic = if card { counters.card } else { counters.loopback };
        let wide = statistics(&traffic);
        let narrow: Vec<u8> = wide.iter().flat_map(|value| (*value as u32).to_le_bytes()).collect();
        let wide: Vec<u8> = wide.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.message(request, NEW_LINK)
            .bytes(&[AF_UNSPEC, 0])
            .bytes(&hardware.to_le_bytes())
            .bytes(&index.to_le_bytes())
            .bytes(&flags.to_le_bytes())
            .bytes(&[0; 4])
            .string(3, name)
            .number(13, 1000)
            .attribute(16, &[if card { 6 } else { 0 }])
            .attribute(17, &[0])
            .number(4, mtu)
            .number(50, least)
            .number(51, most)
            .number(27, 0)
            .number(30, 0)
            .number(31, 1)
            .number(32, 1)
            .attribute(33, &[1])
            .string(6, if card { "pfifo_fast" } else { "noqueue" })
            .number(35, u32::from(card))
            .attribute(39, &[0])
            .attribute(1, &address)
            .attribute(2, &broadcast)
            .attribute(23, &wide)
            .attribute(7, &narrow)
            .finish()
    }

    fn addresses(&self, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        const FIXED: usize = 8;
        let wanted = request.byte(0);
        let strict = self.manners.contains(Manners::STRICT);
        if strict && request.payload().len() < FIXED {
            return Err(Errno::EINVAL);
        }
        let index = if strict { request.word(4) } else { 0 };
        if index != 0 && !INTERFACES.iter().any(|(known, _)| *known == index) {
            return Err(Errno::ENODEV);
        }
        let takes = |family: u8, at: u32| {
            (wanted == family || !matches!(wanted, AF_INET | AF_INET6)) && (index == 0 || index == at)
        };
        let config = &self.config;
        let mut messages = Vec::new();
        for (address, prefix, at, scope) in [
            (Ipv4Addr::LOCALHOST, 8, LOOPBACK_INDEX, SCOPE_HOST),
            (config.address, config.prefix, CARD_INDEX, SCOPE_GLOBAL),
        ] {
            if takes(AF_INET, at) {
                let broadcast = (at == CARD_INDEX).then(|| config.broadcast());
                messages.push(self.address4(request, address, prefix, at, scope, broadcast));
            }
        }
        let global = config.v6.map(|own| (own.address, own.prefix, CARD_INDEX, scope_of(own.address)));
        let fixed = [
            Some((Ipv6Addr::LOCALHOST, 128, LOOPBACK_INDEX, SCOPE_HOST)),
            global,
            Some((config.link_local(), 64, CARD_INDEX, SCOPE_LINK)),
        ];
        for (address, prefix, at, scope) in fixed.into_iter().flatten() {
            if takes(AF_INET6, at) {
                messages.push(
                    self.address_head(request, AF_INET6, prefix, at, scope)
                        .attribute(1, &address.octets())
                        .attribute(6, &lifetime())
                        .number(8, PERMANENT)
                        .finish(),
                );
            }
        }
        Ok(messages)
    }

    fn address_head(&self, request: &Request<'_>, family: u8, prefix: u8, at: u32, scope: u8) -> Builder {
        let head = [family, prefix, PERMANENT as u8, scope];
        self.message(request, NEW_ADDRESS).bytes(&head).bytes(&at.to_le_bytes())
    }

    fn address4(
        &self,
        request: &Request<'_>,
        address: Ipv4Addr,
        prefix: u8,
        at: u32,
        scope: u8,
        broadcast: Option<Ipv4Addr>,
    ) -> Vec<u8> {
        let mut message = self
            .address_head(request, AF_INET, prefix, at, scope)
            .attribute(1, &address.octets())
            .attribute(2, &address.octets());
        if let Some(broadcast) = broadcast {
            message = message.attribute(4, &broadcast.octets());
        }
        let label = if at == CARD_INDEX { "eth0" } else { "lo" };
        message.string(3, label).number(8, PERMANENT).attribute(6, &lifetime()).finish()
    }

    fn routes(&self, request: &Request<'_>) -> Vec<Vec<u8>> {
        const FIXED: usize = 12;
        const TABLE: u16 = 15;
        let wanted = request.byte(0);
        let table = match request.number(FIXED, TABLE) {
            Some(table) => table as u8,
            None if self.manners.contains(Manners::STRICT) => request.byte(4),
            None => 0,
        };
        let takes = |route: &Route| {
            let family = if route.to.is_ipv4() { AF_INET } else { AF_INET6 };
            (wanted == family || !matches!(wanted, AF_INET | AF_INET6)) && (table == 0 || table == route.table)
        };
        let routes = table_of(&self.config);
        routes.iter().filter(|route| takes(route)).map(|route| self.route(request, route, 0)).collect()
    }

    fn route(&self, request: &Request<'_>, route: &Route, flags: u32) -> Vec<u8> {
        let family = if route.to.is_ipv4() { AF_INET } else { AF_INET6 };
        let mut message = self
            .message(request, NEW_ROUTE)
            .bytes(&[family, route.prefix, 0, 0, route.table, route.origin, route.scope, route.kind])
            .bytes(&flags.to_le_bytes())
            .number(15, route.table.into());
        if route.prefix > 0 {
            message = with_address(message, 1, route.to);
        }
        if let Some(metric) = route.metric {
            message = message.number(6, metric);
        }
        if let Some(gateway) = route.gateway {
            message = with_address(message, 5, gateway);
        }
        if let Some(source) = route.source {
            message = with_address(message, 7, source);
        }
        message = message.number(4, route.device);
        if route.to.is_ipv6() {
            message = message.attribute(12, &[0; 32]).attribute(20, &[0]);
        }
        message.finish()
    }

    /// Which way packets to an address go.
    fn one_route(&self, request: &Request<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        const FIXED: usize = 12;
        const TO: u16 = 1;
        const CLONED: u32 = 0x200;
        let to: IpAddr = match (request.byte(0), request.attribute(FIXED, TO)) {
            (AF_INET, None) => Ipv4Addr::UNSPECIFIED.into(),
            (AF_INET, Some(bytes)) => Ipv4Addr::from_octets(*bytes.first_chunk::<4>().ok_or(Errno::EINVAL)?).into(),
            (AF_INET6, None) => Ipv6Addr::UNSPECIFIED.into(),
            (AF_INET6, Some(bytes)) => Ipv6Addr::from_octets(*bytes.first_chunk::<16>().ok_or(Errno::EINVAL)?).into(),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let config = &self.config;
        let local = config.is_local(to);
        let hop = if local { Some(to) } else { config.next_hop(to) };
        let hop = hop.ok_or(Errno::ENETUNREACH)?;
        let route = Route {
            to,
            prefix: if to.is_ipv4() { 32 } else { 128 },
            gateway: (hop != to).then_some(hop),
            source: Some(config.source_for(to)),
            device: if local { LOOPBACK_INDEX } else { CARD_INDEX },
            table: if local { TABLE_LOCAL } else { TABLE_MAIN },
            origin: 0,
            scope: SCOPE_GLOBAL,
            kind: if local { LOCAL } else { UNICAST },
            metric: None,
        };
        Ok(vec![self.route(request, &route, CLONED)])
    }

    fn neighbours(&self, request: &Request<'_>) -> Vec<Vec<u8>> {
        const INCOMPLETE: u16 = 1;
        const REACHABLE: u16 = 2;
        const STALE: u16 = 4;
        let wanted = request.byte(0);
        let mut messages = Vec::new();
        for (address, mac, freshness) in self.net.neighbours(self.now) {
            let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
            if wanted != family && matches!(wanted, AF_INET | AF_INET6) {
                continue;
            }
            let state = match freshness {
                Freshness::Incomplete => INCOMPLETE,
                Freshness::Reachable => REACHABLE,
                Freshness::Stale => STALE,
            };
            let message = self
                .message(request, NEW_NEIGHBOUR)
                .bytes(&[family, 0, 0, 0])
                .bytes(&CARD_INDEX.to_le_bytes())
                .bytes(&state.to_le_bytes())
                .bytes(&[0, UNICAST]);
            let mut message = with_address(message, 1, address);
            if let Some(mac) = mac {
                message = message.attribute(2, &mac);
            }
            messages.push(message.number(4, 0).attribute(3, &[0; 16]).finish());
        }
        messages
    }
}

const PERMANENT: u32 = 0x80;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;
const MULTICAST: u8 = 5;
/// Who made a route: the kernel, or who set the machine up.
const BY_KERNEL: u8 = 2;
const BY_BOOT: u8 = 3;

/// A route.
struct Route {
    to: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    device: u32,
    table: u8,
    origin: u8,
    scope: u8,
    kind: u8,
    metric: Option<u32>,
}

/// All routes of a program.
fn table_of(config: &Config) -> Vec<Route> {
    let own = IpAddr::V4(config.address);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let plain = Route {
        to: own,
        prefix: 32,
        gateway: None,
        source: Some(own),
        device: CARD_INDEX,
        table: TABLE_MAIN,
        origin: BY_KERNEL,
        scope: SCOPE_LINK,
        kind: UNICAST,
        metric: None,
    };
    let mut routes = Vec::new();
    if !config.gateway.is_unspecified() {
        let gateway = Some(config.gateway.into());
        let to = Ipv4Addr::UNSPECIFIED.into();
        routes.push(Route { to, prefix: 0, gateway, source: None, origin: BY_BOOT, scope: SCOPE_GLOBAL, ..plain });
    }
    routes.push(Route { to: config.network().into(), prefix: config.prefix, ..plain });
    let local = Route { table: TABLE_LOCAL, scope: SCOPE_HOST, kind: LOCAL, ..plain };
    routes.push(Route { ..local });
    let to = config.broadcast().into();
    routes.push(Route { to, scope: SCOPE_LINK, kind: BROADCAST, ..local });
    let lo = Route { device: LOOPBACK_INDEX, source: Some(here), ..local };
    routes.push(Route { to: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8, ..lo });
    routes.push(Route { to: here, ..lo });
    let to = Ipv4Addr::new(127, 255, 255, 255).into();
    routes.push(Route { to, scope: SCOPE_LINK, kind: BROADCAST, ..lo });

    let six = Route { source: None, scope: SCOPE_GLOBAL, metric: Some(256), ..plain };
    let local = Route { table: TABLE_LOCAL, kind: LOCAL, prefix: 128, metric: Some(0), ..six };
    routes.push(Route { to: Ipv6Addr::LOCALHOST.into(), prefix: 128, device: LOOPBACK_INDEX, ..six });
    if let Some(own) = config.v6 {
        let network =
            Ipv6Addr::from_bits(own.address.to_bits() & (u128::MAX << (128 - u32::from(own.prefix.clamp(1, 128)))));
        routes.push(Route { to: network.into(), prefix: own.prefix, ..six });
        if !own.gateway.is_unspecified() {
            routes.push(Route {
                to: Ipv6Addr::UNSPECIFIED.into(),
                prefix: 0,
                gateway: Some(own.gateway.into()),
                origin: BY_BOOT,
                metric: Some(1024),
                ..six
            });
        }
        routes.push(Route { to: own.address.into(), ..local });
    }
    routes.push(Route { to: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 64, ..six });
    routes.push(Route { to: Ipv6Addr::LOCALHOST.into(), device: LOOPBACK_INDEX, ..local });
    routes.push(Route { to: config.link_local().into(), ..local });
    let to = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into();
    routes.push(Route { to, prefix: 8, kind: MULTICAST, metric: Some(256), ..local });
    routes
}

fn scope_of(address: Ipv6Addr) -> u8 {
    match address.octets() {
        [0xfe, second, ..] if second & 0xc0 == 0xc0 => SCOPE_SITE,
        _ => SCOPE_GLOBAL,
    }
}

fn with_address(message: Builder, kind: u16, address: IpAddr) -> Builder {
    match address {
        IpAddr::V4(v4) => message.attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => message.attribute(kind, &v6.octets()),
    }
}

/// `struct ifa_cacheinfo`: for ever.
fn lifetime() -> [u8; 16] {
    let mut bytes = [0; 16];
    let (first, _) = bytes.split_at_mut(8);
    first.copy_from_slice(&[FOREVER.to_le_bytes(), FOREVER.to_le_bytes()].concat());
    bytes
}

/// `struct rtnl_link_stats64` as words.
fn statistics(traffic: &Traffic) -> [u64; 24] {
    let mut words = [0; 24];
    for (at, value) in [
        (0, traffic.received_packets),
        (1, traffic.sent_packets),
        (2, traffic.received_bytes),
        (3, traffic.sent_bytes),
        (7, traffic.dropped_sending),
        (8, traffic.multicast),
    ] {
        if let Some(word) = words.get_mut(at) {
            *word = value;
        }
    }
    words
}
