//! Reading and changing the settings of sockets.
use crate::{
    options::{Flags, Options, SocketOption},
    socket::{Kind, Protocol, SocketId},
    stack::Stack,
    tcp::State,
};
use shimos_abi::{errno::Errno, time::Nanos};

impl Stack {
    /// Reads a setting.
    pub fn option(&mut self, id: SocketId, option: SocketOption) -> Result<i32, Errno> {
        let socket = self.socket(id)?;
        let options = &socket.options;
        let flag = |flag| Ok(i32::from(options.has(flag)));
        let int = |value: u32| Ok(i32::try_from(value).unwrap_or(i32::MAX));
        match option {
            SocketOption::ReuseAddress => flag(Flags::REUSE_ADDRESS),
            SocketOption::ReusePort => flag(Flags::REUSE_PORT),
            SocketOption::Broadcast => flag(Flags::BROADCAST),
            SocketOption::KeepAlive => flag(Flags::KEEP_ALIVE),
            SocketOption::NoDelay => flag(Flags::NO_DELAY),
            SocketOption::Cork => flag(Flags::CORK),
            SocketOption::Type => Ok(if socket.protocol() == Protocol::Tcp { 1 } else { 2 }),
            SocketOption::Protocol => Ok(match socket.protocol() {
                Protocol::Echo => 1,
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            }),
            SocketOption::Accepting => Ok(i32::from(matches!(socket.kind, Kind::Listener(_)))),
            SocketOption::SendBuffer => int(options.send_buffer),
            SocketOption::ReceiveBuffer => int(options.receive_buffer),
            SocketOption::Linger => options.linger.map_or(Ok(-1), int),
            SocketOption::KeepIdle => int(options.keep_idle),
            SocketOption::KeepInterval => int(options.keep_interval),
            SocketOption::KeepCount => int(options.keep_count),
            SocketOption::DeferAccept => int(options.defer_accept),
            SocketOption::QuickAck => Ok(1),
            SocketOption::MaxSegment => match &socket.kind {
                Kind::Connection(connection) => Ok(i32::from(connection.agreed.mss)),
                _ => Ok(536),
            },
            SocketOption::Error => Ok(self.take_error(id)?.map_or(0, |error| i32::from(error.0))),
        }
    }

    /// Changes a setting.
    pub fn set_option(&mut self, now: Nanos, id: SocketId, option: SocketOption, value: i32) -> Result<(), Errno> {
        let socket = self.socket_mut(id)?;
        let stream = socket.protocol() == Protocol::Tcp;
        let options = &mut socket.options;
        let on = value != 0;
        let positive = |most: i32| {
            if (1..=most).contains(&value) { Ok(value as u32) } else { Err(Errno::EINVAL) }
        };
        match option {
            SocketOption::ReuseAddress => options.flags.set(Flags::REUSE_ADDRESS, on),
            SocketOption::ReusePort => options.flags.set(Flags::REUSE_PORT, on),
            SocketOption::Broadcast => options.flags.set(Flags::BROADCAST, on),
            SocketOption::SendBuffer => options.send_buffer = Options::buffer(value),
            SocketOption::ReceiveBuffer => options.receive_buffer = Options::buffer(value),
            SocketOption::KeepAlive => options.flags.set(Flags::KEEP_ALIVE, on),
            SocketOption::Linger => options.linger = u32::try_from(value).ok(),
            SocketOption::Type | SocketOption::Protocol | SocketOption::Error | SocketOption::Accepting => {
                return Err(Errno::ENOPROTOOPT);
            }
            _ if !stream => return Err(Errno::ENOPROTOOPT),
            SocketOption::NoDelay => options.flags.set(Flags::NO_DELAY, on),
            SocketOption::Cork => options.flags.set(Flags::CORK, on),
            SocketOption::KeepIdle => options.keep_idle = positive(32767)?,
            SocketOption::KeepInterval => options.keep_interval = positive(32767)?,
            SocketOption::KeepCount => options.keep_count = positive(127)?,
            SocketOption::DeferAccept => options.defer_accept = u32::try_from(value).unwrap_or(0),
            SocketOption::QuickAck | SocketOption::MaxSegment => {}
        }
        // A cork pulled, or a larger buffer, may let something out; a keep-alive timer may have to be set.
        self.with_connection(now, id, |connection, cx| {
            connection.timers.keep = None;
            if connection.state != State::Closed {
                connection.output(cx);
            }
        });
        Ok(())
    }
}
